//! The one writer: a batch in, one synced transaction, its outcomes out. Plain synchronous code on one connection.

use super::feed::{ChangeText, Kept, Trace};
use super::lane::Lanes;
use super::read::{self, Standing};
use super::row::{self, Binder, UPDATE, UPDATE_FOLDED, signed, to_json};
use crate::{
    Batch, Clock, Committed, Cursor, Doc, DocKind, Ref, RoleWrite, SessionWrite, StoreError, Write,
    WriteOutcome,
};
use enginehouse_core::event::EventType;
use enginehouse_core::execution::{Lane, Status};
use enginehouse_core::id::{ExecutionId, Key, SessionId};
use enginehouse_core::lifecycle::{Part, Transition};
use enginehouse_core::limits::HISTORY_EVENTS_MAX;
use enginehouse_core::session::{RoleGrant, Session};
use enginehouse_core::time::Time;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::sync::Arc;

/// Commits batches. What it remembers between them is what the last commit left in the file.
pub(super) struct Writer {
    pub(super) db: Connection,
    clock: Arc<dyn Clock>,
    pub(super) memory: Memory,
    /// Why nothing can be written any more, if so.
    pub(super) broken: Option<StoreError>,
}

/// The writer's copy of small tables and sums, changed inside a transaction and loaded again when that is rolled back.
pub(super) struct Memory {
    pub(super) standing: Standing,
    pub(super) feed: Kept,
    pub(super) lanes: Lanes,
    pub(super) role: Option<RoleGrant>,
    /// The engine last seen, with its type: most rows name the same.
    pub(super) engine: Option<(String, String)>,
}

impl Memory {
    pub(super) fn load(db: &Connection) -> Result<Memory, StoreError> {
        let standing = read::standing(db)?;
        Ok(Memory {
            feed: Kept::load(db, standing.feed_bytes)?,
            lanes: Lanes::load(db)?,
            role: read::role(db)?,
            standing,
            engine: None,
        })
    }

    pub(super) fn is_current(&self, epoch: Option<u64>) -> bool {
        epoch.is_some() && epoch == self.role.map(|role| role.epoch)
    }
}

impl Writer {
    pub(super) fn new(db: Connection, clock: Arc<dyn Clock>) -> Result<Writer, StoreError> {
        let memory = Memory::load(&db)?;
        Ok(Writer { db, clock, memory, broken: None })
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor(self.memory.standing.cursor)
    }

