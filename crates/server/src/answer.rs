//! Answers: JSON, and problems.

use crate::request_id::{RequestId, X_REQUEST_ID};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use enginehouse_api::{ApiError, Code};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// A JSON answer.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Result<Response, ApiError> {
    let bytes = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        ApiError::new(Code::Internal, "the answer could not be written")
    })?;
    Ok(full(status, HeaderValue::from_static("application/json"), bytes))
}

/// An answer with a body of a known size.
pub(crate) fn full(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The answer of what went well and has nothing to say.
pub(crate) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The answer to everything that is not a success.
pub(crate) fn problem(error: &ApiError, id: &RequestId) -> Response {
    let body = error.problem(Some(id.as_str().to_owned()));
    // A problem is text and numbers only, which can always be written.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = full(status, HeaderValue::from_static("application/problem+json"), bytes);
    let headers = response.headers_mut();
    if let Some(ms) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
    }
    if error.code == Code::Unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"enginehouse\""));
    }
    response
}

/// What every answer carries.
pub(crate) fn finish(headers: &mut HeaderMap, id: &RequestId) {
    headers.insert(X_REQUEST_ID, id.header());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
