//! Engines, workers, the queue, metrics and keys.

use crate::scalar::{Span, Timestamp};
use crate::word::{BreakerStateWord, LimitModeWord, LimitWhyWord, ScopeWord, WorkerStatusWord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The configured engines, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnginesAnswer {
    pub engines: Vec<EngineView>,
}

/// One configured engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineView {
    pub name: String,
    pub engine_type: String,
    /// The engine for requests that name only its type.
    pub default: bool,
    /// Nothing more is started on it; what runs goes on.
    pub paused: bool,
    /// It takes definitions carried in the request.
    pub allow_inline: bool,
    pub capabilities: CapabilitiesView,
    pub endpoints: Vec<EndpointView>,
    /// Executions pending and running on it.
    pub pending: u64,
    pub running: u64,
    /// Retries that may start now; beyond them retries wait for successes.
    pub retries_left: f64,
}

/// What an engine's adapter can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapabilitiesView {
    /// A run can be stopped in the engine.
    pub cancel: bool,
    /// A later attempt can take up a run the engine already has.
    pub reattach: bool,
    /// A repeated start with the same key starts nothing new.
    pub idempotent_submit: bool,
    /// Definitions can be carried in the request.
    pub inline: bool,
    /// Progress is reported while a run goes on.
    pub progress: bool,
}

/// One base URL of an engine, or its only place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Its base URL, or its place for engines without one.
    pub name: String,
    /// Its share of the engine's work, relative to the other endpoints.
    pub weight: f64,
    /// Attempts running at once; `null`: bounded by the workers only.
    #[schema(required)]
    pub max_concurrency: Option<u32>,
    /// Attempts running on it now.
    pub running: u64,
    /// What keeps its work from a failing endpoint.
    pub breaker: BreakerView,
    /// How many attempts it is given at once.
    pub limit: LimitView,
    /// What the engine's work is spread over its endpoints by.
    pub balance: BalanceView,
    /// The last health check; `null` before the first.
    #[schema(required)]
    pub health: Option<HealthView>,
}

/// What is known of an endpoint when it is compared with the engine's others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BalanceView {
    /// What an attempt there takes, in milliseconds: the geometric mean of those answered recently; `null`: not known.
    #[schema(required)]
    pub run_ms: Option<f64>,
    /// The share of its recent attempts that found it unwell, 0 to 1.
    pub unwell_share: f64,
    /// It is far worse than the others and gets nothing new until then; `null`: it gets its share.
    #[schema(required)]
    pub ejected_until: Option<Timestamp>,
}

/// The circuit breaker of an endpoint. While it is open the endpoint's work waits with the reason `parked` and burns no
/// attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// `closed`, `open`, or `half_open`: one attempt finds out whether the endpoint is back.
    #[schema(value_type = BreakerStateWord)]
    pub state: String,
    /// When the state last changed; `null`: never.
    #[schema(required)]
    pub since: Option<Timestamp>,
    /// When the endpoint is looked at again.
    #[schema(required)]
    pub next_probe: Option<Timestamp>,
    /// Counted failures, and attempts ended, within the monitoring period.
    pub failures: u32,
    pub calls: u32,
    /// After a recovery: how many attempts the present group lets start; `null`: nothing is held back.
    #[schema(required)]
    pub releasing: Option<u32>,
    /// An operator's word, which stands above what is measured.
    #[schema(required)]
    pub forced: Option<ForcedView>,
}

/// Why and by whom a breaker was forced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForcedView {
    pub reason: String,
    /// The API key that asked for it, by its id.
    #[schema(required)]
    pub by: Option<String>,
    pub since: Timestamp,
    /// Back to measuring from then on; `null`: until told otherwise.
    #[schema(required)]
    pub until: Option<Timestamp>,
}

/// The concurrency limit in force at an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitView {
    /// The least of what is configured and what was learned; `null`: bounded by the workers only.
    #[schema(required)]
    pub current: Option<u32>,
    /// Whether it may go below what is configured.
    pub adaptive: bool,
    /// `open`: nothing was learned against more; `cut`: it is slow, and fewer are tried out; `hold`: more was too much; `external`: it
    /// is slow whatever the concurrency.
    #[schema(value_type = LimitModeWord)]
    pub mode: String,
    /// How fast it works compared with what it showed while it was well, 1 being as fast.
    pub speed: f64,
    /// The endpoint asked to be left alone until then.
    #[schema(required)]
    pub frozen_until: Option<Timestamp>,
    /// Why `current` is what it is; `null` where nothing bounds it and nothing is wrong.
    #[schema(required, value_type = Option<LimitWhyWord>)]
    pub why: Option<String>,
    /// The same as a sentence, for people: who decided it, since when, on what evidence, what it has cost.
    #[schema(required)]
    pub text: Option<String>,
    /// How to change it.
    #[schema(required)]
    pub remedy: Option<String>,
    /// The account of an adaptive limit; `null` where none is in force.
    #[schema(required)]
    pub adapted: Option<AdaptedView>,
}

