//! How fast work may start on an engine: a token bucket, and a budget for retries.

use crate::time::{MINUTE, Millis, SECOND, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Starts per span, as configured: `50/s` is 50 per 1,000 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub starts: u32,
    pub per: Millis,
}

impl Rate {
    fn per_ms(self) -> f64 {
        f64::from(self.starts) / self.per.max(1) as f64
    }

    /// What may start at once after a quiet time: one second's worth, and at least one.
    fn burst(self) -> f64 {
        (self.per_ms() * SECOND as f64).max(1.0)
    }
}

/// A token bucket (Turner, "New directions in communications", 1986): each start takes a token, tokens come at the rate.
///
/// It starts empty, so that a scheduler that takes over never adds a second burst to the one its forerunner allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    at: Time,
}

impl TokenBucket {
    #[must_use]
    pub fn new(rate: Rate, now: Time) -> TokenBucket {
        TokenBucket { rate, tokens: 0.0, at: now }
    }

    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    fn tokens_at(&self, now: Time) -> f64 {
        let earned = now.since(self.at) as f64 * self.rate.per_ms();
        (self.tokens + earned).min(self.rate.burst())
    }

    #[must_use]
    pub fn has_token(&self, now: Time) -> bool {
        // A token may be short of one by rounding alone.
        self.tokens_at(now) >= 1.0 - 1e-9
    }

    pub fn take(&mut self, now: Time) {
        self.tokens = (self.tokens_at(now) - 1.0).max(0.0);
        self.at = self.at.max(now);
    }

    /// Gives a token back: what was to start did not.
    pub fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.rate.burst());
    }

    /// When the next token is there.
    #[must_use]
    pub fn next_token(&self, now: Time) -> Time {
        let missing = (1.0 - self.tokens_at(now)).max(0.0);
        now.plus((missing / self.rate.per_ms().max(f64::MIN_POSITIVE)).ceil().min(9e15) as Millis)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudgetRules {
    /// Retries allowed per recent success.
    pub ratio: f64,
    /// Retries always allowed per minute, so that a quiet engine's work is retried too.
    pub per_minute: u32,
}

impl Default for RetryBudgetRules {
    fn default() -> Self {
        RetryBudgetRules { ratio: 0.2, per_minute: 60 }
    }
}

/// The retry budget of one engine: over it retries wait, so that a failing engine is not buried under them.
///
/// The idea is that of Finagle's `RetryBudget` and of gRPC's retry throttling (gRFC A6); here a retry beyond it waits
/// instead of failing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RetryBudget {
    /// Start of the slice, successes, retries started.
    slices: VecDeque<(Time, u32, u32)>,
}

const BUDGET_WINDOW: Millis = MINUTE;
const BUDGET_SLICE: Millis = 3 * SECOND;

impl RetryBudget {
    fn slice(&mut self, now: Time) -> Option<&mut (Time, u32, u32)> {
        while self.slices.front().is_some_and(|s| now.since(s.0) >= BUDGET_WINDOW) {
            self.slices.pop_front();
        }
        if self.slices.back().is_none_or(|s| now.since(s.0) >= BUDGET_SLICE) {
            self.slices.push_back((now, 0, 0));
        }
        self.slices.back_mut()
    }

    pub fn succeeded(&mut self, now: Time) {
        if let Some(slice) = self.slice(now) {
            slice.1 = slice.1.saturating_add(1);
        }
    }

    /// A retry starts.
    pub fn take(&mut self, now: Time) {
        if let Some(slice) = self.slice(now) {
            slice.2 = slice.2.saturating_add(1);
        }
    }

    /// The retry that was to start did not, or provably never reached the engine.
    pub fn give_back(&mut self) {
        if let Some(slice) = self.slices.iter_mut().rev().find(|s| s.2 > 0) {
            slice.2 -= 1;
        }
    }

    /// How many retries may start now.
    #[must_use]
    pub fn left(&self, rules: &RetryBudgetRules, now: Time) -> f64 {
        let recent = self.slices.iter().filter(|s| now.since(s.0) < BUDGET_WINDOW);
        let (successes, retries) =
            recent.fold((0u64, 0u64), |(s, r), slice| (s + u64::from(slice.1), r + u64::from(slice.2)));
        f64::from(rules.per_minute) + rules.ratio * successes as f64 - retries as f64
    }

    #[must_use]
    pub fn has_room(&self, rules: &RetryBudgetRules, now: Time) -> bool {
        self.left(rules, now) >= 1.0
    }

    /// When a slice of spent retries is forgotten next.
    #[must_use]
    pub fn next_room(&self, now: Time) -> Time {
        let spent = self.slices.iter().find(|s| s.2 > 0 && now.since(s.0) < BUDGET_WINDOW);
        spent.map_or(now, |s| s.0.plus(BUDGET_WINDOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_starts_empty_and_never_passes_its_rate() {
        let rate = Rate { starts: 10, per: SECOND };
        let mut bucket = TokenBucket::new(rate, Time(0));
        assert!(!bucket.has_token(Time(0)));
        assert_eq!(bucket.next_token(Time(0)), Time(100));
        let mut started = 0;
        for ms in 0..=10_000 {
            while bucket.has_token(Time(ms)) {
                bucket.take(Time(ms));
                started += 1;
            }
        }
        assert_eq!(started, 100);
        let mut slow = TokenBucket::new(Rate { starts: 30, per: MINUTE }, Time(0));
        assert!(!slow.has_token(Time(1_999)) && slow.has_token(Time(2_000)));
        slow.take(Time(2_000));
        slow.give_back();
        assert!(slow.has_token(Time(2_000)));
    }

    #[test]
    fn retries_are_a_share_of_successes_above_the_floor() {
        let rules = RetryBudgetRules { ratio: 0.2, per_minute: 2 };
        let mut budget = RetryBudget::default();
        let rows = [
            // at, successes, retries allowed then
            (0, 0, 2),
            (1_000, 10, 2),
            (2_000, 5, 1),
            (59_000, 0, 0),
            (61_000, 0, 2),
        ];
        for (at, successes, allowed) in rows {
            let now = Time(at);
            (0..successes).for_each(|_| budget.succeeded(now));
            let mut retries = 0;
            while budget.has_room(&rules, now) {
                budget.take(now);
                retries += 1;
            }
            assert_eq!(retries, allowed, "at {at}");
            assert!(budget.next_room(now) <= now.plus(BUDGET_WINDOW));
        }
        budget.give_back();
        assert!(budget.has_room(&rules, Time(61_000)));
    }

    proptest! {
        #[test]
        fn any_window_of_a_bucket_holds_at_most_its_rate_and_one_burst(
            starts in 1u32..200, per in 1u64..100_000, steps in prop::collection::vec(0u64..5_000, 1..200)
        ) {
            let rate = Rate { starts, per };
            let mut bucket = TokenBucket::new(rate, Time(0));
            let (mut now, mut taken) = (Time(0), 0u64);
            for step in steps {
                now = now.plus(step);
                for _ in 0..1_000 {
                    if !bucket.has_token(now) { break }
                    bucket.take(now);
                    taken += 1;
                }
                let most = now.0 as f64 * f64::from(starts) / per as f64 + 1e-3;
                prop_assert!(taken as f64 <= most, "{taken} > {most}");
                prop_assert!(bucket.next_token(now) >= now);
            }
        }
    }
}
