//! Who is told what happens: those who wait here, readers of the feed, receivers of webhooks.

use super::hub::Hub;
use super::lock::{Lock, Place};
use super::tail::Tail;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

#[derive(Default)]
pub(crate) struct Events {
    pub(crate) hub: Hub,
    pub(crate) tail: Tail,
    /// The receivers of webhooks.
    pub(crate) receivers: Receivers,
    /// What carries events to readers, one task each; ends with its reader or with the `halt` of the context.
    pub(crate) readers: TaskTracker,
}

/// What the rest of the node and the role of webhooks tell each other.
pub(crate) struct Receivers {
    /// Deliveries were changed from outside of the role.
    pub(crate) nudge: Notify,
    /// Dead letters, as this node knows them while it schedules.
    pub(crate) dead: AtomicU64,
    /// Those that are paused, with why; as above.
    pub(crate) paused: Lock<BTreeMap<String, String>>,
}

impl Default for Receivers {
    fn default() -> Receivers {
        let paused = Lock::new(Place::PausedReceivers, BTreeMap::new());
        Receivers { nudge: Notify::new(), dead: AtomicU64::new(0), paused }
    }
}
