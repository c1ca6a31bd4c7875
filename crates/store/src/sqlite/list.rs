//! Lists by filter, newest first, each answered from one index.
//!
//! Every index ends with the key, so a range of an index with one value is already in the order of the list. Of the
//! indexes that fit a filter the one with the fewest rows drives, found by counting up to a bound; the other
//! conditions are checked row by row.

use super::read::many;
use super::row::{COLUMNS, signed, status_number, unsigned};
use crate::{Filter, ListQuery, StoreError};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::{KeyMaker, NodeId};
use enginehouse_core::time::{HOUR, Time};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

/// Index entries counted to compare two indexes.
const COUNTED_MAX: u64 = 1_000;
/// A key is made when its request comes in, so its time and the creation time lie closer together than this.
const KEY_SLACK: u64 = HOUR;

/// One range of one index, in key order.
struct Stream {
    /// The table or tables, with the index.
    from: &'static str,
    /// The index alone, for counting.
    index: &'static str,
    /// The condition on the index; `?1` is the value.
    condition: &'static str,
    key: &'static str,
    value: Value,
}

impl Stream {
    fn of_execution(index: &'static str, condition: &'static str, value: impl Into<Value>) -> Stream {
        Stream { from: index, index, condition, key: "execution.key", value: value.into() }
    }

    fn of_tag(tag: &str) -> Stream {
        Stream {
            from: "tag CROSS JOIN execution ON execution.key = tag.key",
            index: "tag",
            condition: "tag.tag = ?1",
            key: "tag.key",
            value: tag.to_owned().into(),
        }
    }

    fn of_status(status: Status) -> Stream {
        let number = status_number(status);
        if status.is_terminal() {
            Stream::of_execution("execution INDEXED BY ended", "status > 1 AND status = ?1", number)
        } else {
            Stream::of_execution("execution INDEXED BY live", "status < 2 AND status = ?1", number)
        }
    }

    fn of_engine(engine: &str) -> Stream {
        Stream::of_execution("execution INDEXED BY by_engine", "engine = ?1", engine.to_owned())
    }

    fn everything() -> Stream {
        Stream::of_execution("execution NOT INDEXED", "?1 IS NULL", Value::Null)
    }
}

/// The keys a list may look at, both inclusive.
#[derive(Clone, Copy)]
struct Keys {
    least: i64,
    most: i64,
}

impl Keys {
    fn of(query: &ListQuery) -> Keys {
        let least = query.filter.since.map_or(i64::MIN, |since| first_key(since.minus(KEY_SLACK)));
        let before_until = query.filter.until.map_or(i64::MAX, |until| first_key(until.plus(KEY_SLACK)));
        let older = query.after.map_or(i64::MAX, |after| after.0.saturating_sub(1));
        Keys { least, most: before_until.min(older) }
    }
}

fn first_key(at: Time) -> i64 {
    KeyMaker::new(NodeId(0)).next(at).0
}

/// Must run inside a transaction when several ranges are merged.
pub(super) fn list(db: &Connection, query: &ListQuery) -> Result<Vec<Execution>, StoreError> {
    let keys = Keys::of(query);
    let Some(streams) = choose(db, &query.filter, keys)? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for stream in &streams {
        rows.extend(read(db, stream, keys, query)?);
    }
    if streams.len() > 1 {
        rows.sort_by_key(|row| std::cmp::Reverse(row.key()));
        rows.truncate(query.limit);
    }
    Ok(rows)
}

/// The ranges that together hold every matching row; `None` when there can be none.
fn choose(db: &Connection, filter: &Filter, keys: Keys) -> Result<Option<Vec<Stream>>, StoreError> {
    let mut choices = candidates(db, filter)?;
    if choices.len() < 2 {
        return Ok(Some(choices.pop().unwrap_or_else(|| vec![Stream::everything()])));
    }
    let mut best: Option<(u64, Vec<Stream>)> = None;
    for streams in choices {
        let mut rows = 0;
        for stream in &streams {
            rows += count(db, stream, keys)?;
        }
        if best.as_ref().is_none_or(|(least, _)| rows < *least) {
            best = Some((rows, streams));
        }
    }
    Ok(best.filter(|(rows, _)| *rows > 0).map(|(_, streams)| streams))
}

