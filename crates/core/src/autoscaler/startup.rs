//! How long workers take to start, learned from launches, and how long to wait after one that failed.

use crate::time::{MINUTE, Millis, SECOND, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Launches that are remembered.
const SEEN_MAX: usize = 20;
/// A launch has failed when it took this many times the start-up time, and not before this.
const FAILED_AFTER_TIMES: Millis = 3;
const FAILED_AFTER_MIN: Millis = 10 * SECOND;
const BACKOFF_MIN: Millis = SECOND;
const BACKOFF_MAX: Millis = MINUTE;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Startup {
    seen: VecDeque<Millis>,
    /// The launch up to which too old ones were taken in.
    overdue_until: Option<Time>,
    backoff: Millis,
    #[serde(default)]
    blocked_until: Option<Time>,
}

impl Startup {
    /// The 90th percentile of the last launches; `first` before there were any.
    pub(super) fn time(&self, first: Millis) -> Millis {
        let mut sorted: Vec<Millis> = self.seen.iter().copied().collect();
        sorted.sort_unstable();
        let at = (0.9 * sorted.len().saturating_sub(1) as f64) as usize;
        sorted.get(at).copied().unwrap_or(first)
    }

    /// The age from which a launch counts as failed.
    pub(super) fn timeout(&self, first: Millis) -> Millis {
        self.time(first).saturating_mul(FAILED_AFTER_TIMES).max(FAILED_AFTER_MIN)
    }

    pub(super) fn observe(&mut self, started: &[Millis], failed: u32, now: Time) {
        for span in started.iter().rev().take(SEEN_MAX).rev() {
            self.remember(*span);
        }
        if failed > 0 {
            self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
            self.blocked_until = Some(now.plus(self.backoff));
        } else if !started.is_empty() {
            self.backoff = 0;
            self.blocked_until = None;
        }
    }

    /// Takes in launches that have not ended though they are too old: the true start-up time may have grown, and then
    /// giving up each launch at the old one's multiple would never let a worker come up.
    pub(super) fn observe_overdue(&mut self, launched: &[Time], first: Millis, now: Time) {
        let timeout = self.timeout(first);
        let known = self.overdue_until;
        let overdue =
            launched.iter().filter(|at| now.since(**at) > timeout && known.is_none_or(|k| **at > k));
        let overdue: Vec<Time> = overdue.copied().collect();
        for at in &overdue {
            self.remember(now.since(*at));
        }
        self.overdue_until = known.max(overdue.iter().copied().max());
    }

    /// Until when nothing is launched, because launches fail.
    pub(super) fn blocked(&self, now: Time) -> Option<Time> {
        self.blocked_until.filter(|until| now < *until)
    }

    fn remember(&mut self, span: Millis) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_learned_and_a_longer_one_is_found_out() {
        let mut startup = Startup::default();
        assert_eq!((startup.time(700), startup.timeout(700)), (700, 10 * SECOND));
        startup.observe(&[5_000, 6_000, 7_000], 0, Time(0));
        assert_eq!((startup.time(700), startup.timeout(700)), (6_000, 18_000));
        startup.observe_overdue(&[Time(0)], 700, Time(18_000));
        assert_eq!(startup.time(700), 6_000, "not older than the timeout");
        for round in 0..30 {
            startup.observe_overdue(&[Time(round * 100_000)], 700, Time(round * 100_000 + 60_000));
            startup.observe_overdue(&[Time(round * 100_000)], 700, Time(round * 100_000 + 61_000));
        }
        assert!(startup.timeout(700) > 60_000 && startup.seen.len() <= SEEN_MAX, "{startup:?}");
    }

    #[test]
    fn failures_back_off_and_a_success_ends_that() {
        let mut startup = Startup::default();
        let blocked = |s: &Startup, at| s.blocked(Time(at)).map_or(0, |until| until.0 - at);
        // (at, started, failed, blocked for)
        let table = [
            (0, 0, 1, 1_000),
            (1_000, 0, 2, 2_000),
            (3_000, 0, 1, 4_000),
            (4_000, 0, 0, 3_000),
            (5_000, 1, 0, 0),
        ];
        for (at, started, failed, wait) in table {
            startup.observe(&vec![500; started], failed, Time(at));
            assert_eq!(blocked(&startup, at), wait, "at {at}");
        }
        (0..20).for_each(|n| startup.observe(&[], 1, Time(n)));
        assert_eq!(blocked(&startup, 19), 60_000);
    }
}