/// An adaptive limit in force: what lowered it and what it has cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdaptedView {
    /// Since when there has been such a limit without a break.
    pub since: Timestamp,
    /// When it was last lowered, from what, and to what.
    pub lowered_at: Timestamp,
    /// `null`: no adaptive limit, so what is configured was in force.
    #[schema(required)]
    pub before: Option<u32>,
    pub after: u32,
    /// What was completed before it was lowered, compared with what usually is, 1 being as much; `null` where it was lowered
    /// because the engine answered that it is too much.
    #[schema(required)]
    pub speed: Option<f64>,
    /// What a mean run took then; `null` also where none ended.
    #[schema(required)]
    pub run_ms: Option<f64>,
    /// What one takes while nothing is wrong.
    #[schema(required)]
    pub usual_run_ms: Option<f64>,
    /// Due executions that only this limit keeps from starting: their engine would take them, and there are worker slots for
    /// them or may be.
    pub held_back: u64,
    /// Seconds that executions waited for it in this way since `since`, all of them together.
    pub waited_s: f64,
}

/// What is to become of a breaker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakerRequest {
    /// `open`: nothing starts; `closed`: work starts whatever fails; `auto`: by what is measured.
    pub state: BreakerWord,
    /// One endpoint, by name; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 2048)]
    pub endpoint: Option<String>,
    /// Reason, recorded with the change. 1 to 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    pub reason: String,
    /// Back to `auto` after this time.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

/// What an operator says of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BreakerWord {
    Open,
    Closed,
    Auto,
}

/// What an endpoint answered when its health was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    /// `null` where it cannot be asked: there is no health route for the service, or none is to be used. Its work says how it is.
    pub healthy: Option<bool>,
    /// What it said, or why it could not be asked.
    pub detail: String,
    pub latency_ms: u64,
    pub checked_at: Timestamp,
}

/// The answer to `POST /v1/engines/{name}/test`: every endpoint asked just now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineTest {
    pub name: String,
    /// No endpoint said that it is not.
    pub healthy: bool,
    pub endpoints: Vec<EndpointView>,
}

/// The workers, by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkersAnswer {
    pub workers: Vec<WorkerView>,
    /// `null` if no instant between two batches was found in time.
    #[schema(required)]
    pub slots: Option<SlotsView>,
}

/// The slots of the workers at one instant. `inUse` (counted by the scheduler) and `leases` (counted by the workers' leases) must
/// be equal; the audit alert fires if they differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotsView {
    /// Slots of the workers that take work.
    pub open: u64,
    /// Slots in use, as the scheduler counts them.
    pub in_use: u64,
    /// Executions that run on these workers under a lease.
    pub leases: u64,
}

/// How a worker is sent away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainRequest {
    /// How long it may finish what it runs; what still runs then is handed back and burns nothing. The configured
    /// `scaling.drain_timeout` when absent; 0 hands back at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Reason, recorded with the change. At most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub reason: Option<String>,
}

/// Why a worker takes nothing new, and when what it still runs is handed back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainView {
    /// `scale_down`, `replaced`, `operator`, `signed_off` (the worker asked for it) or `stopping`.
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

/// A unit of capacity: what it serves and what it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    pub id: String,
    /// Where it runs: `in_process`, `process` (a child of its node) or `remote`.
    pub provider: String,
    /// Attempts it can run at once.
    pub capacity: u32,
    /// Empty: it serves all.
    pub engine_types: Vec<String>,
    /// `starting`: it takes no work yet; `idle`; `busy`; `overloaded`: every slot is in use; `unhealthy`: silent for too
    /// long; `draining`: it finishes what it has; `offline`: it is gone and what it held is being given back.
    #[schema(value_type = WorkerStatusWord)]
    pub status: String,
    /// Slots in use / capacity, 0 to 1.
    pub current_load: f64,
    pub last_heartbeat: Timestamp,
    /// Ids of what it runs.
    pub active_executions: Vec<String>,
    /// Attempts ended since it started.
    pub total_executions: u64,
    /// Those of them that failed.
    pub failed_executions: u64,
    /// Milliseconds of one attempt.
    pub average_execution_time: f64,
    /// Bytes of memory, of a worker that is a process of its own.
    #[schema(required)]
    pub memory_bytes: Option<u64>,
    /// Why it takes nothing new; `null`: it does.
    #[schema(required)]
    pub drain: Option<DrainView>,
    /// The process it belongs to.
    pub node: u16,
    pub started_at: Timestamp,
}

