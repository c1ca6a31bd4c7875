//! The reference driver: what every other driver must do, in plain ordered maps.
//!
//! It forgets everything with its last handle. It reads no clock but the one it is given and draws no random number, so
//! a simulation on it repeats exactly. A clone is another node's connection to the same store: closing one closes
//! neither the store nor the others.

use crate::contract::*;
use crate::history;
use async_trait::async_trait;
use enginehouse_core::event::{Event, EventType};
use enginehouse_core::execution::{Execution, Fixed, Lane, State, Status};
use enginehouse_core::id::{ExecutionId, Key, NodeId, SessionId};
use enginehouse_core::lifecycle::{Part, Transition};
use enginehouse_core::planted::{self, Bug};
use enginehouse_core::rank::Rank;
use enginehouse_core::session::{RoleGrant, Session};
use enginehouse_core::time::Time;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Commits the feed keeps; the oldest go first.
const FEED_COMMITS_MAX: usize = 65_536;

/// A store in memory.
pub struct MemoryStore {
    shared: Arc<Shared>,
    closed: AtomicBool,
}

struct Shared {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    changed: watch::Sender<Cursor>,
}

impl Clone for MemoryStore {
    /// Another connection to the same store, open whether or not this one is.
    fn clone(&self) -> MemoryStore {
        MemoryStore { shared: self.shared.clone(), closed: AtomicBool::new(false) }
    }
}

impl MemoryStore {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> MemoryStore {
        let shared =
            Shared { clock, tables: Mutex::new(Tables::default()), changed: watch::channel(Cursor(0)).0 };
        MemoryStore { shared: Arc::new(shared), closed: AtomicBool::new(false) }
    }

    fn tables(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            Err(StoreError::Closed)
        } else {
            Ok(self.shared.tables.lock())
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let mut tables = self.tables()?;
        // The time is read under the lock, so that times follow the order of commits.
        let now = self.shared.clock.now();
        let committed = tables.commit(batch, now);
        if let Some(cursor) = committed.cursor {
            self.shared.changed.send_replace(cursor);
        }
        Ok(committed)
    }

    fn changed(&self) -> watch::Receiver<Cursor> {
        self.shared.changed.subscribe()
    }

    async fn feed(&self, after: Cursor, max: usize) -> Result<FeedPage, StoreError> {
        self.tables()?.feed(after, max)
    }

    fn now(&self) -> Time {
        self.shared.clock.now()
    }

    async fn find(&self, refs: &[Ref]) -> Result<Vec<Option<Execution>>, StoreError> {
        let tables = self.tables()?;
        Ok(refs.iter().map(|r| tables.find(r).map(Row::with_history)).collect())
    }

    async fn starting(&self, wanted: &[Starting]) -> Result<Vec<Option<Started>>, StoreError> {
        let tables = self.tables()?;
        let one = |wanted: &Starting| {
            let row = tables.rows.get(&wanted.key)?.without_history();
            let comes = row.fixed.spec.input_bytes <= wanted.request_up_to;
            let request = tables.parts.get(&(wanted.key, Part::Input)).filter(|_| comes).cloned();
            Some((row, request))
        };
        Ok(wanted.iter().map(one).collect())
    }

