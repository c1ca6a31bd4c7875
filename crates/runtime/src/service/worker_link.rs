//! The worker protocol: what workers elsewhere say to this node, and what it answers.
//!
//! Nothing is decided here: each call is led to the node's end of the worker's link, after it is sure who speaks, for which
//! session, and that the lease is one that this session was given.

use super::caller::Caller;
use super::{Service, store_error};
use crate::state::joined::{Owner, Seated, session_of_token};
use crate::state::port::{Origin, Port, Seat};
use crate::workers::link::NodeLink;
use crate::workers::ports::{drain_worker, open_port, worker_ready};
use enginehouse_api::{
    ApiError, Code, WORKER_PROTOCOLS, WorkerAttachRequest, WorkerFactAnswer, WorkerFactRequest, WorkerLease,
    WorkerOrder, WorkerProgressRequest, WorkerPullAnswer, WorkerPullRequest, WorkerRegisterAnswer,
    WorkerRegisterRequest, WorkerRenewAnswer, WorkerRenewRequest, WorkerReportRequest, WorkerSignoffRequest,
};
use enginehouse_core::id::SessionId;
use enginehouse_core::limits::{
    ENGINE_RUN_BYTES_MAX, LEASE_RENEW_EVERY, LEASE_TTL, NAME_BYTES_MAX, WORKER_CAPACITY_MAX,
    WORKER_FACT_BYTES_MAX, WORKER_PORTS_MAX, WORKER_PROGRESS_ITEMS_MAX, WORKER_PULL_BYTES_MAX,
    WORKER_PULL_ORDERS_MAX, WORKER_PULL_WAIT_MAX,
};
use enginehouse_core::session::let_go_after;
use enginehouse_core::time::SECOND;
use enginehouse_engine::Progress;
use enginehouse_store::StoreError;
use enginehouse_worker::{
    LeaseRef, Link, LinkError, Order, Report, WireError, assignment_to_wire, end_from_wire,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const NONCE_CHARS: std::ops::RangeInclusive<usize> = 16..=64;
const WORKER_NAME_CHARS_MAX: usize = 64;

impl Service {
    /// A worker joins. Repeated with its nonce it answers the same session.
    ///
    /// # Errors
    /// `protocol_unsupported`, `name_taken`, `rate_limited` when there are too many workers, or what is wrong with a field.
    pub fn worker_register(
        &self,
        caller: &Caller,
        request: &WorkerRegisterRequest,
    ) -> Result<WorkerRegisterAnswer, ApiError> {
        let protocol = common_protocol(&request.protocols)?;
        check_registration(request)?;
        if self.cx.is_stopping() {
            self.ready()?;
        }
        let seated = match caller.worker {
            Some(session) => self.take_own_seat(session, request)?,
            None => self.take_new_seat(caller, request)?,
        };
        let ports = self.cx.workers.ports.lock();
        let port =
            ports.get(&seated.session).filter(|port| port.gone.is_none()).ok_or_else(session_unknown)?;
        Ok(WorkerRegisterAnswer {
            protocol,
            session: seated.name(),
            worker: port.seat.name.clone(),
            engine_types: port.seat.engine_types.clone(),
            lease_ttl: LEASE_TTL,
            let_go_after: let_go_after(),
            renew_every: LEASE_RENEW_EVERY,
            pull_wait_max: WORKER_PULL_WAIT_MAX,
            cancel_grace: self.cx.settings.cancel_grace,
        })
    }

    /// The seat that was made for a process of this node.
    fn take_own_seat(
        &self,
        session: SessionId,
        request: &WorkerRegisterRequest,
    ) -> Result<Arc<Seated>, ApiError> {
        let seated = self.cx.workers.joined.lock().of(session).ok_or_else(session_unknown)?;
        {
            let mut nonce = seated.nonce.lock();
            if nonce.is_empty() {
                nonce.clone_from(&request.nonce);
            } else if *nonce != request.nonce {
                return Err(ApiError::new(Code::NameTaken, "another process has taken this worker's place"));
            }
        }
        let mut ports = self.cx.workers.ports.lock();
        let port = ports.get_mut(&session).ok_or_else(session_unknown)?;
        port.heard(self.cx.store.now());
        Ok(seated)
    }

    fn take_new_seat(
        &self,
        caller: &Caller,
        request: &WorkerRegisterRequest,
    ) -> Result<Arc<Seated>, ApiError> {
        let owner = Owner::Key(caller.key_id.clone());
        let engine_types = self.served_types(request)?;
        // Held to the end, so that two registrations with one name or nonce do not both find it free.
        let mut joined = self.cx.workers.joined.lock();
        let again = joined.iter().find(|s| s.owner == owner && *s.nonce.lock() == request.nonce).cloned();
        if let Some(seated) = again {
            return Ok(seated);
        }
        let names: Vec<String> =
            self.cx.workers.ports.lock().values().map(|port| port.seat.name.clone()).collect();
        if names.len() >= WORKER_PORTS_MAX {
            let text = format!("there are {WORKER_PORTS_MAX} workers");
            return Err(ApiError::new(Code::RateLimited, text).retry_after(5 * SECOND));
        }
        let name = match &request.name {
            Some(name) if names.contains(name) => {
                return Err(ApiError::new(Code::NameTaken, format!("a worker named {name:?} is there"))
                    .retry_after(5 * SECOND));
            }
            Some(name) => name.clone(),
            None => {
                let free = |n: &u64| !names.contains(&format!("n{}-r{n}", self.cx.settings.node.0));
                let number = (1..).find(free).unwrap_or_default();
                format!("n{}-r{number}", self.cx.settings.node.0)
            }
        };
        let seat = Seat { name, origin: Origin::Remote, capacity: request.capacity, engine_types };
        let (session, link) = open_port(&self.cx, seat);
        let is_over = |session| !self.cx.workers.ports.lock().contains_key(&session);
        let seated = joined.seat(session, owner, link.inbox, is_over);
        seated.nonce.lock().clone_from(&request.nonce);
        Ok(seated)
    }

    /// The engine types of which the worker has every engine that this node has.
    fn served_types(&self, request: &WorkerRegisterRequest) -> Result<Vec<String>, ApiError> {
        let (mut served, mut missing) = (BTreeSet::new(), BTreeSet::new());
        for engine in self.cx.registry.iter() {
            let (name, engine_type) = (&engine.settings.name, &engine.settings.engine_type);
            if request.engines.get(name) == Some(engine_type) {
                served.insert(engine_type.clone());
            } else {
                missing.insert(engine_type.clone());
            }
        }
        let types: Vec<String> = served.difference(&missing).cloned().collect();
        if types.is_empty() {
            let names: Vec<&str> = self.cx.registry.iter().map(|e| e.settings.name.as_str()).collect();
            let text = format!(
                "of no engine type does the worker have all engines of this node, which are: {}",
                names.join(", ")
            );
            return Err(ApiError::field(Code::UnknownEngine, "/engines", text));
        }
        Ok(types)
    }

    /// Orders for a worker: at once those that are there or were not confirmed, else waits for one. A later pull of the same
    /// session ends this one. Dropping it loses nothing.
    ///
    /// # Errors
    /// `session_unknown`, or `invalid_field` for the number of an order that was never sent.
    pub async fn worker_pull(
        &self,
        caller: &Caller,
        request: &WorkerPullRequest,
    ) -> Result<WorkerPullAnswer, ApiError> {
        let seated = self.seated(caller, &request.session)?;
        if !self.hears(&seated) {
            return closed(&seated);
        }
        worker_ready(&self.cx, seated.session);
        if !seated.wire.lock().confirm(request.after) {
            let text = "no order of that number was sent in this session";
            return Err(ApiError::field(Code::InvalidField, "/after", text));
        }
        let mut turn = 0;
        seated.turn.send_modify(|now| {
            *now += 1;
            turn = *now;
        });
        let wait = request.wait.unwrap_or(WORKER_PULL_WAIT_MAX).min(WORKER_PULL_WAIT_MAX);
        let mut superseded = seated.turn.subscribe();
        let mut open = true;
        if seated.wire.lock().unconfirmed.is_empty() {
            tokio::select! {
                biased;
                _ = superseded.wait_for(|now| *now != turn) => {}
                gathered = timeout(Duration::from_millis(wait), self.gather(&seated)) => {
                    open = gathered.unwrap_or(true);
                }
            }
        }
        if !open && seated.wire.lock().unconfirmed.is_empty() {
            return closed(&seated);
        }
        Ok(WorkerPullAnswer { orders: wire_orders(&seated), closed: false })
    }

    /// Turns what waits for the worker into orders, after waiting for the first; `false`: nothing will ever come.
    async fn gather(&self, seated: &Seated) -> bool {
        let link = self.link_of(seated);
        let mut opening = seated.opening.lock().await;
        if opening.is_empty() {
            let mut inbox = seated.inbox.lock().await;
            let Some(first) = inbox.recv().await else { return false };
            // Nothing is awaited between taking and keeping, so nothing taken is lost.
            opening.push_back(first);
            while opening.len() < WORKER_PULL_ORDERS_MAX
                && let Ok(next) = inbox.try_recv()
            {
                opening.push_back(next);
            }
        }
        while let Some(next) = opening.front() {
            let order = link.open(next).await;
            opening.pop_front();
            if let Some(order) = order {
                seated.wire.lock().send(order);
            }
        }
        true
    }

    /// Stores the engine's run id under a lease.
    ///
    /// # Errors
    /// `stale_lease`, `session_unknown`, or that the store cannot be reached.
    pub async fn worker_attach(
        &self,
        caller: &Caller,
        request: &WorkerAttachRequest,
    ) -> Result<(), ApiError> {
        let seated = self.seated(caller, &request.session)?;
        self.hears(&seated);
        if !(1..=ENGINE_RUN_BYTES_MAX).contains(&request.engine_run.len()) {
            let text = format!("must be text of 1 to {ENGINE_RUN_BYTES_MAX} bytes");
            return Err(ApiError::field(Code::InvalidField, "/engineRun", text));
        }
        let lease = lease_of(&seated, &request.lease)?;
        let link = self.link_of(&seated);
        let attached = link.attach(lease, &request.engine_run, request.can_reattach).await;
        attached.map_err(|error| link_error(&request.lease, error))
    }

    /// Takes the end of an attempt; the same report again is taken as the first was.
    ///
    /// # Errors
    /// `stale_lease`: nothing changes but that a late result is noted; `session_unknown`, what is wrong with a field, or
    /// that the store cannot be reached.
    pub async fn worker_report(&self, caller: &Caller, request: WorkerReportRequest) -> Result<(), ApiError> {
        let seated = self.seated(caller, &request.session)?;
        self.hears(&seated);
        if seated.wire.lock().was_reported(&request.lease) {
            return Ok(());
        }
        let lease = lease_of(&seated, &request.lease)?;
        let end = end_from_wire(request.end)
            .map_err(|WireError { pointer, detail }| ApiError::field(Code::InvalidField, pointer, detail))?;
        let report = Report { end, logs: request.logs };
        match self.link_of(&seated).report(lease, report).await {
            Ok(()) => {
                seated.wire.lock().end(&request.lease, true);
                Ok(())
            }
            Err(LinkError::Stale) => {
                let mut wire = seated.wire.lock();
                // The same report on another connection may have been faster.
                if wire.was_reported(&request.lease) {
                    return Ok(());
                }
                wire.end(&request.lease, false);
                Err(stale(&request.lease))
            }
            Err(error) => Err(link_error(&request.lease, error)),
        }
    }

    /// A sign of life; tells what has become of the leases that the worker believes to hold.
    ///
    /// # Errors
    /// `session_unknown`, or `invalid_field` when there are more leases than any worker can have.
    pub fn worker_renew(
        &self,
        caller: &Caller,
        request: &WorkerRenewRequest,
    ) -> Result<WorkerRenewAnswer, ApiError> {
        let seated = self.seated(caller, &request.session)?;
        if request.leases.len() > WORKER_CAPACITY_MAX as usize {
            let text = format!("must be at most {WORKER_CAPACITY_MAX} leases");
            return Err(ApiError::field(Code::InvalidField, "/leases", text));
        }
        let now = self.cx.store.now();
        let mut answer = WorkerRenewAnswer::default();
        let wire = seated.wire.lock();
        let mut ports = self.cx.workers.ports.lock();
        let port = ports.get_mut(&seated.session).filter(|port| port.gone.is_none());
        let Some(port) = port else {
            return if seated.may_go_with(&wire) { Ok(answer) } else { Err(session_unknown()) };
        };
        heard(port, now, &self.cx.workers.pool_nudge);
        if port.seat.origin == Origin::Remote {
            port.memory_bytes = request.memory_bytes;
        }
        answer.draining = port.drain.is_some();
        let mut held = Vec::new();
        for name in &request.leases {
            match wire.lease(name).filter(|lease| port.held.contains(lease)) {
                Some(lease) => held.push((name, lease)),
                None => answer.lost.push(name.clone()),
            }
        }
        drop((ports, wire));
        let rows = self.cx.scheduling.rows.lock();
        let wished = |lease: LeaseRef| rows.get(&lease.key).is_some_and(|row| row.state.cancel_at.is_some());
        answer.cancel = held.into_iter().filter(|(_, l)| wished(*l)).map(|(name, _)| name.clone()).collect();
        Ok(answer)
    }

    /// Passes signs of life of attempts on to anyone who watches; those of leases the worker does not hold are dropped.
    ///
    /// # Errors
    /// `session_unknown`, or `invalid_field` when there are too many items.
    pub fn worker_progress(&self, caller: &Caller, request: WorkerProgressRequest) -> Result<(), ApiError> {
        let seated = self.seated(caller, &request.session)?;
        self.hears(&seated);
        if request.items.len() > WORKER_PROGRESS_ITEMS_MAX {
            let text = format!("must be at most {WORKER_PROGRESS_ITEMS_MAX} items");
            return Err(ApiError::field(Code::InvalidField, "/items", text));
        }
        let link = self.link_of(&seated);
        for item in request.items {
            if let Ok(lease) = lease_of(&seated, &item.lease) {
                link.progress(lease, Progress { fraction: item.fraction, data: item.data });
            }
        }
        Ok(())
    }

    /// The worker wants to go: it gets nothing new, and is dismissed when it holds nothing.
    ///
    /// # Errors
    /// `session_unknown`.
    pub fn worker_signoff(&self, caller: &Caller, request: &WorkerSignoffRequest) -> Result<(), ApiError> {
        let seated = self.seated(caller, &request.session)?;
        if !self.hears(&seated) {
            return closed(&seated).map(drop);
        }
        let patience = request.grace.unwrap_or(self.cx.settings.scaling.rules.drain_timeout);
        drain_worker(&self.cx, seated.session, "signed_off", patience, false);
        Ok(())
    }

    /// Stores a fact of an engine's adapter, or gives it back.
    ///
    /// # Errors
    /// `session_unknown`, or what is wrong with a field.
    pub async fn worker_fact(
        &self,
        caller: &Caller,
        request: &WorkerFactRequest,
    ) -> Result<WorkerFactAnswer, ApiError> {
        let seated = self.seated(caller, &request.session)?;
        self.hears(&seated);
        if self.cx.registry.get(&request.engine).is_none() {
            return Err(ApiError::field(Code::UnknownEngine, "/engine", "is not an engine of this node"));
        }
        let bounded = |pointer, length: usize, most: usize| {
            let text = format!("must be at most {most} bytes");
            if length <= most { Ok(()) } else { Err(ApiError::field(Code::InvalidField, pointer, text)) }
        };
        bounded("/name", request.name.len(), NAME_BYTES_MAX)?;
        bounded("/value", request.value.as_ref().map_or(0, String::len), WORKER_FACT_BYTES_MAX)?;
        let link = self.link_of(&seated);
        match &request.value {
            Some(value) => {
                link.remember(&request.engine, &request.name, value).await;
                Ok(WorkerFactAnswer { value: Some(value.clone()) })
            }
            None => Ok(WorkerFactAnswer { value: link.recall(&request.engine, &request.name).await }),
        }
    }

    /// Where worker processes of this node find it; they wait until it is told.
    pub fn open_worker_door(&self, url: String) {
        self.cx.workers.worker_door.send_replace(Some(url));
    }

    /// The node's end of a link, for a worker of the embedding program's own making. It takes work at once.
    #[must_use]
    pub fn own_link(&self, name: &str, capacity: u32) -> Arc<dyn Link> {
        let seat =
            Seat { name: name.to_owned(), origin: Origin::Embedded, capacity, engine_types: Vec::new() };
        let (session, link) = open_port(&self.cx, seat);
        worker_ready(&self.cx, session);
        Arc::new(link)
    }

    /// The caller that a worker process's token stands for: that one worker, while its node knows it.
    pub(super) fn worker_of_token(&self, token: &str) -> Option<Caller> {
        let session = session_of_token(token)?;
        let seated = self.cx.workers.joined.lock().of(session)?;
        let Owner::Token { hash } = &seated.owner else { return None };
        let given = self.cx.payloads.token_hash(token);
        aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), hash.as_bytes()).ok()?;
        // A process that was dismissed may ask once more because an answer was lost.
        let there = self.cx.workers.ports.lock().contains_key(&session);
        (there || seated.may_go()).then(|| Caller::worker(session))
    }

    /// The session that the caller may speak for.
    fn seated(&self, caller: &Caller, name: &str) -> Result<Arc<Seated>, ApiError> {
        let seated = self.cx.workers.joined.lock().named(name).ok_or_else(session_unknown)?;
        let own = match &seated.owner {
            Owner::Token { .. } => caller.worker == Some(seated.session),
            Owner::Key(key) => caller.worker.is_none() && *key == caller.key_id,
        };
        if own { Ok(seated) } else { Err(session_unknown()) }
    }

    /// Notes the sign of life; `false`: the node has no such worker any more.
    fn hears(&self, seated: &Seated) -> bool {
        let now = self.cx.store.now();
        let mut ports = self.cx.workers.ports.lock();
        match ports.get_mut(&seated.session).filter(|port| port.gone.is_none()) {
            Some(port) => {
                heard(port, now, &self.cx.workers.pool_nudge);
                true
            }
            None => false,
        }
    }

    fn link_of(&self, seated: &Seated) -> NodeLink {
        NodeLink { cx: self.cx.clone(), session: seated.session, inbox: seated.inbox.clone() }
    }
}

