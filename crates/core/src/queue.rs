//! The ready queue: which due execution starts next, on which worker and endpoint.
//!
//! Within one user, strictly by (rank, key). Between users, weighted fair queueing on slot-time: each user has one
//! virtual time over all engines, the least goes first, and a grant advances it by the expected run time divided by the
//! user's weight, corrected when the true one is known (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996).
//! Without user names all work is one user's and the order is plain rank.
//!
//! Invariants: occupancy is one map of leases with derived counts ([`Queue::audit`] recomputes them); no pick is made
//! while live leases reach a limit; a lane's rows in memory are a prefix of its rows in the store, the rest is counted.

use crate::execution::{Lane, Priority};
use crate::id::{Key, SessionId};
use crate::limits::{READY_LANE_WINDOW, READY_REFILL, READY_ROWS_MAX};
use crate::rank::Rank;
use crate::time::{Millis, SECOND, Time};
use std::collections::{BTreeMap, BTreeSet};

mod occupancy;
pub use occupancy::{Lease, Occupancy};

type User = Option<String>;
type LaneNo = usize;

/// What the queue holds of a due row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub rank: Rank,
    pub priority: Priority,
    /// The only endpoint it may start on: the engine's run to re-attach to lives there.
    pub pinned: Option<u32>,
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
    /// Live leases at which nothing more starts there.
    pub limit: Option<u32>,
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

#[derive(Debug)]
struct EngineQueue {
    rules: EngineRules,
    /// Users with something that could start, the next one first.
    heads: BTreeSet<Head>,
    /// Smoothed run time of one attempt, in milliseconds: what a grant is expected to cost.
    run_ms: f64,
}

#[derive(Debug)]
struct LaneRows {
    lane: Lane,
    rows: BTreeMap<(Rank, Key), Entry>,
    /// Rows behind those in memory, known by number only.
    tail: u64,
}

#[derive(Debug, Default)]
struct UserLanes {
    lanes: BTreeSet<LaneNo>,
    /// Its present entry in the engine's heads.
    listed: Option<(i64, Rank, Key)>,
}

