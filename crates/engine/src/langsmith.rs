//! LangSmith Deployment and every other LangGraph Agent Server.
//!
//! Each run has a thread of its own, or the thread of the caller's session. Both ids are derived, so a repeated submit
//! meets the run an earlier one started: the server refuses a second run on a busy thread, and a run carries the
//! idempotency key in its metadata, by which it is found again.
//!
//! Polling the run's status decides; the run's event stream only gives progress and says when to look. A status alone
//! is not the whole truth: a graph that stopped to ask has the status of one that is through.

mod end;
mod options;
mod replay;
mod wire;

use crate::client::{Answer, HttpClient, Poll, Request, StreamEvent, is_the_engines, watch_events};
use crate::config::{ConfigError, HttpSettings, PROGRESS_BYTES_MAX, PROGRESS_DEPTH_MAX};
use crate::contract::{
    Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Reached, Workflow, share_of,
};
use crate::tracked::{Started, Tracked, drive, run_lost};
use async_trait::async_trait;
use enginehouse_core::exact::ExactJson;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::REQUEST_BODY_BYTES_MAX;
use options::Options;
use tokio::sync::Notify;
use uuid::Uuid;

/// Thread ids are UUIDs of version 5 below this one.
const THREADS: Uuid = Uuid::from_u128(0x6f1d_2f0a_7c55_4d0e_9a43_5b1c_7e0f_8d21);
/// The server repeats the input in every answer about a run, with its own escapes.
const RUN_BYTES_MAX: usize = 4 * REQUEST_BODY_BYTES_MAX;

/// What an answer about a run may hold: its request is in it, which may be larger than usual.
fn run_bytes_max(call: &Call) -> usize {
    RUN_BYTES_MAX.max(4 * call.parameters.len())
}
/// Runs of a thread in one page of the list; the newest come first.
const RUNS_LISTED: usize = 100;
/// Pages that are looked through for a run. When a run was begun is not known to a later attempt, so age ends no search.
const PAGES_MAX: usize = 10;

/// A configured Agent Server.
#[derive(Debug, Clone)]
pub struct LangsmithConfig {
    /// The API key is sent as `x-api-key`.
    pub http: HttpSettings,
    /// What a run streams as progress, such as `custom`, `updates` or `messages`; empty for no stream at all.
    pub stream_modes: Vec<String>,
}

impl LangsmithConfig {
    /// Progress from the graphs' own events and from their steps.
    #[must_use]
    pub fn new(http: HttpSettings) -> LangsmithConfig {
        LangsmithConfig { http, stream_modes: vec!["custom".to_owned(), "updates".to_owned()] }
    }
}

/// The adapter.
pub struct Langsmith {
    client: HttpClient,
    stream_modes: Vec<String>,
}

impl Langsmith {
    /// # Errors
    /// A setting that cannot work, by its name.
    pub fn new(config: LangsmithConfig) -> Result<Langsmith, ConfigError> {
        let client = HttpClient::new(&config.http, Some("x-api-key"), &[])?;
        Ok(Langsmith { client, stream_modes: config.stream_modes })
    }

    fn run_request(&self, endpoint: usize, run: &RunId, rest: &[&str]) -> Result<Request, EngineFailure> {
        let (thread, id) = (run.thread.to_string(), run.run.to_string());
        let mut segments = vec!["threads", &*thread, "runs", &*id];
        segments.extend(rest);
        Ok(self.client.get(self.client.url(endpoint, &segments)?).body_bytes_max(RUN_BYTES_MAX))
    }

    /// Asks for a page of a thread's runs, the newest first.
    fn runs_request(&self, endpoint: usize, thread: Uuid, page: usize) -> Result<Request, EngineFailure> {
        let offset = (page * RUNS_LISTED).to_string();
        let request = self.newest_runs(endpoint, thread, RUNS_LISTED)?;
        Ok(if page == 0 { request } else { request.query("offset", &offset) })
    }

