//! Submitting, reading and steering executions.

use crate::object::{list, optional};
use crate::scalar::{PriorityName, Span, Timestamp};
use crate::word::{
    BlockerWord, FailureKindWord, OutcomeWord, PriorityWord, StatusWord, WaitReasonWord, schema,
};
use enginehouse_core::exact::ExactJson;
use enginehouse_core::execution::Status;
use enginehouse_core::id::ExecutionId;
use enginehouse_core::limits::{TAG_CHARS_MAX, TAGS_MAX};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// What a caller asks for. Only `engineType` or `engine`, and `workflowId` or `workflow.definition`, are required.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SubmitRequest {
    /// Your own unique id; the same id with the same request returns the same execution. The words of [`RESERVED_IDS`]
    /// are part of the API's own paths and cannot be ids. Any text of 1 to 256 bytes without control characters, line breaks and
    /// surrounding spaces, of which no part between slashes is `.` or `..`; it is compared byte by byte, and percent-encoded in
    /// paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = caller_id)]
    pub id: Option<String>,
    /// The engine's own id of the workflow; a label when `workflow.definition` is given. At most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub workflow_id: Option<String>,
    /// A workflow carried in the request; needs the scope `submit:inline` and an engine that allows it.
    #[serde(deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub workflow: Option<InlineWorkflow>,
    /// `langflow`, `n8n`, `langsmith` (or `langgraph`), `http`, `command`, `demo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, example = "demo")]
    pub engine_type: Option<String>,
    /// A configured engine's name; wins over `engineType`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub engine: Option<String>,
    /// Handed to the workflow: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub parameters: Option<Box<RawValue>>,
    /// What this engine type takes beside the parameters, such as `recursionLimit` of an Agent Server; docs/ENGINES.md lists them.
    /// An option that the engine does not know is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    pub engine_options: Option<Box<RawValue>>,
    /// Default `NORMAL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<PriorityName>,
    /// One attempt. Default 1 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// All attempts and waits together. Default 7 d.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<Span>,
    /// Must be started within this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Span>,
    /// The longest silence of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// Shorthand for `retry.maxRetries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub max_retries: Option<u32>,
    #[serde(deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRequest>,
    /// Whom it belongs to: a label for fair shares and filters, not an identity. A key may pin it. At most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub user_id: Option<String>,
    /// Executions with the same key do not run at the same time (unless the service is configured otherwise).
    /// At most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub concurrency_key: Option<String>,
    /// The engine's conversation (Langflow's session, the Agent Server's thread); each execution has its own without it.
    /// At most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub session_id: Option<String>,
    /// Never repeat what may have reached the engine; forces `maxRetries` 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most_once: Option<bool>,
    /// Fail instead of waiting while the engine is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_fast: Option<bool>,
    /// The trace that it belongs to, as W3C `traceparent`; the header of that name says the same for a whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$", max_length = 512)]
    pub traceparent: Option<String>,
    /// Labels to filter by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = tags)]
    pub tags: Vec<String>,
    /// Kept with the execution and given back; never sent to the engine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub metadata: BTreeMap<String, Box<RawValue>>,
    /// Where a signed webhook is sent to when the execution has ended: `http` or `https`, at most 2,048 bytes. Needs a
    /// service that has `[callbacks]` configured, or it is answered with `not_supported`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// Accepted and given back as `clientCreatedAt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
}

/// Ids a request may not choose, because they name collections under `/v1/executions/`.
pub const RESERVED_IDS: [&str; 3] = ["batch", "cancel", "redrive"];

/// The text of an id; that it has at most 256 bytes is more than a schema can say.
const ID_PATTERN: &str = r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\s\u0000-\u001f\u007f-\u009f])?$";

fn caller_id() -> RefOr<Schema> {
    let mut id = id_schema();
    id["type"] = json!(["string", "null"]);
    schema(id)
}

/// An id as JSON Schema says it.
#[must_use]
pub fn id_schema() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": ExecutionId::BYTES_MAX,
        "pattern": ID_PATTERN,
        "not": {"pattern": r"(^|[/\\])\.{1,2}([/\\]|$)"},
    })
}

fn tags() -> RefOr<Schema> {
    schema(json!({
        "type": "array",
        "maxItems": TAGS_MAX,
        "items": {"type": "string", "minLength": 1, "maxLength": TAG_CHARS_MAX},
    }))
}

