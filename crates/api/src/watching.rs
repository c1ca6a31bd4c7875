//! The figures over time, and alerts.

use crate::scalar::Timestamp;
use crate::service::Percentiles;
use crate::word::{AlertStateWord, DeliveryStateWord, SeverityWord, VerdictWord};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The service's figures over a window that ends now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsHistory {
    /// Milliseconds that were asked for.
    pub window_ms: u64,
    /// Milliseconds that one sample stands for.
    pub step_ms: u64,
    /// The oldest first, at most 1,000. A time without samples is one in which the service did not run.
    pub samples: Vec<MetricsSample>,
}

/// The figures at one instant, or over the span that ends there: sums as they were at its end, percentiles at their worst,
/// everything else on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSample {
    pub at: Timestamp,
    /// Accepted, completed, failed, cancelled since the store was made.
    pub total_executions: u64,
    pub successful_executions: u64,
    pub failed_executions: u64,
    pub cancelled_executions: u64,
    pub retried_attempts: u64,
    /// Milliseconds, first grant to terminal, since the store was made.
    pub average_execution_time: f64,
    /// All pending.
    pub current_queue_size: f64,
    /// Seconds that the first in line had been due.
    pub oldest_wait_s: f64,
    pub active_workers: f64,
    pub total_workers: f64,
    /// Leases / slots of ready workers, 0 to 1.
    pub system_utilization: f64,
    /// Finished per second over the aggregation window.
    pub throughput: f64,
    /// Failed / (completed + failed) over the aggregation window, 0 to 1.
    pub error_rate: f64,
    /// Milliseconds from due to the first grant, from there to the end, and both together.
    pub queue_wait: Percentiles,
    pub run_time: Percentiles,
    pub end_to_end: Percentiles,
}

/// What the store holds, what room that takes, and what retention does about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageView {
    pub executions: StoredExecutions,
    /// Bytes in use by all of it.
    pub bytes: u64,
    /// Bytes of files that are free: what is stored next uses them, and what is too much goes back to the file system.
    pub reclaimable_bytes: u64,
    /// Bytes of the log of the newest commits, which is bounded by itself.
    pub log_bytes: u64,
    /// Bytes of the feed of commits, which is bounded by itself.
    pub feed_bytes: u64,
    /// Where results lie that are too large for their rows; absent where there is no such place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<BlobsView>,
    /// Bytes that are free on the file system; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// When the oldest of the ended executions ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ended_at: Option<Timestamp>,
    pub retention: RetentionView,
}

/// Results that lie outside of the store's own files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlobsView {
    /// The directory or the URL.
    pub place: String,
    pub count: u64,
    /// Their bytes at rest.
    pub bytes: u64,
    /// Bytes above which a result lies there.
    pub inline_max: u64,
}

/// Executions stored, by status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredExecutions {
    pub pending: u64,
    pub running: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Removed by retention since the store was made.
    pub removed: u64,
}

/// How long what has ended is kept, and what was done about it last on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionView {
    /// Milliseconds after its end for which an execution is kept; absent: forever. Some statuses and engines may have others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// The most ended executions kept; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executions_max: Option<u64>,
    /// The most bytes in use; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// When something was last looked for; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// Executions that were removed then.
    pub last_removed: u64,
    /// Executions that then lost request, result and log, and are remembered a while longer.
    pub last_emptied: u64,
    /// Milliseconds that it took.
    pub last_took_ms: u64,
    /// When the next execution is due by its age; absent: not known yet, or none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due_at: Option<Timestamp>,
}

/// Check and rotate the keys that encrypt payloads, and what of what is stored needs each of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionView {
    /// `ok`, or `failed` when something stored needs a key that is not there.
    #[schema(value_type = VerdictWord)]
    pub verdict: String,
    /// Whether what is stored from now on is encrypted.
    pub encrypts: bool,
    /// Where the seal key comes from, which seals the data keys.
    pub seal_key_source: String,
    /// The ids of the seal keys that are there; the first seals.
    pub seal_keys: Vec<String>,
    /// When the data keys were sealed with it.
    pub sealed_at: Timestamp,
    /// The oldest first; the last seals.
    pub data_keys: Vec<DataKeyView>,
    /// Payloads stored without encryption.
    pub plain: u64,
    /// Payloads of no format that is known.
    pub unknown: u64,
    /// Keys that something stored needs and that are not there.
    pub missing: Vec<MissingKeyView>,
}

/// A data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataKeyView {
    pub id: String,
    pub made_at: Timestamp,
    /// Since when nothing new is sealed with it; absent: it seals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Timestamp>,
    /// Records sealed with it so far, about.
    pub records: u64,
    /// Payloads stored that need it. 0 of a retired key: nothing does.
    pub stored: u64,
}

/// A key that is needed and not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingKeyView {
    pub id: String,
    /// Payloads stored that need it.
    pub stored: u64,
}

/// Webhooks that were not delivered yet, or were given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDeliveriesAnswer {
    /// How many there are.
    pub total: u64,
    /// The oldest thousand of them.
    pub deliveries: Vec<WebhookDeliveryView>,
}

