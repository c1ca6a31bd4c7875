//! The ready queue: which due execution starts next, on which worker and endpoint.
//!
//! Within one user, strictly by (rank, key). Between users, weighted fair queueing on slot-time: each user has one
//! virtual time over all engines, the least goes first, and a grant advances it by the expected run time divided by the
//! user's weight, corrected when the true one is known (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996).
//! Without user names all work is one user's and the order is plain rank.
//!
//! What an engine lets in is asked of its [`Gate`](crate::gate::Gate). Rows are kept apart by the endpoint they are bound to
//! and by being retries, so that what a closed gate holds back never stands before what it would let in.
//!
//! Invariants: occupancy is one map of leases with derived counts ([`Queue::audit`] recomputes them); no pick is made
//! while live leases reach a limit; a lane's rows in memory are a prefix of its rows in the store, the rest is counted.

use crate::execution::{Lane, Priority};
use crate::gate::Gates;
use crate::id::{Key, SessionId};
use crate::limits::READY_ROWS_MAX;
use crate::planted::{self, Bug};
use crate::rank::Rank;
use crate::time::{SECOND, Time};
use lane::LaneRows;
use std::collections::{BTreeMap, BTreeSet};

mod held;
mod lane;
mod occupancy;
mod place;
mod questions;
mod trial;
pub use held::Waited;
pub use occupancy::{Lease, Occupancy};
pub use place::Placement;

type User = Option<String>;
type LaneNo = usize;

/// What the queue holds of a due row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub rank: Rank,
    pub priority: Priority,
    /// The only endpoint it may start on, see [`State::pinned`](crate::execution::State::pinned).
    pub pinned: Option<u32>,
    /// It would rather fail than wait for a closed engine.
    pub fail_fast: bool,
}

/// A decided start. Its lease is taken already; [`Queue::release`] gives it back when the commit refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub key: Key,
    pub worker: SessionId,
    pub endpoint: u32,
}

/// One engine as the queue sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineRules {
    pub engine_type: String,
    pub paused: bool,
    /// In the order of the engine's endpoints.
    pub endpoints: Vec<EndpointRules>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointRules {
    pub weight: f64,
}

/// One worker as the queue sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRules {
    pub capacity: u32,
    /// Empty: all.
    pub engine_types: Vec<String>,
    /// Takes new work.
    pub open: bool,
}

/// A user with work for an engine: virtual time, then the first row.
type Head = (i64, Rank, Key, User);

/// Rows that a gate lets in, or holds back, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    /// The endpoint they are bound to.
    pin: Option<u32>,
    retry: bool,
}

#[derive(Debug, Clone)]
struct EngineQueue {
    rules: EngineRules,
    /// Users with something that could start, by class, the next one first.
    heads: BTreeMap<Class, BTreeSet<Head>>,
    /// Due rows, in memory and behind.
    depth: u64,
    /// Those in memory, by priority in the order of [`Priority::ALL`].
    by_priority: [u64; 4],
    /// Rows in memory that would rather fail than wait for a closed engine.
    impatient: BTreeSet<Key>,
    /// Smoothed run time of one attempt, in milliseconds: what a grant is expected to cost.
    run_ms: f64,
}

impl EngineQueue {
    /// What is bound to an endpoint that is not configured any more is bound to none.
    fn still_there(&self, pinned: Option<u32>) -> Option<u32> {
        pinned.filter(|at| (*at as usize) < self.rules.endpoints.len())
    }
}