/// A workflow carried in the request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InlineWorkflow {
    /// What to call it in the engine. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub name: Option<String>,
    /// The engine's own format, an object; an empty one counts as absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    pub definition: Option<Box<RawValue>>,
}

/// What a request changes of the retry policy; absent fields keep their default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryRequest {
    /// Attempts beyond the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub max_retries: Option<u32>,
    /// Bound of the first back-off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// How the bound grows with each retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub factor: Option<f64>,
    /// Ceiling of the bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Span>,
    /// Failure kinds retried beside the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<FailureKindWord>, max_items = 14)]
    pub on: Vec<String>,
    /// Failure kinds never retried; wins over `on`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<FailureKindWord>, max_items = 14)]
    pub not_on: Vec<String>,
}

/// Several executions submitted together.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchRequest {
    /// 1 to 1,000; stored all or none.
    #[schema(min_items = 1, max_items = 1000)]
    #[serde(deserialize_with = "list")]
    pub executions: Vec<SubmitRequest>,
}

/// What became of each item of a batch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    /// In the order of the request.
    pub executions: Vec<BatchItem>,
}

/// One item of a batch answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchItem {
    pub id: String,
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// The same request was accepted earlier; nothing new was stored for it.
    #[serde(default)]
    #[schema(required)]
    pub replayed: bool,
}

/// One execution as callers see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionView {
    pub id: String,
    /// `pending`, `running`, `completed`, `failed`, `cancelled`.
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// Grows with each redrive, from 1.
    pub generation: u32,
    /// The engine's own id of the workflow, or the label of an inline one.
    pub workflow_id: String,
    pub engine_type: String,
    pub engine: String,
    /// URL or index of the endpoint of the current or last attempt.
    #[schema(required)]
    pub endpoint: Option<String>,
    #[schema(value_type = PriorityWord)]
    pub priority: PriorityName,
    #[schema(required)]
    pub user_id: Option<String>,
    pub tags: Vec<String>,
    /// Only with the scope `read:payload`, and not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    pub metadata: Option<BTreeMap<String, Box<RawValue>>>,
    /// Attempts begun, over all generations. It may pass `maxRetries + 1`: not every attempt counts, see `attemptsCounted`.
    pub attempt: u32,
    /// Attempts of this generation that reported an end, of which there are at most `maxRetries + 1`. What was interrupted, was
    /// refused before it reached the engine, or was taken up again does not count.
    #[serde(default)]
    pub attempts_counted: u32,
    /// Attempts beyond the first that may report a failure before it counts.
    pub max_retries: u32,
    pub created_at: Timestamp,
    /// The `createdAt` of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_created_at: Option<Timestamp>,
    /// Not before this time: as asked for, or the end of the current back-off.
    pub ready_at: Timestamp,
    /// The first grant of this generation.
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// Who runs it, or ran it last.
    #[schema(required)]
    pub worker: Option<String>,
    /// The engine's own id of the current or last run.
    #[schema(required)]
    pub engine_run_id: Option<String>,
    /// A cancel was asked for and the engine is being told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<Timestamp>,
    /// Why it is not running yet; only while pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitView>,
    /// Why it failed, or why its last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureView>,
    /// The workflow stopped to ask a human, or at a breakpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_input: bool,
    /// It ended (cancelled, timed out, its end never learned) without the engine's word on its run: the engine may still be
    /// running it. Told already while it is being cancelled, where its engine cannot stop runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
    /// Paths of what belongs to it, by name.
    pub links: BTreeMap<String, String>,
    /// Only in the answer to a submit with `?wait=` that ended in time, and only with the scope `read:payload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
}

/// Why a pending execution is not running yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitView {
    /// One word of the closed list of wait reasons.
    #[schema(value_type = WaitReasonWord)]
    pub reason: String,
    /// When it came to wait for this.
    pub since: Timestamp,
    /// When that may change, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How many stand before it in its lane, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// How long until it starts, by what runs now and how long that takes; absent where nothing is known, as for a paused engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<EtaView>,
    /// What would have to end or change, at most a few of each.
    pub blockers: Vec<BlockerView>,
    /// The reason as a sentence, for people.
    pub text: String,
}

/// From now, in milliseconds: nine of ten starts should lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EtaView {
    pub low: u64,
    /// `null`: it may take any time.
    #[schema(required)]
    pub high: Option<u64>,
}

