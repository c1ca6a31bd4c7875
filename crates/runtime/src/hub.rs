//! Fan-out of what happens to executions, to those who wait for one of them.
//!
//! A subscriber gets nudges, and reads the durable events from the row's own history: a lost nudge costs latency, never
//! an event. Live items (progress) are carried along, bounded, and what a reader missed is counted.

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

#[derive(Debug)]
struct Topic {
    readers: usize,
    nudge: watch::Sender<u64>,
    live: broadcast::Sender<Live>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    topics: Arc<Mutex<BTreeMap<Key, Topic>>>,
}

/// One reader's interest in one execution.
pub(crate) struct Subscription {
    hub: Hub,
    key: Key,
    pub(crate) nudge: watch::Receiver<u64>,
    pub(crate) live: broadcast::Receiver<Live>,
}

impl Hub {
    pub(crate) fn subscribe(&self, key: Key) -> Subscription {
        let mut topics = self.topics.lock();
        let topic = topics.entry(key).or_insert_with(|| Topic {
            readers: 0,
            nudge: watch::channel(0).0,
            live: broadcast::channel(LIVE_ITEMS).0,
        });
        topic.readers += 1;
        Subscription { hub: self.clone(), key, nudge: topic.nudge.subscribe(), live: topic.live.subscribe() }
    }

    /// Something durable happened to the execution.
    pub(crate) fn changed(&self, key: Key) {
        if let Some(topic) = self.topics.lock().get(&key) {
            topic.nudge.send_modify(|n| *n += 1);
        }
    }

    pub(crate) fn live(&self, key: Key, live: Live) {
        if let Some(topic) = self.topics.lock().get(&key) {
            let _ = topic.live.send(live);
        }
    }
}

impl Drop for Subscription {
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
