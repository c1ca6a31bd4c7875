//! Routes that make executions.

use super::params::{IDEMPOTENCY, LOCATION, WAIT, created, execution};
use crate::answer;
use crate::app::App;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Shape, Success, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{
    ApiError, BatchAnswer, BatchRequest, Code, ExecutionView, FieldError, RESERVED_IDS, SubmitRequest,
};
use enginehouse_core::id::path_segment;
use enginehouse_runtime::{Awaited, Caller, Scope, Submitted};
use http::header::LOCATION as LOCATION_HEADER;
use http::{HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What can go wrong with a request beside its form.
const SUBMIT_PROBLEMS: &[Code] = &[
    Code::NotSupported,
    Code::UnknownEngine,
    Code::EngineAmbiguous,
    Code::InlineNotAllowed,
    Code::IdConflict,
    Code::QueueFull,
    Code::Stopping,
    Code::NotReady,
    Code::StoreFull,
];

const REPLAYED: (&str, &str) = ("Idempotency-Replayed", "`true`: nothing new was stored.");

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Post,
        path: "/v1/executions",
        access: Access::Scope(Scope::Submit),
        handler: |call| -> ResponseFuture { Box::pin(submit(call)) },
        operation: Some(Operation {
            description: "A 2xx means that the execution is stored durably; `Location` is its path, with the id percent-encoded. The same `id`, or the same `Idempotency-Key`, \
                          with the same request returns the same execution; with a different request it is `id_conflict`.",
            query: WAIT,
            headers: IDEMPOTENCY,
            body: Some(Shape::of::<SubmitRequest>()),
            answers: &[
                Success {
                    headers: &[LOCATION],
                    ..execution(201, "Stored; with `?wait=`, also ended, and the result is here.")
                },
                Success {
                    headers: &[LOCATION, REPLAYED],
                    ..execution(200, "The same request was accepted earlier.")
                },
                Success {
                    headers: &[LOCATION],
                    ..execution(202, "Stored; with `?wait=`, not ended in time.")
                },
            ],
            problems: SUBMIT_PROBLEMS,
            ..Operation::new("submitExecution", Tag::Executions, "Submit an execution")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/executions/batch",
        access: Access::Scope(Scope::Submit),
        handler: |call| -> ResponseFuture { Box::pin(batch(call)) },
        operation: Some(Operation {
            description: "All are stored or none. Items may repeat earlier requests; one conflict fails the batch, and its \
                          pointer names the item.",
            body: Some(Shape::of::<BatchRequest>()),
            answers: &[created("Stored, in the order of the request.", Shape::of::<BatchAnswer>())],
            problems: SUBMIT_PROBLEMS,
            ..Operation::new("submitBatch", Tag::Executions, "Submit several executions")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/executions/{id}/replay",
        access: Access::Scope(Scope::Submit),
        handler: |call| -> ResponseFuture { Box::pin(replay(call)) },
        operation: Some(Operation {
            description: "Submits the request of an execution again, under a new id.",
            answers: &[Success { headers: &[LOCATION], ..execution(201, "A new execution.") }],
            problems: SUBMIT_PROBLEMS,
            ..Operation::new("replayExecution", Tag::Executions, "Submit an execution's request again")
        }),
    },
];

async fn submit(mut call: Call) -> Result<Response, ApiError> {
    let key = call.idempotency_key()?;
    let wait = call.wait()?;
    let mut request: SubmitRequest = call.json().await?;
    check_id(&request)?;
    request.traceparent = request.traceparent.or_else(|| call.traceparent());
    let Some(at_most) = wait else {
        let submitted =
            call.carry_out(|service, caller| async move { service.submit(&caller, request, key).await });
        return stored(submitted.await?, true);
    };
    let submitted =
        call.carry_out(|service, caller| async move { service.submit_awaited(&caller, request, key).await });
    let (submitted, awaited) = submitted.await?;
    call.room = None;
    let (submitted, ended) = await_end(&call.app, &call.caller, submitted, awaited, at_most).await;
    stored(submitted, ended)
}

/// The execution as it stands when it ended or the time is up, and whether it ended. What goes wrong from here on does
/// not undo the submit, so it is not told as its failure.
async fn await_end(
    app: &App,
    caller: &Caller,
    mut submitted: Submitted,
    awaited: Awaited,
    at_most: Duration,
) -> (Submitted, bool) {
    let id = submitted.execution.id.clone();
    let waited = tokio::select! {
        biased;
        () = app.stop.cancelled() => None,
        waited = app.service.wait_on(caller, awaited, at_most) => Some(waited),
    };
    match waited {
        Some(Ok(view)) => submitted.execution = view,
        Some(Err(error)) => tracing::warn!(%error, id, "could not wait for an execution"),
        None => {}
    }
    let ended = submitted.execution.status.is_terminal();
    if ended && caller.may(Scope::ReadPayload) && submitted.execution.result.is_none() {
        match app.service.result(caller, &id).await {
            Ok(found) => submitted.execution.result = found.result,
            Err(error) => tracing::warn!(%error, id, "could not read a result"),
        }
    }
    (submitted, ended)
}

fn stored(submitted: Submitted, done: bool) -> Result<Response, ApiError> {
    let status = match (done, submitted.replayed) {
        (false, _) => StatusCode::ACCEPTED,
        (true, true) => StatusCode::OK,
        (true, false) => StatusCode::CREATED,
    };
    let mut response = located(status, &submitted.execution)?;
    if submitted.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// An execution with its `Location`.
fn located(status: StatusCode, execution: &ExecutionView) -> Result<Response, ApiError> {
    let mut response = answer::json(status, execution)?;
    if let Ok(path) = HeaderValue::from_str(&format!("/v1/executions/{}", path_segment(&execution.id))) {
        response.headers_mut().insert(LOCATION_HEADER, path);
    }
    Ok(response)
}

/// Words that name collections cannot name executions, which could not be reached.
fn check_id(request: &SubmitRequest) -> Result<(), ApiError> {
    match request.id.as_deref() {
        Some(id) if RESERVED_IDS.contains(&id) => {
            let detail = format!("{id} is part of the API's own paths; choose another id");
            Err(ApiError::field(Code::InvalidField, "/id", detail))
        }
        _ => Ok(()),
    }
}

async fn batch(mut call: Call) -> Result<Response, ApiError> {
    let mut request: BatchRequest = call.json().await?;
    if let Some(context) = call.traceparent() {
        for item in &mut request.executions {
            item.traceparent.get_or_insert_with(|| context.clone());
        }
    }
    let mut errors: Vec<FieldError> = Vec::new();
    for (index, item) in request.executions.iter().enumerate() {
        if let Err(error) = check_id(item) {
            errors.extend(error.within(&format!("/executions/{index}")).errors);
        }
    }
    if let Some(first) = errors.first() {
        let detail = format!("{}: {}", first.pointer, first.detail);
        return Err(ApiError { errors, ..ApiError::new(Code::InvalidField, detail) });
    }
    let stored =
        call.carry_out(|service, caller| async move { service.submit_batch(&caller, request).await }).await?;
    answer::json(StatusCode::CREATED, &stored)
}

async fn replay(mut call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    call.no_body().await?;
    let execution =
        call.carry_out(|service, caller| async move { service.replay(&caller, &id).await }).await?;
    located(StatusCode::CREATED, &execution)
}
