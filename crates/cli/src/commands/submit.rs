//! Submitting: one execution from flags or a file, or many from an NDJSON file.

use super::executions::{ABANDONED, NEEDS_INPUT, parse_priority};
use super::follow::{Outages, follow, has_ended, over};
use super::ndjson::{self, Ndjson};
use super::output::{Output, failure_text, printable};
use super::printable::tell;
use super::{Exit, Failure};
use clap::Args;
use enginehouse::plain_text;
use enginehouse_api::client::{Client, ClientError, ServerEvent, SubmitAnswer};
use enginehouse_api::{
    Code, ExecutionView, FailureView, InlineWorkflow, PriorityName, RetryRequest, Span, SubmitRequest,
    Timestamp, lone_surrogate,
};
use enginehouse_core::execution::Status;
use enginehouse_core::limits::REQUEST_BODY_MIB_MAX;
use enginehouse_core::time::Time;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;
use tokio::time::Instant;

const EXAMPLES: &str = "\
Examples:
  enginehouse submit --type demo --workflow hello --params '{\"echo\": \"hi\"}' --wait
  enginehouse submit --engine n8n-prod --workflow orders --params @order.json --priority HIGH
  jq -c . order.json | enginehouse submit --type langflow --workflow 3fa8... --params - --wait --json
  enginehouse submit --type http --workflow report --delay 2h --expires-in 1d --tag nightly
  enginehouse submit --file requests.ndjson      one request a line; run it again to resume";

/// How long one repeat of a submit waits for the end.
const WAIT_AT_ONCE: Duration = Duration::from_secs(30);

/// What to run, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Submit {
    /// Engine type: n8n, langflow, langsmith, http, command, demo
    #[arg(long = "type", value_name = "TYPE")]
    engine_type: Option<String>,
    /// Name of a configured engine; wins over --type
    #[arg(long)]
    engine: Option<String>,
    /// The engine's id of the workflow
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// A workflow definition to run instead, where the engine allows it: JSON, @FILE or - for standard input
    #[arg(long, value_name = "JSON")]
    definition: Option<String>,
    /// Name of that definition, for people
    #[arg(long, requires = "definition", value_name = "NAME")]
    definition_name: Option<String>,
    /// What the workflow gets: JSON, @FILE or - for standard input
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// What the engine type takes beside that, such as '{"recursionLimit": 50}': JSON, @FILE or - for standard input
    #[arg(long, value_name = "JSON")]
    engine_options: Option<String>,
    /// Your own unique id; the same id with the same request returns the same execution
    #[arg(long)]
    id: Option<String>,
    /// The same key with the same request returns the same execution
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// LOW, NORMAL, HIGH or CRITICAL
    #[arg(long, value_parser = parse_priority)]
    priority: Option<PriorityName>,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    retry: RetryArgs,
    /// User it belongs to; users share the workers fairly
    #[arg(long)]
    user: Option<String>,
    /// Executions with the same key run one after the other
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// The engine's session or thread
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Never start it twice, even when its end is unknown
    #[arg(long)]
    at_most_once: bool,
    /// Fail at once instead of waiting for an engine that is down
    #[arg(long)]
    fail_fast: bool,
    /// A tag to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Kept with the execution; the value is JSON if it reads as such; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, Box<RawValue>)>,
    /// URL to call when the execution ends
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    /// A whole request as the API takes it: JSON, @FILE or - for standard input; the flags above win over it
    #[arg(long, value_name = "JSON", conflicts_with = "file")]
    request: Option<String>,
    /// Wait for the end, print the result, and exit by the outcome
    #[arg(long, conflicts_with = "file")]
    wait: bool,
    /// With --wait: give up waiting after this time; the execution goes on
    #[arg(long, requires = "wait", value_name = "DURATION")]
    wait_for: Option<Span>,
    #[command(flatten)]
    ndjson: Ndjson,
}

