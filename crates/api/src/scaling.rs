//! How many workers there are, why, and by which rules.

use crate::scalar::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the auto-scaler goes by, what it sees and what it wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingView {
    /// Workers that should be ready or starting.
    pub target: u32,
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub busy_slots: u32,
    /// Slots of ready workers.
    pub slots: u32,
    /// The rules in force.
    pub rules: ScalingRulesView,
    /// What an operator changed of the configured rules; `null`: nothing.
    #[schema(required)]
    pub changed: Option<ScalingChanged>,
    /// From a launch until the worker takes work, as learned, in milliseconds.
    pub startup_time_ms: u64,
    /// The newest decision, also one to do nothing; `null` before the first, and on a node that does not schedule.
    #[schema(required)]
    pub decision: Option<ScalingDecisionView>,
    /// What the shadow policy would do now; `null` without one. It moves nothing.
    #[schema(required)]
    pub shadow: Option<ScalingDecisionView>,
}

/// The rules of the auto-scaler; docs/CONFIG.md tells what each means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRulesView {
    pub policy: PolicyWord,
    /// The policy that is asked as well and moves nothing.
    #[schema(required)]
    pub shadow: Option<PolicyWord>,
    pub min_workers: u32,
    pub max_workers: u32,
    pub worker_capacity: u32,
    pub target_utilization: f64,
    pub scale_up_threshold: f64,
    pub scale_down_threshold: f64,
    pub scale_up_cooldown: Span,
    pub scale_down_cooldown: Span,
    pub worker_startup_time: Span,
    pub slo_wait: Span,
    pub late_cost: f64,
    pub tick_interval: Span,
    pub retention: Span,
    pub tolerance: f64,
    pub predict: PredictWord,
}

/// How the number of workers is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyWord {
    /// By the slots expected to be in use when a worker launched now becomes useful.
    LeadTime,
    /// By utilization alone.
    Threshold,
}

/// What is done with demand that comes back after a fixed period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredictWord {
    On,
    Shadow,
    Off,
}

/// Rules to put in the place of the configured ones. What is absent is as configured, also what an earlier change said: an
/// empty change goes back to the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScalingRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<PolicyWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1024)]
    pub min_workers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1024)]
    pub max_workers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up_threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down_threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up_cooldown: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down_cooldown: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo_wait: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict: Option<PredictWord>,
    /// Reason, recorded with the change. 1 to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub reason: Option<String>,
    /// Back to the configuration after this time; until told otherwise when absent.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

/// A change of the rules that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingChanged {
    pub rules: ScalingRequest,
    /// The API key that asked for it, by its id.
    #[schema(required)]
    pub by: Option<String>,
    pub since: Timestamp,
    /// Back to the configuration from then on; `null`: until told otherwise.
    #[schema(required)]
    pub until: Option<Timestamp>,
}

/// Decisions, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecisionsAnswer {
    pub decisions: Vec<ScalingDecisionView>,
}

/// One decision with everything it was made on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecisionView {
    /// Absent of a decision that is not kept, such as the one to do nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub at: Timestamp,
    pub policy: PolicyWord,
    /// `scale_up`, `scale_down` or `no_action`.
    pub action: String,
    pub target_worker_count: u32,
    /// Workers ready or starting when it was made.
    pub current_worker_count: u32,
    /// In one sentence.
    pub reason: String,
    /// The rule that gave the target its value, such as `waiting`, `forecast`, `ceiling`, `tolerance`, `guard_memory`.
    pub rule: String,
    /// The probability, by the policy's own forecast, that no one finds the pool full when the decision takes effect.
    pub confidence: f64,
    pub inputs: ScalingInputs,
    /// What the shadow policy said at the same instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowView>,
    /// What came of it; `null` until that is known.
    #[schema(required)]
    pub outcome: Option<ScalingOutcome>,
}

/// What another policy would have done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShadowView {
    pub policy: PolicyWord,
    pub action: String,
    pub target_worker_count: u32,
    pub reason: String,
}

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingOutcome {
    /// Milliseconds until the pool had its target; `null`: a later decision came first.
    #[schema(required)]
    pub reached_after_ms: Option<u64>,
    /// Workers launched, launches that failed, and workers that went meanwhile.
    pub launched: u32,
    pub failed: u32,
    pub stopped: u32,
}

/// The numbers a decision was made on. Spans are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingInputs {
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub busy_slots: u32,
    pub queued: u32,
    pub oldest_wait_s: f64,
    /// Busy slots of ready workers over their slots, 0 to 1.
    pub utilization: f64,
    /// Slots expected to be in use at the forecast's instant, and the variance of that number.
    pub expected: f64,
    pub variance: f64,
    /// Slots wanted with headroom, and the workers computed from them before retention and bounds.
    pub want: f64,
    pub computed: u32,
    /// Arrivals per second over all engines, and the mean load they make, in slots.
    pub lambda: f64,
    pub load: f64,
    /// How far ahead the forecast looks, or how long a job may simply wait; one of them is 0.
    pub lead_s: f64,
    pub slack_s: f64,
    pub startup_s: f64,
    /// Slots that recurring demand will need, as announced.
    pub recurring: f64,
    /// Scheduled executions that come due while a worker would start.
    pub due_soon: u32,
    /// Workers that are worth holding for bursts; 0: none beyond `minWorkers`.
    #[serde(default)]
    pub standby: u32,
    /// Over about the last 20 minutes: late jobs that these would have prevented.
    #[serde(default)]
    pub standby_saves: f64,
    /// Over the same time: what these would have cost, in seconds of one worker.
    #[serde(default)]
    pub standby_costs_s: f64,
    /// The most workers that memory and processors allow; `null`: they allow all.
    #[schema(required)]
    pub guard: Option<u32>,
    pub engines: Vec<EngineInputs>,
}

/// One engine's part in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineInputs {
    pub name: String,
    pub running: u32,
    pub queued: u32,
    /// Queued executions that the engine would take in time; the others are no demand.
    pub admissible: u32,
    /// Attempts at once; `null`: bounded by the workers only.
    #[schema(required)]
    pub limit: Option<u32>,
    pub speed: f64,
    pub parked: bool,
    pub lambda: f64,
    pub mean_run_s: f64,
    pub expected: f64,
}
