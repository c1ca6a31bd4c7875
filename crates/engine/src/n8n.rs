//! n8n: workflows started by their webhook, followed and stopped through the public API.
//!
//! n8n lets no caller choose an execution's id. A workflow tells it (*track*, *ack*), or the execution is found by the
//! header `x-execution-key` it was called with (*lookup*), which n8n keeps with the execution. The same look-up comes
//! before anything is repeated whose answer was lost, because n8n runs a repeated request twice.

mod data;
mod end;
mod find;
mod inline;
mod start;
mod wire;
mod workflow;

pub use workflow::{N8nMode, N8nWebhook};

use crate::client::{Answer, HttpClient, Request, check_base, is_the_engines, url_below};
use crate::config::{ANSWER_BYTES_MAX, ConfigError, HttpSettings};
use crate::contract::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Reached, Workflow};
use crate::tracked::{Started, Tracked, drive, run_lost};
use async_trait::async_trait;
use enginehouse_core::failure::FailureKind;
use reqwest::{Method, Url};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use workflow::Known;

/// n8n registers its webhooks some time after it begins to answer, or after an activation.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// A configured n8n.
#[derive(Debug, Clone)]
pub struct N8nConfig {
    /// The API key is sent as `X-N8N-API-KEY`, and never to a webhook.
    pub http: HttpSettings,
    /// How workflows are called, by their id. Others are asked for through the API and called by what they say.
    pub workflows: BTreeMap<String, N8nWebhook>,
    /// Workflows may come with a request. Anyone who sends one runs code on the engine.
    pub allow_inline: bool,
    /// Where webhooks are called, if that is not where the API is; for an engine with one endpoint.
    pub webhook_url: Option<String>,
    /// The first part of a webhook's path (`N8N_ENDPOINT_WEBHOOK`).
    pub webhook_prefix: String,
    /// What a result says of files.
    pub files: N8nFiles,
}

/// What a result says of the files of its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum N8nFiles {
    /// Name, type and size.
    #[default]
    Metadata,
    /// Their bytes, too, where n8n keeps those with the execution (`N8N_DEFAULT_BINARY_DATA_MODE=default`).
    Base64,
}

impl N8nConfig {
    /// No workflow is configured, and none may come with a request.
    #[must_use]
    pub fn new(http: HttpSettings) -> N8nConfig {
        N8nConfig {
            http,
            workflows: BTreeMap::new(),
            allow_inline: false,
            webhook_url: None,
            webhook_prefix: "webhook".to_owned(),
            files: N8nFiles::default(),
        }
    }
}

/// The adapter.
pub struct N8n {
    client: HttpClient,
    config: N8nConfig,
    /// What stands in the place of the endpoint's URL for webhooks.
    webhook_base: Option<Url>,
    /// Workflows the API described, by endpoint and id.
    known: Mutex<BTreeMap<(usize, String), Known>>,
    /// One copy is made at a time, so that two first executions of a definition share it.
    copying: tokio::sync::Mutex<()>,
    /// When n8n was last seen starting, or this adapter itself began.
    unsettled: Mutex<Instant>,
    /// The key opened the API once; until then nothing is started that could not be followed.
    key_is_good: Mutex<bool>,
    /// Workflows for which it was said what is missing while they run.
    warned: Mutex<BTreeSet<String>>,
}

impl N8n {
    /// # Errors
    /// A setting that cannot work, by its name.
    pub fn new(config: N8nConfig) -> Result<N8n, ConfigError> {
        for (id, webhook) in &config.workflows {
            webhook.check().map_err(|message| ConfigError::new(format!("workflows.{id}.path"), message))?;
        }
        let secrets: Vec<_> = config
            .workflows
            .values()
            .flat_map(|webhook| webhook.headers.iter().map(|(_, value)| value.clone()))
            .collect();
        let client = HttpClient::new(&config.http, Some("x-n8n-api-key"), &secrets)?;
        let webhook_base = config.webhook_url.as_deref().map(webhook_base).transpose()?;
        if webhook_base.is_some() && config.http.endpoints.len() != 1 {
            let message = "is for an engine with one endpoint; make an engine of each n8n";
            return Err(ConfigError::new("webhook_url", message));
        }
        workflow::check_path(&config.webhook_prefix)
            .map_err(|message| ConfigError::new("webhook_prefix", message))?;
        Ok(N8n {
            client,
            config,
            webhook_base,
            known: Mutex::default(),
            copying: tokio::sync::Mutex::default(),
            unsettled: Mutex::new(Instant::now()),
            key_is_good: Mutex::new(false),
            warned: Mutex::default(),
        })
    }

    fn api(&self, endpoint: usize, segments: &[&str]) -> Result<Url, EngineFailure> {
        let mut all = vec!["api", "v1"];
        all.extend(segments);
        self.client.url(endpoint, &all)
    }

    /// The URL of a webhook, or of the tests of whether there is one.
    fn webhook(&self, endpoint: usize, path: &str) -> Result<Url, EngineFailure> {
        let base = match &self.webhook_base {
            Some(base) => base,
            None => self.client.endpoint(endpoint)?,
        };
        let mut segments: Vec<&str> = workflow::segments(&self.config.webhook_prefix).collect();
        segments.extend(workflow::segments(path));
        url_below(base, &segments)
    }

