//! Sends the spans of ended executions to receivers of traces, over OTLP.
//!
//! It follows the feed of this node's commits and derives the spans from what is stored (`core/trace`), so that tracing adds
//! nothing to the way of an execution. Nothing waits for a receiver: what it does not take in time is dropped and counted.

use crate::role::{Role, Round};
use crate::state::context::Context;
use crate::state::settings::{ExporterSettings, TraceDialect};
use crate::state::telemetry::Telemetry;
use enginehouse_core::execution::Execution;
use enginehouse_core::time::Time;
use enginehouse_core::trace::{Piece, Span, spans};
use enginehouse_store::{Change, Cursor, Ref, StoreError};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use secrecy::ExposeSecret;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

const PAGE: usize = 256;
/// How long a lost nudge may go unnoticed, and how long spans are gathered before they are sent.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a role that has no receiver shows that it lives.
const IDLE: Duration = Duration::from_secs(60);
/// Spans in one request, and requests that may wait for one receiver.
const BATCH_SPANS: usize = 512;
const BATCHES_WAITING: usize = 32;
/// The longest that one request may take, repeats included.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);
/// How often a receiver in trouble is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Tracer {
    cx: Arc<Context>,
    /// Everything up to here was looked at.
    cursor: Cursor,
    changed: watch::Receiver<Cursor>,
    outlets: Vec<Outlet>,
    /// When what was gathered is sent.
    send_at: Instant,
    tasks: TaskTracker,
}

/// The way to one receiver.
struct Outlet {
    name: String,
    dialect: TraceDialect,
    batch: Vec<SpanData>,
    batches: mpsc::Sender<Vec<SpanData>>,
}

impl Role for Tracer {
    const NAME: &'static str = "tracer";
    const TROUBLE: &'static str = "the feed could not be read for traces";
    type Error = StoreError;

    fn first(&self) -> Duration {
        self.until_sending()
    }

    fn again(&self) -> Duration {
        LOOK_EVERY
    }

    async fn nudged(&mut self) {
        if self.outlets.is_empty() {
            return pending().await;
        }
        // Without the store nothing comes any more, and the role ends with the node.
        if self.changed.changed().await.is_err() {
            pending().await
        }
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        if self.outlets.is_empty() {
            return Ok(Round::then_rest(IDLE));
        }
        let read = self.catch_up().await;
        if Instant::now() >= self.send_at {
            self.send();
        }
        read.map(|()| Round::then_rest(self.until_sending()))
    }

    async fn end(&mut self) {
        if !self.outlets.is_empty()
            && let Err(error) = self.catch_up().await
        {
            tracing::warn!(%error, "{}; the last ones have none", Self::TROUBLE);
        }
        self.send();
        self.outlets.clear();
        self.tasks.close();
        // What is on its way may arrive; a receiver that does not answer is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
    }
}

impl Tracer {
    /// Follows the feed from `cursor` on.
    pub(crate) fn new(cx: Arc<Context>, cursor: Cursor) -> Tracer {
        let tasks = TaskTracker::new();
        let outlets = open(&cx, &tasks);
        let changed = cx.store.changed();
        Tracer { cx, cursor, changed, outlets, send_at: Instant::now() + LOOK_EVERY, tasks }
    }

    fn until_sending(&self) -> Duration {
        self.send_at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    fn send(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.send(&self.cx.observed.telemetry));
        self.send_at = Instant::now() + LOOK_EVERY;
    }

