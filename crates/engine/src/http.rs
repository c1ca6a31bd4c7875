//! `http`: any HTTP service by configuration.
//!
//! One request starts the work. Without a poll step its answer is the end, and if that is a stream of server-sent events, they
//! are progress and the last of them is the answer; with one it tells the service's own id of the run,
//! which is stored, polled, taken up again after a crash, and stopped by the cancel step if there is one. The host comes from
//! the configuration only; a value of a request enters a path as one percent-encoded segment.

mod pointer;
mod template;

use crate::client::{
    Answer, HttpClient, Request, StreamEvent, check_result, if_taken, send_told, single_string, watch_events,
};
use crate::config::{ConfigError, HttpSettings, STREAM_EVENT_BYTES_MAX};
use crate::contract::{
    Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Reached, Workflow,
};
use crate::tracked::{Started, Tracked, drive, run_lost};
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use minijinja::value::Value;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use template::{Templates, answer_values, request_values};
use tokio::sync::Notify;

/// A service that answers at the end of its work is bounded by the attempt, not by the request.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(366 * 24 * 3_600);

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
    /// Path of a health check; without it, any answer to `/` below 500 will do.
    pub health: Option<String>,
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
    /// Where in the answer to the request the service's id of the run is.
    pub run_id: String,
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
            health: None,
            idempotent: false,
        }
    }
}

impl HttpStep {
    #[must_use]
    pub fn new(method: &str, path: impl Into<String>) -> HttpStep {
        HttpStep { method: method.to_owned(), path: path.into(), headers: BTreeMap::new(), body: None }
    }

    fn method(&self, field: &str) -> Result<Method, ConfigError> {
        match self.method.as_str() {
            "GET" | "POST" | "PUT" | "PATCH" | "DELETE" => Method::from_bytes(self.method.as_bytes())
                .map_err(|error| ConfigError::new(format!("{field}.method"), error.to_string())),
            other => Err(ConfigError::new(
                format!("{field}.method"),
                format!("{other:?} is none of GET, POST, PUT, PATCH, DELETE"),
            )),
        }
    }

