//! Dedicated pools: workers that serve only some engine types, beside shared ones that serve all.
//!
//! The auto-scaler plans as if every worker could do all work, because demands that are pooled need the least headroom. What
//! dedicated pools need beyond that, a guaranteed minimum that is idle or a worker that is not full, stands apart: it is
//! kept out of what the auto-scaler sees and added to its answer ([`Needs::apart`]). Its total is then split: every pool
//! gets its minimum, then the needs are met, the largest unmet one first, and the rest is shared, where it serves all.
//!
//! Invariants: the parts sum up to the total; none is below its minimum, or above its maximum; while other work waits,
//! one worker at least is shared, for no one else can do it.

use crate::autoscaler::Reach;
use crate::gate::Gates;
use crate::queue::Queue;
use crate::time::{Millis, Time};
use std::collections::BTreeMap;

/// A dedicated pool. An engine type belongs to one pool at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRules {
    pub name: String,
    /// What its workers serve; at least one.
    pub engine_types: Vec<String>,
    /// Workers that are there whatever the demand.
    pub min: u32,
    pub max: u32,
}

/// Workers that are needed of each pool, in order, and of the shared ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    pub pools: Vec<u32>,
    pub shared: u32,
    /// Workers that would do if every one served all.
    pub pooled: u32,
}

/// The most of a number over a span, so that a need that comes and goes moves no worker.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    most: u32,
    until: Time,
}

impl Peak {
    fn push(&mut self, value: u32, span: Millis, now: Time) -> u32 {
        if value >= self.most || self.until <= now {
            *self = Peak { most: value, until: now.plus(span) };
        }
        self.most
    }
}

/// The pools, and what was needed of them a moment ago.
#[derive(Debug, Default)]
pub struct Pools {
    rules: Vec<PoolRules>,
    pools: Vec<Peak>,
    shared: Peak,
    pooled: Peak,
}

impl Pools {
    #[must_use]
    pub fn new(rules: Vec<PoolRules>) -> Pools {
        let pools = vec![Peak::default(); rules.len()];
        Pools { rules, pools, ..Pools::default() }
    }

    #[must_use]
    pub fn rules(&self) -> &[PoolRules] {
        &self.rules
    }

    /// Which pool has workers of these engine types; `None`: they are shared.
    #[must_use]
    pub fn pool_of(&self, engine_types: &[String]) -> Option<usize> {
        self.rules.iter().position(|pool| pool.engine_types == engine_types)
    }

    /// Takes in the demand in slots by engine type; what is needed is kept for `retention`.
    pub fn look(
        &mut self,
        slots: &BTreeMap<String, u32>,
        capacity: u32,
        retention: Millis,
        now: Time,
    ) -> Needs {
        let capacity = capacity.max(1);
        let mut shared: u32 = 0;
        let mut pools = vec![0u32; self.rules.len()];
        for (engine_type, count) in slots {
            let pool = self.rules.iter().position(|pool| pool.engine_types.contains(engine_type));
            let sum = pool.map_or(&mut shared, |at| &mut pools[at]);
            *sum = sum.saturating_add(*count);
        }
        let total = pools.iter().fold(shared, |sum, count| sum.saturating_add(*count));
        let mut needs =
            Needs { pooled: self.pooled.push(total.div_ceil(capacity), retention, now), ..Needs::default() };
        for ((rules, peak), count) in self.rules.iter().zip(&mut self.pools).zip(pools) {
            // What a full pool has no room for is shared work.
            let own = count.min(rules.max.saturating_mul(capacity));
            shared = shared.saturating_add(count - own);
            needs.pools.push(peak.push(own.div_ceil(capacity), retention, now));
        }
        needs.shared = self.shared.push(shared.div_ceil(capacity), retention, now);
        needs
    }
}

impl Needs {
    /// Workers that are needed only because not every one serves all.
    #[must_use]
    pub fn apart(&self, rules: &[PoolRules]) -> u32 {
        let pools = rules.iter().zip(&self.pools).map(|(pool, need)| pool.min.max(*need));
        pools.fold(self.shared, u32::saturating_add).saturating_sub(self.pooled)
    }
}

/// Splits a total of workers: the part of each pool in order, and the shared part last. `most`: workers that may exist, which
/// only the minimums go beyond.
#[must_use]
pub fn split(total: u32, most: u32, rules: &[PoolRules], needs: &Needs) -> Vec<u32> {
    let mut parts: Vec<u32> = rules.iter().map(|pool| pool.min).collect();
    parts.push(0);
    let minimums = parts.iter().fold(0, |sum: u32, part| sum.saturating_add(*part));
    let first_shared = u32::from(needs.shared > 0);
    let total = total.max(minimums.saturating_add(first_shared)).min(most);
    let mut left = total.saturating_sub(minimums);
    let shared = rules.len();
    parts[shared] = first_shared.min(left);
    left -= parts[shared];
    while left > 0 {
        let unmet =
            |at: usize| needs.pools.get(at).copied().unwrap_or(needs.shared).saturating_sub(parts[at]);
        let room = |at: usize| rules.get(at).is_none_or(|pool| parts[at] < pool.max);
        // Of equal ones the last, which is the shared one: it serves all.
        let next = (0..=shared).filter(|at| room(*at)).max_by_key(|at| unmet(*at));
        let next = next.filter(|at| unmet(*at) > 0).unwrap_or(shared);
        let step = if unmet(next) == 0 { left } else { 1 };
        parts[next] += step;
        left -= step;
    }
    parts
}

/// Slots that each engine type's work fills, or would fill if there were as many: what runs, and what waits as far as its
/// engine takes it.
#[must_use]
pub fn slots_wanted(queue: &Queue, gates: &Gates, now: Time) -> BTreeMap<String, u32> {
    let mut engines: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for (_, lease) in queue.occupancy().leases() {
        engines.entry(lease.engine.clone()).or_default().0 += 1;
    }
    for (name, due) in queue.due_by_engine() {
        engines.entry(name).or_default().1 = u32::try_from(due).unwrap_or(u32::MAX);
    }
    let mut slots: BTreeMap<String, u32> = BTreeMap::new();
    for (name, (running, due)) in engines {
        let Some(rules) = queue.engine(&name) else { continue };
        let reach = Reach::of(gates.get(&name), rules.paused, now);
        let room = reach.limit.map_or(u32::MAX, |limit| limit.saturating_sub(running));
        let due = if reach.parked { 0 } else { due.min(room) };
        let sum = slots.entry(rules.engine_type.clone()).or_default();
        *sum = sum.saturating_add(running).saturating_add(due);
    }
    slots
}

#[cfg(test)]
mod tests;
