//! Rows as callers see them.

use super::Service;
use super::caller::{Caller, Scope};
use crate::seal::Column;
use enginehouse_api::{
    AttemptView, BlockerView, EtaView, EventView, ExecutionView, FailureView, PriorityName, SubmitRequest,
    Timestamp, WaitView,
};
use enginehouse_core::event::{Event, EventType};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::failure::{Failure, FailureKind};
use enginehouse_core::id::{Key, path_segment};
use enginehouse_core::limits::FAILURE_MESSAGE_BYTES_MAX;
use enginehouse_core::reach::OutOfReach;
use enginehouse_core::reason::Reason;
use enginehouse_core::wait::{self, Blocker, WaitReason};
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Service {
    /// `request`: what it was submitted with, where that is at hand; its metadata is payload.
    pub(super) fn view(
        &self,
        caller: &Caller,
        row: &Execution,
        request: Option<&SubmitRequest>,
    ) -> ExecutionView {
        let (fixed, state) = (&row.fixed, &row.state);
        let id = self.cx.payloads.public_id(row);
        let payload = request.filter(|_| caller.may(Scope::ReadPayload));
        let started = state.attempt > 0;
        ExecutionView {
            status: state.status,
            generation: state.generation,
            workflow_id: fixed.workflow.clone(),
            engine_type: fixed.engine_type.clone(),
            engine: fixed.engine.clone(),
            endpoint: state.endpoint.filter(|_| started).map(|at| self.endpoint_name(&fixed.engine, at)),
            priority: PriorityName(state.priority),
            user_id: fixed.user.clone(),
            tags: fixed.tags.clone(),
            metadata: payload.map(|r| r.metadata.clone()).filter(|m| !m.is_empty()),
            attempt: state.attempt,
            attempts_counted: state.reported,
            max_retries: fixed.spec.retry.max_retries,
            created_at: Timestamp(fixed.created_at),
            client_created_at: payload.and_then(|r| r.created_at),
            ready_at: Timestamp(state.ready_at),
            started_at: state.started_at.map(Timestamp),
            ended_at: state.ended_at.map(Timestamp),
            worker: state.worker.clone(),
            engine_run_id: state.engine_run.clone(),
            cancel_requested_at: state.cancel_at.map(Timestamp),
            wait: self.wait_view(caller, row),
            failure: state.failure.as_ref().map(|f| self.failure_view(caller, row.key(), f)),
            needs_input: state.needs_input,
            abandoned: state.abandoned || self.is_beyond_stopping(row),
            links: links(&id),
            result: None,
            id,
        }
    }

    /// Its caller wishes it to stop, and its engine cannot stop runs.
    fn is_beyond_stopping(&self, row: &Execution) -> bool {
        let wished = row.status() == Status::Running && row.state.cancel_at.is_some();
        let engine = self.cx.registry.get(&row.fixed.engine).filter(|_| wished);
        engine.is_some_and(|engine| !engine.adapter.capabilities().cancel)
    }

    fn wait_view(&self, caller: &Caller, row: &Execution) -> Option<WaitView> {
        if row.status() != Status::Pending {
            return None;
        }
        let now = self.cx.store.now();
        let (wait, outlook) = {
            let scheduler = self.cx.scheduling.scheduler.lock();
            let wait = scheduler.explain(row, now)?;
            let outlook = wait::outlook(row, &wait, &scheduler.queue, &scheduler.gates, now);
            (wait, outlook)
        };
        let service_paused = self.pause_words().filter(|_| wait.reason == WaitReason::Paused);
        let blockers = outlook.blockers.into_iter().filter_map(|blocker| self.blocker_view(row, blocker));
        Some(WaitView {
            reason: wait.reason.as_str().to_owned(),
            since: Timestamp(outlook.since),
            until: wait.until.map(Timestamp),
            position: wait.position,
            eta_ms: outlook.eta.map(|eta| EtaView { low: eta.low, high: eta.high }),
            blockers: blockers.collect(),
            text: match (service_paused, self.out_of_reach(caller, row)) {
                (Some(paused), _) => paused,
                (None, Some(lost)) => format!("{}; {lost}", wait.text),
                (None, None) => wait.text,
            },
        })
    }

    /// What is to be said of a run that is known and could not be asked for its end.
    fn out_of_reach(&self, caller: &Caller, row: &Execution) -> Option<String> {
        let lost = OutOfReach::told_by(&row.history)?;
        let last = self.failure_view(caller, row.key(), row.state.failure.as_ref()?);
        let status = last.engine_status.map(|status| format!(", status {status}")).unwrap_or_default();
        let words = Some(last.message).filter(|words| !words.is_empty());
        let words = words.map(|words| format!(": {words}")).unwrap_or_default();
        Some(format!(
            "its run at the engine is known, but has been out of reach since {}, over {} looks; last: {}{status}{words}",
            Timestamp(lost.since),
            lost.looks,
            last.code
        ))
    }

    /// `None` for an execution that has ended meanwhile.
    fn blocker_view(&self, row: &Execution, blocker: Blocker) -> Option<BlockerView> {
        let view = |kind: &str, id, text| BlockerView { kind: kind.to_owned(), id, text };
        let engine = &row.fixed.engine;
        Some(match blocker {
            Blocker::Execution(key) => {
                let runs = self.cx.scheduling.rows.lock().get(&key).cloned()?;
                view("execution", Some(self.cx.payloads.public_id(&runs)), "it runs".to_owned())
            }
            Blocker::Endpoint { at, detail } => {
                view("endpoint", Some(self.endpoint_name(engine, at)), detail)
            }
            Blocker::Engine { detail } => view("engine", Some(engine.clone()), detail),
            Blocker::Slots { taken, all } => {
                view("slots", None, format!("{taken} of {all} worker slots are taken"))
            }
        })
    }

    pub(super) fn endpoint_name(&self, engine: &str, at: u32) -> String {
        self.cx.registry.endpoint_name(engine, at)
    }

    pub(super) fn failure_view(&self, caller: &Caller, key: Key, failure: &Failure) -> FailureView {
        let mut message = own_text(failure.kind, &failure.code);
        if !failure.message.is_empty() && caller.may(Scope::ReadPayload) {
            let opened = self.cx.payloads.sealer.open(
                key,
                Column::Failure,
                &failure.message,
                FAILURE_MESSAGE_BYTES_MAX * 2,
            );
            message = match opened {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) => format!("the message cannot be opened: {error}"),
            };
        }
        FailureView {
            kind: failure.kind.as_str().to_owned(),
            code: failure.code.clone(),
            message,
            retryable: failure.retryable,
            attempt: failure.attempt,
            engine_status: failure.engine_status,
        }
    }

    pub(super) fn event_view(&self, caller: &Caller, id: &str, key: Key, event: &Event) -> EventView {
        let data = &event.data;
        let mut shown = serde_json::Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                shown.insert(name.to_owned(), value);
            }
        };
        put("worker", data.worker.clone().map(Value::from));
        put("endpoint", data.endpoint.map(Value::from));
        put("fence", data.fence.map(Value::from));
        put("engineRunId", data.engine_run.clone().map(Value::from));
        put("reattached", data.reattach.then_some(json!(true)));
        put("failure", data.failure.as_ref().map(|f| json!(self.failure_view(caller, key, f))));
        put("abandoned", data.abandoned.then_some(json!(true)));
        put("readyAt", data.ready_at.map(|at| json!(Timestamp(at))));
        put("retryAfterMs", data.retry_after.map(Value::from));
        put("reason", data.reason.as_ref().map(|reason| Value::from(reason.as_str())));
        put("by", data.by.clone().map(Value::from));
        EventView {
            id: id.to_owned(),
            seq: Some(event.seq),
            kind: event.kind.as_str().to_owned(),
            at: Timestamp(event.at),
            attempt: event.attempt,
            engine: None,
            status: None,
            data: Value::Object(shown).into(),
        }
    }

    /// The attempts, told from the row's events.
    pub(super) fn attempt_views(&self, caller: &Caller, row: &Execution) -> Vec<AttemptView> {
        let mut attempts: Vec<AttemptView> = Vec::new();
        for event in &row.history {
            if event.kind == EventType::ExecutionStarted {
                attempts.push(AttemptView {
                    attempt: event.attempt,
                    worker: event.data.worker.clone(),
                    endpoint: event.data.endpoint.map(|at| self.endpoint_name(&row.fixed.engine, at)),
                    engine_run_id: event.data.engine_run.clone(),
                    reattached: event.data.reattach,
                    started_at: Timestamp(event.at),
                    ended_at: None,
                    outcome: None,
                    failure: None,
                    abandoned: false,
                });
                continue;
            }
            let Some(last) = attempts.last_mut().filter(|a| a.ended_at.is_none()) else {
                continue;
            };
            if event.kind == EventType::ExecutionAttached {
                last.engine_run_id.clone_from(&event.data.engine_run);
            }
            if let Some(outcome) = ended(event) {
                last.ended_at = Some(Timestamp(event.at));
                last.outcome = Some(outcome.to_owned());
                last.abandoned = event.data.abandoned;
                last.failure = event.data.failure.as_ref().map(|f| self.failure_view(caller, row.key(), f));
            }
        }
        attempts
    }
}

