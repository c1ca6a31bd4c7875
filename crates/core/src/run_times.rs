//! How long runs take while their engine is well: a logarithmic histogram that forgets, with a weak prior.
//!
//! It answers how many of the runs that have reached an age will reach another, which is what both the limiter (what would
//! a healthy engine have completed?) and the auto-scaler (which slots will be free?) go by. Seconds throughout.

use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// The first edge in seconds, buckets per doubling, and how many there are: from 50 ms to an hour and a half.
const FIRST: f64 = 0.05;
const PER_OCTAVE: f64 = 4.0;
pub const BUCKETS: usize = 68;
/// How fast old runs are forgotten: the weight of one run falls to a third after this many others.
const MEMORY: f64 = 1_000.0;
/// The prior: a lognormal distribution around five seconds that weighs as much as five runs.
const PRIOR_MEDIAN: f64 = 5.0;
const PRIOR_SIGMA: f64 = 1.2;
const PRIOR_WEIGHT: f64 = 5.0;
/// Below this share of runs that last this long there is no data left, and a Pareto tail of this index stands in.
const TAIL_FROM: f64 = 0.004;
const TAIL_INDEX: f64 = 1.5;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunTimes {
    /// Runs that took up to the bucket's upper edge, `FIRST * 2^(i / PER_OCTAVE)` seconds; newer runs weigh more.
    weights: Vec<f64>,
    /// What the next run weighs.
    next: f64,
    /// Runs learned.
    pub runs: u64,
    /// Share of runs longer than each edge, as of the last rebuild.
    #[serde(skip)]
    longer: Vec<f64>,
    /// The mean of min(run, edge) for each edge, as of the last rebuild.
    #[serde(skip)]
    within: Vec<f64>,
    /// Runs learned since the last rebuild.
    #[serde(skip)]
    fresh: u32,
}

impl Default for RunTimes {
    fn default() -> Self {
        let share_below = |seconds: f64| {
            // A logistic curve close to the normal one: the prior is a guess, so its exact shape does not matter.
            1.0 / (1.0 + (-1.702 * (seconds / PRIOR_MEDIAN).ln() / PRIOR_SIGMA).exp())
        };
        let below = |i: usize| if i == 0 { 0.0 } else { share_below(edge(i - 1)) };
        let weights = (0..BUCKETS).map(|i| PRIOR_WEIGHT * (share_below(edge(i)) - below(i))).collect();
        let mut histogram =
            RunTimes { weights, next: 1.0, runs: 0, longer: Vec::new(), within: Vec::new(), fresh: 0 };
        histogram.rebuild();
        histogram
    }
}

/// The upper edge of a bucket, in seconds.
pub(crate) fn edge(bucket: usize) -> f64 {
    EDGES[bucket]
}

static EDGES: LazyLock<[f64; BUCKETS]> =
    LazyLock::new(|| std::array::from_fn(|bucket| FIRST * 2f64.powf(bucket as f64 / PER_OCTAVE)));

/// The bucket that a run time in seconds falls into.
pub(crate) fn bucket_of(seconds: f64) -> usize {
    if seconds <= FIRST {
        0
    } else {
        ((PER_OCTAVE * (seconds / FIRST).log2() - 1e-9).ceil() as usize).min(BUCKETS - 1)
    }
}

impl RunTimes {
    /// Learns one run. What it changes is seen after the next [`rebuild`](Self::rebuild).
    pub fn add(&mut self, seconds: f64) {
        let seconds = if seconds.is_finite() { seconds.max(0.0) } else { return };
        self.fresh = self.fresh.saturating_add(1);
        self.next *= 1.0 / (1.0 - 1.0 / MEMORY);
        // A run is spread over one bucket's width around itself: runs that all take the same time would else lie at the
        // beginning or the end of a bucket by chance, and be expected at one end of it.
        let place = if seconds <= FIRST { 0.0 } else { PER_OCTAVE * (seconds / FIRST).log2() };
        let above = (place + 0.5).fract();
        let bucket = ((place + 0.5) as usize).min(BUCKETS - 1);
        self.weights[bucket] += self.next * (1.0 - above);
        self.weights[(bucket + 1).min(BUCKETS - 1)] += self.next * above;
        self.runs = self.runs.saturating_add(1);
        if self.next > 1e9 {
            self.weights.iter_mut().for_each(|weight| *weight /= self.next);
            self.next = 1.0;
        }
    }

    /// Brings the shares up to date with what was added; also needed once after it was read from a document.
    pub fn rebuild(&mut self) {
        self.rebuild_with(std::iter::empty());
    }

