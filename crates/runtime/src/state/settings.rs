//! Resolved settings: every default filled in, every value checked. Reading them from files is the CLI's business.

mod tracing;
mod webhooks;

pub use tracing::{ExporterSettings, TraceDialect, TracingSettings};
#[cfg(test)]
pub(crate) use webhooks::key_of;
pub use webhooks::{WebhookEndpoint, WebhookPolicy, WebhookSecrets, WebhookSettings};

use super::alerts::{AlertRule, default_alerts};
use crate::blobs::BlobSettings;
use crate::seal::SealSettings;
use enginehouse_core::autoscaler::{Policy, ScalingRules};
use enginehouse_core::balance::BalanceRules;
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::gate::GateRules;
use enginehouse_core::id::NodeId;
use enginehouse_core::limits;
use enginehouse_core::pace::{Rate, RetryBudgetRules};
use enginehouse_core::pools::PoolRules;
use enginehouse_core::queue::Placement;
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::retention::RetentionRules;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{DAY, MINUTE, Millis, SECOND};
use enginehouse_engine::{Engine, EngineFailure};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// Everything a node needs to know beside its store and its engines.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node: NodeId,
    pub workers: WorkerSettings,
    /// Workers are processes of their own, made so; `None`: they are futures of this process.
    pub processes: Option<WorkerProcesses>,
    /// Workers that serve only some engine types, beside those that serve all.
    pub pools: Vec<PoolRules>,
    pub scaling: ScalingSettings,
    pub queue: QueueSettings,
    pub head_starts: HeadStarts,
    pub defaults: ExecutionDefaults,
    /// How long running attempts may go on after a stop was asked for.
    pub stop_grace: Millis,
    /// How long an engine may take to stop a cancelled run before its call is abandoned.
    pub cancel_grace: Millis,
    /// The window of throughput and error rate.
    pub aggregation_window: Millis,
    /// How often figures are sampled.
    pub collection_interval: Millis,
    /// How long the history of the figures reaches back.
    pub metrics_retention: Millis,
    /// What is watched.
    pub alerts: Vec<AlertRule>,
    /// How long what has ended is kept.
    pub retention: RetentionRules,
    /// Who is told of events by HTTP.
    pub webhooks: WebhookSettings,
    /// Where spans of ended executions go.
    pub tracing: TracingSettings,
    /// Where the store lies; its file system is watched. `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// How payloads are sealed.
    pub seal: SealSettings,
    /// Where results go that are too large for their row; `None`: every result lies in its row.
    pub blobs: Option<BlobSettings>,
    /// Results kept in memory for who waits for them or reads them again; 0: none.
    pub result_cache_bytes: usize,
    /// How often each endpoint's health is asked.
    pub health_interval: Millis,
    /// How many executions of one concurrency key may run at once.
    pub concurrency_key_limit: u32,
    /// Seed of ids and jitter for a repeatable run; `None` takes one from the system.
    pub seed: Option<u64>,
    /// Stands around every role of the node, so that a simulation can stall or end it between any two of its steps.
    pub govern: Option<Govern>,
}

type Role = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wraps a role, given with its name, in another future.
#[derive(Clone)]
pub struct Govern(Arc<Wrap>);

type Wrap = dyn Fn(&str, Role) -> Role + Send + Sync;

impl Govern {
    #[must_use]
    pub fn new(wrap: impl Fn(&str, Role) -> Role + Send + Sync + 'static) -> Govern {
        Govern(Arc::new(wrap))
    }

    pub(crate) fn wrap(&self, name: &str, role: Role) -> Role {
        (self.0)(name, role)
    }
}

impl std::fmt::Debug for Govern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Govern")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            node: NodeId(0),
            workers: WorkerSettings::default(),
            processes: None,
            pools: Vec::new(),
            scaling: ScalingSettings::default(),
            queue: QueueSettings::default(),
            head_starts: HeadStarts::default(),
            defaults: ExecutionDefaults::default(),
            stop_grace: limits::STOP_GRACE,
            cancel_grace: limits::CANCEL_GRACE,
            aggregation_window: MINUTE,
            collection_interval: SECOND,
            metrics_retention: DAY,
            alerts: default_alerts(),
            retention: RetentionRules::default(),
            webhooks: WebhookSettings::default(),
            tracing: TracingSettings::default(),
            data_dir: None,
            seal: SealSettings::default(),
            blobs: None,
            result_cache_bytes: limits::RESULT_CACHE_BYTES,
            health_interval: 10 * SECOND,
            concurrency_key_limit: 1,
            seed: None,
            govern: None,
        }
    }
}

/// Which worker gets work, and when one is replaced; how many there are is [`ScalingSettings`]' business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerSettings {
    /// Which of several workers with a free slot gets the next start.
    pub placement: Placement,
    /// A worker this old is replaced; `None`: at no age.
    pub max_age: Option<Millis>,
    /// A worker that ended this many attempts is replaced.
    pub max_executions: Option<u64>,
    /// A worker process that uses this many bytes of memory is replaced.
    pub max_memory_bytes: Option<u64>,
}

/// How worker processes are made: a program that is told everything on its standard input.
#[derive(Debug, Clone)]
pub struct WorkerProcesses {
    /// Started with the argument `worker`.
    pub program: PathBuf,
    /// The table `engines` of the configuration, in snake_case.
    pub engines: serde_json::Value,
    /// What the engines name as secrets, by their places: `env:NAME` or `file:PATH`.
    pub secrets: BTreeMap<String, SecretString>,
    /// The level of log lines, and whether each is JSON.
    pub log_level: String,
    pub log_json: bool,
}

