//! Whether a failed attempt is worth another, and when.
//!
//! Back-off is exponential with *full jitter* (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015):
//! a uniform draw from `[0, min(ceiling, delay * factor^n))`, which spreads a crowd of retries best. An engine's
//! `Retry-After` is a floor below that draw, honoured up to an hour.

use crate::failure::FailureKind;
use crate::limits::{RETRY_AFTER_MAX, RETRY_CEILING};
use crate::time::{Millis, SECOND};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts beyond the first.
    pub max_retries: u32,
    /// Bound of the first back-off, in milliseconds.
    pub delay: Millis,
    /// How the bound grows with each retry; at least 1.
    pub factor: f64,
    /// Ceiling of the bound, in milliseconds.
    pub max_delay: Millis,
    /// Kinds retried beside the default ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<FailureKind>,
    /// Kinds never retried; wins over `on`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_on: Vec<FailureKind>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_retries: 3,
            delay: SECOND,
            factor: 2.0,
            max_delay: RETRY_CEILING,
            on: Vec::new(),
            not_on: Vec::new(),
        }
    }
}

impl RetryPolicy {
    #[must_use]
    pub fn retries(&self, kind: FailureKind) -> bool {
        self.retries_by(kind, None, None)
    }

    /// The same for one failure. `rule` is what a rule of the configuration says of it and stands above the kinds;
    /// `by_default` is what its adapter says, in the place of the kind's default. A request's `notOn` and final kinds
    /// stand above all.
    #[must_use]
    pub fn retries_by(&self, kind: FailureKind, rule: Option<bool>, by_default: Option<bool>) -> bool {
        let usual = || self.on.contains(&kind) || by_default.unwrap_or(kind.retried_by_default());
        !kind.is_final() && !self.not_on.contains(&kind) && rule.unwrap_or_else(usual)
    }

    /// The wait before retry number `retry` (from 1): `jitter` in `[0, 1)` picks the point of the draw, and the
    /// engine's `retry_after` is the least.
    #[must_use]
    pub fn backoff(&self, retry: u32, jitter: f64, retry_after: Option<Millis>) -> Millis {
        let growth = self.factor.max(1.0).powi(i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX));
        let bound = (self.delay as f64 * growth).min(self.max_delay as f64);
        let drawn = (bound * jitter.clamp(0.0, 1.0)) as Millis;
        let floor = retry_after.unwrap_or(0).min(RETRY_AFTER_MAX);
        // The draw is added to the floor, so that a crowd told "in 30 s" does not come back at one instant.
        floor.saturating_add(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_double_up_to_the_ceiling() {
        let policy = RetryPolicy::default();
        let bounds: Vec<Millis> = (1..=8).map(|n| policy.backoff(n, 1.0, None)).collect();
        assert_eq!(bounds, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn kinds_follow_the_policy() {
        let rows = [
            // kind, on, not_on, retried
            (FailureKind::Connection, vec![], vec![], true),
            (FailureKind::EngineError, vec![], vec![], false),
            (FailureKind::EngineError, vec![FailureKind::EngineError], vec![], true),
            (FailureKind::Connection, vec![], vec![FailureKind::Connection], false),
            (FailureKind::Timeout, vec![FailureKind::Timeout], vec![FailureKind::Timeout], false),
            (FailureKind::Lost, vec![FailureKind::Lost], vec![], false),
            (FailureKind::UnknownOutcome, vec![FailureKind::UnknownOutcome], vec![], false),
        ];
        for (kind, on, not_on, retried) in rows {
            let policy = RetryPolicy { on, not_on, ..RetryPolicy::default() };
            assert_eq!(policy.retries(kind), retried, "{kind:?} {policy:?}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_stays_between_the_floor_and_its_bound(
            retry in 1u32..2_000, jitter in 0.0f64..1.0, after in prop::option::of(0u64..10_000_000),
            delay in 0u64..100_000, factor in 0.0f64..20.0
        ) {
            let policy = RetryPolicy { delay, factor, ..RetryPolicy::default() };
            let wait = policy.backoff(retry, jitter, after);
            let floor = after.unwrap_or(0).min(RETRY_AFTER_MAX);
            prop_assert!(wait >= floor && wait <= floor + policy.max_delay);
        }
    }
}