    fn newest_runs(&self, endpoint: usize, thread: Uuid, limit: usize) -> Result<Request, EngineFailure> {
        let url = self.client.url(endpoint, &["threads", &thread.to_string(), "runs"])?;
        let request = self.client.get(url).query("limit", &limit.to_string());
        let mut request = request.body_bytes_max(4 * RUN_BYTES_MAX);
        for column in ["run_id", "status", "metadata"] {
            request = request.query("select", column);
        }
        Ok(request)
    }

    /// The run of this idempotency key on a thread, if an earlier attempt started it. `Err` when this many runs came after that
    /// it cannot be found out.
    async fn find(&self, call: &Call, thread: Uuid) -> Result<Option<RunId>, EngineFailure> {
        for page in 0..PAGES_MAX {
            let (found, last) = self.find_in(call, thread, page).await?;
            if found.is_some() || last {
                return Ok(found);
            }
        }
        let message =
            "too many runs of the thread began since to find out whether the engine started this one";
        let failure = EngineFailure::new(FailureKind::BadResponse, "start_unknown", message);
        Err(failure.with_reached(Reached::Maybe))
    }

    /// The same on one page, and whether it is the last.
    async fn find_in(
        &self,
        call: &Call,
        thread: Uuid,
        page: usize,
    ) -> Result<(Option<RunId>, bool), EngineFailure> {
        let answer = self.client.send(self.runs_request(call.endpoint, thread, page)?).await?;
        match answer.status {
            200 => {
                let rows: Vec<wire::ListedRun> = answer.json()?;
                let last = rows.len() < RUNS_LISTED;
                let ours = rows.into_iter().find(|row| row.metadata.idempotency_key == call.idempotency_key);
                Ok((ours.map(|row| RunId { thread, run: row.run_id }), last))
            }
            404 => Ok((None, true)),
            _ => Err(self.client.refusal(&answer)),
        }
    }

    async fn submit(&self, call: &Call, thread: Uuid, options: &Options<'_>) -> Result<RunId, EngineFailure> {
        let body = wire::run_body(call, options, &self.stream_modes)?;
        let url = self.client.url(call.endpoint, &["threads", &thread.to_string(), "runs"])?;
        let answer =
            self.client.send(self.client.post(url, body).body_bytes_max(run_bytes_max(call))).await?;
        match answer.status {
            200..300 => {
                let created: wire::Created = answer.json()?;
                Ok(RunId { thread, run: created.run_id })
            }
            // What keeps a thread busy is among its newest runs.
            409 | 422 if is_busy(&answer) => match self.find_in(call, thread, 0).await?.0 {
                Some(run) => Ok(run),
                None => Err(self.busy(&answer)),
            },
            _ => Err(self.refused_start(&answer)),
        }
    }

    /// Another run is on the thread. The engine took nothing, and is well: only this execution waits.
    fn busy(&self, answer: &Answer) -> EngineFailure {
        let refusal = self.client.refusal(answer);
        EngineFailure { kind: FailureKind::Conflict, code: "thread_busy".to_owned(), ..refusal }
            .with_reached(Reached::No)
    }

    fn refused_start(&self, answer: &Answer) -> EngineFailure {
        let refusal = self.client.refusal(answer);
        let unknown = answer.status == 404
            || (answer.status == 422
                && crate::client::answer_text(&answer.body).starts_with("Invalid assistant"));
        if unknown {
            let code = "workflow_not_found".to_owned();
            EngineFailure { kind: FailureKind::NotFound, code, ..refusal }
        } else {
            refusal
        }
    }

