//! What the roles of one node share.

use super::alerts::Alerts;
use super::env::Env;
use super::figures::{Figures, Pass};
use super::history::History;
use super::hub::Hub;
use super::inputs::InputCache;
use super::joined::Joined;
use super::planned::{Planned, Request, Settled};
use super::port::Port;
use super::registry::Registry;
use super::results::ResultCache;
use super::scaling::Scaling;
use super::scheduler::{Scheduler, rules_of};
use super::settings::Settings;
use super::tail::Tail;
use super::telemetry::Telemetry;
use super::unreached::Unreached;
use super::wanted::{PoolNews, Wanted};
use crate::blobs::Blobs;
use crate::seal::{SealKeys, Sealer};
use enginehouse_api::MetricsSample;
use enginehouse_core::event::{EventType, SERVICE_EVENTS};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::{ExecutionId, Key, SessionId};
use enginehouse_core::lifecycle::{Refused, Transition};
use enginehouse_core::pools::Pools;
use enginehouse_core::queue::Queue;
use enginehouse_core::session::Session;
use enginehouse_core::time::{Millis, Time};
use enginehouse_store::{Cursor, Doc, DocKind, Outcome, Ref, Store, StoreError, Write};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A run of the engine that no attempt follows any more and that is to be stopped there.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) engine: String,
    pub(crate) endpoint: u32,
    pub(crate) engine_run: String,
}

pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Env,
    pub(crate) sealer: Sealer,
    pub(crate) seal_keys: SealKeys,
    pub(crate) registry: Registry,
    pub(crate) hub: Hub,
    pub(crate) figures: Mutex<Figures>,
    pub(crate) unreached: Mutex<Unreached>,
    pub(crate) history: Mutex<History>,
    /// The figures as they were sampled last.
    pub(crate) sampled: watch::Sender<Option<MetricsSample>>,
    pub(crate) alerts: Mutex<Alerts>,
    pub(crate) telemetry: Telemetry,
    pub(crate) tail: Tail,
    /// The receivers of webhooks.
    pub(crate) receivers: Receivers,
    /// What retention did last.
    pub(crate) retention: Mutex<Pass>,
    pub(crate) inputs: Mutex<InputCache>,
    pub(crate) results: Mutex<ResultCache>,
    /// The place of large results, if there is one.
    pub(crate) blobs: Option<Blobs>,
    /// Lock order: `scheduler` before anything else here.
    pub(crate) scheduler: Mutex<Scheduler>,
    /// Rows that run, as of their last event, without history: at most one per lease.
    pub(crate) rows: Mutex<BTreeMap<Key, Execution>>,
    pub(crate) ports: Mutex<BTreeMap<SessionId, Port>>,
    /// Workers that speak through the API. Lock order: then what is one worker's there, then `ports`.
    pub(crate) joined: Mutex<Joined>,
    /// Where this node's worker processes find it, once that is known.
    pub(crate) worker_door: watch::Sender<Option<String>>,
    /// How many workers this node is to have.
    pub(crate) wanted: Mutex<Wanted>,
    pub(crate) pool_news: Mutex<PoolNews>,
    /// The dedicated pools, and what was needed of them a moment ago.
    pub(crate) pools: Mutex<Pools>,
    pub(crate) scaling: Mutex<Scaling>,
    pub(crate) committer: mpsc::Sender<Request>,
    /// Held by the committer from the planning of a batch to its end: between them what is planned is what is stored.
    pub(crate) batch: tokio::sync::Mutex<()>,
    pub(crate) orphans: mpsc::Sender<Orphan>,
    /// Something may start now although nothing was written.
    pub(crate) grant_nudge: Notify,
    pub(crate) wake_nudge: Notify,
    /// A breaker or an operator changed something that others should hear of soon.
    pub(crate) gate_nudge: Notify,
    /// Work found no free slot.
    pub(crate) scaler_nudge: Notify,
    /// Something changed among the workers, or how many are wanted.
    pub(crate) pool_nudge: Notify,
    /// Every commit up to here is known to this node: it made them, or read them in the feed.
    pub(crate) known: Mutex<Cursor>,
    /// A commit came that this node did not make, or of which it does not know what became.
    pub(crate) relay_nudge: Notify,
    /// What the wake timer sleeps towards, in milliseconds since the epoch.
    pub(crate) wake_target: AtomicI64,
    pub(crate) stopping: AtomicBool,
    /// What carries events to readers, one task each; ends with its reader or with [`Context::halt`].
    pub(crate) readers: TaskTracker,
    pub(crate) halt: CancellationToken,
    /// Why the node cannot go on, once it cannot.
    pub(crate) failure: tokio::sync::watch::Sender<Option<String>>,
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