    fn compile(&self, field: &str, templates: &mut Templates) -> Result<(), ConfigError> {
        self.method(field)?;
        templates.add_path(&format!("{field}.path"), &self.path)?;
        for (name, value) in &self.headers {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                ConfigError::new(format!("{field}.headers.{name}"), "is not the name of a header")
            })?;
            templates.add_text(&format!("{field}.headers.{name}"), value)?;
        }
        match &self.body {
            Some(body) => templates.add_json(&format!("{field}.body"), body),
            None => Ok(()),
        }
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
            if let Some(events) = &poll.events {
                events.compile("follow.events", &mut templates)?;
            }
            templates.check_condition("follow.done", &poll.done)?;
            pointer::check(&poll.run_id).map_err(|text| ConfigError::new("follow.run_id", text))?;
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
        for (field, found) in [("result", &config.result), ("message", &config.message)] {
            if let Some(found) = found {
                pointer::check(found).map_err(|text| ConfigError::new(field, text))?;
            }
        }
        if let Some(template) = &config.result_template {
            templates.add_json("result_template", template)?;
        }
        Ok(Http { client, config, templates })
    }

    /// A step as a request to an endpoint.
    fn request(
        &self,
        field: &str,
        step: &HttpStep,
        endpoint: usize,
        values: &Value,
    ) -> Result<Request, EngineFailure> {
        let path = self.templates.path(&format!("{field}.path"), values)?;
        let method = step.method(field).map_err(|error| wrong(error.to_string()))?;
        let mut request = self.client.request(method, self.below(endpoint, &path)?);
        if step.body.is_some() {
            request = request.json(self.templates.json(&format!("{field}.body"), values)?);
        }
        for name in step.headers.keys() {
            let value = self.templates.text(&format!("{field}.headers.{name}"), values)?;
            let value = HeaderValue::from_str(&value)
                .map_err(|_| wrong(format!("the header {name} cannot be sent")))?;
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong(format!("the header {name} has no name")))?;
            request = request.header(name, value);
        }
        Ok(request)
    }

    /// The request that starts the work; the same for every attempt that stands for the same run.
    fn start_request(&self, call: &Call) -> Result<Request, EngineFailure> {
        let step = &self.config.request;
        let mut request = self.request("request", step, call.endpoint, &request_values(call, None))?;
        if step.body.is_none() && !matches!(step.method.as_str(), "GET" | "DELETE") {
            request = request.json(call.parameters.clone());
        }
        let key = HeaderValue::from_str(&call.idempotency_key)
            .map_err(|_| wrong("the key cannot be sent".to_owned()))?;
        Ok(request.header(HeaderName::from_static("idempotency-key"), key))
    }

    /// A rendered path below an endpoint, which it cannot leave.
    fn below(&self, endpoint: usize, path: &str) -> Result<Url, EngineFailure> {
        let base = self.client.endpoint(endpoint)?;
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = base.clone();
        url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
        url.set_query(query);
        if url.path().starts_with(base.path().trim_end_matches('/')) {
            Ok(url)
        } else {
            Err(wrong("the path leaves the endpoint".to_owned()))
        }
    }

    /// What an answer that ends the work means.
    fn conclude(&self, answer: &Answer, bytes_max: usize) -> Result<Outcome, EngineFailure> {
        let values = answer_values(answer.status, &answer.body);
        if let Some(failure) = &self.config.failure
            && self.templates.holds("failure", failure, &values)?
        {
            return Err(self.work_failed(answer));
        }
        if let Some(cancelled) = &self.config.cancelled
            && self.templates.holds("cancelled", cancelled, &values)?
        {
            return Ok(Outcome::Cancelled);
        }
        let success = match &self.config.success {
            Some(success) => self.templates.holds("success", success, &values)?,
            None => answer.is_success(),
        };
        if success {
            let result = self.result(answer, &values, bytes_max)?;
            check_result(&result, bytes_max)?;
            return Ok(Outcome::Succeeded { result, needs_input: false });
        }
        if answer.is_success() { Err(self.work_failed(answer)) } else { Err(self.client.refusal(answer)) }
    }

    fn result(&self, answer: &Answer, values: &Value, bytes_max: usize) -> Result<Bytes, EngineFailure> {
        let malformed = |text: String| {
            EngineFailure::new(FailureKind::BadResponse, "malformed_answer", text)
                .with_status(i32::from(answer.status))
                .with_reached(Reached::Maybe)
        };
        if self.config.result_template.is_some() {
            let text = self.templates.json_of_answer("result_template", values)?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text)
                .map_err(|error| malformed(format!("result_template makes no JSON: {error}")))?;
            return Ok(Bytes::from(text));
        }
        let Some(pointer) = &self.config.result else {
            let text = std::str::from_utf8(&answer.body)
                .map_err(|_| malformed("the answer is not UTF-8".to_owned()))?;
            // Text that is no JSON becomes a JSON string; JSON that is too deep stays what it is, and is refused.
            let trimmed = text.trim();
            if trimmed.starts_with(['{', '[']) {
                check_result(trimmed.as_bytes(), bytes_max)?;
            }
            return Ok(if text.trim().is_empty() {
                Bytes::from_static(b"null")
            } else {
                single_string(text)
            });
        };
        let json: Box<RawValue> = answer.json()?;
        match pointer::find(&json, pointer) {
            Some(found) => Ok(Bytes::copy_from_slice(found.get().as_bytes())),
            None => Err(malformed(format!("the answer has nothing at {pointer}"))),
        }
    }

    fn work_failed(&self, answer: &Answer) -> EngineFailure {
        let said = self.config.message.as_ref().and_then(|at| {
            let json: Box<RawValue> = answer.json().ok()?;
            pointer::text(&json, at)
        });
        let message = said.unwrap_or_else(|| self.client.refusal(answer).message);
        let failure = EngineFailure::new(FailureKind::EngineError, "workflow_failed", message);
        self.client.scrubbed(failure.with_status(i32::from(answer.status)))
    }

    async fn begin(&self, call: &Call) -> Result<Started, EngineFailure> {
        let request = self.start_request(call)?;
        let Some(follow) = &self.config.follow else {
            let request = request.within(AS_LONG_AS_IT_TAKES, AS_LONG_AS_IT_TAKES);
            let request = request.body_bytes_max(2 * call.result_bytes_max);
            let answer = send_told(&self.client, request, |event| self.tell(call, event)).await?;
            return self.conclude(&answer, call.result_bytes_max).map(Started::Ended);
        };
        let answer = self.client.send(request).await?;
        if !answer.is_success() {
            let values = answer_values(answer.status, &answer.body);
            let failed = match &self.config.failure {
                Some(failure) => self.templates.holds("failure", failure, &values)?,
                None => false,
            };
            return Err(if failed { self.work_failed(&answer) } else { self.client.refusal(&answer) });
        }
        let json: Box<RawValue> = answer.json()?;
        pointer::text(&json, &follow.run_id).map(Started::Run).ok_or_else(|| {
            let text = format!("the answer has no id of the run at {}", follow.run_id);
            EngineFailure::new(FailureKind::BadResponse, "no_run_id", text).with_reached(Reached::Maybe)
        })
    }

    /// Polls a run to its end; meanwhile its events, if the service has any, are told as progress.
    async fn outcome(
        &self,
        call: &Call,
        engine_run: &str,
        follow: &HttpFollow,
    ) -> Result<Outcome, EngineFailure> {
        let values = request_values(call, Some(engine_run));
        let ended = Notify::new();
        let polling = self.poll_to_the_end(call, &values, follow, &ended);
        tokio::select! {
            biased;
            outcome = polling => outcome,
            never = self.watch(call, &values, follow, &ended) => match never {},
        }
    }

    /// Tells a run's events as progress for as long as it is polled.
    async fn watch(&self, call: &Call, values: &Value, follow: &HttpFollow, ended: &Notify) -> Infallible {
        if let Some(events) = &follow.events {
            let open = || self.request("follow.events", events, call.endpoint, values);
            let on_event = |event: &StreamEvent| self.tell(call, event);
            watch_events(&self.client, open, None, on_event, ended).await;
        }
        std::future::pending().await
    }

    /// An event that is too large for a live one is a sign of life.
    fn tell(&self, call: &Call, event: &StreamEvent) {
        let data = Some(event.data.as_str()).filter(|data| data.len() <= STREAM_EVENT_BYTES_MAX);
        call.host.progress(Progress::of_text(&self.client.scrub(data.unwrap_or_default())));
    }

    async fn poll_to_the_end(
        &self,
        call: &Call,
        values: &Value,
        follow: &HttpFollow,
        stream_ended: &Notify,
    ) -> Result<Outcome, EngineFailure> {
        let mut poll = self.client.poll(call).doubting();
        let limit = self.client.transfer_timeout();
        loop {
            let ended = poll
                .until_known(
                    &self.client,
                    || {
                        let request = self.request("follow", &follow.step, call.endpoint, values)?;
                        Ok(request.within(limit, limit).body_bytes_max(2 * call.result_bytes_max))
                    },
                    |answer| self.polled(follow, answer),
                )
                .await?;
            match ended {
                Some(Polled::Ended(answer)) => return self.conclude(&answer, call.result_bytes_max),
                None => return Err(run_lost("the service does not know this run any more")),
                Some(Polled::GoesOn) => {}
            }
            tokio::select! {
                biased;
                () = stream_ended.notified() => poll.quicken(),
                () = poll.pause() => {}
            }
        }
    }

    /// `None`: the service says, in its JSON, that it knows no such run.
    fn polled(&self, follow: &HttpFollow, answer: Answer) -> Result<Option<Polled>, EngineFailure> {
        match answer.status {
            404 | 410 if answer.json::<serde::de::IgnoredAny>().is_ok() => Ok(None),
            // It says nothing about the run; what passes is waited for.
            status if !(200..300).contains(&status) => Err(self.client.refusal(&answer)),
            _ => {
                let _: serde::de::IgnoredAny = answer.json()?;
                let values = answer_values(answer.status, &answer.body);
                if self.templates.holds("follow.done", &follow.done, &values)? {
                    Ok(Some(Polled::Ended(Box::new(answer))))
                } else {
                    Ok(Some(Polled::GoesOn))
                }
            }
        }
    }
}

