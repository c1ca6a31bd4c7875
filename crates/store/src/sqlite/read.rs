//! Every read but the list: each goes by a key or by one index, in that index's order.

use super::error::corrupt;
use super::row::{self, COLUMNS, priority_of, signed, unsigned};
use crate::{Doc, DocKind, LaneCount, Ready, Ref, Started, Starting, StoreError, Totals};
use enginehouse_core::execution::{Execution, Lane};
use enginehouse_core::id::{Key, NodeId, SessionId};
use enginehouse_core::lifecycle::Part;
use enginehouse_core::rank::Rank;
use enginehouse_core::session::{RoleGrant, Session};
use enginehouse_core::time::Time;
use rusqlite::{Connection, OptionalExtension, Params, params};
use std::sync::{Arc, LazyLock};

pub(super) static BY_KEY: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {}, history FROM execution WHERE key = ?", *COLUMNS));
pub(super) static BY_KEY_BARE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM execution WHERE key = ?", *COLUMNS));
pub(super) static BY_EXT_ID: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT {}, history FROM execution INDEXED BY by_ext_id WHERE ext_id = ?", *COLUMNS)
});
pub(super) static BY_IDEM_KEY: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT {}, history FROM execution INDEXED BY by_idem_key WHERE idem_key = ?", *COLUMNS)
});
pub(super) static DUE: LazyLock<String> = LazyLock::new(|| {
    let columns = &*COLUMNS;
    format!(
        "SELECT {columns} FROM execution INDEXED BY wake
         WHERE wake_at IS NOT NULL AND status = 0 AND wake_at <= ? ORDER BY wake_at, key LIMIT ?"
    )
});
pub(super) static RUNNING: LazyLock<String> = LazyLock::new(|| {
    let columns = &*COLUMNS;
    format!(
        "SELECT {columns} FROM execution INDEXED BY live
         WHERE status < 2 AND status = 1 AND key > ?1 AND (?2 IS NULL OR holder = ?2) ORDER BY key LIMIT ?3"
    )
});
/// Many rows may share one rank, and SQLite enters an index at (rank, key) only where the rank is equal.
pub(super) const READY_SAME_RANK: &str =
    "SELECT key, rank, priority, endpoint, maybe_started OR (can_reattach AND engine_run IS NOT NULL),
    coalesce(json_extract(spec, '$.fail_fast'), 0)
    FROM execution INDEXED BY ready WHERE lane = ?1 AND rank = ?2 AND key > ?3 ORDER BY key LIMIT ?4";
pub(super) const READY_BEYOND: &str =
    "SELECT key, rank, priority, endpoint, maybe_started OR (can_reattach AND engine_run IS NOT NULL),
    coalesce(json_extract(spec, '$.fail_fast'), 0)
    FROM execution INDEXED BY ready WHERE lane = ?1 AND rank > ?2 ORDER BY rank, key LIMIT ?3";
pub(super) const NEXT_WAKE: &str = "SELECT wake_at FROM execution INDEXED BY wake
    WHERE wake_at IS NOT NULL AND status = 0 ORDER BY wake_at LIMIT 1";
pub(super) const LANE_COUNTS: &str =
    "SELECT lane, count(*) FROM execution INDEXED BY ready WHERE lane IS NOT NULL GROUP BY lane";
pub(super) const LANE_HEAD: &str =
    "SELECT rank, key FROM execution INDEXED BY ready WHERE lane = ? ORDER BY rank, key LIMIT 1";

pub(super) fn find(db: &Connection, by: &Ref) -> Result<Option<Execution>, StoreError> {
    match by {
        Ref::Key(key) => one(db, &BY_KEY, [key.0]),
        Ref::Id(id) => one(db, &BY_EXT_ID, [id.as_str()]),
        Ref::Idempotency(key) => one(db, &BY_IDEM_KEY, [key]),
    }
}

fn one(db: &Connection, sql: &str, params: impl Params) -> Result<Option<Execution>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(|row| row::execution(row, true)).transpose()
}

