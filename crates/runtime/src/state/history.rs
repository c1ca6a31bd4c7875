//! The figures over time: as they were sampled for an hour, by the minute for a week, by the hour for as long as configured.
//!
//! All of it is held in memory, and stored as documents of a minute, an hour and a day, so that a restart loses at most the
//! samples of its last minute.

use enginehouse_api::{MetricsSample, Percentiles};
use enginehouse_core::time::{DAY, HOUR, MINUTE, Millis, SECOND, Time};
use std::collections::VecDeque;

/// Samples in one answer.
const POINTS_MAX: u64 = 1_000;
/// Samples of one tier; a year of hours.
const SAMPLES_MAX: usize = 10_080;
const TIERS: usize = 3;

/// A coarser look at the figures, which reaches further back.
#[derive(Debug)]
struct Tier {
    step: Millis,
    keep: Millis,
    /// The span of one stored document.
    chunk: Millis,
    samples: VecDeque<MetricsSample>,
    /// What the next sample is made of.
    open: Mean,
}

/// Samples on their way to one.
#[derive(Debug, Default, Clone)]
struct Mean {
    count: f64,
    sum: Option<MetricsSample>,
}

impl Mean {
    fn add(&mut self, sample: &MetricsSample) {
        self.count += 1.0;
        self.sum = Some(match self.sum {
            None => *sample,
            Some(sum) => merged(&sum, sample),
        });
    }

    /// The sample of everything added, which starts over.
    fn take(&mut self) -> Option<MetricsSample> {
        let Mean { count, sum } = std::mem::take(self);
        let mut sample = sum?;
        for value in averaged(&mut sample) {
            *value /= count;
        }
        Some(sample)
    }
}

/// The values of which a longer span has the average.
fn averaged(sample: &mut MetricsSample) -> [&mut f64; 6] {
    [
        &mut sample.current_queue_size,
        &mut sample.active_workers,
        &mut sample.total_workers,
        &mut sample.system_utilization,
        &mut sample.throughput,
        &mut sample.error_rate,
    ]
}

/// Sums of what is averaged, the worst of waits and times, and the later one's totals.
fn merged(sum: &MetricsSample, sample: &MetricsSample) -> MetricsSample {
    let worst = |a: Percentiles, b: Percentiles| Percentiles {
        p50: a.p50.max(b.p50),
        p95: a.p95.max(b.p95),
        p99: a.p99.max(b.p99),
    };
    let mut next = MetricsSample {
        oldest_wait_s: sum.oldest_wait_s.max(sample.oldest_wait_s),
        queue_wait: worst(sum.queue_wait, sample.queue_wait),
        run_time: worst(sum.run_time, sample.run_time),
        end_to_end: worst(sum.end_to_end, sample.end_to_end),
        ..*sample
    };
    let mut before = *sum;
    for (value, earlier) in averaged(&mut next).into_iter().zip(averaged(&mut before)) {
        *value += *earlier;
    }
    next
}

/// A document that is to be stored: its name, and its samples.
pub(crate) struct Chunk {
    pub(crate) id: String,
    pub(crate) samples: Vec<MetricsSample>,
}

#[derive(Debug)]
pub(crate) struct History {
    tiers: [Tier; TIERS],
}

impl History {
    /// `interval`: between two samples; `retention`: how far back the coarsest tier reaches.
    pub(crate) fn new(interval: Millis, retention: Millis) -> History {
        let tier = |step: Millis, keep: Millis, chunk: Millis| Tier {
            step,
            keep: keep.min(retention),
            chunk,
            samples: VecDeque::new(),
            open: Mean::default(),
        };
        let finest = interval.max(SECOND);
        let tiers = [
            tier(finest, HOUR.max(finest), MINUTE),
            tier(MINUTE.max(finest), 7 * DAY, HOUR),
            tier(HOUR.max(finest), Millis::MAX, DAY),
        ];
        History { tiers }
    }