/// When, and for how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Times (milliseconds, or text like 30s, 5m, 2h, 7d)")]
struct Times {
    /// Time limit of one attempt
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// Time limit of all attempts and waits together
    #[arg(long, value_name = "DURATION")]
    total_timeout: Option<Span>,
    /// Fail if it has not started within this time
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
    /// Time limit for a silent engine
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<Span>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    ready_at: Option<Timestamp>,
    /// Start it after this delay
    #[arg(long, value_name = "DURATION")]
    delay: Option<Span>,
}

/// When to try again.
#[derive(Debug, Args)]
#[command(next_help_heading = "Retries")]
struct RetryArgs {
    /// Attempts beyond the first
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// Upper bound of the first back-off
    #[arg(long, value_name = "DURATION")]
    retry_delay: Option<Span>,
    /// How the bound grows with each retry
    #[arg(long, value_name = "NUMBER")]
    retry_factor: Option<f64>,
    /// Ceiling of the bound
    #[arg(long, value_name = "DURATION")]
    retry_max_delay: Option<Span>,
    /// Failure kinds retried beside the usual ones, such as engine_error; separated by commas
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    retry_on: Vec<String>,
    /// Failure kinds never retried; separated by commas
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    retry_not_on: Vec<String>,
}

impl Submit {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        if self.ndjson.file.is_some() {
            return ndjson::run(&self.ndjson, client, output).await;
        }
        let asked = Asked { request: self.request()?, key: self.idempotency_key.clone() };
        // Who waits may have to ask again, which must not submit twice.
        let asked = if self.wait { asked.repeatable() } else { asked };
        let answer = submit(client, &asked).await?;
        if self.wait {
            // What goes wrong from here on does not take the id away.
            tell!("submitted {}", answer.execution.id);
        }
        if answer.replayed {
            tell!("accepted earlier: this is the same execution");
        }
        if !self.wait {
            if output.is_json() {
                output.document(&answer.execution)?;
            } else {
                output.id(&answer.execution.id)?;
            }
            return Ok(Exit::Done);
        }
        let deadline = self.wait_for.map(|span| Instant::now() + Duration::from_millis(span.0));
        match wait(client, &asked, &answer.execution, deadline).await? {
            Some(view) => finish(client, &view, output).await,
            None => Err(over(&answer.execution.id)),
        }
    }

    fn request(&self) -> Result<SubmitRequest, Failure> {
        let mut stdin = Stdin::default();
        let mut request: SubmitRequest = match &self.request {
            Some(text) => stdin.json("--request", text)?,
            None => SubmitRequest::default(),
        };
        set(&mut request.id, &self.id);
        set(&mut request.engine_type, &self.engine_type);
        set(&mut request.engine, &self.engine);
        set(&mut request.workflow_id, &self.workflow);
        set(&mut request.priority, &self.priority);
        set(&mut request.user_id, &self.user);
        set(&mut request.concurrency_key, &self.concurrency_key);
        set(&mut request.session_id, &self.session);
        set(&mut request.callback_url, &self.callback_url);
        if let Some(text) = &self.params {
            request.parameters = Some(stdin.json("--params", text)?);
        }
        if let Some(text) = &self.engine_options {
            request.engine_options = Some(stdin.json("--engine-options", text)?);
        }
        if let Some(text) = &self.definition {
            let definition: Box<RawValue> = stdin.json("--definition", text)?;
            request.workflow =
                Some(InlineWorkflow { name: self.definition_name.clone(), definition: Some(definition) });
        }
        if self.at_most_once {
            request.at_most_once = Some(true);
        }
        if self.fail_fast {
            request.fail_fast = Some(true);
        }
        request.tags.extend(self.tags.iter().cloned());
        request.metadata.extend(self.metadata.iter().cloned().collect::<BTreeMap<_, _>>());
        self.times.apply(&mut request);
        self.retry.apply(&mut request);
        Ok(request)
    }
}

impl Times {
    fn apply(&self, request: &mut SubmitRequest) {
        set(&mut request.timeout, &self.timeout);
        set(&mut request.total_timeout, &self.total_timeout);
        set(&mut request.expires_in, &self.expires_in);
        set(&mut request.idle_timeout, &self.idle_timeout);
        set(&mut request.ready_at, &self.ready_at);
        if let Some(delay) = self.delay {
            request.ready_at = Some(Timestamp(Time(jiff::Timestamp::now().as_millisecond()).plus(delay.0)));
        }
    }
}

