//! The node's end of a worker's [`Link`]: opens a request for its worker, and seals what comes back.
//!
//! This is where plaintext ends. Opening and sealing happen on the task of the caller, not in the
//! committer.

use crate::blobs::Written;
use crate::breakpoints;
use crate::seal::{Column, SealError, hex, unhex};
use crate::state::context::{ChangeError, Context};
use crate::state::hub::Live;
use crate::state::port::Assigned;
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::execution::Execution;
use enginehouse_core::failure::{Failure, FailureKind};
use enginehouse_core::id::{Key, SessionId, engine_key};
use enginehouse_core::lifecycle::{self, AttemptEnd, Part, Refused};
use enginehouse_core::limits::{LOG_BYTES_MAX, RESULT_BYTES_MAX, STORED_REQUEST_BYTES_MAX};
use enginehouse_core::pauses::Pauses;
use enginehouse_core::reason::Reason;
use enginehouse_core::time::SECOND;
use enginehouse_core::trace::call_traceparent;
use enginehouse_engine::{EngineFailure, Progress, Reached};
use enginehouse_store::{DocKind, Sealed, StoreError};
use enginehouse_worker::{Assignment, End, LeaseRef, Limit, Link, LinkError, Order, Report};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// Sealed payloads that go with a transition.
type Parts = Vec<(Part, Arc<[u8]>)>;

/// Key under which facts of adapters are sealed; they belong to no execution.
const FACTS: Key = Key(0);
/// One fact with its name.
const FACT_BYTES_MAX: usize = 16 << 10;

/// How often reading a granted request from the store is tried before the attempt is handed back.
const READ_TRIES: u32 = 20;
/// How long an engine's room stays taken by an abandoned call that was past its timeout already.
const GHOST_AFTER_TIMEOUT: u64 = 30 * SECOND;
/// The node's end of one worker's link; a worker in this process holds it, one elsewhere is spoken for by the API.
pub(crate) struct NodeLink {
    pub(crate) cx: Arc<Context>,
    pub(crate) session: SessionId,
    pub(crate) inbox: Arc<Mutex<mpsc::Receiver<Assigned>>>,
}

#[async_trait]
impl Link for NodeLink {
    async fn order(&self) -> Option<Order> {
        let mut inbox = self.inbox.lock().await;
        loop {
            let assigned = inbox.recv().await?;
            if let Some(order) = self.open(&assigned).await {
                return Some(order);
            }
        }
    }

    async fn attach(&self, lease: LeaseRef, engine_run: &str, can_reattach: bool) -> Result<(), LinkError> {
        let decide = |row: &Execution, now| {
            lifecycle::attach(row, lease.fence, engine_run.to_owned(), can_reattach, now)
        };
        match self.cx.change(lease.key, false, decide).await {
            Ok(_) | Err(ChangeError::Refused(Refused::NoChange)) => {
                breakpoints::hit("attempt.attached");
                Ok(())
            }
            Err(error) => Err(self.link_error(lease, error)),
        }
    }

    fn progress(&self, lease: LeaseRef, progress: Progress) {
        let attempt = self.cx.scheduling.rows.lock().get(&lease.key).map_or(0, |row| row.state.attempt);
        self.cx.events.hub.live(lease.key, Live { attempt, progress });
    }

    async fn report(&self, lease: LeaseRef, report: Report) -> Result<(), LinkError> {
        let logs = self.all_logs(lease, &report.logs).await.map_err(unavailable)?;
        let result = match &report.end {
            End::Succeeded { result, .. } => Some(result.clone()),
            _ => None,
        };
        let written = self.write_blob(lease, result.as_ref()).await?;
        if let (Some(result), None) = (&result, &written) {
            // Before the commit, so that who waits for it finds it here.
            self.cx.payloads.results.lock().put(lease.key, lease.fence, result, self.cx.store.now());
        }
        let (outcome, parts, abandoned) = self.outcome(lease, report.end, logs, written.as_ref());
        // A lock in the condition would be held to the end of the block, and the scheduler's comes before that of the rows.
        let row = self.cx.scheduling.rows.lock().get(&lease.key).cloned();
        if let Some(row) = row.filter(|_| abandoned) {
            let run_ends = row.state.run_started_at.map(|at| at.plus(row.fixed.spec.timeout));
            let until = self.cx.store.now().plus(GHOST_AFTER_TIMEOUT).max(run_ends.unwrap_or_default());
            self.cx.scheduling.scheduler.lock().will_abandon(lease.key, until);
        }
        let jitter = self.cx.env.draw();
        let decide = |row: &Execution, now| {
            let heads = &self.cx.settings.head_starts;
            let mut transition = lifecycle::finish(row, lease.fence, outcome.clone(), heads, jitter, now)?;
            transition.parts.clone_from(&parts);
            Ok(transition)
        };
        match self.cx.change(lease.key, false, decide).await {
            Ok(row) => {
                breakpoints::hit("attempt.reported");
                self.count(lease, &row);
                Ok(())
            }
            Err(ChangeError::Refused(Refused::StaleLease)) => {
                self.cx.payloads.results.lock().forget(lease.key);
                self.take_back(written.as_ref()).await;
                self.keep_late_result(lease).await;
                Err(self.link_error(lease, ChangeError::Refused(Refused::StaleLease)))
            }
            Err(error) => Err(self.link_error(lease, error)),
        }
    }