pub(super) fn starting(db: &Connection, wanted: &Starting) -> Result<Option<Started>, StoreError> {
    let Some(row) = many(db, &BY_KEY_BARE, [wanted.key.0])?.pop() else {
        return Ok(None);
    };
    let comes = row.fixed.spec.input_bytes <= wanted.request_up_to;
    let request = if comes { payload(db, wanted.key, Part::Input)? } else { None };
    Ok(Some((row, request)))
}

/// Rows of [`COLUMNS`].
pub(super) fn many(db: &Connection, sql: &str, params: impl Params) -> Result<Vec<Execution>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(row::execution(row, false)?);
    }
    Ok(found)
}

pub(super) fn payload(db: &Connection, key: Key, part: Part) -> Result<Option<Arc<[u8]>>, StoreError> {
    let sql = match part {
        Part::Input => "SELECT body FROM input WHERE key = ?",
        Part::Output => "SELECT body FROM output WHERE key = ?",
        Part::Logs => "SELECT body FROM logs WHERE key = ?",
    };
    let mut statement = db.prepare_cached(sql)?;
    let body = |row: &rusqlite::Row<'_>| Ok(Arc::from(row.get_ref(0)?.as_blob()?));
    Ok(statement.query_row([key.0], body).optional()?)
}

/// Must run inside a transaction: counts and heads belong to one state of the store.
pub(super) fn lanes(db: &Connection) -> Result<Vec<LaneCount>, StoreError> {
    let mut statement = db.prepare_cached(LANE_COUNTS)?;
    let mut rows = statement.query([])?;
    let mut lanes = Vec::new();
    while let Some(row) = rows.next()? {
        let (number, count): (i64, i64) = (row.get(0)?, row.get(1)?);
        let head = |row: &rusqlite::Row<'_>| Ok((Rank(row.get(0)?), Key(row.get(1)?)));
        let head = db.prepare_cached(LANE_HEAD)?.query_row([number], head)?;
        lanes.push(LaneCount { lane: lane_name(db, number)?, rows: unsigned(count), head });
    }
    lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
    Ok(lanes)
}

fn lane_name(db: &Connection, number: i64) -> Result<Lane, StoreError> {
    let mut statement = db.prepare_cached("SELECT engine, user, ckey, retry FROM lane WHERE id = ?")?;
    let lane = |row: &rusqlite::Row<'_>| {
        Ok(Lane { engine: row.get(0)?, user: row.get(1)?, ckey: row.get(2)?, retry: row.get(3)? })
    };
    statement
        .query_row([number], lane)
        .optional()?
        .ok_or_else(|| corrupt("lane", format!("{number} has no name")))
}

pub(super) fn ready(
    db: &Connection,
    lane: &Lane,
    after: Option<(Rank, Key)>,
    max: usize,
) -> Result<Vec<Ready>, StoreError> {
    let Some(number) = super::lane::find(db, lane)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut beyond = i64::MIN;
    if let Some((rank, key)) = after {
        read_ready(db, READY_SAME_RANK, params![number, rank.0, key.0, signed(max as u64)], &mut found)?;
        beyond = rank.0;
    }
    let rest = max.saturating_sub(found.len());
    read_ready(db, READY_BEYOND, params![number, beyond, signed(rest as u64)], &mut found)?;
    Ok(found)
}

fn read_ready(
    db: &Connection,
    sql: &str,
    values: impl Params,
    found: &mut Vec<Ready>,
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        let endpoint: Option<u32> = row.get(3)?;
        let bound: bool = row.get(4)?;
        let (key, rank) = (Key(row.get(0)?), Rank(row.get(1)?));
        found.push(Ready {
            key,
            rank,
            priority: priority_of(row.get(2)?)?,
            pinned: endpoint.filter(|_| bound),
            fail_fast: row.get(5)?,
        });
    }
    Ok(())
}

pub(super) fn due(db: &Connection, until: Time, max: usize) -> Result<Vec<Execution>, StoreError> {
    many(db, &DUE, params![until.0, signed(max as u64)])
}

