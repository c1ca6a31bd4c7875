//! One requested run of one workflow: what was asked for and never changes ([`Fixed`]), and where it stands
//! ([`State`]). Only a [`Transition`](crate::lifecycle::Transition) changes a state.

use crate::event::Event;
use crate::failure::Failure;
use crate::id::{ExecutionId, Fence, Key, SessionId};
use crate::rank::Rank;
use crate::retry::RetryPolicy;
use crate::time::{Millis, Time};
use crate::trace_context::TraceContext;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub use crate::priority::Priority;

/// The five statuses. "Scheduled", "retrying" and "parked" are wait reasons of `Pending`, not statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub const ALL: [Status; 5] =
        [Status::Pending, Status::Running, Status::Completed, Status::Failed, Status::Cancelled];

    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Status> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The limits and the retry policy of one execution, resolved at submit from the request, the engine and the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// One attempt, from its grant (a re-attached one: from the grant that started the engine's run).
    pub timeout: Millis,
    /// From max(created, ready) to the terminal status, back-off included.
    pub total_timeout: Millis,
    /// From max(created, ready) to the first grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Millis>,
    /// The longest silence of the engine in a running attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Millis>,
    pub retry: RetryPolicy,
    #[serde(default)]
    pub at_most_once: bool,
    #[serde(default)]
    pub fail_fast: bool,
    /// Carries its workflow's definition in the request.
    #[serde(default)]
    pub inline: bool,
    /// Size of the request as it was sent, in bytes.
    #[serde(default)]
    pub input_bytes: u64,
    /// Its caller wants to be told of its end at a URL in the request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub callback: bool,
    /// The trace that it belongs to; `None`: it is not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// What a submit fixed for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    pub key: Key,
    /// The caller's id; `None` when the service made one, which then follows from the key.
    pub ext_id: Option<ExecutionId>,
    /// The caller's `Idempotency-Key` with the API key it is scoped to.
    pub idem_key: Option<String>,
    /// Keyed hash of the canonical request; equal requests have equal hashes.
    pub request_hash: [u8; 32],
    /// The engine's configured name and its type.
    pub engine: String,
    pub engine_type: String,
    pub workflow: String,
    pub user: Option<String>,
    /// Keyed hash of the concurrency key: at most this many of one key run at once (1 unless configured).
    pub ckey: Option<String>,
    pub tags: Vec<String>,
    pub created_at: Time,
    pub spec: Spec,
}

/// Where an execution stands. `rev` is the number of its last event and guards every change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub rev: u32,
    /// Grows with each redrive, from 1.
    pub generation: u32,
    pub status: Status,
    pub priority: Priority,
    pub rank: Rank,
    /// Pending and its time has come: it stands in its lane of the ready queue.
    pub due: bool,
    /// Pending after a reported failure: it stands in the retry lane.
    pub retrying: bool,
    /// When a timer must look at the row again; `None` when nothing is due.
    pub wake_at: Option<Time>,
    /// Not before this time.
    pub ready_at: Time,
    /// Start of the clock of `total_timeout` and `expires_in`: max(created, ready) of this generation.
    pub clock_from: Time,
    /// The first grant of this generation.
    pub started_at: Option<Time>,
    /// When the engine's current run began: the clock of `timeout`; kept over a re-attach.
    pub run_started_at: Option<Time>,
    pub ended_at: Option<Time>,
    /// The endpoint (index among the engine's) of the current or last attempt.
    pub endpoint: Option<u32>,
    pub worker: Option<String>,
    pub holder: Option<SessionId>,
    pub fence: Fence,
    /// Attempts begun, over all generations.
    pub attempt: u32,
    /// Attempts of this generation that reported an end; `max_retries` compares with this.
    pub reported: u32,
    /// Workers that died under it while their node lived.
    pub lost: u32,
    /// Deaths of the node it ran on.
    pub node_crashes: u32,
    /// Attempts in a row that provably never reached the engine: paces the next try, burns nothing.
    #[serde(default)]
    pub refused: u32,
    /// Grows with each fresh engine run; the engine's idempotency key is `{id}.{run}`.
    pub run: u32,
    /// The engine's own id of the current run, as its adapter wrote it.
    pub engine_run: Option<String>,
    /// The next attempt can take `engine_run` up again instead of starting afresh.
    #[serde(default)]
    pub can_reattach: bool,
    /// An attempt of this same run may have reached the engine although no run id is known: look before repeating.
    #[serde(default)]
    pub maybe_started: bool,
    pub cancel_at: Option<Time>,
    pub failure: Option<Failure>,
    #[serde(default)]
    pub needs_input: bool,
    /// Size of the stored result before sealing, in bytes.
    #[serde(default)]
    pub output_bytes: u64,
    /// It ended without the engine's word on its last run, which may still be going there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
}

impl State {
    /// The only endpoint a next attempt may go to: it has the engine's run to take up again, or it may have one that
    /// has to be looked for before another is started.
    #[must_use]
    pub fn pinned(&self) -> Option<u32> {
        let has_run = self.can_reattach && self.engine_run.is_some();
        self.endpoint.filter(|_| has_run || self.maybe_started)
    }
}

/// One row: what was asked, where it stands, and (when it was read with it) what happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    pub fixed: Arc<Fixed>,
    pub state: State,
    /// Events 1 to `rev`, the oldest folded beyond 256; empty where a verb says it does not read them.
    pub history: Vec<Event>,
}

impl Execution {
    #[must_use]
    pub fn key(&self) -> Key {
        self.fixed.key
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.state.status
    }

    /// The last instant at which this generation may still be unfinished.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.state.clock_from.plus(self.fixed.spec.total_timeout)
    }

    /// The last instant for the first grant of this generation, if one was asked for and none happened yet.
    #[must_use]
    pub fn expiry(&self) -> Option<Time> {
        let expires_in = self.fixed.spec.expires_in?;
        self.state.started_at.is_none().then(|| self.state.clock_from.plus(expires_in))
    }

    /// The ready-queue lane this row belongs to.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane {
            engine: self.fixed.engine.clone(),
            user: self.fixed.user.clone(),
            ckey: self.fixed.ckey.clone(),
            retry: self.state.retrying,
        }
    }
}

/// Rows of one lane start strictly by (rank, key), and are blocked or open together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    pub engine: String,
    pub user: Option<String>,
    pub ckey: Option<String>,
    pub retry: bool,
}
