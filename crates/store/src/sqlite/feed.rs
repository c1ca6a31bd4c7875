//! One row per commit: how its text is written while the commit goes on, how it is packed and read, and how long it is kept.

use super::error::corrupt;
use super::row::{signed, to_json, unsigned};
use crate::{Change, Commit, Cursor, FeedPage, Note, StoreError};
use enginehouse_core::execution::Status;
use enginehouse_core::id::{Key, NodeId, SessionId};
use enginehouse_core::time::{DAY, Millis, Time};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write;
use zstd::bulk::{Compressor, Decompressor};

/// How long a commit stays in the feed, at most.
pub(super) const KEEP: Millis = DAY;
/// The bytes of commits that stay: this share of what the file holds, within these bounds.
const KEEP_SHARE: u64 = 10;
const KEEP_BYTES_MIN: u64 = 32 << 20;
const KEEP_BYTES_MAX: u64 = 256 << 20;
/// The share is reckoned again after this many commits.
const RECKON_EVERY: u64 = 256;
/// Old commits dropped with each new one: more than one, so that the feed shrinks to its bounds.
const DROPPED_AT_ONCE: usize = 2;
/// Text of one page.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Text of one commit, which has at most as many writes as the committer puts into it.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Below this packing saves next to nothing.
const PACK_FROM: usize = 256;
const LEVEL: i32 = 1;

pub(super) const OLDEST: &str = "SELECT seq, at FROM feed WHERE seq > ? ORDER BY seq LIMIT 1";
pub(super) const BEHIND: &str = "SELECT seq, at, body FROM feed WHERE seq > ? ORDER BY seq LIMIT ?";

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
pub(super) struct Kept {
    pub(super) bytes: u64,
    /// The oldest commit kept, with its time.
    oldest: Option<(u64, Time)>,
    bytes_max: u64,
    /// `None`: there is no memory for one, so texts stay as they are.
    packer: Option<Compressor<'static>>,
}

impl Kept {
    pub(super) fn load(db: &Connection, bytes: u64) -> Result<Kept, StoreError> {
        let packer = Compressor::new(LEVEL).ok();
        Ok(Kept { bytes, oldest: oldest(db, 0)?, bytes_max: bytes_max(db)?, packer })
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
        let text = trace.into_body(node)?;
        let body = pack(&mut self.packer, &text);
        db.prepare_cached("INSERT INTO feed (seq, at, body) VALUES (?, ?, ?)")?.execute(params![
            signed(cursor.0),
            at.0,
            body
        ])?;
        self.bytes += body.len() as u64;
        self.oldest.get_or_insert((cursor.0, at));
        if cursor.0.is_multiple_of(RECKON_EVERY) {
            self.bytes_max = bytes_max(db)?;
        }
        for _ in 0..DROPPED_AT_ONCE {
            let Some((seq, written)) = self.oldest else { break };
            // The newest commit always stays, so that a reader can tell what it missed.
            if seq == cursor.0 || (at.since(written) <= KEEP && self.bytes <= self.bytes_max) {
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

/// How many bytes of commits may stay.
fn bytes_max(db: &Connection) -> Result<u64, StoreError> {
    let number = |sql: &str| db.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(unsigned);
    let used = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    let bytes = used.saturating_mul(number("PRAGMA page_size")?);
    Ok((bytes / KEEP_SHARE).clamp(KEEP_BYTES_MIN, KEEP_BYTES_MAX))
}

/// The text as it is stored. JSON begins with a brace, and no frame of zstd does.
fn pack<'a>(packer: &mut Option<Compressor<'static>>, text: &'a str) -> Cow<'a, [u8]> {
    let with = packer.as_mut().filter(|_| text.len() >= PACK_FROM);
    let packed = with.and_then(|with| with.compress(text.as_bytes()).ok());
    match packed {
        Some(packed) if packed.len() < text.len() => Cow::Owned(packed),
        _ => Cow::Borrowed(text.as_bytes()),
    }
}

fn unpack<'a>(unpacker: &mut Decompressor<'static>, body: &'a [u8]) -> Result<Cow<'a, [u8]>, StoreError> {
    if body.first() == Some(&b'{') {
        return Ok(Cow::Borrowed(body));
    }
    // The room for the text is never more than this, whatever the frame says of itself.
    unpacker.decompress(body, BODY_BYTES_MAX).map(Cow::Owned).map_err(|e| corrupt("feed", e))
}

fn oldest(db: &Connection, beyond: u64) -> Result<Option<(u64, Time)>, StoreError> {
    let mut statement = db.prepare_cached(OLDEST)?;
    let found = statement.query_row([signed(beyond)], |row| Ok((unsigned(row.get(0)?), Time(row.get(1)?))));
    Ok(found.optional()?)
}

pub(super) fn read(db: &Connection, after: Cursor, max: usize) -> Result<FeedPage, StoreError> {
    if let Some((oldest, _)) = oldest(db, 0)?
        && after.0.saturating_add(1) < oldest
    {
        return Err(StoreError::Gone { oldest: Cursor(oldest) });
    }
    let mut statement = db.prepare_cached(BEHIND)?;
    let mut rows = statement.query(params![signed(after.0), signed(max as u64)])?;
    let mut unpacker = Decompressor::new().map_err(|e| StoreError::Unavailable(format!("no memory: {e}")))?;
    let (mut commits, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let text = unpack(&mut unpacker, row.get_ref(2)?.as_blob().map_err(|e| corrupt("feed", e))?)?;
        bytes += text.len();
        if bytes > PAGE_BYTES_MAX && !commits.is_empty() {
            break;
        }
        let Body { node, changes, notes } = serde_json::from_slice(&text).map_err(|e| corrupt("feed", e))?;
        let cursor = Cursor(unsigned(row.get(0)?));
        commits.push(Commit { cursor, at: Time(row.get(1)?), node, changes, notes });
    }
    let next = commits.last().map_or(after, |commit| commit.cursor);
    Ok(FeedPage { commits, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_packed_where_that_saves_room_and_read_whichever_way_they_lie() {
        let (short, long) = ("{\"a\":1}".to_owned(), format!("{{\"a\":\"{}\"}}", "event ".repeat(100)));
        let (mut packer, mut unpacker) = (Compressor::new(LEVEL).ok(), Decompressor::new().expect("memory"));
        let table = [(&short, short.len()), (&long, 60)];
        for (text, most) in table {
            let stored = pack(&mut packer, text);
            assert!(stored.len() <= most, "{} bytes of {}", stored.len(), text.len());
            for stored in [stored.as_ref(), pack(&mut None, text).as_ref()] {
                assert_eq!(unpack(&mut unpacker, stored).expect("whole"), text.as_bytes());
            }
        }
        let mut damaged = pack(&mut packer, &long).into_owned();
        damaged.truncate(damaged.len() / 2);
        for bad in [damaged.as_slice(), b"nonsense"] {
            assert!(matches!(unpack(&mut unpacker, bad), Err(StoreError::Corrupt(_))));
        }
    }
}
