//! Starts, supervises and stops the roles of one node.

use crate::blobs::Blobs;
use crate::commit::ahead::ReadAhead;
use crate::commit::committer::Committer;
use crate::commit::relay::Relay;
use crate::role::{Role, drive};
use crate::scaling::scaler::Scaler;
use crate::seal::unlock;
use crate::service::Service;
use crate::state::alerts::Alerts;
use crate::state::context::Context;
use crate::state::env::Env;
use crate::state::events::Events;
use crate::state::figures::Figures;
use crate::state::history::History;
use crate::state::inputs::InputCache;
use crate::state::lock::{Lock, Place};
use crate::state::observed::Observed;
use crate::state::payloads::Payloads;
use crate::state::planned::{Planned, Request};
use crate::state::port::Assigned;
use crate::state::registry::Registry;
use crate::state::results::ResultCache;
use crate::state::scaling::Scaling;
use crate::state::scheduler::Scheduler;
use crate::state::scheduling::Scheduling;
use crate::state::settings::{RegisteredEngine, Settings};
use crate::state::wanted::Wanted;
use crate::state::workers::{Orphan, Workers};
use crate::state::writes::Writes;
use crate::upkeep::gates::GateKeeper;
use crate::upkeep::health::{HealthChecks, Orphans};
use crate::upkeep::keyring::Keeper;
use crate::upkeep::retention::Retention;
use crate::upkeep::sweeper::Sweeper;
use crate::upkeep::timers::Timers;
use crate::watch::tracer::Tracer;
use crate::watch::watcher::Watcher;
use crate::webhooks::{self, Webhooks};
use crate::workers::pool::Pool;
use crate::workers::ports::{announce, drain_worker};
use crate::workers::processes::Processes;
use crate::workers::provider::{InProcess, Provider};
use crate::workers::reaper::Reaper;
use crate::workers::reaper::lose_all;
use crate::workers::sessions::{Election, Sessions};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::gate::Gates;
use enginehouse_core::id::SessionId;
use enginehouse_core::lifecycle::Loss;
use enginehouse_core::limits::COMMITTER_QUEUE_MAX;
use enginehouse_core::queue::Queue;
use enginehouse_store::{SessionWrite, Store, StoreError, Write};
use enginehouse_worker::Order;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests kept in memory between submit and start.
const INPUT_CACHE_BYTES: usize = 32 << 20;
/// How long a start waits for the place of large results.
const BLOBS_PATIENCE: Duration = Duration::from_secs(10);
const ORPHANS_MAX: usize = 1_024;
/// How long workers may take to hand their work back once they were told to.
const HAND_BACK_PATIENCE: Duration = Duration::from_secs(5);

/// One running Enginehouse node. Dropping it without [`stop`](Node::stop) is a crash: nothing is lost, but what ran is
/// recovered only by the next start.
pub struct Node {
    cx: Arc<Context>,
    roles: JoinSet<()>,
    stop: CancellationToken,
    /// The committer outlives the other roles: their last writes go through it.
    stop_committer: CancellationToken,
}

