//! What the roles of one node share.

use super::env::Env;
use super::events::Events;
use super::observed::Observed;
use super::payloads::Payloads;
use super::planned::Planned;
use super::registry::Registry;
use super::scheduler::rules_of;
use super::scheduling::Scheduling;
use super::settings::Settings;
use super::workers::{Orphan, Workers};
use super::writes::Writes;
use enginehouse_core::event::EventType;
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::{Refused, Transition};
use enginehouse_core::queue::Queue;
use enginehouse_core::session::Session;
use enginehouse_core::time::{Millis, Time};
use enginehouse_store::{Doc, DocKind, Ref, Store, StoreError, Write, WriteOutcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What every role needs, and six parts. Their order is the order of their locks, see [`Place`](super::lock::Place).
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Env,
    pub(crate) registry: Registry,
    /// Why the node cannot go on, once it cannot.
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) stopping: AtomicBool,
    pub(crate) halt: CancellationToken,
    pub(crate) writes: Writes,
    pub(crate) scheduling: Scheduling,
    pub(crate) workers: Workers,
    pub(crate) payloads: Payloads,
    pub(crate) events: Events,
    pub(crate) observed: Observed,
}

/// Why a change was not made.
#[derive(Debug)]
pub(crate) enum ChangeError {
    NotFound,
    Refused(Refused),
    Store(StoreError),
    /// The row kept changing under it.
    Contended,
}

/// The committer looks for what may start at least this often.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// How often a decision is taken again when the row changed under it.
const DECISIONS_MAX: usize = 3;

