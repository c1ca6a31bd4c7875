//! `[scaling]`: how many workers there are.
//!
//! The rules, and which of them make sense together, are those of `core/autoscaler/rules.rs`; here they get their keys.

use crate::config::checker::Checker;
use crate::config::types::{
    Flag, Fraction, MaybeNone, Part, Percent, Price, Span, UpToADay, UpToAYear, Whole, choice, section,
};
use enginehouse_core::autoscaler::{self, Policy, Predict, ScalingRules};
use enginehouse_core::limiter::LimiterRules;
use enginehouse_core::time::{MINUTE, SECOND};
use enginehouse_runtime::{ScalingSettings, Settings};

section! {
    /// The workers, and when their number changes.
    pub struct Scaling {
        /// The rule that decides: `lead_time` forecasts the slots in use when a worker launched now becomes useful; `threshold` grows above one utilization and shrinks below another.
        policy: PolicyName = PolicyName::LeadTime;
        /// A second policy that is asked at the same instants and shown beside the first; it moves nothing. Absent: none.
        shadow: Option<PolicyName> = None;
        /// The fewest workers ready and starting. 0 lets the pool go to nothing while there is no work.
        min_workers: Whole<0, 1024> = Whole(2);
        /// The most workers at once, those that are draining included; at least `min_workers`.
        max_workers: Whole<1, 1024> = Whole(20);
        /// Slots of one worker: how many attempts it runs at once.
        worker_capacity: Whole<1, 1000> = Whole(10);
        /// The planned utilization of a pool with four busy slots; larger pools run hotter, smaller ones cooler. `threshold` grows toward it.
        target_utilization: Fraction = Fraction(0.7);
        /// Utilization from which a step up does not wait for its cooldown. `threshold` grows above it. At least `target_utilization`.
        scale_up_threshold: Fraction = Fraction(0.8);
        /// Utilization below which any step down is worth taking. `threshold` shrinks below it. Less than `target_utilization`.
        scale_down_threshold: Fraction = Fraction(0.3);
        /// The least time between two steps up.
        scale_up_cooldown: MaybeNone = Span(5 * SECOND);
        /// The least time between two steps down, and from a step up to one down; with the `lead_time` policy the latter only where workers take long to start. A step up never waits for it.
        scale_down_cooldown: MaybeNone = Span(10 * SECOND);
        /// How long a worker takes from its launch until it takes work: the first guess, then it is learned.
        worker_startup_time: MaybeNone = Span(SECOND);
        /// How long an execution may wait for its start; what waits longer is late.
        slo_wait: UpToADay = Span(5 * SECOND);
        /// The share of `slo_wait` that is planned to be used.
        slo_share: Fraction = Fraction(0.8);
        /// What one late execution is worth, in seconds of one worker. More makes the pool larger.
        late_cost: Price = Price(60.0);
        /// What one change of the number of workers is worth, in seconds of one worker. More makes it steadier.
        action_cost: Price = Price(2.0);
        /// What lateness of each priority is worth, as a multiple of `late_cost`.
        late_factors: LateFactors = LateFactors::default();
        /// How often the number of workers is decided; at most `slo_wait`. Work that finds no slot is looked at sooner.
        tick_interval: Span<50, MINUTE> = Span(SECOND);
        /// How long what was needed is kept while work keeps coming; at least `tick_interval`.
        retention: UpToADay = Span(20 * SECOND);
        /// The least relative step down that is worth taking.
        tolerance: Part = Part(0.2);
        /// What is done with demand that comes back after a fixed period.
        predict: PredictMode = PredictMode::On;
        /// How long a draining worker may finish what it runs before it hands it back.
        drain_timeout: UpToADay = Span(10 * MINUTE);
        /// How the machine's memory and processors hold growth back.
        guards: Guards = Guards::default();
        /// Parts of `lead_time` that can be switched off, to find out what each is worth.
        parts: Parts = Parts::default();
    }

    /// What lateness of each priority is worth.
    pub struct LateFactors {
        /// Of LOW.
        low: Price = Price(1.0);
        /// Of NORMAL.
        normal: Price = Price(1.0);
        /// Of HIGH.
        high: Price = Price(1.0);
        /// Of CRITICAL.
        critical: Price = Price(1.0);
    }

    /// How the machine holds growth back. It is never a reason to grow.
    pub struct Guards {
        /// Share of the memory limit (the cgroup's, or the machine's) above which no worker is launched.
        mem_soft: Fraction = Fraction(0.85);
        /// Share of the memory limit above which one worker is drained per `scale_down_cooldown`; at least `mem_soft`.
        mem_hard: Fraction = Fraction(0.92);
        /// Share of the processors that busy workers may use together.
        cpu: Fraction = Fraction(0.85);
        /// Percent of time in which all work stood still for memory (`full avg10` of the kernel's pressure figures) that counts like `mem_hard`.
        psi: Percent = Percent(10.0);
    }

    /// Parts of the lead-time policy.
    pub struct Parts {
        /// Work that an engine would not take in time is no demand, and a slow engine's runs are planned as longer.
        limiter: Flag = Flag(true);
        /// Demand that comes back after a fixed period is learned.
        recurrence: Flag = Flag(true);
        /// Runs are expected to end by their age.
        job_ages: Flag = Flag(true);
        /// Slots beyond the expected demand.
        headroom: Flag = Flag(true);
        /// What was needed a moment ago is kept.
        retention: Flag = Flag(true);
        /// Workers are held for bursts while that costs less than the late jobs it prevents.
        standby: Flag = Flag(true);
        /// Small steps down are not taken, and cooldowns are kept.
        damping: Flag = Flag(true);
        /// The time that workers take to start is learned from launches.
        learned_startup: Flag = Flag(true);
    }
}

