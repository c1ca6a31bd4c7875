//! The search for the limit that completes most, for endpoints that get slower with each call and not only beyond a knee.
//!
//! What is completed per second is compared at neighbouring limits, one trial after the other (hill climbing; Kiefer and
//! Wolfowitz, "Stochastic estimation of the maximum of a regression function", 1952). More calls at once have to pay: a step
//! up is kept only if it completes more by a share of the calls added, and a step down is kept if it completes hardly less.

use serde::{Deserialize, Serialize};

/// Completions that one side of a trial must have seen.
const ROUND: f64 = 120.0;
/// The least gain of a step up, and the greatest loss of a step down, as a share of the calls added or taken.
const PAYS: f64 = 0.25;
/// The part of the limit that a step takes.
const STEP: f64 = 0.125;
/// How long it stays where no step pays before it looks around again, the first time and at most, in seconds.
const REST_FIRST_S: f64 = 60.0;
const REST_MAX_S: f64 = 480.0;
/// Less than this part of what a limit was measured to complete means that the endpoint has changed.
const CHANGED: f64 = 0.8;

/// The other side of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Side {
    limit: f64,
    /// Completed per second.
    rate: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Climb {
    /// It looks for the best limit by what is completed.
    pub(super) on: bool,
    before: Option<Side>,
    down: bool,
    /// Seconds of this side to be left out: calls that began under the other limit still run.
    settle_s: f64,
    completed: f64,
    seconds: f64,
    /// Steps in a row that did not pay; after one each way there is nothing better around.
    failed: u32,
    /// Steps in a row that did; they grow by one another.
    paid: u32,
    rest_s: f64,
    rested_s: f64,
    /// What the limit in force completes per second, as it was measured last.
    rate: Option<f64>,
}

impl Climb {
    pub(super) fn start(&mut self) {
        if !self.on {
            *self = Climb { on: true, ..Climb::default() };
        }
    }

    pub(super) fn stop(&mut self) {
        *self = Climb::default();
    }

    /// Whether so much per second is what this limit was measured to complete, so that slowness is its known price.
    pub(super) fn accounts_for(&self, rate: f64) -> bool {
        self.on && self.rate.is_some_and(|known| rate >= CHANGED * known)
    }

    /// Takes in what was completed under `limit` while it was used up; gives the limit to go on with.
    pub(super) fn next(&mut self, limit: f64, completed: f64, seconds: f64) -> f64 {
        if self.settle_s > 0.0 {
            self.settle_s -= seconds;
            return limit;
        }
        self.completed += completed;
        self.seconds += seconds;
        if self.completed < ROUND {
            return limit;
        }
        let here = Side { limit, rate: self.completed / self.seconds.max(f64::MIN_POSITIVE) };
        self.rested_s += self.seconds;
        (self.completed, self.seconds) = (0.0, 0.0);
        let as_before = self.accounts_for(here.rate);
        self.rate = Some(here.rate);
        if self.failed >= 2 && as_before && self.rested_s < self.rest_s {
            return limit;
        }
        let paid = self.before.is_none_or(|before| {
            // The same rule both ways: what the calls between the two limits add.
            let needed = before.rate * (1.0 + PAYS * (here.limit - before.limit) / before.limit.max(1.0));
            here.rate >= needed
        });
        let next = if paid {
            if self.before.is_some() {
                (self.failed, self.rest_s) = (0, 0.0);
                self.paid = self.paid.saturating_add(1);
            } else if self.failed >= 2 {
                self.failed = 0;
            }
            self.before = Some(here);
            self.step_from(limit)
        } else {
            self.down = !self.down;
            self.failed += 1;
            self.paid = 0;
            if self.failed == 2 {
                self.rest_s = (2.0 * self.rest_s).clamp(REST_FIRST_S, REST_MAX_S);
                self.rested_s = 0.0;
            }
            let back = self.before.take().unwrap_or(here);
            self.rate = Some(back.rate);
            back.limit
        };
        self.settle_s = limit / here.rate.max(0.01);
        next
    }

    fn step_from(&mut self, limit: f64) -> f64 {
        let step = (STEP * limit * f64::from(1 + self.paid.min(3))).round().max(1.0);
        if self.down && limit - step < 1.0 {
            self.down = false;
        }
        if self.down { limit - step } else { limit + step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the climb on an endpoint that completes `rate(limit)` per second; gives the limits of the last `rounds`.
    fn walk(from: f64, rate: impl Fn(f64) -> f64, rounds: u32) -> Vec<u32> {
        let mut climb = Climb::default();
        climb.start();
        let mut limit = from;
        let mut limits = Vec::new();
        for _ in 0..rounds {
            limit = climb.next(limit, rate(limit) * 10.0, 10.0);
            assert!(limit >= 1.0 && limit.fract() == 0.0, "{limit}");
            limits.push(limit as u32);
        }
        limits.split_off(limits.len() - 50)
    }

    #[test]
    fn it_ends_around_what_completes_most() {
        let thrashes = |limit: f64| limit * (16.0 / limit).min(1.0).powf(1.5);
        let shares = |limit: f64| limit.min(16.0);
        let gradual = |limit: f64| limit / (1.0 + (limit / 24.0).powi(2));
        let rows: [(&str, &dyn Fn(f64) -> f64); 3] =
            [("thrashes", &thrashes), ("shares", &shares), ("gradual", &gradual)];
        for (name, rate) in rows {
            let best = (1..200).map(|limit| rate(f64::from(limit))).fold(0.0, f64::max);
            for from in [1.0, 4.0, 16.0, 60.0, 150.0] {
                let last = walk(from, rate, 400);
                let mean = last.iter().map(|limit| rate(f64::from(*limit))).sum::<f64>() / last.len() as f64;
                assert!(mean >= 0.93 * best, "{name} from {from}: {mean:.1} of {best:.1} with {last:?}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_changes_is_looked_at_anew() {
        let mut climb = Climb::default();
        climb.start();
        let mut limit = 16.0;
        for round in 0..400 {
            let knee = if round < 200 { 16.0f64 } else { 8.0 };
            limit = climb.next(limit, limit * (knee / limit).min(1.0).powf(1.5) * 10.0, 10.0);
        }
        assert!((6.0..=10.0).contains(&limit), "{limit}");
    }
}
