//! `[fault_tolerance]`: retries and circuit breakers.

use crate::config::checker::Checker;
use crate::config::types::{Factor, Fraction, MaybeNone, Span, UpToADay, Whole, section};
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{MINUTE, SECOND};
use enginehouse_runtime::Settings;

section! {
    /// Retries and circuit breakers.
    pub struct FaultTolerance {
        /// Attempts beyond the first.
        max_retries: Whole<0, 1000> = Whole(3);
        /// Bound of the first back-off; the actual wait is drawn evenly from 0 to the bound.
        retry_delay: MaybeNone = Span(SECOND);
        /// How the bound grows with each retry.
        backoff_factor: Factor = Factor(2.0);
        /// Ceiling of the bound; at least `retry_delay`.
        retry_max_delay: MaybeNone = Span(MINUTE);
        /// When an endpoint that keeps failing is left alone for a while.
        circuit_breaker_config: CircuitBreaker = CircuitBreaker::default();
    }

    /// When an endpoint that keeps failing is left alone for a while.
    pub struct CircuitBreaker {
        /// Failures of the kinds `connection` and `unavailable` within `monitoring_period` that open the breaker.
        failure_threshold: Whole<1, 10000> = Whole(5);
        /// The least share of the attempts ended in `monitoring_period` that these must be. Twice the threshold without an answer between opens it all the same.
        failure_ratio: Fraction = Fraction(0.5);
        /// How long an open breaker waits before it lets one attempt try. Doubles each time that attempt fails.
        reset_timeout: UpToADay = Span(30 * SECOND);
        /// Ceiling of that doubling; at least `reset_timeout`.
        reset_timeout_max: UpToADay = Span(10 * MINUTE);
        /// The window in which failures are counted.
        monitoring_period: UpToADay = Span(MINUTE);
    }
}

/// The retries are everybody's default; the breaker's rules are for the engines.
pub(in crate::config) fn resolve(
    raw: &FaultTolerance,
    settings: &mut Settings,
    checker: &mut Checker<'_>,
) -> BreakerRules {
    let FaultTolerance { max_retries, retry_delay, backoff_factor, retry_max_delay, circuit_breaker_config } =
        raw;
    checker.require(retry_delay.0 <= retry_max_delay.0, "fault_tolerance/retry_delay", || {
        "must not be more than fault_tolerance.retry_max_delay".to_owned()
    });
    settings.defaults.retry = RetryPolicy {
        max_retries: max_retries.get32(),
        delay: retry_delay.0,
        factor: backoff_factor.0,
        max_delay: retry_max_delay.0,
        on: Vec::new(),
        not_on: Vec::new(),
    };
    breaker(circuit_breaker_config, checker)
}

fn breaker(raw: &CircuitBreaker, checker: &mut Checker<'_>) -> BreakerRules {
    let CircuitBreaker {
        failure_threshold,
        failure_ratio,
        reset_timeout,
        reset_timeout_max,
        monitoring_period,
    } = raw;
    checker.require(
        reset_timeout.0 <= reset_timeout_max.0,
        "fault_tolerance/circuit_breaker_config/reset_timeout",
        || "must not be more than reset_timeout_max".to_owned(),
    );
    BreakerRules {
        failure_threshold: failure_threshold.get32(),
        failure_ratio: failure_ratio.0,
        reset_timeout: reset_timeout.0,
        reset_timeout_max: reset_timeout_max.0,
        monitoring_period: monitoring_period.0,
    }
}
