//! The life of one attempt: open the request, find the adapter, run under its limits, classify, report.

use crate::link::{Assignment, End, LeaseRef, Link, LinkError, Report};
use crate::settings::{Engines, WorkerSettings};
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_api::SubmitRequest;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::{LOG_BYTES_MAX, RESULT_BYTES_MAX};
use enginehouse_core::pauses::Pauses;
use enginehouse_core::reason::Reason;
use enginehouse_core::time::Millis;
use enginehouse_engine::{
    Call, Engine, EngineFailure, Host, LetGo, Outcome, Progress, Reached, Stop, StopSignal, run_traced,
};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

/// Between tries to tell the node something that it could not take.
const NODE_PAUSES: Pauses = Pauses::new(Duration::from_millis(100), Duration::from_secs(2));

/// The worker's hold on a running attempt.
pub(crate) struct Control {
    command: watch::Sender<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Command {
    Go,
    Cancel,
    HandBack,
    LetGo,
}

impl Control {
    pub(crate) fn cancel(&self) {
        self.raise(Command::Cancel);
    }

    pub(crate) fn hand_back(&self) {
        self.raise(Command::HandBack);
    }

    pub(crate) fn let_go(&self) {
        self.raise(Command::LetGo);
    }

    /// Commands only grow stronger.
    fn raise(&self, command: Command) {
        self.command.send_if_modified(|now| {
            let stronger = command > *now;
            *now = command.max(*now);
            stronger
        });
    }
}

pub(crate) fn control() -> (Control, Commands) {
    let (command, receiver) = watch::channel(Command::Go);
    (Control { command }, Commands(receiver))
}

pub(crate) struct Commands(watch::Receiver<Command>);

impl Commands {
    /// Resolves with the next command stronger than `than`.
    async fn beyond(&mut self, than: Command) -> Command {
        let next = self.0.wait_for(|c| *c > than).await.map(|c| *c);
        match next {
            Ok(command) => command,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Runs one attempt to its report. Every way out but a lost lease ends in exactly one report.
///
/// Whatever is logged on its way, by an adapter too, carries the execution and the attempt.
pub(crate) async fn run(
    assignment: Assignment,
    commands: Commands,
    link: Arc<dyn Link>,
    engines: &Engines,
    settings: WorkerSettings,
) {
    let span = tracing::warn_span!(
        "attempt",
        execution = assignment.execution_id,
        attempt = assignment.attempt,
        engine = assignment.engine,
    );
    run_to_report(assignment, commands, link, engines, settings).instrument(span).await;
}

async fn run_to_report(
    assignment: Assignment,
    commands: Commands,
    link: Arc<dyn Link>,
    engines: &Engines,
    settings: WorkerSettings,
) {
    let lease = assignment.lease;
    tracing::debug!(endpoint = assignment.endpoint, "the attempt begins");
    let notes = Arc::new(Notes::new(link.clone(), lease, &assignment.engine));
    let end = match open(&assignment, notes.clone(), engines) {
        Ok((engine, call, stop)) => {
            drive(&*engine, call, stop, commands, &assignment, &notes, settings).await
        }
        Err(failure) => Some(End::Failed { failure, abandoned: false }),
    };
    match end {
        Some(end) => {
            tell(&end);
            report(&*link, lease, Report { end, logs: notes.logs() }).await;
        }
        None => tracing::debug!("the attempt was left alone: its lease is gone"),
    }
}

/// What an engine said of a failure is payload, so only its class is logged.
fn tell(end: &End) {
    match end {
        End::Succeeded { result, .. } => {
            tracing::debug!(result_bytes = result.len(), "the attempt succeeded")
        }
        End::Failed { failure, .. } => {
            tracing::debug!(kind = failure.kind.as_str(), code = failure.code, "the attempt failed");
        }
        End::Cancelled { .. } => tracing::debug!("the attempt was cancelled"),
        End::Interrupted { reason } => {
            tracing::debug!(reason = reason.as_str(), "the attempt was interrupted");
        }
    }
}

type Opened = (Arc<dyn Engine>, Call, watch::Sender<Option<Stop>>);

/// Turns the assignment into a call of its adapter.
fn open(assignment: &Assignment, notes: Arc<Notes>, engines: &Engines) -> Result<Opened, EngineFailure> {
    let engine = engines.get(&assignment.engine).cloned().ok_or_else(|| {
        let text = format!("engine {} is not configured on this node", assignment.engine);
        EngineFailure::new(FailureKind::Unavailable, "engine_missing", text).with_reached(Reached::No)
    })?;
    let request: SubmitRequest = serde_json::from_slice(&assignment.request)
        .map_err(|e| EngineFailure::new(FailureKind::InvalidRequest, "unreadable_request", e.to_string()))?;
    let raw = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let definition = request.workflow.as_ref().and_then(|w| w.definition.as_ref()).map(|d| raw(d.get()));
    let (stop, signal) = StopSignal::new();
    let call = Call {
        execution_id: assignment.execution_id.clone(),
        attempt: assignment.attempt,
        idempotency_key: assignment.idempotency_key.clone(),
        traceparent: assignment.traceparent.clone(),
        workflow_id: assignment.workflow_id.clone(),
        definition: definition.filter(|d| d.as_ref() != b"{}" && d.as_ref() != b"null"),
        workflow_name: request.workflow.and_then(|w| w.name),
        parameters: request.parameters.map_or_else(|| Bytes::from_static(b"null"), |p| raw(p.get())),
        options: request
            .engine_options
            .as_ref()
            .map(|options| raw(options.get()))
            .filter(|o| o.as_ref() != b"{}"),
        session_id: request.session_id,
        endpoint: assignment.endpoint as usize,
        engine_run: assignment.engine_run.clone(),
        maybe_started: assignment.maybe_started,
        result_bytes_max: RESULT_BYTES_MAX,
        host: notes,
        stop: signal,
    };
    Ok((engine, call, stop))
}

/// Runs the call under its limits and the worker's commands. `None`: the lease is gone, nothing is to be reported.
async fn drive(
    engine: &dyn Engine,
    call: Call,
    stop: watch::Sender<Option<Stop>>,
    mut commands: Commands,
    assignment: &Assignment,
    notes: &Notes,
    settings: WorkerSettings,
) -> Option<End> {
    let limit = assignment.limit;
    let deadline = sleep(Duration::from_millis(limit.after));
    // An adapter's panic is its attempt's end, not its worker's: the others go on.
    let running = AssertUnwindSafe(run_traced(engine, call))
        .catch_unwind()
        .map(|ended| ended.unwrap_or_else(|_| panicked()));
    tokio::pin!(deadline, running);
    let stopped = tokio::select! {
        biased;
        outcome = &mut running => return classify(outcome, None, false),
        command = commands.beyond(Command::Go) => match command {
            Command::Cancel => Why::Cancel,
            Command::HandBack => return Some(End::Interrupted { reason: Reason::NodeStopped }),
            _ => return None,
        },
        () = &mut deadline => Why::Timeout(limit.code),
        () = notes.idle(assignment.idle_timeout) => Why::Timeout("idle_timeout"),
    };
    let _ = stop.send(Some(if stopped == Why::Cancel { Stop::Cancel } else { Stop::Timeout }));
    tokio::select! {
        biased;
        outcome = &mut running => classify(outcome, Some(stopped), false),
        command = commands.beyond(Command::Cancel) => match command {
            // The wish to cancel is stored, so the row ends cancelled no matter who reports.
            Command::HandBack => classify(Outcome::Cancelled, Some(stopped), true),
            _ => None,
        },
        () = sleep(Duration::from_millis(settings.cancel_grace)) => classify(Outcome::Cancelled, Some(stopped), true),
    }
}

fn panicked() -> Outcome {
    let text = "the adapter panicked; the service's standard error has more";
    let failure = EngineFailure::new(FailureKind::BadResponse, "adapter_panicked", text);
    Outcome::Failed(failure.with_reached(Reached::Maybe))
}

/// Why the engine was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Cancel,
    Timeout(&'static str),
}

/// What the outcome of a call means for the attempt.
fn classify(outcome: Outcome, stopped: Option<Why>, abandoned: bool) -> Option<End> {
    Some(match (outcome, stopped) {
        (Outcome::LetGo, _) => return None,
        (Outcome::Succeeded { result, needs_input }, _) => End::Succeeded { result, needs_input },
        (Outcome::Cancelled, None) => End::Cancelled { abandoned: false },
        (Outcome::Failed(failure), None) => End::Failed { failure, abandoned: false },
        (Outcome::Cancelled, Some(Why::Cancel)) => End::Cancelled { abandoned },
        // What failed while it was being stopped may be the way to the engine, and not the run.
        (Outcome::Failed(failure), Some(Why::Cancel)) => {
            End::Cancelled { abandoned: abandoned || failure.reached == Reached::Maybe }
        }
        (ended @ (Outcome::Cancelled | Outcome::Failed(_)), Some(Why::Timeout(code))) => {
            let open = |failure: &EngineFailure| failure.reached == Reached::Maybe;
            let abandoned = abandoned || matches!(&ended, Outcome::Failed(failure) if open(failure));
            let reached = if abandoned { Reached::Maybe } else { Reached::Yes };
            let text = match code {
                "idle_timeout" => "the engine made no progress for its idle timeout",
                "total_timeout" => "its total timeout passed while it ran",
                _ => "the attempt did not end within its timeout",
            };
            let failure = EngineFailure::new(FailureKind::Timeout, code, text).with_reached(reached);
            End::Failed { failure, abandoned }
        }
    })
}

/// Reports until the node has it or the lease is gone: a finished result is not lost to a passing store error.
async fn report(link: &dyn Link, lease: LeaseRef, report: Report) {
    let mut pauses = NODE_PAUSES;
    while let Err(LinkError::Unavailable(_)) = link.report(lease, report.clone()).await {
        sleep(pauses.after_failure()).await;
    }
}

/// What an attempt says while it runs: the adapter's [`Host`].
struct Notes {
    link: Arc<dyn Link>,
    lease: LeaseRef,
    engine: String,
    logs: Mutex<String>,
    last_sign: watch::Sender<Instant>,
}

impl Notes {
    fn new(link: Arc<dyn Link>, lease: LeaseRef, engine: &str) -> Notes {
        let last_sign = watch::channel(Instant::now()).0;
        Notes { link, lease, engine: engine.to_owned(), logs: Mutex::new(String::new()), last_sign }
    }

    fn logs(&self) -> String {
        std::mem::take(&mut *self.logs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves when there was no sign of life for `limit`; never without one.
    async fn idle(&self, limit: Option<Millis>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let until = *self.last_sign.borrow() + Duration::from_millis(limit);
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

#[async_trait]
impl Host for Notes {
    async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo> {
        let mut pauses = NODE_PAUSES;
        loop {
            match self.link.attach(self.lease, engine_run, can_reattach).await {
                Ok(()) => return Ok(()),
                Err(LinkError::Stale | LinkError::Closed) => return Err(LetGo),
                Err(LinkError::Refused(why)) => {
                    // The run goes on; only that it could be taken up again is lost.
                    tracing::error!(why, engine_run, "the engine's run id was refused");
                    return Ok(());
                }
                Err(LinkError::Unavailable(_)) => sleep(pauses.after_failure()).await,
            }
        }
    }

    fn progress(&self, progress: Progress) {
        self.last_sign.send_replace(Instant::now());
        self.link.progress(self.lease, progress);
    }

    fn log(&self, line: &str) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.push_str(line);
        if !line.ends_with('\n') {
            logs.push('\n');
        }
        if logs.len() > LOG_BYTES_MAX {
            // The newest lines are the ones that explain the end.
            let cut = logs.ceil_char_boundary(logs.len() - LOG_BYTES_MAX / 2);
            logs.drain(..cut);
        }
    }

    async fn recall(&self, name: &str) -> Option<String> {
        self.link.recall(&self.engine, name).await
    }

    async fn remember(&self, name: &str, value: &str) {
        self.link.remember(&self.engine, name, value).await;
    }
}
