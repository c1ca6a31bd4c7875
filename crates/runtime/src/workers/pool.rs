//! The pool: as many workers as are wanted, each from its launch to its end.
//!
//! One round compares what is wanted with what is there, as [`enginehouse_core::pool::plan`] says, and is idempotent: it runs
//! each second and on a nudge. A worker that is to go is closed to new work first, in the store and in the queue, and goes
//! when it holds nothing; a worker that died gives back what it held at once, burning no retry, and is replaced.

use super::dedicated::{parts_of, workers_of};
use super::ports::{PortEnd, announce, close_port, drain_worker, open_port};
use super::provider::{Provider, WorkerEnd};
use super::reaper::lose_all;
use crate::role::{Role, Round};
use crate::state::context::Context;
use crate::state::planned::Planned;
use crate::state::port::{Assigned, Seat, note};
use enginehouse_core::event::NoteKind;
use enginehouse_core::id::SessionId;
use enginehouse_core::lifecycle::Loss;
use enginehouse_core::limits::{
    LAUNCH_BACKOFF_MAX, LAUNCH_BACKOFF_MIN, LAUNCH_PATIENCE_MIN, LEASE_TTL, WORKER_SILENCE_MAX,
};
use enginehouse_core::pauses::Pauses;
use enginehouse_core::pool::{self, PoolAction, PoolAim, PoolWorker, WorkerPhase};
use enginehouse_core::time::{Millis, Time};
use enginehouse_store::{StoreError, Write};
use enginehouse_worker::Order;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

const ROUND_EVERY: Duration = Duration::from_secs(1);
/// How long a worker may take to go once its link is closed.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// Start-up times that wait for the scaler.
const STARTUPS_MAX: usize = 256;
/// With several nodes, how long a worker stays after it was closed: another node's scheduler may not know it yet.
const SETTLE: Millis = 5_000;

pub(crate) struct Pool {
    cx: Arc<Context>,
    provider: Arc<dyn Provider>,
    lives: JoinSet<(SessionId, WorkerEnd)>,
    handles: BTreeMap<SessionId, AbortHandle>,
    /// Workers whose link is closed, and when they are ended if they have not gone.
    leaving: BTreeMap<SessionId, Instant>,
    launched: u64,
    /// Between launches after one that failed.
    pauses: Pauses,
    launch_after: Instant,
}

impl Role for Pool {
    const NAME: &'static str = "pool";
    const TROUBLE: &'static str = "changes among the workers could not be stored";
    type Error = StoreError;

    fn again(&self) -> Duration {
        ROUND_EVERY
    }

    async fn nudged(&mut self) {
        tokio::select! {
            biased;
            Some(ended) = self.lives.join_next(), if !self.lives.is_empty() => self.ended(ended),
            () = self.cx.workers.pool_nudge.notified() => {}
        }
    }

    /// One look at what is wanted and what is there. What fails is met again by the next round.
    async fn round(&mut self) -> Result<Round, StoreError> {
        while let Some(ended) = self.lives.try_join_next() {
            self.ended(ended);
        }
        self.look_at_health();
        if !self.cx.is_stopping() {
            self.reconcile();
        }
        self.settle().await?;
        Ok(Round::then_rest(ROUND_EVERY))
    }

    async fn end(&mut self) {
        while self.lives.join_next().await.is_some() {}
    }
}

impl Pool {
    pub(crate) fn new(cx: Arc<Context>, provider: Arc<dyn Provider>) -> Pool {
        Pool {
            cx,
            provider,
            lives: JoinSet::new(),
            handles: BTreeMap::new(),
            leaving: BTreeMap::new(),
            launched: 0,
            pauses: Pauses::new(
                Duration::from_millis(LAUNCH_BACKOFF_MIN),
                Duration::from_millis(LAUNCH_BACKOFF_MAX),
            ),
            launch_after: Instant::now(),
        }
    }