/// How the number of workers is decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScalingSettings {
    /// As configured; an operator may change some of them while the service runs.
    pub rules: ScalingRules,
    /// A policy that is asked as well and shown, and moves nothing.
    pub shadow: Option<Policy>,
    /// Whether the machine's memory and processors are looked at, and hold growth back.
    pub guard_machine: bool,
}

impl ScalingSettings {
    /// This many workers with this many slots each, always.
    #[must_use]
    pub fn fixed(workers: u32, capacity: u32) -> ScalingSettings {
        let rules = ScalingRules {
            min_workers: workers,
            max_workers: workers,
            worker_capacity: capacity,
            ..ScalingRules::default()
        };
        ScalingSettings { rules, ..ScalingSettings::default() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct QueueSettings {
    /// Pending executions beyond which submits answer `queue_full`.
    pub depth_max: u64,
    /// The same for one engine's due executions, and for one user's; `None`: only the total counts.
    pub engine_depth_max: Option<u64>,
    pub user_depth_max: Option<u64>,
    /// Users' shares of the slots' time; 1 where none is given.
    pub user_weights: BTreeMap<String, f64>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings {
            depth_max: 1_000_000,
            engine_depth_max: None,
            user_depth_max: None,
            user_weights: BTreeMap::new(),
        }
    }
}

/// What a request that does not say otherwise gets.
#[derive(Debug, Clone)]
pub struct ExecutionDefaults {
    pub timeout: Millis,
    pub total_timeout: Millis,
    pub idle_timeout: Option<Millis>,
    pub retry: RetryPolicy,
}

impl Default for ExecutionDefaults {
    fn default() -> Self {
        ExecutionDefaults {
            timeout: limits::DEFAULT_TIMEOUT,
            total_timeout: limits::DEFAULT_TOTAL_TIMEOUT,
            idle_timeout: None,
            retry: RetryPolicy::default(),
        }
    }
}

/// One configured engine as the queue and the API see it; how to speak to it is its adapter's business.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    pub name: String,
    pub engine_type: String,
    /// The engine for requests that name only its type.
    pub default: bool,
    pub allow_inline: bool,
    /// Where its API key comes from, in words, such as `the environment variable N8N_KEY`; `None`: it has none.
    pub key_source: Option<String>,
    /// Attempts running at once per endpoint; `None`: bounded by the workers only.
    pub max_concurrency: Option<u32>,
    /// In the order of the adapter's endpoint indexes; at least one.
    pub endpoints: Vec<EndpointSettings>,
    /// Replaces parts of the default retry policy for this engine's work.
    pub retry: Option<RetryPolicy>,
    /// Rules for single failures, above their kinds; the first that matches decides.
    pub retry_rules: Vec<RetryRule>,
    pub retry_budget: RetryBudgetRules,
    pub breaker: BreakerRules,
    /// Attempts started per time; `None`: any number.
    pub rate: Option<Rate>,
    /// Whether each endpoint has an adaptive limit below `max_concurrency`.
    pub adaptive: bool,
    /// How its work is spread over its endpoints.
    pub balance: BalanceRules,
}

impl Default for EngineSettings {
    /// One endpoint without a name, of no type.
    fn default() -> Self {
        EngineSettings {
            name: String::new(),
            engine_type: String::new(),
            default: false,
            allow_inline: false,
            key_source: None,
            max_concurrency: None,
            endpoints: Vec::new(),
            retry: None,
            retry_rules: Vec::new(),
            retry_budget: RetryBudgetRules::default(),
            breaker: BreakerRules::default(),
            rate: None,
            adaptive: true,
            balance: BalanceRules::default(),
        }
    }
}

impl EngineSettings {
    pub(crate) fn gate_rules(&self, all: &Settings) -> GateRules {
        let scaling = &all.scaling.rules;
        GateRules {
            breaker: self.breaker,
            rate: self.rate,
            retry_budget: self.retry_budget,
            adaptive: self.adaptive,
            balance: self.balance,
            max_concurrency: self.max_concurrency,
            slots_max: Some(scaling.max_workers.saturating_mul(scaling.worker_capacity)),
            endpoints: self.endpoints.iter().map(|e| e.name.clone()).collect(),
        }
    }
}

/// Says of failures that look like this whether they are worth another attempt. What is not given matches anything.
#[derive(Debug, Clone)]
pub struct RetryRule {
    pub kind: Option<FailureKind>,
    /// The HTTP status of the engine's answer, or the exit status of a command.
    pub status: Option<i32>,
    pub code: Option<String>,
    /// Found in what the engine said.
    pub message: Option<regex::Regex>,
    pub retry: bool,
}

impl RetryRule {
    pub(crate) fn matches(&self, failure: &EngineFailure) -> bool {
        self.kind.is_none_or(|kind| kind == failure.kind)
            && self.status.is_none_or(|status| Some(status) == failure.engine_status)
            && self.code.as_ref().is_none_or(|code| *code == failure.code)
            && self.message.as_ref().is_none_or(|pattern| pattern.is_match(&failure.message))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSettings {
    /// Its base URL without credentials, or a word for engines without one.
    pub name: String,
    pub weight: f64,
}

/// An engine with its adapter.
#[derive(Clone)]
pub struct RegisteredEngine {
    pub settings: EngineSettings,
    pub adapter: Arc<dyn Engine>,
}
