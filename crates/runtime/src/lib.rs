//! The IO shell around `core`: roles, each a [`Role`](role::Role) that one driver runs, and the committer beside them.
//!
//! [`Node`] starts and stops the roles; [`Service`] is the application API and the only door: the HTTP server, the
//! CLI's local verbs and the library all call it.
//!
//! The rooms stand on floors, and a room uses only rooms below its own:
//!
//! ```text
//! node                         starts, supervises and stops everything
//! watch  webhooks              outward: figures, alerts, traces; deliveries
//! service                      every verb of the application API
//! commit  scaling  upkeep      the only writer; how many workers; what time brings
//! workers                      from their launch to their end
//! state                        what all of them share; knows no role
//! blobs                        large results as objects
//! seal  machine  role          the ground, with breakpoints
//! ```
//!
//! `cargo xtask tidy` holds the list of who may use whom.

mod blobs;
pub mod breakpoints;
mod commit;
mod machine;
mod node;
mod role;
mod scaling;
mod seal;
mod service;
mod state;
mod upkeep;
mod watch;
mod webhooks;
mod workers;

pub use blobs::{BlobSettings, blobs_beside, copy_blobs};
pub use node::Node;
pub use seal::{SealKeySource, SealSettings, needed_seal_key};
pub use service::caller::{Caller, Scope};
pub use service::{
    Awaited, EventFilter, EventItem, EventStream, EventsFrom, ResultAnswer, Service, Submitted,
};
pub use state::alerts::{ALERTS, AlertRule, AlertSpec, Severity, alerts_markdown, default_alerts};
pub use state::large_results::LargeResult;
pub use state::pause::restored_mark;
pub use state::settings::{
    EndpointSettings, EngineSettings, ExecutionDefaults, ExporterSettings, Govern, QueueSettings,
    RegisteredEngine, RetryRule, ScalingSettings, Settings, TraceDialect, TracingSettings, WebhookEndpoint,
    WebhookPolicy, WebhookSecrets, WebhookSettings, WorkerProcesses, WorkerSettings,
};
pub use state::telemetry::markdown as metrics_markdown;
pub use webhooks::names_private_address;
