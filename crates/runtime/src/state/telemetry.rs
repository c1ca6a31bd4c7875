//! The figures of `GET /metrics`: what is counted while work goes on, and what is read off when someone asks.
//!
//! Every figure stands in one table ([`table`]), from which docs/METRICS.md is printed; one that is not there cannot be given out.
//! Label values are configured names and words of closed lists, so the number of series is bounded.

mod process;
mod table;
mod text;

use enginehouse_core::event::EventType;
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::lifecycle::Transition;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};
use std::borrow::Cow;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub(crate) use process::Use;
pub use table::markdown;
pub(crate) use text::prometheus;

/// Names and values, in the order of the table.
pub(crate) type Labels = Vec<(&'static str, Cow<'static, str>)>;
/// A value of which an execution is named as an example.
type Timed = HistogramWithExemplars<Labels>;

/// Upper bounds in seconds: from a local call to an agent that works for an hour.
const SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
const COMMIT_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0, 4.0];
const COMMIT_WRITES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];

#[derive(Debug, Clone, Copy, Default)]
struct InSeconds;

impl MetricConstructor<Timed> for InSeconds {
    fn new_metric(&self) -> Timed {
        Timed::new(SECONDS.into_iter())
    }
}

/// What is counted while work goes on.
pub(crate) struct Telemetry {
    submitted: Family<Labels, Counter>,
    ended: Family<Labels, Counter>,
    attempts: Family<Labels, Counter>,
    queue_wait: Family<Labels, Timed, InSeconds>,
    run: Family<Labels, Timed, InSeconds>,
    end_to_end: Family<Labels, Timed, InSeconds>,
    commits: Histogram,
    writes: Histogram,
    violations: Counter,
    spans: Family<Labels, Counter>,
    webhooks: Family<Labels, Counter>,
    limited: Family<Labels, Counter<f64, AtomicU64>>,
}

impl Telemetry {
    pub(crate) fn new() -> Telemetry {
        Telemetry {
            submitted: Family::default(),
            ended: Family::default(),
            attempts: Family::default(),
            queue_wait: Family::new_with_constructor(InSeconds),
            run: Family::new_with_constructor(InSeconds),
            end_to_end: Family::new_with_constructor(InSeconds),
            commits: Histogram::new(COMMIT_SECONDS),
            writes: Histogram::new(COMMIT_WRITES),
            violations: Counter::default(),
            spans: Family::default(),
            webhooks: Family::default(),
            limited: Family::default(),
        }
    }

    pub(crate) fn submitted(&self, row: &Execution) {
        self.submitted.get_or_create(&work(row)).inc();
    }

    /// One transition of a row, as it was stored. `id`: the id callers know it by; `endpoint`: the name of one by its place.
    pub(crate) fn moved(
        &self,
        row: &Execution,
        transition: &Transition,
        id: impl FnOnce() -> String,
        endpoint: impl FnOnce(u32) -> String,
    ) {
        let next = &transition.next;
        let first_grant = next.started_at.filter(|_| row.state.started_at.is_none());
        let was_running = row.status() == Status::Running && next.status != Status::Running;
        if was_running {
            let endpoint = endpoint(row.state.endpoint.unwrap_or(0));
            let labels = vec![
                ("engine", row.fixed.engine.clone().into()),
                ("endpoint", endpoint.into()),
                ("outcome", outcome(transition).into()),
            ];
            self.attempts.get_or_create(&labels).inc();
        }
        let ends = next.status.is_terminal() && row.status() != next.status;
        if first_grant.is_none() && !ends {
            return;
        }
        let example = vec![("execution_id", id().into())];
        if let Some(started) = first_grant {
            let wait = started.since(next.clock_from);
            self.queue_wait.get_or_create(&work(row)).observe(seconds(wait), Some(example), None);
            return;
        }
        let kind = next.failure.as_ref().filter(|_| next.status == Status::Failed);
        let kind = kind.map_or("", |failure| failure.kind.as_str());
        let mut labels = work(row);
        labels.push(("status", next.status.as_str().into()));
        let ended = next.ended_at.unwrap_or(transition.event.at);
        let took = ended.since(next.clock_from);
        self.end_to_end.get_or_create(&labels).observe(seconds(took), Some(example.clone()), None);
        if let Some(started) = next.started_at {
            let ran = ended.since(started);
            self.run.get_or_create(&labels).observe(seconds(ran), Some(example), None);
        }
        labels.push(("failure", kind.into()));
        self.ended.get_or_create(&labels).inc();
    }

    pub(crate) fn committed(&self, writes: usize, took: Duration) {
        self.commits.observe(took.as_secs_f64());
        self.writes.observe(writes as f64);
    }

    /// The lease auditor found this many things that do not agree.
    pub(crate) fn violated(&self, findings: u64) {
        self.violations.inc_by(findings);
    }

    /// A request was made to a receiver of webhooks.
    pub(crate) fn webhook(&self, receiver: &str, outcome: &'static str) {
        let labels = vec![("receiver", receiver.to_owned().into()), ("outcome", outcome.into())];
        self.webhooks.get_or_create(&labels).inc();
    }

    /// This many spans were sent to a receiver of traces, or given up.
    pub(crate) fn traced(&self, exporter: &str, outcome: &'static str, spans: usize) {
        let labels = vec![("exporter", exporter.to_owned().into()), ("outcome", outcome.into())];
        self.spans.get_or_create(&labels).inc_by(spans as u64);
    }

    /// Executions waited this many seconds for the adaptive limit of an endpoint alone.
    pub(crate) fn limited(&self, engine: &str, endpoint: String, seconds: f64) {
        let labels = vec![("engine", engine.to_owned().into()), ("endpoint", endpoint.into())];
        self.limited.get_or_create(&labels).inc_by(seconds);
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        add(registry, "executions_submitted", self.submitted.clone());
        add(registry, "executions_ended", self.ended.clone());
        add(registry, "attempts_ended", self.attempts.clone());
        add(registry, "execution_queue_wait", self.queue_wait.clone());
        add(registry, "execution_run", self.run.clone());
        add(registry, "execution_end_to_end", self.end_to_end.clone());
        add(registry, "store_commit", self.commits.clone());
        add(registry, "store_commit_writes", self.writes.clone());
        add(registry, "audit_violations", self.violations.clone());
        add(registry, "trace_spans", self.spans.clone());
        add(registry, "webhook_attempts", self.webhooks.clone());
        add(registry, "endpoint_limit_waited", self.limited.clone());
    }
}

/// Adds a figure of the table; a name that is not there is a mistake of this crate that its tests find.
pub(crate) fn add(registry: &mut Registry, name: &str, metric: impl Metric) {
    let Some(entry) = table::entry(name) else {
        debug_assert!(false, "{name} is not in the table");
        return;
    };
    let full = if entry.bare { entry.name.to_owned() } else { format!("enginehouse_{}", entry.name) };
    match entry.unit {
        Some(unit) => registry.register_with_unit(full, entry.help, Unit::Other(unit.to_owned()), metric),
        None => registry.register(full, entry.help, metric),
    }
}

fn work(row: &Execution) -> Labels {
    vec![("engine", row.fixed.engine.clone().into()), ("priority", row.state.priority.as_str().into())]
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// What became of the attempt that ran until now.
fn outcome(transition: &Transition) -> &'static str {
    match transition.event.kind {
        EventType::ExecutionCompleted => "completed",
        EventType::ExecutionRetrying => "retried",
        EventType::ExecutionInterrupted => "interrupted",
        EventType::ExecutionCancelled => "cancelled",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests;
