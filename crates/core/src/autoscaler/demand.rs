//! The slots that will be in use at the instant a worker launched now becomes useful.
//!
//! Runs under way survive until then by their age, new ones arrive, and what waits is served by the capacity already
//! ordered; mean and variance add up over engines (Whitt, "Dynamic staffing in a telephone call center", Operations
//! Research Letters 24, 1999). What an engine does not accept is no demand.

use super::decision::EngineFigures;
use super::observation::{EngineLoad, Observation};
use super::rates::ArrivalRate;
use super::rules::ScalingRules;
use crate::run_times::RunTimes;
use crate::time::{SECOND, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Workflows of one engine that have run times of their own, and the runs from which on those are trusted.
const WORKFLOWS_MAX: usize = 16;
const WORKFLOW_RUNS: u64 = 20;
/// Steps of the fluid run.
const FLUID_STEPS: u32 = 6;

/// What was learned of one engine. Its document is at most about 1 kB for each workflow it knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct EngineModel {
    rate: ArrivalRate,
    times: RunTimes,
    workflows: BTreeMap<Arc<str>, RunTimes>,
}

impl EngineModel {
    pub(super) fn rebuild(&mut self) {
        self.times.rebuild();
        self.workflows.values_mut().for_each(RunTimes::rebuild);
    }

    /// Takes in what happened within the last `seconds`.
    pub(super) fn observe(&mut self, load: &EngineLoad, seconds: f64) {
        self.rate.observe(load.arrivals.iter().fold(0, |sum: u32, n| sum.saturating_add(*n)), seconds);
        for run in &load.completed {
            let took = run.took as f64 / SECOND as f64;
            self.times.add(took);
            if let Some(workflow) = &run.workflow {
                self.learn_workflow(workflow, took);
            }
        }
        self.times.refresh();
    }

    /// Arrivals per second, and the mean run time in seconds.
    pub(super) fn arrivals(&self) -> (f64, f64) {
        (self.rate.per_second(), self.times.mean())
    }

    fn learn_workflow(&mut self, workflow: &Arc<str>, took: f64) {
        if !self.workflows.contains_key(workflow) && self.workflows.len() >= WORKFLOWS_MAX {
            let rarest =
                self.workflows.iter().min_by_key(|(_, times)| times.runs).map(|(name, _)| name.clone());
            rarest.and_then(|name| self.workflows.remove(&name));
        }
        let times = self.workflows.entry(workflow.clone()).or_default();
        times.add(took);
        times.refresh();
    }

    fn times_of(&self, workflow: Option<&Arc<str>>) -> &RunTimes {
        let own = workflow.and_then(|name| self.workflows.get(name));
        own.filter(|times| times.runs >= WORKFLOW_RUNS).unwrap_or(&self.times)
    }

    /// The share of runs of this age that last `further` seconds more.
    fn remaining(&self, times: &RunTimes, age: f64, further: f64, ages: bool) -> f64 {
        if ages { times.remaining(age, further) } else { (-further / self.times.mean().max(1e-6)).exp() }
    }
}

/// How far ahead a launch takes effect, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lead {
    pub(super) startup: f64,
    /// How far ahead the forecast has to look; 0 when a worker launched later is still in time.
    pub(super) ahead: f64,
    /// How long a job may simply wait; 0 when the forecast looks ahead.
    pub(super) slack: f64,
    /// The wait that is promised.
    pub(super) promise: f64,
}

impl Lead {
    pub(super) fn new(rules: &ScalingRules, startup_ms: u64) -> Lead {
        let seconds = |ms: u64| ms as f64 / SECOND as f64;
        let startup = seconds(startup_ms);
        let lead = startup + seconds(rules.tick_interval) - rules.slo_share * seconds(rules.slo_wait);
        Lead { startup, ahead: lead.max(0.0), slack: (-lead).max(0.0), promise: seconds(rules.slo_wait) }
    }
}

/// What one engine's jobs do in the fluid run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Flow {
    lambda: f64,
    mean: f64,
    limit: f64,
    /// Runs under way at its beginning, and the share of them that is left after each step.
    old: f64,
    stays: f64,
    /// Jobs that wait, and those of them that were started since.
    waiting: f64,
    new: f64,
}

impl Flow {
    fn new(lambda: f64, mean: f64, limit: f64, waiting: u32, running: u32, survivors: f64) -> Flow {
        let old = f64::from(running);
        let stays = if old > 0.0 { (survivors / old).powf(1.0 / f64::from(FLUID_STEPS)) } else { 0.0 };
        Flow { lambda, mean, limit, old, stays, waiting: waiting.into(), new: 0.0 }
    }

    fn used(&self) -> f64 {
        self.old + self.new
    }

    /// Of what waits, what the engine would take.
    fn asked(&self) -> f64 {
        self.waiting.min((self.limit - self.used()).max(0.0))
    }
}

/// Slots, all engines together.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Demand {
    /// In use, and jobs the engines would accept now.
    pub(super) occupied: u32,
    /// Jobs that wait and that the engines would accept now.
    pub(super) waiting: u32,
    /// Jobs that wait, that the engines would accept, and that the largest pool would not hold.
    pub(super) beyond: u32,
    /// Runs under way that will still run after the lead, and the variance of that with the new ones.
    survivors: f64,
    pub(super) variance: f64,
    /// In use by jobs that are still to arrive.
    arriving: f64,
    /// Waiting jobs that the engines will accept within the lead.
    queue: f64,
    /// Arrivals per second that the engines can absorb, and the slots they hold on average.
    pub(super) lambda: f64,
    flows: Vec<Flow>,
    /// The mean load without what the engines refuse.
    pub(super) load: f64,
    /// Slots expected to free within the promised wait, and within the slack.
    freed_promise: f64,
    freed_slack: f64,
    pub(super) engines: Vec<EngineFigures>,
}

