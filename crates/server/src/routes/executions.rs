//! Routes that read and steer executions.

use super::params::{LAST_EVENT_ID, LIST, STREAM, any_json, execution, ok};
use crate::call::{Call, ResponseFuture};
use crate::query::wrong;
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use crate::{answer, conditional, events};
use axum::response::Response;
use enginehouse_api::{
    ApiError, AttemptsAnswer, BulkAnswer, BulkRequest, Code, FailureKindWord, FilterRequest, ListAnswer,
    LogsAnswer, PatchRequest, ResultView, StatusWord,
};
use enginehouse_core::execution::Status;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::{LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX};
use enginehouse_runtime::Scope;
use http::{HeaderValue, StatusCode};

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/executions",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(list(call)) },
        operation: Some(Operation {
            description: "Newest first. A cursor is a position: it stays valid while executions come and go.",
            query: LIST,
            answers: &[ok("One page.", Shape::of::<ListAnswer>())],
            problems: &[Code::InvalidCursor],
            ..Operation::new("listExecutions", Tag::Executions, "List executions")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/executions/cancel",
        access: Access::Scope(Scope::Cancel),
        handler: |call| -> ResponseFuture { Box::pin(bulk_cancel(call)) },
        operation: Some(Operation {
            description: "Cancels what the filter finds, at most 10,000 executions a call.",
            body: Some(Shape::of::<BulkRequest>()),
            answers: &[ok("What this call did.", Shape::of::<BulkAnswer>())],
            problems: &[Code::InvalidCursor, Code::StoreFull],
            ..Operation::new("cancelExecutions", Tag::Executions, "Cancel many executions")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/executions/redrive",
        access: Access::Scope(Scope::Submit),
        handler: |call| -> ResponseFuture { Box::pin(bulk_redrive(call)) },
        operation: Some(Operation {
            description: "Puts failed and cancelled executions the filter finds back into the queue, at most 10,000 a call.",
            body: Some(Shape::of::<BulkRequest>()),
            answers: &[ok("What this call did.", Shape::of::<BulkAnswer>())],
            problems: &[Code::InvalidCursor, Code::Stopping, Code::QueueFull, Code::StoreFull],
            ..Operation::new("redriveExecutions", Tag::Executions, "Redrive many executions")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/executions/{id}",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(get(call)) },
        operation: Some(Operation {
            answers: &[execution(200, "The execution.")],
            ..Operation::new("getExecution", Tag::Executions, "Get an execution")
        }),
    },
    Route {
        verb: Verb::Patch,
        path: "/v1/executions/{id}",
        access: Access::Scope(Scope::Submit),
        handler: |call| -> ResponseFuture { Box::pin(patch(call)) },
        operation: Some(Operation {
            body: Some(Shape::of::<PatchRequest>()),
            answers: &[execution(200, "The execution with its new priority.")],
            problems: &[Code::NotPending, Code::StoreFull],
            ..Operation::new("changeExecution", Tag::Executions, "Change a pending execution's priority")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/executions/{id}/request",
        access: Access::Scope(Scope::ReadPayload),
        handler: |call| -> ResponseFuture { Box::pin(request(call)) },
        operation: Some(Operation {
            answers: &[any_json("The request as it was sent.")],
            ..Operation::new("getRequest", Tag::Executions, "Get an execution's request")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/executions/{id}/result",
        access: Access::Scope(Scope::ReadPayload),
        handler: |call| -> ResponseFuture { Box::pin(result(call)) },
        operation: Some(Operation {
            description: "Its `ETag` stays the same as long as the result does: with `If-None-Match` the answer is 304 without a body. `Range` gives one part of the body (206), `If-Range` all of it when it is another by now.",
            answers: &[ok("How it ended.", Shape::of::<ResultView>())],
            problems: &[Code::NotFinished, Code::ResultGone, Code::RangeNotSatisfiable],
            ..Operation::new("getResult", Tag::Executions, "Get an execution's result")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/executions/{id}/attempts",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(attempts(call)) },
        operation: Some(Operation {
            answers: &[ok("Its attempts, in order.", Shape::of::<AttemptsAnswer>())],
            ..Operation::new("listAttempts", Tag::Executions, "List an execution's attempts")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/executions/{id}/logs",
        access: Access::Scope(Scope::ReadPayload),
        handler: |call| -> ResponseFuture { Box::pin(logs(call)) },
        operation: Some(Operation {
            answers: &[ok("The newest 256 KiB.", Shape::of::<LogsAnswer>())],
            ..Operation::new("getLogs", Tag::Executions, "Get what an execution's attempts logged")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/executions/{id}/events",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(stream_events(call)) },
        operation: Some(Operation {
            description: "Server-sent events: `id` (opaque), `event` (the type), `data` (an EventView). Durable events come \
                          first, then live ones: `progress` with how far the run is (`fraction`) and what the engine says of it \
                          (`data`, payload, so only with the scope `read:payload`); the stream ends after the terminal event, or sooner for a reader that is too \
                          slow, which resumes with `Last-Event-ID`. A comment beats every 15 s.",
            headers: LAST_EVENT_ID,
            answers: &[STREAM],
            problems: &[Code::EventGone, Code::RateLimited],
            ..Operation::new("streamEvents", Tag::Executions, "Stream an execution's events")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/executions/{id}/cancel",
        access: Access::Scope(Scope::Cancel),
        handler: |call| -> ResponseFuture { Box::pin(cancel(call)) },
        operation: Some(Operation {
            description: "A 2xx means that the wish is stored and beats a retry and a lost worker; the execution ends \
                          `cancelled` unless another end was stored first.",
            answers: &[
                execution(200, "It is cancelled."),
                execution(202, "It was running: the engine is being told to stop."),
            ],
            problems: &[Code::AlreadyFinished, Code::StoreFull],
            ..Operation::new("cancelExecution", Tag::Executions, "Cancel an execution")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/executions/{id}/redrive",
        access: Access::Scope(Scope::Submit),
        handler: |call| -> ResponseFuture { Box::pin(redrive(call)) },
        operation: Some(Operation {
            description: "Puts a failed or cancelled execution back into the queue, with a new generation and a fresh retry budget.",
            answers: &[execution(200, "It is pending again.")],
            problems: &[
                Code::NotRedrivable,
                Code::Stopping,
                Code::QueueFull,
                Code::UnknownEngine,
                Code::StoreFull,
            ],
            ..Operation::new("redriveExecution", Tag::Executions, "Redrive an execution")
        }),
    },
];

async fn list(call: Call) -> Result<Response, ApiError> {
    let query = &call.query;
    let text = |name: &str| query.one(name).map(str::to_owned);
    for status in query.all("status") {
        if Status::parse(status).is_none() {
            return Err(wrong(
                "status",
                format!("{status:?} is not one of {}", StatusWord::words().join(", ")),
            ));
        }
    }
    for kind in query.all("failureKind") {
        if FailureKind::parse(kind).is_none() {
            let known = FailureKindWord::words().join(", ");
            return Err(wrong("failureKind", format!("{kind:?} is not one of {known}")));
        }
    }
    if let Some(param) = LIST.iter().find(|param| query.one(param.name) == Some("")) {
        return Err(wrong(param.name, "is empty"));
    }
    let limit = match query.parsed::<u64>("limit").map_err(|_| wrong("limit", "must be an integer"))? {
        None => LIST_LIMIT_DEFAULT,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=LIST_LIMIT_MAX).contains(limit))
            .ok_or_else(|| wrong("limit", format!("must be 1 to {LIST_LIMIT_MAX}")))?,
    };
    let filter = FilterRequest {
        status: query.all("status").map(str::to_owned).collect(),
        engine: text("engine"),
        engine_type: text("engineType"),
        workflow_id: text("workflowId"),
        user_id: text("userId"),
        tag: text("tag"),
        failure_kind: query.all("failureKind").map(str::to_owned).collect(),
        failure_code: text("failureCode"),
        since: query.parsed("since")?,
        until: query.parsed("until")?,
    };
    let page = call.service().list(&call.caller, filter, query.one("cursor"), limit).await?;
    answer::json(StatusCode::OK, &page)
}

async fn get(call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    answer::json(StatusCode::OK, &call.service().get(&call.caller, &id).await?)
}

async fn request(call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    let raw = call.service().request(&call.caller, &id).await?;
    let bytes = String::from(Box::<str>::from(raw)).into_bytes();
    Ok(answer::full(StatusCode::OK, HeaderValue::from_static("application/json"), bytes))
}

async fn result(call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    let answer = call.service().result_answer(&call.caller, &id).await?;
    let unwritable = || ApiError::new(Code::Internal, "the answer could not be written");
    let body = serde_json::to_vec(&answer.view).map_err(|_| unwritable())?;
    let Some(large) = answer.large else { return conditional::json(&call.parts.headers, body) };
    // Within a string of JSON every quotation mark has a backslash before it, so this is found at its one place.
    const EMPTY: &[u8] = br#""result":null"#;
    let at = body.windows(EMPTY.len()).position(|part| part == EMPTY).ok_or_else(unwritable)?;
    let (before, behind) = body.split_at(at + EMPTY.len());
    let before = before[..before.len() - b"null".len()].to_vec();
    conditional::large_json(&call.parts.headers, before, &large, behind.to_vec()).await
}

async fn attempts(call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    answer::json(StatusCode::OK, &call.service().attempts(&call.caller, &id).await?)
}

async fn logs(call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    answer::json(StatusCode::OK, &call.service().logs(&call.caller, &id).await?)
}

async fn stream_events(call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    let last = call.last_event_id()?;
    let room = call.app.room_for_a_stream()?;
    let items = call.service().events(&call.caller, &id, last).await?;
    Ok(events::answer(items, call.app.event_beat, call.app.stop.clone(), room))
}

async fn cancel(mut call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    call.no_body().await?;
    let view = call.carry_out(|service, caller| async move { service.cancel(&caller, &id).await }).await?;
    let running = !view.status.is_terminal();
    answer::json(if running { StatusCode::ACCEPTED } else { StatusCode::OK }, &view)
}

async fn redrive(mut call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    call.no_body().await?;
    call.change(|service, caller| async move { service.redrive(&caller, &id).await }).await
}

async fn patch(mut call: Call) -> Result<Response, ApiError> {
    let id = call.execution_id()?;
    let change: PatchRequest = call.json().await?;
    call.change(|service, caller| async move { service.set_priority(&caller, &id, change).await }).await
}

async fn bulk_cancel(mut call: Call) -> Result<Response, ApiError> {
    let request: BulkRequest = call.json().await?;
    call.change(|service, caller| async move { service.bulk_cancel(&caller, request).await }).await
}

async fn bulk_redrive(mut call: Call) -> Result<Response, ApiError> {
    let request: BulkRequest = call.json().await?;
    call.change(|service, caller| async move { service.bulk_redrive(&caller, request).await }).await
}