    /// Applies a batch in one transaction and returns once it is synced.
    ///
    /// After an error nothing of the batch is visible. If it came from the sync itself, the batch may reappear when the
    /// file is opened again, so the writer refuses to go on until then.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<Committed, StoreError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        match self.attempt(batch) {
            Ok(committed) => Ok(committed),
            Err(Failed { error, sync }) => {
                self.roll_back(&error, sync);
                Err(self.broken.clone().unwrap_or(error))
            }
        }
    }

    fn attempt(&mut self, batch: Batch) -> Result<Committed, Failed> {
        self.db
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.raw_execute())
            .map_err(StoreError::from)?;
        // Two batches may fall into one millisecond, but never does time run backwards from commit to commit.
        let now = self.clock.now().max(self.memory.standing.at);
        let mut trace = Trace::default();
        let mut outcomes = Vec::with_capacity(batch.writes.len());
        for write in batch.writes {
            outcomes.push(self.write(write, batch.scheduler_epoch, now, &mut trace)?);
        }
        let tells = trace.touched;
        if tells {
            self.memory.standing.cursor += 1;
            self.memory.feed.append(&self.db, self.cursor(), now, batch.node, trace)?;
        }
        self.memory.standing.at = now;
        self.memory.standing.feed_bytes = self.memory.feed.bytes;
        self.store_standing()?;
        match self.db.prepare_cached("COMMIT").and_then(|mut s| s.raw_execute()) {
            Ok(_) => Ok(Committed { at: now, cursor: tells.then(|| self.cursor()), outcomes }),
            Err(error) => {
                // A full disk or a busy file stops a commit before its sync; anything else leaves its outcome open.
                let code = error.sqlite_error_code();
                let sync = !matches!(code, Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy));
                Err(Failed { error: error.into(), sync })
            }
        }
    }

    fn roll_back(&mut self, error: &StoreError, sync: bool) {
        let rolled_back = if self.db.is_autocommit() { Ok(()) } else { self.db.execute_batch("ROLLBACK") };
        if sync {
            let why = format!(
                "a commit could not be synced ({error}); its outcome is known once the store is opened again"
            );
            self.broken = Some(StoreError::Broken(why));
            return;
        }
        match rolled_back.map_err(StoreError::from).and_then(|()| Memory::load(&self.db)) {
            Ok(memory) => self.memory = memory,
            Err(second) => {
                let why = format!("a failed commit could not be rolled back: {error}; {second}");
                self.broken = Some(StoreError::Broken(why));
            }
        }
    }

    fn write(
        &mut self,
        write: Write,
        epoch: Option<u64>,
        now: Time,
        trace: &mut Trace,
    ) -> Result<WriteOutcome, StoreError> {
        match write {
            Write::Submit(group) => self.submit(group, epoch, trace),
            Write::Apply(transition) => self.apply(&transition, trace),
            Write::Schedule(transition) if !self.memory.is_current(epoch) => {
                trace.refused.insert(transition.key);
                Ok(WriteOutcome::WrongEpoch)
            }
            Write::Schedule(transition)
                if transition.event.kind == EventType::ExecutionStarted
                    && !trace.refused.is_empty()
                    && !trace.refused.contains(&transition.key) =>
            {
                Ok(WriteOutcome::Held)
            }
            Write::Schedule(transition) => self.apply(&transition, trace),
            Write::Session(write) => self.session(write, trace),
            Write::Role(write) => self.elect(write, now, trace),
            Write::Note(note) => {
                trace.note(note);
                Ok(WriteOutcome::Applied)
            }
            Write::Keep { doc, rev } => self.keep(&doc, rev, trace),
            Write::Forget { kind, id, rev } => self.forget(kind, &id, rev, trace),
            Write::Remove(removals) => self.remove(&removals),
        }
    }

    fn apply(&mut self, transition: &Transition, trace: &mut Trace) -> Result<WriteOutcome, StoreError> {
        let Transition { key, fixed, next, .. } = transition;
        let event = to_json(&transition.event)?;
        if trace.refused.contains(key) || !self.update(transition, &event)? {
            trace.refused.insert(*key);
            return Ok(WriteOutcome::Stale(read::find(&self.db, &Ref::Key(*key))?.map(Box::new)));
        }
        trace.change(&ChangeText {
            key: *key,
            ext_id: fixed.ext_id.as_ref().map(ExecutionId::as_str),
            engine: &fixed.engine,
            status: next.status,
            holder: next.holder,
            event: &event,
        })?;
        self.memory.standing.totals.moved(transition);
        self.store_parts(transition)?;
        Ok(WriteOutcome::Applied)
    }

    /// Moves the row on; false, and nothing is changed, when its `rev` is another.
    fn update(&mut self, transition: &Transition, event: &str) -> Result<bool, StoreError> {
        let Transition { key, fixed, rev, next, .. } = transition;
        let lane = if next.due && next.status == Status::Pending {
            let (engine, user, ckey) = (fixed.engine.clone(), fixed.user.clone(), fixed.ckey.clone());
            Some(self.memory.lanes.number(&self.db, Lane { engine, user, ckey, retry: next.retrying })?)
        } else {
            None
        };
        let folds = next.rev as usize > HISTORY_EVENTS_MAX;
        let (sql, history) = if folds {
            let mut statement = self.db.prepare_cached("SELECT history FROM execution WHERE key = ?")?;
            let stored: Option<String> = statement.query_row([key.0], |row| row.get(0)).optional()?;
            let Some(stored) = stored else { return Ok(false) };
            (&*UPDATE_FOLDED, row::folded(&stored, event))
        } else {
            (&*UPDATE, row::appended(event))
        };
        let mut statement = self.db.prepare_cached(sql)?;
        let mut binder = Binder::new(&mut statement);
        row::put_state(&mut binder, next, lane)?;
        binder.put(history)?;
        binder.put(key.0)?;
        binder.put(rev)?;
        Ok(statement.raw_execute()? == 1)
    }

    pub(super) fn store_parts(&self, transition: &Transition) -> Result<(), StoreError> {
        for (part, body) in &transition.parts {
            self.store_part(transition.key, *part, body)?;
        }
        Ok(())
    }

    pub(super) fn store_part(&self, key: Key, part: Part, body: &[u8]) -> Result<(), StoreError> {
        let sql = match part {
            Part::Input => "INSERT OR REPLACE INTO input (key, body) VALUES (?, ?)",
            Part::Output => "INSERT OR REPLACE INTO output (key, body) VALUES (?, ?)",
            Part::Logs => "INSERT OR REPLACE INTO logs (key, body) VALUES (?, ?)",
        };
        self.db.prepare_cached(sql)?.execute(params![key.0, body])?;
        Ok(())
    }

    fn session(&mut self, write: SessionWrite, trace: &mut Trace) -> Result<WriteOutcome, StoreError> {
        match write {
            SessionWrite::Open(session) => {
                self.open_session(&session)?;
                trace.touched = true;
                Ok(WriteOutcome::Applied)
            }
            SessionWrite::Renew { sessions, until } => {
                Ok(WriteOutcome::Missing(self.renew(&sessions, until)?))
            }
            SessionWrite::Close(SessionId(id)) => {
                let closed = self.db.prepare_cached("DELETE FROM session WHERE id = ?")?.execute([id])?;
                trace.touched |= closed > 0;
                Ok(WriteOutcome::Applied)
            }
        }
    }

    fn open_session(&self, session: &Session) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO session
            (id, node, worker, capacity, engine_types, started_at, lease_until, draining)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let Session { id, node, worker, capacity, engine_types, started_at, lease_until, draining } = session;
        let (engine_types, lease_until) = (to_json(engine_types)?, lease_until.map(|until| until.0));
        self.db.prepare_cached(sql)?.execute(params![
            id.0,
            node.0,
            worker,
            capacity,
            engine_types,
            started_at.0,
            lease_until,
            draining
        ])?;
        Ok(())
    }

    /// Sets the end of leases; a session without one stays so. Answers the sessions that are gone.
    fn renew(&self, sessions: &[SessionId], until: Time) -> Result<Vec<SessionId>, StoreError> {
        let sql = "UPDATE session SET lease_until = iif(lease_until IS NULL, NULL, max(lease_until, ?)) WHERE id = ?";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut missing = Vec::new();
        for session in sessions {
            if statement.execute(params![until.0, session.0])? == 0 {
                missing.push(*session);
            }
        }
        Ok(missing)
    }

    fn elect(&mut self, write: RoleWrite, now: Time, trace: &mut Trace) -> Result<WriteOutcome, StoreError> {
        let held = self.memory.role;
        let Some(grant) = RoleGrant::acquire(held, write.node, write.known_epoch, write.exclusive, now)
        else {
            return Ok(held.map_or(WriteOutcome::WrongEpoch, WriteOutcome::Role));
        };
        trace.touched |= held.is_none_or(|before| before.epoch != grant.epoch);
        let sql = "INSERT OR REPLACE INTO role (name, node, epoch, until) VALUES ('scheduler', ?, ?, ?)";
        self.db.prepare_cached(sql)?.execute(params![grant.node.0, signed(grant.epoch), grant.until.0])?;
        self.memory.role = Some(grant);
        Ok(WriteOutcome::Role(grant))
    }

    fn keep(&mut self, doc: &Doc, rev: u64, trace: &mut Trace) -> Result<WriteOutcome, StoreError> {
        let stored = read::doc(&self.db, doc.kind, &doc.id)?;
        if stored.as_ref().map_or(0, |stored| stored.rev) != rev {
            return Ok(WriteOutcome::DocStale(stored));
        }
        let sql = "INSERT OR REPLACE INTO doc (kind, id, rev, body) VALUES (?, ?, ?, ?)";
        let (kind, body) = (read::kind_name(doc.kind)?, to_json(&doc.body)?);
        self.db.prepare_cached(sql)?.execute(params![kind, doc.id, signed(rev + 1), body])?;
        trace.touched = true;
        Ok(WriteOutcome::Applied)
    }

    fn forget(
        &mut self,
        kind: DocKind,
        id: &str,
        rev: u64,
        trace: &mut Trace,
    ) -> Result<WriteOutcome, StoreError> {
        let stored = read::doc(&self.db, kind, id)?;
        if stored.as_ref().is_none_or(|stored| stored.rev != rev) {
            return Ok(WriteOutcome::DocStale(stored));
        }
        let sql = "DELETE FROM doc WHERE kind = ? AND id = ?";
        self.db.prepare_cached(sql)?.execute(params![read::kind_name(kind)?, id])?;
        trace.touched = true;
        Ok(WriteOutcome::Applied)
    }

    fn store_standing(&self) -> Result<(), StoreError> {
        let Standing { cursor, at, feed_bytes, totals } = &self.memory.standing;
        let sql = "UPDATE store SET cursor = ?, at = ?, feed_bytes = ?, totals = ? WHERE id = 1";
        let values = params![signed(*cursor), at.0, signed(*feed_bytes), to_json(totals)?];
        self.db.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

/// Why a commit did not happen, or may not have.
struct Failed {
    error: StoreError,
    /// It failed in the sync, so what the disk holds is not known.
    sync: bool,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed { error, sync: false }
    }
}
