//! The service's figures: sums that match the store's, and a sliding window for rates and percentiles.
//!
//! The window is cut into slices, each with counts and histograms of its own, so that what it holds does not grow with what
//! the service does. The oldest slice counts whole as long as a part of it lies in the window.

use enginehouse_api::Percentiles;
use enginehouse_core::execution::Status;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::lifecycle::Transition;
use enginehouse_core::time::{Millis, Time};
use enginehouse_store::Totals;
use hdrhistogram::Histogram;
use std::collections::VecDeque;

/// Parts of the window, each at least this long.
const SLICES: u64 = 60;
const SLICE_MIN: Millis = 100;
/// Significant digits of a percentile, and the longest time that is told apart from longer ones: 100 days.
const DIGITS: u8 = 2;
const LONGEST: Millis = 100 * 24 * 3_600_000;

/// Milliseconds of some executions. The histogram grows with the largest value, up to about 20 kB.
#[derive(Debug, Clone)]
struct Spread(Histogram<u32>);

impl Spread {
    fn new() -> Spread {
        let mut histogram = Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!("two digits are allowed"));
        histogram.auto(true);
        Spread(histogram)
    }

    fn add(&mut self, ms: Millis) {
        // The least value that it tells from others is 1; what took no millisecond is counted there. It grows up to the
        // longest by itself, so no value within these bounds is refused.
        let _ = self.0.record(ms.clamp(1, LONGEST));
    }

    fn percentiles(&self) -> Percentiles {
        let at = |share: f64| if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(share) as f64 };
        Percentiles { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
    }
}

/// Completed and failed ends of one slice; cancelled ones count nowhere.
#[derive(Debug, Clone)]
struct Slice {
    begin: Time,
    finished: u64,
    failed: u64,
    /// Failed because what the engine said could not be used.
    unreadable: u64,
    queue_wait: Spread,
    run_time: Spread,
    end_to_end: Spread,
    commits: Spread,
}

impl Slice {
    fn new(begin: Time) -> Slice {
        let empty = Spread::new();
        Slice {
            begin,
            finished: 0,
            failed: 0,
            unreadable: 0,
            queue_wait: empty.clone(),
            run_time: empty.clone(),
            end_to_end: empty.clone(),
            commits: empty,
        }
    }

    fn take_in(&mut self, other: &Slice) {
        self.finished += other.finished;
        self.failed += other.failed;
        self.unreadable += other.unreadable;
        let pairs = [
            (&mut self.queue_wait, &other.queue_wait),
            (&mut self.run_time, &other.run_time),
            (&mut self.end_to_end, &other.end_to_end),
            (&mut self.commits, &other.commits),
        ];
        for (sum, part) in pairs {
            // It grows by itself, so nothing it is given can be too large for it.
            let _ = sum.0.add(&part.0);
        }
    }
}

/// What the window says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Rates {
    /// Finished (completed or failed) per second.
    pub(crate) throughput: f64,
    /// Failed / finished, 0 when nothing finished.
    pub(crate) error_rate: f64,
    /// Milliseconds from due to the first grant, from there to the end, and both together.
    pub(crate) queue_wait: Percentiles,
    pub(crate) run_time: Percentiles,
    pub(crate) end_to_end: Percentiles,
    /// Finished within the window.
    pub(crate) finished: u64,
    /// Failed within it because what the engine said could not be used.
    pub(crate) unreadable: u64,
    /// Milliseconds of a commit of the store.
    pub(crate) commits: Percentiles,
}

#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) totals: Totals,
    /// The oldest first; at most one more than a window has.
    slices: VecDeque<Slice>,
    window: Millis,
    /// Rates are over the time observed, until that is a whole window.
    since: Time,
}

impl Figures {
    pub(crate) fn new(totals: Totals, window: Millis, now: Time) -> Figures {
        Figures { totals, slices: VecDeque::new(), window: window.max(1), since: now }
    }

    fn slice_len(&self) -> Millis {
        (self.window / SLICES).max(SLICE_MIN)
    }

    pub(crate) fn submitted(&mut self) {
        self.totals.submitted();
    }

    pub(crate) fn moved(&mut self, transition: &Transition) {
        self.totals.moved(transition);
        let next = &transition.next;
        let ends = matches!(next.status, Status::Completed | Status::Failed);
        if transition.from == next.status || !ends {
            return;
        }
        let at = next.ended_at.unwrap_or(transition.event.at);
        let slice = self.slice_at(at);
        slice.finished += 1;
        slice.failed += u64::from(next.status == Status::Failed);
        let failed_as = next.failure.as_ref().map(|failure| failure.kind);
        slice.unreadable += u64::from(failed_as == Some(FailureKind::BadResponse));
        if let Some(started) = next.started_at {
            slice.queue_wait.add(started.since(next.clock_from));
            slice.run_time.add(at.since(started));
        }
        slice.end_to_end.add(at.since(next.clock_from));
    }