/// Every way to answer, the ones that tend to be narrow first.
fn candidates(db: &Connection, filter: &Filter) -> Result<Vec<Vec<Stream>>, StoreError> {
    let mut choices = Vec::new();
    choices.extend(filter.tag.as_ref().map(|tag| vec![Stream::of_tag(tag)]));
    if let Some(user) = &filter.user {
        // The term for the index's own condition is spelled out, so that SQLite takes it.
        let condition = "user IS NOT NULL AND user = ?1";
        choices.push(vec![Stream::of_execution("execution INDEXED BY by_user", condition, user.clone())]);
    }
    if let Some(workflow) = &filter.workflow {
        choices.push(vec![Stream::of_execution(
            "execution INDEXED BY by_workflow",
            "workflow = ?1",
            workflow.clone(),
        )]);
    }
    let mut statuses = filter.statuses.clone();
    statuses.sort_unstable();
    statuses.dedup();
    let statuses_are_open = statuses.is_empty() || statuses.len() == Status::ALL.len();
    if !statuses_are_open {
        choices.push(statuses.into_iter().map(Stream::of_status).collect());
    }
    if statuses_are_open && (!filter.failure_kinds.is_empty() || filter.failure_code.is_some()) {
        // Whatever completed has no failure, and is most of what there is.
        let others = Status::ALL.into_iter().filter(|status| *status != Status::Completed);
        choices.push(others.map(Stream::of_status).collect());
    }
    choices.extend(filter.engine.as_ref().map(|engine| vec![Stream::of_engine(engine)]));
    if let Some(engine_type) = filter.engine_type.as_ref().filter(|_| filter.engine.is_none()) {
        let mut statement = db.prepare_cached("SELECT name FROM engine WHERE type = ? ORDER BY name")?;
        let names = statement.query_map([engine_type], |row| row.get::<_, String>(0))?;
        choices.push(names.map(|name| Ok(Stream::of_engine(&name?))).collect::<Result<_, StoreError>>()?);
    }
    Ok(choices)
}

fn count(db: &Connection, stream: &Stream, keys: Keys) -> Result<u64, StoreError> {
    let Stream { index, condition, key, value, .. } = stream;
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {index} WHERE {condition} AND {key} BETWEEN ?2 AND ?3 LIMIT {COUNTED_MAX})"
    );
    let values = [value.clone(), keys.least.into(), keys.most.into()];
    Ok(db.prepare_cached(&sql)?.query_row(values, |row| row.get(0).map(unsigned))?)
}

fn read(
    db: &Connection,
    stream: &Stream,
    keys: Keys,
    query: &ListQuery,
) -> Result<Vec<Execution>, StoreError> {
    let (sql, values) = statement(stream, keys, query);
    many(db, &sql, params_from_iter(values))
}

fn statement(stream: &Stream, keys: Keys, query: &ListQuery) -> (String, Vec<Value>) {
    let mut values = vec![stream.value.clone(), keys.least.into(), keys.most.into()];
    let Stream { from, condition, key, .. } = stream;
    let mut sql = format!("SELECT {} FROM {from} WHERE {condition} AND {key} BETWEEN ?2 AND ?3", *COLUMNS);
    let filter = &query.filter;
    let mut also = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ?{}", values.len()));
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    also("execution.engine =", text(&filter.engine));
    also("execution.engine_type =", text(&filter.engine_type));
    also("execution.workflow =", text(&filter.workflow));
    also("execution.user =", text(&filter.user));
    also("execution.failure ->> 'code' =", text(&filter.failure_code));
    also("execution.created_at >=", filter.since.map(|since| since.0.into()));
    also("execution.created_at <", filter.until.map(|until| until.0.into()));
    also(
        "execution.key IN (SELECT t.key FROM tag t WHERE t.key = execution.key AND t.tag =",
        text(&filter.tag),
    );
    if filter.tag.is_some() {
        sql.push(')');
    }
    if !filter.statuses.is_empty() {
        let numbers: Vec<String> = filter.statuses.iter().map(|s| status_number(*s).to_string()).collect();
        sql.push_str(&format!(" AND execution.status IN ({})", numbers.join(", ")));
    }
    if !filter.failure_kinds.is_empty() {
        let kinds: Vec<String> =
            filter.failure_kinds.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
        sql.push_str(&format!(" AND execution.failure ->> 'kind' IN ({})", kinds.join(", ")));
    }
    values.push(signed(query.limit as u64).into());
    sql.push_str(&format!(" ORDER BY {key} DESC LIMIT ?{}", values.len()));
    (sql, values)
}

