//! The way to the committer, and what it tells those who follow its commits.

use super::lock::{Lock, Place};
use super::planned::{Planned, Request, Settled};
use enginehouse_core::time::Time;
use enginehouse_store::{Cursor, StoreError};
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) struct Writes {
    committer: mpsc::Sender<Request>,
    /// Held by the committer from the planning of a batch to its end: between them what is planned is what is stored. It is
    /// taken before any other lock.
    pub(crate) batch: tokio::sync::Mutex<()>,
    /// Every commit up to here is known to this node: it made them, or read them in the feed.
    pub(crate) known: Lock<Cursor>,
    /// A commit came that this node did not make, or of which it does not know what became.
    pub(crate) relay_nudge: Notify,
    /// The timers would sleep for too long.
    pub(crate) wake_nudge: Notify,
    /// What the wake timer sleeps towards, in milliseconds since the epoch.
    pub(crate) wake_target: AtomicI64,
}

impl Writes {
    /// `known`: where the feed stands.
    pub(crate) fn new(committer: mpsc::Sender<Request>, known: Cursor) -> Writes {
        Writes {
            committer,
            batch: tokio::sync::Mutex::default(),
            known: Lock::new(Place::Known, known),
            relay_nudge: Notify::new(),
            wake_nudge: Notify::new(),
            wake_target: AtomicI64::new(i64::MAX),
        }
    }

    /// Hands writes to the committer and waits until they are durable, or refused.
    pub(crate) async fn commit(&self, writes: Vec<Planned>, bytes: usize) -> Result<Settled, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { writes, bytes, reply };
        self.committer.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// This node made the commit at `cursor`, if it has a place in the feed, and told everyone of it.
    pub(crate) fn made(&self, cursor: Option<Cursor>) {
        let Some(cursor) = cursor else { return };
        let mut known = self.known.lock();
        if known.0 + 1 == cursor.0 {
            *known = cursor;
        } else if *known < cursor {
            self.relay_nudge.notify_one();
        }
    }

    /// Wakes the timer role if it would sleep past `at`.
    pub(crate) fn consider_wake(&self, at: Option<Time>) {
        if at.is_some_and(|at| at.0 < self.wake_target.load(Ordering::Acquire)) {
            self.wake_nudge.notify_one();
        }
    }
}
