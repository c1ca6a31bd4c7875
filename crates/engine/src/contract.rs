//! The contract between a worker and an adapter.

use crate::config::{PROGRESS_BYTES_MAX, PROGRESS_DEPTH_MAX};
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::exact::ExactJson;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::time::Millis;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// One engine type's way of running workflows. One value serves one *configured* engine with all its endpoints.
///
/// Dropping the future of [`run`](Engine::run) is *letting go*: the connection is dropped and the engine's run is left
/// alone, so that a later attempt can re-attach. Only [`Stop::Cancel`] and [`Stop::Timeout`] stop it in the engine.
/// (A local program cannot be re-attached to, so the `command` adapter kills it in every case.)
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The engine type, such as `n8n`.
    fn engine_type(&self) -> &str;

    /// What it can do beyond running a workflow to its end. Default: nothing.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Checks a request at submit, without any IO: what the engine would surely refuse is refused before it is stored. Default:
    /// everything is fine, but options are refused.
    ///
    /// # Errors
    /// What is wrong with the request.
    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        workflow.without_options(self.engine_type())
    }

    /// Runs the workflow, or takes up `call.engine_run` again, to its end.
    ///
    /// When [`Call::stopped`] resolves, the adapter tells the engine to stop, waits (bounded by the worker) until the
    /// engine says it did, and returns [`Outcome::Cancelled`], or the true outcome if the run had ended before.
    async fn run(&self, call: Call) -> Outcome;

    /// Tells the engine to stop a run that is not followed any more. `Ok` also when the run had already ended. Default: an engine
    /// that reports no run ids ([`Progress`]) has no such run.
    ///
    /// # Errors
    /// When the engine could not be told.
    async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let message = format!("the run {engine_run} at endpoint {endpoint} cannot be stopped from outside");
        Err(EngineFailure::new(FailureKind::InvalidRequest, "cancel_not_supported", message))
    }

    /// Asks one endpoint how it is; bounded by the adapter's own connect and request time limits. Default: it cannot be asked, and
    /// is judged by its work.
    async fn health(&self, endpoint: usize) -> Health {
        let _ = endpoint;
        Health { healthy: None, detail: "it has no health check".to_owned(), latency: 0 }
    }

    /// Finds out by one request whether an endpoint takes the key that is configured: `true` where it answered what only a good
    /// key opens, `false` where nothing was heard about the key. Fails only when the engine refuses the key, or wants one
    /// and none is configured: whether it can be reached is for [`health`](Engine::health) to say.
    async fn check_key(&self, endpoint: usize) -> Result<bool, EngineFailure> {
        let _ = endpoint;
        Ok(false)
    }

    /// Ends what a dead Enginehouse process left running for this run, before the work is queued again.
    /// Only adapters whose runs die with their process need it.
    async fn reap(&self, _engine_run: &str) {}
}

/// What an adapter can do; shown by `GET /v1/engines/{name}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Runs can be stopped in the engine.
    pub cancel: bool,
    /// A run can be taken up again by its id after a crash or hand-over.
    pub reattach: bool,
    /// The engine (or its adapter) recognises a repeated submit of the same run.
    pub idempotent_submit: bool,
    /// Workflow definitions may be carried inline in a request.
    pub inline: bool,
    /// Reports progress while running.
    pub progress: bool,
}

/// What is asked of an engine, as `validate` sees it.
#[derive(Debug, Clone, Copy)]
pub struct Workflow<'a> {
    /// The engine's id of the workflow; with an inline definition it is only a label.
    pub id: &'a str,
    /// The inline definition as raw JSON.
    pub definition: Option<&'a [u8]>,
    /// The parameters as raw JSON; `null` when none were given.
    pub parameters: &'a [u8],
    /// What the caller wants of this engine type beside the parameters, as a raw JSON object.
    pub options: Option<&'a [u8]>,
}

/// The code of a request whose options its engine does not take.
pub const INVALID_ENGINE_OPTIONS: &str = "invalid_engine_options";

