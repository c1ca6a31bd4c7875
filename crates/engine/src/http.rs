//! `http`: any HTTP service by configuration.
//!
//! One request starts the work. Without a poll step its answer is the end, and if that is a stream of server-sent events, they
//! are progress and one of them is the answer; with one it tells the service's own id of the run, or the URL of its status,
//! which is stored, polled, taken up again after a crash, and stopped by the cancel step if there is one. The host comes from
//! the configuration only; a value of a request enters a path as one percent-encoded segment.

mod answer;
mod follow;
mod pointer;
mod request;
mod stream;
mod template;
mod values;

pub use stream::HttpStream;

use crate::client::{HttpClient, StreamEvent, if_taken};
use crate::config::{ConfigError, HttpSettings, STREAM_EVENT_BYTES_MAX};
use crate::contract::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Workflow};
use crate::tracked::{Started, Tracked, drive, run_lost};
use async_trait::async_trait;
use enginehouse_core::failure::FailureKind;
use std::collections::BTreeMap;
use std::time::Duration;
use stream::{Told, send_told};
use template::Templates;

/// A service that answers at the end of its work is bounded by the attempt, not by the request.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What makes it safe to send a request again.
const REMEDY: &str = "say `idempotent = true` where the service recognises a repeat by its Idempotency-Key";

/// Says that something stands in the `Location` header of an answer instead of its body.
pub const LOCATION: &str = "location";

/// A configured HTTP service.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The API key is sent as `x-api-key`.
    pub http: HttpSettings,
    /// Starts the work.
    pub request: HttpStep,
    /// Asks how it is doing; without it the answer to `request` is the end.
    pub follow: Option<HttpFollow>,
    /// Stops it; its templates see `run_id` only.
    pub cancel: Option<HttpStep>,
    /// Whether an answer means success; without it, a status of 200 to 299. Sees `status` and `body`.
    pub success: Option<String>,
    /// Whether an answer means that the work itself failed.
    pub failure: Option<String>,
    /// Whether an answer means that the run was stopped.
    pub cancelled: Option<String>,
    /// Where in the answer the result is; without it, all of it.
    pub result: Option<String>,
    /// Makes the result (JSON) from the answer; wins over `result`.
    pub result_template: Option<String>,
    /// Where in a failed answer its message is.
    pub message: Option<String>,
    /// How an answer is read that is a stream of events.
    pub stream: HttpStream,
    /// The service recognises a repeated request by its `Idempotency-Key`.
    pub idempotent: bool,
}

/// One request, made from templates.
#[derive(Debug, Clone)]
pub struct HttpStep {
    pub method: String,
    /// Below the endpoint's URL, with an optional query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// JSON; without it the parameters as they are, for methods that have a body.
    pub body: Option<String>,
}

/// How a run is followed.
#[derive(Debug, Clone)]
pub struct HttpFollow {
    /// Where in the answer to the request the service's id of the run is: a JSON pointer, or [`LOCATION`] for the last part of
    /// the path of its `Location` header.
    pub run_id: String,
    /// Where in that answer the URL of the run's status is, as a JSON pointer or [`LOCATION`]. It stands for the run, and
    /// `step` is not used. Of a URL only path and query count.
    pub status_url: Option<String>,
    /// Where in a polled answer the URL of the result is, as a JSON pointer or [`LOCATION`]; asked for at the end.
    pub result_url: Option<String>,
    /// Where in a polled answer the id of its run is, as a JSON pointer: one that names another is not believed.
    pub polled_id: Option<String>,
    pub step: HttpStep,
    /// Whether a polled answer is the end; `success` and `failure` then say which.
    pub done: String,
    /// Server-sent events of the run, read for progress while it is polled. Its end says to look at once.
    pub events: Option<HttpStep>,
}

impl HttpConfig {
    /// A POST of the parameters whose answer is the result.
    #[must_use]
    pub fn new(http: HttpSettings, path: impl Into<String>) -> HttpConfig {
        HttpConfig {
            http,
            request: HttpStep::new("POST", path),
            follow: None,
            cancel: None,
            success: None,
            failure: None,
            cancelled: None,
            result: None,
            result_template: None,
            message: None,
            stream: HttpStream::default(),
            idempotent: false,
        }
    }
}

impl HttpStep {
    #[must_use]
    pub fn new(method: &str, path: impl Into<String>) -> HttpStep {
        HttpStep { method: method.to_owned(), path: path.into(), headers: BTreeMap::new(), body: None }
    }
}

/// The adapter.
pub struct Http {
    client: HttpClient,
    config: HttpConfig,
    templates: Templates,
}

