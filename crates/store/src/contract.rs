//! What every driver promises. `tests/conformance` checks each sentence here on each driver.

use async_trait::async_trait;
use enginehouse_core::event::{Event, EventType, NoteKind};
use enginehouse_core::execution::{Execution, Lane, Priority, Status};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::{ExecutionId, Key, NodeId, SessionId};
use enginehouse_core::lifecycle::{Part, Transition};
use enginehouse_core::rank::Rank;
use enginehouse_core::session::{RoleGrant, Session};
use enginehouse_core::time::{Millis, Time};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// A payload as it lies at rest: compressed, encrypted, with its header. Opaque to a driver.
pub type Sealed = Arc<[u8]>;

/// The store's clock. It never steps back and a jump of the wall clock does not move it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Time;

    /// From here on the clock is never below `least` (the greatest time a store already holds).
    fn raise_to(&self, least: Time);
}

/// A row that is about to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Starting {
    pub key: Key,
    /// Its request comes along when it has at most this many bytes, as they were sent.
    pub request_up_to: u64,
}

/// Such a row, and its sealed request if that was asked for and is stored.
pub type Started = (Execution, Option<Sealed>);

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies a batch in one transaction, and returns once it is synced to disk.
    ///
    /// A refused write leaves the others standing. An **error means "unknown"**: the batch may have been committed as a
    /// whole or not at all.
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError>;

    /// The cursor of the newest commit; a nudge, so losing one costs latency only.
    fn changed(&self) -> watch::Receiver<Cursor>;

    /// Commits after `after`, oldest first, at most `max` of them. [`StoreError::Gone`] when they were pruned.
    async fn feed(&self, after: Cursor, max: usize) -> Result<FeedPage, StoreError>;

    /// The store's clock.
    fn now(&self) -> Time;

    /// Rows with their history, in the order of `refs`; `None` where there is none.
    async fn find(&self, refs: &[Ref]) -> Result<Vec<Option<Execution>>, StoreError>;

    /// Rows without history, in the order of `wanted`, each with its request where that is asked for; `None` where there is no row.
    async fn starting(&self, wanted: &[Starting]) -> Result<Vec<Option<Started>>, StoreError>;

    async fn payload(&self, key: Key, part: Part) -> Result<Option<Sealed>, StoreError>;

    /// Rows without history, newest first, strictly older than `after`.
    async fn list(&self, query: &ListQuery) -> Result<Vec<Execution>, StoreError>;

    /// Every lane that has due rows, with their number and first row; ordered by lane.
    async fn lanes(&self) -> Result<Vec<LaneCount>, StoreError>;

    /// Due rows of one lane after `after`, in (rank, key) order.
    async fn ready(
        &self,
        lane: &Lane,
        after: Option<(Rank, Key)>,
        max: usize,
    ) -> Result<Vec<Ready>, StoreError>;

    /// Pending rows whose `wake_at` is at or before `until`, the earliest first, without history.
    async fn due(&self, until: Time, max: usize) -> Result<Vec<Execution>, StoreError>;

    /// When the earliest `wake_at` is.
    async fn next_wake(&self) -> Result<Option<Time>, StoreError>;

    /// Running rows (of one holder, or all) with a greater key than `after`, by key, without history.
    async fn running(
        &self,
        holder: Option<SessionId>,
        after: Option<Key>,
        max: usize,
    ) -> Result<Vec<Execution>, StoreError>;

    /// Ended rows with a greater key than `after`, by key and so about the oldest first.
    async fn ended(&self, after: Option<Key>, max: usize) -> Result<Vec<EndedRow>, StoreError>;

    /// How many rows there are and what room they take.
    async fn usage(&self) -> Result<Usage, StoreError>;

    /// How many of these payloads begin with the same `bytes` bytes, by those bytes. Reads all of them.
    async fn heads(&self, of: Payloads, bytes: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError>;

    /// Gives free room back to the file system, about `bytes_max` of it; tells how many bytes of free room are left.
    async fn reclaim(&self, bytes_max: u64) -> Result<u64, StoreError>;

    /// All sessions that were opened and not closed, by id.
    async fn sessions(&self) -> Result<Vec<Session>, StoreError>;

    async fn docs(&self, kind: DocKind) -> Result<Vec<Doc>, StoreError>;

    /// Sums over every commit since the store was made.
    async fn totals(&self) -> Result<Totals, StoreError>;

    /// Looks for damage; [`Depth::Full`] reads everything.
    async fn check(&self, depth: Depth) -> Result<Report, StoreError>;

    /// Writes a consistent copy to `to`, which must not exist yet, while the store goes on working.
    async fn backup(&self, to: &Path) -> Result<(), StoreError>;

    /// Finishes what was begun and lets go of files and locks; every later verb answers [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;

    fn features(&self) -> Features;
}