/// Notes a sign of life; one that was silent may get work again at once.
fn heard(port: &mut Port, now: enginehouse_core::time::Time, nudge: &tokio::sync::Notify) {
    port.heard(now);
    if port.unhealthy {
        nudge.notify_one();
    }
}

fn common_protocol(offered: &[u32]) -> Result<u32, ApiError> {
    let common = WORKER_PROTOCOLS.iter().rev().find(|version| offered.contains(version));
    common.copied().ok_or_else(|| {
        let text = format!("the worker speaks {offered:?}, this node {WORKER_PROTOCOLS:?}");
        ApiError::new(Code::ProtocolUnsupported, text)
    })
}

fn check_registration(request: &WorkerRegisterRequest) -> Result<(), ApiError> {
    let invalid = |pointer: &str, text: String| Err(ApiError::field(Code::InvalidField, pointer, text));
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !NONCE_CHARS.contains(&request.nonce.len()) || !request.nonce.bytes().all(word) {
        return invalid("/nonce", "must be 16 to 64 of A-Z a-z 0-9 - _".to_owned());
    }
    if let Some(name) = &request.name {
        let good = (1..=WORKER_NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|byte| word(byte) || byte == b'.')
            && name.as_bytes()[0].is_ascii_alphanumeric();
        if !good {
            let text = "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit";
            return invalid("/name", text.to_owned());
        }
    }
    if request.capacity == 0 || request.capacity > WORKER_CAPACITY_MAX {
        return invalid("/capacity", format!("must be from 1 to {WORKER_CAPACITY_MAX}"));
    }
    Ok(())
}

