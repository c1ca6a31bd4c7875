//! One row per commit: how its text is written while the commit goes on, how it is read, and how long it is kept.

use super::error::corrupt;
use super::row::{signed, to_json, unsigned};
use crate::{Change, Commit, Cursor, FeedPage, Note, StoreError};
use enginehouse_core::execution::Status;
use enginehouse_core::id::{Key, NodeId, SessionId};
use enginehouse_core::time::{DAY, Millis, Time};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt::Write;

/// How long a commit stays in the feed, and how many bytes of commits stay.
pub(super) const KEEP: Millis = DAY;
pub(super) const KEEP_BYTES: u64 = 256 << 20;
/// Old commits dropped with each new one: more than one, so that the feed shrinks to its bounds.
const DROPPED_AT_ONCE: usize = 2;
/// Text of one page.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// A row as a change names it; its event is written as it lies in the history.
pub(super) struct ChangeText<'a> {
    pub(super) key: Key,
    pub(super) ext_id: Option<&'a str>,
    pub(super) engine: &'a str,
    pub(super) status: Status,
    pub(super) holder: Option<SessionId>,
    pub(super) event: &'a str,
}

/// What a commit in progress leaves for the feed.
#[derive(Default)]
pub(super) struct Trace {
    changes: String,
    notes: Vec<Note>,
    /// Something changed that another node may want to look at.
    pub(super) touched: bool,
    /// Rows of which a change was refused.
    pub(super) refused: BTreeSet<Key>,
}

/// A point in a commit to go back to.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    changes: usize,
    touched: bool,
}

impl Trace {
    pub(super) fn note(&mut self, note: Note) {
        self.touched = true;
        self.notes.push(note);
    }

    pub(super) fn change(&mut self, change: &ChangeText<'_>) -> Result<(), StoreError> {
        self.touched = true;
        let text = &mut self.changes;
        if !text.is_empty() {
            text.push(',');
        }
        let ext_id = change.ext_id.map(to_json).transpose()?;
        let (ext_id, engine) = (ext_id.as_deref().unwrap_or("null"), to_json(change.engine)?);
        let _ = write!(text, r#"{{"key":{},"ext_id":{ext_id},"engine":{engine}"#, change.key.0);
        let _ = write!(text, r#","status":"{}","holder":"#, change.status.as_str());
        match change.holder {
            Some(SessionId(id)) => {
                let _ = write!(text, "{id}");
            }
            None => text.push_str("null"),
        }
        text.push_str(r#","event":"#);
        text.push_str(change.event);
        text.push('}');
        Ok(())
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { changes: self.changes.len(), touched: self.touched }
    }

    pub(super) fn go_back(&mut self, mark: Mark) {
        self.changes.truncate(mark.changes);
        self.touched = mark.touched;
    }

    fn into_body(self, node: NodeId) -> Result<String, StoreError> {
        Ok(format!(r#"{{"node":{},"changes":[{}],"notes":{}}}"#, node.0, self.changes, to_json(&self.notes)?))
    }
}

#[derive(Deserialize)]
struct Body {
    node: NodeId,
    changes: Vec<Change>,
    notes: Vec<Note>,
}

/// What the writer knows of the stored feed without asking.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) bytes: u64,
    /// The oldest commit kept, with its time.
    oldest: Option<(u64, Time)>,
}

impl Kept {
    pub(super) fn load(db: &Connection, bytes: u64) -> Result<Kept, StoreError> {
        Ok(Kept { bytes, oldest: oldest(db, 0)? })
    }

    /// Appends a commit, and drops old ones beyond the bounds.
    pub(super) fn append(
        &mut self,
        db: &Connection,
        cursor: Cursor,
        at: Time,
        node: NodeId,
        trace: Trace,
    ) -> Result<(), StoreError> {
        let body = trace.into_body(node)?;
        db.prepare_cached("INSERT INTO feed (seq, at, body) VALUES (?, ?, ?)")?.execute(params![
            signed(cursor.0),
            at.0,
            body
        ])?;
        self.bytes += body.len() as u64;
        self.oldest.get_or_insert((cursor.0, at));
        for _ in 0..DROPPED_AT_ONCE {
            let Some((seq, written)) = self.oldest else { break };
            // The newest commit always stays, so that a reader can tell what it missed.
            if seq == cursor.0 || (at.since(written) <= KEEP && self.bytes <= KEEP_BYTES) {
                break;
            }
            let bytes: i64 = db
                .prepare_cached("DELETE FROM feed WHERE seq = ? RETURNING octet_length(body)")?
                .query_row([signed(seq)], |row| row.get(0))?;
            self.bytes = self.bytes.saturating_sub(u64::try_from(bytes).unwrap_or(0));
            self.oldest = oldest(db, seq)?;
        }
        Ok(())
    }
}

fn oldest(db: &Connection, beyond: u64) -> Result<Option<(u64, Time)>, StoreError> {
    let mut statement = db.prepare_cached("SELECT seq, at FROM feed WHERE seq > ? ORDER BY seq LIMIT 1")?;
    let found = statement.query_row([signed(beyond)], |row| Ok((unsigned(row.get(0)?), Time(row.get(1)?))));
    Ok(found.optional()?)
}

pub(super) fn read(db: &Connection, after: Cursor, max: usize) -> Result<FeedPage, StoreError> {
    if let Some((oldest, _)) = oldest(db, 0)?
        && after.0.saturating_add(1) < oldest
    {
        return Err(StoreError::Gone { oldest: Cursor(oldest) });
    }
    let mut statement =
        db.prepare_cached("SELECT seq, at, body FROM feed WHERE seq > ? ORDER BY seq LIMIT ?")?;
    let mut rows = statement.query(params![signed(after.0), signed(max as u64)])?;
    let (mut commits, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let text = row.get_ref(2)?.as_str().map_err(|e| corrupt("feed", e))?;
        bytes += text.len();
        if bytes > PAGE_BYTES_MAX && !commits.is_empty() {
            break;
        }
        let Body { node, changes, notes } = serde_json::from_str(text).map_err(|e| corrupt("feed", e))?;
        let cursor = Cursor(unsigned(row.get(0)?));
        commits.push(Commit { cursor, at: Time(row.get(1)?), node, changes, notes });
    }
    let next = commits.last().map_or(after, |commit| commit.cursor);
    Ok(FeedPage { commits, next })
}