choice! {
    /// How the number of workers is decided.
    pub enum PolicyName {
        /// By the slots expected to be in use when a worker launched now becomes useful.
        LeadTime "lead_time",
        /// By utilization alone.
        Threshold "threshold",
    }

    /// What is done with demand that comes back after a fixed period.
    pub enum PredictMode {
        /// Workers are launched for it once its announcements came true.
        On "on",
        /// It is learned and shown, and nothing is launched for it.
        Shadow "shadow",
        /// It is not learned.
        Off "off",
    }
}

/// `max_idle_time` stands in `[workers]`. A rule that makes no sense is a fault of its key.
pub(in crate::config) fn resolve(
    raw: &Scaling,
    max_idle_time: Option<UpToAYear>,
    settings: &mut Settings,
    checker: &mut Checker<'_>,
) {
    let rules = rules(raw, max_idle_time, checker);
    settings.scaling = ScalingSettings { rules, shadow: raw.shadow.map(Policy::from), guard_machine: true };
}

/// The auto-scaler's rules, checked.
pub(in crate::config) fn rules(
    raw: &Scaling,
    max_idle_time: Option<UpToAYear>,
    checker: &mut Checker<'_>,
) -> ScalingRules {
    let rules = rules_of(raw, max_idle_time);
    if let Err(error) = rules.check() {
        let path = match error.field {
            "max_idle_time" => "workers/max_idle_time".to_owned(),
            field => format!("scaling/{}", field.replace('.', "/")),
        };
        checker.fault(&path, error.message);
    }
    rules
}

/// Every key and every rule is named here, so that one without the other does not compile.
fn rules_of(raw: &Scaling, max_idle_time: Option<UpToAYear>) -> ScalingRules {
    let Scaling {
        policy,
        shadow: _,
        min_workers,
        max_workers,
        worker_capacity,
        target_utilization,
        scale_up_threshold,
        scale_down_threshold,
        scale_up_cooldown,
        scale_down_cooldown,
        worker_startup_time,
        slo_wait,
        slo_share,
        late_cost,
        action_cost,
        late_factors,
        tick_interval,
        retention,
        tolerance,
        predict,
        drain_timeout,
        guards,
        parts,
    } = raw;
    ScalingRules {
        policy: (*policy).into(),
        min_workers: min_workers.get32(),
        max_workers: max_workers.get32(),
        worker_capacity: worker_capacity.get32(),
        target_utilization: target_utilization.0,
        scale_up_threshold: scale_up_threshold.0,
        scale_down_threshold: scale_down_threshold.0,
        scale_up_cooldown: scale_up_cooldown.0,
        scale_down_cooldown: scale_down_cooldown.0,
        worker_startup_time: worker_startup_time.0,
        slo_wait: slo_wait.0,
        slo_share: slo_share.0,
        late_cost: late_cost.0,
        action_cost: action_cost.0,
        late_factors: late_factors.into(),
        tick_interval: tick_interval.0,
        retention: retention.0,
        tolerance: tolerance.0,
        predict: (*predict).into(),
        guards: guards.into(),
        drain_timeout: drain_timeout.0,
        max_idle_time: max_idle_time.map(|span| span.0),
        engine: LimiterRules::default(),
        parts: parts.into(),
    }
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::LeadTime => Policy::LeadTime,
            PolicyName::Threshold => Policy::Threshold,
        }
    }
}

impl From<PredictMode> for Predict {
    fn from(mode: PredictMode) -> Self {
        match mode {
            PredictMode::On => Predict::On,
            PredictMode::Shadow => Predict::Shadow,
            PredictMode::Off => Predict::Off,
        }
    }
}

impl From<&LateFactors> for autoscaler::LateFactors {
    fn from(raw: &LateFactors) -> Self {
        let LateFactors { low, normal, high, critical } = raw;
        autoscaler::LateFactors { low: low.0, normal: normal.0, high: high.0, critical: critical.0 }
    }
}

impl From<&Guards> for autoscaler::Guards {
    fn from(raw: &Guards) -> Self {
        let Guards { mem_soft, mem_hard, cpu, psi } = raw;
        autoscaler::Guards { mem_soft: mem_soft.0, mem_hard: mem_hard.0, cpu: cpu.0, psi: psi.0 }
    }
}

impl From<&Parts> for autoscaler::Parts {
    fn from(raw: &Parts) -> Self {
        let Parts { limiter, recurrence, job_ages, headroom, retention, standby, damping, learned_startup } =
            raw;
        autoscaler::Parts {
            limiter: limiter.0,
            recurrence: recurrence.0,
            job_ages: job_ages.0,
            headroom: headroom.0,
            retention: retention.0,
            standby: standby.0,
            damping: damping.0,
            learned_startup: learned_startup.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_as_the_rules_say_themselves() {
        assert_eq!(rules_of(&Scaling::default(), None), ScalingRules::default());
    }
}