/// How an attempt ended, if this event ended it.
fn ended(event: &Event) -> Option<&'static str> {
    let reason = event.data.reason.as_ref();
    match event.kind {
        EventType::ExecutionCompleted => Some("succeeded"),
        EventType::ExecutionCancelled => Some("cancelled"),
        EventType::ExecutionFailed => {
            let lost = event.data.failure.as_ref().is_some_and(|f| f.kind == FailureKind::Lost);
            Some(if lost { "lost" } else { "failed" })
        }
        EventType::ExecutionRetrying if reason == Some(&Reason::Refused) => Some("refused"),
        EventType::ExecutionRetrying if matches!(reason, Some(Reason::Unreachable | Reason::AnswerLost)) => {
            Some("interrupted")
        }
        EventType::ExecutionRetrying => Some("failed"),
        EventType::ExecutionInterrupted if reason == Some(&Reason::WorkerLost) => Some("lost"),
        EventType::ExecutionInterrupted => Some("interrupted"),
        _ => None,
    }
}

/// What can be said of a failure without its sealed text.
fn own_text(kind: FailureKind, code: &str) -> String {
    match (kind, code) {
        (FailureKind::Unavailable, "breaker_open") => {
            "every endpoint of its engine had its circuit breaker open, and failFast forbids waiting"
                .to_owned()
        }
        (FailureKind::Timeout, "total_timeout") => "its total timeout passed".to_owned(),
        (FailureKind::Conflict, "thread_busy") => "its thread was busy with another run".to_owned(),
        (FailureKind::Expired, _) => "it was not started within expiresIn".to_owned(),
        (FailureKind::Lost, _) => "its workers died under it too often".to_owned(),
        (FailureKind::UnknownOutcome, _) => {
            "it may have run and its end is not known; atMostOnce forbids another try".to_owned()
        }
        _ => String::new(),
    }
}

fn links(id: &str) -> BTreeMap<String, String> {
    let own = format!("/v1/executions/{}", path_segment(id));
    let mut links = BTreeMap::from([("self".to_owned(), own.clone())]);
    for part in ["result", "request", "attempts", "logs", "events"] {
        links.insert(part.to_owned(), format!("{own}/{part}"));
    }
    links
}