impl Workflow<'_> {
    /// For an engine type that has no options: whatever is asked for would be left out in silence.
    ///
    /// # Errors
    /// There are options.
    pub fn without_options(&self, engine_type: &str) -> Result<(), EngineFailure> {
        let Some(options) = self.options else { return Ok(()) };
        let named: BTreeMap<String, serde::de::IgnoredAny> =
            serde_json::from_slice(options).unwrap_or_default();
        let named: Vec<&str> = named.keys().take(5).map(String::as_str).collect();
        let message = format!("engines of the type {engine_type} take no options ({})", named.join(", "));
        let failure = EngineFailure::new(FailureKind::InvalidRequest, INVALID_ENGINE_OPTIONS, message);
        Err(failure.with_reached(Reached::No))
    }
}

/// One attempt, as an adapter sees it.
#[derive(Clone)]
pub struct Call {
    pub execution_id: String,
    /// From 1; for engines and templates that want to know.
    pub attempt: u32,
    /// `{execution id}.{run}`, safe in a header ([`engine_key`](enginehouse_core::id::engine_key)): the same for every attempt
    /// that stands for the same engine run.
    pub idempotency_key: String,
    /// The `traceparent` under which the engine may hang what it traces; `None`: nothing is traced.
    pub traceparent: Option<String>,
    pub workflow_id: String,
    /// The inline definition as raw JSON.
    pub definition: Option<Bytes>,
    /// Name of the inline workflow, for people.
    pub workflow_name: Option<String>,
    /// Raw JSON; `null` when none were given.
    pub parameters: Bytes,
    /// What the caller wants of this engine type beside the parameters, as a raw JSON object.
    pub options: Option<Bytes>,
    /// The caller's session, if one was given.
    pub session_id: Option<String>,
    /// Index into the engine's configured endpoints.
    pub endpoint: usize,
    /// Take up this run instead of starting one.
    pub engine_run: Option<String>,
    /// An earlier attempt of this same run may have reached the engine and its answer was lost:
    /// an adapter whose engine has no idempotency looks the run up before it starts one.
    pub maybe_started: bool,
    /// Size above which a result is refused as `too_large`.
    pub result_bytes_max: usize,
    pub host: Arc<dyn Host>,
    pub stop: StopSignal,
}

impl Call {
    /// Stores the engine's run id; returns once it is durable. An error means the lease is gone: return at once, the
    /// worker drops the attempt.
    pub async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo> {
        self.host.attached(engine_run, can_reattach).await
    }

    /// Resolves when the run is to be stopped in the engine; pending forever otherwise.
    pub async fn stopped(&self) -> Stop {
        self.stop.clone().wait().await
    }
}

/// What the worker offers an adapter during a call.
#[async_trait]
pub trait Host: Send + Sync {
    async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo>;

    /// Reports that the engine made progress; also feeds the idle watchdog. Never blocks; may drop items.
    fn progress(&self, progress: Progress);

    /// Appends to the execution's logs, bounded; `line` is payload and is stored sealed.
    fn log(&self, line: &str);

    /// Small facts an adapter keeps between runs, shared by all nodes (such as the engine's id of an inline workflow,
    /// by its content hash). `None` when nothing is stored under `name`.
    async fn recall(&self, name: &str) -> Option<String>;

    /// Stores such a fact; the last write wins.
    async fn remember(&self, name: &str, value: &str);
}

/// A sign of life from a running workflow.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// 0 to 1 where the engine tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// What the engine said, as JSON; live only, never stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<ExactJson>,
}

impl Progress {
    /// What an engine says while it works. A JSON object may tell how far it is, as `{"progress": 0.5}`; what is too long
    /// is a sign of life only.
    #[must_use]
    pub fn of_text(text: &str) -> Progress {
        if text.is_empty() || text.len() > PROGRESS_BYTES_MAX {
            return Progress::default();
        }
        match ExactJson::parse_within(text, PROGRESS_DEPTH_MAX) {
            Ok(object) if object.get().starts_with('{') => {
                Progress { fraction: share_of(&object), data: Some(object) }
            }
            _ => Progress { fraction: None, data: Some(serde_json::Value::from(text).into()) },
        }
    }
}

