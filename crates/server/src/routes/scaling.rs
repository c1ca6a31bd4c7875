//! Routes about the number of workers.

use super::params::ok;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::query::{QueryParam, wrong};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code, ScalingDecisionsAnswer, ScalingRequest, ScalingView};
use enginehouse_core::limits::DECISIONS_MAX;
use enginehouse_runtime::Scope;
use http::StatusCode;
use serde_json::json;

const DECISIONS_DEFAULT: usize = 50;

const LIMIT: QueryParam = QueryParam {
    name: "limit",
    description: "Decisions in one answer.",
    schema: || json!({"type": "integer", "minimum": 1, "maximum": DECISIONS_MAX, "default": DECISIONS_DEFAULT}),
    list: false,
};

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/scaling",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(get(call)) },
        operation: Some(Operation {
            description: "The newest decision says with all its inputs why there are as many workers as there are, also when it is to do nothing.",
            answers: &[ok(
                "The rules in force, the workers, and the newest decision.",
                Shape::of::<ScalingView>(),
            )],
            ..Operation::new("getScaling", Tag::Workers, "Get the scaling and why it is so")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/scaling/decisions",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(decisions(call)) },
        operation: Some(Operation {
            description: "Decisions that changed the number of workers, or that held growth back, with what came of them.",
            query: &[LIMIT],
            answers: &[ok("The decisions, the newest first.", Shape::of::<ScalingDecisionsAnswer>())],
            problems: &[Code::StoreUnavailable],
            ..Operation::new("listScalingDecisions", Tag::Workers, "List scaling decisions")
        }),
    },
    Route {
        verb: Verb::Put,
        path: "/v1/scaling",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(set(call)) },
        operation: Some(Operation {
            description: "Puts rules in the place of the configured ones, at once and without a restart. What is absent is as configured; an empty change goes back to the configuration.",
            body: Some(Shape::of::<ScalingRequest>()),
            answers: &[ok("The scaling as it is with the new rules.", Shape::of::<ScalingView>())],
            problems: &[Code::StoreFull],
            ..Operation::new("setScaling", Tag::Workers, "Change the scaling rules")
        }),
    },
];

async fn get(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().scaling())
}

async fn decisions(call: Call) -> Result<Response, ApiError> {
    let given = call.query.parsed::<usize>("limit").map_err(|_| wrong("limit", "must be an integer"))?;
    let limit = given.unwrap_or(DECISIONS_DEFAULT);
    if !(1..=DECISIONS_MAX).contains(&limit) {
        return Err(wrong("limit", format!("must be 1 to {DECISIONS_MAX}")));
    }
    answer::json(StatusCode::OK, &call.service().scaling_decisions(limit).await?)
}

async fn set(mut call: Call) -> Result<Response, ApiError> {
    let request: ScalingRequest = call.json_or_default().await?;
    call.change(|service, caller| async move { service.set_scaling(&caller, request).await }).await
}