/// How drivers differ: declared, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Several nodes may use it at once. If not, opening it proves that every earlier process is dead.
    pub shared: bool,
    /// What was acknowledged survives the end of the process.
    pub durable: bool,
}

/// One transaction.
#[derive(Debug, Clone)]
pub struct Batch {
    pub node: NodeId,
    /// The scheduler's epoch as the writer knows it; while the role has another one, [`Write::Schedule`] and the
    /// grants of [`New`] are refused.
    pub scheduler_epoch: Option<u64>,
    pub writes: Vec<Write>,
}

#[derive(Debug, Clone)]
pub enum Write {
    /// An atomic group: all are stored, or none (one conflict refuses all). Replays are no conflict.
    Submit(Vec<New>),
    /// Guarded by the row's `rev`. After one refused change of a row, the batch's later changes of that row are refused
    /// too: they were decided on what the first would have made of it, and another change may have led to the same `rev`.
    Apply(Transition),
    /// A transition only the scheduler may make (grant, wake, lose): guarded by `rev` and by its epoch. Once a change of
    /// the batch was refused, its later grants (those of [`New`] too) are held: they may have been given a slot that the
    /// refused change was to free.
    Schedule(Transition),
    Session(SessionWrite),
    Role(RoleWrite),
    /// A service-wide event of the feed that belongs to no execution.
    Note(Note),
    /// A small document; applied only when the stored one has exactly `rev` (0: there is none).
    Keep {
        doc: Doc,
        rev: u64,
    },
    /// Removes a document at exactly `rev`.
    Forget {
        kind: DocKind,
        id: String,
        rev: u64,
    },
    /// Removes ended rows, or what they carry. Those that have another `rev`, or have not ended, stay as they are. The
    /// feed does not tell of it.
    Remove(Vec<Removal>),
}

/// One row of a [`Write::Remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    pub key: Key,
    pub rev: u32,
    /// The row with everything of it; if not, only request, result and log.
    pub whole: bool,
}

/// What is asked of an ended row to decide how long it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRow {
    pub key: Key,
    pub rev: u32,
    pub engine: String,
    pub status: Status,
    pub ended_at: Time,
    /// The caller chose its id, or gave an idempotency key.
    pub named: bool,
    /// Its request is still there.
    pub has_payload: bool,
    /// Bytes of its result as it came from the engine.
    pub output_bytes: u64,
}

/// What of the executions is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payloads {
    Part(Part),
    /// What engines said of failures, in the events of the executions.
    Failures,
}

/// What a store holds, and what room that takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub pending: u64,
    pub running: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Rows that retention removed since the store was made.
    pub removed: u64,
    /// Bytes in use; 0 where that is not known.
    pub bytes: u64,
    /// Bytes of files that are free, and may be given back.
    pub reclaimable: u64,
    /// Bytes of the log of the newest commits.
    pub log_bytes: u64,
    /// Bytes of the feed, which is bounded by itself.
    pub feed_bytes: u64,
    /// When the oldest of the ended rows ended.
    pub oldest_ended: Option<Time>,
}

/// One execution to store.
#[derive(Debug, Clone)]
pub struct New {
    /// As submitted: `rev` 1 with its one event.
    pub row: Execution,
    pub input: Sealed,
    /// The scheduler starts it at once: submit and grant in one write. Its `rev` guard is 1.
    pub grant: Option<Transition>,
}

#[derive(Debug, Clone)]
pub enum SessionWrite {
    /// Inserts or replaces by id.
    Open(Session),
    /// Raises `lease_until` of those of these sessions that still exist and have a lease; the outcome lists the missing.
    /// A renewal that comes late or twice shortens nothing.
    Renew {
        sessions: Vec<SessionId>,
        until: Time,
    },
    Close(SessionId),
}

