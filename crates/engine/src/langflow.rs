//! Langflow, by its v2 background runs (or v1 where configured).
//!
//! A run is submitted with the idempotency key, so a repeated submit meets the same job. Polling the job decides; its
//! event stream only gives progress and says when to look. The status of an answer is not the job's: a failed job is
//! told with status 500 and one over its time limit with 408, so the body is read first.

mod inline;
mod request;
mod told;
mod truncation;
mod v1;
mod wire;

use crate::client::{
    Answer, HttpClient, Poll, Request, StreamEvent, check_result, is_the_engines, watch_events,
};
use crate::config::{ANSWER_BYTES_MAX, CONTROL_BYTES_MAX, ConfigError, HttpSettings};
use crate::contract::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Workflow};
use crate::tracked::{Started, Tracked, drive, run_lost};
use async_trait::async_trait;
use enginehouse_core::failure::FailureKind;
use request::Input;
use reqwest::Url;
use tokio::sync::Notify;
use told::Told;
use uuid::Uuid;

/// A configured Langflow.
#[derive(Debug, Clone)]
pub struct LangflowConfig {
    /// The API key is sent as `x-api-key`.
    pub http: HttpSettings,
    pub api: LangflowApi,
    /// Flows may come with a request. Anyone who sends one runs code on the engine.
    pub allow_inline: bool,
    /// `parameters.tweaks` are handed on. They change the fields of components.
    pub allow_tweaks: bool,
    /// `parameters.globals` are handed on. They stand in for the engine's global variables.
    pub allow_globals: bool,
    /// A run that asks a human is waited for instead of ended.
    pub wait_for_input: bool,
    /// A run's events are read for progress.
    pub progress: bool,
}

/// Which of Langflow's interfaces runs the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LangflowApi {
    /// Background jobs, which can be stopped and taken up again.
    #[default]
    V2,
    /// One request per run, for versions and flows that v2 does not serve: nothing can be stopped or taken up again.
    V1,
}

impl LangflowConfig {
    /// v2 with progress; nothing that gives a request power over the engine.
    #[must_use]
    pub fn new(http: HttpSettings) -> LangflowConfig {
        LangflowConfig {
            http,
            api: LangflowApi::default(),
            allow_inline: false,
            allow_tweaks: false,
            allow_globals: false,
            wait_for_input: false,
            progress: true,
        }
    }
}

/// The adapter.
pub struct Langflow {
    client: HttpClient,
    config: LangflowConfig,
}

impl Langflow {
    /// # Errors
    /// A setting that cannot work, by its name.
    pub fn new(config: LangflowConfig) -> Result<Langflow, ConfigError> {
        let client = HttpClient::new(&config.http, Some("x-api-key"), &[])?;
        Ok(Langflow { client, config })
    }

