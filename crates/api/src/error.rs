//! One table of public error codes: each with its HTTP status and what to do about it. docs/ERRORS.md is made from it.

use crate::word::schema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $title:literal $help:literal;)*) => {
        /// A stable error code. A code never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $name),* }

        impl Code {
            /// Every code, by HTTP status.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code as it travels.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Code::$name => $text),* } }

            /// The HTTP status it is answered with.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Code::$name => $status),* } }

            /// What happened, the same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Code::$name => $title),* } }

            /// What the caller can do.
            #[must_use]
            pub fn help(self) -> &'static str { match self { $(Code::$name => $help),* } }

            /// The code that travels as `text`.
            #[must_use]
            pub fn parse(text: &str) -> Option<Code> { match text { $($text => Some(Code::$name),)* _ => None } }
        }
    };
}

codes! {
    InvalidJson "invalid_json" 400 "The body is not valid JSON" "Send UTF-8 JSON; the detail names the place.";
    InvalidField "invalid_field" 400 "A field has an invalid value" "Correct the fields listed under errors.";
    UnknownField "unknown_field" 400 "A field is not known" "Remove or correct the fields listed under errors.";
    NotSupported "not_supported" 400 "The field belongs to a feature that is not available" "Leave the field out.";
    TooDeep "too_deep" 400 "The JSON is nested too deeply" "Flatten it to at most 64 levels.";
    UnknownEngine "unknown_engine" 400 "No such engine is configured" "Use a name or type listed by GET /v1/engines.";
    EngineAmbiguous "engine_ambiguous" 400 "Several engines of that type and none is the default" "Name one with \"engine\", or mark one default in the configuration.";
    InvalidCursor "invalid_cursor" 400 "The cursor does not belong to this list" "Start again without a cursor; keep the filters the same while paging.";
    InlineNotAllowed "inline_not_allowed" 403 "This engine takes no inline definitions" "Set allow_inline for the engine, or name a workflow it has.";
    Unauthorized "unauthorized" 401 "No valid API key" "Send Authorization: Bearer KEY.";
    Forbidden "forbidden" 403 "The API key lacks a scope" "Use a key with the scope named in the detail.";
    NotFound "not_found" 404 "No such resource" "Check the id.";
    RouteNotFound "route_not_found" 404 "No such route" "See /docs or /openapi.json.";
    MethodNotAllowed "method_not_allowed" 405 "The route does not take this method" "See the Allow header.";
    NotFinished "not_finished" 409 "The execution is not finished" "Ask again later, or submit with ?wait=.";
    AlreadyFinished "already_finished" 409 "The execution is already finished" "Nothing is left to cancel.";
    NotPending "not_pending" 409 "The execution is not pending" "Only pending work can be changed so.";
    NotRedrivable "not_redrivable" 409 "Only failed or cancelled executions can be redriven" "Use replay to run a finished one again.";
    IdConflict "id_conflict" 409 "The id belongs to a different request" "Use a new id, or send the same request.";
    KeyRingFull "key_ring_full" 409 "The key ring is full" "The newest data key goes on sealing.";
    StaleLease "stale_lease" 409 "The lease is no longer the current one" "Drop the attempt.";
    SessionUnknown "session_unknown" 409 "The worker's session is not known, or has ended" "Let go of everything, then register again.";
    ProtocolUnsupported "protocol_unsupported" 409 "The versions of the worker protocol do not fit" "Use a worker of a version that the detail names.";
    NameTaken "name_taken" 409 "A worker of that name is there" "Choose another name, or try again when the other has gone.";
    ResultGone "result_gone" 410 "The result was removed" "Its retention has passed.";
    EventGone "event_gone" 410 "The event to resume from is not there any more" "Start the stream again without Last-Event-ID.";
    RequestTimeout "request_timeout" 408 "The request did not arrive in time" "Send the whole body without long pauses.";
    BodyTooLarge "body_too_large" 413 "The body is too large" "Send at most `server.body_max_mib` (4 MiB unless configured), or raise it.";
    UriTooLong "uri_too_long" 414 "The request target is too long" "Send filters that fit in 8 KiB.";
    UnsupportedMediaType "unsupported_media_type" 415 "The content type is not JSON" "Send Content-Type: application/json.";
    RangeNotSatisfiable "range_not_satisfiable" 416 "The range lies beyond the end" "Ask for a part that is there; the detail tells the size.";
    QueueFull "queue_full" 429 "The queue is full" "Try again after the time in Retry-After.";
    RateLimited "rate_limited" 429 "Too many requests" "Try again after the time in Retry-After.";
    PayloadDamaged "payload_damaged" 500 "Something stored was tampered with or damaged" "Restore it from a backup; the detail names the key that sealed it.";
    Internal "internal" 500 "The service failed" "Report it with the request id.";
    Stopping "stopping" 503 "The service is stopping" "Try again after the time in Retry-After.";
    StoreUnavailable "store_unavailable" 503 "The store did not answer; the outcome is unknown" "Try again with the same id.";
    KeyMissing "key_missing" 503 "A key is missing" "Put the key that the detail names back where the seal key comes from, then start again.";
    KeyUnusable "key_unusable" 503 "The seal key cannot be had" "Mend the place that the detail names.";
    NotReady "not_ready" 503 "The service is not ready" "Try again shortly.";
    StoreFull "store_full" 507 "The store's disk is full" "Free disk space; reads still work.";
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let words: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        schema(
            json!({"type": "string", "description": "A stable error code; /docs/errors explains each.", "enum": words}),
        )
    }
}

impl ToSchema for Code {}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Code::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("unknown code {text:?}")))
    }
}

/// An RFC 9457 problem, the body of every error answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URI reference of the code's description.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference")]
    pub kind: String,
    /// What happened, the same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    pub code: Code,
    /// The fields at fault, where fields are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The `x-request-id` of the answer, to be named in a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// RFC 6901 JSON pointer into the body; a query parameter is `?name`, a header `Name:`.
    pub pointer: String,
    pub code: Code,
    pub detail: String,
}

/// An error a caller can act upon: what every service verb returns.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct ApiError {
    pub code: Code,
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// When trying again makes sense, in milliseconds.
    pub retry_after: Option<u64>,
}

impl ApiError {
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> ApiError {
        ApiError { code, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// One invalid field, named by its JSON pointer.
    #[must_use]
    pub fn field(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> ApiError {
        let (pointer, detail) = (pointer.into(), detail.into());
        let errors = vec![FieldError { pointer: pointer.clone(), code, detail: detail.clone() }];
        ApiError { code, detail: format!("{pointer}: {detail}"), errors, retry_after: None }
    }

    #[must_use]
    pub fn retry_after(self, ms: u64) -> ApiError {
        ApiError { retry_after: Some(ms), ..self }
    }

    /// The same error, for an item of a batch: every pointer gets `prefix` in front.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> ApiError {
        for error in &mut self.errors {
            error.pointer.insert_str(0, prefix);
        }
        self
    }

    #[must_use]
    pub fn problem(&self, request_id: Option<String>) -> Problem {
        Problem {
            kind: format!("/docs/errors#{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: self.code.status(),
            detail: self.detail.clone(),
            code: self.code,
            errors: self.errors.clone(),
            request_id,
        }
    }
}