/// See the module's text.
#[derive(Debug)]
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
    /// The virtual time of the user served last: where a returning user starts.
    served: i64,
    workers: BTreeMap<SessionId, WorkerRules>,
    occupancy: Occupancy,
    ckey_limit: u32,
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
            served: 0,
            workers: BTreeMap::new(),
            occupancy: Occupancy::default(),
            ckey_limit: ckey_limit.max(1),
        }
    }

    // ---- what the world looks like

    /// Sets an engine's rules; work of an engine without rules waits.
    pub fn set_engine(&mut self, name: &str, rules: EngineRules) {
        match self.engines.get_mut(name) {
            Some(engine) => engine.rules = rules,
            None => {
                let engine = EngineQueue { rules, heads: BTreeSet::new(), run_ms: FIRST_ESTIMATE };
                self.engines.insert(name.to_owned(), engine);
                let waiting: Vec<User> = self.users.keys().cloned().collect();
                for user in waiting {
                    self.refresh(&user, name);
                }
            }
        }
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
        let total = self.index.len();
        let rows = &mut self.lanes[number];
        let last = rows.rows.last_key_value().map(|(at, _)| *at);
        let behind = last.is_none_or(|last| (entry.rank, entry.key) > last);
        let full = rows.rows.len() >= READY_LANE_WINDOW || total >= READY_ROWS_MAX;
        if behind && (rows.tail > 0 || (full && !rows.rows.is_empty())) {
            rows.tail += 1;
            return;
        }
        rows.rows.insert((entry.rank, entry.key), entry);
        self.index.insert(entry.key, (number, entry.rank));
        self.refresh_lane(number);
    }

    /// Takes a row out (cancelled, expired, its priority changes). `lane` is where it stands if it is not in memory.
    pub fn remove(&mut self, key: Key, lane: &Lane) {
        if let Some((number, rank)) = self.index.remove(&key) {
            self.lanes[number].rows.remove(&(rank, key));
            self.note_hunger(number);
            self.refresh_lane(number);
            self.drop_lane_if_empty(number);
        } else if let Some(number) = self.lane_numbers.get(lane).copied() {
            let rows = &mut self.lanes[number];
            rows.tail = rows.tail.saturating_sub(1);
            self.drop_lane_if_empty(number);
        }
    }

    /// A lane whose rows in memory run low while more are in the store, and the row to read on from.
    #[must_use]
    pub fn wants_refill(&self) -> Option<(Lane, Option<(Rank, Key)>)> {
        let rows = &self.lanes[*self.hungry.first()?];
        Some((rows.lane.clone(), rows.rows.last_key_value().map(|(at, _)| *at)))
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
            self.lanes[number].rows.insert((entry.rank, entry.key), entry);
            self.index.insert(entry.key, (number, entry.rank));
        }
        if !more {
            self.lanes[number].tail = 0;
        }
        self.note_hunger(number);
        self.refresh_lane(number);
        self.drop_lane_if_empty(number);
    }

    /// Says that `rows` due rows of a lane are in the store; they are read by refills.
    pub fn hydrate(&mut self, lane: &Lane, rows: u64) {
        let number = self.lane_number(lane);
        self.lanes[number].tail = rows.saturating_sub(self.lanes[number].rows.len() as u64);
        self.note_hunger(number);
        self.drop_lane_if_empty(number);
    }

    // ---- starting and ending

    /// Decides the next start and takes its lease; `None` when nothing may start now.
    pub fn pick(&mut self, now: Time) -> Option<Pick> {
        let mut best: Option<(&str, &Head)> = None;
        for (name, engine) in &self.engines {
            let Some(head) = engine.heads.first() else {
                continue;
            };
            let sooner = best.is_none_or(|(_, other)| (head.0, head.1, head.2) < (other.0, other.1, other.2));
            if sooner && self.place(name, engine, head.2).is_some() {
                best = Some((name, head));
            }
        }
        let (name, head) = best?;
        let (name, key, user, vtime) = (name.to_owned(), head.2, head.3.clone(), head.0);
        let engine = &self.engines[&name];
        let (worker, endpoint) = self.place(&name, engine, key)?;
        let cost = engine.run_ms.max(1.0) as i64;
        let (number, rank) = self.index.remove(&key)?;
        let ckey = self.lanes[number].lane.ckey.clone();
        self.lanes[number].rows.remove(&(rank, key));
        self.note_hunger(number);
        self.served = self.served.max(vtime);
        self.vtime.insert(user.clone(), vtime + cost);
        let charged = u64::try_from(cost).unwrap_or(0);
        self.occupancy.take(
            key,
            Lease { engine: name, endpoint, ckey, user: user.clone(), worker, since: now, charged },
        );
        self.refresh_lane(number);
        self.refresh_user(&user);
        self.refresh_key_lanes(number);
        self.drop_lane_if_empty(number);
        Some(Pick { key, worker, endpoint })
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
        if let Some(vtime) = self.vtime.get_mut(&lease.user) {
            *vtime = vtime.saturating_add(correction);
        }
        self.refresh_ckey(lease.ckey.as_deref());
        self.refresh_user(&lease.user);
        self.forget_idle_user(&lease.user);
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

    // ---- questions

    #[must_use]
    pub fn occupancy(&self) -> &Occupancy {
        &self.occupancy
    }

    #[must_use]
    pub fn workers(&self) -> &BTreeMap<SessionId, WorkerRules> {
        &self.workers
    }

    /// Free slots of open workers.
    #[must_use]
    pub fn free_slots(&self) -> u64 {
        self.workers.iter().filter(|(_, w)| w.open).map(|(id, w)| u64::from(self.free_of(*id, w))).sum()
    }

    /// Due rows by engine, in memory and behind.
    #[must_use]
    pub fn due_by_engine(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for rows in self.lane_numbers.values().map(|n| &self.lanes[*n]) {
            *counts.entry(rows.lane.engine.clone()).or_default() += rows.rows.len() as u64 + rows.tail;
        }
        counts
    }

    /// Due rows in memory by priority; rows behind the window are not told apart.
    #[must_use]
    pub fn due_by_priority(&self) -> BTreeMap<Priority, u64> {
        let mut counts = BTreeMap::new();
        for entry in self.lanes.iter().flat_map(|l| l.rows.values()) {
            *counts.entry(entry.priority).or_default() += 1;
        }
        counts
    }

    /// How many rows of its lane stand before it; `None` when it is not in memory.
    #[must_use]
    pub fn position(&self, key: Key) -> Option<u64> {
        let (number, rank) = self.index.get(&key)?;
        Some(self.lanes[*number].rows.range(..(*rank, key)).count() as u64)
    }

    #[must_use]
    pub fn engine_has_room(&self, name: &str) -> bool {
        self.engines.get(name).is_some_and(|e| self.endpoint(name, e, None).is_some())
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
        let rows: usize = self.lanes.iter().map(|l| l.rows.len()).sum();
        if rows != self.index.len() {
            findings.push(format!("{rows} rows in lanes, {} in the index", self.index.len()));
        }
        for key in self.index.keys().filter(|k| self.occupancy.lease(**k).is_some()) {
            findings.push(format!("{} is both queued and leased", key.0));
        }
        for (user, engines) in &self.users {
            for (engine, lanes) in engines {
                if lanes.listed != self.head_of(user, lanes) && self.engines.contains_key(engine) {
                    findings.push(format!("head of {user:?} on {engine} is out of date"));
                }
            }
        }
        findings
    }

    // ---- inside

    /// Where the row could run now: a worker with a free slot and an endpoint with room.
    fn place(&self, name: &str, engine: &EngineQueue, key: Key) -> Option<(SessionId, u32)> {
        if engine.rules.paused {
            return None;
        }
        let (number, rank) = self.index.get(&key)?;
        let pinned = self.lanes[*number].rows.get(&(*rank, key))?.pinned;
        let endpoint = self.endpoint(name, engine, pinned)?;
        let worker = self
            .workers
            .iter()
            .filter(|(_, w)| w.open && serves(w, &engine.rules.engine_type))
            .map(|(id, w)| (self.free_of(*id, w), *id))
            .filter(|(free, _)| *free > 0)
            .min()?;
        Some((worker.1, endpoint))
    }

    /// The endpoint with the most room per weight, or the pinned one if it has room.
    fn endpoint(&self, name: &str, engine: &EngineQueue, pinned: Option<u32>) -> Option<u32> {
        let mut best: Option<(f64, u32)> = None;
        for (at, rules) in (0u32..).zip(&engine.rules.endpoints) {
            let used = self.occupancy.of_endpoint(name, at);
            if pinned.is_some_and(|p| p != at) || rules.limit.is_some_and(|limit| used >= limit) {
                continue;
            }
            let load = f64::from(used + 1) / rules.weight.max(f64::MIN_POSITIVE);
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, at));
            }
        }
        best.map(|(_, at)| at)
    }

    fn free_of(&self, id: SessionId, worker: &WorkerRules) -> u32 {
        worker.capacity.saturating_sub(self.occupancy.of_worker(id))
    }

    fn lane_number(&mut self, lane: &Lane) -> LaneNo {
        if let Some(number) = self.lane_numbers.get(lane) {
            return *number;
        }
        let rows = LaneRows { lane: lane.clone(), rows: BTreeMap::new(), tail: 0 };
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
        if !rows.rows.is_empty() || rows.tail > 0 || self.lane_numbers.get(&rows.lane) != Some(&number) {
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
        let rows = &self.lanes[number];
        if rows.tail > 0 && rows.rows.len() < READY_REFILL / 2 {
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

    /// Brings the user's entry in the engine's heads up to date.
    fn refresh(&mut self, user: &User, engine: &str) {
        let Some(lanes) = self.users.get(user).and_then(|e| e.get(engine)) else {
            return;
        };
        let head = self.head_of(user, lanes);
        let listed = lanes.listed;
        let Some(queue) = self.engines.get_mut(engine) else {
            return;
        };
        if head == listed {
            return;
        }
        if let Some((vtime, rank, key)) = listed {
            queue.heads.remove(&(vtime, rank, key, user.clone()));
        }
        if let Some((vtime, rank, key)) = head {
            queue.heads.insert((vtime, rank, key, user.clone()));
        }
        if let Some(lanes) = self.users.get_mut(user).and_then(|e| e.get_mut(engine)) {
            lanes.listed = head;
        }
    }

    /// The least (rank, key) over the user's lanes that are not blocked, with its virtual time.
    fn head_of(&self, user: &User, lanes: &UserLanes) -> Option<(i64, Rank, Key)> {
        let vtime = self.vtime.get(user).copied().unwrap_or(self.served);
        let open = lanes.lanes.iter().map(|n| &self.lanes[*n]).filter(|l| !self.is_blocked(&l.lane));
        let head = open.filter_map(|l| l.rows.first_key_value().map(|(at, _)| *at)).min()?;
        Some((vtime, head.0, head.1))
    }

    fn is_blocked(&self, lane: &Lane) -> bool {
        lane.ckey.as_deref().is_some_and(|k| self.key_is_full(k))
    }
}

fn serves(worker: &WorkerRules, engine_type: &str) -> bool {
    worker.engine_types.is_empty() || worker.engine_types.iter().any(|t| t == engine_type)
}

/// How long a grant of `engine` is expected to run, in milliseconds.
impl Queue {
    #[must_use]
    pub fn expected_run(&self, engine: &str) -> Millis {
        self.engines.get(engine).map_or(0, |e| e.run_ms as Millis)
    }
}

#[cfg(test)]
mod tests;