    /// The store took this long for one commit.
    pub(crate) fn committed(&mut self, at: Time, took: Millis) {
        self.slice_at(at).commits.add(took);
    }

    /// The newest slice; a new one begins when its time is over.
    fn slice_at(&mut self, at: Time) -> &mut Slice {
        let len = self.slice_len();
        if self.slices.back().is_none_or(|last| at.since(last.begin) >= len) {
            self.slices.push_back(Slice::new(at));
            self.forget(at);
        }
        let newest = self.slices.len() - 1;
        &mut self.slices[newest]
    }

    fn forget(&mut self, now: Time) {
        let len = self.slice_len();
        let from = now.minus(self.window);
        while self.slices.front().is_some_and(|slice| slice.begin.plus(len) <= from) {
            self.slices.pop_front();
        }
    }

    /// Finished (completed or failed) per second.
    pub(crate) fn throughput(&mut self, now: Time) -> f64 {
        self.forget(now);
        let oldest = self.slices.front().map_or(now, |slice| slice.begin);
        // What is counted reaches back to the beginning of the oldest slice, which may lie a little before the window.
        let span = now.since(self.since).min(now.since(oldest).max(self.window)).max(1_000);
        let finished: u64 = self.slices.iter().map(|slice| slice.finished).sum();
        finished as f64 * 1_000.0 / span as f64
    }

    pub(crate) fn rates(&mut self, now: Time) -> Rates {
        let throughput = self.throughput(now);
        let mut sum = Slice::new(now);
        self.slices.iter().for_each(|slice| sum.take_in(slice));
        Rates {
            throughput,
            error_rate: if sum.finished == 0 { 0.0 } else { sum.failed as f64 / sum.finished as f64 },
            queue_wait: sum.queue_wait.percentiles(),
            run_time: sum.run_time.percentiles(),
            end_to_end: sum.end_to_end.percentiles(),
            finished: sum.finished,
            unreadable: sum.unreadable,
            commits: sum.commits.percentiles(),
        }
    }
}

/// What retention did when it last looked at the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) at: Time,
    /// Executions removed, and executions whose request, result and log were.
    pub(crate) removed: u64,
    pub(crate) emptied: u64,
    pub(crate) took: Millis,
    /// When the next execution is due by its age; `None`: none is.
    pub(crate) next_due: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures::new(Totals::default(), 60_000, Time(0))
    }

    fn ended(figures: &mut Figures, at: Time, failed: bool, took: Millis) {
        let slice = figures.slice_at(at);
        slice.finished += 1;
        slice.failed += u64::from(failed);
        slice.run_time.add(took);
    }

    #[test]
    fn rates_are_over_the_window_and_over_less_while_it_is_young() {
        let mut figures = figures();
        // 20,000 ends in each of ten seconds, one of a hundred failed.
        for second in 0..10i64 {
            for n in 0..20_000i64 {
                ended(&mut figures, Time(second * 1_000 + n / 20), n % 100 == 0, 7);
            }
        }
        let rates = figures.rates(Time(10_000));
        assert!((rates.throughput - 20_000.0).abs() < 1.0, "{rates:?}");
        assert!((rates.error_rate - 0.01).abs() < 1e-9, "{rates:?}");
        assert_eq!(rates.run_time, Percentiles { p50: 7.0, p95: 7.0, p99: 7.0 });
        let rates = figures.rates(Time(60_000));
        assert!((rates.throughput - 200_000.0 / 60.0).abs() < 1.0, "{rates:?}");
        assert_eq!(figures.rates(Time(71_000)), Rates::default());
    }

    #[test]
    fn percentiles_are_within_a_hundredth() {
        let mut figures = figures();
        (1..=10_000i64).for_each(|n| ended(&mut figures, Time(n), false, n as Millis));
        let found = figures.rates(Time(10_000)).run_time;
        for (found, wanted) in [(found.p50, 5_000.0), (found.p95, 9_500.0), (found.p99, 9_900.0)] {
            assert!((found - wanted).abs() <= wanted / 100.0, "{found} {wanted}");
        }
        ended(&mut figures, Time(10_001), false, Millis::MAX);
    }
}
