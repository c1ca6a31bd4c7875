//! One authenticated request in the hands of its handler.

use crate::app::App;
use crate::query::{Query, wrong};
use crate::{answer, body, json};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use enginehouse_api::{ApiError, Code, Span};
use enginehouse_core::id::ExecutionId;
use enginehouse_core::limits::{IDEMPOTENCY_KEY_CHARS_MAX, REQUEST_BODY_BYTES_MAX, SUBMIT_WAIT_MAX};
use enginehouse_core::trace::TraceContext;
use enginehouse_runtime::{Caller, Service};
use http::request::Parts;
use http::{HeaderName, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The longest id of an event that is looked at.
pub(crate) const LAST_EVENT_ID_BYTES_MAX: usize = 128;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How much longer a large body may take for each MiB.
const LARGE_BODY_MIB_WITHIN: Duration = Duration::from_millis(250);

/// What a handler comes to.
pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) caller: Caller,
    pub(crate) parts: Parts,
    pub(crate) body: Body,
    /// The place of a body above the usual size; kept until its work is stored.
    pub(crate) room: Option<OwnedSemaphorePermit>,
    /// The variable segment of the path, decoded.
    pub(crate) segment: Option<String>,
    pub(crate) query: Query,
}

/// The body of a route that takes none: nothing, or an empty object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Call {
    /// Whether the caller asks for answers of this media type by name.
    pub(crate) fn accepts(&self, media_type: &str) -> bool {
        let mut given = self.parts.headers.get_all(http::header::ACCEPT).iter();
        given.any(|value| value.to_str().is_ok_and(|value| value.contains(media_type)))
    }

    pub(crate) fn service(&self) -> &Service {
        &self.app.service
    }

    /// The name in the path.
    pub(crate) fn segment(&self) -> &str {
        self.segment.as_deref().unwrap_or_default()
    }

    /// The execution's id in the path. What cannot be an id names nothing.
    pub(crate) fn execution_id(&self) -> Result<String, ApiError> {
        match ExecutionId::try_from(self.segment().to_owned()) {
            Ok(id) => Ok(id.into()),
            Err(invalid) => Err(ApiError::new(Code::NotFound, format!("no such execution: {invalid}"))),
        }
    }

    /// Runs a change to its end even when its caller hangs up.
    pub(crate) async fn carry_out<T: Send + 'static, F>(
        &mut self,
        change: impl FnOnce(Service, Caller) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        self.app.to_the_end(change(self.service().clone(), self.caller.clone())).await
    }

    /// The same; what the change came to is the answer.
    pub(crate) async fn change<T: Serialize + Send + 'static, F>(
        mut self,
        change: impl FnOnce(Service, Caller) -> F,
    ) -> Result<Response, ApiError>
    where
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        answer::json(StatusCode::OK, &self.carry_out(change).await?)
    }

    /// The body as a wire type.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let bytes = self.bytes().await?;
        json::decode(&bytes)
    }

    /// The whole body. How much of bodies above the usual size is held at once is bounded, so such a one may have to wait; the
    /// time for its arrival grows with its size.
    async fn bytes(&mut self) -> Result<Bytes, ApiError> {
        let (most, room) = (self.app.body_bytes_max, self.app.large_requests.clone());
        self.bytes_of(most, room).await
    }

    async fn bytes_of(&mut self, most: usize, room: Arc<Semaphore>) -> Result<Bytes, ApiError> {
        let body = std::mem::take(&mut self.body);
        let bytes = body::announced(&body).unwrap_or(most as u64).min(most as u64);
        let mut within = self.app.body_timeout;
        if bytes > REQUEST_BODY_BYTES_MAX as u64 {
            let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
            let room = room.acquire_many_owned(mib).await;
            self.room = Some(room.map_err(|_| ApiError::new(Code::Stopping, "the service is stopping"))?);
            within += LARGE_BODY_MIB_WITHIN * mib;
        }
        body::read_json_of(&self.parts, body, most, within).await
    }

    /// A worker's report, which may be larger and deeper than requests; its place is free when it is decoded.
    pub(crate) async fn report<T: DeserializeOwned>(
        &mut self,
        most: usize,
        depth: usize,
    ) -> Result<T, ApiError> {
        let bytes = self.bytes_of(most, self.app.reports.clone()).await?;
        let decoded = json::decode_of(&bytes, depth);
        self.room = None;
        decoded
    }

    /// The body as a wire type all of whose fields may be absent, and so may the body.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() { Ok(T::default()) } else { json::decode(&bytes) }
    }

    /// Refuses a body that says something where nothing can be said.
    pub(crate) async fn no_body(&mut self) -> Result<(), ApiError> {
        let bytes = self.bytes().await?;
        if !bytes.is_empty() {
            json::decode::<Nothing>(&bytes)?;
        }
        Ok(())
    }

    /// The `Idempotency-Key` header: printable ASCII, inner spaces included.
    pub(crate) fn idempotency_key(&self) -> Result<Option<String>, ApiError> {
        let mut given = self.parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = given.next() else { return Ok(None) };
        let good = (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len())
            && key.as_bytes().iter().all(|b| matches!(b, b' '..=b'~'))
            && given.next().is_none();
        if !good {
            let detail = format!(
                "must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters, and be given once"
            );
            return Err(ApiError::field(Code::InvalidField, "Idempotency-Key:", detail));
        }
        Ok(key.to_str().ok().map(str::to_owned))
    }

    /// The id after which a stream is to go on, if one was given.
    pub(crate) fn last_event_id(&self) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.parts.headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let text = value.to_str().ok().filter(|text| text.len() <= LAST_EVENT_ID_BYTES_MAX);
        let unknown = || ApiError::new(Code::EventGone, "Last-Event-ID is not an id this service gave");
        text.map(Some).ok_or_else(unknown)
    }

    /// The caller's trace. What is not as the standard says is passed over, as the standard asks.
    pub(crate) fn traceparent(&self) -> Option<String> {
        let mut given = self.parts.headers.get_all(TRACEPARENT).iter();
        let text = given.next()?.to_str().ok()?;
        (given.next().is_none() && TraceContext::parse(text).is_some()).then(|| text.to_owned())
    }

    /// `?wait=`: how long the answer to a submit may wait for the end.
    pub(crate) fn wait(&self) -> Result<Option<Duration>, ApiError> {
        match self.query.parsed::<Span>("wait")? {
            Some(Span(ms)) if ms > SUBMIT_WAIT_MAX => {
                Err(wrong("wait", format!("must be at most {} s", SUBMIT_WAIT_MAX / 1_000)))
            }
            span => Ok(span.map(|Span(ms)| Duration::from_millis(ms))),
        }
    }
}
