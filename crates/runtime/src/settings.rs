//! Resolved settings: every default filled in, every value checked. Reading them from files is the CLI's business.

use enginehouse_core::id::NodeId;
use enginehouse_core::limits;
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{MINUTE, Millis, SECOND};
use enginehouse_engine::Engine;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything a node needs to know beside its store and its engines.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node: NodeId,
    pub workers: WorkerSettings,
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
    /// Where the generated seal key lies; made at the first start, mode 0600. `None`: a key in memory only.
    pub seal_key_file: Option<PathBuf>,
    /// How often each endpoint's health is asked.
    pub health_interval: Millis,
    /// How many executions of one concurrency key may run at once.
    pub concurrency_key_limit: u32,
    /// Seed of ids and jitter for a repeatable run; `None` takes one from the system.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            node: NodeId(0),
            workers: WorkerSettings::default(),
            queue: QueueSettings::default(),
            head_starts: HeadStarts::default(),
            defaults: ExecutionDefaults::default(),
            stop_grace: limits::STOP_GRACE,
            cancel_grace: limits::CANCEL_GRACE,
            aggregation_window: MINUTE,
            collection_interval: SECOND,
            seal_key_file: None,
            health_interval: 10 * SECOND,
            concurrency_key_limit: 1,
            seed: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSettings {
    pub count: u32,
    /// Slots of each.
    pub capacity: u32,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        WorkerSettings { count: 2, capacity: 10 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// Pending executions beyond which submits answer `queue_full`.
    pub depth_max: u64,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings { depth_max: 1_000_000 }
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
    /// Attempts running at once per endpoint; `None`: bounded by the workers only.
    pub max_concurrency: Option<u32>,
    /// In the order of the adapter's endpoint indexes; at least one.
    pub endpoints: Vec<EndpointSettings>,
    /// Replaces parts of the default retry policy for this engine's work.
    pub retry: Option<RetryPolicy>,
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
