//! Whether concurrency is what makes an endpoint slow: two stretches of time with different numbers of calls at once,
//! compared.
//!
//! Where concurrency does not matter each call is as fast with few others as with many. Where it is all that matters, the
//! endpoint does the same in all, so that half of the calls are twice as fast each. What was seen is placed between the two on
//! a logarithmic scale: 0 for the first, 1 for the second, and more where fewer calls do more in all.
//!
//! Calls are compared at the same age only: of those that had run for this long, how many ended then, with few and with many
//! others? What ends sooner because it is older, or because it is other work that came at another time, would else look
//! like speed (the proportional hazards of Cox, "Regression models and life-tables", 1972, with one covariate). The
//! comparison ends as soon as it is clear enough (Wald, "Sequential tests of statistical hypotheses", 1945), how clear being a
//! matter of how many runs ended and of how irregularly they end at this endpoint.

use crate::run_times::{BUCKETS as FINE, bucket_of as fine_of, edge as fine_edge};
use serde::{Deserialize, Serialize};

/// Steps of the histogram of run times that count as one age.
const STEPS: usize = 3;
const BUCKETS: usize = FINE.div_ceil(STEPS);

fn bucket_of(age: f64) -> usize {
    fine_of(age) / STEPS
}

fn edge(bucket: usize) -> f64 {
    fine_edge((bucket * STEPS + STEPS - 1).min(FINE - 1))
}

/// What calls did at each age.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ages {
    /// Seconds that calls spent at the age, and those that ended at it.
    spent: [f32; BUCKETS],
    ended: [f32; BUCKETS],
}

impl Default for Ages {
    fn default() -> Self {
        Ages { spent: [0.0; BUCKETS], ended: [0.0; BUCKETS] }
    }
}

impl Ages {
    /// A call got from one age to another, in seconds.
    pub(super) fn spend(&mut self, from: f64, to: f64) {
        let (from, to) = (from.max(0.0), to.max(0.0));
        for bucket in bucket_of(from)..=bucket_of(to) {
            let begins = if bucket == 0 { 0.0 } else { edge(bucket - 1) };
            let ends = if bucket == BUCKETS - 1 { f64::MAX } else { edge(bucket) };
            self.spent[bucket] += (to.min(ends) - from.max(begins)).max(0.0) as f32;
        }
    }

    /// Seconds that calls spent, all ages together.
    pub(super) fn call_seconds(&self) -> f64 {
        self.spent.iter().map(|spent| f64::from(*spent)).sum()
    }

    /// A call ended at an age in seconds.
    pub(super) fn end(&mut self, age: f64) {
        self.ended[bucket_of(age)] += 1.0;
    }

    fn add(&mut self, other: &Ages) {
        let sum = |all: &mut [f32; BUCKETS], more: &[f32; BUCKETS]| {
            all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
        };
        sum(&mut self.spent, &other.spent);
        sum(&mut self.ended, &other.ended);
    }
}

/// What is summed up over a stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stretch {
    /// Completions that a healthy endpoint would have shown of the same runs.
    pub(super) expected: f64,
    pub(super) completed: f64,
    /// Calls at once, summed over time, and that time in seconds.
    pub(super) call_seconds: f64,
    pub(super) seconds: f64,
    /// A restart forgets it: a stretch that was under way begins again.
    #[serde(skip)]
    ages: Ages,
}

/// What one tick brought.
#[derive(Debug, Clone, Default)]
pub(super) struct Tick {
    pub(super) expected: f64,
    pub(super) completed: f64,
    pub(super) at_once: f64,
    pub(super) seconds: f64,
    pub(super) ages: Ages,
}

impl Stretch {
    pub(super) fn add(&mut self, tick: &Tick) {
        self.expected += tick.expected;
        self.completed += tick.completed;
        self.call_seconds += tick.at_once * tick.seconds;
        self.seconds += tick.seconds;
        self.ages.add(&tick.ages);
    }

