//! Where a start goes: which worker has a slot for it, and which endpoint of its engine takes it.

use super::{EngineQueue, EngineRules, Queue, WorkerRules};
use crate::balance::Candidate;
use crate::gate::{Gate, Gates};
use crate::id::SessionId;
use crate::time::Time;
use std::cmp::Reverse;

/// Which of several workers with a free slot gets the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// The fullest, so that the others run empty and can go.
    #[default]
    Pack,
    /// The emptiest, so that as little as possible is lost with one worker.
    Spread,
}

/// Which worker goes first: the least value.
type Place = (bool, Reverse<u64>, u32, SessionId);

impl Queue {
    pub fn set_placement(&mut self, placement: Placement) {
        self.placement = placement;
    }

    /// The worker for the next start of the engine. One that serves only some engine types goes before one that serves all:
    /// the latter can take what no one else does.
    pub(super) fn worker_for(&self, engine: &EngineQueue) -> Option<SessionId> {
        let capable = self.workers.iter().filter(|(_, w)| w.open && serves(w, &engine.rules.engine_type));
        let places = capable.filter_map(|(id, w)| self.place(*id, w));
        places.min().map(|(.., id)| id)
    }

    fn place(&self, id: SessionId, worker: &WorkerRules) -> Option<Place> {
        let free = self.free_of(id, worker);
        if free == 0 {
            return None;
        }
        let serves_all = worker.engine_types.is_empty();
        match self.placement {
            Placement::Pack => Some((serves_all, Reverse(0), free, id)),
            // By the share that is free, then by the number, so that large and small workers fill alike.
            Placement::Spread => {
                let share = (u64::from(free) << 32) / u64::from(worker.capacity.max(1));
                Some((serves_all, Reverse(share), u32::MAX - free, id))
            }
        }
    }

    /// Whether an endpoint of the engine takes a start now, of those it may go to.
    pub(super) fn has_endpoint(
        &self,
        name: &str,
        engine: &EngineQueue,
        gate: Option<&Gate>,
        pinned: Option<u32>,
        now: Time,
    ) -> bool {
        self.candidates(name, &engine.rules, gate, engine.still_there(pinned), now).next().is_some()
    }

    /// The endpoint for a start; `None` when none takes it.
    pub(super) fn endpoint_for(
        &self,
        name: &str,
        gates: &mut Gates,
        pinned: Option<u32>,
        ckey: Option<&str>,
        now: Time,
    ) -> Option<u32> {
        let engine = self.engines.get(name)?;
        let pinned = engine.still_there(pinned);
        let open: Vec<Candidate> =
            self.candidates(name, &engine.rules, gates.get(name), pinned, now).collect();
        match pinned {
            Some(_) => open.first().map(|candidate| candidate.at),
            None => gates.choose(name, &open, ckey, now),
        }
    }

    /// The endpoints that take a start now: those that are neither parked nor full, and for what is bound to none also not
    /// left alone.
    fn candidates<'a>(
        &'a self,
        name: &'a str,
        rules: &'a EngineRules,
        gate: Option<&'a Gate>,
        pinned: Option<u32>,
        now: Time,
    ) -> impl Iterator<Item = Candidate> + 'a {
        (0u32..).zip(&rules.endpoints).filter(move |(at, _)| pinned.is_none_or(|p| p == *at)).filter_map(
            move |(at, endpoint)| {
                let used = self.occupancy.of_endpoint(name, at);
                let shut = gate.and_then(|gate| gate.shut_to(pinned.is_some(), at, used, now));
                shut.is_none().then_some(Candidate { at, used, weight: endpoint.weight })
            },
        )
    }
}

pub(super) fn serves(worker: &WorkerRules, engine_type: &str) -> bool {
    serves_one_of(&worker.engine_types, engine_type)
}

pub(super) fn serves_one_of(engine_types: &[String], engine_type: &str) -> bool {
    engine_types.is_empty() || engine_types.iter().any(|t| t == engine_type)
}

#[cfg(test)]
mod tests;
