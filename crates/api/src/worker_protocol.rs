//! The worker protocol, version 1: what a worker elsewhere and its node say to each other over HTTP. docs/WORKERS.md tells
//! how a worker uses it.
//!
//! Every call names the session; every call about an attempt names its lease, which is the execution's id with the fence.
//! A call whose answer was lost is sent again as it was: that changes nothing a second time.

use crate::word::{FailureKindWord, LimitCodeWord, OrderWord, ReachedWord, WorkerEndWord};
use enginehouse_core::exact::ExactJson;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The versions of the protocol that this program speaks, the oldest first.
pub const WORKER_PROTOCOLS: &[u32] = &[1];

/// A worker that wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerRegisterRequest {
    /// The versions of this protocol that the worker speaks; the node takes the newest that it speaks as well.
    #[schema(min_items = 1, max_items = 16)]
    pub protocols: Vec<u32>,
    /// Drawn by the worker for this registration. Sent again, it answers the same session.
    #[schema(min_length = 16, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    pub nonce: String,
    /// What the worker is called; among the workers of a node each name is there once. The node chooses one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub name: Option<String>,
    /// Attempts it runs at once.
    #[schema(minimum = 1, maximum = 1000)]
    pub capacity: u32,
    /// The engines it can call: their configured names, with the type of each. It is given work of those types of which it
    /// has every engine that the node has.
    pub engines: BTreeMap<String, String>,
}

/// The session of a worker that joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRegisterAnswer {
    /// The version both sides speak from here on.
    pub protocol: u32,
    /// Goes into every further call; no one else can guess it.
    pub session: String,
    /// What the worker is called.
    pub worker: String,
    /// The engine types it is given work of.
    pub engine_types: Vec<String>,
    /// Milliseconds without any call after which the worker is lost as a whole, and its work is given to others.
    pub lease_ttl: u64,
    /// Milliseconds after the sending of the last call that was answered, by the worker's own monotonic clock, after which
    /// it must have let go of everything.
    pub let_go_after: u64,
    /// Milliseconds between two renewals.
    pub renew_every: u64,
    /// The longest wait of a pull, in milliseconds.
    pub pull_wait_max: u64,
    /// Milliseconds an engine may take to stop a cancelled run before its call is abandoned.
    pub cancel_grace: u64,
}

/// Asks for orders, and tells which arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerPullRequest {
    #[schema(max_length = 128)]
    pub session: String,
    /// The number of the last order that arrived; 0 at first. Orders after it are sent again.
    pub after: u64,
    /// How long to wait for an order when there is none, in milliseconds; at most `pullWaitMax`, which is also what holds
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
}

/// What the worker is to do, in this order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPullAnswer {
    pub orders: Vec<WorkerOrder>,
    /// The worker is dismissed: it has nothing left to do and goes.
    pub closed: bool,
}

/// One order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerOrder {
    /// Grows by one with each order of the session.
    pub number: u64,
    /// `run`: make an attempt; `cancel`: stop the run in the engine and report; `let_go`: drop the connection, stop nothing,
    /// report nothing; `hand_back`: let go of everything and report it as interrupted.
    #[schema(value_type = OrderWord)]
    pub order: String,
    /// Of `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<WorkerAssignment>,
    /// Of `cancel` and `let_go`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<WorkerLease>,
}

/// The right to one attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerLease {
    #[schema(max_length = 256)]
    pub execution_id: String,
    /// The number that proves that the lease is still the current one.
    pub fence: u64,
}

/// One attempt to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerAssignment {
    pub lease: WorkerLease,
    /// From 1.
    pub attempt: u32,
    /// The same for every attempt that stands for the same run of the engine; visible ASCII and spaces, so that a header can
    /// carry it.
    pub idempotency_key: String,
    /// The W3C `traceparent` to send to the engine with every request of this attempt; absent: nothing is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The configured engine's name.
    pub engine: String,
    pub workflow_id: String,
    /// The request as it was submitted.
    #[schema(value_type = Value)]
    pub request: Box<RawValue>,
    /// Index into the engine's endpoints.
    pub endpoint: u32,
    /// The engine's own id of a run to take up again instead of starting one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_run: Option<String>,
    /// An earlier attempt of this run may have reached the engine.
    pub maybe_started: bool,
    /// What is left of the attempt's time, in milliseconds.
    pub limit: u64,
    /// The code of the timeout that the limit ends in.
    #[schema(value_type = LimitCodeWord)]
    pub limit_code: String,
    /// The longest silence of the engine, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u64>,
}