    async fn recall(&self, engine: &str, name: &str) -> Option<String> {
        let id = format!("{engine}/{name}");
        let docs = self.cx.store.docs(DocKind::EngineMemory).await.ok()?;
        let doc = docs.into_iter().find(|d| d.id == id)?;
        let sealed = unhex(doc.body.as_str()?)?;
        let opened = self.cx.open(FACTS, Column::Fact, &sealed, FACT_BYTES_MAX).await;
        let opened =
            opened.inspect_err(|error| tracing::warn!(%error, engine, "a kept fact cannot be opened"));
        let opened = opened.ok()?;
        // The name is sealed with the value, so that one fact cannot be put in the place of another.
        String::from_utf8(opened).ok()?.strip_prefix(&format!("{id}\n")).map(str::to_owned)
    }

    async fn remember(&self, engine: &str, name: &str, value: &str) {
        let id = format!("{engine}/{name}");
        // A fact may be as good as a secret, such as a path no one else is to call.
        let sealed =
            hex(&self.cx.payloads.sealer.seal(FACTS, Column::Fact, format!("{id}\n{value}").as_bytes()));
        if let Err(error) = self.cx.keep(DocKind::EngineMemory, &id, |_| sealed.clone().into()).await {
            tracing::warn!(%error, engine, "a fact an adapter wanted kept was not stored");
        }
    }
}

impl NodeLink {
    /// What waits for the worker as an order; `None` when the attempt ended before it began. Dropped half-way, it may be
    /// asked again.
    pub(crate) async fn open(&self, assigned: &Assigned) -> Option<Order> {
        match assigned {
            Assigned::Order(order) => Some(order.clone()),
            Assigned::Run { row, request, sealed } => {
                let assignment = self.assignment(row, request.clone(), sealed.clone()).await?;
                breakpoints::hit("attempt.opened");
                Some(Order::Run(Box::new(assignment)))
            }
        }
    }

    /// The plaintext order for a granted row; `None` when the attempt ended before it began.
    async fn assignment(
        &self,
        row: &Execution,
        request: Option<Bytes>,
        sealed: Option<Sealed>,
    ) -> Option<Assignment> {
        let lease = LeaseRef { key: row.key(), fence: row.state.fence };
        let request = match request {
            Some(request) => request,
            None => match self.read_request(row, sealed).await {
                Ok(request) => request,
                Err(end) => {
                    let told = self.report(lease, Report { end, logs: String::new() }).await;
                    if matches!(told, Err(LinkError::Unavailable(_)))
                        && let Some(port) = self.cx.workers.ports.lock().get_mut(&self.session)
                    {
                        // Its worker never saw it, so it is given out again once the store answers.
                        port.held.remove(&lease);
                    }
                    return None;
                }
            },
        };
        let now = self.cx.store.now();
        let spec = &row.fixed.spec;
        let attempt_ends = row.state.run_started_at.unwrap_or(now).plus(spec.timeout);
        let limit = if attempt_ends <= row.deadline() {
            Limit { after: attempt_ends.since(now), code: "attempt_timeout" }
        } else {
            Limit { after: row.deadline().since(now), code: "total_timeout" }
        };
        let id = self.cx.payloads.public_id(row);
        Some(Assignment {
            lease,
            idempotency_key: engine_key(&id, row.state.run),
            traceparent: call_traceparent(row),
            execution_id: id,
            attempt: row.state.attempt,
            engine: row.fixed.engine.clone(),
            workflow_id: row.fixed.workflow.clone(),
            request,
            endpoint: row.state.endpoint.unwrap_or(0),
            engine_run: row.state.engine_run.clone(),
            maybe_started: row.state.maybe_started,
            limit,
            idle_timeout: spec.idle_timeout,
        })
    }