    /// Asks the API; a refused key is noted, so that the next call looks at it first.
    async fn ask(&self, request: Request) -> Result<Answer, EngineFailure> {
        let answer = self.client.send(request).await;
        match &answer {
            Ok(answer) if matches!(answer.status, 401 | 403) => *lock(&self.key_is_good) = false,
            Ok(answer) if matches!(answer.status, 502..=504) => *lock(&self.unsettled) = Instant::now(),
            Err(failure) if failure.kind == FailureKind::Connection => {
                *lock(&self.unsettled) = Instant::now()
            }
            _ => {}
        }
        answer
    }

    /// What an answer says that is no success. While n8n starts, it knows none of its own paths yet.
    fn refusal(&self, answer: &Answer) -> EngineFailure {
        let refusal = self.client.refusal(answer);
        if answer.status == 404 && !is_n8n(answer) {
            return EngineFailure { kind: FailureKind::Unavailable, code: "not_ready".to_owned(), ..refusal };
        }
        refusal
    }

    /// Makes sure that what is started can be followed.
    async fn check_key(&self, endpoint: usize) -> Result<(), EngineFailure> {
        if *lock(&self.key_is_good) {
            return Ok(());
        }
        let request = self.client.get(self.api(endpoint, &["executions"])?).query("limit", "1");
        let answer = self.ask(request).await.map_err(not_started)?;
        if !answer.is_success() {
            return Err(self.refusal(&answer));
        }
        *lock(&self.key_is_good) = true;
        Ok(())
    }

    fn is_settling(&self) -> bool {
        lock(&self.unsettled).elapsed() < SETTLES_WITHIN
    }

    fn execution(&self, endpoint: usize, id: &str, with_data: bool) -> Result<Request, EngineFailure> {
        let request = self.client.get(self.api(endpoint, &["executions", id])?);
        if !with_data {
            return Ok(request);
        }
        let limit = self.client.transfer_timeout();
        // The data of every node comes with the result of the last one.
        Ok(request.query("includeData", "true").within(limit, limit).body_bytes_max(ANSWER_BYTES_MAX))
    }
}

#[async_trait]
impl Engine for N8n {
    fn engine_type(&self) -> &str {
        "n8n"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: true,
            reattach: true,
            idempotent_submit: true,
            inline: self.config.allow_inline,
            progress: false,
        }
    }

    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        workflow.without_options("n8n")?;
        if let Some(definition) = workflow.definition {
            self.inline_allowed()?;
            return inline::Copy::read(definition, None).map(drop);
        }
        if workflow.id.trim().is_empty() {
            let message = "workflowId must be the id of a workflow";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "invalid_workflow_id", message));
        }
        Ok(())
    }

    async fn run(&self, call: Call) -> Outcome {
        drive(self, &call).await
    }

    async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        if !wire::is_id(engine_run) {
            return Err(run_lost("not the id of an n8n execution"));
        }
        let url = self.api(endpoint, &["executions", engine_run, "stop"])?;
        let answer = self.ask(self.client.request(Method::POST, url)).await?;
        // Unknown and already ended executions have nothing left to stop.
        if answer.takes_a_stop() { Ok(()) } else { Err(self.refusal(&answer)) }
    }

    async fn health(&self, endpoint: usize) -> Health {
        let accept =
            |answer: &Answer| answer.json::<wire::Readiness>().is_ok_and(|answer| answer.status == "ok");
        self.client.health(endpoint, &["healthz", "readiness"], accept).await
    }

    async fn check_key(&self, endpoint: usize) -> Result<bool, EngineFailure> {
        let url = self.api(endpoint, &["executions"]);
        self.client.check_key(url.map(|url| self.client.get(url).query("limit", "1")), is_the_engines).await
    }
}

#[async_trait]
impl Tracked for N8n {
    async fn start(&self, call: &Call) -> Result<Started, EngineFailure> {
        let started = self.begin(call).await;
        started.map(Started::Run).map_err(|failure| self.client.scrubbed(failure))
    }

    async fn follow(&self, call: &Call, engine_run: &str) -> Outcome {
        let outcome = self.outcome(call, engine_run).await;
        outcome.unwrap_or_else(|failure| Outcome::Failed(self.client.scrubbed(failure)))
    }
}

fn webhook_base(url: &str) -> Result<Url, ConfigError> {
    check_base(url).map_err(|message| ConfigError::new("webhook_url", message))
}

/// Whether an answer is n8n's own: something else on the way may not know the path either.
fn is_n8n(answer: &Answer) -> bool {
    answer
        .json::<serde_json::Map<String, serde_json::Value>>()
        .is_ok_and(|fields| fields.contains_key("message"))
}

/// The failure of a request that only prepared a start, so that no run can be open.
fn not_started(failure: EngineFailure) -> EngineFailure {
    match failure.reached {
        Reached::Maybe => failure.with_reached(Reached::Yes),
        _ => failure,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
