//! Routes about the workers.

use super::params::ok;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code, DrainRequest, WorkerView, WorkersAnswer};
use enginehouse_runtime::Scope;
use http::StatusCode;

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/workers",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(workers(call)) },
        operation: Some(Operation {
            answers: &[ok("The workers.", Shape::of::<WorkersAnswer>())],
            ..Operation::new("listWorkers", Tag::Workers, "List workers")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/workers/{id}",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(worker(call)) },
        operation: Some(Operation {
            answers: &[ok("The worker.", Shape::of::<WorkerView>())],
            ..Operation::new("getWorker", Tag::Workers, "Get a worker")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/workers/{id}/drain",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(drain(call)) },
        operation: Some(Operation {
            description: "The worker takes nothing new, finishes what it runs, hands back what still runs after the timeout (which burns no attempt), and goes. It is replaced if it is still needed.",
            body: Some(Shape::of::<DrainRequest>()),
            answers: &[ok("The worker, draining.", Shape::of::<WorkerView>())],
            problems: &[Code::StoreFull],
            ..Operation::new("drainWorker", Tag::Workers, "Drain a worker")
        }),
    },
];

async fn workers(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().workers().await?)
}

async fn worker(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().worker(call.segment()).await?)
}

async fn drain(mut call: Call) -> Result<Response, ApiError> {
    let request: DrainRequest = call.json_or_default().await?;
    let id = call.segment().to_owned();
    call.change(|service, caller| async move { service.drain_worker(&caller, &id, &request).await }).await
}
