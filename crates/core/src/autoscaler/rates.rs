//! How often jobs arrive: a slow average, moved towards a fast one as far as their difference is significant.

use serde::{Deserialize, Serialize};

/// Time constants of the two averages, in seconds, and how many standard errors (squared) a difference has to be worth.
const FAST_S: f64 = 15.0;
const SLOW_S: f64 = 180.0;
const SHRINK: f64 = 4.0;
/// Arrivals that a silence may have kept back: a stream of more per second would hardly have been silent for this long.
const MISSED: f64 = 1.0;

/// Arrivals per second of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct ArrivalRate {
    /// `None` before the first observation.
    averages: Option<(f64, f64)>,
    /// Seconds since the last arrival.
    #[serde(default)]
    silent: f64,
}

impl ArrivalRate {
    /// `count` jobs arrived within the last `seconds`.
    pub(super) fn observe(&mut self, count: u32, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let rate = f64::from(count) / seconds;
        self.silent = if count > 0 { 0.0 } else { (self.silent + seconds).min(1e12) };
        let toward = |average: f64, span: f64| average + (1.0 - (-seconds / span).exp()) * (rate - average);
        self.averages = Some(match self.averages {
            Some((fast, slow)) => (toward(fast, FAST_S), toward(slow, SLOW_S)),
            None => (rate, rate),
        });
    }

    /// The rate to plan with. The cube over the square keeps small differences out and lets large ones pass whole; the
    /// variance is that of a Poisson stream seen through the fast average.
    pub(super) fn per_second(&self) -> f64 {
        let Some((fast, slow)) = self.averages else { return 0.0 };
        let difference = fast - slow;
        let variance = slow.max(fast).max(1e-9) / (2.0 * FAST_S);
        let significant = difference.powi(3) / (difference * difference + SHRINK * variance);
        let rate = (slow + significant).min(MISSED / self.silent.max(1e-9));
        if rate.is_finite() { rate.max(0.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_a_step_and_forgets_a_stream_that_stopped() {
        let mut rate = ArrivalRate::default();
        assert_eq!(rate.per_second(), 0.0);
        (0..600).for_each(|n| rate.observe(u32::from(n % 4 == 0), 1.0));
        assert!((0.2..0.3).contains(&rate.per_second()), "{rate:?}");
        (0..30).for_each(|_| rate.observe(3, 1.0));
        assert!(rate.per_second() > 2.0, "{rate:?}");
        rate.observe(7, 0.0);
        (0..3_000).for_each(|_| rate.observe(0, 1.0));
        assert!(rate.per_second() < 1e-5, "{rate:?}");
        rate.observe(u32::MAX, 1e-3);
        rate.observe(0, 1e12);
        assert!(rate.per_second().is_finite());
    }
}