    /// Takes note of a worker's end.
    fn ended(&mut self, ended: Result<(SessionId, WorkerEnd), tokio::task::JoinError>) {
        // A task that was aborted was taken note of when that was done.
        let (session, why) = match ended {
            Ok((session, WorkerEnd::Dismissed)) => (session, "it went unasked".to_owned()),
            Ok((session, WorkerEnd::Failed(why))) => (session, why),
            Ok((session, WorkerEnd::Killed(why))) => {
                if let Some(port) = self.cx.workers.ports.lock().get_mut(&session) {
                    port.loss = Loss::Killed;
                }
                (session, why)
            }
            Err(error) => {
                let id = error.id();
                let Some(session) = self.handles.iter().find(|(_, h)| h.id() == id).map(|(s, _)| *s) else {
                    return;
                };
                (session, if error.is_panic() { "it panicked" } else { "it was ended" }.to_owned())
            }
        };
        self.handles.remove(&session);
        self.leaving.remove(&session);
        self.give_up(session, why);
    }

    /// The worker is gone, or is ended: what it holds is to be given back.
    fn give_up(&mut self, session: SessionId, why: String) {
        let mut ports = self.cx.workers.ports.lock();
        let Some(port) = ports.get_mut(&session).filter(|port| port.gone.is_none()) else { return };
        if port.ready_at.is_none() {
            self.launch_after = Instant::now() + self.pauses.after_failure();
            self.cx.workers.pool_news.lock().failed_launches += 1;
        }
        self.cx.workers.pool_news.lock().totals.failed += 1;
        tracing::warn!(worker = port.seat.name, held = port.held.len(), why, "a worker is gone");
        port.gone = Some(why);
        port.announced = false;
    }

    fn end_now(&mut self, session: SessionId, why: String) {
        self.give_up(session, why);
        if let Some(handle) = self.handles.remove(&session) {
            handle.abort();
        }
    }

    /// Workers that are silent get nothing new, and are ended after a lease's time; launches that take too long as well.
    fn look_at_health(&mut self) {
        let mut end = Vec::new();
        for (session, port) in self.cx.workers.ports.lock().iter_mut().filter(|(_, port)| port.gone.is_none())
        {
            let silence = port.last_sign.elapsed();
            // One that starts here has its launch's time; one elsewhere joins before it takes work.
            let starts_here = port.ready_at.is_none() && port.seat.origin.is_pooled();
            if starts_here || port.seat.origin.is_here() {
                continue;
            }
            let unhealthy = silence > Duration::from_millis(WORKER_SILENCE_MAX);
            if port.unhealthy != unhealthy {
                port.unhealthy = unhealthy;
                port.announced = false;
                let (worker, seconds) = (&port.seat.name, silence.as_secs());
                if unhealthy {
                    tracing::warn!(worker, seconds, "a worker is silent and gets nothing new");
                } else {
                    tracing::info!(worker, "a worker that was silent is heard again");
                }
            }
            if silence > Duration::from_millis(LEASE_TTL) {
                end.push((*session, format!("it was silent for {} s", silence.as_secs())));
            }
        }
        let now = Instant::now();
        let late: Vec<SessionId> =
            self.leaving.iter().filter(|(_, until)| **until <= now).map(|(s, _)| *s).collect();
        end.extend(late.into_iter().map(|session| (session, "it did not go when it was told to".to_owned())));
        for (session, why) in end {
            self.leaving.remove(&session);
            self.end_now(session, why);
        }
    }

    /// Launches, takes back and closes workers so that as many are there of each pool as are wanted.
    fn reconcile(&mut self) {
        let wanted = *self.cx.workers.wanted.lock();
        let workers = pool_workers(&self.cx);
        let mut exist = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        for (pool, part) in parts_of(&self.cx, wanted).into_iter().enumerate() {
            let own = workers_of(&self.cx, pool, &workers);
            let aim = PoolAim {
                target: part,
                max: u32::try_from(own.len()).unwrap_or(u32::MAX) + wanted.most.saturating_sub(exist),
                launch_timeout: self.launch_timeout(),
                launch_nothing: wanted.launch_nothing || Instant::now() < self.launch_after,
            };
            exist = exist.saturating_add(self.carry_out(pool, &own, aim));
        }
    }

