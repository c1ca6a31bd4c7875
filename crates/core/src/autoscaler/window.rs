//! The largest value within a span of time.

use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Values fall from front to back: what is older and not larger can never be the largest again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct WindowMax {
    values: VecDeque<(Time, u32)>,
}

/// Values kept; a stream of ever smaller ones that is longer loses its oldest, that is: forgets a little early.
const VALUES_MAX: usize = 4_096;

impl WindowMax {
    /// Adds a value and answers the largest of the last `window`, which may differ from call to call.
    pub(super) fn push(&mut self, now: Time, value: u32, window: Millis) -> u32 {
        while self.values.back().is_some_and(|(_, last)| *last <= value) {
            self.values.pop_back();
        }
        self.values.push_back((now, value));
        while self.values.len() > VALUES_MAX
            || self.values.front().is_some_and(|(at, _)| now.since(*at) > window)
        {
            self.values.pop_front();
        }
        self.values.front().map_or(value, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_its_window_and_no_longer() {
        let mut window = WindowMax::default();
        // (at, value, window, largest)
        let table = [
            (0, 5, 100, 5),
            (50, 3, 100, 5),
            (100, 1, 100, 5),
            (101, 1, 100, 3),
            (120, 2, 100, 3),
            (200, 0, 100, 2),
            (200, 0, 0, 0),
            (200, 4, 0, 4),
        ];
        for (at, value, span, largest) in table {
            assert_eq!(window.push(Time(at), value, span), largest, "at {at}");
        }
    }
}
