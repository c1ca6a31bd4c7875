//! How many due executions only an adaptive limit keeps from starting, and what that costs them.
//!
//! Counted is what would start if the limit were lifted: due, its engine not paused, nothing of its concurrency key in the way, a
//! token of the rate and, for a retry, of the retry budget at hand, no endpoint that takes it; and no more of it than the endpoint's
//! `max_concurrency` and the worker slots would hold. Slots are those that are free now, or that there would be with as many
//! workers as are allowed: a pool that is small because of the limit does not hide what the limit costs.

use super::{LaneNo, Queue};
use crate::gate::{Gate, Gates, Shut};
use crate::time::Time;

/// What a limit has cost since it was looked at last.
#[derive(Debug, Clone, PartialEq)]
pub struct Waited {
    pub engine: String,
    pub endpoint: u32,
    /// Seconds that executions waited, all of them together.
    pub seconds: f64,
}

/// An endpoint whose adaptive limit is used up.
struct Full {
    at: u32,
    /// What it would take without that limit.
    room: u64,
    held: u64,
}

impl Queue {
    /// Charges every adaptive limit with what it holds back, each execution with the time since the last look.
    pub fn charge_limits(&self, gates: &mut Gates, now: Time) -> Vec<Waited> {
        let mut charged = Vec::new();
        for (name, engine) in &self.engines {
            let held = self.held_back(gates, name, now);
            for at in (0u32..).take(engine.rules.endpoints.len()) {
                let count = held.iter().find(|(of, _)| *of == at).map_or(0, |(_, count)| *count);
                let seconds = gates.hold_back(name, at, count, now);
                if seconds > 0.0 {
                    charged.push(Waited { engine: name.clone(), endpoint: at, seconds });
                }
            }
        }
        charged
    }

    /// Due executions of the engine that an adaptive limit alone keeps from starting, by endpoint. What may go to any of
    /// several is divided among them.
    #[must_use]
    pub fn held_back(&self, gates: &Gates, name: &str, now: Time) -> Vec<(u32, u64)> {
        let (Some(engine), Some(gate)) = (self.engines.get(name), gates.get(name)) else { return Vec::new() };
        if engine.rules.paused || engine.heads.is_empty() || !gate.has_token(now) {
            return Vec::new();
        }
        let endpoints = (0u32..).take(engine.rules.endpoints.len());
        let mut full: Vec<Full> =
            endpoints.filter_map(|at| self.adaptively_full(name, gate, at, now)).collect();
        let engine_type = engine.rules.engine_type.as_str();
        if full.is_empty() || !self.has_capable_worker(engine_type) {
            return Vec::new();
        }
        let possible = gate.rules().slots_max.map_or(0, u64::from);
        let mut slots =
            self.slots_of(engine_type).1.max(possible.saturating_sub(self.occupancy.len() as u64));
        for endpoint in &mut full {
            let bound = self.waiting(name, gate, Some(endpoint.at), slots, now);
            endpoint.held = bound.min(endpoint.room);
            slots -= endpoint.held;
        }
        if self.shut(gates, name, None, now) == Some(Shut::Full) {
            let mut free = self.waiting(name, gate, None, slots, now);
            let mut left = full.len() as u64;
            for endpoint in &mut full {
                let share = free.div_ceil(left).min(endpoint.room - endpoint.held);
                endpoint.held += share;
                free -= share;
                left -= 1;
            }
        }
        full.into_iter().map(|endpoint| (endpoint.at, endpoint.held)).collect()
    }

    fn adaptively_full(&self, name: &str, gate: &Gate, at: u32, now: Time) -> Option<Full> {
        let used = self.occupancy.of_endpoint(name, at);
        gate.holding(at)?;
        if gate.shut_to(false, at, used, now) != Some(Shut::Full) {
            return None;
        }
        let room = gate.rules().max_concurrency.map_or(u64::MAX, |most| u64::from(most.saturating_sub(used)));
        (room > 0).then_some(Full { at, room, held: 0 })
    }

    /// Due rows of the engine that are bound to the endpoint, or to none, and that nothing of their own holds; at most `most`.
    fn waiting(&self, name: &str, gate: &Gate, pin: Option<u32>, most: u64, now: Time) -> u64 {
        let mut retries = gate.retries_left(now).0.max(0.0) as u64;
        let mut count: u64 = 0;
        for lane in self.users.values().filter_map(|engines| engines.get(name)).flat_map(|user| &user.lanes) {
            if count >= most {
                break;
            }
            let mut rows = self.startable(*lane, pin);
            if self.lanes[*lane].lane.retry {
                rows = rows.min(retries);
                retries -= rows;
            }
            count = count.saturating_add(rows);
        }
        count.min(most)
    }

    /// Rows of one lane, no more than their concurrency key would let run.
    fn startable(&self, lane: LaneNo, pin: Option<u32>) -> u64 {
        let rows = &self.lanes[lane];
        let count = rows.bound_to(pin);
        match rows.lane.ckey.as_deref() {
            Some(key) => count.min(u64::from(self.ckey_limit.saturating_sub(self.occupancy.of_ckey(key)))),
            None => count,
        }
    }
}

#[cfg(test)]
mod tests;