    #[cfg(test)]
    pub(super) fn ages(&self) -> &Ages {
        &self.ages
    }

    /// Calls at once, on average.
    pub(super) fn at_once(&self) -> f64 {
        self.call_seconds / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Compared with a healthy endpoint.
    pub(super) fn speed(&self) -> f64 {
        (self.completed + 0.5) / (self.expected + 0.5)
    }

    /// Completed per second.
    pub(super) fn rate(&self) -> f64 {
        self.completed / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// What two stretches say of concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is what makes the endpoint slow.
    Cause,
    /// It is not.
    Innocent,
    Unclear,
}

impl Finding {
    /// `cause` and `innocent`: the standard errors that are asked for.
    pub(super) fn of(errors: f64, cause: f64, innocent: f64) -> Finding {
        if errors > cause {
            Finding::Cause
        } else if errors < -innocent {
            Finding::Innocent
        } else {
            Finding::Unclear
        }
    }
}

/// Concurrencies that are closer than this, as a logarithm, say nothing.
const CLOSE: f64 = 0.1;
/// The places that are looked at.
const PLACE_MAX: f64 = 8.0;
const HALVINGS: u32 = 24;

/// Compares two stretches: by how many standard errors the truth lies beyond `from`, the place between 0 and 1 from which on
/// concurrency is the cause; negative: before it. `spread` is the variance of completions over that of a Poisson process. The
/// measure is the root of the likelihood ratio, which holds for few completions as well.
pub(super) fn errors(before: &Stretch, after: &Stretch, from: f64, spread: f64) -> f64 {
    let apart = (before.at_once().max(1e-6) / after.at_once().max(1e-6)).ln();
    if apart.abs() < CLOSE || before.seconds <= 0.0 || after.seconds <= 0.0 {
        return 0.0;
    }
    let place = most_likely(before, after, apart);
    let gain = likelihood(before, after, place * apart) - likelihood(before, after, from * apart);
    (2.0 * gain.max(0.0) / spread.max(f64::MIN_POSITIVE)).sqrt().copysign(place - from)
}

/// Ages at which calls were in both stretches: the time spent, and the ends, before and after.
fn common<'a>(before: &'a Stretch, after: &'a Stretch) -> impl Iterator<Item = ([f64; 2], [f64; 2])> + 'a {
    let (before, after) = (&before.ages, &after.ages);
    (0..BUCKETS).filter(|at| before.spent[*at] > 0.0 && after.spent[*at] > 0.0).map(|at| {
        ([before.spent[at].into(), after.spent[at].into()], [before.ended[at].into(), after.ended[at].into()])
    })
}

/// The share of the ends at an age that falls into the second stretch, if calls there end `faster` times as often, as a
/// logarithm.
fn share(spent: [f64; 2], faster: f64) -> f64 {
    let after = spent[1] * faster.exp();
    (after / (spent[0] + after)).clamp(1e-9, 1.0 - 1e-9)
}

fn likelihood(before: &Stretch, after: &Stretch, faster: f64) -> f64 {
    let of = |(spent, ended): ([f64; 2], [f64; 2])| {
        let share = share(spent, faster);
        ended[1] * share.ln() + ended[0] * (1.0 - share).ln()
    };
    common(before, after).map(of).sum()
}

/// The place that explains best what was seen. The likelihood has one maximum, so halving the interval finds it.
fn most_likely(before: &Stretch, after: &Stretch, apart: f64) -> f64 {
    let (mut least, mut most) = (-PLACE_MAX, PLACE_MAX);
    for _ in 0..HALVINGS {
        let place = (least + most) / 2.0;
        let rises = |(spent, ended): ([f64; 2], [f64; 2])| {
            ended[1] - (ended[0] + ended[1]) * share(spent, place * apart)
        };
        if common(before, after).map(rises).sum::<f64>() * apart > 0.0 {
            least = place;
        } else {
            most = place;
        }
    }
    (least + most) / 2.0
}