#[derive(Debug, Clone, Default)]
struct UserLanes {
    lanes: BTreeSet<LaneNo>,
    /// Its present entries in the engine's heads.
    listed: BTreeMap<Class, (i64, Rank, Key)>,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Queue {
    engines: BTreeMap<String, EngineQueue>,
    lanes: Vec<LaneRows>,
    lane_numbers: BTreeMap<Lane, LaneNo>,
    free_lanes: Vec<LaneNo>,
    /// Lanes by (user, engine).
    users: BTreeMap<User, BTreeMap<String, UserLanes>>,
    by_ckey: BTreeMap<String, BTreeSet<LaneNo>>,
    index: BTreeMap<Key, (LaneNo, Rank)>,
    hungry: BTreeSet<LaneNo>,
    vtime: BTreeMap<User, i64>,
    /// Shares of the slots' time; 1 where none is set.
    weights: BTreeMap<String, f64>,
    /// Due rows of each user, in memory and behind.
    user_depth: BTreeMap<User, u64>,
    /// The virtual time of the user served last: where a returning user starts.
    served: i64,
    workers: BTreeMap<SessionId, WorkerRules>,
    occupancy: Occupancy,
    ckey_limit: u32,
    placement: Placement,
    /// When the workers that are starting should be ready, and what they will serve.
    expected_workers: Vec<(Time, Vec<String>)>,
}

/// What a grant is expected to cost before anything was measured.
const FIRST_ESTIMATE: f64 = SECOND as f64;
/// Weight of the newest run in the smoothed run time.
const SMOOTHING: f64 = 0.2;

impl Queue {
    /// `ckey_limit`: leases at which a concurrency key is full.
    #[must_use]
    pub fn new(ckey_limit: u32) -> Queue {
        Queue {
            engines: BTreeMap::new(),
            lanes: Vec::new(),
            lane_numbers: BTreeMap::new(),
            free_lanes: Vec::new(),
            users: BTreeMap::new(),
            by_ckey: BTreeMap::new(),
            index: BTreeMap::new(),
            hungry: BTreeSet::new(),
            vtime: BTreeMap::new(),
            weights: BTreeMap::new(),
            user_depth: BTreeMap::new(),
            served: 0,
            workers: BTreeMap::new(),
            occupancy: Occupancy::default(),
            ckey_limit: ckey_limit.max(1),
            placement: Placement::default(),
            expected_workers: Vec::new(),
        }
    }

    // ---- what the world looks like

    /// Sets an engine's rules; work of an engine without rules waits.
    pub fn set_engine(&mut self, name: &str, rules: EngineRules) {
        match self.engines.get_mut(name) {
            Some(engine) => engine.rules = rules,
            None => {
                let depth = self.lane_numbers.values().map(|n| &self.lanes[*n]);
                let depth = depth.filter(|l| l.lane.engine == name).map(|l| l.counted).sum();
                let engine = EngineQueue {
                    rules,
                    heads: BTreeMap::new(),
                    depth,
                    by_priority: self.priorities_of(name),
                    impatient: BTreeSet::new(),
                    run_ms: FIRST_ESTIMATE,
                };
                self.engines.insert(name.to_owned(), engine);
                let waiting: Vec<User> = self.users.keys().cloned().collect();
                for user in waiting {
                    self.refresh(&user, name);
                }
            }
        }
    }

    /// Gives users other shares of the slots' time than 1; a share that is not above 0 counts as 1.
    pub fn set_weights(&mut self, weights: BTreeMap<String, f64>) {
        self.weights = weights;
    }

    pub fn set_worker(&mut self, session: SessionId, rules: WorkerRules) {
        self.workers.insert(session, rules);
    }

    pub fn remove_worker(&mut self, session: SessionId) {
        self.workers.remove(&session);
    }

    #[must_use]
    pub fn engine(&self, name: &str) -> Option<&EngineRules> {
        self.engines.get(name).map(|e| &e.rules)
    }

    // ---- rows

    /// Adds a due row. A row that is already here, or holds a lease, is left as it is.
    pub fn push(&mut self, lane: &Lane, entry: Entry) {
        if self.index.contains_key(&entry.key) || self.occupancy.lease(entry.key).is_some() {
            return;
        }
        let number = self.lane_number(lane);
        let memory_is_full = self.index.len() >= READY_ROWS_MAX;
        if self.lanes[number].goes_behind((entry.rank, entry.key), memory_is_full) {
            self.lanes[number].tail += 1;
            self.recount(number);
            return;
        }
        self.insert(number, entry);
        self.recount(number);
        self.refresh_lane(number);
    }

