//! Fan-out of what happens to executions, to those who wait for one of them.
//!
//! Who waits for the end of an execution is told of ends alone, and of those that this node committed with the row as it is then.
//! A subscriber gets nudges, and reads the durable events from the row's own history: a lost nudge costs latency, never an
//! event. Live items (progress) are carried along, bounded, and what a reader missed is counted.

use enginehouse_core::execution::Execution;
use enginehouse_core::id::Key;
use enginehouse_engine::Progress;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// Live items kept for a slow reader.
const LIVE_ITEMS: usize = enginehouse_core::limits::LIVE_ITEMS_MAX;

#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) attempt: u32,
    pub(crate) progress: Progress,
}

/// What became of the execution last, as far as those need know who wait for it.
#[derive(Debug, Clone, Default)]
struct Nudge {
    changes: u64,
    ended: bool,
    /// The row at its end, without its history, where the teller had it.
    row: Option<Execution>,
}

#[derive(Debug)]
struct Topic {
    readers: usize,
    nudge: watch::Sender<Nudge>,
    /// There once someone reads live items.
    live: Option<broadcast::Sender<Live>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    topics: Arc<Mutex<BTreeMap<Key, Topic>>>,
}

/// One reader's interest in one execution.
pub(crate) struct Subscription {
    pub(crate) durable: Ends,
    pub(crate) live: broadcast::Receiver<Live>,
}

/// Interest in the end of one execution.
pub(crate) struct Ends {
    hub: Hub,
    key: Key,
    nudge: watch::Receiver<Nudge>,
}

impl Ends {
    /// Waits until something durable happens, an end or not; `false` when nothing will any more.
    pub(crate) async fn any(&mut self) -> bool {
        self.nudge.changed().await.is_ok()
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Waits until the execution ends, or ended since this was made or was last asked. It may go on later, when it is redriven.
    /// The row is the one of that end, without its history; `None`: it is to be read from the store.
    pub(crate) async fn next(&mut self) -> Option<Execution> {
        while self.nudge.changed().await.is_ok() {
            let nudge = self.nudge.borrow_and_update();
            if nudge.ended {
                return nudge.row.clone();
            }
        }
        // The hub is gone, and with it every teller.
        std::future::pending().await
    }
}

impl Hub {
    pub(crate) fn subscribe(&self, key: Key) -> Subscription {
        let ends = self.ends(key);
        let mut topics = self.topics.lock();
        let topic = topics.get_mut(&key).expect("it has a reader");
        let live = topic.live.get_or_insert_with(|| broadcast::channel(LIVE_ITEMS).0).subscribe();
        Subscription { durable: ends, live }
    }

    pub(crate) fn ends(&self, key: Key) -> Ends {
        let mut topics = self.topics.lock();
        let new = || Topic { readers: 0, nudge: watch::Sender::default(), live: None };
        let topic = topics.entry(key).or_insert_with(new);
        topic.readers += 1;
        Ends { hub: self.clone(), key, nudge: topic.nudge.subscribe() }
    }

    /// Something durable happened to the execution; `ended`: after it, it has.
    pub(crate) fn changed(&self, key: Key, ended: bool) {
        self.tell(key, ended, || None);
    }

    /// As [`changed`](Hub::changed), by who has the row as it is then; it is asked for only when someone waits.
    pub(crate) fn tell(&self, key: Key, ended: bool, row: impl FnOnce() -> Option<Execution>) {
        if let Some(topic) = self.topics.lock().get(&key) {
            let row = row().filter(|_| ended);
            topic.nudge.send_modify(|nudge| *nudge = Nudge { changes: nudge.changes + 1, ended, row });
        }
    }

    pub(crate) fn live(&self, key: Key, live: Live) {
        if let Some(live_items) = self.topics.lock().get(&key).and_then(|topic| topic.live.as_ref()) {
            let _ = live_items.send(live);
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let mut topics = self.hub.topics.lock();
        if let Some(topic) = topics.get_mut(&self.key) {
            topic.readers -= 1;
            if topic.readers == 0 {
                topics.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn who_waits_for_the_end_hears_of_ends_and_of_nothing_else() {
        let hub = Hub::default();
        let (mut early, mut reader) = (hub.ends(Key(1)), hub.subscribe(Key(1)));
        hub.changed(Key(2), true);
        assert!(early.next().now_or_never().is_none());
        hub.changed(Key(1), false);
        assert!(early.next().now_or_never().is_none());
        assert_eq!(reader.durable.any().now_or_never(), Some(true));
        hub.changed(Key(1), true);
        let mut late = hub.ends(Key(1));
        assert!(early.next().now_or_never().is_some());
        assert!(early.next().now_or_never().is_none(), "once");
        assert!(late.next().now_or_never().is_none(), "what was before is in the row");
        // Redriven before anybody looked: it waits for the next end.
        hub.changed(Key(1), true);
        hub.changed(Key(1), false);
        assert!(late.next().now_or_never().is_none());
        hub.changed(Key(1), true);
        assert!(late.next().now_or_never().is_some());
        drop((early, late, reader));
        assert!(hub.topics.lock().is_empty());
    }
}
