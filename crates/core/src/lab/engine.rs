//! One engine of the lab: all its runs share one speed, so one clock of work tells when each of them ends.

use super::scenario::{EngineChange, EngineShape};
use crate::time::{Millis, SECOND};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct LabEngine {
    shape: EngineShape,
    /// Seconds of healthy work that each run has received since the beginning of the trace.
    work: f64,
    last: Millis,
    speed: f64,
    /// Where the clock of work stands when the run ends, as ordered bits, and the job.
    ends: BTreeSet<(u64, usize)>,
}

/// Work below this, in seconds, counts as done: it is far less than a millisecond's.
const DONE: f64 = 1e-9;

impl LabEngine {
    pub(super) fn new(shape: EngineShape) -> LabEngine {
        LabEngine { shape, work: 0.0, last: 0, speed: shape.speed, ends: BTreeSet::new() }
    }

    fn advance(&mut self, now: Millis) {
        self.work += self.speed * (now.saturating_sub(self.last) as f64 / SECOND as f64);
        self.last = now;
    }

    pub(super) fn change(&mut self, change: &EngineChange, now: Millis) {
        self.advance(now);
        self.shape = self.shape.changed(change);
        self.speed = self.shape.speed_of(self.ends.len());
    }

    pub(super) fn start(&mut self, job: usize, service_s: f64, now: Millis) {
        self.advance(now);
        // The bits of floats that are not negative are in the order of the floats.
        self.ends.insert(((self.work + service_s).to_bits(), job));
        self.speed = self.shape.speed_of(self.ends.len());
    }

    /// The first millisecond in which a run has ended.
    pub(super) fn next_end(&self) -> Option<Millis> {
        let (bits, _) = self.ends.first()?;
        let left = (f64::from_bits(*bits) - self.work - DONE).max(0.0);
        let ms = (left / self.speed * SECOND as f64).ceil();
        Some(self.last.saturating_add(ms.min(1e15) as Millis))
    }

    /// Takes out one run that has ended by now.
    pub(super) fn end_one(&mut self, now: Millis) -> Option<usize> {
        self.advance(now);
        let (bits, job) = *self.ends.first()?;
        if f64::from_bits(bits) > self.work + DONE {
            return None;
        }
        self.ends.pop_first();
        self.speed = self.shape.speed_of(self.ends.len());
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_beyond_the_knee_slow_each_other_down() {
        let mut engine = LabEngine::new(EngineShape { knee: 2.0, gamma: 0.0, speed: 1.0 });
        (0..4).for_each(|job| engine.start(job, 1.0, 0));
        assert_eq!(engine.next_end(), Some(2_000), "half speed");
        assert_eq!(engine.end_one(1_999), None);
        let ended: Vec<usize> = std::iter::from_fn(|| engine.end_one(2_000)).collect();
        assert_eq!((ended, engine.next_end()), (vec![0, 1, 2, 3], None));
        engine.start(9, 0.0005, 5_000);
        assert_eq!((engine.next_end(), engine.end_one(5_001)), (Some(5_001), Some(9)));
    }
}
