//! Routes about the service: the queue, totals, and whether it lives and is ready.

use super::params::ok;
use crate::answer;
use crate::call::{Answer, Call};
use crate::table::{Operation, Policy, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code, HealthAnswer, MetricsView, QueueView};
use enginehouse_runtime::Scope;
use http::{HeaderValue, StatusCode};

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/queue",
        policy: Policy::Scope(Scope::Read),
        handler: |call| -> Answer { Box::pin(queue(call)) },
        operation: Some(Operation {
            answers: &[ok("The queue.", Shape::of::<QueueView>())],
            ..Operation::new("getQueue", Tag::Queue, "Get the queue's statistics")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/metrics",
        policy: Policy::Scope(Scope::Metrics),
        handler: |call| -> Answer { Box::pin(metrics(call)) },
        operation: Some(Operation {
            answers: &[ok("The totals and rates.", Shape::of::<MetricsView>())],
            ..Operation::new("getMetrics", Tag::Queue, "Get the totals")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/metrics",
        policy: Policy::Scope(Scope::Metrics),
        handler: |call| -> Answer { Box::pin(exposition(call)) },
        operation: None,
    },
    Route {
        verb: Verb::Get,
        path: "/livez",
        policy: Policy::Public,
        handler: |call| -> Answer { Box::pin(live(call)) },
        operation: Some(Operation {
            answers: &[ok("The process answers.", Shape::of::<HealthAnswer>())],
            ..Operation::new("getLive", Tag::Service, "Whether the process lives")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/readyz",
        policy: Policy::Public,
        handler: |call| -> Answer { Box::pin(ready(call)) },
        operation: Some(Operation {
            answers: &[ok("New work is taken.", Shape::of::<HealthAnswer>())],
            problems: &[Code::NotReady, Code::Stopping, Code::StoreUnavailable],
            ..Operation::new("getReady", Tag::Service, "Whether new work is taken")
        }),
    },
];

async fn queue(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().queue().await?)
}

/// For Prometheus; the format is as its `Accept` says.
async fn exposition(call: Call) -> Result<Response, ApiError> {
    let openmetrics = call.accepts("application/openmetrics-text");
    let text = call.service().exposition(openmetrics).await?;
    let content_type = if openmetrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(answer::full(StatusCode::OK, HeaderValue::from_static(content_type), text))
}

async fn metrics(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().metrics().await?)
}

async fn live(_call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &HealthAnswer { status: "ok".to_owned() })
}

async fn ready(call: Call) -> Result<Response, ApiError> {
    if call.app.stop.is_cancelled() {
        return Err(ApiError::new(Code::Stopping, "the service is stopping"));
    }
    call.service().ready()?;
    answer::json(StatusCode::OK, &HealthAnswer { status: "ok".to_owned() })
}
