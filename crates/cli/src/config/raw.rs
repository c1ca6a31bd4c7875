//! The configuration as it is written: every section by its name. docs/CONFIG.md is printed from here.
//!
//! What the keys of a section are, and what they mean, stands in the section's file.

use super::sections::alerts::AlertRaw;
use super::sections::defaults::Defaults;
use super::sections::engines::Engines;
use super::sections::fault_tolerance::FaultTolerance;
use super::sections::health::HealthChecks;
use super::sections::log::Log;
use super::sections::metrics::Metrics;
use super::sections::queue::Queue;
use super::sections::scaling::Scaling;
use super::sections::server::Server;
use super::sections::stop::Stop;
use super::sections::storage::Storage;
use super::sections::tracing::Tracing;
use super::sections::webhooks::{CallbacksRaw, WebhookRaw};
use super::sections::workers::Workers;
use super::types::section;
use std::collections::BTreeMap;

section! {
    /// Everything; each key is a table of its own.
    pub struct Raw {
        /// The workers, and when their number changes.
        scaling: Scaling = Scaling::default();
        /// Where the workers run, and when one of them is replaced.
        workers: Workers = Workers::default();
        /// Retries and circuit breakers.
        fault_tolerance: FaultTolerance = FaultTolerance::default();
        /// Where and how executions are stored.
        storage: Storage = Storage::default();
        /// What is measured, and for how long it is kept.
        metrics: Metrics = Metrics::default();
        /// What people should know of, by the names of docs/ALERTS.md; what is not named here is watched as it says.
        alerts: BTreeMap<String, AlertRaw> = BTreeMap::new();
        /// The HTTP API.
        server: Server = Server::default();
        /// The queue and its order.
        queue: Queue = Queue::default();
        /// What a request that does not say otherwise gets.
        defaults: Defaults = Defaults::default();
        /// How the service stops, and how it cancels.
        stop: Stop = Stop::default();
        /// How engines are watched.
        health: HealthChecks = HealthChecks::default();
        /// What the service tells about itself on standard error.
        log: Log = Log::default();
        /// Who is told of events by HTTP, by a name of yours.
        webhooks: BTreeMap<String, WebhookRaw> = BTreeMap::new();
        /// How an execution's own `callbackUrl` is called. Absent: requests may have none.
        callbacks: Option<CallbacksRaw> = None;
        /// Where the spans of ended executions go, for OpenTelemetry and LangSmith.
        tracing: Tracing = Tracing::default();
        /// The workflow engines by name; a name is yours to choose: 1 to 64 of `a-z A-Z 0-9 . _ -`.
        engines: Engines = Engines::default();
    }
}
