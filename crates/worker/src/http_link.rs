//! The worker's end of a link to a node elsewhere: the worker protocol over HTTP.
//!
//! Four tasks stand beside the worker: one pulls orders, one renews, one sends progress, and one watches the clock. Orders
//! are numbered and confirmed by the next pull, so an answer that was lost is answered again, and nothing is done twice.
//! The right to go on is counted from the *sending* of the last call that was answered, by the monotonic clock: when the
//! node has not answered for `letGoAfter`, the worker lets go of everything, which is before the node gives it to others.

use crate::link::{End, LeaseRef, Link, LinkError, Order, Report};
use crate::wire;
use async_trait::async_trait;
use enginehouse_api::client::{Client, ClientError};
use enginehouse_api::{
    Code, WorkerAttachRequest, WorkerFactRequest, WorkerLease, WorkerOrder, WorkerProgress,
    WorkerProgressRequest, WorkerPullRequest, WorkerRegisterAnswer, WorkerRegisterRequest,
    WorkerRenewRequest, WorkerReportRequest, WorkerSignoffRequest,
};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::{Fence, Key};
use enginehouse_core::pauses::Pauses;
use enginehouse_engine::{EngineFailure, Progress};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Orders that wait for the worker; it takes them as fast as they come.
const ORDERS_MAX: usize = 64;
/// Signs of life that wait to be sent; further ones are dropped.
const PROGRESS_MAX: usize = 256;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSES: Pauses = Pauses::new(PAUSE_FIRST, Duration::from_secs(2));
/// A report gets this long, and a second more for each this many bytes.
const REPORT_WITHIN: Duration = Duration::from_secs(20);
const REPORT_BYTES_A_SECOND: usize = 256 << 10;

/// Why a link is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The node has no more work for the worker.
    Dismissed,
    /// The session ended, or no one answered any more; why, for people. The worker may join again.
    Lost(String),
}

/// A link to a node elsewhere. Dropping it ends its tasks; the node notices by the silence.
pub struct HttpLink {
    shared: Arc<Shared>,
    orders: tokio::sync::Mutex<mpsc::Receiver<Order>>,
    progress: mpsc::Sender<(LeaseRef, Progress)>,
    _tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    joined: WorkerRegisterAnswer,
    state: Mutex<State>,
    over: watch::Sender<Option<Over>>,
}

struct State {
    /// What the worker holds, by the name it has on this side.
    leases: BTreeMap<LeaseRef, WorkerLease>,
    /// When the last call that was answered was sent.
    proved: Instant,
}

impl HttpLink {
    /// Joins a node. One try: joining is not bound to any time, so anyone who calls may try again.
    ///
    /// # Errors
    /// As the node answered, or did not.
    pub async fn join(client: Client, request: &WorkerRegisterRequest) -> Result<HttpLink, ClientError> {
        let sent = Instant::now();
        let joined = client.worker_register(request).await?;
        let state = Mutex::new(State { leases: BTreeMap::new(), proved: sent });
        let shared = Arc::new(Shared { client, joined, state, over: watch::channel(None).0 });
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let (progress, outbox) = mpsc::channel(PROGRESS_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(shared.clone().pull(orders.clone()));
        tasks.spawn(shared.clone().renew(orders));
        tasks.spawn(shared.clone().tell(outbox));
        tasks.spawn(shared.clone().watch_the_clock());
        Ok(HttpLink { shared, orders: tokio::sync::Mutex::new(inbox), progress, _tasks: tasks })
    }

    /// What the node said when the worker joined.
    #[must_use]
    pub fn joined(&self) -> &WorkerRegisterAnswer {
        &self.shared.joined
    }

    /// Why the link is over; `None` while it is not.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.shared.over.borrow().clone()
    }