impl RetryArgs {
    fn apply(&self, request: &mut SubmitRequest) {
        set(&mut request.max_retries, &self.max_retries);
        let given = self.retry_delay.is_some()
            || self.retry_factor.is_some()
            || self.retry_max_delay.is_some()
            || !self.retry_on.is_empty()
            || !self.retry_not_on.is_empty();
        if given {
            let retry = request.retry.get_or_insert_with(RetryRequest::default);
            set(&mut retry.delay, &self.retry_delay);
            set(&mut retry.factor, &self.retry_factor);
            set(&mut retry.max_delay, &self.retry_max_delay);
            retry.on.extend(self.retry_on.iter().cloned());
            retry.not_on.extend(self.retry_not_on.iter().cloned());
        }
    }
}

fn set<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        field.clone_from(flag);
    }
}

fn parse_pair(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    let as_text = || serde_json::value::to_raw_value(value);
    let value = RawValue::from_string(value.trim().to_owned()).or_else(|_| as_text());
    Ok((name.to_owned(), value.map_err(|error| error.to_string())?))
}

/// Standard input, which only one flag can read.
#[derive(Default)]
struct Stdin {
    used: bool,
}

impl Stdin {
    fn json<T: DeserializeOwned>(&mut self, flag: &str, text: &str) -> Result<T, Failure> {
        let text = match (text, text.strip_prefix('@')) {
            ("-", _) if self.used => {
                return Err(Failure::usage(format!("{flag}: standard input is read already")));
            }
            ("-", _) => {
                self.used = true;
                bounded(std::io::stdin().lock(), "standard input")?
            }
            (_, Some(path)) => {
                let file =
                    std::fs::File::open(path).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
                bounded(file, path)?
            }
            (text, None) => text.to_owned(),
        };
        if let Some(lone) = lone_surrogate(text.as_bytes()) {
            return Err(Failure::usage(format!("{flag}: {lone} (invalid_json)")));
        }
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{flag}: {error}")))
    }
}

/// What a service takes at most; what this one takes, it says itself.
const REQUEST_BYTES_MAX: usize = REQUEST_BODY_MIB_MAX << 20;

fn bounded(from: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let most = REQUEST_BYTES_MAX as u64 + 1;
    from.take(most).read_to_end(&mut bytes).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(Failure::usage(format!("{name}: larger than {REQUEST_BYTES_MAX} bytes")));
    }
    plain_text::decode(bytes).map_err(|why| Failure::usage(format!("{name} {why}")))
}

/// A request as it is sent, once or again.
struct Asked {
    request: SubmitRequest,
    /// The idempotency key.
    key: Option<String>,
}

impl Asked {
    fn is_repeatable(&self) -> bool {
        self.request.id.is_some() || self.key.is_some()
    }

    /// The same, with a key of its own where it has nothing by which a repeat is known.
    fn repeatable(self) -> Asked {
        let key = if self.is_repeatable() {
            self.key
        } else {
            Some(format!("submit-{:032x}", rand::random::<u128>()))
        };
        Asked { key, ..self }
    }

    async fn send(&self, client: &Client, wait: Option<Duration>) -> Result<SubmitAnswer, ClientError> {
        client.submit(&self.request, self.key.as_deref(), wait).await
    }
}

/// Submits; a lost answer is asked for again where that cannot submit twice.
async fn submit(client: &Client, asked: &Asked) -> Result<SubmitAnswer, Failure> {
    match asked.send(client, None).await {
        Err(ClientError::Lost { .. }) if asked.is_repeatable() => Ok(asked.send(client, None).await?),
        Err(error @ ClientError::Lost { .. }) => {
            let advice =
                "It may have been accepted. With --id or --idempotency-key a repeated submit is safe.";
            let failure = Failure::from(error);
            Err(Failure { message: format!("{}\n{advice}", failure.message), ..failure })
        }
        answer => Ok(answer?),
    }
}