    /// Takes in one more sample, which is later than all before.
    pub(crate) fn push(&mut self, sample: MetricsSample) {
        for tier in &mut self.tiers {
            let span = |at: Time| at.0.div_euclid(i64::try_from(tier.step).unwrap_or(i64::MAX).max(1));
            let begins = tier.open.sum.is_some_and(|open| span(open.at.0) != span(sample.at.0));
            if begins && let Some(done) = tier.open.take() {
                tier.samples.push_back(done);
            }
            tier.open.add(&sample);
            let from = sample.at.0.minus(tier.keep);
            while tier.samples.len() > SAMPLES_MAX
                || tier.samples.front().is_some_and(|oldest| oldest.at.0 < from)
            {
                tier.samples.pop_front();
            }
        }
    }

    /// The documents that the samples since `since` belong to, each whole.
    pub(crate) fn chunks(&self, since: Time) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (at, tier) in self.tiers.iter().enumerate() {
            let first = chunk_of(since, tier.chunk);
            let mut current: Option<(i64, Vec<MetricsSample>)> = None;
            let recent = tier.samples.iter().filter(|sample| chunk_of(sample.at.0, tier.chunk) >= first);
            for sample in recent {
                let chunk = chunk_of(sample.at.0, tier.chunk);
                match &mut current {
                    Some((open, samples)) if *open == chunk => samples.push(*sample),
                    _ => {
                        chunks.extend(current.take().map(|done| named(at, done)));
                        current = Some((chunk, vec![*sample]));
                    }
                }
            }
            chunks.extend(current.map(|done| named(at, done)));
        }
        chunks
    }

    /// Takes up stored documents, in the order of their names; one of another shape is left alone.
    pub(crate) fn restore(&mut self, id: &str, samples: Vec<MetricsSample>) {
        let tier = id.split_once('-').and_then(|(tier, _)| tier.parse::<usize>().ok());
        let Some(tier) = tier.and_then(|at| self.tiers.get_mut(at)) else { return };
        let last = tier.samples.back().map_or(Time(i64::MIN), |sample| sample.at.0);
        tier.samples.extend(samples.into_iter().filter(|sample| sample.at.0 > last));
        while tier.samples.len() > SAMPLES_MAX {
            tier.samples.pop_front();
        }
    }

    /// Whether a document holds nothing that is kept any more.
    pub(crate) fn is_past(&self, id: &str, now: Time) -> bool {
        let Some((tier, chunk)) = id.split_once('-') else { return true };
        let tier = tier.parse::<usize>().ok().and_then(|at| self.tiers.get(at));
        let (Some(tier), Ok(chunk)) = (tier, chunk.parse::<i64>()) else { return true };
        let span = i64::try_from(tier.chunk).unwrap_or(i64::MAX);
        Time(chunk.saturating_add(1).saturating_mul(span)) < now.minus(tier.keep)
    }

    /// The samples of the last `window` in the finest step that reaches so far back and gives no more than
    /// [`POINTS_MAX`]; also the step.
    pub(crate) fn window(&self, window: Millis, now: Time) -> (Millis, Vec<MetricsSample>) {
        let reaches = self.tiers.iter().position(|tier| tier.keep >= window).unwrap_or(TIERS - 1);
        let tier = &self.tiers[reaches];
        let parts = window.div_ceil(tier.step).div_ceil(POINTS_MAX).max(1);
        let step = tier.step.saturating_mul(parts);
        let from = now.minus(window);
        let span = |at: Time| at.0.div_euclid(i64::try_from(step).unwrap_or(i64::MAX).max(1));
        let mut found = Vec::new();
        let mut open = Mean::default();
        for sample in tier.samples.iter().filter(|sample| sample.at.0 > from) {
            if open.sum.is_some_and(|sum| span(sum.at.0) != span(sample.at.0)) {
                found.extend(open.take());
            }
            open.add(sample);
        }
        found.extend(open.take());
        (step, found)
    }

    /// How many executions were pending on average within the last `window`; `None` without a sample.
    pub(crate) fn mean_queue(&self, window: Millis, now: Time) -> Option<f64> {
        let from = now.minus(window);
        let recent = self.tiers[0].samples.iter().rev().take_while(|sample| sample.at.0 > from);
        let (sum, count) =
            recent.fold((0.0, 0.0), |(sum, n), sample| (sum + sample.current_queue_size, n + 1.0));
        (count > 0.0).then_some(sum / count)
    }
}

