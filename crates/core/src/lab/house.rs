//! The service of the lab: its queue, gates and workers, and what the policy is shown of them.

use super::policy::Orders;
use super::scenario::{Job, Scenario};
use crate::autoscaler::{Completed, EngineLoad, Observation, PoolCounts, Reach, Running};
use crate::event::{Event, EventData, EventType};
use crate::execution::Lane;
use crate::gate::{GateRules, Gates};
use crate::id::{Key, SessionId};
use crate::limiter::LimiterRules;
use crate::limits::READY_REFILL;
use crate::pool::{self, PoolAction, PoolAim, PoolWorker, WorkerPhase};
use crate::queue::{EndpointRules, EngineRules, Entry, Queue, WorkerRules};
use crate::rank::{HeadStarts, Rank};
use crate::time::{Millis, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the policy has not been shown yet of one engine, and what runs there.
#[derive(Debug, Default)]
struct Load {
    arrivals: [u32; 4],
    completed: Vec<Completed>,
    running: BTreeMap<usize, Running>,
    queued: [u32; 4],
    /// The due rows, as the store would hold them.
    rows: BTreeSet<(Rank, Key)>,
}

#[derive(Debug)]
pub(super) struct House<'a> {
    jobs: &'a [Job],
    slots: u32,
    max_workers: u32,
    startup: Millis,
    pub(super) queue: Queue,
    gates: Gates,
    pub(super) workers: BTreeMap<i64, PoolWorker<i64>>,
    next_worker: i64,
    loads: BTreeMap<Arc<str>, Load>,
    started_up: Vec<Millis>,
    failed_launches: u32,
    head_starts: HeadStarts,
    /// Where each running job runs.
    places: BTreeMap<usize, i64>,
    pub(super) waiting: u32,
    pub(super) busy: u32,
}

/// What is learned of an engine that is not limited.
fn gate_rules(adaptive: bool, engine: LimiterRules, slots: u32) -> GateRules {
    GateRules {
        adaptive,
        max_concurrency: engine.max,
        slots_max: Some(slots),
        endpoints: vec!["lab".to_owned()],
        ..GateRules::default()
    }
}

