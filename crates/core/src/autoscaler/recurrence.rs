//! Demand that comes back after a fixed period: learned in the shadow, acted upon once it has proved right.
//!
//! For each candidate period the prediction is the smaller of the peaks one and two periods before the instant in
//! question. One that announces a clear rise is written down and scored when its time has come; the period acts after a
//! hit while at least 60 % of its announcements come true. Predictions only ever ask for more workers.

use crate::time::{Millis, SECOND, Time};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::VecDeque;

/// Candidate periods in seconds. The last one is looked up in the coarse ring.
const PERIODS_S: [i64; 8] = [60, 120, 300, 600, 900, 1_800, 3_600, 86_400];
/// Half of the window around the instant, in seconds.
const HALF_WINDOW_S: i64 = 3;
/// Seconds over which the present peak is taken, and how far a prediction must exceed it to count as announced.
const RECENT_S: i64 = 60;
const RISE: f64 = 2.0;
const RISE_SLOTS: f64 = 3.0;
/// How much of an announced peak must come for a hit, how fast scores are forgotten, and the share that must be hits.
const HIT_SHARE: f64 = 0.5;
const FORGET: f64 = 0.9;
const TRUST: f64 = 0.6;
/// Cells of the fine ring (a second each) and the coarse ring (ten seconds each): two of their longest periods and a lead.
const FINE_CELLS: usize = 2 * 3_600 + 64;
const COARSE_CELLS: usize = 2 * 8_640 + 64;
const COARSE_S: i64 = 10;

/// The peak of each of the last cells of time. Its document is run-length coded: at most about 100 kB, usually a few.
#[derive(Debug, Clone, PartialEq, Default)]
struct Ring {
    /// The number of the newest cell.
    newest: i64,
    cells: VecDeque<u16>,
}

impl Ring {
    /// Raises the peak of a cell of time; cells between the newest and a later one had nothing.
    fn raise(&mut self, cell: i64, value: u16, cells_max: usize) {
        let gap = cell.saturating_sub(self.newest);
        if self.cells.is_empty() || gap >= cells_max as i64 {
            self.cells.clear();
            self.cells.push_back(value);
            self.newest = cell;
            return;
        }
        for _ in 0..gap {
            self.cells.push_back(0);
            self.newest += 1;
        }
        while self.cells.len() > cells_max {
            self.cells.pop_front();
        }
        if let Some(last) = self.cells.back_mut() {
            *last = (*last).max(value);
        }
    }

    /// The largest of the cells from `from` to `to`; `None` when the first lies before what is known.
    fn peak(&self, from: i64, to: i64) -> Option<u16> {
        let oldest = self.newest - self.cells.len() as i64 + 1;
        if from > self.newest || self.cells.is_empty() {
            return Some(0);
        }
        let (from, to) =
            (usize::try_from(from - oldest).ok()?, usize::try_from(to.min(self.newest) - oldest).ok()?);
        Some(self.cells.range(from..=to).copied().max().unwrap_or(0))
    }
}

#[derive(Serialize, Deserialize)]
struct RingDoc {
    newest: i64,
    /// Value and how often, in turn.
    runs: Vec<u32>,
}

impl Serialize for Ring {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut runs: Vec<u32> = Vec::new();
        for cell in &self.cells {
            match runs.len() {
                n if n >= 2 && runs[n - 2] == u32::from(*cell) => runs[n - 1] += 1,
                _ => runs.extend([u32::from(*cell), 1]),
            }
        }
        RingDoc { newest: self.newest, runs }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Ring {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let doc = RingDoc::deserialize(from)?;
        let mut cells = VecDeque::new();
        for run in doc.runs.chunks_exact(2) {
            let value = u16::try_from(run[0]).unwrap_or(u16::MAX);
            let room = COARSE_CELLS.saturating_sub(cells.len());
            cells.extend(std::iter::repeat_n(value, (run[1] as usize).min(room)));
        }
        Ok(Ring { newest: doc.newest, cells })
    }
}

/// How a period's announcements came out, with forgetting.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Score {
    hits: f64,
    trials: f64,
    /// What was announced, and the second in which it is scored.
    open: Option<(i64, f64)>,
}

impl Score {
    fn trusted(&self) -> bool {
        self.hits >= FORGET && self.hits >= TRUST * self.trials
    }
}

