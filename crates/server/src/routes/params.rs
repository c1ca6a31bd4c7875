//! Query parameters and answers that several routes share.

use crate::call::LAST_EVENT_ID_BYTES_MAX;
use crate::query::QueryParam;
use crate::table::{Content, HeaderParam, Shape, Success};
use enginehouse_api::{ExecutionView, FailureKindWord, Span, StatusWord, Timestamp};
use enginehouse_core::limits::{LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX};
use serde_json::{Value, json};
use utoipa::PartialSchema;

fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 256})
}

fn time() -> Value {
    json!(Timestamp::schema())
}

const fn filter(name: &'static str, schema: fn() -> Value, description: &'static str) -> QueryParam {
    QueryParam { name, schema, description, list: false }
}

/// The filters of a list, and its paging.
pub(crate) const LIST: &[QueryParam] = &[
    QueryParam {
        name: "status",
        description: "Only these statuses: repeated, or separated by commas.",
        schema: || json!({"type": "array", "items": {"type": "string", "enum": StatusWord::words()}}),
        list: true,
    },
    filter("engine", name, "Only this engine, by name."),
    filter("engineType", name, "Only engines of this type."),
    filter("workflowId", name, "Only this workflow."),
    filter("userId", name, "Only this user."),
    filter("tag", || json!({"type": "string", "minLength": 1, "maxLength": 64}), "Only with this tag."),
    QueryParam {
        name: "failureKind",
        description: "Only where the last failure is of these kinds: repeated, or separated by commas.",
        schema: || json!({"type": "array", "items": {"type": "string", "enum": FailureKindWord::words()}}),
        list: true,
    },
    filter("failureCode", name, "Only where the last failure has this code."),
    filter("since", time, "Created at or after."),
    filter("until", time, "Created before."),
    filter(
        "limit",
        || json!({"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT_DEFAULT}),
        "Executions in one answer.",
    ),
    filter(
        "cursor",
        || json!({"type": "string", "minLength": 1, "maxLength": 1024}),
        "The `nextCursor` of the page before; the filters stay the same.",
    ),
];

/// `?wait=` of a submit.
pub(crate) const WAIT: &[QueryParam] = &[filter(
    "wait",
    || {
        let mut schema = json!(Span::schema());
        schema["description"] = json!("Milliseconds, or text such as \"30s\"; at most 5 minutes.");
        schema["oneOf"][0]["maximum"] = json!(enginehouse_core::limits::SUBMIT_WAIT_MAX);
        schema
    },
    "How long to wait for the end: 201 with the result if it comes in time, else 202. The same submit again waits on: so a key with the scope `submit` alone follows what it submitted, without the result, which takes `read:payload`. Hanging up cancels nothing.",
)];

/// `Last-Event-ID` of a stream.
pub(crate) const LAST_EVENT_ID: &[HeaderParam] = &[HeaderParam {
    name: "Last-Event-ID",
    description: "The id of the last event seen; the stream goes on after it.",
    schema: || json!({"type": "string", "maxLength": LAST_EVENT_ID_BYTES_MAX}),
}];

/// `Idempotency-Key` of a submit.
pub(crate) const IDEMPOTENCY: &[HeaderParam] = &[HeaderParam {
    name: "Idempotency-Key",
    description: "The same key with the same request returns the same execution; it belongs to the API key.",
    schema: || json!({"type": "string", "pattern": "^[!-~]([ -~]{0,1022}[!-~])?$"}),
}];

/// The answer of a route that returns an execution.
pub(crate) const fn execution(status: u16, description: &'static str) -> Success {
    Success { status, description, content: Content::Json(Shape::of::<ExecutionView>()), headers: &[] }
}

/// A JSON answer with status 200.
pub(crate) const fn ok(description: &'static str, shape: Shape) -> Success {
    Success { status: 200, description, content: Content::Json(shape), headers: &[] }
}

/// A JSON answer with status 201.
pub(crate) const fn created(description: &'static str, shape: Shape) -> Success {
    Success { status: 201, ..ok(description, shape) }
}

/// JSON of any shape, with status 200.
pub(crate) const fn any_json(description: &'static str) -> Success {
    Success { status: 200, description, content: Content::AnyJson, headers: &[] }
}

pub(crate) const STREAM: Success =
    Success { status: 200, description: "The stream.", content: Content::EventStream, headers: &[] };

pub(crate) const GONE: Success =
    Success { status: 204, description: "It is gone.", content: Content::Nothing, headers: &[] };

/// The header that names a new execution.
pub(crate) const LOCATION: (&str, &str) = ("Location", "The path of the execution.");
