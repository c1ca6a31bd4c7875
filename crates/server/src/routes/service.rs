//! Routes about the service: the queue, totals, and whether it lives and is ready.

use super::params::ok;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::identity::CHALLENGE_CHARS;
use crate::query::{QueryParam, wrong};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{
    AlertsAnswer, ApiError, Code, DoctorAnswer, HealthAnswer, IdentityAnswer, MetricsHistory, MetricsView,
    QueueView, ResumeAnswer, Span, StorageView,
};
use enginehouse_core::time::HOUR;
use enginehouse_runtime::Scope;
use http::{HeaderValue, StatusCode};
use serde_json::json;

const WINDOW: QueryParam = QueryParam {
    name: "window",
    description: "How far back, up to metrics.retention_period: milliseconds, or text such as 15m.",
    schema: || json!({"type": "string", "default": "1h", "examples": ["15m", "24h"]}),
    list: false,
};

const DEPTH: QueryParam = QueryParam {
    name: "depth",
    description: "How much of the store is read.",
    schema: || json!({"type": "string", "enum": ["quick", "full"], "default": "quick"}),
    list: false,
};

const CHALLENGE: QueryParam = QueryParam {
    name: "challenge",
    description: "Something the caller made up: 16 to 128 characters of ASCII without spaces.",
    schema: || json!({"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[!-~]+$"}),
    list: false,
};

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/queue",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(queue(call)) },
        operation: Some(Operation {
            answers: &[ok("The queue.", Shape::of::<QueueView>())],
            ..Operation::new("getQueue", Tag::Queue, "Get the queue's statistics")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/metrics",
        access: Access::Scope(Scope::Metrics),
        handler: |call| -> ResponseFuture { Box::pin(metrics(call)) },
        operation: Some(Operation {
            answers: &[ok("The totals and rates.", Shape::of::<MetricsView>())],
            ..Operation::new("getMetrics", Tag::Queue, "Get the totals")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/metrics/history",
        access: Access::Scope(Scope::Metrics),
        handler: |call| -> ResponseFuture { Box::pin(history(call)) },
        operation: Some(Operation {
            description: "As sampled each metrics.collection_interval for the last hour, by the minute for a week, by the hour for metrics.retention_period.",
            query: &[WINDOW],
            answers: &[ok("The figures over time.", Shape::of::<MetricsHistory>())],
            ..Operation::new("getMetricsHistory", Tag::Queue, "Get the figures over time")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/storage",
        access: Access::Scope(Scope::Metrics),
        handler: |call| -> ResponseFuture { Box::pin(storage(call)) },
        operation: Some(Operation {
            answers: &[ok(
                "What is stored, what room it takes, and how long it is kept.",
                Shape::of::<StorageView>(),
            )],
            problems: &[Code::StoreUnavailable],
            ..Operation::new("getStorage", Tag::Service, "Get what is stored and what room it takes")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/alerts",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(alerts(call)) },
        operation: Some(Operation {
            answers: &[ok("What fires, what is about to, and every rule.", Shape::of::<AlertsAnswer>())],
            ..Operation::new("listAlerts", Tag::Service, "List the alerts")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/doctor",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(doctor(call)) },
        operation: Some(Operation {
            description: "Looks at the store, the leases, the engines, the workers, the disk, the keys and the alerts. With depth=full the whole store is read, which takes time.",
            query: &[DEPTH],
            answers: &[ok("What was found, each with what to do.", Shape::of::<DoctorAnswer>())],
            ..Operation::new("getDoctor", Tag::Service, "Look at the whole service")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/resume",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(resume(call)) },
        operation: Some(Operation {
            description: "A store that was restored from a backup is paused: requests are taken and wait with the reason \
                          `paused`, no webhook is sent and nothing is removed. This ends that, for good.",
            answers: &[ok("Whether it was paused.", Shape::of::<ResumeAnswer>())],
            problems: &[Code::StoreUnavailable],
            ..Operation::new("resume", Tag::Service, "Let a restored copy work")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/identity",
        access: Access::Public,
        handler: |call| -> ResponseFuture { Box::pin(identity(call)) },
        operation: Some(Operation {
            description: "For programs that can read the service's data directory: they tell by the proof whether it is \
                          that directory's service that answers, before they send a key.",
            query: &[CHALLENGE],
            answers: &[ok("Who answers.", Shape::of::<IdentityAnswer>())],
            ..Operation::new("getIdentity", Tag::Service, "Find out which service answers")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/metrics",
        access: Access::Scope(Scope::Metrics),
        handler: |call| -> ResponseFuture { Box::pin(exposition(call)) },
        operation: None,
    },
    Route {
        verb: Verb::Get,
        path: "/livez",
        access: Access::Public,
        handler: |call| -> ResponseFuture { Box::pin(live(call)) },
        operation: Some(Operation {
            answers: &[ok("The process answers.", Shape::of::<HealthAnswer>())],
            ..Operation::new("getLive", Tag::Service, "Whether the process lives")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/readyz",
        access: Access::Public,
        handler: |call| -> ResponseFuture { Box::pin(ready(call)) },
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

async fn history(call: Call) -> Result<Response, ApiError> {
    let given = call.query.parsed::<Span>("window")?;
    answer::json(StatusCode::OK, &call.service().metrics_history(given.map_or(HOUR, |span| span.0))?)
}

async fn storage(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().storage().await?)
}

async fn alerts(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().alerts())
}

async fn doctor(call: Call) -> Result<Response, ApiError> {
    let full = match call.query.one("depth") {
        None | Some("quick") => false,
        Some("full") => true,
        Some(_) => return Err(wrong("depth", "must be quick or full")),
    };
    call.change(|service, _| async move { Ok(service.doctor(full).await) }).await
}

async fn resume(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    call.change(|service, caller| async move { service.resume(&caller).await }).await
}

async fn identity(call: Call) -> Result<Response, ApiError> {
    let good =
        |text: &&str| CHALLENGE_CHARS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let Some(challenge) = call.query.one("challenge").filter(good) else {
        return Err(wrong("challenge", "must be 16 to 128 characters of ASCII without spaces"));
    };
    let proof = call.app.identity.as_ref().map(|identity| identity.proof(challenge));
    answer::json(StatusCode::OK, &IdentityAnswer { proof })
}

async fn live(_call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &HealthAnswer { status: "ok".to_owned(), reasons: Vec::new() })
}

async fn ready(call: Call) -> Result<Response, ApiError> {
    if call.app.stop.is_cancelled() {
        return Err(ApiError::new(Code::Stopping, "the service is stopping"));
    }
    call.service().ready()?;
    let mut reasons: Vec<String> = call.service().degraded().into_iter().map(str::to_owned).collect();
    let mut status = if reasons.is_empty() { "ok" } else { "degraded" };
    if call.service().pause_words().is_some() {
        status = "paused";
        reasons.push(status.to_owned());
    }
    answer::json(StatusCode::OK, &HealthAnswer { status: status.to_owned(), reasons })
}