    /// Asks the node to dismiss the worker once it has finished what it has. Tries until the node knows.
    pub async fn sign_off(&self, grace: Option<Duration>) {
        let request = WorkerSignoffRequest {
            session: self.shared.joined.session.clone(),
            grace: grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        };
        let mut pauses = PAUSES;
        while self.over().is_none() {
            let sent = Instant::now();
            match self.shared.client.worker_signoff(&request).await {
                Ok(()) => return self.shared.answered(sent),
                Err(error) if self.shared.judge(&error) != CallFault::Again => return,
                Err(_) => sleep(pauses.after_failure()).await,
            }
        }
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn order(&self) -> Option<Order> {
        let mut inbox = self.orders.lock().await;
        let mut over = self.shared.over.subscribe();
        loop {
            let ended = over.borrow_and_update().clone();
            match ended {
                // What arrived before is still to be heard.
                Some(Over::Dismissed) => return inbox.try_recv().ok(),
                Some(Over::Lost(_)) => {
                    let next = self.shared.state().leases.pop_first();
                    return next.map(|(lease, _)| Order::LetGo(lease));
                }
                None => {}
            }
            tokio::select! {
                biased;
                _ = over.changed() => {}
                order = inbox.recv() => return order,
            }
        }
    }

    async fn attach(&self, lease: LeaseRef, engine_run: &str, can_reattach: bool) -> Result<(), LinkError> {
        let request = WorkerAttachRequest {
            session: self.shared.joined.session.clone(),
            lease: self.shared.on_the_wire(lease)?,
            engine_run: engine_run.to_owned(),
            can_reattach,
        };
        let sent = Instant::now();
        match self.shared.client.worker_attach(&request).await {
            Ok(()) => {
                self.shared.answered(sent);
                Ok(())
            }
            Err(error) => Err(self.shared.link_error(lease, &error)),
        }
    }

    fn progress(&self, lease: LeaseRef, progress: Progress) {
        // Live only: what finds no room is dropped.
        let _ = self.progress.try_send((lease, progress));
    }

    async fn report(&self, lease: LeaseRef, report: Report) -> Result<(), LinkError> {
        let wished = match &report.end {
            End::Succeeded { result, .. } => result.len(),
            _ => 0,
        };
        let answer = self.shared.report(lease, report.end, &report.logs, wished).await;
        let Err(LinkError::Refused(why)) = answer else { return answer };
        // The node would refuse it again, and an attempt that is never reported would hold its slot forever.
        tracing::error!(why, "a report was refused; the attempt is reported as failed instead");
        let text = format!("the result could not be handed to the node: {why}");
        let failure = EngineFailure::new(FailureKind::BadResponse, "result_refused", text);
        let end = End::Failed { failure, abandoned: false };
        match self.shared.report(lease, end, "", 0).await {
            Err(LinkError::Refused(_)) => Err(LinkError::Stale),
            answer => answer,
        }
    }

    async fn recall(&self, engine: &str, name: &str) -> Option<String> {
        let request = self.shared.fact(engine, name, None);
        self.shared.client.worker_fact(&request).await.ok()?.value
    }

    async fn remember(&self, engine: &str, name: &str, value: &str) {
        let request = self.shared.fact(engine, name, Some(value));
        if let Err(error) = self.shared.client.worker_fact(&request).await {
            tracing::warn!(%error, engine, "a fact an adapter wanted kept was not stored");
        }
    }
}

/// What an error means for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallFault {
    /// The same call may succeed later.
    Again,
    /// The lease is not the worker's.
    Stale,
    /// The same call will always be refused.
    Refused,
    /// The session is over.
    Over,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call sent then was answered: the node knows that the worker lived at that time.
    fn answered(&self, sent: Instant) {
        let mut state = self.state();
        state.proved = state.proved.max(sent);
    }

    /// The first reason stays.
    fn end(&self, over: Over) {
        self.over.send_if_modified(|now| now.is_none().then(|| *now = Some(over)).is_some());
    }