    /// Takes a row out (cancelled, expired, its priority changes). `lane` is where it may stand if it is not in memory.
    pub fn remove(&mut self, key: Key, lane: &Lane) {
        if let Some((number, _)) = self.index.get(&key).copied() {
            self.take_out(key);
            self.refresh_lane(number);
            self.drop_lane_if_empty(number);
        } else if let Some(number) = self.lane_numbers.get(lane).copied() {
            // Whether it was counted behind the window is not known. One too many costs a refill, which puts the number
            // right; one too few would lose another row.
            self.note_hunger(number);
        }
    }

    /// A lane whose rows in memory run low while more are in the store, and the row to read on from.
    #[must_use]
    pub fn wants_refill(&self) -> Option<(Lane, Option<(Rank, Key)>)> {
        let rows = &self.lanes[*self.hungry.first()?];
        Some((rows.lane.clone(), rows.last()))
    }

    /// Adds rows read for [`wants_refill`](Self::wants_refill); `more` says that the store may hold further ones.
    pub fn refill(&mut self, lane: &Lane, entries: Vec<Entry>, more: bool) {
        let Some(number) = self.lane_numbers.get(lane).copied() else {
            return;
        };
        self.hungry.remove(&number);
        for entry in entries {
            let tail = &mut self.lanes[number].tail;
            *tail = tail.saturating_sub(1);
            if self.index.contains_key(&entry.key) || self.occupancy.lease(entry.key).is_some() {
                continue;
            }
            self.insert(number, entry);
        }
        if !more {
            self.lanes[number].tail = 0;
        }
        self.recount(number);
        self.note_hunger(number);
        self.refresh_lane(number);
        self.drop_lane_if_empty(number);
    }

    /// Says that `rows` due rows of a lane are in the store; they are read by refills.
    pub fn hydrate(&mut self, lane: &Lane, rows: u64) {
        let number = self.lane_number(lane);
        self.lanes[number].tail = rows.saturating_sub(self.lanes[number].len() as u64);
        self.recount(number);
        self.note_hunger(number);
        self.drop_lane_if_empty(number);
    }

    // ---- starting and ending

    /// Decides the next start and takes its lease; `None` when nothing may start now.
    pub fn pick(&mut self, gates: &mut Gates, now: Time) -> Option<Pick> {
        let (name, head, worker, class) = self.next_start(gates, now)?;
        let (vtime, _, key, user) = head;
        let cost = self.engines[&name].run_ms.max(1.0) as i64;
        let (number, _) = self.index.get(&key).copied()?;
        let ckey = self.lanes[number].lane.ckey.clone();
        let endpoint = self.endpoint_for(&name, gates, class.pin, ckey.as_deref(), now)?;
        self.take_out(key);
        self.served = self.served.max(vtime);
        self.vtime.insert(user.clone(), vtime.saturating_add(self.charge_of(&user, cost)));
        if let Some(gate) = gates.get_mut(&name) {
            gate.started(endpoint, key, class.retry, now);
        }
        let lease = Lease {
            engine: name,
            endpoint,
            ckey,
            user: user.clone(),
            worker,
            since: now,
            charged: u64::try_from(cost).unwrap_or(0),
            retry: class.retry,
        };
        self.occupancy.take(key, lease);
        self.refresh_lane(number);
        self.refresh_user(&user);
        self.refresh_key_lanes(number);
        self.drop_lane_if_empty(number);
        Some(Pick { key, worker, endpoint })
    }

