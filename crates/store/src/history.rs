//! The bound on a row's own history, the same for every driver.

use enginehouse_core::event::Event;
use enginehouse_core::limits::HISTORY_EVENTS_MAX;

/// Folds a history to its bound: the first event (who submitted it, and when) and the newest ones stay.
pub(crate) fn fold(history: &mut Vec<Event>) {
    if history.len() > HISTORY_EVENTS_MAX {
        let surplus = history.len() - HISTORY_EVENTS_MAX;
        history.drain(1..=surplus);
    }
}
