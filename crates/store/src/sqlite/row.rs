//! Columns and back: the one place that knows how a row of `execution` is laid out.

use super::error::corrupt;
use crate::StoreError;
use enginehouse_core::event::Event;
use enginehouse_core::execution::{Execution, Fixed, Priority, State, Status};
use enginehouse_core::id::{ExecutionId, Fence, Key, SessionId};
use enginehouse_core::limits::HISTORY_EVENTS_MAX;
use enginehouse_core::rank::Rank;
use enginehouse_core::time::Time;
use rusqlite::types::FromSql;
use rusqlite::{Row, Statement, ToSql};
use std::sync::{Arc, LazyLock};

/// Between two events of a history. The JSON of an event is one line, so this occurs nowhere else.
pub(super) const SEPARATOR: &str = ",\n";

/// The columns a transition writes, in the order of [`put_state`].
const STATE_COLUMNS: [&str; 32] = [
    "rev",
    "generation",
    "status",
    "priority",
    "rank",
    "due",
    "retrying",
    "lane",
    "wake_at",
    "ready_at",
    "clock_from",
    "started_at",
    "run_started_at",
    "ended_at",
    "endpoint",
    "worker",
    "holder",
    "fence",
    "attempt",
    "reported",
    "lost",
    "node_crashes",
    "refused",
    "run",
    "engine_run",
    "can_reattach",
    "maybe_started",
    "cancel_at",
    "failure",
    "needs_input",
    "output_bytes",
    "abandoned",
];

/// The columns a submit fixes for good, in the order of [`put_fixed`].
const FIXED_COLUMNS: [&str; 12] = [
    "key",
    "ext_id",
    "idem_key",
    "request_hash",
    "engine",
    "engine_type",
    "workflow",
    "user",
    "ckey",
    "tags",
    "created_at",
    "spec",
];

/// What [`execution`] reads, without the history.
pub(super) static COLUMNS: LazyLock<String> = LazyLock::new(|| {
    let all: Vec<String> =
        FIXED_COLUMNS.iter().chain(&STATE_COLUMNS).map(|c| format!("execution.{c}")).collect();
    all.join(", ")
});

/// Stores a new row unless its key, id or idempotency key is taken; then nothing changes.
pub(super) static INSERT: LazyLock<String> = LazyLock::new(|| {
    let columns = [&FIXED_COLUMNS[..], &STATE_COLUMNS[..]].concat().join(", ");
    let marks = vec!["?"; FIXED_COLUMNS.len() + STATE_COLUMNS.len() + 1].join(", ");
    format!("INSERT INTO execution ({columns}, history) VALUES ({marks}) ON CONFLICT DO NOTHING")
});

/// Moves a row of this `rev` and appends to its history.
pub(super) static UPDATE: LazyLock<String> = LazyLock::new(|| update("history || ?"));

/// Moves a row of this `rev` and replaces its history.
pub(super) static UPDATE_FOLDED: LazyLock<String> = LazyLock::new(|| update("?"));

fn update(history: &str) -> String {
    let columns: Vec<String> = STATE_COLUMNS.iter().map(|c| format!("{c} = ?")).collect();
    let set = columns.join(", ");
    format!("UPDATE execution SET {set}, history = {history} WHERE key = ? AND rev = ?")
}

/// Binds parameters one after the other.
pub(super) struct Binder<'a, 'conn> {
    statement: &'a mut Statement<'conn>,
    bound: usize,
}

impl<'a, 'conn> Binder<'a, 'conn> {
    pub(super) fn new(statement: &'a mut Statement<'conn>) -> Binder<'a, 'conn> {
        Binder { statement, bound: 0 }
    }

    pub(super) fn put<T: ToSql>(&mut self, value: T) -> rusqlite::Result<()> {
        self.bound += 1;
        self.statement.raw_bind_parameter(self.bound, value)
    }
}