impl Http {
    /// # Errors
    /// A setting that cannot work, by its name.
    pub fn new(config: HttpConfig) -> Result<Http, ConfigError> {
        let client = HttpClient::new(&config.http, Some("x-api-key"), &[])?;
        let mut templates = Templates::new();
        config.request.compile("request", &mut templates)?;
        if let Some(poll) = &config.follow {
            poll.step.compile("follow", &mut templates)?;
            if let Some(place) = &poll.polled_id {
                pointer::check(place).map_err(|text| ConfigError::new("follow.polled_id", text))?;
            }
            if let Some(events) = &poll.events {
                events.compile("follow.events", &mut templates)?;
            }
            templates.check_condition("follow.done", &poll.done)?;
            for (field, place) in [
                ("follow.run_id", Some(&poll.run_id)),
                ("follow.status_url", poll.status_url.as_ref()),
                ("follow.result_url", poll.result_url.as_ref()),
            ] {
                if let Some(place) = place.filter(|place| *place != LOCATION) {
                    pointer::check(place).map_err(|text| ConfigError::new(field, text))?;
                }
            }
        }
        if let Some(cancel) = &config.cancel {
            if config.follow.is_none() {
                return Err(ConfigError::new(
                    "cancel",
                    "needs follow: without the id of a run nothing can be stopped",
                ));
            }
            cancel.compile("cancel", &mut templates)?;
        }
        for (field, condition) in
            [("success", &config.success), ("failure", &config.failure), ("cancelled", &config.cancelled)]
        {
            if let Some(condition) = condition {
                templates.check_condition(field, condition)?;
            }
        }
        let pointers =
            [("result", &config.result), ("message", &config.message), ("stream.join", &config.stream.join)];
        for (field, found) in pointers {
            if let Some(found) = found {
                pointer::check(found).map_err(|text| ConfigError::new(field, text))?;
            }
        }
        if let Some(template) = &config.result_template {
            templates.add_json("result_template", template)?;
        }
        Ok(Http { client, config, templates })
    }
}

#[async_trait]
impl Engine for Http {
    fn engine_type(&self) -> &str {
        "http"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: self.config.cancel.is_some(),
            reattach: self.config.follow.is_some(),
            idempotent_submit: self.config.idempotent,
            inline: false,
            progress: self.config.follow.as_ref().is_none_or(|follow| follow.events.is_some()),
        }
    }

    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        workflow.without_options("http")?;
        if workflow.definition.is_some() {
            let text = "an HTTP service takes no workflow definitions";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "inline_not_supported", text));
        }
        Ok(())
    }

    async fn run(&self, call: Call) -> Outcome {
        drive(self, &call).await
    }

    async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let Some(cancel) = &self.config.cancel else {
            let text = "this service has no cancel step";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "cannot_cancel", text));
        };
        let values = self.run_values(engine_run)?;
        let answer = self.client.send(self.request("cancel", cancel, endpoint, &values)?).await?;
        // Unknown and already ended runs have nothing left to stop.
        if answer.takes_a_stop() { Ok(()) } else { Err(self.client.refusal(&answer)) }
    }

    async fn health(&self, endpoint: usize) -> Health {
        // Any path will do to see that someone answers.
        self.client.health(endpoint, &[], |_| true).await
    }

    async fn check_key(&self, endpoint: usize) -> Result<bool, EngineFailure> {
        if self.config.http.api_key.is_none() && self.config.http.headers.is_empty() {
            return Ok(false);
        }
        self.client.check_key_at_health(endpoint).await
    }
}

impl Http {
    async fn begin(&self, call: &Call) -> Result<Started, EngineFailure> {
        let request = self.start_request(call)?;
        if let Some(follow) = &self.config.follow {
            let answer = self.client.send(request).await?;
            return self.begun(call, follow, &answer).map(Started::Run);
        }
        let request = request.within(AS_LONG_AS_IT_TAKES, AS_LONG_AS_IT_TAKES);
        let request = request.body_bytes_max(2 * call.result_bytes_max);
        match send_told(&self.client, request, &self.config.stream, |event| self.tell(call, event)).await? {
            Told::Failed(answer) => Err(self.stream_failed(&answer)),
            Told::Answer(answer) => self.conclude(&answer, call.result_bytes_max).map(Started::Ended),
        }
    }

    /// An event that is too large for a live one is a sign of life.
    fn tell(&self, call: &Call, event: &StreamEvent) {
        let data = Some(event.data.as_str()).filter(|data| data.len() <= STREAM_EVENT_BYTES_MAX);
        call.host.progress(Progress::of_text(&self.client.scrub(data.unwrap_or_default())));
    }
}

#[async_trait]
impl Tracked for Http {
    async fn start(&self, call: &Call) -> Result<Started, EngineFailure> {
        let started = self.begin(call).await;
        if self.config.idempotent { started } else { started.map_err(|failure| if_taken(failure, REMEDY)) }
    }

    async fn follow(&self, call: &Call, engine_run: &str) -> Outcome {
        let outcome = match &self.config.follow {
            Some(follow) => self.outcome(call, engine_run, follow).await,
            None => Err(run_lost("this service has no follow step any more")),
        };
        outcome.unwrap_or_else(|failure| Outcome::Failed(self.client.scrubbed(failure)))
    }

    fn tells_stops(&self) -> bool {
        self.config.success.is_some() || self.config.cancelled.is_some()
    }
}
