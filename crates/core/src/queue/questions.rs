//! What others ask of the queue: counts, places, and whether its derived counts agree. Nothing here changes it.

use super::place::{serves, serves_one_of};
use super::{Class, EngineQueue, LaneNo, LaneRows, Occupancy, Queue, WorkerRules};
use crate::execution::{Lane, Priority};
use crate::gate::{Gates, Shut};
use crate::id::{Key, SessionId};
use crate::rank::Rank;
use crate::time::{Millis, Time};
use std::collections::{BTreeMap, BTreeSet};

impl Queue {
    #[must_use]
    pub fn occupancy(&self) -> &Occupancy {
        &self.occupancy
    }

    #[must_use]
    pub fn workers(&self) -> &BTreeMap<SessionId, WorkerRules> {
        &self.workers
    }

    /// When the next worker that serves the engine type should be ready.
    #[must_use]
    pub fn expected_worker(&self, engine_type: &str) -> Option<Time> {
        let capable = self.expected_workers.iter().filter(|(_, types)| serves_one_of(types, engine_type));
        capable.map(|(at, _)| *at).min()
    }

    /// Whether a worker that serves the engine type has a free slot.
    #[must_use]
    pub fn has_free_slot(&self, engine_type: &str) -> bool {
        self.workers.iter().any(|(id, w)| w.open && serves(w, engine_type) && self.free_of(*id, w) > 0)
    }

    /// Slots of the workers that serve the engine type: taken, and free on those that are open.
    #[must_use]
    pub fn slots_of(&self, engine_type: &str) -> (u64, u64) {
        let capable = self.workers.iter().filter(|(_, w)| serves(w, engine_type));
        capable.fold((0, 0), |(taken, free), (id, worker)| {
            let room = if worker.open { self.free_of(*id, worker) } else { 0 };
            (taken + u64::from(self.occupancy.of_worker(*id)), free + u64::from(room))
        })
    }

    /// Whether an engine has work that could start and no worker that serves it has a free slot.
    #[must_use]
    pub fn is_short_of_slots(&self) -> bool {
        let mut waiting = self.engines.values().filter(|e| !e.rules.paused && !e.heads.is_empty());
        waiting.any(|e| !self.has_free_slot(&e.rules.engine_type))
    }

    /// Due rows by engine, in memory and behind.
    #[must_use]
    pub fn due_by_engine(&self) -> BTreeMap<String, u64> {
        let waiting = self.engines.iter().filter(|(_, e)| e.depth > 0);
        waiting.map(|(name, e)| (name.clone(), e.depth)).collect()
    }

    /// Due rows of one engine, and of one user.
    #[must_use]
    pub fn depth_of_engine(&self, engine: &str) -> u64 {
        self.engines.get(engine).map_or(0, |e| e.depth)
    }

    #[must_use]
    pub fn depth_of_user(&self, user: &Option<String>) -> u64 {
        self.user_depth.get(user).copied().unwrap_or(0)
    }

    /// Due rows of one engine by priority, in the order of [`Priority::ALL`]. Rows behind the window are not told apart and
    /// count as NORMAL.
    #[must_use]
    pub fn due_of_engine(&self, engine: &str) -> [u64; 4] {
        let Some(engine) = self.engines.get(engine) else { return [0; 4] };
        let mut due = engine.by_priority;
        due[Priority::Normal as usize] += engine.depth.saturating_sub(due.iter().sum());
        due
    }

    /// What stands first on each engine, by endpoint it is bound to and by being a retry: the rank and the priority.
    pub fn first_rows(&self) -> impl Iterator<Item = (Rank, Priority)> {
        let heads = self.engines.values().flat_map(|e| e.heads.values()).filter_map(BTreeSet::first);
        heads.filter_map(|(_, rank, key, _)| {
            let (number, _) = self.index.get(key)?;
            Some((*rank, self.lanes[*number].entry(*rank, *key)?.priority))
        })
    }