impl<'a> House<'a> {
    pub(super) fn new(
        scenario: &Scenario,
        jobs: &'a [Job],
        adaptive: bool,
        engine: LimiterRules,
    ) -> House<'a> {
        let mut queue = Queue::new(1);
        let mut gates = Gates::default();
        let mut loads = BTreeMap::new();
        for name in scenario.engines.keys() {
            let endpoints = vec![EndpointRules { weight: 1.0 }];
            queue.set_engine(name, EngineRules { engine_type: name.to_string(), paused: false, endpoints });
            gates.set(name, gate_rules(adaptive, engine, scenario.max_workers * scenario.slots), Time(0));
            loads.insert(name.clone(), Load::default());
        }
        let mut house = House {
            jobs,
            slots: scenario.slots,
            max_workers: scenario.max_workers,
            startup: scenario.startup,
            queue,
            gates,
            workers: BTreeMap::new(),
            next_worker: 0,
            loads,
            started_up: Vec::new(),
            failed_launches: 0,
            head_starts: HeadStarts::default(),
            places: BTreeMap::new(),
            waiting: 0,
            busy: 0,
        };
        for _ in 0..scenario.min_workers {
            let id = house.launch(0);
            house.become_ready(id, 0, false);
        }
        house
    }

    fn launch(&mut self, now: Millis) -> i64 {
        let id = self.next_worker;
        self.next_worker += 1;
        let at = time(now);
        let phase = WorkerPhase::Starting;
        let worker = PoolWorker {
            id,
            phase,
            busy_slots: 0,
            launched: at,
            idle_since: at,
            recycle: false,
            unhealthy: false,
        };
        self.workers.insert(id, worker);
        id
    }

    /// The next worker that becomes ready, and when.
    pub(super) fn next_ready(&self) -> Option<(Millis, i64)> {
        let starting = self.workers.values().filter(|w| w.phase == WorkerPhase::Starting);
        starting.map(|w| (millis(w.launched).saturating_add(self.startup), w.id)).min()
    }

    pub(super) fn become_ready(&mut self, id: i64, now: Millis, measured: bool) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.phase = WorkerPhase::Ready;
            worker.idle_since = time(now);
            if measured {
                self.started_up.push(time(now).since(worker.launched));
            }
            self.queue.set_worker(SessionId(id), open(self.slots, true));
        }
    }

    pub(super) fn arrive(&mut self, job: usize) {
        let arrived = &self.jobs[job];
        let Some(load) = self.loads.get_mut(&arrived.engine) else { return };
        let priority = arrived.priority as usize;
        load.arrivals[priority] += 1;
        load.queued[priority] += 1;
        let (key, rank) = (key(job), self.head_starts.rank(arrived.priority, time(arrived.arrival)));
        load.rows.insert((rank, key));
        self.waiting += 1;
        let entry = Entry { key, rank, priority: arrived.priority, pinned: None, fail_fast: false };
        self.queue.push(&lane(&arrived.engine), entry);
    }

    /// Starts what may start; answers the jobs.
    pub(super) fn start_work(&mut self, now: Millis) -> Vec<usize> {
        let mut started = Vec::new();
        loop {
            while let Some((lane, after)) = self.queue.wants_refill() {
                self.refill(&lane, after);
            }
            let Some(pick) = self.queue.pick(&mut self.gates, time(now)) else { return started };
            let job = usize::try_from(pick.key.0).unwrap_or(0);
            let at = &self.jobs[job];
            let rank = self.head_starts.rank(at.priority, time(at.arrival));
            if let Some(load) = self.loads.get_mut(&at.engine) {
                let running =
                    Running { since: time(now), workflow: at.workflow.clone(), priority: at.priority };
                load.running.insert(job, running);
                load.queued[at.priority as usize] -= 1;
                load.rows.remove(&(rank, pick.key));
            }
            self.waiting -= 1;
            self.busy += 1;
            self.places.insert(job, pick.worker.0);
            if let Some(worker) = self.workers.get_mut(&pick.worker.0) {
                worker.busy_slots += 1;
            }
            started.push(job);
        }
    }

    fn refill(&mut self, lane: &Lane, after: Option<(Rank, Key)>) {
        let entry = |(rank, key): &(Rank, Key)| {
            let priority = self.jobs[usize::try_from(key.0).unwrap_or(0)].priority;
            Entry { key: *key, rank: *rank, priority, pinned: None, fail_fast: false }
        };
        let Some(load) = self.loads.get(lane.engine.as_str()) else { return };
        let mut rows = load.rows.iter().filter(|row| after.is_none_or(|after| **row > after));
        let entries: Vec<Entry> = rows.by_ref().take(READY_REFILL).map(entry).collect();
        let more = rows.next().is_some();
        self.queue.refill(lane, entries, more);
    }

    pub(super) fn end(&mut self, job: usize, now: Millis) {
        let at = &self.jobs[job];
        if let Some(load) = self.loads.get_mut(&at.engine)
            && let Some(run) = load.running.remove(&job)
        {
            let took = time(now).since(run.since);
            load.completed.push(Completed { took, workflow: at.workflow.clone() });
        }
        let kind = EventType::ExecutionCompleted;
        let event = Event { seq: 1, kind, at: time(now), attempt: 1, data: EventData::default() };
        if let Some(gate) = self.gates.get_mut(&at.engine) {
            gate.observe(0, key(job), &event, false, time(now));
        }
        self.queue.release(key(job), time(now), true);
        self.busy -= 1;
        let Some(id) = self.places.remove(&job) else { return };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.busy_slots -= 1;
            if worker.busy_slots == 0 {
                worker.idle_since = time(now);
                if worker.phase == WorkerPhase::Draining {
                    self.remove(id);
                }
            }
        }
    }

    fn remove(&mut self, id: i64) {
        self.workers.remove(&id);
        self.queue.remove_worker(SessionId(id));
    }

    /// Lets time pass for the gates, and shows the policy everything since the last time.
    pub(super) fn observe(&mut self, now: Millis, oldest: Option<Millis>) -> Observation {
        self.gates.tick(time(now));
        self.queue.charge_running(time(now));
        let mut seen = Observation { now: time(now), pool: self.counts(), ..Observation::default() };
        seen.oldest_wait = oldest.map_or(0, |arrival| now.saturating_sub(arrival));
        seen.started_up = std::mem::take(&mut self.started_up);
        seen.failed_launches = std::mem::take(&mut self.failed_launches);
        for (name, load) in &mut self.loads {
            seen.engines.push(EngineLoad {
                name: name.to_string(),
                arrivals: std::mem::take(&mut load.arrivals),
                completed: std::mem::take(&mut load.completed),
                running: load.running.values().cloned().collect(),
                queued: load.queued,
                reach: Reach::of(self.gates.get(name), false, time(now)),
            });
        }
        seen
    }

    fn counts(&self) -> PoolCounts {
        let mut counts = PoolCounts::default();
        for worker in self.workers.values() {
            counts.busy_slots += worker.busy_slots;
            match worker.phase {
                WorkerPhase::Starting => counts.starting.push(worker.launched),
                WorkerPhase::Ready => {
                    counts.ready += 1;
                    counts.busy_ready += worker.busy_slots;
                }
                WorkerPhase::Draining => counts.draining += 1,
            }
        }
        counts
    }

    pub(super) fn carry_out(&mut self, orders: &Orders, now: Millis) {
        let workers: Vec<PoolWorker<i64>> = self.workers.values().copied().collect();
        let aim = PoolAim {
            target: orders.target,
            max: self.max_workers,
            launch_timeout: orders.launch_timeout,
            launch_nothing: !orders.may_launch,
        };
        for action in pool::plan(&workers, aim, time(now)) {
            match action {
                PoolAction::Reinstate(id) => self.turn(id, WorkerPhase::Ready),
                PoolAction::Launch(count) => {
                    for _ in 0..count {
                        self.launch(now);
                    }
                }
                PoolAction::GiveUp(id) => {
                    self.failed_launches += 1;
                    self.remove(id);
                }
                PoolAction::Cancel(id) | PoolAction::Stop(id) => self.remove(id),
                PoolAction::Drain(id) => self.turn(id, WorkerPhase::Draining),
            }
        }
    }

    fn turn(&mut self, id: i64, phase: WorkerPhase) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.phase = phase;
            self.queue.set_worker(SessionId(id), open(self.slots, phase == WorkerPhase::Ready));
        }
    }

    /// Workers ready, starting and draining.
    pub(super) fn phases(&self) -> (u32, u32, u32) {
        let counts = self.counts();
        (counts.ready, u32::try_from(counts.starting.len()).unwrap_or(u32::MAX), counts.draining)
    }
}

fn time(at: Millis) -> Time {
    Time(0).plus(at)
}

fn millis(at: Time) -> Millis {
    at.since(Time(0))
}

fn key(job: usize) -> Key {
    Key(i64::try_from(job).unwrap_or(i64::MAX))
}

fn lane(engine: &str) -> Lane {
    Lane { engine: engine.to_owned(), user: None, ckey: None, retry: false }
}

fn open(capacity: u32, open: bool) -> WorkerRules {
    WorkerRules { capacity, engine_types: Vec::new(), open }
}