/// Counters are far below 2^63; one that is not would be stored as the largest.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn put_fixed(binder: &mut Binder<'_, '_>, fixed: &Fixed) -> Result<(), StoreError> {
    let Fixed {
        key,
        ext_id,
        idem_key,
        request_hash,
        engine,
        engine_type,
        workflow,
        user,
        ckey,
        tags,
        created_at,
        spec,
    } = fixed;
    binder.put(key.0)?;
    binder.put(ext_id.as_ref().map(ExecutionId::as_str))?;
    binder.put(idem_key)?;
    binder.put(&request_hash[..])?;
    binder.put(engine)?;
    binder.put(engine_type)?;
    binder.put(workflow)?;
    binder.put(user)?;
    binder.put(ckey)?;
    binder.put((!tags.is_empty()).then(|| to_json(tags)).transpose()?)?;
    binder.put(created_at.0)?;
    binder.put(to_json(spec)?)?;
    Ok(())
}

pub(super) fn put_state(
    binder: &mut Binder<'_, '_>,
    state: &State,
    lane: Option<i64>,
) -> Result<(), StoreError> {
    let State {
        rev,
        generation,
        status,
        priority,
        rank,
        due,
        retrying,
        wake_at,
        ready_at,
        clock_from,
        started_at,
        run_started_at,
        ended_at,
        endpoint,
        worker,
        holder,
        fence,
        attempt,
        reported,
        lost,
        node_crashes,
        refused,
        run,
        engine_run,
        can_reattach,
        maybe_started,
        cancel_at,
        failure,
        needs_input,
        output_bytes,
        abandoned,
    } = state;
    let time = |at: &Option<Time>| at.map(|at| at.0);
    binder.put(rev)?;
    binder.put(generation)?;
    binder.put(status_number(*status))?;
    binder.put(priority_number(*priority))?;
    binder.put(rank.0)?;
    binder.put(due)?;
    binder.put(retrying)?;
    binder.put(lane)?;
    binder.put(time(wake_at))?;
    binder.put(ready_at.0)?;
    binder.put(clock_from.0)?;
    binder.put(time(started_at))?;
    binder.put(time(run_started_at))?;
    binder.put(time(ended_at))?;
    binder.put(endpoint)?;
    binder.put(worker)?;
    binder.put(holder.map(|holder| holder.0))?;
    binder.put(signed(fence.0))?;
    for count in [attempt, reported, lost, node_crashes, refused, run] {
        binder.put(count)?;
    }
    binder.put(engine_run)?;
    binder.put(can_reattach)?;
    binder.put(maybe_started)?;
    binder.put(time(cancel_at))?;
    binder.put(failure.as_ref().map(to_json).transpose()?)?;
    binder.put(needs_input)?;
    binder.put(signed(*output_bytes))?;
    binder.put(abandoned)?;
    Ok(())
}

/// Reads columns one after the other.
struct Columns<'a, 'stmt> {
    row: &'a Row<'stmt>,
    next: usize,
}

impl Columns<'_, '_> {
    fn take<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        let at = self.next;
        self.next += 1;
        self.row.get(at)
    }

    fn time(&mut self) -> rusqlite::Result<Option<Time>> {
        Ok(self.take::<Option<i64>>()?.map(Time))
    }

    /// Text that is JSON, read in place.
    fn json<T: serde::de::DeserializeOwned>(&mut self, what: &str) -> Result<Option<T>, StoreError> {
        let at = self.next;
        self.next += 1;
        let text = self.row.get_ref(at)?.as_str_or_null().map_err(|e| corrupt(what, e))?;
        text.map(|text| serde_json::from_str(text).map_err(|e| corrupt(what, e))).transpose()
    }
}

/// A row of [`COLUMNS`]; with `history` as the column after them if `with_history`.
pub(super) fn execution(row: &Row<'_>, with_history: bool) -> Result<Execution, StoreError> {
    let mut columns = Columns { row, next: 0 };
    let fixed = Arc::new(fixed(&mut columns)?);
    let state = state(&mut columns)?;
    let history = if with_history {
        history(row.get_ref(columns.next)?.as_str().map_err(|e| corrupt("history", e))?)?
    } else {
        Vec::new()
    };
    Ok(Execution { fixed, state, history })
}

fn fixed(columns: &mut Columns<'_, '_>) -> Result<Fixed, StoreError> {
    let key = Key(columns.take()?);
    let ext_id: Option<String> = columns.take()?;
    Ok(Fixed {
        key,
        ext_id: ext_id.map(|id| ExecutionId::try_from(id).map_err(|e| corrupt("ext_id", e))).transpose()?,
        idem_key: columns.take()?,
        request_hash: columns.take()?,
        engine: columns.take()?,
        engine_type: columns.take()?,
        workflow: columns.take()?,
        user: columns.take()?,
        ckey: columns.take()?,
        tags: columns.json("tags")?.unwrap_or_default(),
        created_at: Time(columns.take()?),
        spec: columns.json("spec")?.ok_or_else(|| corrupt("spec", "absent"))?,
    })
}