    /// The first head over all engines that are open, with the worker it would run on.
    fn next_start(&self, gates: &Gates, now: Time) -> Option<(String, Head, SessionId, Class)> {
        let mut best: Option<(&str, &Head, SessionId, Class)> = None;
        for (name, engine) in self.engines.iter().filter(|(_, e)| !e.rules.paused && !e.heads.is_empty()) {
            let gate = gates.get(name);
            if gate.is_some_and(|g| !g.has_token(now)) {
                continue;
            }
            let Some(worker) = self.worker_for(engine) else { continue };
            let may_retry = gate.is_none_or(|g| g.may_retry(now));
            let free = self.has_endpoint(name, engine, gate, None, now);
            for (class, heads) in engine.heads.iter().filter(|(class, _)| may_retry || !class.retry) {
                let Some(head) = heads.first() else { continue };
                let later = best.is_some_and(|(_, b, ..)| (b.0, b.1, b.2) <= (head.0, head.1, head.2));
                let takes = || match class.pin {
                    None => free,
                    pinned => self.has_endpoint(name, engine, gate, pinned, now),
                };
                if !later && takes() {
                    best = Some((name, head, worker, *class));
                }
            }
        }
        best.map(|(name, head, worker, class)| (name.to_owned(), head.clone(), worker, class))
    }

    /// Takes the lease of a row that already runs (hydration, or another node's grant).
    pub fn lease(&mut self, key: Key, lease: Lease) {
        let ckey = lease.ckey.clone();
        self.occupancy.take(key, lease);
        self.refresh_ckey(ckey.as_deref());
    }

    /// Ends a lease and corrects what its user was charged to what it took. `ran`: whether an attempt really ran, so
    /// that its time may be learned.
    pub fn release(&mut self, key: Key, now: Time, ran: bool) {
        let Some(lease) = self.occupancy.free(key) else {
            return;
        };
        let took = if ran { now.since(lease.since) } else { 0 };
        if ran && let Some(engine) = self.engines.get_mut(&lease.engine) {
            engine.run_ms += SMOOTHING * (took as f64 - engine.run_ms);
        }
        let correction = i64::try_from(took).unwrap_or(i64::MAX) - i64::try_from(lease.charged).unwrap_or(0);
        let correction = self.charge_of(&lease.user, correction);
        if let Some(vtime) = self.vtime.get_mut(&lease.user) {
            *vtime = vtime.saturating_add(correction);
        }
        self.refresh_ckey(lease.ckey.as_deref());
        self.refresh_user(&lease.user);
        self.forget_idle_user(&lease.user);
    }

    /// Charges users for what runs longer than it was expected to, so that long runs are paid for while they run.
    pub fn charge_running(&mut self, now: Time) {
        let charges: Vec<(User, i64)> = self.occupancy.overdue(now);
        for (user, more) in charges {
            let more = self.charge_of(&user, more);
            if let Some(vtime) = self.vtime.get_mut(&user) {
                *vtime = vtime.saturating_add(more);
            }
            self.refresh_user(&user);
        }
    }

    /// Ends a lease whose call was abandoned: the worker's slot is free, the engine's room stays taken until `until`.
    pub fn abandon(&mut self, key: Key, until: Time, now: Time) {
        if let Some(lease) = self.occupancy.lease(key) {
            let (engine, endpoint) = (lease.engine.clone(), lease.endpoint);
            self.occupancy.haunt(engine, endpoint, until);
        }
        self.release(key, now, true);
    }

    /// Gives back the engine room of abandoned calls whose time has passed.
    pub fn expire_ghosts(&mut self, now: Time) {
        self.occupancy.expire_ghosts(now);
    }

    /// Says which workers are starting, by when they should be ready and the engine types they will serve (none: all), for
    /// those who ask why they wait.
    pub fn expect_workers(&mut self, starting: Vec<(Time, Vec<String>)>) {
        self.expected_workers = starting;
    }

    // ---- inside

    /// What a span of a slot's time costs its user.
    fn charge_of(&self, user: &User, span: i64) -> i64 {
        let weight = user.as_ref().and_then(|u| self.weights.get(u)).copied().filter(|w| *w > 0.0);
        weight.map_or(span, |weight| (span as f64 / weight) as i64)
    }

