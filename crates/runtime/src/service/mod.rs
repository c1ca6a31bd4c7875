//! The application API: every verb the HTTP API, the CLI and the library offer. One file per kind of verb.
//!
//! A verb checks who asks and what, takes from the state or asks for a commit, and gives a view. Nothing here runs by itself, and
//! no rule stands here: those are in `core`. The verbs of webhooks alone stand with their role, in the room `webhooks`.
//!
//! Rooms it may use: `upkeep`, `scaling`, `workers`, `state`, `seal`, `machine`.

mod all_events;
pub(crate) mod caller;
mod canonical;
mod control;
mod cursor;
mod doctor;
mod encryption;
mod events;
mod exposition;
mod keys;
mod operate;
mod read;
mod resolve;
mod scaling;
mod storage;
mod submit;
mod views;
mod wait;
mod watching;
mod worker_link;
mod workers;

pub use all_events::{EventFilter, EventsFrom};
pub use read::ResultAnswer;
pub use wait::Awaited;

use crate::service::caller::{Caller, Scope};
use crate::state::alerts::Severity;
use crate::state::context::{ChangeError, Context};
use enginehouse_api::{ApiError, Code, EventView, ExecutionView};
use enginehouse_core::execution::Execution;
use enginehouse_core::id::{ExecutionId, Key};
use enginehouse_core::lifecycle::Refused;
use enginehouse_core::time::SECOND;
use enginehouse_core::wait as waiting;
use enginehouse_store::{Ref, StoreError};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The answer to a submit.
#[derive(Debug, Clone)]
pub struct Submitted {
    pub execution: ExecutionView,
    /// The same request was accepted earlier; nothing new was stored.
    pub replayed: bool,
}

/// One item of an event stream: an SSE frame without its transport.
#[derive(Debug, Clone)]
pub struct EventItem {
    /// Opaque; a reader gives the last one back to resume. Empty for what is not stored, after which nothing can resume.
    pub id: String,
    pub view: EventView,
}

/// Items in order. Ends after the terminal event; a reader too slow to keep up is cut and resumes by its last id.
pub type EventStream = mpsc::Receiver<EventItem>;

/// The application API. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(crate) cx: Arc<Context>,
}

impl Service {
    pub(crate) fn new(cx: Arc<Context>) -> Service {
        Service { cx }
    }

    /// Whether new work is taken.
    ///
    /// # Errors
    /// `stopping` after a stop was asked for, `not_ready` when a part of the node failed.
    pub fn ready(&self) -> Result<(), ApiError> {
        if self.cx.is_stopping() {
            return Err(ApiError::new(Code::Stopping, "the service is stopping").retry_after(5 * SECOND));
        }
        let failure = self.cx.failure.borrow().clone();
        failure.map_or(Ok(()), |why| Err(ApiError::new(Code::NotReady, why)))
    }

    /// Whether something is wrong although new work is taken: the names of what, each once. Anybody may be told these.
    #[must_use]
    pub fn degraded(&self) -> Vec<&'static str> {
        let counts = self.cx.observed.alerts.lock().counts();
        let critical =
            counts.into_iter().filter(|(_, severity, n)| *severity == Severity::Critical && *n > 0);
        critical.map(|(name, ..)| name).collect()
    }

    /// What the lease auditor finds wrong with the queue's counts; nothing, if all is well.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        self.cx.scheduling.scheduler.lock().queue.audit()
    }

    /// What is untrue of the reasons that callers are told now; nothing is looked at on a node that does not schedule, or in
    /// the middle of a commit. `pending` is read by `read` once that is known.
    #[must_use]
    pub fn audit_waits(&self, pending: impl FnOnce() -> Vec<Execution>) -> waiting::Audit {
        let Ok(_between) = self.cx.writes.batch.try_lock() else { return waiting::Audit::default() };
        let scheduler = self.cx.scheduling.scheduler.lock();
        if !scheduler.is_in_step() {
            return waiting::Audit::default();
        }
        let whole = !self.cx.store.features().shared;
        waiting::audit(&pending(), whole, &scheduler.queue, &scheduler.gates, self.cx.store.now())
    }

    /// A consistent copy of the store in a new file, while work goes on. Large results that lie in a directory are put beside
    /// it ([`blobs_beside`](crate::blobs_beside)).
    ///
    /// # Errors
    /// When the file exists already or cannot be written.
    pub async fn backup(&self, to: &Path) -> Result<(), ApiError> {
        // Before and after the copy of the store: what it tells of may go, and come, while it is made.
        self.copy_blobs(to).await?;
        self.cx.store.backup(to).await.map_err(|e| store_error(&e))?;
        self.copy_blobs(to).await
    }

    async fn copy_blobs(&self, to: &Path) -> Result<(), ApiError> {
        let Some(blobs) = &self.cx.payloads.blobs else { return Ok(()) };
        blobs.copy_beside(to).await.map_err(|error| {
            ApiError::new(Code::Internal, format!("the large results could not be copied: {error}"))
        })
    }

    /// How a caller's id names a row.
    fn named(&self, id: &str) -> Result<Ref, ApiError> {
        if let Some((key, tag)) = Key::from_uuid(id)
            && self.cx.payloads.sealer.id_tag(key) == tag
        {
            return Ok(Ref::Key(key));
        }
        ExecutionId::try_from(id.to_owned()).map(Ref::Id).map_err(|_| not_found(id))
    }

    async fn row(&self, id: &str) -> Result<Execution, ApiError> {
        let named = self.named(id)?;
        self.cx.find(named).await.map_err(|e| store_error(&e))?.ok_or_else(|| not_found(id))
    }
}

/// 0 of nothing.
fn average(sum: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum as f64 / count as f64 }
}

fn not_found(id: &str) -> ApiError {
    let shown: String = id.chars().take(ExecutionId::BYTES_MAX).collect();
    ApiError::new(Code::NotFound, format!("there is no execution {shown:?}"))
}

pub(crate) fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::Full => ApiError::new(Code::StoreFull, "the store's disk is full; nothing was accepted"),
        StoreError::Closed => {
            ApiError::new(Code::Stopping, "the service is stopping").retry_after(5 * SECOND)
        }
        StoreError::Refused(why) => ApiError::new(Code::Internal, why.clone()),
        other => ApiError::new(Code::StoreUnavailable, format!("{other}; try again with the same id"))
            .retry_after(SECOND),
    }
}

fn change_error(id: &str, error: ChangeError) -> ApiError {
    let refused = |code: Code, why: Refused| ApiError::new(code, format!("execution {id:?}: {why}"));
    match error {
        ChangeError::NotFound => not_found(id),
        ChangeError::Store(error) => store_error(&error),
        ChangeError::Contended => {
            ApiError::new(Code::StoreUnavailable, "the execution kept changing; try again")
                .retry_after(SECOND)
        }
        ChangeError::Refused(why) => match why {
            Refused::AlreadyFinished | Refused::AlreadyCancelled => refused(Code::AlreadyFinished, why),
            Refused::NotRedrivable => refused(Code::NotRedrivable, why),
            Refused::StaleLease => refused(Code::StaleLease, why),
            Refused::NotPending | Refused::NotDue | Refused::NoChange => refused(Code::NotPending, why),
        },
    }
}

/// The scope check for what the route table cannot know, because it depends on the body.
fn require(caller: &Caller, scope: Scope, what: &str) -> Result<(), ApiError> {
    if caller.may(scope) {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, format!("{what} needs a key with the scope {scope}")))
}