/// The engine's own id of the run that an attempt follows, to be stored before anything else is asked of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerAttachRequest {
    #[schema(max_length = 128)]
    pub session: String,
    pub lease: WorkerLease,
    #[schema(min_length = 1, max_length = 1024)]
    pub engine_run: String,
    /// A later attempt can take the run up by this id.
    pub can_reattach: bool,
}

/// A renewal: a sign of life, and what the worker believes to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerRenewRequest {
    #[schema(max_length = 128)]
    pub session: String,
    #[schema(max_items = 1000)]
    pub leases: Vec<WorkerLease>,
    /// Bytes of memory that the worker uses, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What has become of the leases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRenewAnswer {
    /// No longer the worker's: it lets go of them.
    pub lost: Vec<WorkerLease>,
    /// Their callers wish them to be cancelled.
    pub cancel: Vec<WorkerLease>,
    /// The worker gets nothing new, and goes when it holds nothing.
    pub draining: bool,
}

/// The end of an attempt.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerReportRequest {
    #[schema(max_length = 128)]
    pub session: String,
    pub lease: WorkerLease,
    pub end: WorkerEnd,
    /// What the attempt logged; the newest 256 KiB are kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub logs: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerEnd {
    /// `interrupted`: the worker gave it up through no fault of the attempt's; it burns nothing.
    #[schema(value_type = WorkerEndWord)]
    pub outcome: String,
    /// Of `succeeded`: any JSON, at most 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Of `succeeded`: the workflow stopped to ask a human.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_input: bool,
    /// Of `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<WorkerFailure>,
    /// Of `failed` and `cancelled`: the engine was told to stop and did not say that it has, so its room stays taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
    /// Of `interrupted`: why, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, pattern = "^[a-z_]+$")]
    pub reason: Option<String>,
}

/// A failure as the worker classified it; what follows from it is decided by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerFailure {
    #[schema(value_type = FailureKindWord)]
    pub kind: String,
    /// A stable word that narrows the kind.
    #[schema(min_length = 1, max_length = 64)]
    pub code: String,
    /// What the engine said; cut at 8 KiB.
    pub message: String,
    /// `no`: the request provably never reached the engine, which burns nothing; `maybe`; `yes`.
    #[schema(value_type = ReachedWord)]
    pub reached: String,
    /// The HTTP status of the engine's answer, or the exit status of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_status: Option<i32>,
    /// When the engine wants to be asked again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Whether it is retried where neither a rule nor the request says so; without it, as its kind is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<bool>,
}

/// Signs of life of attempts; live only, so what is lost is lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerProgressRequest {
    #[schema(max_length = 128)]
    pub session: String,
    #[schema(max_items = 256)]
    pub items: Vec<WorkerProgress>,
}

/// One sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerProgress {
    pub lease: WorkerLease,
    /// 0 to 1 where the engine tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// What the engine said: any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub data: Option<ExactJson>,
}

/// The worker wants to go: it gets nothing new, finishes what it has, and is dismissed by a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerSignoffRequest {
    #[schema(max_length = 128)]
    pub session: String,
    /// How long it may finish what it has, in milliseconds; then it is told to hand the rest back. The node's
    /// `scaling.drain_timeout` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<u64>,
}

/// A small fact that an adapter keeps between runs: stored when there is a value, else asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerFactRequest {
    #[schema(max_length = 128)]
    pub session: String,
    /// The configured engine's name.
    #[schema(max_length = 64)]
    pub engine: String,
    #[schema(min_length = 1, max_length = 256)]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 16000)]
    pub value: Option<String>,
}

/// The fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerFactAnswer {
    /// `null`: nothing is stored under the name.
    #[schema(required)]
    pub value: Option<String>,
}

/// An answer that says no more than that it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerDone {}

/// What a worker process is told on its standard input, in one line. It holds secrets and is never written anywhere.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerBriefing {
    /// The node's base URL.
    pub url: String,
    /// Goes after `Authorization: Bearer`.
    pub token: String,
    /// What the worker is called.
    pub worker: String,
    pub capacity: u32,
    /// The table `engines` of the configuration, in snake_case.
    pub engines: serde_json::Value,
    /// The secrets that the engines name, by their places: `env:NAME` or `file:PATH`.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// The level of log lines on standard error, and whether each is JSON.
    #[serde(default)]
    pub log_level: String,
    #[serde(default)]
    pub log_json: bool,
}
