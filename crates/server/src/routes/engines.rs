//! Routes about engines.

use super::params::ok;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, BreakerRequest, Code, EngineTest, EngineView, EnginesAnswer};
use enginehouse_runtime::Scope;
use http::StatusCode;

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/engines",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(list(call)) },
        operation: Some(Operation {
            answers: &[ok("The configured engines.", Shape::of::<EnginesAnswer>())],
            ..Operation::new("listEngines", Tag::Engines, "List engines")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/engines/{name}",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(get(call)) },
        operation: Some(Operation {
            answers: &[ok("The engine.", Shape::of::<EngineView>())],
            ..Operation::new("getEngine", Tag::Engines, "Get an engine")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/engines/{name}/pause",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(pause(call)) },
        operation: Some(Operation {
            description: "Nothing more is started on it; what runs goes on, and its work waits with the reason `paused`.",
            answers: &[ok("The engine, paused.", Shape::of::<EngineView>())],
            problems: &[Code::StoreFull],
            ..Operation::new("pauseEngine", Tag::Engines, "Pause an engine")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/engines/{name}/resume",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(resume(call)) },
        operation: Some(Operation {
            answers: &[ok("The engine, no longer paused.", Shape::of::<EngineView>())],
            problems: &[Code::StoreFull],
            ..Operation::new("resumeEngine", Tag::Engines, "Resume an engine")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/engines/{name}/breaker",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(breaker(call)) },
        operation: Some(Operation {
            description: "Forces the circuit breaker of one endpoint, or of all, open or closed; `auto` goes by what is measured again. Of a breaker forced open, one attempt finds out how the engine is before the rest is released.",
            body: Some(Shape::of::<BreakerRequest>()),
            answers: &[ok("The engine with its breakers.", Shape::of::<EngineView>())],
            problems: &[Code::StoreFull],
            ..Operation::new("forceBreaker", Tag::Engines, "Force a circuit breaker")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/engines/{name}/test",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(test(call)) },
        operation: Some(Operation {
            description: "Asks every endpoint for its health now. An unhealthy endpoint is an answer, not an error.",
            answers: &[ok("What each endpoint said.", Shape::of::<EngineTest>())],
            ..Operation::new("testEngine", Tag::Engines, "Test an engine")
        }),
    },
];

async fn list(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().engines().await?)
}

async fn get(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().engine(call.segment()).await?)
}

async fn pause(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    let name = call.segment().to_owned();
    call.change(|service, caller| async move { service.pause_engine(&caller, &name).await }).await
}

async fn resume(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    let name = call.segment().to_owned();
    call.change(|service, caller| async move { service.resume_engine(&caller, &name).await }).await
}

async fn breaker(mut call: Call) -> Result<Response, ApiError> {
    let request: BreakerRequest = call.json().await?;
    let name = call.segment().to_owned();
    call.change(|service, caller| async move { service.force_breaker(&caller, &name, request).await }).await
}

async fn test(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    answer::json(StatusCode::OK, &call.service().test_engine(call.segment()).await?)
}
