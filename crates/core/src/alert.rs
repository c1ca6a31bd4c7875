//! When a condition that holds becomes an alert, and when it is over.
//!
//! A condition has to hold for a while before it is told, and to be gone for a while before it is over, so that a moment's
//! excursion tells no one and a value that swings about its threshold does not tell everybody again and again.

use crate::time::{Millis, Time};

/// How long a condition must hold, and how long it must be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertTimes {
    pub hold: Millis,
    pub recovery: Millis,
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlertState {
    /// The condition does not hold.
    #[default]
    Quiet,
    /// It holds, but not for long enough yet.
    Pending { since: Time },
    /// It was told. `clear_since`: since when the condition is gone, if it is.
    Firing { since: Time, clear_since: Option<Time> },
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertChange {
    Fired,
    /// After this long.
    Resolved {
        after: Millis,
    },
}

impl AlertState {
    /// Takes in whether the condition holds now; a time before the last one counts as that one.
    pub fn observe(&mut self, holds: bool, times: AlertTimes, now: Time) -> Option<AlertChange> {
        let begun = match *self {
            AlertState::Pending { since } => since,
            _ => now,
        };
        match (*self, holds) {
            (AlertState::Quiet | AlertState::Pending { .. }, true) => {
                if now.since(begun) < times.hold {
                    *self = AlertState::Pending { since: begun };
                    return None;
                }
                *self = AlertState::Firing { since: begun, clear_since: None };
                Some(AlertChange::Fired)
            }
            (AlertState::Quiet | AlertState::Pending { .. }, false) => {
                *self = AlertState::Quiet;
                None
            }
            (AlertState::Firing { since, .. }, true) => {
                *self = AlertState::Firing { since, clear_since: None };
                None
            }
            (AlertState::Firing { since, clear_since }, false) => {
                let clear = clear_since.unwrap_or(now);
                if now.since(clear) < times.recovery {
                    *self = AlertState::Firing { since, clear_since: Some(clear) };
                    return None;
                }
                *self = AlertState::Quiet;
                Some(AlertChange::Resolved { after: clear.since(since) })
            }
        }
    }

    #[must_use]
    pub fn is_firing(&self) -> bool {
        matches!(self, AlertState::Firing { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_told_after_its_time_and_over_after_its_own() {
        let times = AlertTimes { hold: 10, recovery: 5 };
        let mut state = AlertState::default();
        let fired = Some(AlertChange::Fired);
        // (at, the condition holds, told)
        let table = [
            (0, true, None),
            (9, true, None),
            // A moment without it restarts the time.
            (10, false, None),
            (11, true, None),
            (20, true, None),
            (21, true, fired),
            (30, true, None),
            (40, false, None),
            // It is back before it was over, so no one hears of it again.
            (44, true, None),
            (50, false, None),
            (54, false, None),
            (55, false, Some(AlertChange::Resolved { after: 39 })),
            (56, false, None),
        ];
        for (at, holds, told) in table {
            assert_eq!(state.observe(holds, times, Time(at)), told, "at {at}");
        }
        let at_once = AlertTimes { hold: 0, recovery: 0 };
        assert_eq!(state.observe(true, at_once, Time(60)), fired);
        assert!(state.is_firing());
        assert_eq!(state.observe(false, at_once, Time(60)), Some(AlertChange::Resolved { after: 0 }));
    }
}
