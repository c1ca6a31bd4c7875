//! From the table to a router, and what surrounds every request: its id, its limits, and the promise that whatever
//! happens inside is answered as a problem.

use crate::answer::{finish, problem};
use crate::app::App;
use crate::call::{Call, ResponseFuture};
use crate::query::Query;
use crate::request_id::RequestId;
use crate::table::{Access, Route, Verb};
use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::limits::{REQUEST_TARGET_BYTES_MAX, SUBMIT_WAIT_MAX};
use enginehouse_core::time::SECOND;
use enginehouse_runtime::Caller;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tower::ServiceExt;

/// A router that knows every route of `routes` and answers everything else with a problem.
pub(crate) fn router(app: &Arc<App>, routes: impl Iterator<Item = &'static Route>) -> Router {
    let mut router = Router::new();
    for route in routes {
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Put => MethodFilter::PUT,
            Verb::Patch => MethodFilter::PATCH,
            Verb::Delete => MethodFilter::DELETE,
        };
        let app = Arc::clone(app);
        let handler = move |params: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            answer(Arc::clone(&app), route, params, request)
        };
        router = router.route(route.path, on(filter, handler));
    }
    router
        .fallback(|request: Request| async move {
            refuse(&request, &ApiError::new(Code::RouteNotFound, "no route has this path"))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let detail = format!("this path does not take {}", request.method());
            refuse(&request, &ApiError::new(Code::MethodNotAllowed, detail))
        })
}

fn refuse(request: &Request, error: &ApiError) -> Response {
    match request.extensions().get::<RequestId>() {
        Some(id) => problem(error, id),
        None => unreachable!("every request is given an id before it is routed"),
    }
}

/// Answers one request, whatever it is.
pub(crate) async fn serve(app: Arc<App>, router: Router, request: Request) -> Response {
    let id = app.request_ids.of(request.headers());
    let origin = app.origins.of(request.headers()).cloned();
    let mut response = match app.origins.preflight(request.method(), request.headers()) {
        Some(answer) => answer,
        None => routed(router, request, &id).await,
    };
    app.origins.finish(origin, response.headers_mut());
    finished(response, &id)
}

async fn routed(router: Router, mut request: Request, id: &RequestId) -> Response {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > REQUEST_TARGET_BYTES_MAX {
        let error = ApiError::new(Code::UriTooLong, format!("the request target has {target} bytes"));
        return problem(&error, id);
    }
    request.extensions_mut().insert(id.clone());
    let Ok(response) = router.oneshot(request).await;
    response
}

fn finished(mut response: Response, id: &RequestId) -> Response {
    finish(response.headers_mut(), id);
    response
}

async fn answer(
    app: Arc<App>,
    route: &'static Route,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Response {
    let id = match request.extensions().get::<RequestId>() {
        Some(id) => id.clone(),
        None => unreachable!("every request is given an id before it is routed"),
    };
    // What a handler shares with others is behind locks that a panic cannot leave half changed.
    let outcome = AssertUnwindSafe(run(app, route, params, request)).catch_unwind().await;
    let error = match outcome {
        Ok(Ok(response)) => return response,
        Ok(Err(error)) => error,
        Err(_) => {
            tracing::error!(request_id = id.as_str(), route = route.path, "a request handler panicked");
            ApiError::new(Code::Internal, "the service failed; its log has more under the request id")
        }
    };
    if error.code == Code::Internal {
        tracing::error!(request_id = id.as_str(), route = route.path, %error, "a request failed");
    }
    problem(&error, &id)
}

async fn run(
    app: Arc<App>,
    route: &'static Route,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let caller = match route.access {
        Access::Public => Caller::anonymous(),
        Access::Scope(scope) => app.auth.caller(&app.service, &parts, scope).await?,
    };
    let params = params.map_err(|_| ApiError::new(Code::NotFound, "the path is not UTF-8"))?;
    let segment = params.iter().next().map(|(_, value)| value.to_owned());
    let query = match &route.operation {
        Some(operation) => Query::read(parts.uri.query(), operation.query)?,
        None => Query::default(),
    };
    let limit = match query.one("wait") {
        Some(_) => app.request_timeout + Duration::from_millis(SUBMIT_WAIT_MAX),
        None => app.request_timeout,
    };
    let call = Call { app, caller, parts, body, room: None, segment, query };
    let answer: ResponseFuture = (route.handler)(call);
    timeout(limit, answer).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {} s; the outcome is unknown", limit.as_secs_f32());
        Err(ApiError::new(Code::StoreUnavailable, detail).retry_after(SECOND))
    })
}
