//! What a worker hears from its node and says to it.

use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::id::{Fence, Key};
use enginehouse_core::reason::Reason;
use enginehouse_core::time::Millis;
use enginehouse_engine::{EngineFailure, Progress};

/// A worker's connection to its node. Sealing and opening happen on the node's side.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// The next order; waits for one. `None`: the node has closed the link.
    ///
    /// The caller polls it to its end: dropped half-way, an order already taken would be lost.
    async fn order(&self) -> Option<Order>;

    /// Stores the engine's run id under the lease; returns once it is durable.
    async fn attach(&self, lease: LeaseRef, engine_run: &str, can_reattach: bool) -> Result<(), LinkError>;

    /// A sign of life; live only, may be dropped, never blocks.
    fn progress(&self, lease: LeaseRef, progress: Progress);

    /// Reports the end of an attempt; returns once it is durable.
    async fn report(&self, lease: LeaseRef, report: Report) -> Result<(), LinkError>;

    /// A small fact kept for an engine under `name`.
    async fn recall(&self, engine: &str, name: &str) -> Option<String>;

    async fn remember(&self, engine: &str, name: &str, value: &str);
}

/// Which attempt: a row and the fence that proves the right to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseRef {
    pub key: Key,
    pub fence: Fence,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    Run(Box<Assignment>),
    /// The caller wishes the run to be stopped in the engine.
    Cancel(LeaseRef),
    /// The lease is gone: drop the connection, do not cancel in the engine, do not report.
    LetGo(LeaseRef),
    /// The node stops: let go of everything and report it as interrupted.
    HandBack,
}

/// One attempt to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub lease: LeaseRef,
    pub execution_id: String,
    pub attempt: u32,
    /// `{execution id}.{run}`.
    pub idempotency_key: String,
    /// The `traceparent` that the engine is told; `None`: nothing is traced.
    pub traceparent: Option<String>,
    /// The configured engine's name.
    pub engine: String,
    pub workflow_id: String,
    /// The request as it was sent, as JSON.
    pub request: Bytes,
    pub endpoint: u32,
    pub engine_run: Option<String>,
    pub maybe_started: bool,
    /// What is left of the time for this attempt.
    pub limit: Limit,
    pub idle_timeout: Option<Millis>,
}

/// A span and the code of the timeout it ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub after: Millis,
    /// `attempt_timeout` or `total_timeout`.
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub end: End,
    /// What the attempt logged, bounded.
    pub logs: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Succeeded {
        /// JSON.
        result: Bytes,
        needs_input: bool,
    },
    Failed {
        failure: EngineFailure,
        /// The engine was told to stop and did not say that it has: its room stays taken for a while.
        abandoned: bool,
    },
    Cancelled {
        abandoned: bool,
    },
    Interrupted {
        reason: Reason,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the lease is no longer the current one")]
    Stale,
    /// Try again.
    #[error("the node cannot store it now: {0}")]
    Unavailable(String),
    #[error("the link is closed")]
    Closed,
    /// The node does not take it, and will not later either.
    #[error("the node refuses it: {0}")]
    Refused(String),
}