    /// The same, and counts runs that have not ended with their ages. What has ended so far of a young stream are its short
    /// runs: by them alone each long one would look late (Kaplan and Meier, "Nonparametric estimation from incomplete
    /// observations", 1958).
    pub fn rebuild_with(&mut self, running: impl Iterator<Item = f64>) {
        self.weights.resize(BUCKETS, 0.0);
        for weight in &mut self.weights {
            *weight = if weight.is_finite() { weight.max(0.0) } else { 0.0 };
        }
        self.next = if self.next.is_finite() { self.next.clamp(1.0, 1e9) } else { 1.0 };
        self.fresh = 0;
        let mut unended = [0.0; BUCKETS];
        running.for_each(|age| unended[bucket_of(age)] += self.next);
        // Those that reached the bucket; of what ends its run inside of it, on average half the time.
        let mut reached: f64 = self.weights.iter().chain(&unended).sum::<f64>().max(f64::MIN_POSITIVE);
        let mut share = 1.0;
        self.longer = self
            .weights
            .iter()
            .zip(unended)
            .map(|(ended, unended)| {
                let at_risk = (reached - 0.5 * unended).max(f64::MIN_POSITIVE);
                share *= (1.0 - ended / at_risk).clamp(0.0, 1.0);
                reached = (reached - ended - unended).max(0.0);
                share
            })
            .collect();
        let (mut sum, mut edge_before, mut share_before) = (0.0, 0.0, 1.0);
        self.within = (0..BUCKETS)
            .map(|bucket| {
                sum += (edge(bucket) - edge_before) * (share_before + self.longer[bucket]) / 2.0;
                (edge_before, share_before) = (edge(bucket), self.longer[bucket]);
                sum
            })
            .collect();
    }

    /// Rebuilds if anything was learned since the last time.
    pub fn refresh(&mut self) {
        if self.fresh > 0 {
            self.rebuild();
        }
    }

    /// The mean run time.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.within.last().copied().unwrap_or(PRIOR_MEDIAN)
    }

    /// The mean of min(run, `seconds`): the slot-time that one arrival per second holds within that span.
    #[must_use]
    pub fn mean_within(&self, seconds: f64) -> f64 {
        if seconds <= FIRST {
            return seconds.max(0.0);
        }
        interpolated(&self.within, seconds)
    }

    /// The share of the runs that have reached `age` which will last `further` more.
    #[must_use]
    pub fn remaining(&self, age: f64, further: f64) -> f64 {
        let (age, further) = (age.max(0.0), further.max(0.0));
        let here = self.survival(age);
        if here < TAIL_FROM {
            return (age / (age + further).max(f64::MIN_POSITIVE)).powf(TAIL_INDEX);
        }
        (self.survival(age + further) / here).min(1.0)
    }

    /// The share of runs longer than this.
    #[must_use]
    pub fn survival(&self, seconds: f64) -> f64 {
        if seconds <= FIRST {
            return 1.0;
        }
        interpolated(&self.longer, seconds)
    }

    /// The cumulative hazard between two ages: how many completions a healthy engine would show of a run in that time.
    #[must_use]
    pub fn hazard(&self, from: f64, to: f64) -> f64 {
        (self.cumulative(to) - self.cumulative(from)).max(0.0)
    }

    /// The cumulative hazard from the start to an age.
    fn cumulative(&self, age: f64) -> f64 {
        let left = self.survival(age);
        if left >= TAIL_FROM {
            return -left.ln();
        }
        let edges = self.longer.iter().position(|share| *share < TAIL_FROM).unwrap_or(BUCKETS - 1);
        TAIL_INDEX * (age / edge(edges.saturating_sub(1))).max(1.0).ln() - TAIL_FROM.ln()
    }
}

/// A value between those at the edges around `seconds`, which is beyond the first edge.
fn interpolated(at_edges: &[f64], seconds: f64) -> f64 {
    let place = PER_OCTAVE * (seconds / FIRST).log2();
    let bucket = place.max(0.0) as usize;
    if bucket + 1 >= at_edges.len() {
        return at_edges.last().copied().unwrap_or(0.0);
    }
    let (here, next) = (at_edges[bucket], at_edges[bucket + 1]);
    here + (place - bucket as f64) * (next - here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_what_was_learned() {
        let mut histogram = RunTimes::default();
        for n in 0..2_000 {
            histogram.add(1.0 + f64::from(n % 10) / 10.0);
        }
        histogram.rebuild();
        assert!(histogram.survival(0.5) > 0.98 && histogram.survival(4.0) < 0.02, "{histogram:?}");
        assert!((0.2..0.8).contains(&histogram.survival(1.5)));
        assert!(histogram.hazard(0.0, 1.0) < 0.1, "hardly any run ends in its first second");
        assert!(histogram.hazard(1.0, 2.0) > 1.0);
        assert!(histogram.hazard(100.0, 200.0) > 0.0 && histogram.hazard(0.0, 1e9).is_finite());
        assert!((1.2..1.8).contains(&histogram.mean()), "{}", histogram.mean());
        assert!((0.95..=1.0).contains(&histogram.mean_within(1.0)));
        assert!(histogram.remaining(0.0, 0.5) > 0.98 && histogram.remaining(1.0, 3.0) < 0.05);
        assert!(histogram.remaining(1e6, 1e6) < 0.5, "what runs for ever ends at last");
    }
}