    /// Rows in memory that are likely to be picked next, at most `most`: of each engine that is not paused the first of the
    /// lanes whose turn it is, in equal shares. A guess to read rows by before they are needed; what runs out of slots, gates
    /// and shares makes of the order is not in it.
    #[must_use]
    pub fn likely_next(&self, most: usize) -> Vec<Key> {
        let engines = self.engines.iter().filter(|(_, e)| !e.rules.paused && !e.heads.is_empty());
        let each = most.div_ceil(engines.clone().count().max(1));
        let of_engines = engines.flat_map(|(name, engine)| {
            let lanes = self.lanes_in_turn(name, engine, each);
            let share = each.div_ceil(lanes.len().max(1));
            let rows = lanes.into_iter().flat_map(move |lane| self.lanes[lane].entries().take(share));
            rows.take(each).map(|entry| entry.key)
        });
        of_engines.take(most).collect()
    }

    /// The lanes with something that could start on the engine, at most `most`: of the user whose turn it is first, and of
    /// each user that with the first row first.
    fn lanes_in_turn(&self, name: &str, engine: &EngineQueue, most: usize) -> Vec<LaneNo> {
        let mut seen = BTreeSet::new();
        let users = engine.heads.values().flatten().map(|(.., user)| user).filter(|user| seen.insert(*user));
        let of_users = users.filter_map(|user| self.users.get(user)?.get(name)).flat_map(|of_user| {
            let open = of_user.lanes.iter().filter(|n| !self.is_blocked(&self.lanes[**n].lane));
            let first = |n: &LaneNo| self.lanes[*n].entries().next().map(|entry| (entry.rank, entry.key, *n));
            let mut firsts: Vec<_> = open.filter_map(first).collect();
            firsts.sort_unstable();
            firsts.into_iter().map(|(.., n)| n)
        });
        of_users.take(most).collect()
    }

    /// Rows of the engine that would rather fail than wait for it, as far as they are in memory.
    #[must_use]
    pub fn impatient(&self, engine: &str, max: usize) -> Vec<Key> {
        self.engines.get(engine).map_or(Vec::new(), |e| e.impatient.iter().take(max).copied().collect())
    }

    /// Due rows in memory by priority; rows behind the window are not told apart.
    #[must_use]
    pub fn due_by_priority(&self) -> BTreeMap<Priority, u64> {
        let mut counts = BTreeMap::new();
        for entry in self.lanes.iter().flat_map(LaneRows::entries) {
            *counts.entry(entry.priority).or_default() += 1;
        }
        counts
    }

    /// Whether the row is due and in memory.
    #[must_use]
    pub fn holds(&self, key: Key) -> bool {
        self.index.contains_key(&key)
    }

    /// How many due rows of one engine, or of all, stand before it by rank; `None` when it is not in memory. What fair shares
    /// make of the order is not in it, and of what lies behind other lanes' windows nothing.
    #[must_use]
    pub fn ahead(&self, key: Key, engine: Option<&str>) -> Option<u64> {
        let (_, rank) = *self.index.get(&key)?;
        let lanes = self.lane_numbers.values().map(|number| &self.lanes[*number]);
        let of_them = lanes.filter(|lane| engine.is_none_or(|engine| engine == lane.lane.engine));
        Some(of_them.map(|lane| lane.position(rank, key)).sum())
    }

    /// How many rows of its lane stand before it; `None` when it is not in memory.
    #[must_use]
    pub fn position(&self, key: Key) -> Option<u64> {
        let (number, rank) = self.index.get(&key)?;
        Some(self.lanes[*number].position(*rank, key))
    }

    /// When the first engine that holds due work back only for a time lets the next one in.
    #[must_use]
    pub fn next_opening(&self, gates: &Gates, now: Time) -> Option<Time> {
        let waiting = self.engines.iter().filter(|(_, e)| !e.rules.paused && !e.heads.is_empty());
        let opening = waiting.filter_map(|(name, _)| match self.shut(gates, name, None, now) {
            Some(Shut::Frozen { until }) => Some(until),
            Some(_) => None,
            None => gates.get(name).filter(|g| !g.has_token(now)).map(|g| g.next_token(now)),
        });
        opening.min()
    }

    /// Why no endpoint of the engine takes a row (of those bound to `pinned`); `None` when one does. Of several reasons
    /// the mildest: one that is full is worth more than one that is parked.
    #[must_use]
    pub fn shut(&self, gates: &Gates, name: &str, pinned: Option<u32>, now: Time) -> Option<Shut> {
        let engine = self.engines.get(name)?;
        let gate = gates.get(name)?;
        let pinned = engine.still_there(pinned);
        let mut mildest: Option<Shut> = None;
        for at in (0u32..).take(engine.rules.endpoints.len()).filter(|at| pinned.is_none_or(|p| p == *at)) {
            let shut = gate.shut_to(pinned.is_some(), at, self.occupancy.of_endpoint(name, at), now)?;
            mildest = Some(mildest.map_or(shut, |other| other.min(shut)));
        }
        mildest
    }

