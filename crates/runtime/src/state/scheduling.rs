//! What waits and what runs, as this node sees it.

use super::lock::{Lock, Place};
use super::scheduler::Scheduler;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::Key;
use std::collections::BTreeMap;
use tokio::sync::Notify;

pub(crate) struct Scheduling {
    pub(crate) scheduler: Lock<Scheduler>,
    /// Rows that run, as of their last event, without history: at most one per lease.
    pub(crate) rows: Lock<BTreeMap<Key, Execution>>,
    /// Something may start now although nothing was written.
    pub(crate) grant_nudge: Notify,
    /// A breaker or an operator changed something that others should hear of soon.
    pub(crate) gate_nudge: Notify,
}

impl Scheduling {
    pub(crate) fn new(scheduler: Scheduler) -> Scheduling {
        Scheduling {
            scheduler: Lock::new(Place::Scheduler, scheduler),
            rows: Lock::new(Place::Rows, Default::default()),
            grant_nudge: Notify::new(),
            gate_nudge: Notify::new(),
        }
    }
}
