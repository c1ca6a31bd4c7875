//! A small service around the real policy and the real pool plan: jobs, workers and engines on a clock of its own, with
//! faults on demand. What must hold after every step is checked in it, and written down where it does not.

use super::super::*;
use crate::execution::Priority;
use crate::pool::{self, PoolAction, PoolAim, PoolWorker, WorkerPhase};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Running { worker: u32, since: i64, ends: i64 },
}

#[derive(Debug, Clone)]
struct Job {
    engine: usize,
    run_ms: i64,
    state: State,
}

#[derive(Debug, Clone)]
struct Worker {
    pool: PoolWorker<u32>,
    /// `None`: its launch has failed and it will never be ready.
    ready_at: Option<i64>,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) rules: ScalingRules,
    pub(super) autoscaler: Autoscaler,
    /// Is put away and taken up again before each step, and must decide the same.
    twin: Option<Autoscaler>,
    /// True time, and what the clock is off by.
    now: i64,
    pub(super) skew: i64,
    startup: i64,
    workers: BTreeMap<u32, Worker>,
    next_worker: u32,
    /// Those that have not ended.
    jobs: BTreeMap<usize, Job>,
    arrived: usize,
    ended: usize,
    waiting: VecDeque<usize>,
    pub(super) reaches: Vec<Reach>,
    arrivals: Vec<[u32; 4]>,
    completed: Vec<Vec<Completed>>,
    started_up: Vec<Millis>,
    failed_launches: u32,
    pub(super) launches_fail: bool,
    pub(super) memory: Option<f64>,
    pub(super) stale: bool,
    pub(super) last: Option<Decision>,
    pub(super) launched: u32,
    /// What did not hold.
    pub(super) broken: Vec<String>,
}

pub(super) const ENGINES: usize = 2;

impl World {
    pub(super) fn new(rules: ScalingRules, startup: Millis) -> World {
        rules.check().expect("the rules make sense");
        let mut world = World {
            autoscaler: Autoscaler::new(rules.clone()),
            twin: None,
            now: 1_000_000_000,
            skew: 0,
            startup: i64::try_from(startup).unwrap_or(0),
            workers: BTreeMap::new(),
            next_worker: 0,
            jobs: BTreeMap::new(),
            arrived: 0,
            ended: 0,
            waiting: VecDeque::new(),
            reaches: vec![Reach::default(); ENGINES],
            arrivals: vec![[0; 4]; ENGINES],
            completed: vec![Vec::new(); ENGINES],
            started_up: Vec::new(),
            failed_launches: 0,
            launches_fail: false,
            memory: None,
            stale: false,
            last: None,
            launched: 0,
            broken: Vec::new(),
            rules,
        };
        for _ in 0..world.rules.min_workers {
            world.launch();
        }
        world
    }

    pub(super) fn with_twin(mut self) -> World {
        self.twin = Some(self.autoscaler.clone());
        self
    }

    fn wall(&self) -> Time {
        Time(self.now + self.skew)
    }

    fn launch(&mut self) {
        let (id, at) = (self.next_worker, self.wall());
        self.next_worker += 1;
        self.launched += 1;
        let pool = PoolWorker {
            id,
            phase: WorkerPhase::Starting,
            busy_slots: 0,
            launched: at,
            idle_since: at,
            recycle: false,
            unhealthy: false,
        };
        let ready_at = (!self.launches_fail).then_some(self.now + self.startup);
        self.workers.insert(id, Worker { pool, ready_at });
    }

    pub(super) fn arrive(&mut self, engine: usize, count: u32, run_ms: i64) {
        for _ in 0..count {
            self.waiting.push_back(self.arrived);
            self.jobs.insert(self.arrived, Job { engine, run_ms, state: State::Waiting });
            self.arrived += 1;
            self.arrivals[engine][Priority::Normal as usize] += 1;
        }
        self.start_work();
    }

    /// The worker is gone at once, and its jobs wait again.
    pub(super) fn crash(&mut self, pick: usize) {
        let Some(id) = self.workers.keys().nth(pick % self.workers.len().max(1)).copied() else { return };
        self.workers.remove(&id);
        for (at, job) in &mut self.jobs {
            if matches!(job.state, State::Running { worker, .. } if worker == id) {
                job.state = State::Waiting;
                self.waiting.push_front(*at);
            }
        }
    }

    /// A new process: with the memory of the old one, or with none.
    pub(super) fn restart(&mut self, with_memory: bool) {
        let doc = self.autoscaler.snapshot();
        self.autoscaler = Autoscaler::new(self.rules.clone());
        if with_memory {
            self.autoscaler.restore(doc);
        }
        self.twin = self.twin.as_ref().map(|_| self.autoscaler.clone());
    }

    pub(super) fn heal(&mut self) {
        (self.launches_fail, self.memory, self.stale) = (false, None, false);
        self.reaches = vec![Reach::default(); ENGINES];
    }