    fn insert(&mut self, number: LaneNo, entry: Entry) {
        self.lanes[number].insert(entry);
        self.index.insert(entry.key, (number, entry.rank));
        if let Some(engine) = self.engines.get_mut(&self.lanes[number].lane.engine) {
            engine.by_priority[entry.priority as usize] += 1;
            if entry.fail_fast {
                engine.impatient.insert(entry.key);
            }
        }
    }

    fn priorities_of(&self, engine: &str) -> [u64; 4] {
        let mut counts = [0; 4];
        let lanes = self.lane_numbers.values().map(|n| &self.lanes[*n]).filter(|l| l.lane.engine == engine);
        lanes.flat_map(LaneRows::entries).for_each(|entry| counts[entry.priority as usize] += 1);
        counts
    }

    /// Takes a row in memory out of its lane, without looking at heads.
    fn take_out(&mut self, key: Key) {
        let Some((number, rank)) = self.index.remove(&key) else { return };
        let entry = self.lanes[number].remove(rank, key);
        if let Some(entry) = entry
            && let Some(engine) = self.engines.get_mut(&self.lanes[number].lane.engine)
        {
            let count = &mut engine.by_priority[entry.priority as usize];
            *count = count.saturating_sub(1);
            if entry.fail_fast {
                engine.impatient.remove(&key);
            }
        }
        self.recount(number);
        self.note_hunger(number);
    }

    /// Brings the depths of the lane's engine and user up to date.
    fn recount(&mut self, number: LaneNo) {
        let rows = &mut self.lanes[number];
        let (before, after) = (rows.counted, rows.total());
        rows.counted = after;
        let moved = |depth: u64| (depth + after).saturating_sub(before);
        if let Some(engine) = self.engines.get_mut(&rows.lane.engine) {
            engine.depth = moved(engine.depth);
        }
        let depth = self.user_depth.entry(rows.lane.user.clone()).or_default();
        *depth = moved(*depth);
        if *depth == 0 {
            self.user_depth.remove(&rows.lane.user);
        }
    }

    fn free_of(&self, id: SessionId, worker: &WorkerRules) -> u32 {
        worker.capacity.saturating_sub(self.occupancy.of_worker(id))
    }

    fn lane_number(&mut self, lane: &Lane) -> LaneNo {
        if let Some(number) = self.lane_numbers.get(lane) {
            return *number;
        }
        let rows = LaneRows::new(lane.clone());
        let number = if let Some(free) = self.free_lanes.pop() {
            self.lanes[free] = rows;
            free
        } else {
            self.lanes.push(rows);
            self.lanes.len() - 1
        };
        self.lane_numbers.insert(lane.clone(), number);
        if !self.users.contains_key(&lane.user) {
            // A user that was away has saved nothing up: it starts where those being served are.
            let vtime = self.vtime.entry(lane.user.clone()).or_insert(self.served);
            *vtime = (*vtime).max(self.served);
        }
        let engines = self.users.entry(lane.user.clone()).or_default();
        engines.entry(lane.engine.clone()).or_default().lanes.insert(number);
        if let Some(ckey) = &lane.ckey {
            self.by_ckey.entry(ckey.clone()).or_default().insert(number);
        }
        number
    }

    fn drop_lane_if_empty(&mut self, number: LaneNo) {
        let rows = &self.lanes[number];
        if rows.total() > 0 || self.lane_numbers.get(&rows.lane) != Some(&number) {
            return;
        }
        let lane = rows.lane.clone();
        self.hungry.remove(&number);
        self.lane_numbers.remove(&lane);
        self.free_lanes.push(number);
        if let Some(ckey) = &lane.ckey
            && let Some(lanes) = self.by_ckey.get_mut(ckey)
        {
            lanes.remove(&number);
            if lanes.is_empty() {
                self.by_ckey.remove(ckey);
            }
        }
        self.refresh(&lane.user, &lane.engine);
        if let Some(engines) = self.users.get_mut(&lane.user)
            && let Some(lanes) = engines.get_mut(&lane.engine)
        {
            lanes.lanes.remove(&number);
            if lanes.lanes.is_empty() {
                engines.remove(&lane.engine);
            }
            if engines.is_empty() {
                self.users.remove(&lane.user);
            }
        }
        self.forget_idle_user(&lane.user);
    }