/// One event for one receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDeliveryView {
    /// The `webhook-id` of every attempt.
    pub id: String,
    /// The name of a configured receiver, or `callback` for the execution's own `callbackUrl`.
    pub receiver: String,
    #[serde(rename = "type")]
    pub event_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// `waiting` for its next attempt, or `dead`: given up.
    #[schema(value_type = DeliveryStateWord)]
    pub state: String,
    pub attempts: u32,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// What the last attempt came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// The configured receivers of webhooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookReceiversAnswer {
    /// In the order of their names.
    pub receivers: Vec<WebhookReceiverView>,
}

/// A configured receiver of webhooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookReceiverView {
    pub name: String,
    /// Scheme, host and port of its URL; the path may be a secret.
    pub origin: String,
    /// The types of events it is told; empty: the ends of executions.
    pub events: Vec<String>,
    /// Only executions of these engines, by name; empty: of all.
    pub engines: Vec<String>,
    /// Since when nothing is sent, because its address is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<Timestamp>,
    /// Why it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_because: Option<String>,
    /// Deliveries that wait for it.
    pub waiting: u64,
    /// Deliveries to it that were given up.
    pub dead: u64,
    /// Deliveries that it took.
    pub delivered: u64,
    /// Events that it was not told of, because too many waited while it was paused.
    pub passed_over: u64,
    /// How the last delivery went, if one was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<WebhookLastView>,
}

/// How a delivery went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookLastView {
    pub at: Timestamp,
    /// Its `webhook-id`.
    pub id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// The receiver took it.
    pub delivered: bool,
    /// What came of it, such as `answered 204`.
    pub text: String,
}

/// What came of a test event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookTestView {
    pub receiver: String,
    /// Its `webhook-id`.
    pub id: String,
    /// The receiver answered 2xx.
    pub delivered: bool,
    /// The status of its answer; absent: none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What came of it, in words.
    pub text: String,
    /// The beginning of what it answered, at most a KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    pub took_ms: u64,
}

/// The alerts: what fires, what is about to, and the rules that are watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertsAnswer {
    /// How many fire.
    pub firing: u64,
    /// Those that fire first, then those that are about to.
    pub alerts: Vec<AlertView>,
    /// Every rule with its limits.
    pub rules: Vec<AlertRuleView>,
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertView {
    /// The rule's name.
    pub alert: String,
    /// What it is about, such as an engine; empty: the service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// `warning` or `critical`.
    #[schema(value_type = SeverityWord)]
    pub severity: String,
    /// `pending`: it holds, but not for long enough yet. `firing`.
    #[schema(value_type = AlertStateWord)]
    pub state: String,
    /// Since when it holds.
    pub since: Timestamp,
    /// What is wrong, with its numbers.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

/// A rule that is watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRuleView {
    pub alert: String,
    #[schema(value_type = SeverityWord)]
    pub severity: String,
    pub enabled: bool,
    /// What it watches for.
    pub condition: String,
    /// Milliseconds for which the condition must hold.
    pub for_ms: u64,
    /// Milliseconds for which it must be gone before the alert is over.
    pub recovery_ms: u64,
}

/// What a look at the whole service found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoctorAnswer {
    /// When, by the service's clock.
    pub at: Timestamp,
    /// The worst verdict.
    #[schema(value_type = VerdictWord)]
    pub verdict: String,
    /// One for each thing that was looked at, or several for one in which several things are wrong.
    pub findings: Vec<FindingView>,
    /// What the roles of the node that answers did, by their names; empty while no service runs.
    #[serde(default)]
    pub roles: Vec<RoleView>,
}

/// What one role of a node did since the node started. A role is one duty, such as the timers or retention: a round, then a rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleView {
    pub name: String,
    /// Rounds that ended.
    pub rounds: u64,
    /// Rounds in a row, up to the last one, that failed.
    pub failed_rounds: u64,
    /// How long the round under way has been running, in milliseconds; absent between two rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_ms: Option<u64>,
    /// When the last round ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// How long the last round took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// Why the last round failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last thing that it did beyond looking, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did_at: Option<Timestamp>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    /// What was looked at: `configuration`, `store`, `leases`, `engine`, `workers`, `clock`, `disk`, `keys`, `roles` or `alerts`.
    pub check: String,
    #[schema(value_type = VerdictWord)]
    pub verdict: String,
    pub text: String,
    /// What to do; absent where nothing is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl FindingView {
    #[must_use]
    pub fn ok(check: &str, text: impl Into<String>) -> FindingView {
        FindingView { check: check.to_owned(), verdict: "ok".to_owned(), text: text.into(), remedy: None }
    }

    #[must_use]
    pub fn warning(check: &str, text: impl Into<String>, remedy: impl Into<String>) -> FindingView {
        FindingView {
            verdict: "warning".to_owned(),
            remedy: Some(remedy.into()),
            ..FindingView::ok(check, text)
        }
    }

    #[must_use]
    pub fn failed(check: &str, text: impl Into<String>, remedy: impl Into<String>) -> FindingView {
        FindingView {
            verdict: "failed".to_owned(),
            remedy: Some(remedy.into()),
            ..FindingView::ok(check, text)
        }
    }
}

impl DoctorAnswer {
    /// With the worst verdict of the findings.
    #[must_use]
    pub fn new(at: Timestamp, findings: Vec<FindingView>) -> DoctorAnswer {
        let has = |word: &str| findings.iter().any(|finding| finding.verdict == word);
        let verdict = ["failed", "warning"].into_iter().find(|word| has(word)).unwrap_or("ok");
        DoctorAnswer { at, verdict: verdict.to_owned(), findings, roles: Vec::new() }
    }
}
