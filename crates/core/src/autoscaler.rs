//! How many workers there should be, and why.
//!
//! The lead-time policy forecasts the slots that will be in use when a worker launched now becomes useful, adds headroom
//! only while one more slot pays, keeps what was needed a moment ago for about one start-up time, learns demand that
//! recurs, holds workers for bursts where that pays, and leaves out what the engines would not accept. With a long start-up it is square-root staffing, with none
//! it is one slot per job. The threshold policy grows and shrinks by utilization alone. The policy was measured against
//! ten others (`docs/decisions/013-auto-scaler.md`).
//!
//! Invariants: the target lies within the bounds; the same observations give the same decisions; forecasts only raise the
//! target; all that is kept has a bound and is finite. The caller carries a decision out with [`pool::plan`](crate::pool::plan).

mod decision;
mod demand;
mod guards;
mod normal;
mod observation;
mod rates;
mod reason;
mod recurrence;
mod rules;
mod standby;
mod startup;
mod target;
mod window;
mod wish;

pub use decision::{Decision, EngineFigures, Figures, Rule, ScalingAction};
pub use observation::{Completed, EngineLoad, Observation, PoolCounts, Reach, Resources, Running};
pub use rules::{Guards, LateFactors, Parts, Policy, Predict, RuleError, ScalingRules};

use crate::time::{Millis, SECOND, Time};
use demand::{Demand, EngineModel, Lead};
use guards::Needs;
use recurrence::Recurrence;
use serde::{Deserialize, Serialize};
use standby::{Standby, Terms};
use startup::Startup;
use std::collections::BTreeMap;
use target::Damping;
use window::WindowMax;

/// Engines that something is remembered of.
const ENGINES_MAX: usize = 64;
/// Without a memory of the time before nothing is taken away for at least this long.
const RESTART_HOLD: Millis = 60 * SECOND;
/// Time constant of what a late arrival costs on average, in seconds.
const FACTOR_S: f64 = 180.0;

/// See the module's text. It is given as it is to [`Autoscaler::snapshot`].
#[derive(Debug, Clone)]
pub struct Autoscaler {
    rules: ScalingRules,
    memory: Memory,
    last_step: Option<Time>,
    /// Until then nothing is taken away; `None` with a restored memory.
    hold_until: Option<Time>,
    restored: bool,
}

/// What outlives a restart. As JSON it is about 2 kB for each engine, 1 kB for each workflow (at most 16 an engine and 64
/// engines), a few kB of shadow pools, and up to 100 kB of demand history, which is run-length coded and mostly far smaller.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Memory {
    engines: BTreeMap<String, EngineModel>,
    startup: Startup,
    recurrence: Recurrence,
    needs: Needs,
    #[serde(default)]
    standby: Standby,
    wants: WindowMax,
    occupied: WindowMax,
    damping: Damping,
    /// What a late job costs on average, as a multiple of the price.
    late_factor: Option<f64>,
}

/// An auto-scaler's memory as it is to be stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoscalerDoc {
    version: u32,
    last_step: Option<Time>,
    memory: Memory,
}

const DOC_VERSION: u32 = 1;

impl Autoscaler {
    /// One that knows nothing; for a while it takes nothing away.
    #[must_use]
    pub fn new(rules: ScalingRules) -> Autoscaler {
        Autoscaler { rules, memory: Memory::default(), last_step: None, hold_until: None, restored: false }
    }

    #[must_use]
    pub fn rules(&self) -> &ScalingRules {
        &self.rules
    }

    /// Takes up other rules; what was learned stays.
    pub fn set_rules(&mut self, rules: ScalingRules) {
        self.rules = rules;
    }

    #[must_use]
    pub fn snapshot(&self) -> AutoscalerDoc {
        AutoscalerDoc { version: DOC_VERSION, last_step: self.last_step, memory: self.memory.clone() }
    }

    /// Says that there was no time before this start, so that nothing is held for what may be forgotten of it.
    pub fn begins(&mut self) {
        self.restored = true;
    }

    /// Goes on where a snapshot was taken. One of another version is left alone, and the auto-scaler starts afresh.
    pub fn restore(&mut self, doc: AutoscalerDoc) {
        if doc.version != DOC_VERSION {
            return;
        }
        self.memory = doc.memory;
        self.memory.engines.values_mut().for_each(EngineModel::rebuild);
        self.last_step = doc.last_step;
        self.hold_until = None;
        self.restored = true;
    }

    /// The start-up time in force: learned, or as configured.
    #[must_use]
    pub fn startup_time(&self) -> Millis {
        let first = self.rules.worker_startup_time;
        if self.rules.parts.learned_startup { self.memory.startup.time(first) } else { first }
    }