pub(super) fn next_wake(db: &Connection) -> Result<Option<Time>, StoreError> {
    Ok(db.prepare_cached(NEXT_WAKE)?.query_row([], |row| row.get(0).map(Time)).optional()?)
}

pub(super) fn running(
    db: &Connection,
    holder: Option<SessionId>,
    after: Option<Key>,
    max: usize,
) -> Result<Vec<Execution>, StoreError> {
    let after = after.map_or(i64::MIN, |key| key.0);
    many(db, &RUNNING, params![after, holder.map(|holder| holder.0), signed(max as u64)])
}

pub(super) fn sessions(db: &Connection) -> Result<Vec<Session>, StoreError> {
    let sql = "SELECT id, node, worker, capacity, engine_types, started_at, lease_until, draining
               FROM session ORDER BY id";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        let engine_types: String = row.get(4)?;
        sessions.push(Session {
            id: SessionId(row.get(0)?),
            node: NodeId(row.get(1)?),
            worker: row.get(2)?,
            capacity: row.get(3)?,
            engine_types: serde_json::from_str(&engine_types).map_err(|e| corrupt("session", e))?,
            started_at: Time(row.get(5)?),
            lease_until: row.get::<_, Option<i64>>(6)?.map(Time),
            draining: row.get(7)?,
        });
    }
    Ok(sessions)
}

/// The one role there is.
pub(super) fn role(db: &Connection) -> Result<Option<RoleGrant>, StoreError> {
    let mut statement = db.prepare_cached("SELECT node, epoch, until FROM role WHERE name = 'scheduler'")?;
    let grant = |row: &rusqlite::Row<'_>| {
        Ok(RoleGrant { node: NodeId(row.get(0)?), epoch: unsigned(row.get(1)?), until: Time(row.get(2)?) })
    };
    Ok(statement.query_row([], grant).optional()?)
}

pub(super) fn kind_name(kind: DocKind) -> Result<String, StoreError> {
    // The serialized form is the stored form, so a kind has one name.
    Ok(row::to_json(&kind)?.trim_matches('"').to_owned())
}

pub(super) fn doc(db: &Connection, kind: DocKind, id: &str) -> Result<Option<Doc>, StoreError> {
    let mut statement = db.prepare_cached("SELECT id, rev, body FROM doc WHERE kind = ? AND id = ?")?;
    let mut rows = statement.query(params![kind_name(kind)?, id])?;
    rows.next()?.map(|row| read_doc(kind, row)).transpose()
}

pub(super) fn docs(db: &Connection, kind: DocKind) -> Result<Vec<Doc>, StoreError> {
    let mut statement = db.prepare_cached("SELECT id, rev, body FROM doc WHERE kind = ? ORDER BY id")?;
    let mut rows = statement.query([kind_name(kind)?])?;
    let mut docs = Vec::new();
    while let Some(row) = rows.next()? {
        docs.push(read_doc(kind, row)?);
    }
    Ok(docs)
}

fn read_doc(kind: DocKind, row: &rusqlite::Row<'_>) -> Result<Doc, StoreError> {
    let body: String = row.get(2)?;
    let body = serde_json::from_str(&body).map_err(|e| corrupt("doc", e))?;
    Ok(Doc { kind, id: row.get(0)?, rev: unsigned(row.get(1)?), body })
}

/// What every commit writes beside its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) cursor: u64,
    pub(super) at: Time,
    pub(super) feed_bytes: u64,
    pub(super) totals: Totals,
}

pub(super) fn standing(db: &Connection) -> Result<Standing, StoreError> {
    let mut statement = db.prepare_cached("SELECT cursor, at, feed_bytes, totals FROM store WHERE id = 1")?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.ok_or_else(|| corrupt("store", "its one row is absent"))?;
    let totals: String = row.get(3)?;
    let totals = if totals.is_empty() {
        Totals::default()
    } else {
        serde_json::from_str(&totals).map_err(|e| corrupt("totals", e))?
    };
    Ok(Standing {
        cursor: unsigned(row.get(0)?),
        at: Time(row.get(1)?),
        feed_bytes: unsigned(row.get(2)?),
        totals,
    })
}