impl Context {
    /// The node cannot go on; the first reason stays.
    pub(crate) fn fail(&self, why: String) {
        self.failure.send_if_modified(|now| now.is_none().then(|| *now = Some(why)).is_some());
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// How long until an engine that paces its work lets the next one in; a long time when none does.
    pub(crate) fn next_opening(&self) -> Duration {
        let now = self.store.now();
        let opening = self.scheduling.scheduler.lock().next_opening(now);
        let wait = opening.map_or(LOOK_AT_LEAST_EVERY, |at| Duration::from_millis(at.since(now).max(1)));
        wait.min(LOOK_AT_LEAST_EVERY)
    }

    pub(crate) async fn find(&self, named: Ref) -> Result<Option<Execution>, StoreError> {
        Ok(self.store.find(&[named]).await?.pop().flatten())
    }

    /// Decides on the row and applies the transition; when the row changed meanwhile, decides again.
    pub(crate) async fn change(
        &self,
        key: Key,
        scheduled: bool,
        decide: impl Fn(&Execution, Time) -> Result<Transition, Refused> + Send + Sync,
    ) -> Result<Execution, ChangeError> {
        let cached = self.scheduling.rows.lock().get(&key).cloned();
        let mut row = match cached {
            Some(row) => row,
            None => {
                self.find(Ref::Key(key)).await.map_err(ChangeError::Store)?.ok_or(ChangeError::NotFound)?
            }
        };
        let mut fresh = false;
        for _ in 0..DECISIONS_MAX {
            let transition = match decide(&row, self.store.now()) {
                Ok(transition) => transition,
                // A refusal on a cached row may be out of date; one on the store's row is final.
                Err(_) if !fresh => {
                    row = self
                        .find(Ref::Key(key))
                        .await
                        .map_err(ChangeError::Store)?
                        .ok_or(ChangeError::NotFound)?;
                    fresh = true;
                    continue;
                }
                Err(refused) => return Err(ChangeError::Refused(refused)),
            };
            let bytes = transition.parts.iter().map(|(_, part)| part.len()).sum();
            let before = Execution { history: Vec::new(), ..row.clone() };
            let planned = Planned::Transition { row: before, transition: transition.clone(), scheduled };
            let settled = self.writes.commit(vec![planned], bytes).await.map_err(ChangeError::Store)?;
            match settled.outcomes.into_iter().next() {
                Some(WriteOutcome::Applied) => return Ok(transition.applied_to(&row)),
                Some(WriteOutcome::Stale(Some(truth))) => {
                    row = *truth;
                    fresh = true;
                }
                Some(WriteOutcome::Stale(None)) => return Err(ChangeError::NotFound),
                _ => return Err(ChangeError::Contended),
            }
        }
        Err(ChangeError::Contended)
    }

    /// A queue with this node's engines and all known workers, and no work yet.
    pub(crate) fn fresh_queue(&self, sessions: &[Session]) -> Queue {
        let mut queue = Queue::new(self.settings.concurrency_key_limit);
        queue.set_placement(self.settings.workers.placement);
        queue.set_weights(self.settings.queue.user_weights.clone());
        for engine in self.registry.iter() {
            queue.set_engine(&engine.settings.name, self.registry.rules(&engine.settings));
        }
        let now = self.store.now();
        for session in sessions.iter().filter(|s| !s.is_expired(now)) {
            queue.set_worker(session.id, rules_of(session));
        }
        queue
    }

    /// Writes a small document; decides again when someone else wrote it meanwhile.
    pub(crate) async fn keep(
        &self,
        kind: DocKind,
        id: &str,
        body: impl Fn(Option<&serde_json::Value>) -> serde_json::Value + Send + Sync,
    ) -> Result<(), StoreError> {
        let mut current = self.store.docs(kind).await?.into_iter().find(|d| d.id == id);
        for _ in 0..3 {
            let rev = current.as_ref().map_or(0, |d| d.rev);
            let doc = Doc { kind, id: id.to_owned(), rev, body: body(current.as_ref().map(|d| &d.body)) };
            let settled = self.writes.commit(vec![Planned::Other(Write::Keep { doc, rev })], 0).await?;
            match settled.outcomes.into_iter().next() {
                Some(WriteOutcome::DocStale(other)) => current = other,
                _ => return Ok(()),
            }
        }
        Err(StoreError::Unavailable(format!("the document {id} kept changing")))
    }

    /// Writes a document at a revision that is known.
    pub(crate) async fn write_doc(
        &self,
        kind: DocKind,
        id: &str,
        rev: u64,
        body: serde_json::Value,
    ) -> Result<(), StoreError> {
        let doc = Doc { kind, id: id.to_owned(), rev, body };
        self.writes.commit(vec![Planned::Other(Write::Keep { doc, rev })], 0).await.map(|_| ())
    }

    /// How long the first in line has been due: of the row that stands first on each engine the longest.
    pub(crate) fn oldest_wait(&self, queue: &Queue, now: Time) -> Millis {
        let head_starts = &self.settings.head_starts;
        let waits = queue.first_rows().map(|(rank, priority)| {
            // A rank is the time it became due less its head start, so the head start of that time gives it back.
            now.since(Time(rank.0 - head_starts.rank(priority, Time(0)).0))
        });
        waits.max().unwrap_or(0)
    }

    // ---- what follows from a commit; called by the committer, so nothing here waits

    pub(crate) fn submitted(&self, row: &Execution) {
        self.observed.figures.lock().submitted();
        self.observed.telemetry.submitted(row);
        self.events.hub.changed(row.key(), row.status().is_terminal());
        self.writes.consider_wake(row.state.wake_at);
    }

    pub(crate) fn moved(&self, row: &Execution, transition: &Transition) {
        let next = &transition.next;
        self.observed.figures.lock().moved(transition);
        self.observed.unreached.lock().heard(row.key(), &row.fixed.engine, &transition.event);
        let endpoint = |at| self.registry.endpoint_name(&row.fixed.engine, at);
        self.observed.telemetry.moved(row, transition, || self.payloads.public_id(row), endpoint);
        let after = || Execution { fixed: row.fixed.clone(), state: next.clone(), history: Vec::new() };
        self.events.hub.tell(row.key(), next.status.is_terminal(), || Some(after()));
        if next.status == Status::Running {
            self.scheduling.rows.lock().insert(row.key(), after());
        } else if row.status() == Status::Running {
            self.scheduling.rows.lock().remove(&row.key());
        }
        self.writes.consider_wake(next.wake_at);
        let orphaned = row.status() == Status::Pending && next.status.is_terminal() && next.can_reattach;
        if let (true, Some(engine_run)) = (orphaned, next.engine_run.clone()) {
            let engine = row.fixed.engine.clone();
            let orphan = Orphan { engine, endpoint: next.endpoint.unwrap_or(0), engine_run };
            if self.workers.orphans.try_send(orphan).is_err() {
                tracing::warn!(
                    execution = self.payloads.public_id(row),
                    "too many runs wait to be stopped in their engine; one is left alone"
                );
            }
        }
        if transition.event.kind == EventType::ExecutionCancelRequested {
            self.workers.send_cancel(&after());
        }
    }
}