/// What a poll said.
enum Polled {
    Ended(Box<Answer>),
    GoesOn,
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
        Tracked::cancel(self, endpoint, engine_run).await
    }

    async fn health(&self, endpoint: usize) -> Health {
        let path = self.config.health.as_deref();
        let begun = tokio::time::Instant::now();
        let answer = match self.below(endpoint, path.unwrap_or("/")) {
            Ok(url) => self.client.send(self.client.get(url)).await,
            Err(failure) => Err(failure),
        };
        let latency = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (healthy, detail) = match answer {
            Ok(answer) if answer.is_success() => (true, "ok".to_owned()),
            // Whether a key is wrong shows at any path.
            Ok(answer) if path.is_none() && answer.status < 500 && !matches!(answer.status, 401 | 403) => {
                (true, format!("answers (status {})", answer.status))
            }
            Ok(answer) => (false, self.client.refusal(&answer).message),
            Err(failure) => (false, failure.message),
        };
        Health { healthy, detail, latency }
    }
}

#[async_trait]
impl Tracked for Http {
    async fn start(&self, call: &Call) -> Result<Started, EngineFailure> {
        let started = self.begin(call).await;
        if self.config.idempotent { started } else { started.map_err(if_taken) }
    }

    async fn follow(&self, call: &Call, engine_run: &str) -> Outcome {
        let outcome = match &self.config.follow {
            Some(follow) => self.outcome(call, engine_run, follow).await,
            None => Err(run_lost("this service has no follow step any more")),
        };
        outcome.unwrap_or_else(|failure| Outcome::Failed(self.client.scrubbed(failure)))
    }

    async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let Some(cancel) = &self.config.cancel else {
            let text = "this service has no cancel step";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "cannot_cancel", text));
        };
        if engine_run.chars().any(char::is_control) {
            return Err(run_lost("not the id of a run"));
        }
        let values = minijinja::context! { run_id => engine_run };
        let answer = self.client.send(self.request("cancel", cancel, endpoint, &values)?).await?;
        match answer.status {
            // Unknown and already ended runs have nothing left to stop.
            200..300 | 404 | 409 | 410 => Ok(()),
            _ => Err(self.client.refusal(&answer)),
        }
    }

    fn can_reattach(&self) -> bool {
        self.config.follow.is_some()
    }
}

fn wrong(text: String) -> EngineFailure {
    EngineFailure::new(FailureKind::InvalidRequest, "invalid_request", text)
}
