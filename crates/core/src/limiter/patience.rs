//! How long a slow endpoint is left alone before it is cut back to find out why: not at all at first, and longer after each cut
//! that showed nothing. Where runs get longer and shorter by themselves, they do so again and again.

use super::trial::Stretch;
use crate::time::{SECOND, Time};
use serde::{Deserialize, Serialize};

/// Seconds after the first cut that showed nothing, and at most.
const FIRST_S: f64 = 60.0;
const MAX_S: f64 = 480.0;
/// From which factor on there are clearly more calls, and up to which one they complete hardly more.
const MORE_CALLS: f64 = 1.4;
const HARDLY_MORE: f64 = 1.15;

/// Calls at once and their speed.
pub(super) type Load = (f64, f64);

pub(super) fn load(stretch: &Stretch) -> Load {
    (stretch.at_once(), stretch.speed())
}

/// More calls and no more completions than before: it is the concurrency.
pub(super) fn crowded(before: Load, after: Load) -> bool {
    after.0 >= MORE_CALLS * before.0 && after.0 * after.1 <= HARDLY_MORE * before.0 * before.1
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Patience {
    seconds: f64,
    /// Since when the endpoint is slow, and what it did then.
    slow: Option<(Time, Load)>,
}

impl Patience {
    /// A cut showed nothing.
    pub(super) fn grow(&mut self) {
        self.seconds = (2.0 * self.seconds).clamp(FIRST_S, MAX_S);
    }

    /// Cuts of this endpoint were right.
    pub(super) fn end(&mut self) {
        self.seconds = 0.0;
    }

    /// The endpoint is well.
    pub(super) fn rest(&mut self) {
        self.slow = None;
    }

    /// Whether an endpoint that was slow in this epoch is to be cut.
    pub(super) fn is_over(&mut self, epoch: &Stretch, now: Time) -> bool {
        let (since, first) = self.slow.get_or_insert((now, load(epoch)));
        let over = now.since(*since) as f64 >= self.seconds * SECOND as f64 || crowded(*first, load(epoch));
        if over {
            self.slow = None;
        }
        over
    }
}