/// The orders that are not confirmed, as many as one answer carries.
fn wire_orders(seated: &Seated) -> Vec<WorkerOrder> {
    let wire = seated.wire.lock();
    let mut bytes = 0;
    let mut orders = Vec::new();
    for (number, since, order) in wire.unconfirmed.iter().take(WORKER_PULL_ORDERS_MAX) {
        let named =
            |word: &str| WorkerOrder { number: *number, order: word.to_owned(), run: None, lease: None };
        let said = match order {
            Order::Run(assignment) => {
                bytes += assignment.request.len();
                if bytes > WORKER_PULL_BYTES_MAX && !orders.is_empty() {
                    break;
                }
                // A stored request was JSON when it was accepted.
                let Some(mut run) = assignment_to_wire(assignment) else { continue };
                let waited = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                run.limit = run.limit.saturating_sub(waited);
                WorkerOrder { run: Some(run), ..named("run") }
            }
            Order::Cancel(lease) => WorkerOrder { lease: wire.name(*lease), ..named("cancel") },
            Order::LetGo(lease) => WorkerOrder { lease: wire.name(*lease), ..named("let_go") },
            Order::HandBack => named("hand_back"),
        };
        orders.push(said);
    }
    orders
}

/// The answer to a worker that the node does not have any more.
fn closed(seated: &Seated) -> Result<WorkerPullAnswer, ApiError> {
    if seated.may_go() {
        return Ok(WorkerPullAnswer { orders: Vec::new(), closed: true });
    }
    Err(session_unknown())
}

fn lease_of(seated: &Seated, name: &WorkerLease) -> Result<LeaseRef, ApiError> {
    seated.wire.lock().lease(name).ok_or_else(|| stale(name))
}

fn session_unknown() -> ApiError {
    ApiError::new(Code::SessionUnknown, "this session is not known here, or has ended")
}

fn stale(name: &WorkerLease) -> ApiError {
    let text = format!("the session does not hold {:?} with fence {}", name.execution_id, name.fence);
    ApiError::new(Code::StaleLease, text)
}

fn link_error(name: &WorkerLease, error: LinkError) -> ApiError {
    match error {
        LinkError::Stale => stale(name),
        LinkError::Closed => store_error(&StoreError::Closed),
        LinkError::Unavailable(why) => store_error(&StoreError::Unavailable(why)),
        LinkError::Refused(why) => ApiError::new(Code::Internal, why),
    }
}
