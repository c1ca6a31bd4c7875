//! The figures of `GET /metrics`: those that were counted, and those that are read off when someone asks.

use super::{Service, store_error};
use crate::state::telemetry::{Labels, Use, add, prometheus};
use enginehouse_api::ApiError;
use enginehouse_core::execution::Priority;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

type Number = Gauge<f64, AtomicU64>;

impl Service {
    /// Every figure of docs/METRICS.md: as OpenMetrics 1.0, or in the older text format of Prometheus.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn exposition(&self, openmetrics: bool) -> Result<String, ApiError> {
        let mut registry = Registry::default();
        self.cx.observed.telemetry.register(&mut registry);
        self.stored(&mut registry).await?;
        self.queued(&mut registry);
        self.pool(&mut registry).await?;
        self.endpoints(&mut registry).await?;
        let firing = self.cx.observed.alerts.lock().counts().into_iter().map(|(alert, severity, count)| {
            let labels = vec![("alert", alert.to_owned().into()), ("severity", severity.as_str().into())];
            (labels, count as f64)
        });
        add(&mut registry, "alerts_firing", family(firing));
        process(&mut registry);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        Ok(if openmetrics { text } else { prometheus(&text) })
    }

    async fn stored(&self, registry: &mut Registry) -> Result<(), ApiError> {
        let totals = self.cx.store.totals().await.map_err(|e| store_error(&e))?.usage();
        let by_status = [
            ("pending", totals.pending),
            ("running", totals.running),
            ("completed", totals.completed),
            ("failed", totals.failed),
            ("cancelled", totals.cancelled),
        ];
        let stored = by_status.map(|(status, count)| (vec![("status", status.into())], count as f64));
        add(registry, "executions_stored", family(stored));
        Ok(())
    }

    fn queued(&self, registry: &mut Registry) {
        let now = self.cx.store.now();
        let scheduler = self.cx.scheduling.scheduler.lock();
        let queue = &scheduler.queue;
        let (mut due, mut running) = (Vec::new(), Vec::new());
        for engine in self.cx.registry.iter() {
            let name = &engine.settings.name;
            for (priority, count) in Priority::ALL.into_iter().zip(queue.due_of_engine(name)) {
                let labels = vec![("engine", name.clone().into()), ("priority", priority.as_str().into())];
                due.push((labels, count as f64));
            }
            running
                .push((vec![("engine", name.clone().into())], f64::from(queue.occupancy().of_engine(name))));
        }
        let oldest = self.cx.oldest_wait(queue, now);
        let slots: u32 = queue.workers().values().filter(|w| w.open).map(|w| w.capacity).sum();
        add(registry, "executions_due", family(due));
        add(registry, "executions_running", family(running));
        add(registry, "oldest_due_age", one(oldest as f64 / 1_000.0));
        add(registry, "worker_slots", one(f64::from(slots)));
        add(registry, "audit_findings", one(queue.occupancy().audit().len() as f64));
    }

    async fn pool(&self, registry: &mut Registry) -> Result<(), ApiError> {
        let statuses = ["starting", "idle", "busy", "overloaded", "draining", "unhealthy", "offline"];
        let workers = self.workers().await?.workers;
        let count = |status: &str| workers.iter().filter(|worker| worker.status == status).count() as f64;
        let by_status = statuses.map(|status| (vec![("status", status.into())], count(status)));
        add(registry, "workers", family(by_status));
        let scaling = self.scaling();
        add(registry, "scaling_target_workers", one(f64::from(scaling.target)));
        add(registry, "scaling_max_workers", one(f64::from(scaling.rules.max_workers)));
        add(registry, "worker_startup", one(scaling.startup_time_ms as f64 / 1_000.0));
        let totals = self.cx.workers.pool_news.lock().totals;
        add(registry, "workers_launched", ConstCounter::new(u64::from(totals.launched)));
        add(registry, "workers_lost", ConstCounter::new(u64::from(totals.failed)));
        Ok(())
    }

    async fn endpoints(&self, registry: &mut Registry) -> Result<(), ApiError> {
        let engines = self.engines().await?.engines;
        let mut open = Vec::new();
        let (mut healthy, mut running, mut limits, mut speeds) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut retries = Vec::new();
        for engine in &engines {
            retries.push((vec![("engine", engine.name.clone().into())], engine.retries_left));
            for endpoint in &engine.endpoints {
                let place =
                    vec![("engine", engine.name.clone().into()), ("endpoint", endpoint.name.clone().into())];
                let state = match endpoint.breaker.state.as_str() {
                    "open" => 1.0,
                    "half_open" => 0.5,
                    _ => 0.0,
                };
                open.push((place.clone(), state));
                if let Some(well) = endpoint.health.as_ref().and_then(|health| health.healthy) {
                    healthy.push((place.clone(), f64::from(u8::from(well))));
                }
                running.push((place.clone(), endpoint.running as f64));
                if let Some(limit) = endpoint.limit.current {
                    limits.push((place.clone(), f64::from(limit)));
                }
                speeds.push((place, endpoint.limit.speed));
            }
        }
        add(registry, "breaker_open", family(open));
        add(registry, "endpoint_healthy", family(healthy));
        add(registry, "endpoint_running", family(running));
        add(registry, "endpoint_limit", family(limits));
        add(registry, "endpoint_speed_ratio", family(speeds));
        add(registry, "retries_left", family(retries));
        Ok(())
    }
}

fn process(registry: &mut Registry) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").into())];
    add(registry, "build", family([(version, 1.0)]));
    let seen = Use::read();
    if let Some(seconds) = seen.cpu_seconds {
        add(registry, "process_cpu_seconds", ConstCounter::new(seconds));
    }
    let gauges = [
        ("process_resident_memory_bytes", seen.resident_bytes.map(|n| n as f64)),
        ("process_open_fds", seen.open_files.map(|n| n as f64)),
        ("process_max_fds", seen.files_max.map(|n| n as f64)),
        ("process_start_time_seconds", seen.started_at),
        ("process_threads", seen.threads.map(|n| n as f64)),
    ];
    for (name, value) in gauges {
        if let Some(value) = value {
            add(registry, name, one(value));
        }
    }
}

fn one(value: f64) -> Number {
    let gauge = Number::default();
    gauge.set(value);
    gauge
}

fn family(values: impl IntoIterator<Item = (Labels, f64)>) -> Family<Labels, Number> {
    let family = Family::<Labels, Number>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    family
}