    /// Whether another user, who has had less of the slots' time, has work that would take the next slot for this engine
    /// type.
    #[must_use]
    pub fn is_outshared(&self, user: &Option<String>, engine_type: &str, gates: &Gates, now: Time) -> bool {
        let own = self.vtime.get(user).copied().unwrap_or(self.served);
        let rivals = self.engines.iter().filter(|(_, engine)| {
            let theirs = &engine.rules.engine_type;
            let share = |w: &WorkerRules| w.open && serves(w, engine_type) && serves(w, theirs);
            !engine.rules.paused && (theirs == engine_type || self.workers.values().any(share))
        });
        let starts = |name: &str, engine: &EngineQueue, class: &Class| {
            let gate = gates.get(name);
            let lets_in = gate.is_none_or(|g| g.has_token(now) && (!class.retry || g.may_retry(now)));
            lets_in && self.has_endpoint(name, engine, gate, class.pin, now)
        };
        rivals.into_iter().any(|(name, engine)| {
            engine.heads.iter().any(|(class, heads)| {
                let first = heads.first();
                first.is_some_and(|(vtime, .., other)| *vtime < own && other != user)
                    && starts(name, engine, class)
            })
        })
    }

    /// Whether this many rows of the lane are in memory that none is read before some of them are gone.
    #[must_use]
    pub fn window_is_full(&self, lane: &Lane) -> bool {
        self.lane_numbers.get(lane).is_some_and(|number| !self.lanes[*number].is_hungry())
    }

    /// Whether due rows of the lane stand behind those in memory, known by number only.
    #[must_use]
    pub fn reaches_behind_memory(&self, lane: &Lane) -> bool {
        self.lane_numbers.get(lane).is_some_and(|number| self.lanes[*number].tail > 0)
    }

    #[must_use]
    pub fn has_capable_worker(&self, engine_type: &str) -> bool {
        self.workers.values().any(|w| w.open && serves(w, engine_type))
    }

    #[must_use]
    pub fn key_is_full(&self, ckey: &str) -> bool {
        self.occupancy.of_ckey(ckey) >= self.ckey_limit
    }

    /// Recomputes every derived count and index; an empty answer means they agree. For tests and the lease auditor.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        let mut findings = self.occupancy.audit();
        let rows: usize = self.lanes.iter().map(LaneRows::len).sum();
        if rows != self.index.len() {
            findings.push(format!("{rows} rows in lanes, {} in the index", self.index.len()));
        }
        for key in self.index.keys().filter(|k| self.occupancy.lease(**k).is_some()) {
            findings.push(format!("{} is both queued and leased", key.0));
        }
        for (user, engines) in &self.users {
            for (engine, lanes) in engines {
                if lanes.listed != self.heads_of(user, lanes) && self.engines.contains_key(engine) {
                    findings.push(format!("head of {user:?} on {engine} is out of date"));
                }
            }
        }
        let lanes = || self.lane_numbers.values().map(|n| &self.lanes[*n]);
        for (name, engine) in &self.engines {
            let due: u64 = lanes().filter(|l| &l.lane.engine == name).map(LaneRows::total).sum();
            if due != engine.depth {
                findings.push(format!("{due} rows are due on {name}, its depth says {}", engine.depth));
            }
            if self.priorities_of(name) != engine.by_priority {
                findings.push(format!("the priorities of what is due on {name} are counted wrong"));
            }
        }
        for (user, depth) in &self.user_depth {
            let due: u64 = lanes().filter(|l| &l.lane.user == user).map(LaneRows::total).sum();
            if due != *depth {
                findings.push(format!("{due} rows are due of {user:?}, its depth says {depth}"));
            }
        }
        findings
    }

    /// How long a grant of `engine` is expected to run, in milliseconds.
    #[must_use]
    pub fn expected_run(&self, engine: &str) -> Millis {
        self.engines.get(engine).map_or(0, |e| e.run_ms as Millis)
    }
}