    /// What follows from an error; ends the link where it says that the session is over.
    fn judge(&self, error: &ClientError) -> CallFault {
        match error.code() {
            Some(Code::StaleLease) => CallFault::Stale,
            Some(
                Code::SessionUnknown
                | Code::Unauthorized
                | Code::Forbidden
                | Code::RouteNotFound
                | Code::ProtocolUnsupported,
            ) => {
                self.end(Over::Lost(error.to_string()));
                CallFault::Over
            }
            Some(code) if (400..500).contains(&code.status()) => match code {
                Code::RateLimited | Code::QueueFull | Code::RequestTimeout => CallFault::Again,
                _ => CallFault::Refused,
            },
            _ => CallFault::Again,
        }
    }

    fn link_error(&self, lease: LeaseRef, error: &ClientError) -> LinkError {
        if self.over.borrow().is_some() {
            return LinkError::Closed;
        }
        match self.judge(error) {
            CallFault::Again => LinkError::Unavailable(error.to_string()),
            CallFault::Refused => LinkError::Refused(error.to_string()),
            CallFault::Over => LinkError::Closed,
            CallFault::Stale => {
                self.state().leases.remove(&lease);
                LinkError::Stale
            }
        }
    }

    fn on_the_wire(&self, lease: LeaseRef) -> Result<WorkerLease, LinkError> {
        if self.over.borrow().is_some() {
            return Err(LinkError::Closed);
        }
        self.state().leases.get(&lease).cloned().ok_or(LinkError::Stale)
    }

    async fn report(&self, lease: LeaseRef, end: End, logs: &str, bytes: usize) -> Result<(), LinkError> {
        let request = WorkerReportRequest {
            session: self.joined.session.clone(),
            lease: self.on_the_wire(lease)?,
            end: wire::end_to_wire(end),
            logs: logs.to_owned(),
        };
        let seconds = u64::try_from(bytes / REPORT_BYTES_A_SECOND).unwrap_or(0);
        let sent = Instant::now();
        let within = REPORT_WITHIN + Duration::from_secs(seconds);
        match self.client.worker_report(&request, within).await {
            Ok(()) => {
                self.answered(sent);
                self.state().leases.remove(&lease);
                Ok(())
            }
            Err(error) => Err(self.link_error(lease, &error)),
        }
    }

    fn fact(&self, engine: &str, name: &str, value: Option<&str>) -> WorkerFactRequest {
        WorkerFactRequest {
            session: self.joined.session.clone(),
            engine: engine.to_owned(),
            name: name.to_owned(),
            value: value.map(str::to_owned),
        }
    }

    /// Pulls orders until the link is over.
    async fn pull(self: Arc<Self>, orders: mpsc::Sender<Order>) {
        let mut after = 0;
        let mut pauses = PAUSES;
        let wait = Duration::from_millis(self.joined.pull_wait_max);
        while self.over.borrow().is_none() {
            let request = WorkerPullRequest { session: self.joined.session.clone(), after, wait: None };
            let sent = Instant::now();
            match self.client.worker_pull(&request, wait).await {
                Ok(answer) => {
                    self.answered(sent);
                    pauses.restart();
                    let idle = answer.orders.is_empty();
                    for order in answer.orders {
                        if order.number <= after {
                            continue;
                        }
                        after = order.number;
                        if let Some(order) = self.understood(order)
                            && orders.send(order).await.is_err()
                        {
                            return;
                        }
                    }
                    if answer.closed {
                        self.end(Over::Dismissed);
                    } else if idle && sent.elapsed() < PAUSE_FIRST {
                        // A node that lets no one wait, because it stops, is not asked all the time.
                        sleep(PAUSE_FIRST).await;
                    }
                }
                Err(error) => match self.judge(&error) {
                    CallFault::Again => sleep(pauses.after_failure()).await,
                    _ => self.end(Over::Lost(error.to_string())),
                },
            }
        }
    }