/// Whether a peak is a clear rise above what was before it.
fn rises(peak: f64, base: f64) -> bool {
    peak >= RISE * base + RISE_SLOTS
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Recurrence {
    fine: Ring,
    coarse: Ring,
    /// In the order of [`PERIODS_S`].
    scores: [Score; PERIODS_S.len()],
    /// What the newest second's prediction was.
    #[serde(default)]
    best: f64,
}

impl Recurrence {
    /// Takes in the slots in use now; answers the slots that recurring demand will need `lead` from now, or 0.
    pub(super) fn push(&mut self, now: Time, occupied: u32, lead: Millis) -> f64 {
        let second = now.0.div_euclid(SECOND as i64);
        if !self.fine.cells.is_empty() && second < self.fine.newest {
            return 0.0;
        }
        let value = u16::try_from(occupied).unwrap_or(u16::MAX);
        let fresh = self.fine.cells.is_empty() || second > self.fine.newest;
        self.fine.raise(second, value, FINE_CELLS);
        self.coarse.raise(second.div_euclid(COARSE_S), value, COARSE_CELLS);
        if fresh {
            self.best = self.predict(second, (lead as f64 / SECOND as f64).round() as i64);
        }
        self.best
    }

    fn predict(&mut self, second: i64, lead: i64) -> f64 {
        let base = f64::from(self.fine.peak(self.oldest_from(second - RECENT_S), second).unwrap_or(0));
        let just = self.fine.peak(self.oldest_from(second - 4 * HALF_WINDOW_S), second).unwrap_or(0);
        let mut best: f64 = 0.0;
        for (at, period) in PERIODS_S.iter().enumerate() {
            let Some(predicted) = self.around(second + lead, *period) else { continue };
            let score = &mut self.scores[at];
            if let Some((due, announced)) = score.open
                && second >= due
            {
                let hit = f64::from(just) >= HIT_SHARE * announced;
                score.hits = FORGET * score.hits + f64::from(u8::from(hit));
                score.trials = FORGET * score.trials + 1.0;
                score.open = None;
            }
            if score.open.is_none() && rises(predicted, base) {
                score.open = Some((second + lead + 3 * HALF_WINDOW_S, predicted));
            }
            let score = self.scores[at];
            let fresh = score.trials == 0.0 && rises(predicted, base);
            if score.trusted() || (fresh && self.rose(second + lead, lead, *period, predicted)) {
                best = best.max(predicted);
            }
        }
        best
    }

    /// Whether demand rose to this before that instant one and two periods ago as well: then it was a burst and no plateau.
    fn rose(&self, instant: i64, lead: i64, period: i64, predicted: f64) -> bool {
        let base = |center: i64| self.fine.peak(center - lead - RECENT_S, center - lead);
        let before = [base(instant - period), base(instant - 2 * period)];
        period <= 3_600
            && before.into_iter().all(|base| base.is_some_and(|base| rises(predicted, f64::from(base))))
    }

    /// The smaller of the peaks one and two periods before `instant`; `None` when that is longer ago than is known.
    fn around(&self, instant: i64, period: i64) -> Option<f64> {
        let peak = |center: i64| {
            if period > 3_600 {
                let cell = center.div_euclid(COARSE_S);
                self.coarse.peak(cell - 1, cell + 1)
            } else {
                self.fine.peak(self.oldest_from(center - HALF_WINDOW_S).min(center), center + HALF_WINDOW_S)
            }
        };
        let (twice, once) = (peak(instant - 2 * period)?, instant - period);
        let once = if once > self.fine.newest { 0 } else { peak(once)? };
        Some(f64::from(once.min(twice)))
    }

    /// `second`, or the oldest one that is known if that is later.
    fn oldest_from(&self, second: i64) -> i64 {
        second.max(self.fine.newest - self.fine.cells.len() as i64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots in use: a burst of 30 for 20 seconds every ten minutes.
    fn bursts(second: i64) -> u32 {
        if second.rem_euclid(600) < 20 { 30 } else { 1 }
    }

    #[test]
    fn a_burst_that_comes_back_is_announced_after_it_proved_right() {
        let mut recurrence = Recurrence::default();
        let mut announced = Vec::new();
        for second in 0..6_000 {
            let slots = recurrence.push(Time(second * 1_000), bursts(second), 12 * SECOND);
            if slots >= 30.0 && bursts(second) == 1 && bursts(second - 1) != 30 {
                announced.push(second / 600 + 1);
            }
        }
        announced.dedup();
        assert_eq!(announced, (3..=10).collect::<Vec<_>>(), "in time before each burst from the fourth on");
    }

    #[test]
    fn what_does_not_come_back_is_not_trusted_for_long() {
        let mut recurrence = Recurrence::default();
        let mut acted = 0;
        for second in 0i64..20_000 {
            // Bursts at the squares: no period.
            let root = (second as f64 / 37.0).sqrt().fract();
            let slots = if root < 0.02 { 25 } else { 2 };
            acted += i64::from(recurrence.push(Time(second * 1_000), slots, 12 * SECOND) > 5.0);
        }
        assert!(acted < 1_000, "{acted} of 20000 seconds");
    }

    #[test]
    fn a_document_goes_on_where_it_was() {
        let mut one = Recurrence::default();
        for second in 0..3_000 {
            one.push(Time(second * 1_000), bursts(second), 12 * SECOND);
        }
        let text = serde_json::to_string(&one).unwrap();
        assert!(text.len() < 2_000, "{} bytes", text.len());
        let mut two: Recurrence = serde_json::from_str(&text).unwrap();
        for second in 3_000..4_000 {
            let at = Time(second * 1_000);
            assert_eq!(one.push(at, bursts(second), 12 * SECOND), two.push(at, bursts(second), 12 * SECOND));
        }
        assert_eq!(one.push(Time(0), 9, 12 * SECOND), 0.0, "a clock that goes back changes nothing");
        two.push(Time(i64::MAX / 2), 9, 12 * SECOND);
        assert_eq!(two.fine.cells.len(), 1);
    }
}
