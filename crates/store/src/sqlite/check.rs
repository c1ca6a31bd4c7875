//! Looking for damage: SQLite's own checks, then what the tables promise each other.

use super::open::{findings, quick_check};
use super::read;
use super::row::{self, unsigned};
use crate::{Report, StoreError};
use enginehouse_core::limits::HISTORY_EVENTS_MAX;
use rusqlite::Connection;
use std::time::Duration;

/// Time a quick check may take.
const QUICK: Duration = Duration::from_secs(2);
/// Findings named one by one; more of them say no more.
const FINDINGS_MAX: usize = 100;

/// Counts that must agree with a sum or be zero, each over a whole table.
const RULES: [(&str, &str); 9] = [
    (
        "executions due outside any lane",
        "SELECT count(*) FROM execution WHERE due AND status = 0 AND lane IS NULL",
    ),
    (
        "executions in a lane although not due",
        "SELECT count(*) FROM execution WHERE lane IS NOT NULL AND NOT (due AND status = 0)",
    ),
    (
        "executions in a lane without a name",
        "SELECT count(*) FROM execution WHERE lane IS NOT NULL AND lane NOT IN (SELECT id FROM lane)",
    ),
    (
        "executions to be run without their request",
        "SELECT count(*) FROM execution WHERE status < 2 AND NOT EXISTS (SELECT 1 FROM input WHERE input.key = execution.key)",
    ),
    (
        "requests without their execution",
        "SELECT count(*) FROM input WHERE NOT EXISTS (SELECT 1 FROM execution WHERE execution.key = input.key)",
    ),
    (
        "results without their execution",
        "SELECT count(*) FROM output WHERE NOT EXISTS (SELECT 1 FROM execution WHERE execution.key = output.key)",
    ),
    (
        "logs without their execution",
        "SELECT count(*) FROM logs WHERE NOT EXISTS (SELECT 1 FROM execution WHERE execution.key = logs.key)",
    ),
    (
        "tags without their execution",
        "SELECT count(*) FROM tag WHERE NOT EXISTS (SELECT 1 FROM execution WHERE execution.key = tag.key)",
    ),
    (
        "engines missing in the list of engines",
        "SELECT count(*) FROM execution WHERE (engine_type, engine) NOT IN (SELECT type, name FROM engine)",
    ),
];

/// Looks at as much as the time of a quick check allows.
pub(super) fn quick(db: &mut Connection) -> Result<Report, StoreError> {
    let mut report = Report { findings: quick_check(db, QUICK)? };
    report.findings.extend(standing(db)?);
    Ok(report)
}

/// Reads everything.
pub(super) fn full(db: &Connection) -> Result<Report, StoreError> {
    let mut all = findings(db, "PRAGMA integrity_check(100)")?;
    // One state of the store for all rules.
    let snapshot = db.unchecked_transaction()?;
    all.extend(standing(&snapshot)?);
    for (what, sql) in RULES {
        let broken: i64 = snapshot.query_row(sql, [], |row| row.get(0))?;
        if broken != 0 {
            all.push(format!("{what}: {broken}"));
        }
    }
    all.extend(sums(&snapshot)?);
    all.extend(rows(&snapshot, FINDINGS_MAX.saturating_sub(all.len()))?);
    all.truncate(FINDINGS_MAX);
    Ok(Report { findings: all })
}

/// The newest commit is the one the sums say.
fn standing(db: &Connection) -> Result<Vec<String>, StoreError> {
    let standing = read::standing(db)?;
    let newest: Option<i64> = db.query_row("SELECT max(seq) FROM feed", [], |row| row.get(0))?;
    let newest = newest.map_or(0, unsigned);
    let mut findings = Vec::new();
    if newest != standing.cursor {
        findings.push(format!("the feed ends at commit {newest}, the sums at {}", standing.cursor));
    }
    Ok(findings)
}

fn sums(db: &Connection) -> Result<Vec<String>, StoreError> {
    let standing = read::standing(db)?;
    let totals = standing.totals;
    let usage = totals.usage();
    let feed_bytes = "SELECT ifnull(sum(octet_length(body)), 0) FROM feed";
    let of_status = |status: i64| format!("SELECT count(*) FROM execution WHERE status = {status}");
    let kept = [
        ("accepted", totals.accepted - usage.removed, "SELECT count(*) FROM execution".to_owned()),
        ("pending", totals.pending, of_status(0)),
        ("running", totals.running, of_status(1)),
        ("completed", usage.completed, of_status(2)),
        ("failed", usage.failed, of_status(3)),
        ("cancelled", usage.cancelled, of_status(4)),
        ("bytes of feed", standing.feed_bytes, feed_bytes.to_owned()),
    ];
    let mut findings = Vec::new();
    for (what, kept, sql) in kept {
        let counted: i64 = db.query_row(&sql, [], |row| row.get(0))?;
        if kept != unsigned(counted) {
            findings.push(format!("{what}: {kept} kept, {counted} counted"));
        }
    }
    Ok(findings)
}

/// Every row can be read, and its history ends at its `rev`.
fn rows(db: &Connection, max: usize) -> Result<Vec<String>, StoreError> {
    let mut statement = db.prepare(&format!("SELECT {}, history FROM execution", *row::COLUMNS))?;
    let mut rows = statement.query([])?;
    let mut findings = Vec::new();
    while let Some(row) = rows.next()? {
        if findings.len() >= max {
            break;
        }
        let key: i64 = row.get("key")?;
        match row::execution(row, true) {
            Err(error) => findings.push(format!("execution {key}: {error}")),
            Ok(found) => {
                let (rev, kept) = (found.state.rev, found.history.len());
                let last = found.history.last().map(|event| event.seq);
                if last != Some(rev) || kept != HISTORY_EVENTS_MAX.min(rev as usize) {
                    findings
                        .push(format!("execution {key}: {kept} events up to {last:?}, but its rev is {rev}"));
                }
            }
        }
    }
    Ok(findings)
}