    /// The order in this side's terms; `None` for one about a lease that is not held, or of a kind that is not known.
    fn understood(&self, order: WorkerOrder) -> Option<Order> {
        let mut state = self.state();
        let held = |state: &State, lease: &WorkerLease| {
            state.leases.iter().find(|(_, held)| *held == lease).map(|(lease, _)| *lease)
        };
        match (order.order.as_str(), order.run, order.lease) {
            ("run", Some(run), _) => {
                // The number of an order is there once in a session, so it serves as the lease's key on this side.
                let key = Key(i64::try_from(order.number).unwrap_or(i64::MAX));
                let lease = LeaseRef { key, fence: Fence(run.lease.fence) };
                state.leases.insert(lease, run.lease.clone());
                Some(Order::Run(Box::new(wire::assignment_from_wire(run, lease))))
            }
            ("cancel", _, Some(lease)) => held(&state, &lease).map(Order::Cancel),
            ("let_go", _, Some(lease)) => {
                let lease = held(&state, &lease)?;
                state.leases.remove(&lease);
                Some(Order::LetGo(lease))
            }
            ("hand_back", _, _) => Some(Order::HandBack),
            (other, _, _) => {
                tracing::warn!(order = other, "an order that is not understood");
                None
            }
        }
    }

    /// Renews until the link is over.
    async fn renew(self: Arc<Self>, orders: mpsc::Sender<Order>) {
        let every = Duration::from_millis(self.joined.renew_every.max(1));
        let mut next = every;
        while self.over.borrow().is_none() {
            sleep(next).await;
            let leases = self.state().leases.values().cloned().collect();
            let request = WorkerRenewRequest {
                session: self.joined.session.clone(),
                leases,
                memory_bytes: own_memory(),
            };
            let sent = Instant::now();
            let answer = match self.client.worker_renew(&request).await {
                Ok(answer) => answer,
                Err(error) => {
                    if self.judge(&error) != CallFault::Again {
                        return self.end(Over::Lost(error.to_string()));
                    }
                    tracing::warn!(%error, "the session could not be renewed; trying again");
                    next = every / 10;
                    continue;
                }
            };
            self.answered(sent);
            next = every;
            for (lease, cancel) in
                answer.lost.iter().map(|l| (l, false)).chain(answer.cancel.iter().map(|l| (l, true)))
            {
                let order = {
                    let mut state = self.state();
                    let Some(held) = state.leases.iter().find(|(_, on)| *on == lease).map(|(l, _)| *l) else {
                        continue;
                    };
                    if cancel {
                        Order::Cancel(held)
                    } else {
                        state.leases.remove(&held);
                        Order::LetGo(held)
                    }
                };
                if orders.send(order).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Sends signs of life, as many at a time as have gathered.
    async fn tell(self: Arc<Self>, mut outbox: mpsc::Receiver<(LeaseRef, Progress)>) {
        while let Some(first) = outbox.recv().await {
            let mut gathered = vec![first];
            while gathered.len() < PROGRESS_MAX
                && let Ok(more) = outbox.try_recv()
            {
                gathered.push(more);
            }
            let items: Vec<WorkerProgress> = {
                let state = self.state();
                let known = gathered.into_iter().filter_map(|(lease, progress)| {
                    let lease = state.leases.get(&lease)?.clone();
                    Some(WorkerProgress { lease, fraction: progress.fraction, data: progress.data })
                });
                known.collect()
            };
            if items.is_empty() {
                continue;
            }
            let request = WorkerProgressRequest { session: self.joined.session.clone(), items };
            let sent = Instant::now();
            match self.client.worker_progress(&request).await {
                Ok(()) => self.answered(sent),
                Err(error) => {
                    self.judge(&error);
                }
            }
        }
    }

    /// Ends the link when the right to go on has run out.
    async fn watch_the_clock(self: Arc<Self>) {
        let patience = Duration::from_millis(self.joined.let_go_after);
        while self.over.borrow().is_none() {
            let until = self.state().proved + patience;
            if until <= Instant::now() {
                let text = format!("the node did not answer for {} s", patience.as_secs());
                return self.end(Over::Lost(text));
            }
            sleep_until(until).await;
        }
    }
}

/// Memory of this process that is in RAM, where the system tells.
fn own_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}