#[cfg(test)]
mod tests {
    use super::super::{migrate, read};
    use super::*;
    use enginehouse_core::failure::FailureKind;

    fn plan(db: &Connection, sql: &str, values: usize) -> String {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("plan");
        let steps =
            statement.query_map(params_from_iter(vec![Value::Null; values]), |row| row.get::<_, String>(3));
        steps.expect("plan").map(|step| step.expect("text")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn every_query_follows_one_index_in_its_order() {
        let db = Connection::open_in_memory().expect("memory");
        migrate::migrate(&db, &migrate::Identity::read(&db).expect("identity")).expect("tables");
        let some = |text: &str| Some(text.to_owned());
        let everything = Filter {
            statuses: vec![Status::Failed],
            engine: some("e"),
            engine_type: some("t"),
            workflow: some("w"),
            user: some("u"),
            tag: some("g"),
            failure_kinds: vec![FailureKind::Auth],
            failure_code: some("c"),
            since: Some(Time(1)),
            until: Some(Time(2)),
        };
        let engine_type = Filter { engine_type: some("t"), ..Filter::default() };
        db.execute("INSERT INTO engine (type, name) VALUES ('t', 'e')", []).expect("engine");
        let mut statements: Vec<(String, usize)> = Vec::new();
        let failures = Filter { failure_code: some("c"), ..Filter::default() };
        for filter in [everything, engine_type, failures, Filter::default()] {
            let query = ListQuery { filter, after: None, limit: 10 };
            let mut choices = candidates(&db, &query.filter).expect("candidates");
            choices.push(vec![Stream::everything()]);
            for stream in choices.into_iter().flatten() {
                let (sql, values) = statement(&stream, Keys::of(&query), &query);
                statements.push((sql, values.len()));
            }
        }
        let fixed = [
            (read::READY_SAME_RANK, 4),
            (read::READY_BEYOND, 3),
            (&*read::DUE, 2),
            (&*read::RUNNING, 3),
            (read::NEXT_WAKE, 0),
            (read::LANE_COUNTS, 0),
            (read::LANE_HEAD, 1),
            (&*read::BY_KEY, 1),
            (&*read::BY_KEY_BARE, 1),
            (&*read::BY_EXT_ID, 1),
            (&*read::BY_IDEM_KEY, 1),
            (super::super::lane::FIND, 4),
            (super::super::retain::ENDED, 2),
            (super::super::retain::OLDEST_ENDED, 1),
            (super::super::feed::OLDEST, 1),
            (super::super::feed::BEHIND, 2),
        ];
        statements.extend(fixed.map(|(sql, values)| (sql.to_owned(), values)));
        for (sql, values) in statements {
            let plan = plan(&db, &sql, values);
            // The one walk over a whole index is the hydration's, and its groups lie in the index's order.
            let walk =
                plan.contains("SCAN") && !sql.contains("GROUP BY lane") && !sql.contains("wake_at LIMIT 1");
            assert!(!walk && !plan.contains("TEMP B-TREE"), "{plan}\n{sql}");
        }
        let same_rank = plan(&db, read::READY_SAME_RANK, 4);
        assert!(same_rank.contains("lane=? AND rank=? AND rowid>?"), "{same_rank}");
        let running = plan(&db, &read::RUNNING, 3);
        assert!(running.contains("status=? AND rowid>?"), "{running}");
    }
}