/// The eight queue statistics, and where the backlog stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueView {
    /// Accepted since the store was made.
    pub total_queued: u64,
    /// Completed, failed or cancelled since then.
    pub total_processed: u64,
    pub total_failed: u64,
    /// Pending now, due or not.
    pub current_queue_size: u64,
    /// Running now.
    pub active_executions: u64,
    /// Milliseconds from the first grant to the end.
    pub average_processing_time: f64,
    /// Milliseconds from due to the first grant.
    pub average_wait_time: f64,
    /// Finished per second over the aggregation window.
    pub throughput: f64,
    /// When the oldest due execution became due.
    #[schema(required)]
    pub oldest: Option<Timestamp>,
    /// Of the waits from due to the first grant.
    pub wait_percentiles: Percentiles,
    /// Due executions by engine name.
    pub by_engine: BTreeMap<String, u64>,
    /// Due executions by priority.
    pub by_priority: BTreeMap<String, u64>,
    /// Pending executions by wait reason; of more than 2,000 the newest 2,000. What nothing holds is not counted.
    pub by_wait_reason: BTreeMap<String, u64>,
}

/// Milliseconds; 0 when nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// The service's totals and rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsView {
    /// Accepted, completed, failed, cancelled since the store was made.
    pub total_executions: u64,
    pub successful_executions: u64,
    pub failed_executions: u64,
    pub cancelled_executions: u64,
    pub retried_attempts: u64,
    /// Milliseconds, first grant to terminal.
    pub average_execution_time: f64,
    /// All pending.
    pub current_queue_size: u64,
    pub active_workers: u64,
    pub total_workers: u64,
    /// Leases / slots of ready workers, 0 to 1.
    pub system_utilization: f64,
    /// Finished per second over the aggregation window.
    pub throughput: f64,
    /// Failed / (completed + failed) over the aggregation window, 0 to 1.
    pub error_rate: f64,
    /// From due to the first grant.
    pub queue_wait: Percentiles,
    /// From the first grant to the end.
    pub run_time: Percentiles,
    /// From due to the end.
    #[serde(default)]
    pub end_to_end: Percentiles,
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRequest {
    /// What it is for, for people. At most 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    pub name: String,
    /// Any of `submit submit:inline read read:payload cancel worker metrics admin`.
    #[schema(value_type = Vec<ScopeWord>, min_items = 1, max_items = 8)]
    pub scopes: Vec<String>,
    /// Everything submitted with it belongs to this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub user_id: Option<String>,
    /// From then on it is refused; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A new key; the only answer that ever carries its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCreated {
    #[serde(flatten)]
    pub key: KeyView,
    /// What goes after `Authorization: Bearer`; it is not stored and cannot be shown again.
    pub secret: String,
}

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyView {
    pub id: String,
    pub name: String,
    #[schema(value_type = Vec<ScopeWord>)]
    pub scopes: Vec<String>,
    /// Everything submitted with it belongs to this user.
    #[schema(required)]
    pub user_id: Option<String>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
}

/// The API keys, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeysAnswer {
    pub keys: Vec<KeyView>,
}

/// The answer of `/livez`, and of `/readyz` when new work is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthAnswer {
    /// `ok`; `degraded`: work is taken, and something critical is wrong; `paused`: work is taken, and none is started until
    /// `POST /v1/resume`.
    pub status: String,
    /// The alerts that make it degraded, and `paused`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// The answer to `GET /identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityAnswer {
    /// HMAC-SHA256 of `enginehouse identity`, a line feed and the challenge, in hexadecimal, keyed with the second line of the
    /// file `address` in the service's data directory; `null`: the service has no such file.
    #[schema(required)]
    pub proof: Option<String>,
}

/// The answer to `POST /v1/resume`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeAnswer {
    /// False: it was not paused.
    pub resumed: bool,
}
