//! The OpenAPI document and the pages for people; all of them come from the binary and work offline.

use super::params::any_json;
use crate::answer;
use crate::call::{Call, ResponseFuture};
use crate::table::{Access, Operation, Route, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code, errors_html};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION};
use http::{HeaderValue, StatusCode};
use std::sync::Arc;
use utoipa_swagger_ui::{Config, SwaggerFile};

/// Pages load nothing from elsewhere and cannot be framed.
const PAGE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(crate) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/openapi.json",
        access: Access::Public,
        handler: |call| -> ResponseFuture { Box::pin(openapi(call)) },
        operation: Some(Operation {
            answers: &[any_json("This document.")],
            ..Operation::new("getOpenApi", Tag::Service, "Get the OpenAPI document")
        }),
    },
    page("/docs", |call| Box::pin(to_docs(call))),
    page("/docs/", |call| Box::pin(docs(call))),
    page("/docs/errors", |call| Box::pin(errors(call))),
    page("/docs/{file}", |call| Box::pin(docs(call))),
];

const fn page(path: &'static str, handler: fn(Call) -> ResponseFuture) -> Route {
    Route { verb: Verb::Get, path, access: Access::Public, handler, operation: None }
}

async fn openapi(call: Call) -> Result<Response, ApiError> {
    let document = call.app.openapi.clone();
    Ok(answer::full(StatusCode::OK, HeaderValue::from_static("application/json"), document))
}

async fn to_docs(_call: Call) -> Result<Response, ApiError> {
    let mut response =
        answer::full(StatusCode::PERMANENT_REDIRECT, HeaderValue::from_static("text/plain"), "");
    // Relative, so that it also leads right behind a proxy that puts a path in front.
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("docs/"));
    Ok(response)
}

async fn errors(_call: Call) -> Result<Response, ApiError> {
    Ok(html(answer::full(
        StatusCode::OK,
        HeaderValue::from_static("text/html; charset=utf-8"),
        errors_html(),
    )))
}

async fn docs(call: Call) -> Result<Response, ApiError> {
    let config = Config::from("../openapi.json").validator_url("none").try_it_out_enabled(true);
    let file = utoipa_swagger_ui::serve(call.segment(), Arc::new(config)).map_err(|error| {
        tracing::error!(%error, "a page of the documentation cannot be made");
        ApiError::new(Code::Internal, "the page could not be made")
    })?;
    let Some(SwaggerFile { bytes, content_type, .. }) = file else {
        return Err(ApiError::new(Code::RouteNotFound, "no such page"));
    };
    let content_type =
        HeaderValue::from_str(&content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    Ok(html(answer::full(StatusCode::OK, content_type, bytes.into_owned())))
}

fn html(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
