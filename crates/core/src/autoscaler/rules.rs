//! What an auto-scaler goes by: bounds, thresholds, prices, and which parts of the policy are in use.

use crate::limiter::LimiterRules;
use crate::limits::{SCALED_WORKERS_MAX, WORKER_CAPACITY_MAX};
use crate::time::{DAY, MINUTE, Millis, SECOND};
use serde::{Deserialize, Serialize};

/// How the number of workers is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Forecasts the slots in use at the instant a worker launched now becomes useful.
    #[default]
    LeadTime,
    /// Grows above one utilization and shrinks below another.
    Threshold,
}

impl Policy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::LeadTime => "lead_time",
            Policy::Threshold => "threshold",
        }
    }
}

/// What is done with demand that comes back after a fixed period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    /// It is learned, and once its announcements came true, workers are launched for them.
    #[default]
    On,
    /// It is learned and shown in the decisions, and nothing is launched for it.
    Shadow,
    /// It is not learned.
    Off,
}

/// What a late job of each priority costs, as a multiple of [`ScalingRules::late_cost`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LateFactors {
    pub low: f64,
    pub normal: f64,
    pub high: f64,
    pub critical: f64,
}

impl Default for LateFactors {
    fn default() -> Self {
        LateFactors { low: 1.0, normal: 1.0, high: 1.0, critical: 1.0 }
    }
}

impl LateFactors {
    /// In the order of [`Priority::ALL`](crate::execution::Priority::ALL).
    #[must_use]
    pub fn all(&self) -> [f64; 4] {
        [self.low, self.normal, self.high, self.critical]
    }
}

/// How memory and processor time of the machine hold growth back. They are never a reason to grow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    /// Share of the memory limit above which nothing is launched.
    pub mem_soft: f64,
    /// Share of the memory limit above which one worker is drained per down cooldown.
    pub mem_hard: f64,
    /// Share of the cores that busy workers may use together.
    pub cpu: f64,
    /// Percent of time in which all work stood still for memory (PSI `full avg10`) that counts like `mem_hard`.
    pub psi: f64,
}

impl Default for Guards {
    fn default() -> Self {
        Guards { mem_soft: 0.85, mem_hard: 0.92, cpu: 0.85, psi: 10.0 }
    }
}

/// Parts of the lead-time policy that can be left out, to find out what each is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Jobs above an engine's adaptive limit are no demand.
    pub limiter: bool,
    /// See [`Predict`].
    pub recurrence: bool,
    /// Runs are expected to end by their age; without it, as if they had no memory.
    pub job_ages: bool,
    /// Slots beyond the expected demand.
    pub headroom: bool,
    /// What was needed a moment ago is kept.
    pub retention: bool,
    /// Workers are held for bursts while that costs less than the late jobs it prevents.
    pub standby: bool,
    /// Small steps down are not taken, and cooldowns are kept.
    pub damping: bool,
    /// The start-up time is learned from launches.
    pub learned_startup: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Parts {
            limiter: true,
            recurrence: true,
            job_ages: true,
            headroom: true,
            retention: true,
            standby: true,
            damping: true,
            learned_startup: true,
        }
    }
}

/// See the module's text. Spans are in milliseconds, costs in seconds of one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScalingRules {
    pub policy: Policy,
    /// Hard bounds of the workers ready and starting; the upper one also bounds those that are draining.
    pub min_workers: u32,
    pub max_workers: u32,
    /// Slots of one worker.
    pub worker_capacity: u32,
    /// The planned utilization of a pool with four busy slots: larger pools run hotter, smaller ones cooler. The
    /// threshold policy grows toward it.
    pub target_utilization: f64,
    /// Utilization from which an increase does not wait for its cooldown. The threshold policy grows above it.
    pub scale_up_threshold: f64,
    /// Utilization below which any decrease is worth taking. The threshold policy shrinks below it.
    pub scale_down_threshold: f64,
    /// Between increases that are not urgent.
    pub scale_up_cooldown: Millis,
    /// Between decreases, and from an increase to a decrease where a launched worker would come too late for what waits. An increase
    /// never waits for it.
    pub scale_down_cooldown: Millis,
    /// From the launch of a worker until it takes work: the first guess, then learned.
    pub worker_startup_time: Millis,
    /// How long a job may wait for its start, as promised.
    pub slo_wait: Millis,
    /// The share of that wait the planner may use.
    pub slo_share: f64,
    /// What one late job is worth, in seconds of one worker.
    pub late_cost: f64,
    /// What one change of the number of workers is worth, in seconds of one worker.
    pub action_cost: f64,
    pub late_factors: LateFactors,
    /// How often the policy runs.
    pub tick_interval: Millis,
    /// How long what was needed is kept while arrivals are frequent.
    pub retention: Millis,
    /// The least relative decrease that is worth an action.
    pub tolerance: f64,
    pub predict: Predict,
    pub guards: Guards,
    /// How long a draining worker may finish what it has before it hands it back.
    pub drain_timeout: Millis,
    /// A worker that is idle longer is not kept by `tolerance`, or by the dead band of the threshold policy.
    pub max_idle_time: Option<Millis>,
    /// What each endpoint's limiter goes by.
    #[serde(skip)]
    pub engine: LimiterRules,
    pub parts: Parts,
}

