//! How long what has ended is kept: by age, by number, by size.
//!
//! An execution goes as a whole: its row, its events, request, result and log. One that the caller named (an id of its own, or an
//! idempotency key) is remembered for [`REMEMBERED`] after its end whatever else is asked for, so that a repeated submit finds it;
//! until then only what takes room goes.

use crate::execution::Status;
use crate::time::{DAY, Millis, Time};
use std::collections::BTreeMap;

/// How long an id or idempotency key that a caller chose is remembered after the end.
pub const REMEMBERED: Millis = DAY;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRules {
    /// How long after its end an execution is kept; `None`: forever.
    pub age: Option<Millis>,
    /// The same for one status, and for one engine by its name, which counts more.
    pub of_status: BTreeMap<Status, Millis>,
    pub of_engine: BTreeMap<String, Millis>,
    /// The most ended executions kept; the oldest go first.
    pub rows_max: Option<u64>,
    /// The most bytes that the store may use; the oldest ended executions go first.
    pub bytes_max: Option<u64>,
}

impl Default for RetentionRules {
    fn default() -> Self {
        RetentionRules {
            age: Some(30 * DAY),
            of_status: BTreeMap::new(),
            of_engine: BTreeMap::new(),
            rows_max: None,
            bytes_max: None,
        }
    }
}

/// What retention needs to know of an execution that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedExecution<'a> {
    pub engine: &'a str,
    pub status: Status,
    pub ended_at: Time,
    /// The caller chose its id, or gave an idempotency key.
    pub named: bool,
    /// Its request, result or log is still there.
    pub has_payload: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays, at least until then; `None`: until there are too many.
    Keep(Option<Time>),
    /// Request, result and log go; that it was, and how it ended, stays until then.
    Payload(Time),
    Whole,
}

impl RetentionRules {
    /// How long such an execution is kept after its end; `None`: forever.
    #[must_use]
    pub fn age_of(&self, engine: &str, status: Status) -> Option<Millis> {
        self.of_engine.get(engine).or_else(|| self.of_status.get(&status)).copied().or(self.age)
    }

    /// The shortest time after its end after which any execution goes; `None`: none goes by age.
    #[must_use]
    pub fn least_age(&self) -> Option<Millis> {
        self.of_engine.values().chain(self.of_status.values()).chain(&self.age).min().copied()
    }

    /// How many of the oldest ended executions must go so that the number and the size are within their bounds.
    ///
    /// `rows`: ended executions there are; `bytes`: what the store uses. What one of them takes is taken to be the mean, so after
    /// their removal it is to be asked again.
    #[must_use]
    pub fn surplus(&self, rows: u64, bytes: u64) -> u64 {
        let by_number = self.rows_max.map_or(0, |most| rows.saturating_sub(most));
        let over = self.bytes_max.map_or(0, |most| bytes.saturating_sub(most));
        // Rounded up, or the last piece would never go.
        let by_size = (u128::from(over) * u128::from(rows)).div_ceil(u128::from(bytes.max(1)));
        by_number.max(u64::try_from(by_size).unwrap_or(u64::MAX)).min(rows)
    }

    /// `surplus`: it is one of those that are too many.
    #[must_use]
    pub fn fate(&self, ended: &EndedExecution<'_>, surplus: bool, now: Time) -> Fate {
        let due = self.age_of(ended.engine, ended.status).map(|age| ended.ended_at.plus(age));
        if !surplus && due.is_none_or(|due| now < due) {
            return Fate::Keep(due);
        }
        let forgotten = ended.ended_at.plus(REMEMBERED);
        if ended.named && now < forgotten {
            return if ended.has_payload { Fate::Payload(forgotten) } else { Fate::Keep(Some(forgotten)) };
        }
        Fate::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::HOUR;

    fn rules() -> RetentionRules {
        RetentionRules {
            age: Some(10 * DAY),
            of_status: BTreeMap::from([(Status::Failed, 20 * DAY)]),
            of_engine: BTreeMap::from([("short".to_owned(), HOUR)]),
            rows_max: Some(100),
            bytes_max: Some(1_000),
        }
    }

    #[test]
    fn what_is_due_goes_and_what_was_named_is_remembered_for_a_day() {
        let keep = |until: Millis| Fate::Keep(Some(Time(0).plus(until)));
        // engine, status, named, has payload, surplus, hours after its end -> its fate
        let table = [
            ("e", Status::Completed, false, true, false, 239, keep(10 * DAY)),
            ("e", Status::Completed, false, true, false, 240, Fate::Whole),
            ("e", Status::Completed, true, true, false, 240, Fate::Whole),
            ("e", Status::Failed, false, true, false, 240, keep(20 * DAY)),
            ("e", Status::Failed, false, true, false, 480, Fate::Whole),
            ("short", Status::Failed, false, true, false, 1, Fate::Whole),
            ("short", Status::Failed, true, true, false, 1, Fate::Payload(Time(0).plus(DAY))),
            ("short", Status::Failed, true, false, false, 1, keep(DAY)),
            ("short", Status::Failed, true, false, false, 24, Fate::Whole),
            ("e", Status::Completed, false, true, true, 0, Fate::Whole),
            ("e", Status::Completed, true, true, true, 0, Fate::Payload(Time(0).plus(DAY))),
            ("e", Status::Cancelled, true, false, true, 23, keep(DAY)),
            ("e", Status::Cancelled, true, false, true, 24, Fate::Whole),
        ];
        for (engine, status, named, has_payload, surplus, hours, wanted) in table {
            let ended = EndedExecution { engine, status, ended_at: Time(0), named, has_payload };
            let fate = rules().fate(&ended, surplus, Time(0).plus(hours * HOUR));
            assert_eq!(fate, wanted, "{ended:?} after {hours} h, surplus {surplus}");
        }
        let for_ever = RetentionRules { age: None, ..RetentionRules::default() };
        let ended = EndedExecution {
            engine: "e",
            status: Status::Failed,
            ended_at: Time(0),
            named: false,
            has_payload: true,
        };
        assert_eq!(for_ever.fate(&ended, false, Time(i64::MAX)), Fate::Keep(None));
        assert_eq!((rules().least_age(), for_ever.least_age()), (Some(HOUR), None));
    }

    #[test]
    fn the_surplus_is_what_number_and_size_ask_for() {
        // rows, bytes -> surplus
        let table = [
            (0, 0, 0),
            (100, 1_000, 0),
            (130, 1_000, 30),
            (100, 2_000, 50),
            (130, 2_000, 65),
            (3, 1_001, 1),
            (0, 5_000, 0),
        ];
        for (rows, bytes, wanted) in table {
            assert_eq!(rules().surplus(rows, bytes), wanted, "{rows} rows, {bytes} bytes");
        }
        assert_eq!(RetentionRules::default().surplus(u64::MAX, u64::MAX), 0);
    }
}