    async fn catch_up(&mut self) -> Result<(), StoreError> {
        loop {
            let page = match self.cx.store.feed(self.cursor, PAGE).await {
                Ok(page) => page,
                Err(StoreError::Gone { oldest }) => {
                    tracing::warn!("executions ended faster than their traces could be read; some have none");
                    self.cursor = Cursor(oldest.0.saturating_sub(1));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let own = page.commits.iter().filter(|commit| commit.node == self.cx.settings.node);
            let ended: Vec<&Change> =
                own.flat_map(|c| &c.changes).filter(|c| c.event.kind.is_terminal()).collect();
            self.trace(&ended).await?;
            self.cursor = page.next;
            if page.commits.len() < PAGE {
                return Ok(());
            }
        }
    }

    async fn trace(&mut self, ended: &[&Change]) -> Result<(), StoreError> {
        for some in ended.chunks(PAGE) {
            let refs: Vec<Ref> = some.iter().map(|change| Ref::Key(change.key)).collect();
            for row in self.cx.store.find(&refs).await?.into_iter().flatten() {
                // A row that was redriven meanwhile tells of that generation when it has ended.
                let sampled = row.fixed.spec.trace.is_some_and(|context| context.sampled);
                if !sampled || !row.status().is_terminal() {
                    continue;
                }
                let spans = spans(&row);
                let id = self.cx.payloads.public_id(&row);
                for outlet in &mut self.outlets {
                    outlet.batch.extend(spans.iter().filter_map(|s| told(outlet.dialect, &row, &id, s)));
                    if outlet.batch.len() >= BATCH_SPANS {
                        outlet.send(&self.cx.observed.telemetry);
                    }
                }
            }
        }
        Ok(())
    }
}

/// One task for each receiver, so that a slow one holds up none of the others.
fn open(cx: &Arc<Context>, tasks: &TaskTracker) -> Vec<Outlet> {
    let mut outlets = Vec::new();
    for settings in &cx.settings.tracing.exporters {
        let exporter = match exporter(settings) {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(exporter = settings.name, error, "traces are not exported there");
                continue;
            }
        };
        let (batches, inbox) = mpsc::channel(BATCHES_WAITING);
        tasks.spawn(deliver(cx.clone(), settings.name.clone(), exporter, inbox));
        let (name, dialect) = (settings.name.clone(), settings.dialect);
        outlets.push(Outlet { name, dialect, batch: Vec::new(), batches });
    }
    outlets
}

impl Outlet {
    fn send(&mut self, telemetry: &Telemetry) {
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.len();
        if spans > 0 && self.batches.try_send(batch).is_err() {
            telemetry.traced(&self.name, "dropped", spans);
        }
    }
}

async fn deliver(cx: Arc<Context>, name: String, exporter: Otlp, mut inbox: mpsc::Receiver<Vec<SpanData>>) {
    let mut complained: Option<Instant> = None;
    while let Some(batch) = inbox.recv().await {
        let spans = batch.len();
        let sent = tokio::time::timeout(EXPORT_WITHIN, exporter.export(batch)).await;
        let error = match sent {
            Ok(Ok(())) => {
                cx.observed.telemetry.traced(&name, "exported", spans);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        cx.observed.telemetry.traced(&name, "dropped", spans);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            tracing::warn!(exporter = name, spans, error, "spans were not taken by the receiver of traces");
            complained = Some(Instant::now());
        }
    }
}

fn exporter(settings: &ExporterSettings) -> Result<Otlp, String> {
    let client = enginehouse_engine::outward_client(&settings.url, EXPORT_WITHIN)?;
    let headers =
        settings.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
    let mut exporter = Otlp::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(&settings.url)
        .with_timeout(EXPORT_WITHIN)
        .with_headers(headers.collect())
        .build()
        .map_err(|error| error.to_string())?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let name = KeyValue::new("service.name", "enginehouse");
    exporter.set_resource(&Resource::builder_empty().with_attributes([name, version]).build());
    Ok(exporter)
}

/// The span as a receiver of this dialect gets it; `None`: it does not get it.
fn told(dialect: TraceDialect, row: &Execution, id: &str, span: &Span) -> Option<SpanData> {
    let langsmith = dialect == TraceDialect::Langsmith;
    if langsmith && matches!(span.piece, Piece::Queue | Piece::Call) {
        return None;
    }
    let context = row.fixed.spec.trace?;
    let mut attributes = attributes(row, id, span);
    if langsmith {
        attributes.push(KeyValue::new("langsmith.span.kind", "chain"));
        attributes.push(KeyValue::new("langsmith.trace.name", row.fixed.workflow.clone()));
    }
    let root = span.piece == Piece::Execution;
    Some(SpanData {
        span_context: SpanContext::new(
            TraceId::from(context.trace),
            SpanId::from(span.id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: root && span.parent.is_some(),
        span_kind: match span.piece {
            Piece::Execution => SpanKind::Consumer,
            Piece::Queue | Piece::Attempt => SpanKind::Internal,
            Piece::Call => SpanKind::Client,
        },
        name: name(row, span).into(),
        start_time: instant(span.from),
        end_time: instant(span.to),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match &span.failure {
            Some((kind, code)) => Status::error(format!("{kind}/{code}")),
            None if span.outcome == "completed" => Status::Ok,
            None => Status::Unset,
        },
        instrumentation_scope: InstrumentationScope::builder("enginehouse").build(),
    })
}

fn name(row: &Execution, span: &Span) -> String {
    match span.piece {
        Piece::Execution => format!("execution {}", row.fixed.workflow),
        Piece::Queue => "queue".to_owned(),
        Piece::Attempt => format!("attempt {}", span.attempt),
        Piece::Call => format!("{} {}", row.fixed.engine, row.fixed.workflow),
    }
}

/// What is known of it; never payload.
fn attributes(row: &Execution, id: &str, span: &Span) -> Vec<KeyValue> {
    let mut found = vec![
        KeyValue::new("enginehouse.execution.id", id.to_owned()),
        KeyValue::new("enginehouse.engine", row.fixed.engine.clone()),
        KeyValue::new("enginehouse.engine.type", row.fixed.engine_type.clone()),
        KeyValue::new("enginehouse.workflow.id", row.fixed.workflow.clone()),
        KeyValue::new("enginehouse.outcome", span.outcome),
        KeyValue::new("enginehouse.attempt", i64::from(span.attempt)),
    ];
    if span.piece == Piece::Execution {
        found.push(KeyValue::new("enginehouse.priority", row.state.priority.as_str()));
        found.push(KeyValue::new("enginehouse.generation", i64::from(row.state.generation)));
        found.extend(row.fixed.user.clone().map(|user| KeyValue::new("enginehouse.user.id", user)));
    }
    found.extend(span.worker.clone().map(|worker| KeyValue::new("enginehouse.worker", worker)));
    found.extend(span.endpoint.map(|endpoint| KeyValue::new("enginehouse.endpoint", i64::from(endpoint))));
    found.extend(span.engine_run.clone().map(|run| KeyValue::new("enginehouse.engine.run", run)));
    if span.reattached {
        found.push(KeyValue::new("enginehouse.reattached", true));
    }
    if let Some((kind, code)) = &span.failure {
        found.push(KeyValue::new("error.type", *kind));
        found.push(KeyValue::new("enginehouse.failure.code", code.clone()));
    }
    found
}

fn instant(at: Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
}