/// How far a run is by the `progress` of what it says: 0 to 1.
pub(crate) fn share_of(data: &ExactJson) -> Option<f64> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(data.get()).ok()?;
    let share: f64 = serde_json::from_str(fields.get("progress")?.get()).ok()?;
    (0.0..=1.0).contains(&share).then_some(share)
}

/// The lease is gone; the adapter returns and its worker drops the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is gone")]
pub struct LetGo;

/// Why a run is to be stopped in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Cancel,
    Timeout,
}

/// Tells an attempt that its run is to be stopped in the engine.
#[derive(Debug, Clone)]
pub struct StopSignal(watch::Receiver<Option<Stop>>);

impl StopSignal {
    /// The sending half is the worker's; a dropped sender never stops anything.
    #[must_use]
    pub fn new() -> (watch::Sender<Option<Stop>>, StopSignal) {
        let (sender, receiver) = watch::channel(None);
        (sender, StopSignal(receiver))
    }

    #[must_use]
    pub fn requested(&self) -> Option<Stop> {
        *self.0.borrow()
    }

    pub async fn wait(&mut self) -> Stop {
        loop {
            let requested = *self.0.borrow_and_update();
            if let Some(stop) = requested {
                return stop;
            }
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Succeeded {
        /// The result as JSON.
        result: Bytes,
        /// The workflow stopped to ask a human.
        needs_input: bool,
    },
    Failed(EngineFailure),
    /// The engine stopped the run.
    Cancelled,
    /// [`Call::attached`] said so.
    LetGo,
}

/// A failure as the adapter classified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFailure {
    pub kind: FailureKind,
    /// A stable word that narrows the kind, such as `workflow_failed`.
    pub code: String,
    /// What the engine said, cut to a bounded size; payload. Never holds a secret.
    pub message: String,
    /// The HTTP status of the engine's answer, or the exit status of a command.
    pub engine_status: Option<i32>,
    pub retry_after: Option<Millis>,
    pub reached: Reached,
    /// Whether it is retried where no one says so; `None`: as its kind is.
    pub retried: Option<bool>,
}

/// How far a failed call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The request provably never reached the engine (connection refused, name not found): nothing is burnt.
    No,
    /// It may have, and the run's end is not known: reset or timed out, or a run that is known could not be asked for its end.
    Maybe,
    /// The engine answered.
    Yes,
}

impl EngineFailure {
    #[must_use]
    pub fn new(kind: FailureKind, code: &str, message: impl Into<String>) -> EngineFailure {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(enginehouse_core::limits::FAILURE_MESSAGE_BYTES_MAX));
        EngineFailure {
            kind,
            code: code.to_owned(),
            message,
            engine_status: None,
            retry_after: None,
            reached: Reached::Yes,
            retried: None,
        }
    }

    /// The engine took the request, or the run is over, and only what it said of it is of no use: started again, the
    /// workflow would run a second time, so that is not done by itself.
    #[must_use]
    pub fn not_repeated(self) -> EngineFailure {
        EngineFailure { reached: Reached::Yes, retried: Some(false), ..self }
    }

    #[must_use]
    pub fn with_status(self, status: i32) -> EngineFailure {
        EngineFailure { engine_status: Some(status), ..self }
    }

    #[must_use]
    pub fn with_retry_after(self, retry_after: Option<Millis>) -> EngineFailure {
        EngineFailure { retry_after, ..self }
    }

    #[must_use]
    pub fn with_reached(self, reached: Reached) -> EngineFailure {
        EngineFailure { reached, ..self }
    }
}

/// How an endpoint answered a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `None` where it cannot be asked: it has no such route, or does not let the service see it. Its work says how it is.
    pub healthy: Option<bool>,
    /// What it said, for people; never a secret.
    pub detail: String,
    pub latency: Millis,
}