    pub(super) fn unfinished(&self) -> usize {
        self.arrived - self.ended
    }

    pub(super) fn count(&self, phase: WorkerPhase) -> u32 {
        u32::try_from(self.workers.values().filter(|w| w.pool.phase == phase).count()).unwrap_or(u32::MAX)
    }

    /// What the policy is shown.
    pub(super) fn observation(&self) -> Observation {
        let mut pool = PoolCounts::default();
        for worker in self.workers.values() {
            pool.busy_slots += worker.pool.busy_slots;
            match worker.pool.phase {
                WorkerPhase::Starting => pool.starting.push(worker.pool.launched),
                WorkerPhase::Ready => {
                    pool.ready += 1;
                    pool.busy_ready += worker.pool.busy_slots;
                }
                WorkerPhase::Draining => pool.draining += 1,
            }
        }
        let engine = |at: usize| {
            let here = |job: &&Job| job.engine == at;
            let running = |job: &Job| match job.state {
                State::Running { since, .. } => Some(Running {
                    since: Time(since + self.skew),
                    workflow: None,
                    priority: Priority::Normal,
                }),
                State::Waiting => None,
            };
            let waits = self.jobs.values().filter(here).filter(|job| job.state == State::Waiting).count();
            EngineLoad {
                name: format!("engine-{at}"),
                arrivals: self.arrivals[at],
                completed: self.completed[at].clone(),
                running: self.jobs.values().filter(here).filter_map(running).collect(),
                queued: [0, u32::try_from(waits).unwrap_or(u32::MAX), 0, 0],
                reach: self.reaches[at],
            }
        };
        let ready = pool.ready;
        Observation {
            now: self.wall(),
            pool,
            engines: (0..ENGINES).map(engine).collect(),
            started_up: self.started_up.clone(),
            failed_launches: self.failed_launches,
            resources: self.memory.map(|share| Resources {
                memory_limit: Some(1_000_000),
                memory_used: (share * 1e6) as u64,
                workers_measured: ready,
                ..Resources::default()
            }),
            stale: self.stale,
            ..Observation::default()
        }
    }

    /// One tick passes: what ends ends, the policy decides, the plan is carried out, and work starts.
    pub(super) fn tick(&mut self) {
        self.now += i64::try_from(self.rules.tick_interval).unwrap_or(1_000);
        self.end_work();
        self.get_ready();
        // Free slots are given out at once, between two decisions too.
        self.start_work();
        let seen = self.observation();
        self.arrivals = vec![[0; 4]; ENGINES];
        self.completed = vec![Vec::new(); ENGINES];
        self.started_up.clear();
        self.failed_launches = 0;
        let decision = self.autoscaler.step(&seen);
        self.check_twin(&seen, &decision);
        self.check_decision(&decision);
        self.carry_out(&decision);
        self.start_work();
        self.last = Some(decision);
    }

    fn end_work(&mut self) {
        let now = self.now;
        let over = |job: &Job| matches!(job.state, State::Running { ends, .. } if ends <= now);
        let over: Vec<usize> = self.jobs.iter().filter(|(_, job)| over(job)).map(|(at, _)| *at).collect();
        for at in over {
            let Some(Job { engine, state: State::Running { worker, since, ends }, .. }) =
                self.jobs.remove(&at)
            else {
                continue;
            };
            self.ended += 1;
            let took = u64::try_from(ends - since).unwrap_or(0);
            self.completed[engine].push(Completed { took, workflow: None });
            let idle_since = self.wall();
            let Some(here) = self.workers.get_mut(&worker) else {
                self.broken.push(format!("job {at} ended on worker {worker}, which is gone"));
                continue;
            };
            here.pool.busy_slots -= 1;
            here.pool.idle_since = idle_since;
            if here.pool.busy_slots == 0 && here.pool.phase == WorkerPhase::Draining {
                self.workers.remove(&worker);
            }
        }
    }

    fn get_ready(&mut self) {
        for worker in self.workers.values_mut().filter(|w| w.pool.phase == WorkerPhase::Starting) {
            if worker.ready_at.is_some_and(|at| at <= self.now) {
                worker.pool.phase = WorkerPhase::Ready;
                worker.pool.idle_since = Time(self.now + self.skew);
                self.started_up.push(u64::try_from(self.startup).unwrap_or(0));
            }
        }
    }

