//! The service's figures: sums that match the store's, and a sliding window for rates and percentiles.

use enginehouse_api::Percentiles;
use enginehouse_core::execution::Status;
use enginehouse_core::lifecycle::Transition;
use enginehouse_core::time::{Millis, Time};
use enginehouse_store::Totals;
use std::collections::VecDeque;

/// Ends kept for the window; beyond it the oldest give way.
const ENDS_MAX: usize = 16_384;

#[derive(Debug, Clone, Copy)]
struct End {
    at: Time,
    failed: bool,
    /// Submit (or its ready time) to first grant, and first grant to end; `None` when it never started.
    times: Option<(Millis, Millis)>,
    /// Cancelled ends count in no rate.
    counts: bool,
}

#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) totals: Totals,
    ends: VecDeque<End>,
    window: Millis,
    /// Rates are over the time observed, until that is a whole window.
    since: Time,
}

impl Figures {
    pub(crate) fn new(totals: Totals, window: Millis, now: Time) -> Figures {
        Figures { totals, ends: VecDeque::new(), window: window.max(1), since: now }
    }

    pub(crate) fn submitted(&mut self) {
        self.totals.submitted();
    }

    pub(crate) fn moved(&mut self, transition: &Transition) {
        self.totals.moved(transition);
        let next = &transition.next;
        if transition.from == next.status || !next.status.is_terminal() {
            return;
        }
        let at = next.ended_at.unwrap_or(transition.event.at);
        let times = next.started_at.map(|started| (started.since(next.clock_from), at.since(started)));
        if self.ends.len() == ENDS_MAX {
            self.ends.pop_front();
        }
        let counts = next.status != Status::Cancelled;
        self.ends.push_back(End { at, failed: next.status == Status::Failed, times, counts });
    }

    fn recent(&self, now: Time) -> impl Iterator<Item = &End> {
        let from = now.minus(self.window);
        self.ends.iter().filter(move |e| e.at >= from && e.counts)
    }

    /// Finished (completed or failed) per second.
    pub(crate) fn throughput(&self, now: Time) -> f64 {
        let span = now.since(self.since).clamp(1_000, self.window.max(1_000));
        self.recent(now).count() as f64 * 1_000.0 / span as f64
    }

    /// Failed / (completed + failed), 0 when there was neither.
    pub(crate) fn error_rate(&self, now: Time) -> f64 {
        let (failed, all) = self.recent(now).fold((0u32, 0u32), |(f, a), e| (f + u32::from(e.failed), a + 1));
        if all == 0 { 0.0 } else { f64::from(failed) / f64::from(all) }
    }

    pub(crate) fn queue_wait(&self, now: Time) -> Percentiles {
        percentiles(self.recent(now).filter_map(|e| e.times.map(|t| t.0)).collect())
    }

    pub(crate) fn run_time(&self, now: Time) -> Percentiles {
        percentiles(self.recent(now).filter_map(|e| e.times.map(|t| t.1)).collect())
    }
}

/// Nearest-rank percentiles.
fn percentiles(mut samples: Vec<Millis>) -> Percentiles {
    samples.sort_unstable();
    let at = |share: f64| {
        let rank = (share * samples.len() as f64).ceil() as usize;
        samples.get(rank.max(1) - 1).map_or(0.0, |ms| *ms as f64)
    };
    Percentiles { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
}