    /// Waits until the run has a status that ends it.
    async fn until_ended(
        &self,
        call: &Call,
        run: &RunId,
        poll: &mut Poll,
    ) -> Result<wire::End, EngineFailure> {
        let ended = Notify::new();
        let watching = async {
            if !self.stream_modes.is_empty() {
                let open = || self.run_request(call.endpoint, run, &["stream"]);
                let on_event = |event: &StreamEvent| report(call, event);
                watch_events(&self.client, open, Some("-1".to_owned()), on_event, &ended).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(watching);
        let mut unnamed_before = false;
        loop {
            let told = poll
                .until_known(
                    &self.client,
                    || {
                        self.run_request(call.endpoint, run, &[])
                            .map(|request| request.body_bytes_max(run_bytes_max(call)))
                    },
                    |answer| match answer.status {
                        200..300 => of_this_run(run, answer.json()?).map(Some),
                        404 if wire::is_not_found(&answer) => Ok(None),
                        _ => Err(self.client.refusal(&answer)),
                    },
                )
                .await?;
            let Some(told) = told else { return Err(self.why_unknown(call, run, poll).await?) };
            match wire::End::of(&told.status) {
                // What does not name the run may be the word of something on the way, so it has to say so twice.
                Some(_) if told.run_id.is_none() && !unnamed_before => unnamed_before = true,
                Some(end) => return Ok(end),
                None => unnamed_before = false,
            }
            tokio::select! {
                biased;
                () = ended.notified() => poll.quicken(),
                () = &mut watching => {}
                () = poll.pause() => {}
            }
        }
    }

    /// What a run is that is said to be unknown: lost, if it is not on its thread either. The engine's own 404 has the form
    /// of that of any path that some server does not know.
    async fn why_unknown(
        &self,
        call: &Call,
        run: &RunId,
        poll: &mut Poll,
    ) -> Result<EngineFailure, EngineFailure> {
        let thread = run.thread.to_string();
        for page in 0..PAGES_MAX {
            let rows = poll
                .until_read(
                    &self.client,
                    || self.runs_request(call.endpoint, run.thread, page),
                    |answer| match answer.status {
                        200..300 => answer.json::<Vec<wire::ListedRun>>(),
                        404 if wire::is_not_found(&answer) && wire::names(&answer, &thread) => Ok(Vec::new()),
                        _ => Err(self.client.refusal(&answer)),
                    },
                )
                .await?;
            if rows.iter().any(|row| row.run_id == run.run) {
                let message = "the engine lists the run on its thread, but answers that there is no such run";
                return Ok(contradictory(message));
            }
            if rows.len() < RUNS_LISTED {
                return Ok(run_lost("the engine does not know this run any more"));
            }
        }
        let message =
            "the engine answers that there is no such run, and its thread has too many runs to look for it";
        Ok(contradictory(message))
    }

    async fn outcome(&self, call: &Call, run: &RunId) -> Result<Outcome, EngineFailure> {
        let mut poll = self.client.poll(call);
        let end = self.until_ended(call, run, &mut poll).await?;
        self.concluded(call, run, end, &mut poll).await
    }
}

#[async_trait]
impl Engine for Langsmith {
    fn engine_type(&self) -> &str {
        "langsmith"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: true,
            reattach: true,
            idempotent_submit: true,
            inline: false,
            progress: !self.stream_modes.is_empty(),
        }
    }

    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        if workflow.definition.is_some() {
            let message =
                "an Agent Server takes no workflow definitions; deploy the graph and name it by workflowId";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "inline_not_supported", message));
        }
        if workflow.id.trim().is_empty() {
            let message = "workflowId must name an assistant";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "invalid_workflow_id", message));
        }
        Options::read(workflow.options)?;
        wire::split_parameters(workflow.parameters).map(drop)
    }

    async fn run(&self, call: Call) -> Outcome {
        drive(self, &call).await
    }

    async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let run = RunId::parse(engine_run)?;
        let (thread, id) = (run.thread.to_string(), run.run.to_string());
        let url = self.client.url(endpoint, &["threads", &thread, "runs", &id, "cancel"])?;
        let request = self.client.request(reqwest::Method::POST, url);
        let answer = self.client.send(request.query("action", "interrupt").query("wait", "false")).await?;
        // Unknown and already ended runs are answered alike.
        if answer.takes_a_stop() { Ok(()) } else { Err(self.client.refusal(&answer)) }
    }

    async fn health(&self, endpoint: usize) -> Health {
        let accept = |answer: &Answer| answer.json::<wire::Ok>().is_ok_and(|answer| answer.ok);
        self.client.health(endpoint, &["ok"], accept).await
    }

    async fn check_key(&self, endpoint: usize) -> Result<bool, EngineFailure> {
        let url = self.client.url(endpoint, &["assistants", "search"]);
        let request = url.map(|url| self.client.post(url, r#"{"limit":1}"#));
        self.client.check_key(request, is_the_engines).await
    }
}

#[async_trait]
impl Tracked for Langsmith {
    async fn start(&self, call: &Call) -> Result<Started, EngineFailure> {
        let thread = thread_of(call);
        let options = Options::read(call.options.as_deref())?;
        let earlier = if call.maybe_started { self.find(call, thread).await? } else { None };
        let run = match earlier {
            Some(run) => run,
            None => self.submit(call, thread, &options).await?,
        };
        Ok(Started::Run(run.to_string()))
    }

    async fn follow(&self, call: &Call, engine_run: &str) -> Outcome {
        let outcome = match RunId::parse(engine_run) {
            Ok(run) => self.outcome(call, &run).await,
            Err(failure) => Err(failure),
        };
        outcome.unwrap_or_else(|failure| Outcome::Failed(self.client.scrubbed(failure)))
    }
}

/// The engine's run id, as it is stored: `thread/run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RunId {
    thread: Uuid,
    run: Uuid,
}