    fn start_work(&mut self) {
        let mut running = [0u32; ENGINES];
        for job in self.jobs.values() {
            running[job.engine] += u32::from(matches!(job.state, State::Running { .. }));
        }
        let mut left = VecDeque::new();
        while let Some(at) = self.waiting.pop_front() {
            let Some(job) = self.jobs.get_mut(&at) else {
                self.broken.push(format!("job {at} waits and has ended"));
                continue;
            };
            let engine = job.engine;
            let reach = self.reaches[engine];
            let closed = reach.parked || reach.limit.is_some_and(|limit| running[engine] >= limit);
            let slots = self.rules.worker_capacity;
            let open = |w: &&mut Worker| w.pool.phase == WorkerPhase::Ready && w.pool.busy_slots < slots;
            let free = self.workers.values_mut().filter(open).max_by_key(|w| w.pool.busy_slots);
            let Some(worker) = free.filter(|_| !closed) else {
                left.push_back(at);
                continue;
            };
            worker.pool.busy_slots += 1;
            running[engine] += 1;
            let ends = self.now + (job.run_ms as f64 / reach.speed.max(0.01)) as i64;
            if job.state != State::Waiting {
                self.broken.push(format!("job {at} is started twice"));
            }
            job.state = State::Running { worker: worker.pool.id, since: self.now, ends };
        }
        self.waiting = left;
    }

    fn check_twin(&mut self, seen: &Observation, decision: &Decision) {
        let Some(twin) = self.twin.take() else { return };
        let doc = serde_json::to_value(twin.snapshot()).expect("it is stored");
        let mut next = Autoscaler::new(self.rules.clone());
        next.hold_until = twin.hold_until;
        next.restore(serde_json::from_value(doc).expect("and read"));
        // A process without a memory holds its workers for a while; that is no memory of its own.
        (next.hold_until, next.restored) = (twin.hold_until, twin.restored);
        let other = next.step(seen);
        if other != *decision {
            self.broken.push(format!("taken up again: {other:?}\n  and without: {decision:?}"));
        }
        self.twin = Some(next);
    }

    fn check_decision(&mut self, decision: &Decision) {
        let (least, most) = (self.rules.min_workers, self.rules.max_workers);
        let (target, current) = (decision.target, decision.current);
        let memory = self.memory;
        let mut broken = |holds: bool, what: &str| {
            if !holds {
                self.broken.push(format!("{what}: {decision:?}"));
            }
        };
        broken((least..=most).contains(&target), "the target is out of bounds");
        let computed = decision.figures.computed.clamp(least, most);
        let guarded = matches!(decision.rule, Rule::GuardMemory | Rule::GuardPressure);
        broken(guarded || target >= current.min(computed), "a decrease is larger than computed");
        let held = decision.rule == Rule::DownCooldown && computed > current && memory.is_none();
        broken(!held, "an increase waits for a decrease's cooldown");
        let f = &decision.figures;
        let numbers = [f.expected, f.variance, f.want, f.lambda, f.load, f.lead_s, f.slack_s, f.recurring];
        let engines = f.engines.iter().flat_map(|e| [e.lambda, e.mean_run_s, e.expected, e.speed]);
        let sound = numbers.into_iter().chain(engines).all(|n| n.is_finite() && n >= 0.0);
        broken(sound, "a figure is not a number from 0 on");
        broken((0.0..=1.0).contains(&decision.confidence), "the confidence is no probability");
    }

    fn carry_out(&mut self, decision: &Decision) {
        let workers: Vec<PoolWorker<u32>> = self.workers.values().map(|w| w.pool).collect();
        let aim = PoolAim {
            target: decision.target,
            max: self.rules.max_workers,
            launch_timeout: self.autoscaler.launch_timeout(),
            launch_nothing: !decision.may_launch,
        };
        for action in pool::plan(&workers, aim, self.wall()) {
            let phase = |id: u32| self.workers.get(&id).map(|w| (w.pool.phase, w.pool.busy_slots));
            match action {
                PoolAction::Launch(count) => {
                    if self.memory.is_some_and(|share| share > self.rules.guards.mem_soft) {
                        self.broken.push(format!("{count} launched while memory is short"));
                    }
                    (0..count).for_each(|_| self.launch());
                }
                PoolAction::Reinstate(id) => self.turn(id, WorkerPhase::Ready),
                PoolAction::Drain(id) => self.turn(id, WorkerPhase::Draining),
                PoolAction::Stop(id) => {
                    if phase(id) != Some((WorkerPhase::Ready, 0)) {
                        self.broken.push(format!("stopped while it was {:?}", phase(id)));
                    }
                    self.workers.remove(&id);
                }
                PoolAction::Cancel(id) | PoolAction::GiveUp(id) => {
                    if phase(id) != Some((WorkerPhase::Starting, 0)) {
                        self.broken.push(format!("given up while it was {:?}", phase(id)));
                    }
                    self.failed_launches += u32::from(matches!(action, PoolAction::GiveUp(_)));
                    self.workers.remove(&id);
                }
            }
        }
        let exist = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        if exist > self.rules.max_workers {
            self.broken.push(format!("{exist} workers exist"));
        }
    }

    fn turn(&mut self, id: u32, phase: WorkerPhase) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.pool.phase = phase;
        }
    }
}
