//! Routes about API keys.

use super::params::{GONE, created, ok};
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code, KeyCreated, KeyRequest, KeysAnswer};
use enginehouse_runtime::Scope;
use http::StatusCode;

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/keys",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(list(call)) },
        operation: Some(Operation {
            answers: &[ok("The keys, without their secrets.", Shape::of::<KeysAnswer>())],
            ..Operation::new("listKeys", Tag::Keys, "List API keys")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/keys",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(create(call)) },
        operation: Some(Operation {
            description: "The answer is the only one that ever carries the secret.",
            body: Some(Shape::of::<KeyRequest>()),
            answers: &[created("The key with its secret.", Shape::of::<KeyCreated>())],
            problems: &[Code::NotSupported, Code::StoreFull],
            ..Operation::new("createKey", Tag::Keys, "Make an API key")
        }),
    },
    Route {
        verb: Verb::Delete,
        path: "/v1/keys/{id}",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(delete(call)) },
        operation: Some(Operation {
            answers: &[GONE],
            problems: &[Code::StoreFull],
            ..Operation::new("deleteKey", Tag::Keys, "Delete an API key")
        }),
    },
];

async fn list(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().keys().await?)
}

async fn create(mut call: Call) -> Result<Response, ApiError> {
    let request: KeyRequest = call.json().await?;
    let key =
        call.carry_out(|service, caller| async move { service.create_key(&caller, request).await }).await?;
    answer::json(StatusCode::CREATED, &key)
}

async fn delete(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    let id = call.segment().to_owned();
    let deleted =
        call.carry_out(|service, caller| async move { service.delete_key(&caller, &id).await }).await;
    call.app.auth.forget();
    deleted?;
    Ok(answer::nothing())
}