impl Default for ScalingRules {
    fn default() -> Self {
        ScalingRules {
            policy: Policy::LeadTime,
            min_workers: 2,
            max_workers: 20,
            worker_capacity: 10,
            target_utilization: 0.7,
            scale_up_threshold: 0.8,
            scale_down_threshold: 0.3,
            scale_up_cooldown: 5 * SECOND,
            scale_down_cooldown: 10 * SECOND,
            worker_startup_time: SECOND,
            slo_wait: 5 * SECOND,
            slo_share: 0.8,
            late_cost: 60.0,
            action_cost: 2.0,
            late_factors: LateFactors::default(),
            tick_interval: SECOND,
            retention: 20 * SECOND,
            tolerance: 0.2,
            predict: Predict::On,
            guards: Guards::default(),
            drain_timeout: 10 * MINUTE,
            max_idle_time: None,
            engine: LimiterRules::default(),
            parts: Parts::default(),
        }
    }
}

/// A rule that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct RuleError {
    /// The field's name, `guards.mem_soft` and the like.
    pub field: &'static str,
    pub message: String,
}

impl ScalingRules {
    /// Refuses what makes no sense; the first fault found, by the field's name.
    pub fn check(&self) -> Result<(), RuleError> {
        self.check_bounds()?;
        self.check_thresholds()?;
        self.check_spans()?;
        self.check_prices()?;
        self.check_guards()
    }

    fn check_bounds(&self) -> Result<(), RuleError> {
        let (least, most) = (self.min_workers, self.max_workers);
        need(most >= 1, "max_workers", || "must be at least 1: with 0 no work would ever start".to_owned())?;
        need(least <= most, "min_workers", || {
            format!("must not be more than max_workers ({least} > {most})")
        })?;
        need(most <= SCALED_WORKERS_MAX, "max_workers", || {
            format!("must not be more than {SCALED_WORKERS_MAX}, not {most}")
        })?;
        let capacity = self.worker_capacity;
        need((1..=WORKER_CAPACITY_MAX).contains(&capacity), "worker_capacity", || {
            format!("must be 1 to {WORKER_CAPACITY_MAX}, not {capacity}")
        })
    }

    fn check_thresholds(&self) -> Result<(), RuleError> {
        let (down, target, up) =
            (self.scale_down_threshold, self.target_utilization, self.scale_up_threshold);
        need(down.is_finite() && down > 0.0, "scale_down_threshold", || {
            format!("must be above 0, not {down}")
        })?;
        need(target.is_finite() && down < target, "scale_down_threshold", || {
            format!(
                "must be less than target_utilization ({down} >= {target}), or the pool would shrink right after it grew"
            )
        })?;
        need(up.is_finite() && target <= up, "target_utilization", || {
            format!(
                "must not be more than scale_up_threshold ({target} > {up}), or the pool would grow without end"
            )
        })?;
        need(up <= 1.0, "scale_up_threshold", || format!("must not be more than 1, not {up}"))
    }

    fn check_spans(&self) -> Result<(), RuleError> {
        let tick = self.tick_interval;
        need(tick >= 1, "tick_interval", || "must be longer than nothing".to_owned())?;
        need(tick <= self.slo_wait, "tick_interval", || {
            format!(
                "must not be longer than slo_wait ({tick} ms > {} ms), or every wait could pass it unseen",
                self.slo_wait
            )
        })?;
        need(self.retention >= tick, "retention", || {
            format!("must not be shorter than tick_interval ({} ms < {tick} ms)", self.retention)
        })?;
        let spans = [
            ("slo_wait", self.slo_wait),
            ("retention", self.retention),
            ("scale_up_cooldown", self.scale_up_cooldown),
            ("scale_down_cooldown", self.scale_down_cooldown),
            ("worker_startup_time", self.worker_startup_time),
            ("drain_timeout", self.drain_timeout),
            ("max_idle_time", self.max_idle_time.unwrap_or(0)),
        ];
        for (field, span) in spans {
            need(span <= DAY, field, || format!("must not be longer than a day, not {span} ms"))?;
        }
        Ok(())
    }

