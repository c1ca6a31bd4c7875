//! Between the terms of a [`Link`](crate::Link) and those of the worker protocol, in both directions.

use crate::link::{Assignment, End, LeaseRef, Limit};
use bytes::Bytes;
use enginehouse_api::{WorkerAssignment, WorkerEnd, WorkerFailure, WorkerLease};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::reason::Reason;
use enginehouse_engine::{EngineFailure, Reached};
use serde_json::value::RawValue;

/// The longest code of a failure, and the longest reason of an interruption.
const WORD_BYTES_MAX: usize = 64;
/// The codes of the timeouts that an attempt's limit can end in.
const LIMIT_CODES: [&str; 2] = ["attempt_timeout", "total_timeout"];
const REACHED: [(Reached, &str); 3] = [(Reached::No, "no"), (Reached::Maybe, "maybe"), (Reached::Yes, "yes")];

/// What is wrong with a part of a call, by its JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    pub pointer: &'static str,
    pub detail: String,
}

fn wrong(pointer: &'static str, detail: impl Into<String>) -> WireError {
    WireError { pointer, detail: detail.into() }
}

/// The assignment as it travels; `None` when its request is not JSON.
#[must_use]
pub fn assignment_to_wire(assignment: &Assignment) -> Option<WorkerAssignment> {
    Some(WorkerAssignment {
        lease: WorkerLease { execution_id: assignment.execution_id.clone(), fence: assignment.lease.fence.0 },
        attempt: assignment.attempt,
        idempotency_key: assignment.idempotency_key.clone(),
        traceparent: assignment.traceparent.clone(),
        engine: assignment.engine.clone(),
        workflow_id: assignment.workflow_id.clone(),
        request: raw(&assignment.request)?,
        endpoint: assignment.endpoint,
        engine_run: assignment.engine_run.clone(),
        maybe_started: assignment.maybe_started,
        limit: assignment.limit.after,
        limit_code: assignment.limit.code.to_owned(),
        idle_timeout: assignment.idle_timeout,
    })
}

/// The assignment that arrived; `lease` is what the worker's side calls it.
#[must_use]
pub fn assignment_from_wire(wire: WorkerAssignment, lease: LeaseRef) -> Assignment {
    let code = LIMIT_CODES.into_iter().find(|code| *code == wire.limit_code).unwrap_or(LIMIT_CODES[0]);
    Assignment {
        lease,
        execution_id: wire.lease.execution_id,
        attempt: wire.attempt,
        idempotency_key: wire.idempotency_key,
        traceparent: wire.traceparent,
        engine: wire.engine,
        workflow_id: wire.workflow_id,
        request: Bytes::from(String::from(Box::<str>::from(wire.request))),
        endpoint: wire.endpoint,
        engine_run: wire.engine_run,
        maybe_started: wire.maybe_started,
        limit: Limit { after: wire.limit, code },
        idle_timeout: wire.idle_timeout,
    }
}

/// The end as it travels. A result that is not JSON ends as a failure.
#[must_use]
pub fn end_to_wire(end: End) -> WorkerEnd {
    let plain = |outcome: &str| WorkerEnd {
        outcome: outcome.to_owned(),
        result: None,
        needs_input: false,
        failure: None,
        abandoned: false,
        reason: None,
    };
    match end {
        End::Succeeded { result, needs_input } => match raw(&result) {
            Some(result) => WorkerEnd { result: Some(result), needs_input, ..plain("succeeded") },
            None => {
                let text = "the adapter gave a result that is not JSON";
                let failure = EngineFailure::new(FailureKind::BadResponse, "result_not_json", text);
                end_to_wire(End::Failed { failure, abandoned: false })
            }
        },
        End::Failed { failure, abandoned } => {
            let reached = REACHED.iter().find(|(reached, _)| *reached == failure.reached);
            let failure = WorkerFailure {
                kind: failure.kind.as_str().to_owned(),
                code: cut(failure.code, WORD_BYTES_MAX),
                message: failure.message,
                reached: reached.map_or("yes", |(_, word)| word).to_owned(),
                engine_status: failure.engine_status,
                retry_after: failure.retry_after,
                retried: failure.retried,
            };
            WorkerEnd { failure: Some(failure), abandoned, ..plain("failed") }
        }
        End::Cancelled { abandoned } => WorkerEnd { abandoned, ..plain("cancelled") },
        End::Interrupted { reason } => {
            WorkerEnd { reason: Some(cut(String::from(reason), WORD_BYTES_MAX)), ..plain("interrupted") }
        }
    }
}

/// The end that arrived.
///
/// # Errors
/// The part of it that cannot be.
pub fn end_from_wire(wire: WorkerEnd) -> Result<End, WireError> {
    Ok(match wire.outcome.as_str() {
        "succeeded" => {
            let result = wire.result.map_or_else(
                // A result `null` and none at all look alike.
                || Bytes::from_static(b"null"),
                |result| Bytes::from(String::from(Box::<str>::from(result))),
            );
            End::Succeeded { result, needs_input: wire.needs_input }
        }
        "failed" => {
            let failure = wire.failure.ok_or_else(|| wrong("/end/failure", "is required"))?;
            End::Failed { failure: failure_from_wire(failure)?, abandoned: wire.abandoned }
        }
        "cancelled" => End::Cancelled { abandoned: wire.abandoned },
        "interrupted" => {
            let Some(reason) = wire.reason else {
                return Ok(End::Interrupted { reason: Reason::HandedBack });
            };
            let word = !reason.is_empty() && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if !word || reason.len() > WORD_BYTES_MAX {
                return Err(wrong("/end/reason", "must be a word of a-z and _, of at most 64"));
            }
            End::Interrupted { reason: Reason::from(reason) }
        }
        _ => return Err(wrong("/end/outcome", "must be one of succeeded, failed, cancelled, interrupted")),
    })
}