    /// Scheduled work that comes due within this span is what [`Observation::due_soon`] counts.
    #[must_use]
    pub fn due_span(&self) -> Millis {
        self.startup_time().saturating_add(self.rules.tick_interval)
    }

    /// A launch that takes longer has failed, and is to be given up.
    #[must_use]
    pub fn launch_timeout(&self) -> Millis {
        self.memory.startup.timeout(self.rules.worker_startup_time)
    }

    /// Decides again. To be called once per tick, and in between when a job finds no free slot.
    pub fn step(&mut self, seen: &Observation) -> Decision {
        let now = self.last_step.map_or(seen.now, |last| last.max(seen.now));
        let seconds = self.last_step.map_or(0.0, |last| now.since(last) as f64 / SECOND as f64);
        self.last_step = Some(now);
        if self.hold_until.is_none() && !self.restored {
            self.hold_until = Some(now.plus(self.rules.retention.max(RESTART_HOLD)));
        }
        self.learn(seen, now, seconds);
        let lead = Lead::new(&self.rules, self.startup_time());
        let demand = Demand::of(&self.rules, &self.memory.engines, seen, lead);
        self.learn_standby(seen, now, seconds, lead);
        self.decide(seen, now, lead, demand)
    }

    fn learn(&mut self, seen: &Observation, now: Time, seconds: f64) {
        let first = self.rules.worker_startup_time;
        let memory = &mut self.memory;
        memory.startup.observe(&seen.started_up, seen.failed_launches, now);
        memory.startup.observe_overdue(&seen.pool.starting, first, now);
        if seen.stale {
            return;
        }
        for load in &seen.engines {
            if !memory.engines.contains_key(&load.name) && memory.engines.len() >= ENGINES_MAX {
                memory.engines.retain(|name, _| seen.engines.iter().any(|engine| engine.name == *name));
                if memory.engines.len() >= ENGINES_MAX {
                    continue;
                }
            }
            let model = memory.engines.entry(load.name.clone()).or_default();
            model.observe(load, seconds);
        }
        if let Some(resources) = &seen.resources {
            memory.needs.observe(resources, seconds);
        }
        memory.learn_late_factor(seen, self.rules.late_factors.all(), seconds);
    }

    /// Finds out what is worth holding, where a worker launched later would come too late.
    fn learn_standby(&mut self, seen: &Observation, now: Time, seconds: f64, lead: Lead) {
        let rules = &self.rules;
        if rules.policy != Policy::LeadTime || lead.ahead <= 0.0 || !rules.parts.standby {
            self.memory.standby = Standby::default();
            return;
        }
        if seen.stale {
            return;
        }
        let (mut arrivals, mut slots, mut rate, mut load) = (0u32, 0u32, 0.0, 0.0);
        for engine in seen.engines.iter().filter(|engine| !engine.reach.parked) {
            arrivals = engine.arrivals.iter().fold(arrivals, |sum, n| sum.saturating_add(*n));
            let limit = engine.reach.limit.filter(|_| rules.parts.limiter);
            slots = slots.saturating_add(limit.unwrap_or(u32::MAX));
            let (per_second, mean) =
                self.memory.engines.get(&engine.name).map_or((0.0, 0.0), EngineModel::arrivals);
            rate += per_second;
            load += per_second * mean;
        }
        let capacity = rules.worker_capacity.max(1);
        let terms = Terms {
            min_workers: rules.min_workers,
            max_workers: rules.max_workers,
            capacity: f64::from(capacity),
            startup_s: lead.startup,
            slo_wait: rules.slo_wait,
            late_cost: self.late_cost(),
            mean_s: if rate > 0.0 { load / rate } else { 0.0 },
        };
        self.memory.standby.step(now, seconds, arrivals, slots.div_ceil(capacity), &terms);
    }

    /// What one late job costs, in seconds of one worker.
    fn late_cost(&self) -> f64 {
        self.rules.late_cost * self.memory.late_factor.unwrap_or(1.0)
    }
}

impl Memory {
    fn learn_late_factor(&mut self, seen: &Observation, factors: [f64; 4], seconds: f64) {
        let counts = seen.engines.iter().flat_map(|engine| engine.arrivals.iter().zip(factors));
        let (weighted, total) = counts.fold((0.0, 0.0), |(weighted, total), (count, factor)| {
            (weighted + f64::from(*count) * factor, total + f64::from(*count))
        });
        if total <= 0.0 {
            return;
        }
        let now = weighted / total;
        // Each arrival counts for its share of the time constant, so that a busy second does not weigh as a quiet one.
        let share = 1.0 - (-seconds.max(1.0) / FACTOR_S).exp();
        self.late_factor = Some(self.late_factor.map_or(now, |before| before + share * (now - before)));
    }
}

#[cfg(test)]
mod tests;