/// Something that stands in the way of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockerView {
    #[schema(value_type = BlockerWord)]
    pub kind: String,
    /// The execution's id, or the name of the endpoint or engine; absent for `slots`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is wrong with it, for people.
    pub text: String,
}

/// How an attempt, or the execution, failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureView {
    #[schema(value_type = FailureKindWord)]
    pub kind: String,
    /// A word that narrows the kind, such as `attempt_timeout`.
    pub code: String,
    /// What the engine said; payload, so only with the scope `read:payload`.
    pub message: String,
    /// The kind is one that is worth another attempt under this execution's policy.
    pub retryable: bool,
    /// The attempt that failed.
    pub attempt: u32,
    /// The engine's HTTP status, or a program's exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_status: Option<i32>,
}

/// One page of a list, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListAnswer {
    pub executions: Vec<ExecutionView>,
    /// Ask again with this; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// The filters of lists and bulk verbs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FilterRequest {
    /// One status, or several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<StatusWord>, max_items = 5)]
    pub status: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub engine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub engine_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub workflow_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub tag: Option<String>,
    /// Kinds of the last failure, one or several. What waits for its next attempt has one, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<FailureKindWord>, max_items = 14)]
    pub failure_kind: Vec<String>,
    /// The code of the last failure, such as `attempt_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub failure_code: Option<String>,
    /// Created at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Created before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Which executions a bulk verb changes: a non-empty `filter`, or `all: true`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BulkRequest {
    /// At least one condition, unless `all` is true.
    #[serde(deserialize_with = "optional")]
    pub filter: Option<FilterRequest>,
    /// Every execution the verb applies to.
    pub all: bool,
    /// Count only, change nothing.
    pub dry_run: bool,
    /// Where an earlier call stopped.
    pub cursor: Option<String>,
}

/// What one call of a bulk verb did; at most 10,000 executions are looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkAnswer {
    /// How many the filter found among those looked at.
    pub matched: u64,
    /// How many of them changed; 0 in a dry run.
    pub changed: u64,
    /// Call again with this; `null` when all were seen.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// How a finished execution ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultView {
    pub id: String,
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// What the workflow gave: any JSON; `null` unless it completed.
    #[schema(value_type = Option<Value>, required)]
    pub result: Option<Box<RawValue>>,
    #[schema(required)]
    pub failure: Option<FailureView>,
    /// The workflow stopped to ask a human, or at a breakpoint: `result` is what it had by then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_input: bool,
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// It ended without the engine's word on its run: the engine may still be running it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
}

/// The attempts of one execution, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptsAnswer {
    pub attempts: Vec<AttemptView>,
}

/// One try of an execution by one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    /// Its number, from 1.
    pub attempt: u32,
    #[schema(required)]
    pub worker: Option<String>,
    #[schema(required)]
    pub endpoint: Option<String>,
    /// The engine's own id of the run.
    #[schema(required)]
    pub engine_run_id: Option<String>,
    /// It took up a run the engine already had.
    pub reattached: bool,
    pub started_at: Timestamp,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `failed`, `cancelled`, `lost`, `interrupted`, `refused`; `null` while it runs.
    #[schema(value_type = Option<OutcomeWord>, required)]
    pub outcome: Option<String>,
    #[schema(required)]
    pub failure: Option<FailureView>,
    /// It was given up without the engine's word: the engine may still be running it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
}

/// What the attempts of one execution logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogsAnswer {
    pub id: String,
    /// The last 256 KiB of what its attempts logged.
    pub logs: String,
}

/// The `data` of an SSE frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// The execution's id; empty for what belongs to none.
    pub id: String,
    /// 1..n without gaps per execution; absent for live items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u32>,
    /// The event's name, the same as the frame's `event`.
    #[serde(rename = "type")]
    pub kind: String,
    pub at: Timestamp,
    /// The attempt it belongs to; 0 before the first.
    pub attempt: u32,
    /// The execution's engine by name, and its status after the event; only in the service's stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What the event says beside its type, never payload, but for `progress`: `{"fraction": 0.5, "data": ...}`, each where the
    /// engine told it. Its `data` is what the engine says of its run, whatever that is, with every digit of its numbers;
    /// payload, so only with the scope `read:payload`. Progress is live only and stored nowhere.
    #[schema(value_type = Value)]
    pub data: ExactJson,
}

/// What can be changed of a pending execution.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchRequest {
    pub priority: PriorityName,
}
