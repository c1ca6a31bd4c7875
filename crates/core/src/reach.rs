//! How long the engine's run of an execution has been out of reach, told from its events.
//!
//! A run that is known and cannot be asked for its end burns no attempt: each look ends as `unreachable` and another follows.
//! That a look went well is written nowhere before the run ends, so one that lasts longer than any that fails counts as such.

use crate::event::{Event, EventType};
use crate::reason::Reason;
use crate::time::{MINUTE, Millis, Time};

/// A look that has lasted this long has reached the run: with the usual settings one that does not ends within 2 minutes.
const LOOK_MAX: Millis = 10 * MINUTE;

/// A run that is known and out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfReach {
    /// The end of the first look that did not reach it.
    pub since: Time,
    /// Looks since then.
    pub looks: u32,
    /// When the look began that is under way.
    looking_since: Option<Time>,
    /// The event that was counted last.
    seq: u32,
}

impl OutOfReach {
    /// What is known after one more event. An event that was counted before changes nothing.
    #[must_use]
    pub fn after(known: Option<OutOfReach>, event: &Event) -> Option<OutOfReach> {
        if known.is_some_and(|known| event.seq <= known.seq) {
            return known;
        }
        let (at, seq) = (event.at, event.seq);
        match event.kind {
            EventType::ExecutionRetrying if event.data.reason == Some(Reason::Unreachable) => {
                let before = known.filter(|known| known.holds(at));
                let first = OutOfReach { since: at, looks: 0, looking_since: None, seq };
                let OutOfReach { since, looks, .. } = before.unwrap_or(first);
                Some(OutOfReach { since, looks: looks.saturating_add(1), ..first })
            }
            EventType::ExecutionRetrying
            | EventType::ExecutionCompleted
            | EventType::ExecutionFailed
            | EventType::ExecutionCancelled
            | EventType::ExecutionRedriven => None,
            EventType::ExecutionStarted => {
                known.map(|known| OutOfReach { looking_since: Some(at), seq, ..known })
            }
            _ => known.map(|known| OutOfReach { seq, ..known }),
        }
    }

    /// The same after a whole history.
    #[must_use]
    pub fn told_by(history: &[Event]) -> Option<OutOfReach> {
        history.iter().fold(None, OutOfReach::after)
    }

    /// Whether the run is out of reach still.
    #[must_use]
    pub fn holds(&self, now: Time) -> bool {
        self.looking_since.is_none_or(|at| now.since(at) < LOOK_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventData;
    use EventType::{
        ExecutionCompleted, ExecutionReady, ExecutionRetrying, ExecutionStarted, ExecutionSubmitted,
    };

    fn told(events: &[(EventType, Millis, &str)]) -> Option<(Time, u32, Vec<bool>)> {
        let history: Vec<Event> = (1..)
            .zip(events)
            .map(|(seq, (kind, at, reason))| {
                let reason = (!reason.is_empty()).then(|| Reason::from((*reason).to_owned()));
                let data = EventData { reason, ..EventData::default() };
                Event { seq, kind: *kind, at: Time(0).plus(*at), attempt: 1, data }
            })
            .collect();
        let last = history.last().map_or(Time(0), |event| event.at);
        let known = OutOfReach::told_by(&history)?;
        assert_eq!(OutOfReach::after(Some(known), &history[history.len() - 1]), Some(known), "counted once");
        let holds = [0, LOOK_MAX].map(|span| known.holds(last.plus(span)));
        Some((known.since, known.looks, holds.to_vec()))
    }

    #[test]
    fn a_run_is_out_of_reach_until_a_look_lasts() {
        let (begin, lost) = ((ExecutionStarted, 1, ""), (ExecutionRetrying, 40, "unreachable"));
        let again = [(ExecutionReady, 50, ""), (ExecutionStarted, 51, "")];
        let waits = [true, true];
        assert_eq!(told(&[(ExecutionSubmitted, 0, ""), begin]), None);
        assert_eq!(told(&[begin, (ExecutionRetrying, 40, "refused")]), None);
        assert_eq!(told(&[begin, lost]), Some((Time(40), 1, waits.to_vec())));
        assert_eq!(told(&[begin, lost, again[0], again[1]]), Some((Time(40), 1, vec![true, false])));
        let second = (ExecutionRetrying, 90, "unreachable");
        assert_eq!(told(&[begin, lost, again[0], again[1], second]), Some((Time(40), 2, waits.to_vec())));
        let late = (ExecutionRetrying, 51 + LOOK_MAX, "unreachable");
        let anew = Time(0).plus(51 + LOOK_MAX);
        assert_eq!(told(&[begin, lost, again[0], again[1], late]), Some((anew, 1, waits.to_vec())));
        assert_eq!(told(&[begin, lost, again[0], again[1], (ExecutionCompleted, 60, "")]), None);
        assert_eq!(told(&[begin, lost, (ExecutionRetrying, 60, "")]), None);
    }
}