/// How often a decision is taken anew when the row changed under it.
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
        let opening = self.scheduler.lock().next_opening(now);
        let wait = opening.map_or(LOOK_AT_LEAST_EVERY, |at| Duration::from_millis(at.since(now).max(1)));
        wait.min(LOOK_AT_LEAST_EVERY)
    }

    /// Hands writes to the committer and waits until they are durable, or refused.
    pub(crate) async fn commit(&self, writes: Vec<Planned>, bytes: usize) -> Result<Settled, StoreError> {
        debug_assert!(
            writes.iter().all(has_known_name),
            "every type of event is in the list that readers choose from"
        );
        let (reply, answer) = oneshot::channel();
        let request = Request { writes, bytes, reply };
        self.committer.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
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
        let cached = self.rows.lock().get(&key).cloned();
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
            let planned = Planned::Change { row: before, transition: transition.clone(), scheduled };
            let settled = self.commit(vec![planned], bytes).await.map_err(ChangeError::Store)?;
            match settled.outcomes.into_iter().next() {
                Some(Outcome::Applied) => return Ok(transition.applied_to(&row)),
                Some(Outcome::Stale(Some(truth))) => {
                    row = *truth;
                    fresh = true;
                }
                Some(Outcome::Stale(None)) => return Err(ChangeError::NotFound),
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

    /// Writes a small document; decides anew when someone else wrote it meanwhile.
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
            let settled = self.commit(vec![Planned::Other(Write::Keep { doc, rev })], 0).await?;
            match settled.outcomes.into_iter().next() {
                Some(Outcome::DocStale(other)) => current = other,
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
        self.commit(vec![Planned::Other(Write::Keep { doc, rev })], 0).await.map(|_| ())
    }

    pub(crate) fn endpoint_name(&self, engine: &str, at: u32) -> String {
        let known = self.registry.get(engine).and_then(|e| e.settings.endpoints.get(at as usize));
        known.map_or_else(|| at.to_string(), |e| e.name.clone())
    }

    /// The id callers see.
    pub(crate) fn public_id(&self, row: &Execution) -> String {
        self.id_of(row.key(), row.fixed.ext_id.as_ref())
    }

    /// The id under which callers know an execution.
    pub(crate) fn id_of(&self, key: Key, ext_id: Option<&ExecutionId>) -> String {
        match ext_id {
            Some(id) => id.to_string(),
            None => key.to_uuid(self.sealer.id_tag(key)),
        }
    }

    /// What is kept of the token of a worker process.
    pub(crate) fn token_hash(&self, token: &str) -> String {
        self.sealer.name_hash(&format!("worker-token:{token}"))
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

    /// This node made the commit at `cursor`, if it has a place in the feed, and told everyone of it.
    pub(crate) fn made(&self, cursor: Option<Cursor>) {
        let Some(cursor) = cursor else { return };
        let mut known = self.known.lock();
        if known.0 + 1 == cursor.0 {
            *known = cursor;
        } else if *known < cursor {
            self.relay_nudge.notify_one();
        }
    }

    pub(crate) fn submitted(&self, row: &Execution) {
        self.figures.lock().submitted();
        self.telemetry.submitted(row);
        self.hub.changed(row.key(), row.status().is_terminal());
        self.consider_wake(row.state.wake_at);
    }

    pub(crate) fn moved(&self, row: &Execution, transition: &Transition) {
        let next = &transition.next;
        self.figures.lock().moved(transition);
        self.unreached.lock().heard(row.key(), &row.fixed.engine, &transition.event);
        let endpoint = |at| self.endpoint_name(&row.fixed.engine, at);
        self.telemetry.moved(row, transition, || self.public_id(row), endpoint);
        let after = || Execution { fixed: row.fixed.clone(), state: next.clone(), history: Vec::new() };
        self.hub.tell(row.key(), next.status.is_terminal(), || Some(after()));
        if next.status == Status::Running {
            self.rows.lock().insert(row.key(), after());
        } else if row.status() == Status::Running {
            self.rows.lock().remove(&row.key());
        }
        self.consider_wake(next.wake_at);
        let orphaned = row.status() == Status::Pending && next.status.is_terminal() && next.can_reattach;
        if let (true, Some(engine_run)) = (orphaned, next.engine_run.clone()) {
            let engine = row.fixed.engine.clone();
            let orphan = Orphan { engine, endpoint: next.endpoint.unwrap_or(0), engine_run };
            if self.orphans.try_send(orphan).is_err() {
                tracing::warn!(
                    execution = self.public_id(row),
                    "too many runs wait to be stopped in their engine; one is left alone"
                );
            }
        }
        if transition.event.kind == EventType::ExecutionCancelRequested {
            self.send_cancel(&after());
        }
    }

    /// Wakes the timer role if it would sleep past `at`.
    fn consider_wake(&self, at: Option<Time>) {
        if at.is_some_and(|at| at.0 < self.wake_target.load(Ordering::Acquire)) {
            self.wake_nudge.notify_one();
        }
    }
}

/// What the rest of the node and the role of webhooks tell each other.
#[derive(Default)]
pub(crate) struct Receivers {
    /// Deliveries were changed from outside of the role.
    pub(crate) nudge: Notify,
    /// Dead letters, as this node knows them while it schedules.
    pub(crate) dead: AtomicU64,
    /// Those that are paused, with why; as above.
    pub(crate) paused: Mutex<BTreeMap<String, String>>,
}

/// Whether an event of the service, if this is one, has a type that readers and receivers can name.
fn has_known_name(planned: &Planned) -> bool {
    match planned {
        Planned::Other(Write::Note(note)) => SERVICE_EVENTS.contains(&note.kind.as_str()),
        _ => true,
    }
}