/// Asks for, or renews, the scheduler's role; see [`RoleGrant::acquire`].
#[derive(Debug, Clone, Copy)]
pub struct RoleWrite {
    pub node: NodeId,
    pub known_epoch: Option<u64>,
    pub exclusive: bool,
}

/// A service-wide event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    #[serde(rename = "type")]
    pub kind: NoteKind,
    pub data: serde_json::Value,
}

/// What became of a batch.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The store's time of the commit.
    pub at: Time,
    /// Its own place in the feed; `None` when it had nothing to tell there, for then the newest place is another commit's.
    pub cursor: Option<Cursor>,
    /// One per write, in order.
    pub outcomes: Vec<WriteOutcome>,
}

#[derive(Debug, Clone)]
pub enum WriteOutcome {
    Applied,
    /// Of a `Submit`: one per execution.
    Submitted(Vec<SubmitOutcome>),
    /// Of a `Submit`: item `index` reuses an id or idempotency key with a different request; nothing was stored.
    Conflict {
        index: usize,
        existing: Box<Execution>,
    },
    /// The row's `rev` is another; here it is, with its history. `None` when there is no such row.
    Stale(Option<Box<Execution>>),
    /// Of a `Schedule`: the epoch is not the current one.
    WrongEpoch,
    /// Of a grant: an earlier change of the batch was refused.
    Held,
    /// Of a `Role`: who holds it now; the asker when it was granted.
    Role(RoleGrant),
    /// Of a `Renew`: these are gone.
    Missing(Vec<SessionId>),
    /// Of a `Remove`: how many rows it changed.
    Removed(u64),
    /// Of a `Keep` or `Forget`: the stored document, if any, has another `rev`.
    DocStale(Option<Doc>),
}

#[derive(Debug, Clone)]
pub enum SubmitOutcome {
    /// Stored; `granted` tells whether its grant was applied with it.
    Stored { granted: bool },
    /// The same request was there already.
    Existing(Box<Execution>),
}

/// A position in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub u64);

#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    pub commits: Vec<Commit>,
    /// Pass as `after` to go on.
    pub next: Cursor,
}

/// What one commit changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    pub cursor: Cursor,
    pub at: Time,
    pub node: NodeId,
    pub changes: Vec<Change>,
    pub notes: Vec<Note>,
}

/// One event of one execution, with what a reader needs to decide whether it cares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub key: Key,
    pub ext_id: Option<ExecutionId>,
    pub engine: String,
    /// The status after the event.
    pub status: Status,
    pub holder: Option<SessionId>,
    pub event: Event,
}

/// How a row is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ref {
    Key(Key),
    /// The caller's own id.
    Id(ExecutionId),
    /// The scoped idempotency key, as stored.
    Idempotency(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListQuery {
    pub filter: Filter,
    /// Strictly older than this key.
    pub after: Option<Key>,
    pub limit: usize,
}

/// All given conditions hold. Times compare with the creation time: `since` inclusive, `until` exclusive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Any of these; empty means any at all.
    pub statuses: Vec<Status>,
    pub engine: Option<String>,
    pub engine_type: Option<String>,
    pub workflow: Option<String>,
    pub user: Option<String>,
    pub tag: Option<String>,
    /// The last failure is of one of these kinds; empty means any, or none.
    pub failure_kinds: Vec<FailureKind>,
    /// The code of the last failure.
    pub failure_code: Option<String>,
    pub since: Option<Time>,
    pub until: Option<Time>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LaneCount {
    pub lane: Lane,
    pub rows: u64,
    pub head: (Rank, Key),
}

/// What the ready queue needs of a due row.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    pub key: Key,
    pub rank: Rank,
    pub priority: Priority,
    /// The endpoint it is bound to, see [`State::pinned`](enginehouse_core::execution::State::pinned).
    pub pinned: Option<u32>,
    pub fail_fast: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocKind {
    /// Operator state of one engine, such as "paused".
    Engine,
    /// What the scheduler learned of one engine: breakers, adaptive limits, the retry budget.
    Gate,
    /// An API key: its hash, scopes and name.
    ApiKey,
    /// A small fact an adapter keeps, such as the engine's id of an inline workflow.
    EngineMemory,
    /// What the auto-scaler learned, what an operator changed of its rules, and how many workers each node is to have.
    Scaling,
    /// One change of the number of workers, with what it was decided on and what came of it.
    Decision,
    /// What is to be told to a receiver of webhooks, and how far the feed was read for them.
    Webhook,
    /// A stretch of the service's figures over time.
    Figures,
    /// What the store itself belongs to: which seal keys its rows need, which node ids are taken.
    Setting,
}

/// A small versioned JSON document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doc {
    pub kind: DocKind,
    pub id: String,
    /// Grows by one with each write, from 1; set by the driver.
    pub rev: u64,
    pub body: serde_json::Value,
}

