//! Which executions have a run in their engine that is out of reach, for the alert that tells of them.
//!
//! It is kept in memory: after a start of the service they come to be known again by their next look.

use enginehouse_core::event::Event;
use enginehouse_core::id::Key;
use enginehouse_core::reach::OutOfReach;
use enginehouse_core::time::{Millis, Time};
use std::collections::BTreeMap;

/// Executions that are kept; the alert is about the oldest, and these are enough to fire it.
const KEPT_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Unreached(BTreeMap<Key, (String, OutOfReach)>);

/// What is to be told of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Executions whose run has been out of reach for longer than is tolerated.
    pub(crate) count: u64,
    pub(crate) oldest: Millis,
}

impl Unreached {
    pub(crate) fn heard(&mut self, key: Key, engine: &str, event: &Event) {
        let known = self.0.get(&key).map(|(_, known)| *known);
        match OutOfReach::after(known, event) {
            None => drop(self.0.remove(&key)),
            Some(next) if known.is_some() || self.0.len() < KEPT_MAX => {
                self.0.insert(key, (engine.to_owned(), next));
            }
            Some(_) => {}
        }
    }

    /// By engine, those out of reach for longer than `limit`. What is in reach again is forgotten.
    pub(crate) fn longer_than(&mut self, limit: Millis, now: Time) -> BTreeMap<String, Lost> {
        self.0.retain(|_, (_, known)| known.holds(now));
        let mut found: BTreeMap<String, Lost> = BTreeMap::new();
        for (engine, known) in self.0.values() {
            let span = now.since(known.since);
            if span > limit {
                let lost = found.entry(engine.clone()).or_insert(Lost { count: 0, oldest: 0 });
                *lost = Lost { count: lost.count + 1, oldest: lost.oldest.max(span) };
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_core::event::{EventData, EventType};
    use enginehouse_core::reason::Reason;
    use enginehouse_core::time::MINUTE;

    fn event(seq: u32, kind: EventType, at: Time) -> Event {
        let reason = (kind == EventType::ExecutionRetrying).then_some(Reason::Unreachable);
        Event { seq, kind, at, attempt: 1, data: EventData { reason, ..EventData::default() } }
    }

    #[test]
    fn those_out_of_reach_for_too_long_are_counted_until_they_end() {
        let mut unreached = Unreached::default();
        let at = |minutes: u64| Time(0).plus(minutes * MINUTE);
        for (key, engine, minute) in [(1, "a", 0), (2, "a", 2), (3, "a", 9), (4, "b", 1)] {
            unreached.heard(Key(key), engine, &event(3, EventType::ExecutionRetrying, at(minute)));
        }
        let lost = |count, minutes: u64| Lost { count, oldest: minutes * MINUTE };
        assert_eq!(unreached.longer_than(5 * MINUTE, at(5)), BTreeMap::new());
        let wanted = BTreeMap::from([("a".to_owned(), lost(2, 10)), ("b".to_owned(), lost(1, 9))]);
        assert_eq!(unreached.longer_than(5 * MINUTE, at(10)), wanted);
        unreached.heard(Key(1), "a", &event(4, EventType::ExecutionStarted, at(11)));
        unreached.heard(Key(4), "b", &event(4, EventType::ExecutionCompleted, at(11)));
        assert_eq!(
            unreached.longer_than(5 * MINUTE, at(12)),
            BTreeMap::from([("a".to_owned(), lost(2, 12))])
        );
        // The look that began at 11 goes on: it has found its run.
        assert_eq!(
            unreached.longer_than(5 * MINUTE, at(21)),
            BTreeMap::from([("a".to_owned(), lost(2, 19))])
        );
        unreached.heard(Key(2), "a", &event(9, EventType::ExecutionFailed, at(21)));
        unreached.heard(Key(3), "a", &event(9, EventType::ExecutionFailed, at(21)));
        assert_eq!(unreached.longer_than(5 * MINUTE, at(22)), BTreeMap::new());
    }
}
