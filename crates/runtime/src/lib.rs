//! The IO shell around `core`: one role per file, each a struct with `run(self, stop)`.
//!
//! [`Node`] starts and stops the roles; [`Service`] is the application API and the only door: the HTTP server, the
//! CLI's local verbs and the library all call it.

mod ahead;
mod alerts;
mod blobs;
pub mod breakpoints;
mod caller;
mod committer;
mod context;
mod env;
mod figures;
mod gates;
mod health;
mod history;
mod hub;
mod inputs;
mod joined;
mod keyring;
mod link;
mod machine;
mod node;
mod pause;
mod pool;
mod pools;
mod processes;
mod provider;
mod reaper;
mod registry;
mod relay;
mod results;
mod retention;
mod scaler;
mod scheduler;
mod seal;
mod service;
mod sessions;
mod settings;
mod tail;
mod telemetry;
mod timers;
mod tracer;
mod traffic;
mod unreached;
mod watcher;
mod webhooks;
mod workers;

pub use alerts::{ALERTS, AlertRule, AlertSpec, Severity, alerts_markdown, default_alerts};
pub use blobs::{BlobSettings, LargeResult, blobs_beside, copy_blobs};
pub use caller::{Caller, Scope};
pub use keyring::needed_seal_key;
pub use node::Node;
pub use pause::restored_mark;
pub use seal::SealKeySource;
pub use service::{
    Awaited, EventFilter, EventItem, EventStream, EventsFrom, ResultAnswer, Service, Submitted,
};
pub use settings::{
    EndpointSettings, EngineSettings, ExecutionDefaults, Govern, QueueSettings, RegisteredEngine, RetryRule,
    ScalingSettings, SealSettings, Settings, WorkerProcesses, WorkerSettings,
};
pub use telemetry::markdown as metrics_markdown;
pub use tracer::{ExporterSettings, TraceDialect, TracingSettings};
pub use webhooks::{WebhookEndpoint, WebhookPolicy, WebhookSecrets, WebhookSettings, names_private_address};