/// Sums since the store was made, kept in the commits themselves, so they survive restarts and cannot drift.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub accepted: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Attempts that were followed by another after a reported failure.
    pub retried: u64,
    /// Now pending and now running.
    pub pending: u64,
    pub running: u64,
    /// Over completed and failed executions that were started: first grant to terminal, and submit to first grant.
    pub started: u64,
    pub run_ms: Millis,
    pub wait_ms: Millis,
    /// Of the completed, failed and cancelled ones: those that retention removed.
    #[serde(default)]
    pub removed: Removed,
}

/// Rows that were removed, by the status they had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Removed {
    #[must_use]
    pub fn all(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }

    pub(crate) fn count(&mut self, status: Status) {
        match status {
            Status::Pending | Status::Running => {}
            Status::Completed => self.completed += 1,
            Status::Failed => self.failed += 1,
            Status::Cancelled => self.cancelled += 1,
        }
    }
}

impl Totals {
    /// How many rows of each status there are.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            pending: self.pending,
            running: self.running,
            completed: self.completed.saturating_sub(self.removed.completed),
            failed: self.failed.saturating_sub(self.removed.failed),
            cancelled: self.cancelled.saturating_sub(self.removed.cancelled),
            removed: self.removed.all(),
            ..Usage::default()
        }
    }

    pub fn submitted(&mut self) {
        self.accepted += 1;
        self.pending += 1;
    }

    /// Adds what one transition of a row means.
    pub fn moved(&mut self, transition: &Transition) {
        let next = &transition.next;
        match transition.from {
            Status::Pending => self.pending = self.pending.saturating_sub(1),
            Status::Running => self.running = self.running.saturating_sub(1),
            Status::Completed => {}
            // A redriven execution is no longer among the failed or cancelled ones.
            Status::Failed if next.status == Status::Pending => self.failed = self.failed.saturating_sub(1),
            Status::Cancelled if next.status == Status::Pending => {
                self.cancelled = self.cancelled.saturating_sub(1)
            }
            Status::Failed | Status::Cancelled => {}
        }
        match next.status {
            Status::Pending => self.pending += 1,
            Status::Running => self.running += 1,
            _ if transition.from == next.status => {}
            Status::Completed => self.completed += 1,
            Status::Failed => self.failed += 1,
            Status::Cancelled => self.cancelled += 1,
        }
        if transition.event.kind == EventType::ExecutionRetrying {
            self.retried += 1;
        }
        let ended =
            matches!(next.status, Status::Completed | Status::Failed) && transition.from != next.status;
        if let (true, Some(started), Some(end)) = (ended, next.started_at, next.ended_at) {
            self.started += 1;
            self.run_ms += end.since(started);
            self.wait_ms += started.since(next.clock_from);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Quick,
    Full,
}

/// What a check found; empty findings mean sound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<String>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The outcome of a write is unknown; a read may be tried again.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Nothing can be written any more until the store is opened again, which also tells what became of the last batch.
    #[error("the store cannot go on: {0}")]
    Broken(String),
    #[error("the store's disk is full")]
    Full,
    #[error("these commits were pruned; the oldest kept is {}", oldest.0)]
    Gone { oldest: Cursor },
    #[error("the store is closed")]
    Closed,
    /// Opening: another process uses the directory, the file is damaged, newer than this program, ...
    #[error("{0}")]
    Refused(String),
    #[error("the store is damaged: {0}")]
    Corrupt(String),
}
