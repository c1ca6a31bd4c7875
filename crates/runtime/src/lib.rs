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
mod dedicated;
mod env;
mod figures;
mod gates;
mod health;
mod history;
mod hub;
mod inputs;
mod joined;
mod keyring;
mod large_results;
mod link;
mod machine;
mod node;
mod operator_words;
mod pause;
mod payloads;
mod planned;
mod pool;
mod port;
mod ports;
mod processes;
mod provider;
mod reaper;
mod registry;
mod relay;
mod results;
mod retention;
mod scaler;
mod scaling;
mod scaling_change;
mod scheduler;
mod seal;
mod service;
mod sessions;
mod settings;
mod sweeper;
mod tail;
mod telemetry;
mod timers;
mod tracer;
mod traffic;
mod unreached;
mod wanted;
mod watcher;
mod webhooks;

pub use alerts::{ALERTS, AlertRule, AlertSpec, Severity, alerts_markdown, default_alerts};
pub use blobs::{BlobSettings, blobs_beside, copy_blobs};
pub use caller::{Caller, Scope};
pub use large_results::LargeResult;
pub use node::Node;
pub use pause::restored_mark;
pub use seal::{SealKeySource, SealSettings, needed_seal_key};
pub use service::{
    Awaited, EventFilter, EventItem, EventStream, EventsFrom, ResultAnswer, Service, Submitted,
};
pub use settings::{
    EndpointSettings, EngineSettings, ExecutionDefaults, ExporterSettings, Govern, QueueSettings,
    RegisteredEngine, RetryRule, ScalingSettings, Settings, TraceDialect, TracingSettings, WebhookEndpoint,
    WebhookPolicy, WebhookSecrets, WebhookSettings, WorkerProcesses, WorkerSettings,
};
pub use telemetry::markdown as metrics_markdown;
pub use webhooks::names_private_address;