    fn check_prices(&self) -> Result<(), RuleError> {
        let share = self.slo_share;
        need(share > 0.0 && share <= 1.0, "slo_share", || {
            format!("must be above 0 and at most 1, not {share}")
        })?;
        let tolerance = self.tolerance;
        need((0.0..1.0).contains(&tolerance), "tolerance", || {
            format!("must be at least 0 and less than 1, not {tolerance}")
        })?;
        let factors = self.late_factors;
        let prices = [
            ("late_cost", self.late_cost),
            ("action_cost", self.action_cost),
            ("late_factors.low", factors.low),
            ("late_factors.normal", factors.normal),
            ("late_factors.high", factors.high),
            ("late_factors.critical", factors.critical),
        ];
        for (field, price) in prices {
            need((0.0..=1e6).contains(&price), field, || {
                format!("must be a number from 0 to 1000000, not {price}")
            })?;
        }
        Ok(())
    }

    fn check_guards(&self) -> Result<(), RuleError> {
        let Guards { mem_soft, mem_hard, cpu, psi } = self.guards;
        need(mem_soft > 0.0 && mem_soft <= mem_hard, "guards.mem_soft", || {
            format!("must be above 0 and not more than guards.mem_hard ({mem_soft} against {mem_hard})")
        })?;
        need(mem_hard <= 1.0, "guards.mem_hard", || format!("must not be more than 1, not {mem_hard}"))?;
        need(cpu > 0.0 && cpu <= 1.0, "guards.cpu", || format!("must be above 0 and at most 1, not {cpu}"))?;
        need(psi > 0.0 && psi <= 100.0, "guards.psi", || {
            format!("must be above 0 and at most 100 percent, not {psi}")
        })?;
        let LimiterRules { min, max, sick, epoch } = self.engine;
        need(min >= 1 && max.is_none_or(|max| min <= max), "engine.min_limit", || {
            "must be at least 1 and not more than engine.max_limit".to_owned()
        })?;
        need(sick > 0.0 && sick < 1.0, "engine.sick", || format!("must be above 0 and below 1, not {sick}"))?;
        need((5.0..=1000.0).contains(&epoch), "engine.epoch", || format!("must be 5 to 1000, not {epoch}"))
    }
}

fn need(holds: bool, field: &'static str, message: impl FnOnce() -> String) -> Result<(), RuleError> {
    if holds { Ok(()) } else { Err(RuleError { field, message: message() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_its_field() {
        type Change = fn(&mut ScalingRules);
        let table: [(&str, Change); 22] = [
            ("", |_| ()),
            ("", |r| r.min_workers = 0),
            ("min_workers", |r| r.min_workers = 21),
            ("max_workers", |r| (r.min_workers, r.max_workers) = (0, 0)),
            ("max_workers", |r| r.max_workers = 1_025),
            ("worker_capacity", |r| r.worker_capacity = 0),
            ("worker_capacity", |r| r.worker_capacity = 1_001),
            ("scale_down_threshold", |r| r.scale_down_threshold = 0.7),
            ("scale_down_threshold", |r| r.scale_down_threshold = 0.0),
            ("scale_down_threshold", |r| r.scale_down_threshold = f64::NAN),
            ("", |r| r.target_utilization = 0.8),
            ("target_utilization", |r| r.target_utilization = 0.81),
            ("scale_up_threshold", |r| r.scale_up_threshold = 1.1),
            ("tick_interval", |r| r.tick_interval = 5_001),
            ("retention", |r| r.retention = 999),
            ("slo_wait", |r| r.slo_wait = 2 * DAY),
            ("slo_share", |r| r.slo_share = 0.0),
            ("tolerance", |r| r.tolerance = 1.0),
            ("late_cost", |r| r.late_cost = f64::INFINITY),
            ("late_factors.low", |r| r.late_factors.low = -1.0),
            ("guards.mem_soft", |r| r.guards.mem_soft = 0.95),
            ("engine.sick", |r| r.engine.sick = 1.0),
        ];
        for (field, change) in table {
            let mut rules = ScalingRules::default();
            change(&mut rules);
            let found = rules.check().err().map_or("", |error| error.field);
            assert_eq!(found, field, "{rules:?}");
        }
    }
}