impl Demand {
    /// Adds up the engines.
    pub(super) fn of(
        rules: &ScalingRules,
        models: &BTreeMap<String, EngineModel>,
        seen: &Observation,
        lead: Lead,
    ) -> Demand {
        let mut demand = Demand::default();
        let unknown = EngineModel::default();
        for load in &seen.engines {
            demand.add(rules, models.get(&load.name).unwrap_or(&unknown), load, seen.now, lead);
        }
        demand
    }

    fn add(&mut self, rules: &ScalingRules, model: &EngineModel, load: &EngineLoad, now: Time, lead: Lead) {
        let reach = load.reach;
        // More than the pool can ever hold is planned for as if it were full.
        let most = f64::from(rules.max_workers) * f64::from(rules.worker_capacity);
        let limit = if reach.parked {
            0.0
        } else if rules.parts.limiter {
            reach.limit.map_or(most, |limit| f64::from(limit).min(most))
        } else {
            most
        };
        let ages = rules.parts.job_ages;
        let (mut survivors, mut variance, mut freed) = (0.0, 0.0, 0.0);
        for run in &load.running {
            let times = model.times_of(run.workflow.as_ref());
            let age = now.since(run.since) as f64 / SECOND as f64;
            let stays = |span: f64| model.remaining(times, age, span, ages);
            let survives = if lead.ahead > 0.0 { stays(lead.ahead) } else { 1.0 };
            survivors += survives;
            variance += survives * (1.0 - survives);
            self.freed_promise += 1.0 - stays(lead.promise);
            if lead.slack > 0.0 {
                freed += 1.0 - stays(lead.slack);
            }
        }
        let running = u32::try_from(load.running.len()).unwrap_or(u32::MAX);
        let queued = load.queued_total();
        let mean = model.times.mean().max(1e-3);
        let rate = model.rate.per_second();
        // An engine never absorbs more than its limit.
        let lambda = rate.min(limit / mean);
        let arriving = if lead.ahead > 0.0 {
            (lambda * model.times.mean_within(lead.ahead)).min((limit - survivors).max(0.0))
        } else {
            0.0
        };
        let room = (limit - f64::from(running)).max(0.0) as u32;
        let admissible = queued.min(room);
        if !reach.parked {
            let room = reach.limit.map_or(u32::MAX, |limit| limit.saturating_sub(running));
            self.beyond = self.beyond.saturating_add(queued.min(room).saturating_sub(admissible));
        }
        let queue = if lead.ahead > 0.0 {
            f64::from(queued).min((limit - survivors).max(0.0))
        } else {
            // What frees in time is taken by what waits next, also where the engine takes no more at once.
            f64::from(queued).min((limit - (f64::from(running) - freed)).max(0.0))
        };
        self.freed_slack += freed;
        self.occupied = self.occupied.saturating_add(running).saturating_add(admissible);
        self.waiting = self.waiting.saturating_add(admissible);
        self.survivors += survivors;
        self.variance += variance + arriving;
        self.arriving += arriving;
        self.queue += queue;
        self.lambda += lambda;
        let waiting = if reach.parked { 0 } else { queued };
        self.flows.push(Flow::new(lambda, mean, limit, waiting, running, survivors));
        self.load += (rate * mean).min(limit);
        self.engines.push(EngineFigures {
            name: load.name.clone(),
            running,
            queued,
            admissible,
            limit: reach.limit,
            speed: reach.speed,
            parked: reach.parked,
            lambda: rate,
            mean_run_s: mean,
            expected: survivors + arriving + queue,
        });
    }

    /// Slots wanted where a worker launched later would still be in time: those in use, and for jobs that no slot frees
    /// for in time.
    pub(super) fn at_once(&self, busy: u32) -> f64 {
        f64::from(busy) + (self.queue - self.freed_slack).max(0.0)
    }

    /// Expected slots in use, or asked for, after the lead.
    pub(super) fn expected(&self, seen: &Observation, slots: f64, lead: Lead) -> f64 {
        if self.queue <= 0.5 {
            // Where no one waits the formula of infinitely many servers is exact.
            return self.survivors + self.arriving;
        }
        let step = lead.ahead / f64::from(FLUID_STEPS);
        let mut flows = self.flows.clone();
        for at in 1..=FLUID_STEPS {
            for flow in &mut flows {
                flow.old *= flow.stays;
                flow.new *= (-step / flow.mean).exp();
                flow.waiting += flow.lambda * step;
            }
            let used: f64 = flows.iter().map(Flow::used).sum();
            let asked: f64 = flows.iter().map(Flow::asked).sum();
            let then = f64::from(at) * step;
            let age_then = |launched: &Time| seen.now.since(*launched) as f64 / SECOND as f64 + then;
            let started = seen.pool.starting.iter().filter(|at| age_then(at) >= lead.startup).count();
            let capacity = (f64::from(seen.pool.ready) + started as f64) * slots;
            // Free slots go to the engines in proportion to what each would take.
            let share = if asked > 0.0 { ((capacity - used) / asked).clamp(0.0, 1.0) } else { 0.0 };
            for flow in &mut flows {
                let served = flow.asked() * share;
                flow.new += served;
                flow.waiting -= served;
            }
        }
        let wanted: f64 = flows.iter().map(|flow| flow.used() + flow.asked()).sum();
        // One more job that waits must not make the forecast smaller than it was without.
        wanted.max(self.survivors + self.arriving)
    }

    /// The share of the busy slots that free within the promised wait, so that a job can wait for one.
    pub(super) fn freeing(&self, busy: u32) -> f64 {
        if busy == 0 { 0.0 } else { (self.freed_promise / f64::from(busy)).clamp(0.0, 1.0) }
    }
}