fn chunk_of(at: Time, chunk: Millis) -> i64 {
    at.0.div_euclid(i64::try_from(chunk).unwrap_or(i64::MAX).max(1))
}

fn named(tier: usize, (chunk, samples): (i64, Vec<MetricsSample>)) -> Chunk {
    Chunk { id: format!("{tier}-{chunk:012}"), samples }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_api::Timestamp;

    fn sample(second: i64, queue: f64, p99: f64) -> MetricsSample {
        let times = Percentiles { p50: 1.0, p95: 2.0, p99 };
        MetricsSample {
            at: Timestamp(Time(second * 1_000)),
            total_executions: second as u64,
            successful_executions: 0,
            failed_executions: 0,
            cancelled_executions: 0,
            retried_attempts: 0,
            average_execution_time: 0.0,
            current_queue_size: queue,
            oldest_wait_s: queue,
            active_workers: 2.0,
            total_workers: 2.0,
            system_utilization: 0.5,
            throughput: 1.0,
            error_rate: 0.0,
            queue_wait: times,
            run_time: times,
            end_to_end: times,
        }
    }

    fn two_hours() -> History {
        let mut history = History::new(SECOND, DAY);
        (0..7_200).for_each(|s| history.push(sample(s, (s % 60) as f64, s as f64)));
        history
    }

    #[test]
    fn a_minute_has_the_average_the_worst_and_the_last() {
        let history = two_hours();
        let (step, samples) = history.window(2 * HOUR, Time(7_200_000));
        assert_eq!((step, samples.len()), (MINUTE, 119), "the last minute is not over");
        let second = samples[1];
        assert_eq!(second.current_queue_size, 29.5);
        assert_eq!((second.oldest_wait_s, second.queue_wait.p99), (59.0, 119.0));
        assert_eq!((second.total_executions, second.at), (119, Timestamp(Time(119_000))));
    }

    #[test]
    fn a_window_is_answered_in_at_most_a_thousand_steps() {
        let history = two_hours();
        let now = Time(7_200_000);
        let (step, samples) = history.window(10 * MINUTE, now);
        assert_eq!((step, samples.len()), (SECOND, 598), "the newest second is not over");
        let (step, samples) = history.window(HOUR, now);
        assert_eq!(step, 4 * SECOND);
        assert!((899..=901).contains(&samples.len()), "{}", samples.len());
        assert_eq!(history.tiers[0].samples.len(), 3_599 + 1, "an hour of them is kept");
    }

    #[test]
    fn what_is_stored_is_found_again() {
        let history = two_hours();
        let mut again = History::new(SECOND, DAY);
        let mut chunks = history.chunks(Time(0));
        chunks.sort_by(|a, b| a.id.cmp(&b.id));
        for chunk in chunks {
            assert!(!history.is_past(&chunk.id, Time(7_200_000)), "{}", chunk.id);
            again.restore(&chunk.id, chunk.samples);
        }
        let now = Time(7_200_000);
        for window in [MINUTE, HOUR, 2 * HOUR, DAY] {
            assert_eq!(again.window(window, now), history.window(window, now), "{window}");
        }
        let recent = history.chunks(Time(7_170_000));
        assert_eq!(
            recent.iter().map(|chunk| chunk.id.as_str()).collect::<Vec<_>>(),
            ["0-000000000119", "1-000000000001", "2-000000000000"]
        );
        assert!(history.is_past("0-000000000010", now) && history.is_past("x", now));
        again.restore("7-1", Vec::new());
    }
}
