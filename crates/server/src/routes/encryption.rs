//! The keys that payloads are sealed with.

use super::params::ok;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Shape, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code, EncryptionView};
use enginehouse_runtime::Scope;
use http::StatusCode;

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/v1/encryption",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(check(call)) },
        operation: Some(Operation {
            description: "Reads how every stored payload begins, which takes time in a large store.",
            answers: &[ok("The keys and what needs them.", Shape::of::<EncryptionView>())],
            problems: &[Code::StoreUnavailable],
            ..Operation::new("getEncryption", Tag::Service, "Count what is stored by the key it needs")
        }),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/encryption/rotate",
        access: Access::Scope(Scope::Admin),
        handler: |call| -> ResponseFuture { Box::pin(rotate(call)) },
        operation: Some(Operation {
            description: "Reads the seal keys again, seals the data keys with the first of them, and lets a new data key seal from here on. What is stored opens as before.",
            answers: &[ok("The keys and what needs them.", Shape::of::<EncryptionView>())],
            problems: &[Code::KeyMissing, Code::KeyUnusable, Code::KeyRingFull, Code::StoreUnavailable],
            ..Operation::new("rotateEncryption", Tag::Service, "Let a new key seal")
        }),
    },
];

async fn check(call: Call) -> Result<Response, ApiError> {
    answer::json(StatusCode::OK, &call.service().encryption().await?)
}

async fn rotate(mut call: Call) -> Result<Response, ApiError> {
    call.no_body().await?;
    call.change(|service, _| async move { service.rotate_encryption().await }).await
}