    async fn payload(&self, key: Key, part: Part) -> Result<Option<Sealed>, StoreError> {
        Ok(self.tables()?.parts.get(&(key, part)).cloned())
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Execution>, StoreError> {
        let tables = self.tables()?;
        let older = tables.rows.range(..query.after.unwrap_or(Key(i64::MAX)));
        let matching = older.rev().map(|(_, row)| row).filter(|row| row.matches(&query.filter));
        Ok(matching.take(query.limit).map(Row::without_history).collect())
    }

    async fn lanes(&self) -> Result<Vec<LaneCount>, StoreError> {
        let tables = self.tables()?;
        let count = |(lane, rows): (&Lane, &BTreeSet<(Rank, Key)>)| {
            let head = *rows.first()?;
            Some(LaneCount { lane: lane.clone(), rows: rows.len() as u64, head })
        };
        Ok(tables.ready.iter().filter_map(count).collect())
    }

    async fn ready(
        &self,
        lane: &Lane,
        after: Option<(Rank, Key)>,
        max: usize,
    ) -> Result<Vec<Ready>, StoreError> {
        let tables = self.tables()?;
        let Some(rows) = tables.ready.get(lane) else { return Ok(Vec::new()) };
        let beyond = rows.iter().filter(|at| after.is_none_or(|after| **at > after));
        Ok(beyond.take(max).filter_map(|(_, key)| tables.rows.get(key).map(Row::ready)).collect())
    }

    async fn due(&self, until: Time, max: usize) -> Result<Vec<Execution>, StoreError> {
        let tables = self.tables()?;
        let due = tables.wake.iter().take_while(|(at, _)| *at <= until).take(max);
        Ok(due.filter_map(|(_, key)| tables.rows.get(key).map(Row::without_history)).collect())
    }

    async fn next_wake(&self) -> Result<Option<Time>, StoreError> {
        Ok(self.tables()?.wake.first().map(|(at, _)| *at))
    }

    async fn running(
        &self,
        holder: Option<SessionId>,
        after: Option<Key>,
        max: usize,
    ) -> Result<Vec<Execution>, StoreError> {
        let tables = self.tables()?;
        let held = |row: &&Row| holder.is_none() || row.state.holder == holder;
        let beyond = tables.running.iter().filter(|key| after.is_none_or(|after| **key > after));
        let rows = beyond.filter_map(|key| tables.rows.get(key)).filter(held);
        Ok(rows.take(max).map(Row::without_history).collect())
    }

    async fn ended(&self, after: Option<Key>, max: usize) -> Result<Vec<EndedRow>, StoreError> {
        let tables = self.tables()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = tables.rows.range((from, Bound::Unbounded)).map(|(_, row)| row);
        Ok(rows.filter_map(|row| tables.ended(row)).take(max).collect())
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let tables = self.tables()?;
        let bytes = tables.parts.values().map(|body| body.len() as u64).sum();
        let oldest_ended = tables.rows.values().find_map(|row| tables.ended(row)).map(|row| row.ended_at);
        Ok(Usage { bytes, oldest_ended, ..tables.totals.usage() })
    }

    async fn heads(&self, of: Payloads, bytes: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        let tables = self.tables()?;
        let mut found: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut count = |body: &[u8]| *found.entry(body[..bytes.min(body.len())].to_vec()).or_default() += 1;
        match of {
            Payloads::Part(part) => {
                tables.parts.iter().filter(|((_, of), _)| *of == part).for_each(|(_, body)| count(body));
            }
            Payloads::Failures => {
                let events = tables.rows.values().flat_map(|row| &row.history);
                let failures = events.filter_map(|event| event.data.failure.as_ref());
                failures.filter(|failure| !failure.message.is_empty()).for_each(|f| count(&f.message));
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn reclaim(&self, _bytes_max: u64) -> Result<u64, StoreError> {
        self.tables().map(|_| 0)
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        Ok(self.tables()?.sessions.values().cloned().collect())
    }

    async fn docs(&self, kind: DocKind) -> Result<Vec<Doc>, StoreError> {
        let tables = self.tables()?;
        Ok(tables.docs.iter().filter(|((of, _), _)| *of == kind).map(|(_, doc)| doc.clone()).collect())
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        Ok(self.tables()?.totals)
    }

    async fn check(&self, _depth: Depth) -> Result<Report, StoreError> {
        Ok(Report { findings: self.tables()?.findings() })
    }

    async fn backup(&self, _to: &Path) -> Result<(), StoreError> {
        Err(StoreError::Refused("a store in memory has no files to back up".to_owned()))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn features(&self) -> Features {
        Features { shared: true, durable: false }
    }
}

struct Row {
    fixed: Arc<Fixed>,
    state: State,
    history: Vec<Event>,
}

impl Row {
    fn with_history(&self) -> Execution {
        Execution { fixed: self.fixed.clone(), state: self.state.clone(), history: self.history.clone() }
    }

    fn without_history(&self) -> Execution {
        Execution { fixed: self.fixed.clone(), state: self.state.clone(), history: Vec::new() }
    }

    fn lane(&self) -> Lane {
        Lane {
            engine: self.fixed.engine.clone(),
            user: self.fixed.user.clone(),
            ckey: self.fixed.ckey.clone(),
            retry: self.state.retrying,
        }
    }

    fn ready(&self) -> Ready {
        let state = &self.state;
        Ready {
            key: self.fixed.key,
            rank: state.rank,
            priority: state.priority,
            pinned: state.pinned(),
            fail_fast: self.fixed.spec.fail_fast,
        }
    }

    fn matches(&self, filter: &Filter) -> bool {
        let fixed = &self.fixed;
        let failure = self.state.failure.as_ref();
        let is =
            |wanted: &Option<String>, found: Option<&String>| wanted.is_none() || wanted.as_ref() == found;
        (filter.statuses.is_empty() || filter.statuses.contains(&self.state.status))
            && is(&filter.engine, Some(&fixed.engine))
            && is(&filter.engine_type, Some(&fixed.engine_type))
            && is(&filter.workflow, Some(&fixed.workflow))
            && is(&filter.user, fixed.user.as_ref())
            && filter.tag.as_ref().is_none_or(|tag| fixed.tags.contains(tag))
            && (filter.failure_kinds.is_empty()
                || failure.is_some_and(|failure| filter.failure_kinds.contains(&failure.kind)))
            && is(&filter.failure_code, failure.map(|failure| &failure.code))
            && filter.since.is_none_or(|since| fixed.created_at >= since)
            && filter.until.is_none_or(|until| fixed.created_at < until)
    }

    fn change(&self, event: Event) -> Change {
        Change {
            key: self.fixed.key,
            ext_id: self.fixed.ext_id.clone(),
            engine: self.fixed.engine.clone(),
            status: self.state.status,
            holder: self.state.holder,
            event,
        }
    }

    fn apply(&mut self, transition: &Transition) {
        self.state = transition.next.clone();
        self.history.push(transition.event.clone());
        history::fold(&mut self.history);
    }
}

#[derive(Default)]
struct Tables {
    rows: BTreeMap<Key, Row>,
    by_id: BTreeMap<ExecutionId, Key>,
    by_idempotency: BTreeMap<String, Key>,
    ready: BTreeMap<Lane, BTreeSet<(Rank, Key)>>,
    wake: BTreeSet<(Time, Key)>,
    running: BTreeSet<Key>,
    parts: BTreeMap<(Key, Part), Sealed>,
    sessions: BTreeMap<SessionId, Session>,
    role: Option<RoleGrant>,
    docs: BTreeMap<(DocKind, String), Doc>,
    feed: BTreeMap<Cursor, Commit>,
    cursor: Cursor,
    totals: Totals,
}

/// What one commit leaves for the feed.
#[derive(Default)]
struct Trace {
    changes: Vec<Change>,
    notes: Vec<Note>,
    /// Something changed that another node may want to look at.
    touched: bool,
    /// Rows of which a change was refused.
    refused: BTreeSet<Key>,
}

impl Trace {
    /// Whether this is a grant behind a refused change.
    fn holds(&self, transition: &Transition) -> bool {
        let others = !self.refused.is_empty() && !self.refused.contains(&transition.key);
        transition.event.kind == EventType::ExecutionStarted && others
    }
}

impl Tables {
    fn commit(&mut self, batch: Batch, now: Time) -> Committed {
        let mut trace = Trace::default();
        let epoch = batch.scheduler_epoch;
        let outcomes =
            batch.writes.into_iter().map(|write| self.write(write, epoch, now, &mut trace)).collect();
        let cursor = trace.touched.then(|| self.publish(trace, batch.node, now));
        Committed { at: now, cursor, outcomes }
    }

    fn publish(&mut self, trace: Trace, node: NodeId, at: Time) -> Cursor {
        self.cursor = Cursor(self.cursor.0 + 1);
        let commit = Commit { cursor: self.cursor, at, node, changes: trace.changes, notes: trace.notes };
        self.feed.insert(self.cursor, commit);
        if self.feed.len() > FEED_COMMITS_MAX {
            self.feed.pop_first();
        }
        self.cursor
    }

    fn write(&mut self, write: Write, epoch: Option<u64>, now: Time, trace: &mut Trace) -> WriteOutcome {
        match write {
            Write::Submit(group) => self.submit(group, epoch, trace),
            Write::Apply(transition) => self.apply(&transition, trace),
            Write::Schedule(transition) if !self.is_current(epoch) => {
                trace.refused.insert(transition.key);
                WriteOutcome::WrongEpoch
            }
            Write::Schedule(transition) if trace.holds(&transition) => WriteOutcome::Held,
            Write::Schedule(transition) => self.apply(&transition, trace),
            Write::Session(write) => self.session(write, trace),
            Write::Role(write) => self.elect(write, now, trace),
            Write::Note(note) => {
                trace.touched = true;
                trace.notes.push(note);
                WriteOutcome::Applied
            }
            Write::Keep { doc, rev } => self.keep(doc, rev, trace),
            Write::Forget { kind, id, rev } => self.forget(kind, id, rev, trace),
            Write::Remove(removals) => self.remove_ended(&removals),
        }
    }

    fn is_current(&self, epoch: Option<u64>) -> bool {
        epoch.is_some() && (epoch == self.role.map(|role| role.epoch) || planted::has(Bug::EpochIgnored))
    }

    fn submit(&mut self, group: Vec<New>, epoch: Option<u64>, trace: &mut Trace) -> WriteOutcome {
        let mut stored: Vec<Key> = Vec::new();
        let (totals, changes, touched) = (self.totals, trace.changes.len(), trace.touched);
        let mut outcomes = Vec::with_capacity(group.len());
        for (index, new) in group.into_iter().enumerate() {
            match self.existing(&new.row.fixed) {
                Ok(None) => {
                    stored.push(new.row.key());
                    let granted = self.insert(new, epoch, trace);
                    outcomes.push(SubmitOutcome::Stored { granted });
                }
                Ok(Some(existing)) => outcomes.push(SubmitOutcome::Existing(Box::new(existing))),
                Err(existing) => {
                    for key in stored {
                        self.remove(key);
                    }
                    self.totals = totals;
                    trace.changes.truncate(changes);
                    trace.touched = touched;
                    return WriteOutcome::Conflict { index, existing };
                }
            }
        }
        WriteOutcome::Submitted(outcomes)
    }

    /// The row this submit repeats, or as an error the row whose id or idempotency key it takes for something else.
    fn existing(&self, fixed: &Fixed) -> Result<Option<Execution>, Box<Execution>> {
        let by_id = fixed.ext_id.as_ref().and_then(|id| self.by_id.get(id));
        let by_idempotency = fixed.idem_key.as_ref().and_then(|key| self.by_idempotency.get(key));
        let by_key = Some(&fixed.key);
        let mut same: Option<&Row> = None;
        for key in [by_id, by_idempotency, by_key].into_iter().flatten() {
            let Some(row) = self.rows.get(key) else { continue };
            let another = same.is_some_and(|first| first.fixed.key != row.fixed.key);
            let key_taken = row.fixed.key == fixed.key && row.fixed.ext_id != fixed.ext_id;
            if another || key_taken || row.fixed.request_hash != fixed.request_hash {
                return Err(Box::new(row.with_history()));
            }
            same = Some(row);
        }
        Ok(same.map(Row::with_history))
    }

    /// Stores a new row, and starts it at once if the scheduler chose so and still is the scheduler.
    fn insert(&mut self, new: New, epoch: Option<u64>, trace: &mut Trace) -> bool {
        let key = new.row.key();
        let mut row = Row { fixed: new.row.fixed, state: new.row.state, history: new.row.history };
        trace.touched = true;
        trace.changes.extend(row.history.last().map(|event| row.change(event.clone())));
        self.totals.submitted();
        self.parts.insert((key, Part::Input), new.input);
        let current = self.is_current(epoch);
        let held = !trace.refused.is_empty();
        let grant = new.grant.filter(|grant| current && !held && grant.rev == row.state.rev);
        if let Some(grant) = &grant {
            row.apply(grant);
            trace.changes.push(row.change(grant.event.clone()));
            self.totals.moved(grant);
            self.store_parts(grant);
        }
        if let Some(id) = &row.fixed.ext_id {
            self.by_id.insert(id.clone(), key);
        }
        if let Some(idempotency) = &row.fixed.idem_key {
            self.by_idempotency.insert(idempotency.clone(), key);
        }
        self.index(&row);
        self.rows.insert(key, row);
        grant.is_some()
    }

    fn ended(&self, row: &Row) -> Option<EndedRow> {
        let (fixed, state) = (&row.fixed, &row.state);
        let ended_at = state.ended_at.filter(|_| state.status.is_terminal())?;
        Some(EndedRow {
            key: fixed.key,
            rev: state.rev,
            engine: fixed.engine.clone(),
            status: state.status,
            ended_at,
            named: fixed.ext_id.is_some() || fixed.idem_key.is_some(),
            has_payload: self.parts.contains_key(&(fixed.key, Part::Input)),
            output_bytes: state.output_bytes,
        })
    }

    fn remove_ended(&mut self, removals: &[Removal]) -> WriteOutcome {
        let mut changed = 0;
        for removal in removals {
            let row = self.rows.get(&removal.key).map(|row| &row.state);
            let Some(state) = row.filter(|state| state.rev == removal.rev && state.status.is_terminal())
            else {
                continue;
            };
            if removal.whole {
                self.totals.removed.count(state.status);
                self.remove(removal.key);
            } else {
                self.remove_parts(removal.key);
            }
            changed += 1;
        }
        WriteOutcome::Removed(changed)
    }

    fn remove_parts(&mut self, key: Key) {
        for part in [Part::Input, Part::Output, Part::Logs] {
            self.parts.remove(&(key, part));
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(row) = self.rows.remove(&key) else { return };
        self.unindex(&row);
        if let Some(id) = &row.fixed.ext_id {
            self.by_id.remove(id);
        }
        if let Some(idempotency) = &row.fixed.idem_key {
            self.by_idempotency.remove(idempotency);
        }
        self.remove_parts(key);
    }

    fn apply(&mut self, transition: &Transition, trace: &mut Trace) -> WriteOutcome {
        let Some(row) = self.rows.get(&transition.key) else {
            trace.refused.insert(transition.key);
            return WriteOutcome::Stale(None);
        };
        if row.state.rev != transition.rev || trace.refused.contains(&transition.key) {
            trace.refused.insert(transition.key);
            return WriteOutcome::Stale(Some(Box::new(row.with_history())));
        }
        assert_eq!(row.state.status, transition.from, "a rev implies the status the row had");
        let Some(mut row) = self.rows.remove(&transition.key) else { return WriteOutcome::Stale(None) };
        self.unindex(&row);
        row.apply(transition);
        self.index(&row);
        trace.touched = true;
        trace.changes.push(row.change(transition.event.clone()));
        self.totals.moved(transition);
        self.store_parts(transition);
        self.rows.insert(transition.key, row);
        WriteOutcome::Applied
    }

    fn store_parts(&mut self, transition: &Transition) {
        for (part, body) in &transition.parts {
            self.parts.insert((transition.key, *part), body.clone());
        }
    }

    fn index(&mut self, row: &Row) {
        let (key, state) = (row.fixed.key, &row.state);
        if state.status == Status::Pending {
            if state.due {
                self.ready.entry(row.lane()).or_default().insert((state.rank, key));
            }
            self.wake.extend(state.wake_at.map(|at| (at, key)));
        }
        if state.status == Status::Running {
            self.running.insert(key);
        }
    }

    fn unindex(&mut self, row: &Row) {
        let (key, state) = (row.fixed.key, &row.state);
        if state.due {
            let lane = row.lane();
            if let Some(rows) = self.ready.get_mut(&lane) {
                rows.remove(&(state.rank, key));
                if rows.is_empty() {
                    self.ready.remove(&lane);
                }
            }
        }
        if let Some(at) = state.wake_at {
            self.wake.remove(&(at, key));
        }
        self.running.remove(&key);
    }

    fn session(&mut self, write: SessionWrite, trace: &mut Trace) -> WriteOutcome {
        match write {
            SessionWrite::Open(session) => {
                trace.touched = true;
                self.sessions.insert(session.id, session);
                WriteOutcome::Applied
            }
            SessionWrite::Renew { sessions, until } => {
                let mut missing = Vec::new();
                for id in sessions {
                    match self.sessions.get_mut(&id) {
                        Some(session) => {
                            session.lease_until = session.lease_until.map(|held| held.max(until))
                        }
                        None => missing.push(id),
                    }
                }
                WriteOutcome::Missing(missing)
            }
            SessionWrite::Close(id) => {
                trace.touched |= self.sessions.remove(&id).is_some();
                WriteOutcome::Applied
            }
        }
    }

    fn elect(&mut self, write: RoleWrite, now: Time, trace: &mut Trace) -> WriteOutcome {
        match RoleGrant::acquire(self.role, write.node, write.known_epoch, write.exclusive, now) {
            Some(grant) => {
                trace.touched |= self.role.is_none_or(|before| before.epoch != grant.epoch);
                self.role = Some(grant);
                WriteOutcome::Role(grant)
            }
            None => self.role.map_or(WriteOutcome::WrongEpoch, WriteOutcome::Role),
        }
    }

    fn keep(&mut self, doc: Doc, rev: u64, trace: &mut Trace) -> WriteOutcome {
        let place = (doc.kind, doc.id.clone());
        let stored = self.docs.get(&place);
        if stored.map_or(0, |stored| stored.rev) != rev {
            return WriteOutcome::DocStale(stored.cloned());
        }
        trace.touched = true;
        self.docs.insert(place, Doc { rev: rev + 1, ..doc });
        WriteOutcome::Applied
    }

    fn forget(&mut self, kind: DocKind, id: String, rev: u64, trace: &mut Trace) -> WriteOutcome {
        let place = (kind, id);
        let stored = self.docs.get(&place);
        if stored.is_none_or(|stored| stored.rev != rev) {
            return WriteOutcome::DocStale(stored.cloned());
        }
        trace.touched = true;
        self.docs.remove(&place);
        WriteOutcome::Applied
    }

    fn find(&self, by: &Ref) -> Option<&Row> {
        let key = match by {
            Ref::Key(key) => Some(key),
            Ref::Id(id) => self.by_id.get(id),
            Ref::Idempotency(key) => self.by_idempotency.get(key),
        };
        key.and_then(|key| self.rows.get(key))
    }

    fn feed(&self, after: Cursor, max: usize) -> Result<FeedPage, StoreError> {
        if let Some((&oldest, _)) = self.feed.first_key_value()
            && after.0 + 1 < oldest.0
        {
            return Err(StoreError::Gone { oldest });
        }
        let from = Cursor(after.0.saturating_add(1));
        let commits: Vec<Commit> =
            self.feed.range(from..).take(max).map(|(_, commit)| commit.clone()).collect();
        let next = commits.last().map_or(after, |commit| commit.cursor);
        Ok(FeedPage { commits, next })
    }

    /// Recounts what is kept as sums and indexes.
    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let mut expect = |what: &str, kept: u64, counted: usize| {
            if kept != counted as u64 {
                findings.push(format!("{what}: {kept} kept, {counted} counted"));
            }
        };
        let count = |status: Status| self.rows.values().filter(|row| row.state.status == status).count();
        let usage = self.totals.usage();
        expect("accepted", self.totals.accepted - usage.removed, self.rows.len());
        expect("pending", self.totals.pending, count(Status::Pending));
        expect("running", self.totals.running, count(Status::Running));
        expect("completed", usage.completed, count(Status::Completed));
        expect("failed", usage.failed, count(Status::Failed));
        expect("cancelled", usage.cancelled, count(Status::Cancelled));
        let due = self.rows.values().filter(|row| row.state.due).count();
        expect("due", self.ready.values().map(|rows| rows.len() as u64).sum(), due);
        for row in self.rows.values() {
            if row.history.last().map(|event| event.seq) != Some(row.state.rev) {
                findings.push(format!(
                    "execution {}: its last event is not its rev {}",
                    row.fixed.key.0, row.state.rev
                ));
            }
        }
        findings
    }
}
