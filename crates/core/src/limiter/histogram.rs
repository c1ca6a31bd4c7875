//! The run times of one endpoint while it is well: a logarithmic histogram that forgets, with a weak prior.

use serde::{Deserialize, Serialize};

/// The first edge in seconds, buckets per doubling, and how many there are: from 50 ms to an hour and a half.
const FIRST: f64 = 0.05;
const PER_OCTAVE: f64 = 4.0;
pub(super) const BUCKETS: usize = 68;
/// How fast old runs are forgotten: the weight of one run falls to a third after so many others.
const MEMORY: f64 = 1_000.0;
/// The prior: a lognormal distribution around five seconds that weighs as much as five runs.
const PRIOR_MEDIAN: f64 = 5.0;
const PRIOR_SIGMA: f64 = 1.2;
const PRIOR_WEIGHT: f64 = 5.0;
/// Below this share of runs that last so long there is no data left, and a Pareto tail of this index stands in.
const TAIL_FROM: f64 = 0.004;
const TAIL_INDEX: f64 = 1.5;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Histogram {
    /// Runs that took up to the bucket's upper edge, `FIRST * 2^(i / PER_OCTAVE)` seconds; newer runs weigh more.
    weights: Vec<f64>,
    /// What the next run weighs.
    next: f64,
    /// Runs learned.
    pub(super) runs: u64,
    /// Share of runs longer than each edge, as of the last rebuild.
    #[serde(skip)]
    longer: Vec<f64>,
}

impl Default for Histogram {
    fn default() -> Self {
        let share_below = |seconds: f64| {
            // A logistic curve close to the normal one: the prior is a guess, so its exact shape does not matter.
            1.0 / (1.0 + (-1.702 * (seconds / PRIOR_MEDIAN).ln() / PRIOR_SIGMA).exp())
        };
        let below = |i: usize| if i == 0 { 0.0 } else { share_below(edge(i - 1)) };
        let weights = (0..BUCKETS).map(|i| PRIOR_WEIGHT * (share_below(edge(i)) - below(i))).collect();
        let mut histogram = Histogram { weights, next: 1.0, runs: 0, longer: Vec::new() };
        histogram.rebuild();
        histogram
    }
}

fn edge(bucket: usize) -> f64 {
    FIRST * 2f64.powf(bucket as f64 / PER_OCTAVE)
}

impl Histogram {
    pub(super) fn add(&mut self, seconds: f64) {
        self.next *= 1.0 / (1.0 - 1.0 / MEMORY);
        let bucket = if seconds <= FIRST {
            0
        } else {
            ((PER_OCTAVE * (seconds / FIRST).log2() - 1e-9).ceil() as usize).min(BUCKETS - 1)
        };
        self.weights[bucket] += self.next;
        self.runs = self.runs.saturating_add(1);
        if self.next > 1e9 {
            self.weights.iter_mut().for_each(|weight| *weight /= self.next);
            self.next = 1.0;
        }
    }

    /// Brings the shares up to date with what was added; also needed once after it was read from a document.
    pub(super) fn rebuild(&mut self) {
        self.weights.resize(BUCKETS, 0.0);
        let total: f64 = self.weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut left = total;
        self.longer = self
            .weights
            .iter()
            .map(|weight| {
                left -= weight;
                (left / total).max(0.0)
            })
            .collect();
    }

    /// The share of runs longer than this.
    fn survival(&self, seconds: f64) -> f64 {
        if seconds <= FIRST {
            return 1.0;
        }
        let place = PER_OCTAVE * (seconds / FIRST).log2();
        let bucket = place as usize;
        if bucket + 1 >= BUCKETS {
            return self.longer.last().copied().unwrap_or(0.0);
        }
        let (here, next) = (self.longer[bucket], self.longer[bucket + 1]);
        here + (place - bucket as f64) * (next - here)
    }

    /// The cumulative hazard between two ages: how many completions a healthy engine would show of a run in that time.
    pub(super) fn hazard(&self, from: f64, to: f64) -> f64 {
        let end = self.survival(to);
        if end < TAIL_FROM {
            return if from > 0.0 { TAIL_INDEX * (to.max(FIRST) / from.max(FIRST)).ln() } else { 0.0 };
        }
        (self.survival(from) / end).ln().max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_what_was_learned() {
        let mut histogram = Histogram::default();
        for n in 0..2_000 {
            histogram.add(1.0 + f64::from(n % 10) / 10.0);
        }
        histogram.rebuild();
        assert!(histogram.survival(0.5) > 0.98 && histogram.survival(4.0) < 0.02, "{histogram:?}");
        assert!((0.2..0.8).contains(&histogram.survival(1.5)));
        assert!(histogram.hazard(0.0, 1.0) < 0.1, "hardly any run ends in its first second");
        assert!(histogram.hazard(1.0, 2.0) > 1.0);
        assert!(histogram.hazard(100.0, 200.0) > 0.0 && histogram.hazard(0.0, 1e9).is_finite());
    }
}
