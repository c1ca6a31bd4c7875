//! What the queue would decide, tried out on copies: to check what is said of it against what it does.

use super::{Entry, Queue, WorkerRules};
use crate::execution::Lane;
use crate::gate::Gates;
use crate::id::{Key, SessionId};
use crate::time::Time;
use std::collections::BTreeSet;

/// A worker that exists in a copy only.
const IMAGINED: SessionId = SessionId(i64::MIN);

impl Queue {
    /// The rows that would start if someone looked now.
    #[must_use]
    pub fn would_start(&self, gates: &Gates, now: Time) -> BTreeSet<Key> {
        let (mut copy, mut gates) = (self.clone(), gates.clone());
        std::iter::from_fn(|| copy.pick(&mut gates, now)).map(|pick| pick.key).collect()
    }

    /// Whether the row would start if it waited alone and a worker had room for it.
    #[must_use]
    pub fn would_start_alone(&self, lane: &Lane, entry: Entry, gates: &Gates, now: Time) -> bool {
        let mut copy = Queue::new(self.ckey_limit);
        if let Some(rules) = self.engine(&lane.engine) {
            copy.set_engine(&lane.engine, rules.clone());
        }
        copy.occupancy = self.occupancy.clone();
        copy.set_worker(IMAGINED, WorkerRules { capacity: 1, engine_types: Vec::new(), open: true });
        copy.push(lane, entry);
        copy.pick(&mut gates.clone(), now).is_some()
    }

    /// The user whose row would start next if one slot more served the engine type; `None`: no row would.
    #[must_use]
    pub fn next_with_room(&self, engine_type: &str, gates: &Gates, now: Time) -> Option<Option<String>> {
        let mut copy = self.clone();
        let engine_types = vec![engine_type.to_owned()];
        copy.set_worker(IMAGINED, WorkerRules { capacity: 1, engine_types, open: true });
        let pick = copy.pick(&mut gates.clone(), now)?;
        copy.occupancy.lease(pick.key).map(|lease| lease.user.clone())
    }

    /// How the queue holds a due row in memory.
    #[must_use]
    pub fn held(&self, key: Key) -> Option<(&Lane, Entry)> {
        let (number, rank) = self.index.get(&key)?;
        let rows = &self.lanes[*number];
        Some((&rows.lane, *rows.entry(*rank, key)?))
    }
}