    /// Brings one pool to its aim; answers how many workers it launched.
    fn carry_out(&mut self, pool: usize, workers: &[PoolWorker<SessionId>], aim: PoolAim) -> u32 {
        let patience = self.cx.settings.scaling.rules.drain_timeout;
        let mut launched = 0;
        for action in pool::plan(workers, aim, self.cx.store.now()) {
            match action {
                PoolAction::Launch(count) => {
                    launched += count;
                    (0..count).for_each(|_| self.launch(pool));
                }
                PoolAction::Reinstate(session) => {
                    if let Some(port) = self.cx.workers.ports.lock().get_mut(&session) {
                        port.drain = None;
                        port.announced = false;
                    }
                }
                PoolAction::Cancel(session) => self.end_starting(session),
                PoolAction::GiveUp(session) => self.end_now(session, "it did not come up in time".to_owned()),
                // Whether it is still idle is known only once it gets nothing new, so both begin alike.
                PoolAction::Stop(session) | PoolAction::Drain(session) => {
                    let leaves =
                        workers.iter().find(|w| w.id == session).is_some_and(|w| w.recycle || w.unhealthy);
                    let why = if leaves { "replaced" } else { "scale_down" };
                    drain_worker(&self.cx, session, why, patience, !leaves);
                }
            }
        }
        launched
    }

    fn launch_timeout(&self) -> Millis {
        self.cx.workers.wanted.lock().launch_timeout.max(LAUNCH_PATIENCE_MIN)
    }

    /// Launches a worker of the pool at this place; behind the last one stand the shared workers.
    fn launch(&mut self, pool: usize) {
        self.launched += 1;
        self.cx.workers.pool_news.lock().totals.launched += 1;
        let (node, pool) = (self.cx.settings.node.0, self.cx.settings.pools.get(pool));
        let seat = Seat {
            name: match pool {
                Some(pool) => format!("n{node}-{}-w{}", pool.name, self.launched),
                None => format!("n{node}-w{}", self.launched),
            },
            origin: self.provider.origin(),
            capacity: self.cx.settings.scaling.rules.worker_capacity,
            engine_types: pool.map(|pool| pool.engine_types.clone()).unwrap_or_default(),
        };
        let name = seat.name.clone();
        let (session, link) = open_port(&self.cx, seat);
        let life = self.provider.launch(&name, link);
        let handle = match &self.cx.settings.govern {
            Some(govern) => {
                let (told, hears) = oneshot::channel();
                let role = async move {
                    let _ = told.send(life.await);
                };
                let governed = govern.wrap(&name, Box::pin(role));
                self.lives.spawn(async move {
                    governed.await;
                    (session, hears.await.unwrap_or(WorkerEnd::Dismissed))
                })
            }
            None => self.lives.spawn(async move { (session, life.await) }),
        };
        self.handles.insert(session, handle);
    }

    /// A worker that never took work just goes.
    fn end_starting(&mut self, session: SessionId) {
        let mut ports = self.cx.workers.ports.lock();
        if ports.get(&session).is_some_and(|port| port.ready_at.is_none()) {
            ports.remove(&session);
            if let Some(handle) = self.handles.remove(&session) {
                handle.abort();
            }
        }
    }