/// Waits for the end with a progress line on standard error.
async fn wait(
    client: &Client,
    asked: &Asked,
    execution: &ExecutionView,
    deadline: Option<Instant>,
) -> Result<Option<ExecutionView>, Failure> {
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        line.set_style(style);
    }
    line.enable_steady_tick(Duration::from_millis(120));
    line.set_message(printable(&format!("{} {}", execution.id, execution.status)));
    let mut say = |event: &ServerEvent| {
        if let Ok(view) = event.view() {
            line.set_message(printable(&format!("{} {}", view.id, progress(&view.kind, view.attempt))));
        }
        Ok(())
    };
    let waited = async {
        match follow(client, &execution.id, None, deadline, &mut say).await {
            // A key that may only submit hears of what it submitted by submitting it again.
            Err(failure) if failure.code == Some(Code::Forbidden) => {
                submit_until_ended(client, asked, deadline).await
            }
            ended => ended,
        }
    };
    let ended = tokio::select! {
        ended = waited => ended,
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    line.finish_and_clear();
    ended
}

/// Repeats the submit, which waits for the end each time; `None` when the deadline came first.
async fn submit_until_ended(
    client: &Client,
    asked: &Asked,
    deadline: Option<Instant>,
) -> Result<Option<ExecutionView>, Failure> {
    let mut outages = Outages::default();
    loop {
        let left = deadline.map_or(WAIT_AT_ONCE, |at| at.saturating_duration_since(Instant::now()));
        match asked.send(client, Some(left.min(WAIT_AT_ONCE))).await {
            Ok(SubmitAnswer { execution, .. }) if has_ended(&execution) => return Ok(Some(execution)),
            Ok(_) => outages.reached(),
            // It is in the queue, however full that is now.
            Err(error) if error.code() == Some(Code::QueueFull) => {}
            Err(error) => outages.count(error)?,
        }
        if deadline.is_some_and(|at| Instant::now() >= at) {
            return Ok(None);
        }
        outages.rest().await;
    }
}

fn progress(kind: &str, attempt: u32) -> String {
    match kind.strip_prefix("execution_") {
        Some("submitted" | "ready") => "pending".to_owned(),
        Some("started" | "attached") => format!("running (attempt {attempt})"),
        Some("retrying" | "interrupted") => format!("pending (attempt {attempt} did not succeed)"),
        Some(other) => other.replace('_', " "),
        None => format!("running (attempt {attempt})"),
    }
}

/// Tells how it ended, and exits so.
async fn finish(client: &Client, view: &ExecutionView, output: &mut Output) -> Result<Exit, Failure> {
    let result = match client.result(&view.id).await {
        Err(error) if error.code() == Some(Code::Forbidden) => return finish_unseen(view, output),
        result => result?,
    };
    if output.is_json() {
        output.document(&result)?;
    } else if let Some(value) = &result.result {
        output.document(value)?;
    }
    tell_end(view, result.failure.as_ref());
    Ok(Exit::of_status(view.status))
}

/// As [`finish`], with a key that may not see the result.
fn finish_unseen(view: &ExecutionView, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(view)?;
    }
    tell_end(view, view.failure.as_ref());
    if view.status == Status::Completed {
        tell!("its result is for keys with the scope read:payload");
    }
    Ok(Exit::of_status(view.status))
}

fn tell_end(view: &ExecutionView, failure: Option<&FailureView>) {
    let took = match (view.started_at, view.ended_at) {
        (Some(start), Some(end)) => format!(" in {}", super::output::millis(end.0.since(start.0) as f64)),
        _ => String::new(),
    };
    let why = failure.map(|failure| format!(": {}", failure_text(failure))).unwrap_or_default();
    let open = if view.abandoned { format!("; abandoned: {ABANDONED}") } else { String::new() };
    tell!("{} {}{took}{why}{open}", view.id, view.status);
    if view.needs_input {
        tell!("{NEEDS_INPUT}");
    }
}