    /// `sealed`: the request as it is stored, if it was read already.
    async fn read_request(&self, row: &Execution, mut sealed: Option<Sealed>) -> Result<Bytes, End> {
        let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(2));
        for _ in 0..READ_TRIES {
            let read = match sealed.take() {
                Some(sealed) => Ok(Some(sealed)),
                None => self.cx.store.payload(row.key(), Part::Input).await,
            };
            match read {
                Ok(Some(sealed)) => {
                    let opened = self.cx.open(row.key(), Column::Input, &sealed, STORED_REQUEST_BYTES_MAX);
                    let unopened = |e: SealError| internal(e.code().as_str(), &e.to_string());
                    return opened.await.map(Bytes::from).map_err(unopened);
                }
                Ok(None) => return Err(internal("request_missing", "its request is not in the store")),
                Err(_) => tokio::time::sleep(pauses.after_failure()).await,
            }
        }
        Err(End::Interrupted { reason: Reason::StoreUnavailable })
    }

    /// What this attempt logged behind what earlier ones did, bounded.
    async fn all_logs(&self, lease: LeaseRef, logs: &str) -> Result<Option<String>, StoreError> {
        if logs.is_empty() {
            return Ok(None);
        }
        let mut all = String::new();
        if let Some(sealed) = self.cx.store.payload(lease.key, Part::Logs).await?
            && let Ok(earlier) = self.cx.open(lease.key, Column::Logs, &sealed, LOG_BYTES_MAX * 2).await
        {
            all = String::from_utf8_lossy(&earlier).into_owned();
        }
        all.push_str(logs);
        if all.len() > LOG_BYTES_MAX {
            all.drain(..all.ceil_char_boundary(all.len() - LOG_BYTES_MAX));
        }
        Ok(Some(all))
    }

    /// Puts a result that is too large for its row into a blob, if the lease is not known to be over.
    async fn write_blob(
        &self,
        lease: LeaseRef,
        result: Option<&Bytes>,
    ) -> Result<Option<Written>, LinkError> {
        let Some(blobs) = &self.cx.payloads.blobs else { return Ok(None) };
        let large = |result: &&Bytes| blobs.wants(result.len()) && result.len() <= RESULT_BYTES_MAX;
        let Some(result) = result.filter(large) else { return Ok(None) };
        let over =
            self.cx.scheduling.rows.lock().get(&lease.key).is_some_and(|row| row.state.fence != lease.fence);
        if over {
            return Ok(None);
        }
        let written = self.cx.write_blob(blobs, lease.key, result).await.map_err(|error| {
            tracing::warn!(%error, place = blobs.settings.told(), "a large result could not be stored");
            LinkError::Unavailable(format!("a large result could not be stored: {error}"))
        })?;
        breakpoints::hit("blob.written");
        Ok(Some(written))
    }

    async fn take_back(&self, written: Option<&Written>) {
        if let (Some(blobs), Some(written)) = (&self.cx.payloads.blobs, written) {
            self.cx.take_back(blobs, written).await;
        }
    }

    /// The report in the terms of the lifecycle, with its payloads sealed.
    fn outcome(
        &self,
        lease: LeaseRef,
        end: End,
        logs: Option<String>,
        written: Option<&Written>,
    ) -> (AttemptEnd, Parts, bool) {
        let seal = |column, plain: &[u8]| self.cx.payloads.sealer.seal(lease.key, column, plain);
        let mut parts = Vec::new();
        if let Some(logs) = logs {
            parts.push((Part::Logs, seal(Column::Logs, logs.as_bytes())));
        }
        let end = match end {
            End::Succeeded { result, .. } if result.len() > RESULT_BYTES_MAX => {
                let text =
                    format!("the result has {} bytes; at most {RESULT_BYTES_MAX} are kept", result.len());
                End::Failed {
                    failure: EngineFailure::new(FailureKind::TooLarge, "result", text),
                    abandoned: false,
                }
            }
            end => end,
        };
        match end {
            End::Succeeded { result, needs_input } => {
                let output = written.map(|written| written.manifest.clone());
                parts.push((Part::Output, output.unwrap_or_else(|| seal(Column::Output, &result))));
                (AttemptEnd::Succeeded { needs_input, output_bytes: result.len() as u64 }, parts, false)
            }
            End::Cancelled { abandoned } => (AttemptEnd::Cancelled { abandoned }, parts, abandoned),
            End::Interrupted { reason } => (AttemptEnd::Interrupted { reason }, parts, false),
            End::Failed { failure: told, abandoned } => {
                let retry = self.rule_for(lease, &told);
                let failure = Failure {
                    kind: told.kind,
                    code: told.code,
                    message: seal(Column::Failure, told.message.as_bytes()).to_vec(),
                    retryable: false,
                    attempt: self
                        .cx
                        .scheduling
                        .rows
                        .lock()
                        .get(&lease.key)
                        .map_or(0, |row| row.state.attempt),
                    engine_status: told.engine_status,
                };
                let outcome = match told.reached {
                    Reached::No => AttemptEnd::Refused { failure },
                    reached => AttemptEnd::Failed {
                        failure,
                        retry_after: told.retry_after,
                        open_end: reached == Reached::Maybe,
                        recognised: self.recognises(lease),
                        retry,
                        by_default: told.retried,
                    },
                };
                (outcome, parts, abandoned)
            }
        }
    }

    /// What the engine's rules say of this failure. Its text is still at hand here, and nowhere later.
    fn rule_for(&self, lease: LeaseRef, failure: &EngineFailure) -> Option<bool> {
        let engine = self.cx.scheduling.rows.lock().get(&lease.key).map(|row| row.fixed.engine.clone())?;
        let rules = &self.cx.registry.get(&engine)?.settings.retry_rules;
        rules.iter().find(|rule| rule.matches(failure)).map(|rule| rule.retry)
    }

    /// Whether the engine, or its adapter, recognises a repeated submit of the same run.
    fn recognises(&self, lease: LeaseRef) -> bool {
        let engine = self.cx.scheduling.rows.lock().get(&lease.key).map(|row| row.fixed.engine.clone());
        let adapter = engine.and_then(|name| self.cx.registry.get(&name).map(|e| e.adapter.clone()));
        adapter.is_some_and(|adapter| adapter.capabilities().idempotent_submit)
    }

    fn count(&self, lease: LeaseRef, row: &Execution) {
        let now = self.cx.store.now();
        let took = row.history.last().map_or(0, |e| e.at.since(row.state.run_started_at.unwrap_or(e.at)));
        if let Some(port) = self.cx.workers.ports.lock().get_mut(&self.session) {
            port.end(lease, now);
            port.done += 1;
            port.busy_ms += took;
            port.failed += u64::from(row.history.last().is_some_and(|e| e.data.failure.is_some()));
        }
    }

    /// A report that came too late changes nothing, but that it came is kept.
    async fn keep_late_result(&self, lease: LeaseRef) {
        let decide = |row: &Execution, now| {
            // The fence is still the row's: this very report was stored before, only its answer was lost.
            if row.state.fence == lease.fence {
                Err(Refused::NoChange)
            } else {
                Ok(lifecycle::late_result(row, lease.fence, now))
            }
        };
        if let Err(ChangeError::Store(error)) = self.cx.change(lease.key, false, decide).await {
            tracing::warn!(%error, execution = lease.key.0, "a late result could not be noted");
        }
    }

    fn link_error(&self, lease: LeaseRef, error: ChangeError) -> LinkError {
        match error {
            ChangeError::NotFound | ChangeError::Refused(_) => {
                let now = self.cx.store.now();
                if let Some(port) = self.cx.workers.ports.lock().get_mut(&self.session) {
                    port.end(lease, now);
                }
                LinkError::Stale
            }
            ChangeError::Store(StoreError::Closed) => LinkError::Closed,
            ChangeError::Store(error) => unavailable(error),
            ChangeError::Contended => LinkError::Unavailable("the row kept changing".to_owned()),
        }
    }
}

fn unavailable(error: StoreError) -> LinkError {
    LinkError::Unavailable(error.to_string())
}

fn internal(code: &str, text: &str) -> End {
    End::Failed { failure: EngineFailure::new(FailureKind::InvalidRequest, code, text), abandoned: false }
}
