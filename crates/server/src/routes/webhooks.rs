//! The receivers of webhooks and their deliveries.

use super::params::{GONE, ok};
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::query::{QueryParam, wrong};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{
    ApiError, Code, DeliveryStateWord, WebhookDeliveriesAnswer, WebhookDeliveryView, WebhookReceiversAnswer,
    WebhookTestView,
};
use enginehouse_runtime::Scope;
use http::StatusCode;
use serde_json::json;

const STATE: &[QueryParam] = &[QueryParam {
    name: "state",
    description: "Only those that wait for their next attempt, or only dead letters.",
    schema: || json!({"type": "string", "enum": DeliveryStateWord::words()}),
    list: false,
}];

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/webhooks/receivers",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(receivers(call)) },
        operation: Some(Operation {
            description: "What each is told of, how its last delivery went, and whether it is paused because its address is \
                          refused.",
            answers: &[ok("The configured receivers.", Shape::of::<WebhookReceiversAnswer>())],
            problems: &[Code::StoreUnavailable],
            ..Operation::new("listWebhookReceivers", Tag::Service, "List the receivers of webhooks")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/webhooks/receivers/{name}/test",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(test(call)) },
        operation: Some(Operation {
            description: "Sends one event of the type `webhook_test`, signed as every other, and waits up to 30 s for the answer. \
                          A paused receiver that takes it is told at once what waits for it.",
            answers: &[ok("What came back.", Shape::of::<WebhookTestView>())],
            problems: &[Code::NotFound],
            ..Operation::new("testWebhook", Tag::Service, "Send a test event to a receiver of webhooks")
        }),
    },
    Route {
        verb: Verb::Get,
        path: "/v1/webhooks/deliveries",
        access: Access::Scope(Scope::Read),
        handler: |call| -> ResponseFuture { Box::pin(list(call)) },
        operation: Some(Operation {
            query: STATE,
            answers: &[ok(
                "Those not delivered yet, the oldest first.",
                Shape::of::<WebhookDeliveriesAnswer>(),
            )],
            problems: &[Code::StoreUnavailable],
            ..Operation::new(
                "listWebhookDeliveries",
                Tag::Service,
                "List webhooks that were not delivered yet",
            )
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/webhooks/deliveries/{id}/replay",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(replay(call)) },
        operation: Some(Operation {
            description: "It is tried at once, as if it never had been, under the same `webhook-id`.",
            answers: &[ok("The delivery.", Shape::of::<WebhookDeliveryView>())],
            problems: &[Code::NotFound, Code::StoreUnavailable],
            ..Operation::new("replayWebhook", Tag::Service, "Deliver a webhook again")
        }),
    },
    Route {
        verb: Verb::Delete,
        path: "/v1/webhooks/deliveries/{id}",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(discard(call)) },
        operation: Some(Operation {
            answers: &[GONE],
            problems: &[Code::NotFound, Code::StoreUnavailable],
            ..Operation::new("discardWebhook", Tag::Service, "Give a webhook up for good")
        }),
    },
];

async fn receivers(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().webhook_receivers().await?)
}

async fn test(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    answer::json(StatusCode::OK, &call.service().test_webhook(call.segment()).await?)
}

async fn list(call: Call) -> Result<Response, ApiError> {
    let dead = match call.query.one("state") {
        None => None,
        Some("waiting") => Some(false),
        Some("dead") => Some(true),
        Some(_) => return Err(wrong("state", "must be waiting or dead")),
    };
    answer::json(StatusCode::OK, &call.service().webhook_deliveries(dead).await?)
}

async fn replay(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    let id = call.segment().to_owned();
    call.change(|service, _| async move { service.replay_webhook(&id).await }).await
}

async fn discard(mut call: Call) -> Result<Response, ApiError> {
    let id = call.segment().to_owned();
    call.carry_out(|service, _| async move { service.discard_webhook(&id).await }).await?;
    Ok(answer::nothing())
}