fn failure_from_wire(wire: WorkerFailure) -> Result<EngineFailure, WireError> {
    let kind = FailureKind::ALL.into_iter().find(|kind| kind.as_str() == wire.kind);
    let kind = kind.ok_or_else(|| wrong("/end/failure/kind", "is not a kind of failure"))?;
    let reached = REACHED.iter().find(|(_, word)| *word == wire.reached).map(|(reached, _)| *reached);
    let reached = reached.ok_or_else(|| wrong("/end/failure/reached", "must be one of no, maybe, yes"))?;
    let code = &wire.code;
    if code.is_empty() || code.len() > WORD_BYTES_MAX || code.chars().any(char::is_control) {
        return Err(wrong("/end/failure/code", "must be text without control characters of 1 to 64 bytes"));
    }
    let failure = EngineFailure::new(kind, code, wire.message).with_reached(reached);
    let (engine_status, retry_after, retried) = (wire.engine_status, wire.retry_after, wire.retried);
    Ok(EngineFailure { engine_status, retry_after, retried, ..failure })
}

fn raw(json: &Bytes) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(json.to_vec()).ok()?).ok()
}

fn cut(mut text: String, most: usize) -> String {
    while text.len() > most {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_core::id::{Fence, Key};

    fn through(end: End) -> End {
        let text = serde_json::to_string(&end_to_wire(end)).unwrap();
        end_from_wire(serde_json::from_str(&text).unwrap()).unwrap()
    }

    #[test]
    fn every_end_arrives_as_it_was_sent() {
        let failure = |reached| {
            EngineFailure::new(FailureKind::RateLimited, "busy", "later, please")
                .with_status(429)
                .with_retry_after(Some(1_500))
                .with_reached(reached)
        };
        let ends = [
            End::Succeeded { result: Bytes::from_static(b"{\"b\" : [1.0, null]}"), needs_input: true },
            End::Succeeded { result: Bytes::from_static(b"null"), needs_input: false },
            End::Failed { failure: failure(Reached::No), abandoned: false },
            End::Failed { failure: failure(Reached::Maybe), abandoned: true },
            End::Failed { failure: failure(Reached::Yes), abandoned: false },
            End::Failed { failure: failure(Reached::Yes).not_repeated(), abandoned: false },
            End::Cancelled { abandoned: true },
            End::Interrupted { reason: Reason::NodeStopped },
        ];
        for end in ends {
            assert_eq!(through(end.clone()), end);
        }
    }

    #[test]
    fn a_result_that_is_no_json_is_a_failure() {
        let end = through(End::Succeeded { result: Bytes::from_static(b"{oops"), needs_input: false });
        let End::Failed { failure, .. } = end else { panic!("{end:?}") };
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::BadResponse, "result_not_json"));
    }

    #[test]
    fn an_end_that_cannot_be_is_refused_by_its_part() {
        let rows = [
            (r#"{"outcome":"won"}"#, "/end/outcome"),
            (r#"{"outcome":"failed"}"#, "/end/failure"),
            (r#"{"outcome":"interrupted","reason":"Not A Word"}"#, "/end/reason"),
            (
                r#"{"outcome":"failed","failure":{"kind":"odd","code":"a","message":"","reached":"yes"}}"#,
                "/end/failure/kind",
            ),
            (
                r#"{"outcome":"failed","failure":{"kind":"auth","code":"","message":"","reached":"yes"}}"#,
                "/end/failure/code",
            ),
            (
                r#"{"outcome":"failed","failure":{"kind":"auth","code":"a","message":"","reached":"so"}}"#,
                "/end/failure/reached",
            ),
        ];
        for (text, pointer) in rows {
            let refused = end_from_wire(serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(refused.pointer, pointer, "{text}");
        }
    }

    #[test]
    fn an_assignment_arrives_as_it_was_sent() {
        let assignment = Assignment {
            lease: LeaseRef { key: Key(7), fence: Fence(3) },
            execution_id: "a:b".to_owned(),
            attempt: 2,
            idempotency_key: "a:b.1".to_owned(),
            traceparent: Some("00-1-2-01".to_owned()),
            engine: "demo".to_owned(),
            workflow_id: "w".to_owned(),
            request: Bytes::from_static(b"{\"parameters\":{\"x\" : 1}}"),
            endpoint: 1,
            engine_run: Some("run-9".to_owned()),
            maybe_started: true,
            limit: Limit { after: 1_000, code: "total_timeout" },
            idle_timeout: Some(50),
        };
        let text = serde_json::to_string(&assignment_to_wire(&assignment).unwrap()).unwrap();
        let arrived = assignment_from_wire(serde_json::from_str(&text).unwrap(), assignment.lease);
        assert_eq!(arrived, assignment);
    }
}
