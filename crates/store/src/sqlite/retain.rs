//! Removing what has ended, and giving the room back.

use super::read;
use super::row::{status_number, unsigned};
use super::writer::Writer;
use crate::{EndedRow, Payloads, Removal, StoreError, Usage, WriteOutcome};
use enginehouse_core::execution::Status;
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_core::time::Time;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// By the table's own order: the index of what has ended has it only within one status.
pub(super) const ENDED: &str =
    "SELECT key, rev, engine, status, ended_at, ext_id IS NOT NULL OR idem_key IS NOT NULL,
        EXISTS (SELECT 1 FROM input WHERE input.key = execution.key), output_bytes
    FROM execution NOT INDEXED WHERE key > ? AND status > 1 AND ended_at IS NOT NULL ORDER BY key LIMIT ?";
/// The oldest of those that ended with one status.
pub(super) const OLDEST_ENDED: &str = "SELECT key, ended_at FROM execution INDEXED BY ended
    WHERE status > 1 AND status = ? ORDER BY key LIMIT 1";

/// Ended rows behind a key, by key.
pub(super) fn ended(db: &Connection, after: Option<Key>, max: usize) -> Result<Vec<EndedRow>, StoreError> {
    let mut statement = db.prepare_cached(ENDED)?;
    let row = |row: &rusqlite::Row<'_>| {
        let status: i64 = row.get(3)?;
        Ok(EndedRow {
            key: Key(row.get(0)?),
            rev: row.get(1)?,
            engine: row.get(2)?,
            status: status_of(status),
            ended_at: Time(row.get(4)?),
            named: row.get(5)?,
            has_payload: row.get(6)?,
            output_bytes: unsigned(row.get(7)?),
        })
    };
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after.map_or(i64::MIN, |key| key.0), max], row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// An ended status from its number in the table.
fn status_of(number: i64) -> Status {
    let at = usize::try_from(number).unwrap_or(usize::MAX);
    Status::ALL.get(at).copied().unwrap_or(Status::Cancelled)
}

pub(super) fn usage(db: &Connection, dir: &Path) -> Result<Usage, StoreError> {
    let pragma = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).map(unsigned);
    let (pages, free, page_bytes) = (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
    let standing = read::standing(db)?;
    let log = std::fs::metadata(dir.join(format!("{}-wal", super::open::FILE)));
    Ok(Usage {
        bytes: pages.saturating_sub(free) * page_bytes,
        reclaimable: free * page_bytes,
        log_bytes: log.map_or(0, |log| log.len()),
        feed_bytes: standing.feed_bytes,
        oldest_ended: oldest_ended(db)?,
        ..standing.totals.usage()
    })
}

fn oldest_ended(db: &Connection) -> Result<Option<Time>, StoreError> {
    let mut statement = db.prepare_cached(OLDEST_ENDED)?;
    let mut oldest: Option<(i64, Option<i64>)> = None;
    for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
        let found = statement.query_row([status_number(status)], |row| Ok((row.get(0)?, row.get(1)?)));
        oldest = oldest.into_iter().chain(found.optional()?).min();
    }
    Ok(oldest.and_then(|(_, ended_at)| ended_at).map(Time))
}

/// Payloads counted by their first bytes.
pub(super) fn heads(db: &Connection, of: Payloads, bytes: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
    let sql = match of {
        Payloads::Part(Part::Input) => {
            "SELECT substr(body, 1, ?1) AS head, count(*) FROM input GROUP BY head"
        }
        Payloads::Part(Part::Output) => {
            "SELECT substr(body, 1, ?1) AS head, count(*) FROM output GROUP BY head"
        }
        Payloads::Part(Part::Logs) => "SELECT substr(body, 1, ?1) AS head, count(*) FROM logs GROUP BY head",
        Payloads::Failures => {
            "SELECT unhex(substr(json_extract(event.value, '$.failure.message'), 1, 2 * ?1)) AS head, count(*)
            FROM execution, json_each('[' || execution.history || ']') AS event
            WHERE json_extract(event.value, '$.failure.message') IS NOT NULL GROUP BY head"
        }
    };
    let mut statement = db.prepare(sql)?;
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let rows = statement.query_map([bytes], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Writer {
    pub(super) fn remove(&mut self, removals: &[Removal]) -> Result<WriteOutcome, StoreError> {
        let mut changed = 0;
        for removal in removals {
            let sql = "SELECT status, tags FROM execution WHERE key = ? AND rev = ? AND status > 1";
            let mut statement = self.db.prepare_cached(sql)?;
            let found = statement
                .query_row(params![removal.key.0, removal.rev], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))
                })
                .optional()?;
            let Some((status, tags)) = found else { continue };
            drop(statement);
            let key = removal.key.0;
            for sql in [
                "DELETE FROM input WHERE key = ?",
                "DELETE FROM output WHERE key = ?",
                "DELETE FROM logs WHERE key = ?",
            ] {
                self.db.prepare_cached(sql)?.execute([key])?;
            }
            if removal.whole {
                // The index of tags begins with the tag, so a row's are found by its own list of them.
                let tags: Vec<String> = tags
                    .map_or(Ok(Vec::new()), |tags| serde_json::from_str(&tags))
                    .map_err(|error| StoreError::Corrupt(format!("tags of execution {key}: {error}")))?;
                for tag in tags {
                    let sql = "DELETE FROM tag WHERE tag = ? AND key = ?";
                    self.db.prepare_cached(sql)?.execute(params![tag, key])?;
                }
                self.db.prepare_cached("DELETE FROM execution WHERE key = ?")?.execute([key])?;
                self.memory.standing.totals.removed.count(status_of(status));
            }
            changed += 1;
        }
        Ok(WriteOutcome::Removed(changed))
    }

    /// Moves pages from the end of the file to free ones, so that the file can end earlier; what is still free, in bytes.
    pub(super) fn reclaim(&mut self, bytes_max: u64) -> Result<u64, StoreError> {
        let page_bytes: u64 = self.db.query_row("PRAGMA page_size", [], |row| row.get(0)).map(unsigned)?;
        let pages = (bytes_max / page_bytes).max(1);
        let mut statement = self.db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        // Each step frees one page.
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        drop(statement);
        let free = self.db.query_row("PRAGMA freelist_count", [], |row| row.get(0)).map(unsigned)?;
        Ok(free * page_bytes)
    }
}