    /// Tells the store what changed, gives back what dead workers held, and lets go of those that are done.
    async fn settle(&mut self) -> Result<(), StoreError> {
        self.announce_changes().await?;
        let now = self.cx.store.now();
        self.hand_back_late(now);
        let shared = self.cx.store.features().shared;
        let (mut dead, mut done) = (Vec::new(), Vec::new());
        for (session, port) in self.cx.workers.ports.lock().iter() {
            let settled = port.drain.as_ref().is_some_and(|d| !shared || now.since(d.since) >= SETTLE);
            if let Some(why) = &port.gone {
                dead.push((*session, why.clone(), port.loss));
            } else if settled && port.announced && port.held.is_empty() && port.given_up.is_empty() {
                done.push(*session);
            }
        }
        for (session, why, loss) in dead {
            lose_all(&self.cx, Some(session), loss).await?;
            close_port(&self.cx, session, &PortEnd::Failed(why)).await?;
        }
        for session in done {
            if shared && !self.cx.store.running(Some(session), None, 1).await?.is_empty() {
                continue;
            }
            close_port(&self.cx, session, &PortEnd::Stopped).await?;
            self.cx.workers.pool_news.lock().totals.stopped += 1;
            if self.handles.contains_key(&session) {
                self.leaving.insert(session, Instant::now() + LEAVE_PATIENCE);
            }
        }
        Ok(())
    }

    async fn announce_changes(&mut self) -> Result<(), StoreError> {
        let (mut changed, mut notes) = (Vec::new(), Vec::new());
        for (session, port) in self.cx.workers.ports.lock().iter_mut().filter(|(_, port)| !port.announced) {
            let Some(ready_at) = port.ready_at else { continue };
            changed.push(*session);
            if port.is_open() && !port.introduced {
                port.introduced = true;
                self.pauses.restart();
                let mut news = self.cx.workers.pool_news.lock();
                // No one may be there to take them, and the newest say enough.
                if news.startups.len() < STARTUPS_MAX {
                    news.startups.push(ready_at.since(port.launched_at));
                }
                notes.push(Planned::Other(Write::Note(note(NoteKind::WorkerStarted, port, "ready"))));
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let as_told: BTreeMap<SessionId, bool> = {
            let ports = self.cx.workers.ports.lock();
            changed.iter().filter_map(|id| Some((*id, ports.get(id)?.is_open()))).collect()
        };
        announce(&self.cx, changed).await?;
        for (session, open) in as_told {
            if let Some(port) =
                self.cx.workers.ports.lock().get_mut(&session).filter(|port| port.is_open() == open)
            {
                port.announced = true;
            }
        }
        if !notes.is_empty() {
            self.cx.writes.commit(notes, 0).await?;
        }
        Ok(())
    }

    /// What still runs on a worker past the end of its drain is handed back, and burns nothing.
    fn hand_back_late(&self, now: Time) {
        for port in self.cx.workers.ports.lock().values_mut() {
            let Some(drain) = port.drain.as_mut().filter(|d| d.until <= now && !d.handed_back) else {
                continue;
            };
            drain.handed_back = true;
            tracing::warn!(
                worker = port.seat.name,
                held = port.held.len(),
                "its drain took too long; what it still runs is handed back"
            );
            let _ = port.orders.try_send(Assigned::Order(Order::HandBack));
        }
    }
}

/// The workers of this node's own providers as the pool's rules see them.
fn pool_workers(cx: &Context) -> Vec<PoolWorker<SessionId>> {
    let rules = &cx.settings.workers;
    let now = cx.store.now();
    let ports = cx.workers.ports.lock();
    let own = ports.iter().filter(|(_, port)| port.seat.origin.is_pooled() && port.gone.is_none());
    own.map(|(session, port)| {
        let old = rules.max_age.is_some_and(|age| now.since(port.launched_at) >= age);
        let many = rules.max_executions.is_some_and(|most| port.done >= most);
        let big = rules.max_memory_bytes.zip(port.memory_bytes).is_some_and(|(most, used)| used >= most);
        PoolWorker {
            id: *session,
            phase: match (&port.drain, port.ready_at) {
                (Some(_), _) => WorkerPhase::Draining,
                (None, None) => WorkerPhase::Starting,
                (None, Some(_)) => WorkerPhase::Ready,
            },
            busy_slots: u32::try_from(port.held.len()).unwrap_or(u32::MAX),
            launched: port.launched_at,
            idle_since: port.idle_since,
            // What an operator sent away is not taken back either.
            recycle: old || many || big || port.drain.as_ref().is_some_and(|drain| !drain.revocable),
            unhealthy: port.unhealthy,
        }
    })
    .collect()
}