impl RunId {
    fn parse(text: &str) -> Result<RunId, EngineFailure> {
        text.split_once('/')
            .and_then(|(thread, run)| {
                Some(RunId { thread: Uuid::parse_str(thread).ok()?, run: Uuid::parse_str(run).ok()? })
            })
            .ok_or_else(|| run_lost("not a run id of an Agent Server"))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.thread, self.run)
    }
}

/// The session's thread, else one of this run's own. A session id that is a UUID is taken as it is, so that a caller
/// can go on with a thread made elsewhere.
fn thread_of(call: &Call) -> Uuid {
    match &call.session_id {
        Some(session) => match Uuid::parse_str(session) {
            Ok(thread) if session.len() == 36 => thread,
            _ => Uuid::new_v5(&THREADS, format!("session:{session}").as_bytes()),
        },
        None => Uuid::new_v5(&THREADS, format!("run:{}", call.idempotency_key).as_bytes()),
    }
}

/// A status that is about this run, as far as it says.
fn of_this_run(run: &RunId, told: wire::RunStatus) -> Result<wire::RunStatus, EngineFailure> {
    let of_run = told.run_id.is_none_or(|id| id == run.run);
    if of_run && told.thread_id.is_none_or(|thread| thread == run.thread) {
        return Ok(told);
    }
    Err(contradictory("the engine's answer is about another run"))
}

fn contradictory(message: &str) -> EngineFailure {
    EngineFailure::new(FailureKind::BadResponse, "contradictory_answer", message).with_reached(Reached::Maybe)
}

/// Whether a refusal says that the thread has a run already; servers of before 2025 say so with status 422.
fn is_busy(answer: &Answer) -> bool {
    answer.status == 409
        || crate::client::answer_text(&answer.body).to_ascii_lowercase().contains("already running a task")
}

fn report(call: &Call, event: &StreamEvent) {
    // The first event only repeats the run's id, and the final one is told by the outcome.
    if matches!(event.name.as_str(), "metadata" | "error" | "end") {
        return;
    }
    let data = Some(event.data.as_str()).filter(|data| data.len() <= PROGRESS_BYTES_MAX);
    let data = data.and_then(|data| ExactJson::parse_within(data, PROGRESS_DEPTH_MAX).ok());
    let fraction = if event.name == "custom" { data.as_ref().and_then(share_of) } else { None };
    let data = data.and_then(|data| wire::told(&event.name, &data));
    call.host.progress(Progress { fraction, data });
}
