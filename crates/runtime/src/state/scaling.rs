//! The rules of scaling in force, and what the scaler decided last: what everybody may look at.

use enginehouse_api::{PolicyWord, PredictWord, ScalingChanged, ScalingRequest};
use enginehouse_core::autoscaler::{Decision, Policy, Predict, RuleError, ScalingRules};
use enginehouse_core::time::Millis;

/// What everybody may look at.
#[derive(Debug)]
pub(crate) struct Scaling {
    /// The rules in force, and the policy that is asked beside them.
    pub(crate) rules: ScalingRules,
    pub(crate) shadow: Option<Policy>,
    pub(crate) change: Option<ScalingChanged>,
    pub(crate) decision: Option<Decision>,
    pub(crate) shadow_decision: Option<Decision>,
    pub(crate) startup: Millis,
    /// The store had no work yet when this node started, so there is nothing that could be forgotten.
    pub(crate) fresh: bool,
}

impl Scaling {
    pub(crate) fn new(rules: ScalingRules, shadow: Option<Policy>, fresh: bool) -> Scaling {
        let startup = rules.worker_startup_time;
        Scaling { rules, shadow, change: None, decision: None, shadow_decision: None, startup, fresh }
    }
}

/// The rules that a change makes of others, if they make sense.
pub(crate) fn changed(
    rules: &ScalingRules,
    shadow: Option<Policy>,
    request: &ScalingRequest,
) -> Result<(ScalingRules, Option<Policy>), RuleError> {
    let mut new = rules.clone();
    set(&mut new.policy, request.policy.map(policy));
    set(&mut new.min_workers, request.min_workers);
    set(&mut new.max_workers, request.max_workers);
    set(&mut new.target_utilization, request.target_utilization);
    set(&mut new.scale_up_threshold, request.scale_up_threshold);
    set(&mut new.scale_down_threshold, request.scale_down_threshold);
    set(&mut new.scale_up_cooldown, request.scale_up_cooldown.map(|span| span.0));
    set(&mut new.scale_down_cooldown, request.scale_down_cooldown.map(|span| span.0));
    set(&mut new.slo_wait, request.slo_wait.map(|span| span.0));
    set(&mut new.late_cost, request.late_cost);
    set(&mut new.retention, request.retention.map(|span| span.0));
    set(&mut new.tolerance, request.tolerance);
    set(&mut new.predict, request.predict.map(predict));
    new.check()?;
    Ok((new, request.shadow.map(policy).or(shadow)))
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn policy(word: PolicyWord) -> Policy {
    match word {
        PolicyWord::LeadTime => Policy::LeadTime,
        PolicyWord::Threshold => Policy::Threshold,
    }
}

fn predict(word: PredictWord) -> Predict {
    match word {
        PredictWord::On => Predict::On,
        PredictWord::Shadow => Predict::Shadow,
        PredictWord::Off => Predict::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_must_make_sense() {
        let rules = ScalingRules::default();
        let request = ScalingRequest { max_workers: Some(40), ..ScalingRequest::default() };
        let (new, shadow) = changed(&rules, Some(Policy::Threshold), &request).expect("it makes sense");
        assert_eq!((new.max_workers, new.min_workers), (40, rules.min_workers));
        assert_eq!(shadow, Some(Policy::Threshold));
        let request = ScalingRequest { max_workers: Some(1), ..ScalingRequest::default() };
        assert_eq!(changed(&rules, None, &request).expect_err("less than the least").field, "min_workers");
    }
}
