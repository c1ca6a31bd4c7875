//! The loop over virtual time.

use super::engine::LabEngine;
use super::house::House;
use super::policy::LabPolicy;
use super::scenario::{Job, Scenario, ScenarioError};
use crate::autoscaler::Decision;
use crate::limiter::LimiterRules;
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// When a job started and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobTimes {
    pub start: Millis,
    pub finish: Millis,
}

/// The state right after the policy acted.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    pub at: Millis,
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub target: u32,
    pub busy_slots: u32,
    pub queued: u32,
    pub decision: Option<Box<Decision>>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LabRun {
    /// In the order of the trace.
    pub jobs: Vec<JobTimes>,
    pub ticks: Vec<Tick>,
    /// The horizon, or the end of the last job if that is later.
    pub end: Millis,
}

/// The part of a tick that is waited for more work once a job found no free slot, before the policy looks between ticks.
pub const GATHER: u32 = 4;

/// Ticks after the horizon before a run is given up: a policy may refuse to start what is left.
const OVERTIME_TICKS_MAX: u64 = 1_000_000;

/// Runs the trace. `adaptive`: endpoints have their adaptive limit, by the rules of `engine`; `keep_decisions`: they are
/// kept in the ticks, which takes memory.
pub fn run(
    scenario: &Scenario,
    jobs: &[Job],
    policy: &mut dyn LabPolicy,
    adaptive: bool,
    engine: LimiterRules,
    keep_decisions: bool,
) -> Result<LabRun, ScenarioError> {
    scenario.check(jobs)?;
    let mut lab = Lab::new(scenario, jobs, adaptive, engine);
    let mut next_tick: Millis = 0;
    let give_up = scenario.horizon.saturating_add(OVERTIME_TICKS_MAX.saturating_mul(scenario.tick));
    loop {
        let look = lab.look_at.map_or(next_tick, |at| at.min(next_tick));
        let now = lab.next_event().map_or(look, |at| at.min(look));
        if lab.happen(now) {
            continue;
        }
        if lab.done == jobs.len() && now >= scenario.horizon {
            break;
        }
        if now >= give_up {
            let left = jobs.len() - lab.done;
            return Err(ScenarioError(format!(
                "{left} jobs have not ended {OVERTIME_TICKS_MAX} ticks after the horizon"
            )));
        }
        lab.look_at = None;
        lab.act(policy, now, scenario, keep_decisions);
        next_tick = now + scenario.tick;
        lab.start_work(now);
    }
    let last = lab.times.iter().map(|times| times.finish).max().unwrap_or(0);
    Ok(LabRun { jobs: lab.times, ticks: lab.ticks, end: scenario.horizon.max(last) })
}

struct Lab<'a> {
    scenario: &'a Scenario,
    jobs: &'a [Job],
    house: House<'a>,
    engines: BTreeMap<Arc<str>, LabEngine>,
    /// Indexes of the scenario's changes in the order of time.
    changes: Vec<usize>,
    next_change: usize,
    next_job: usize,
    /// Arrivals of jobs that wait, the oldest first.
    unstarted: BTreeSet<(Millis, usize)>,
    times: Vec<JobTimes>,
    ticks: Vec<Tick>,
    done: usize,
    /// When the policy looks although no tick is due.
    look_at: Option<Millis>,
}

impl<'a> Lab<'a> {
    fn new(scenario: &'a Scenario, jobs: &'a [Job], adaptive: bool, engine: LimiterRules) -> Lab<'a> {
        let mut changes: Vec<usize> = (0..scenario.changes.len()).collect();
        changes.sort_by_key(|at| (scenario.changes[*at].at, *at));
        Lab {
            scenario,
            jobs,
            house: House::new(scenario, jobs, adaptive, engine),
            engines: scenario
                .engines
                .iter()
                .map(|(name, shape)| (name.clone(), LabEngine::new(*shape)))
                .collect(),
            changes,
            next_change: 0,
            next_job: 0,
            unstarted: BTreeSet::new(),
            times: vec![JobTimes::default(); jobs.len()],
            ticks: Vec::new(),
            done: 0,
            look_at: None,
        }
    }

    fn change_at(&self) -> Option<Millis> {
        self.changes.get(self.next_change).map(|at| self.scenario.changes[*at].at)
    }

    fn arrival_at(&self) -> Option<Millis> {
        self.jobs.get(self.next_job).map(|job| job.arrival)
    }

    /// When something other than a tick happens next.
    fn next_event(&self) -> Option<Millis> {
        let ends = self.engines.values().filter_map(LabEngine::next_end).min();
        let ready = self.house.next_ready().map(|(at, _)| at);
        [self.change_at(), ends, ready, self.arrival_at()].into_iter().flatten().min()
    }

    /// Lets the first thing that is due by now happen, in the order of the physics; `false` when nothing is.
    fn happen(&mut self, now: Millis) -> bool {
        if self.change_at().is_some_and(|at| at <= now) {
            let change = &self.scenario.changes[self.changes[self.next_change]];
            self.next_change += 1;
            if let Some(engine) = self.engines.get_mut(&change.engine) {
                engine.change(change, now);
            }
            return true;
        }
        let due = self.engines.values_mut().find(|engine| engine.next_end().is_some_and(|at| at <= now));
        if let Some(job) = due.and_then(|engine| engine.end_one(now)) {
            self.times[job].finish = now;
            self.done += 1;
            self.house.end(job, now);
            self.start_work(now);
            return true;
        }
        if let Some((_, id)) = self.house.next_ready().filter(|(at, _)| *at <= now) {
            self.house.become_ready(id, now, true);
            self.start_work(now);
            return true;
        }
        if self.arrival_at().is_some_and(|at| at <= now) {
            self.unstarted.insert((now, self.next_job));
            self.house.arrive(self.next_job);
            self.next_job += 1;
            self.start_work(now);
            return true;
        }
        false
    }

    fn start_work(&mut self, now: Millis) {
        if self.house.waiting == 0 {
            return;
        }
        for job in self.house.start_work(now) {
            self.times[job].start = now;
            self.unstarted.remove(&(self.jobs[job].arrival, job));
            if let Some(engine) = self.engines.get_mut(&self.jobs[job].engine) {
                engine.start(job, self.jobs[job].service_s, now);
            }
        }
        if self.scenario.between_ticks && self.look_at.is_none() && self.house.queue.is_short_of_slots() {
            self.look_at = Some(now + self.scenario.tick / u64::from(GATHER));
        }
    }

    fn act(&mut self, policy: &mut dyn LabPolicy, now: Millis, scenario: &Scenario, keep_decisions: bool) {
        let oldest = self.unstarted.first().map(|(arrival, _)| *arrival);
        let seen = self.house.observe(now, oldest);
        let mut orders = policy.step(&seen);
        orders.target = orders.target.min(scenario.max_workers).max(scenario.min_workers);
        self.house.carry_out(&orders, now);
        let (ready, starting, draining) = self.house.phases();
        self.ticks.push(Tick {
            at: now,
            ready,
            starting,
            draining,
            target: orders.target,
            busy_slots: self.house.busy,
            queued: self.house.waiting,
            decision: orders.decision.filter(|_| keep_decisions).map(Box::new),
        });
    }
}
