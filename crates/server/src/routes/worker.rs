//! The worker protocol: what workers elsewhere say. docs/WORKERS.md tells how it is used.

use super::params::ok;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{
    ApiError, Code, WorkerAttachRequest, WorkerDone, WorkerFactAnswer, WorkerFactRequest,
    WorkerProgressRequest, WorkerPullAnswer, WorkerPullRequest, WorkerRegisterAnswer, WorkerRegisterRequest,
    WorkerRenewAnswer, WorkerRenewRequest, WorkerReportRequest, WorkerSignoffRequest,
};
use enginehouse_core::limits::{JSON_DEPTH_MAX, WORKER_REPORT_BYTES_MAX, WORKER_REPORT_DEPTH};
use enginehouse_runtime::Scope;
use http::StatusCode;

const ACCESS: Access = Access::Scope(Scope::Worker);

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Post,
        path: "/v1/worker/register",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(register(call)) },
        operation: Some(Operation {
            description: "States the versions of the protocol that the worker speaks, its slots and its engines. It takes work from its first pull on. Sent again with the same nonce it answers the same session.",
            body: Some(Shape::of::<WorkerRegisterRequest>()),
            answers: &[ok("The session.", Shape::of::<WorkerRegisterAnswer>())],
            problems: &[
                Code::ProtocolUnsupported,
                Code::NameTaken,
                Code::SessionUnknown,
                Code::UnknownEngine,
                Code::RateLimited,
                Code::Stopping,
                Code::NotReady,
            ],
            ..Operation::new("workerRegister", Tag::WorkerProtocol, "Join as a worker")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/pull",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(pull(call)) },
        operation: Some(Operation {
            description: "Answers at once with orders that wait or were not confirmed, else waits for one. A later pull of the session ends this one.",
            body: Some(Shape::of::<WorkerPullRequest>()),
            answers: &[ok("The orders.", Shape::of::<WorkerPullAnswer>())],
            problems: &[Code::SessionUnknown],
            ..Operation::new("workerPull", Tag::WorkerProtocol, "Take orders")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/attach",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(attach(call)) },
        operation: Some(Operation {
            description: "Stores the engine's own id of a run, so that a later attempt can take it up.",
            body: Some(Shape::of::<WorkerAttachRequest>()),
            answers: &[ok("It is stored.", Shape::of::<WorkerDone>())],
            problems: &[Code::StaleLease, Code::SessionUnknown, Code::StoreFull, Code::Stopping],
            ..Operation::new("workerAttach", Tag::WorkerProtocol, "Store an engine's run id")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/renew",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(renew(call)) },
        operation: Some(Operation {
            description: "A sign of life. Tells which of the leases are lost and which are to be cancelled.",
            body: Some(Shape::of::<WorkerRenewRequest>()),
            answers: &[ok("What has become of the leases.", Shape::of::<WorkerRenewAnswer>())],
            problems: &[Code::SessionUnknown],
            ..Operation::new("workerRenew", Tag::WorkerProtocol, "Renew a session")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/report",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(report(call)) },
        operation: Some(Operation {
            description: "Takes the end of an attempt; the body may have 68 MiB. The same report again is answered as the first. A report under a lease that is not the session's current one changes nothing.",
            body: Some(Shape::of::<WorkerReportRequest>()),
            answers: &[ok("It is stored.", Shape::of::<WorkerDone>())],
            problems: &[Code::StaleLease, Code::SessionUnknown, Code::StoreFull, Code::Stopping],
            ..Operation::new("workerReport", Tag::WorkerProtocol, "Report the end of an attempt")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/progress",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(progress(call)) },
        operation: Some(Operation {
            description: "Passes signs of life of attempts on to anyone who watches them. They are never stored.",
            body: Some(Shape::of::<WorkerProgressRequest>()),
            answers: &[ok("They were passed on.", Shape::of::<WorkerDone>())],
            problems: &[Code::SessionUnknown],
            ..Operation::new("workerProgress", Tag::WorkerProtocol, "Tell progress")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/signoff",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(signoff(call)) },
        operation: Some(Operation {
            description: "The worker gets nothing new, finishes what it has, and is dismissed by a pull.",
            body: Some(Shape::of::<WorkerSignoffRequest>()),
            answers: &[ok("The worker drains.", Shape::of::<WorkerDone>())],
            problems: &[Code::SessionUnknown],
            ..Operation::new("workerSignoff", Tag::WorkerProtocol, "Leave when done")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/worker/fact",
        access: ACCESS,
        handler: |call| -> ResponseFuture { Box::pin(fact(call)) },
        operation: Some(Operation {
            description: "A small fact that an engine's adapter keeps between runs, stored sealed: written when there is a value, else read.",
            body: Some(Shape::of::<WorkerFactRequest>()),
            answers: &[ok("The fact.", Shape::of::<WorkerFactAnswer>())],
            problems: &[Code::SessionUnknown, Code::UnknownEngine],
            ..Operation::new("workerFact", Tag::WorkerProtocol, "Keep or recall a fact")
        }),
    },
];

async fn register(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerRegisterRequest = call.json().await?;
    answer::json(StatusCode::OK, &call.service().worker_register(&call.caller, &request)?)
}

async fn pull(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerPullRequest = call.json().await?;
    let orders = call.service().worker_pull(&call.caller, &request);
    // A server that stops lets no one wait.
    let stopped = WorkerPullAnswer { orders: Vec::new(), closed: false };
    let answered = call.app.stop.run_until_cancelled(orders).await.unwrap_or(Ok(stopped))?;
    answer::json(StatusCode::OK, &answered)
}

async fn attach(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerAttachRequest = call.json().await?;
    call.carry_out(|service, caller| async move { service.worker_attach(&caller, &request).await }).await?;
    answer::json(StatusCode::OK, &WorkerDone {})
}

async fn renew(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerRenewRequest = call.json().await?;
    answer::json(StatusCode::OK, &call.service().worker_renew(&call.caller, &request)?)
}

async fn report(mut call: Call) -> Result<Response, ApiError> {
    let depth = JSON_DEPTH_MAX + WORKER_REPORT_DEPTH;
    let request: WorkerReportRequest = call.report(WORKER_REPORT_BYTES_MAX, depth).await?;
    call.carry_out(|service, caller| async move { service.worker_report(&caller, request).await }).await?;
    answer::json(StatusCode::OK, &WorkerDone {})
}

async fn progress(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerProgressRequest = call.json().await?;
    call.service().worker_progress(&call.caller, request)?;
    answer::json(StatusCode::OK, &WorkerDone {})
}

async fn signoff(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerSignoffRequest = call.json().await?;
    call.service().worker_signoff(&call.caller, &request)?;
    answer::json(StatusCode::OK, &WorkerDone {})
}

async fn fact(mut call: Call) -> Result<Response, ApiError> {
    let request: WorkerFactRequest = call.json().await?;
    answer::json(StatusCode::OK, &call.service().worker_fact(&call.caller, &request).await?)
}
