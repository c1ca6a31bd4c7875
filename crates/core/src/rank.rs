//! Rank: priority as a head start in time.
//!
//! `rank = ready_at - head_start(priority)` in milliseconds; the least rank goes first and the key (submission order)
//! breaks ties. Within a burst CRITICAL goes before HIGH before NORMAL before LOW, yet a row's rank never changes
//! while it waits and newer rows have ever greater ones, so old work of low priority always gets its turn.

use crate::priority::Priority;
use crate::time::{MINUTE, Millis, Time};
use serde::{Deserialize, Serialize};

/// The computed order of a pending execution; less is sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub i64);

/// How far ahead of LOW work each priority stands, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadStarts {
    pub low: Millis,
    pub normal: Millis,
    pub high: Millis,
    pub critical: Millis,
}

impl Default for HeadStarts {
    fn default() -> Self {
        HeadStarts { low: 0, normal: 5 * MINUTE, high: 15 * MINUTE, critical: 60 * MINUTE }
    }
}

impl HeadStarts {
    #[must_use]
    pub fn rank(&self, priority: Priority, ready_at: Time) -> Rank {
        let head_start = match priority {
            Priority::Low => self.low,
            Priority::Normal => self.normal,
            Priority::High => self.high,
            Priority::Critical => self.critical,
        };
        Rank(ready_at.minus(head_start).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_goes_by_priority_and_old_work_gets_its_turn() {
        let starts = HeadStarts::default();
        let minute = |m: i64| Time(m * 60_000);
        // (submitted at minute, priority), in the order they must start.
        let order = [
            (0, Priority::Critical),
            (0, Priority::High),
            (0, Priority::Normal),
            (0, Priority::Low),
            (61, Priority::Critical),
        ];
        let ranks: Vec<Rank> = order.iter().map(|(m, p)| starts.rank(*p, minute(*m))).collect();
        assert!(ranks.windows(2).all(|w| w[0] < w[1]), "{ranks:?}");
    }

    proptest! {
        #[test]
        fn one_hour_is_the_longest_any_later_work_can_overtake(at in 0i64..1 << 40, later in 0i64..1 << 40, a in 0usize..4, b in 0usize..4) {
            let starts = HeadStarts::default();
            let first = starts.rank(Priority::ALL[a], Time(at));
            let second = starts.rank(Priority::ALL[b], Time(at + later));
            if later > 3_600_000 {
                prop_assert!(first < second);
            }
        }
    }
}