fn state(columns: &mut Columns<'_, '_>) -> Result<State, StoreError> {
    Ok(State {
        rev: columns.take()?,
        generation: columns.take()?,
        status: status_of(columns.take()?)?,
        priority: priority_of(columns.take()?)?,
        rank: Rank(columns.take()?),
        due: columns.take()?,
        retrying: columns.take()?,
        wake_at: {
            // The lane follows from the other columns.
            columns.next += 1;
            columns.time()?
        },
        ready_at: Time(columns.take()?),
        clock_from: Time(columns.take()?),
        started_at: columns.time()?,
        run_started_at: columns.time()?,
        ended_at: columns.time()?,
        endpoint: columns.take()?,
        worker: columns.take()?,
        holder: columns.take::<Option<i64>>()?.map(SessionId),
        fence: Fence(unsigned(columns.take()?)),
        attempt: columns.take()?,
        reported: columns.take()?,
        lost: columns.take()?,
        node_crashes: columns.take()?,
        refused: columns.take()?,
        run: columns.take()?,
        engine_run: columns.take()?,
        can_reattach: columns.take()?,
        maybe_started: columns.take()?,
        cancel_at: columns.time()?,
        failure: columns.json("failure")?,
        needs_input: columns.take()?,
        output_bytes: unsigned(columns.take()?),
        abandoned: columns.take()?,
    })
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|e| StoreError::Unavailable(format!("a value cannot be written as JSON: {e}")))
}

/// The events of a stored history.
pub(super) fn history(text: &str) -> Result<Vec<Event>, StoreError> {
    let event = |text: &str| serde_json::from_str(text).map_err(|e| corrupt("history", e));
    text.split(SEPARATOR).map(event).collect()
}

/// What is appended to a stored history for one more event.
pub(super) fn appended(event: &str) -> String {
    [SEPARATOR, event].concat()
}

/// A stored history with one more event, folded to its bound: the first event and the newest ones stay.
pub(super) fn folded(history: &str, event: &str) -> String {
    let mut events: Vec<&str> = history.split(SEPARATOR).collect();
    events.push(event);
    if events.len() > HISTORY_EVENTS_MAX {
        let surplus = events.len() - HISTORY_EVENTS_MAX;
        events.drain(1..=surplus);
    }
    events.join(SEPARATOR)
}

pub(super) fn status_number(status: Status) -> i64 {
    match status {
        Status::Pending => 0,
        Status::Running => 1,
        Status::Completed => 2,
        Status::Failed => 3,
        Status::Cancelled => 4,
    }
}

fn status_of(number: i64) -> Result<Status, StoreError> {
    Status::ALL.into_iter().find(|s| status_number(*s) == number).ok_or_else(|| corrupt("status", number))
}

fn priority_number(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 1,
        Priority::Normal => 2,
        Priority::High => 3,
        Priority::Critical => 4,
    }
}

pub(super) fn priority_of(number: i64) -> Result<Priority, StoreError> {
    Priority::from_number(number).ok_or_else(|| corrupt("priority", number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_of_statuses_and_priorities_go_both_ways() {
        for status in Status::ALL {
            assert_eq!(status_of(status_number(status)).expect("known"), status);
        }
        for priority in Priority::ALL {
            assert_eq!(priority_of(priority_number(priority)).expect("known"), priority);
        }
        assert!(status_of(5).is_err() && priority_of(0).is_err());
    }

    #[test]
    fn a_folded_history_keeps_the_first_event_and_the_newest() {
        let mut history = "1".to_owned();
        for event in 2..=HISTORY_EVENTS_MAX + 10 {
            history = folded(&history, &event.to_string());
        }
        let events: Vec<&str> = history.split(SEPARATOR).collect();
        assert_eq!(events.len(), HISTORY_EVENTS_MAX);
        assert_eq!(events[..3], ["1", "12", "13"]);
        assert_eq!(events[HISTORY_EVENTS_MAX - 1], (HISTORY_EVENTS_MAX + 10).to_string());
    }
}