impl Node {
    /// Recovers what a dead process left, then starts all roles.
    ///
    /// # Errors
    /// When the store cannot be read, or holds rows sealed with another key.
    pub async fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        engines: Vec<RegisteredEngine>,
    ) -> Result<Node, ApiError> {
        let (cx, inbox, orphans) = context(settings, store, engines).await?;
        let cursor = *cx.store.changed().borrow();
        let mut node = Node {
            cx: cx.clone(),
            roles: JoinSet::new(),
            stop: CancellationToken::new(),
            stop_committer: CancellationToken::new(),
        };
        node.check_blobs().await?;
        let committer = Committer { cx: cx.clone(), inbox, ahead: ReadAhead::default() };
        let token = node.stop_committer.clone();
        node.spawn("committer", &token.clone(), committer.run(token));
        node.role(Relay::new(cx.clone()));
        let receivers = &cx.settings.webhooks;
        let tells = !receivers.endpoints.is_empty() || receivers.callbacks.is_some();
        if tells {
            webhooks::begin(&cx).await.map_err(|e| unavailable(&e))?;
        }
        // Before the first grant.
        cx.load_pause().await.map_err(|e| unavailable(&e))?;
        if let Some(pause) = &*cx.registry.pause().borrow() {
            tracing::warn!("{}", pause.words());
        }
        node.bring_up().await.map_err(|e| unavailable(&e))?;
        node.role(Timers { cx: cx.clone() });
        node.role(Reaper { cx: cx.clone(), seen: BTreeMap::new() });
        node.role(GateKeeper::new(cx.clone()));
        node.role(Scaler::new(cx.clone()));
        node.role(Watcher::new(cx.clone()));
        node.role(HealthChecks::new(cx.clone()));
        if tells {
            node.role_once_resumed(Webhooks::new(cx.clone()));
        }
        node.role_once_resumed(Retention { cx: cx.clone() });
        if cx.payloads.blobs.is_some() {
            node.role_once_resumed(Sweeper { cx: cx.clone() });
        }
        node.role(Tracer::new(cx.clone(), cursor));
        node.role(Keeper { cx: cx.clone(), looked: None });
        node.role(Orphans::new(cx.clone(), orphans));
        if cx.store.features().shared {
            node.role(Sessions::new(cx.clone()));
            node.role(Election::new(cx.clone()));
        }
        Ok(node)
    }

    /// Refuses a place of large results that is another store's. One that does not answer now is looked at again by the sweeper.
    async fn check_blobs(&self) -> Result<(), ApiError> {
        match tokio::time::timeout(BLOBS_PATIENCE, self.cx.blobs_of_another()).await {
            Ok(Ok(Some(why))) => Err(ApiError::new(Code::NotReady, why)),
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the place of large results cannot be reached yet");
                Ok(())
            }
            Err(_) => {
                tracing::warn!("the place of large results does not answer yet");
                Ok(())
            }
        }
    }

    /// Elects, recovers what a dead process left, and opens the workers.
    async fn bring_up(&mut self) -> Result<(), StoreError> {
        let cx = self.cx.clone();
        let alone = !cx.store.features().shared;
        if alone {
            // The directory lock proves these dead. They go first, or the first round would grant work to them.
            for session in cx.store.sessions().await? {
                let close = Planned::Other(Write::Session(SessionWrite::Close(session.id)));
                cx.writes.commit(vec![close], 0).await?;
            }
        }
        Election::new(cx.clone()).ask().await?;
        if alone {
            let recovered = lose_all(&cx, None, Loss::Node).await?;
            if recovered > 0 {
                tracing::info!(recovered, "executions of an earlier process wait for their next attempt");
            }
        }
        let provider: Arc<dyn Provider> = match &cx.settings.processes {
            Some(processes) => Arc::new(Processes(processes.clone())),
            None => {
                let adapters = Arc::new(cx.registry.adapters());
                Arc::new(InProcess { adapters, cancel_grace: cx.settings.cancel_grace })
            }
        };
        let mut pool = Pool::new(cx, provider);
        // The role begins with another round, which says what failed.
        let _ = pool.round().await;
        // The pool outlives the other roles: its workers go when their links are closed.
        let token = self.stop_committer.clone();
        self.drive(pool, &token);
        Ok(())
    }

    fn role(&mut self, role: impl Role + 'static) {
        let stop = self.stop.clone();
        self.drive(role, &stop);
    }

    fn drive<R: Role + 'static>(&mut self, role: R, stop: &CancellationToken) {
        let runs = self.cx.observed.roles.clone();
        self.spawn(R::NAME, stop, drive(role, runs, stop.clone()));
    }

    /// Starts a role that touches what lies outside of the store, once the service is not paused.
    fn role_once_resumed<R: Role + 'static>(&mut self, role: R) {
        let (cx, stop) = (self.cx.clone(), self.stop.clone());
        let driven = async move {
            let mut pause = cx.registry.pause().subscribe();
            let resumed = tokio::select! {
                biased;
                () = stop.cancelled() => false,
                told = pause.wait_for(Option::is_none) => told.is_ok(),
            };
            if resumed {
                drive(role, cx.observed.roles.clone(), stop).await;
            }
        };
        let stop = self.stop.clone();
        self.spawn(R::NAME, &stop, driven);
    }

    /// Runs a role; one that ends before it was told to (or panics) fails the node.
    fn spawn(
        &mut self,
        name: &str,
        stop: &CancellationToken,
        role: impl Future<Output = ()> + Send + 'static,
    ) {
        let bell = Bell { name: name.to_owned(), stop: stop.clone(), cx: self.cx.clone() };
        let role = async move {
            let _bell = bell;
            role.await;
        };
        match &self.cx.settings.govern {
            Some(govern) => self.roles.spawn(govern.wrap(name, Box::pin(role))),
            None => self.roles.spawn(role),
        };
    }

    #[must_use]
    pub fn service(&self) -> Service {
        Service::new(self.cx.clone())
    }

    /// Stops accepting, lets running attempts go on for the stop grace, hands the rest back, waits for every role and
    /// closes the store.
    pub async fn stop(mut self) {
        self.cx.stopping.store(true, Ordering::Release);
        // The scheduler may be another node; it must not give these workers more. Without an answer it hears of it when the
        // work comes back.
        let sessions: Vec<SessionId> = self.cx.workers.ports.lock().keys().copied().collect();
        let grace = self.cx.settings.stop_grace;
        sessions.iter().for_each(|session| drain_worker(&self.cx, *session, "stopping", grace, false));
        let _ = announce(&self.cx, sessions).await;
        self.wait_for_idle(Duration::from_millis(self.cx.settings.stop_grace)).await;
        self.order_all(|| Order::HandBack);
        self.wait_for_idle(HAND_BACK_PATIENCE).await;
        self.stop.cancel();
        let sessions: Vec<SessionId> = self.cx.workers.ports.lock().keys().copied().collect();
        let idle = self.cx.workers.ports.lock().values().all(|p| p.held.is_empty());
        if idle {
            // A clean sign-off: no one need wait for these sessions to expire.
            for session in sessions {
                let close = Planned::Other(Write::Session(SessionWrite::Close(session)));
                let _ = self.cx.writes.commit(vec![close], 0).await;
            }
        }
        self.stop_committer.cancel();
        self.cx.workers.joined.lock().node_stops();
        self.cx.workers.ports.lock().clear();
        let all_ended = async { while self.roles.join_next().await.is_some() {} };
        if tokio::time::timeout(HAND_BACK_PATIENCE, all_ended).await.is_err() {
            self.roles.abort_all();
        }
        self.cx.halt.cancel();
        self.cx.events.readers.close();
        self.cx.events.readers.wait().await;
        if let Err(error) = self.cx.store.close().await {
            tracing::warn!(%error, "the store did not close cleanly");
        }
    }

    fn order_all(&self, order: impl Fn() -> Order) {
        for port in self.cx.workers.ports.lock().values() {
            let _ = port.orders.try_send(Assigned::Order(order()));
        }
    }

    /// Waits until no worker holds anything, at most this long.
    async fn wait_for_idle(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut changed = self.cx.store.changed();
        loop {
            if self.cx.workers.ports.lock().values().all(|p| p.held.is_empty()) || Instant::now() >= until {
                return;
            }
            tokio::select! {
                biased;
                _ = changed.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// Resolves when the node cannot go on; the text says why.
    pub async fn failed(&self) -> String {
        let mut failure = self.cx.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Rings when a role ends that should not have.
struct Bell {
    name: String,
    stop: CancellationToken,
    cx: Arc<Context>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let why = format!("the role {} ended", self.name);
            self.cx.fail(why);
        }
    }
}

type Parts = (Arc<Context>, mpsc::Receiver<Request>, mpsc::Receiver<Orphan>);

async fn context(
    settings: Settings,
    store: Arc<dyn Store>,
    engines: Vec<RegisteredEngine>,
) -> Result<Parts, ApiError> {
    let (sealer, seal_keys) = unlock(&*store, settings.node, &settings.seal).await?;
    let registry = Registry::new(engines);
    let now = store.now();
    let mut gates = Gates::default();
    for engine in registry.iter() {
        gates.set(&engine.settings.name, engine.settings.gate_rules(&settings), now);
    }
    let rules = &settings.scaling.rules;
    // Where other nodes share the work, the scheduler says what this one's part is; one worker shows that it is there.
    let shared = store.features().shared;
    let alone = !shared || store.sessions().await.map_err(|e| unavailable(&e))?.is_empty();
    let count = if alone { rules.min_workers } else { rules.max_workers.min(1) };
    let wanted = Wanted { count, most: rules.max_workers, launch_timeout: 0, launch_nothing: false };
    let queue = Queue::new(settings.concurrency_key_limit);
    let totals = store.totals().await.map_err(|e| unavailable(&e))?;
    let scaling = Scaling::new(rules.clone(), settings.scaling.shadow, totals.accepted == 0);
    let (committer, inbox) = mpsc::channel(COMMITTER_QUEUE_MAX);
    let (orphans, orphan_inbox) = mpsc::channel(ORPHANS_MAX);
    let figures = Figures::new(totals, settings.aggregation_window, store.now());
    let known = *store.changed().borrow();
    let history = History::new(settings.collection_interval, settings.metrics_retention);
    let cx = Context {
        env: Env::new(settings.node, now, settings.seed),
        registry,
        failure: watch::channel(None).0,
        stopping: AtomicBool::new(false),
        halt: CancellationToken::new(),
        writes: Writes::new(committer, known),
        scheduling: Scheduling::new(Scheduler::new(queue, gates)),
        workers: Workers::new(wanted, scaling, settings.pools.clone(), orphans),
        payloads: Payloads {
            sealer,
            seal_keys,
            inputs: Lock::new(Place::Inputs, InputCache::new(INPUT_CACHE_BYTES)),
            results: Lock::new(Place::Results, ResultCache::new(settings.result_cache_bytes)),
            blobs: settings.blobs.clone().map(Blobs::new),
        },
        events: Events::default(),
        observed: Observed::new(figures, history, Alerts::new(settings.alerts.clone())),
        settings,
        store,
    };
    Ok((Arc::new(cx), inbox, orphan_inbox))
}

fn unavailable(error: &StoreError) -> ApiError {
    ApiError::new(Code::StoreUnavailable, error.to_string())
}