    /// A user with nothing queued and no debt needs no memory: it would start at `served` anyway.
    fn forget_idle_user(&mut self, user: &User) {
        let idle = !self.users.contains_key(user) && self.vtime.get(user).is_some_and(|v| *v <= self.served);
        if idle {
            self.vtime.remove(user);
        }
    }

    fn note_hunger(&mut self, number: LaneNo) {
        if self.lanes[number].is_hungry() {
            self.hungry.insert(number);
        } else {
            self.hungry.remove(&number);
        }
    }

    fn refresh_lane(&mut self, number: LaneNo) {
        let (user, engine) = (self.lanes[number].lane.user.clone(), self.lanes[number].lane.engine.clone());
        self.refresh(&user, &engine);
    }

    fn refresh_key_lanes(&mut self, number: LaneNo) {
        let ckey = self.lanes[number].lane.ckey.clone();
        self.refresh_ckey(ckey.as_deref());
    }

    fn refresh_ckey(&mut self, ckey: Option<&str>) {
        let lanes = ckey.and_then(|k| self.by_ckey.get(k)).cloned().unwrap_or_default();
        for number in lanes {
            self.refresh_lane(number);
        }
    }

    fn refresh_user(&mut self, user: &User) {
        let engines: Vec<String> =
            self.users.get(user).map(|e| e.keys().cloned().collect()).unwrap_or_default();
        for engine in engines {
            self.refresh(user, &engine);
        }
    }

    /// Brings the user's entries in the engine's heads up to date.
    fn refresh(&mut self, user: &User, engine: &str) {
        let Some(lanes) = self.users.get(user).and_then(|e| e.get(engine)) else {
            return;
        };
        let heads = self.heads_of(user, lanes);
        if heads == lanes.listed {
            return;
        }
        let Some(queue) = self.engines.get_mut(engine) else {
            return;
        };
        for (class, (vtime, rank, key)) in &lanes.listed {
            if let Some(listed) = queue.heads.get_mut(class) {
                listed.remove(&(*vtime, *rank, *key, user.clone()));
                if listed.is_empty() {
                    queue.heads.remove(class);
                }
            }
        }
        for (class, (vtime, rank, key)) in &heads {
            queue.heads.entry(*class).or_default().insert((*vtime, *rank, *key, user.clone()));
        }
        if let Some(lanes) = self.users.get_mut(user).and_then(|e| e.get_mut(engine)) {
            lanes.listed = heads;
        }
    }

    /// For each class the least (rank, key) over the user's lanes that are not blocked, with the user's virtual time.
    fn heads_of(&self, user: &User, lanes: &UserLanes) -> BTreeMap<Class, (i64, Rank, Key)> {
        let vtime = self.vtime.get(user).copied().unwrap_or(self.served);
        let mut heads: BTreeMap<Class, (i64, Rank, Key)> = BTreeMap::new();
        for rows in lanes.lanes.iter().map(|n| &self.lanes[*n]).filter(|l| !self.is_blocked(&l.lane)) {
            for (pin, (rank, key)) in rows.heads() {
                let class = Class { pin, retry: rows.lane.retry };
                let head = heads.entry(class).or_insert((vtime, rank, key));
                *head = (*head).min((vtime, rank, key));
            }
        }
        heads
    }

    fn is_blocked(&self, lane: &Lane) -> bool {
        lane.ckey.as_deref().is_some_and(|k| self.key_is_full(k)) && !planted::has(Bug::KeyIgnored)
    }
}

#[cfg(test)]
mod tests;