    fn input<'a>(&self, parameters: &'a [u8]) -> Result<Input<'a>, EngineFailure> {
        Input::read(parameters, self.config.allow_tweaks, self.config.allow_globals)
    }

    fn workflows_url(&self, endpoint: usize) -> Result<Url, EngineFailure> {
        self.client.url(endpoint, &["api", "v2", "workflows"])
    }

    async fn submit(&self, call: &Call, flow: &str) -> Result<Uuid, EngineFailure> {
        let body = wire::submit_body(call, flow, &self.input(&call.parameters)?)?;
        let answer = self.client.send(self.client.post(self.workflows_url(call.endpoint)?, body)).await?;
        match answer.status {
            200..300 => Ok(answer.json::<wire::Submitted>()?.job_id),
            _ => Err(self.refused(&answer)),
        }
    }

    /// What a refused submit says; only the engine's own word makes a flow unknown.
    fn refused(&self, answer: &Answer) -> EngineFailure {
        let refusal = self.client.refusal(answer);
        let code = wire::Refusal::of(answer).map(|refusal| refusal.code).unwrap_or_default();
        if answer.status == 404 && code == "FLOW_NOT_FOUND" {
            EngineFailure { code: "workflow_not_found".to_owned(), ..refusal }
        } else if answer.status == 405
            || (answer.status == 404 && wire::detail_text(answer).is_some_and(|detail| detail == "Not Found"))
        {
            let message = format!(
                "{}; a Langflow that has no /api/v2/workflows is spoken to with `api = \"v1\"` in the engine's configuration",
                refusal.message
            );
            EngineFailure::new(refusal.kind, "no_v2_interface", message).with_status(i32::from(answer.status))
        } else {
            refusal
        }
    }

    fn status_request(&self, call: &Call, job: Uuid) -> Result<Request, EngineFailure> {
        // A result comes twice, each time as text inside JSON.
        let bytes_max =
            call.result_bytes_max.saturating_mul(4).saturating_add(CONTROL_BYTES_MAX).min(ANSWER_BYTES_MAX);
        let limit = self.client.transfer_timeout();
        let request = self.client.get(self.workflows_url(call.endpoint)?).query("job_id", &job.to_string());
        Ok(request.within(limit, limit).body_bytes_max(bytes_max))
    }

    /// Waits until the job has ended, or asks a human and is not to wait for one.
    async fn until_ended(
        &self,
        call: &Call,
        job: Uuid,
        told: &Told,
        poll: &mut Poll,
    ) -> Result<wire::Job, EngineFailure> {
        let ended = Notify::new();
        let watching = async {
            if self.config.progress {
                let open = || self.events_request(call, job);
                let on_event = |event: &StreamEvent| {
                    if let Some(item) = told.take(event) {
                        call.host.progress(item);
                    }
                };
                watch_events(&self.client, open, None, on_event, &ended).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(watching);
        loop {
            let state = poll
                .until_known(
                    &self.client,
                    || self.status_request(call, job),
                    |answer| match wire::about(&answer, job)
                        .map_or_else(|f| Some(Err(f)), |()| wire::Job::read(&answer))
                    {
                        Some(job) => job.map(|job| (!matches!(job, wire::Job::Unknown)).then_some(job)),
                        None => Err(self.client.refusal(&answer)),
                    },
                )
                .await?;
            match state.unwrap_or(wire::Job::Unknown) {
                wire::Job::Going => {}
                wire::Job::Suspended if self.config.wait_for_input => {}
                state => return Ok(state),
            }
            tokio::select! {
                biased;
                () = ended.notified() => poll.quicken(),
                () = &mut watching => {}
                () = poll.pause() => {}
            }
        }
    }

    async fn outcome(&self, call: &Call, job: Uuid) -> Result<Outcome, EngineFailure> {
        let mut poll = self.client.poll(call);
        let told = Told::default();
        match self.until_ended(call, job, &told, &mut poll).await? {
            wire::Job::Completed(completed) => {
                if let Some(words) = self.error_message(call, job, &completed.components, &told).await {
                    return Err(wire::error_output(words));
                }
                let result = self.whole(call, job, completed).await?;
                check_result(&result, call.result_bytes_max)?;
                Ok(Outcome::Succeeded { result, needs_input: false })
            }
            wire::Job::Failed(failure) => Err(failure),
            wire::Job::Cancelled => Ok(Outcome::Cancelled),
            wire::Job::Unknown => Err(run_lost("the engine does not know this job any more")),
            wire::Job::Suspended | wire::Job::Going => {
                if let Err(failure) = self.cancel(call.endpoint, &job.to_string()).await {
                    tracing::warn!(execution = %call.execution_id, code = %failure.code, "a suspended job was not stopped");
                }
                let message = "the flow stopped to ask a human";
                Err(EngineFailure::new(FailureKind::EngineError, "needs_input", message))
            }
        }
    }
}

#[async_trait]
impl Engine for Langflow {
    fn engine_type(&self) -> &str {
        "langflow"
    }

    fn capabilities(&self) -> Capabilities {
        let v2 = self.config.api == LangflowApi::V2;
        Capabilities {
            cancel: v2,
            reattach: v2,
            idempotent_submit: v2,
            inline: self.config.allow_inline,
            progress: v2 && self.config.progress,
        }
    }

    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        workflow.without_options("langflow")?;
        self.input(workflow.parameters)?;
        let refuse =
            |code: &str, message: &str| Err(EngineFailure::new(FailureKind::InvalidRequest, code, message));
        match workflow.definition {
            Some(_) if !self.config.allow_inline => {
                refuse("inline_not_allowed", "this engine takes no workflow definitions (allow_inline)")
            }
            Some(definition) => inline::Flow::read(definition, None).map(drop),
            None if workflow.id.trim().is_empty() => {
                refuse("invalid_workflow_id", "workflowId must name a flow")
            }
            // Names of flows work in v1 only.
            None if self.config.api == LangflowApi::V2 && Uuid::parse_str(workflow.id).is_err() => {
                refuse("invalid_workflow_id", "workflowId must be the UUID of a flow")
            }
            None => Ok(()),
        }
    }

    async fn run(&self, call: Call) -> Outcome {
        // A job of v2 is followed to its end even where new runs go to v1.
        if self.config.api == LangflowApi::V2 || call.engine_run.is_some() {
            return drive(self, &call).await;
        }
        let outcome = self.run_v1(&call).await;
        outcome.unwrap_or_else(|failure| Outcome::Failed(self.client.scrubbed(failure)))
    }

    async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let job = parse_job(engine_run)?;
        let url = self.client.url(endpoint, &["api", "v2", "workflows", "stop"])?;
        let body = serde_json::json!({ "job_id": job }).to_string();
        let answer = self.client.send(self.client.post(url, body)).await?;
        // A job that is over or unknown needs no stop.
        if answer.takes_a_stop() { Ok(()) } else { Err(self.client.refusal(&answer)) }
    }

    async fn health(&self, endpoint: usize) -> Health {
        let accept = |answer: &Answer| answer.json::<wire::Ok>().is_ok_and(|answer| answer.status == "ok");
        self.client.health(endpoint, &["health_check"], accept).await
    }

    async fn check_key(&self, endpoint: usize) -> Result<bool, EngineFailure> {
        // A job that cannot be there: v2 looks at the key first. v1 tells whose key it is.
        match self.config.api {
            LangflowApi::V2 => {
                let nobody = Uuid::nil().to_string();
                let request = self.workflows_url(endpoint);
                let request = request.map(|url| self.client.get(url).query("job_id", &nobody));
                let unknown =
                    |answer: &Answer| matches!(wire::Job::read(answer), Some(Ok(wire::Job::Unknown)));
                self.client.check_key(request, unknown).await
            }
            LangflowApi::V1 => {
                let url = self.client.url(endpoint, &["api", "v1", "users", "whoami"]);
                self.client.check_key(url.map(|url| self.client.get(url)), is_the_engines).await
            }
        }
    }
}

#[async_trait]
impl Tracked for Langflow {
    async fn start(&self, call: &Call) -> Result<Started, EngineFailure> {
        let job = match &call.definition {
            None => self.submit(call, &call.workflow_id).await?,
            Some(definition) => {
                let flow = self.inline_flow(definition, call)?;
                let known = self.ensure_flow(call, &flow).await?;
                match self.submit(call, &flow.id).await {
                    // The engine lost what it was once given; it gets it again, once.
                    Err(failure) if known && failure.code == "workflow_not_found" => {
                        self.upload_flow(call, &flow).await?;
                        self.submit(call, &flow.id).await?
                    }
                    outcome => outcome?,
                }
            }
        };
        Ok(Started::Run(job.to_string()))
    }

    async fn follow(&self, call: &Call, engine_run: &str) -> Outcome {
        let outcome = match parse_job(engine_run) {
            Ok(job) => self.outcome(call, job).await,
            Err(failure) => Err(failure),
        };
        outcome.unwrap_or_else(|failure| Outcome::Failed(self.client.scrubbed(failure)))
    }
}

fn parse_job(engine_run: &str) -> Result<Uuid, EngineFailure> {
    Uuid::parse_str(engine_run).map_err(|_| run_lost("not a job id of Langflow"))
}
