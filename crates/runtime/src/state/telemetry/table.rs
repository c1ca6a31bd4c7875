//! Every figure with its meaning: the source of docs/METRICS.md.

use std::fmt::Write;

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// As it is when asked.
    Gauge,
    Histogram,
}

/// One figure.
pub(super) struct Entry {
    /// Without the prefix `enginehouse_`, unit and `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<&'static str>,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// Its name is a convention of Prometheus and has no prefix.
    pub(super) bare: bool,
}

const fn entry_of(
    name: &'static str,
    kind: Kind,
    unit: Option<&'static str>,
    labels: &'static [&'static str],
    help: &'static str,
) -> Entry {
    Entry { name, kind, unit, labels, help, bare: false }
}

const fn of_process(name: &'static str, kind: Kind, unit: Option<&'static str>, help: &'static str) -> Entry {
    Entry { name, kind, unit, labels: &[], help, bare: true }
}

const SECONDS: Option<&str> = Some("seconds");
const WORK: &[&str] = &["engine", "priority"];
const ENDED: &[&str] = &["engine", "priority", "status"];
const PLACE: &[&str] = &["engine", "endpoint"];

pub(super) const TABLE: &[Entry] = &[
    entry_of("executions_submitted", Kind::Counter, None, WORK, "Executions accepted"),
    entry_of(
        "executions_ended",
        Kind::Counter,
        None,
        &["engine", "priority", "status", "failure"],
        "Executions completed, failed or cancelled; failure is the kind of a failed one and empty otherwise",
    ),
    entry_of(
        "attempts_ended",
        Kind::Counter,
        None,
        &["engine", "endpoint", "outcome"],
        "Attempts that ended: completed, failed, retried, interrupted or cancelled",
    ),
    entry_of("execution_queue_wait", Kind::Histogram, SECONDS, WORK, "From due to the first grant"),
    entry_of("execution_run", Kind::Histogram, SECONDS, ENDED, "From the first grant to the end"),
    entry_of("execution_end_to_end", Kind::Histogram, SECONDS, ENDED, "From due to the end"),
    entry_of("store_commit", Kind::Histogram, SECONDS, &[], "One commit of the store with its sync"),
    entry_of("store_commit_writes", Kind::Histogram, None, &[], "Writes of one commit"),
    entry_of(
        "executions_stored",
        Kind::Gauge,
        None,
        &["status"],
        "Executions by status; ended ones since the store was made",
    ),
    entry_of("executions_due", Kind::Gauge, None, WORK, "Executions that could start now"),
    entry_of("executions_running", Kind::Gauge, None, &["engine"], "Live leases: the worker slots in use"),
    entry_of(
        "oldest_due_age",
        Kind::Gauge,
        SECONDS,
        &[],
        "How long the first in line has waited; 0 when nothing waits",
    ),
    entry_of("worker_slots", Kind::Gauge, None, &[], "Slots of the workers that take work"),
    entry_of("workers", Kind::Gauge, None, &["status"], "Workers of this node by what they do"),
    entry_of("scaling_target_workers", Kind::Gauge, None, &[], "Workers that should be ready or starting"),
    entry_of("scaling_max_workers", Kind::Gauge, None, &[], "The most workers that the rules in force allow"),
    entry_of(
        "worker_startup",
        Kind::Gauge,
        SECONDS,
        &[],
        "From a worker's launch until it takes work, as learned",
    ),
    entry_of("workers_launched", Kind::Counter, None, &[], "Workers launched"),
    entry_of("workers_lost", Kind::Counter, None, &[], "Launches that failed and workers that died"),
    entry_of(
        "breaker_open",
        Kind::Gauge,
        None,
        PLACE,
        "1 while the endpoint's circuit breaker is open, 0.5 while it is half open, else 0",
    ),
    entry_of(
        "endpoint_healthy",
        Kind::Gauge,
        None,
        PLACE,
        "The last health check: 1 or 0; absent where it cannot be asked",
    ),
    entry_of("endpoint_running", Kind::Gauge, None, PLACE, "Attempts that run on the endpoint"),
    entry_of(
        "endpoint_limit",
        Kind::Gauge,
        None,
        PLACE,
        "Attempts at once in force; absent while only the workers bound them",
    ),
    entry_of(
        "endpoint_limit_waited",
        Kind::Counter,
        SECONDS,
        PLACE,
        "Time that due executions, all together, waited for the endpoint's adaptive limit alone, while there were worker slots for \
         them or might have been; charged each second",
    ),
    entry_of(
        "endpoint_speed_ratio",
        Kind::Gauge,
        None,
        PLACE,
        "What it completes compared with what it did while it was well",
    ),
    entry_of("retries_left", Kind::Gauge, None, &["engine"], "Retries that the engine's budget still has"),
    entry_of(
        "audit_findings",
        Kind::Gauge,
        None,
        &[],
        "What the audit of the live leases finds wrong; always 0",
    ),
    entry_of(
        "webhook_attempts",
        Kind::Counter,
        None,
        &["receiver", "outcome"],
        "Requests to receivers of webhooks: delivered, failed and to be tried again, dead, or refused because of their address",
    ),
    entry_of(
        "trace_spans",
        Kind::Counter,
        None,
        &["exporter", "outcome"],
        "Spans of ended executions: exported, or dropped because the receiver did not take them in time",
    ),
    entry_of(
        "audit_violations",
        Kind::Counter,
        None,
        &[],
        "What the lease auditor, which looks each collection interval, found wrong; always 0",
    ),
    entry_of(
        "alerts_firing",
        Kind::Gauge,
        None,
        &["alert", "severity"],
        "Alerts that fire; docs/ALERTS.md has their names",
    ),
    entry_of("build", Kind::Gauge, None, &["version"], "1, with the version of the program"),
    of_process("process_cpu_seconds", Kind::Counter, None, "Processor time used"),
    of_process("process_resident_memory_bytes", Kind::Gauge, None, "Memory in use"),
    of_process("process_open_fds", Kind::Gauge, None, "Open files and connections"),
    of_process("process_max_fds", Kind::Gauge, None, "The most that may be open"),
    of_process(
        "process_start_time_seconds",
        Kind::Gauge,
        None,
        "When the process started, in seconds since 1970",
    ),
    of_process("process_threads", Kind::Gauge, None, "Threads"),
];

pub(super) fn entry(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

impl Entry {
    /// As it is written, without the suffixes of a histogram's series.
    pub(super) fn written(&self) -> String {
        let prefix = if self.bare { "" } else { "enginehouse_" };
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{prefix}{}{unit}{total}", self.name)
    }
}

/// docs/METRICS.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = "# Metrics\n\nPrinted from the code by `cargo xtask docs`.\n\n\
        `GET /metrics` gives these to Prometheus; the API key needs the scope `metrics`. A client that asks for\n\
        `application/openmetrics-text` gets OpenMetrics, where the histograms of executions name one execution of each bucket as an\n\
        exemplar. Counters and histograms count from the start of the process. Values of labels are configured names and words of\n\
        closed lists, so the number of series does not grow with the work.\n\n\
        ```yaml\n\
        scrape_configs:\n\
        \x20 - job_name: enginehouse\n\
        \x20   authorization: { credentials_file: /etc/prometheus/enginehouse.key }\n\
        \x20   static_configs: [{ targets: [\"127.0.0.1:7070\"] }]\n\
        ```\n\n\
        | metric | type | labels | meaning |\n|---|---|---|---|\n"
        .to_owned();
    for entry in TABLE {
        let kind = match entry.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = entry.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{}` | {kind} | {} | {}. |", entry.written(), labels.join(" "), entry.help);
    }
    text
}
