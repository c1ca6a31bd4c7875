//! What an Agent Server is sent and what it answers.

use super::options::{Fields, Options};
use crate::client::Answer;
use crate::contract::{Call, EngineFailure, Reached};
use bytes::Bytes;
use enginehouse_core::exact::ExactJson;
use enginehouse_core::failure::FailureKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Where a final state tells what the graph asks.
const INTERRUPT: &str = "__interrupt__";

/// The answer to `GET /ok`.
#[derive(Deserialize)]
pub(super) struct Ok {
    pub(super) ok: bool,
}

#[derive(Deserialize)]
pub(super) struct Created {
    pub(super) run_id: Uuid,
}

#[derive(Deserialize)]
pub(super) struct RunStatus {
    pub(super) status: String,
    #[serde(default)]
    pub(super) run_id: Option<Uuid>,
    #[serde(default)]
    pub(super) thread_id: Option<Uuid>,
}

/// Whether a 404 has the form of the engine's own.
pub(super) fn is_not_found(answer: &Answer) -> bool {
    answer.status == 404 && detail_of(answer).is_some()
}

/// Whether the engine's refusal speaks of `id`.
pub(super) fn names(answer: &Answer, id: &str) -> bool {
    detail_of(answer).is_some_and(|detail| detail.contains(id))
}

fn detail_of(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        detail: String,
    }
    answer.json::<Refusal>().ok().map(|refusal| refusal.detail)
}

#[derive(Deserialize)]
pub(super) struct ListedRun {
    pub(super) run_id: Uuid,
    pub(super) assistant_id: Option<Uuid>,
    #[serde(default)]
    pub(super) metadata: RunMetadata,
}

#[derive(Deserialize, Default)]
pub(super) struct RunMetadata {
    #[serde(default)]
    pub(super) idempotency_key: String,
}

/// The statuses that end a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Error,
    Timeout,
    /// Cancelled, by us or by someone else.
    Interrupted,
}

impl End {
    /// `None` for a status that says the run goes on; one we do not know does too, until the attempt's time limit.
    pub(super) fn of(status: &str) -> Option<End> {
        match status {
            "success" => Some(End::Success),
            "error" => Some(End::Error),
            "timeout" => Some(End::Timeout),
            "interrupted" => Some(End::Interrupted),
            _ => None,
        }
    }
}

/// An event as it is told, beside the name it came under.
pub(super) fn told(event: &str, data: &ExactJson) -> Option<ExactJson> {
    #[derive(Serialize)]
    struct Told<'a> {
        event: &'a str,
        data: &'a ExactJson,
    }
    ExactJson::parse(&serde_json::to_string(&Told { event, data }).ok()?).ok()
}

#[derive(Serialize)]
struct RunBody<'a> {
    assistant_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Fields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a RawValue>,
    metadata: Metadata<'a>,
    if_not_exists: &'static str,
    multitask_strategy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stream_mode: &'a [String],
    stream_resumable: bool,
}

#[derive(Serialize)]
struct Metadata<'a> {
    /// The caller's, none of which has the name of another field.
    #[serde(flatten)]
    given: Fields<'a>,
    execution_id: &'a str,
    idempotency_key: &'a str,
}

/// The body that starts a run on a thread, creating the thread where it is not there yet.
pub(super) fn run_body(
    call: &Call,
    options: &Options<'_>,
    stream_modes: &[String],
) -> Result<Bytes, EngineFailure> {
    let parts = split_parameters(&call.parameters)?;
    let body = RunBody {
        assistant_id: &call.workflow_id,
        input: parts.input,
        command: parts.command,
        config: options.config.clone(),
        context: options.context,
        metadata: Metadata {
            given: options.metadata.clone(),
            execution_id: &call.execution_id,
            idempotency_key: &call.idempotency_key,
        },
        if_not_exists: "create",
        multitask_strategy: options.multitask_strategy.as_deref().unwrap_or("reject"),
        durability: options.durability.as_deref(),
        stream_mode: stream_modes,
        stream_resumable: !stream_modes.is_empty(),
    };
    serde_json::to_vec(&body).map(Bytes::from).map_err(|error| invalid_parameters(&error.to_string()))
}

/// What the parameters become: a run's input, or the answer to a graph that asked.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) input: Option<&'a RawValue>,
    pub(super) command: Option<&'a RawValue>,
}

/// Parameters are the input as they are, but for `{"command": {"resume": ...}}`, which goes on with a graph that
/// stopped to ask.
pub(super) fn split_parameters(parameters: &[u8]) -> Result<Parts<'_>, EngineFailure> {
    let raw: &RawValue =
        serde_json::from_slice(parameters).map_err(|error| invalid_parameters(&error.to_string()))?;
    let whole = Parts { input: Some(raw), command: None };
    if !raw.get().starts_with('{') {
        return Ok(whole);
    }
    let fields: Fields<'_> =
        serde_json::from_slice(parameters).map_err(|error| invalid_parameters(&error.to_string()))?;
    let Some(command) = fields.get("command") else { return Ok(whole) };
    let resumes =
        serde_json::from_str::<Fields<'_>>(command.get()).is_ok_and(|fields| fields.contains_key("resume"));
    if !resumes {
        return Ok(whole);
    }
    if fields.len() > 1 {
        let message = "command.resume answers a graph that waits, so it cannot come with other parameters";
        return Err(invalid_parameters(message));
    }
    Ok(Parts { input: None, command: Some(command) })
}

fn invalid_parameters(message: &str) -> EngineFailure {
    EngineFailure::new(FailureKind::InvalidRequest, "invalid_parameters", message).with_reached(Reached::No)
}

/// A run's newest checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint<'a> {
    values: &'a RawValue,
    /// What the graph asks a human.
    questions: Vec<&'a RawValue>,
    /// The graph stopped before its end: it asks, or it came to a breakpoint.
    pub(super) needs_input: bool,
    /// The error of the task that failed, in the engine's own words.
    pub(super) error: Option<String>,
    /// The graph that wrote it.
    pub(super) graph: Option<String>,
    pub(super) assistant: Option<Uuid>,
}

/// A thread's state, as it is told of one run.
#[derive(Debug)]
pub(super) enum State<'a> {
    Of(Checkpoint<'a>),
    /// Of another run, or of none.
    Another,
    /// The answer is no state.
    Unread,
}

#[derive(Deserialize)]
struct Snapshot<'a> {
    #[serde(borrow)]
    values: &'a RawValue,
    next: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(borrow)]
    tasks: Option<Vec<Task<'a>>>,
    metadata: Option<SnapshotMetadata<'a>>,
}

#[derive(Deserialize)]
struct Task<'a> {
    #[serde(borrow)]
    interrupts: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct SnapshotMetadata<'a> {
    #[serde(borrow)]
    run_id: Option<Cow<'a, str>>,
    graph_id: Option<String>,
    #[serde(borrow)]
    assistant_id: Option<Cow<'a, str>>,
}

impl<'a> Snapshot<'a> {
    /// `None` when it is not of this run.
    fn checkpoint_of(self, run: Uuid) -> Option<Checkpoint<'a>> {
        let metadata = self.metadata?;
        let of = metadata.run_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
        if of != Some(run) {
            return None;
        }
        let tasks = self.tasks.unwrap_or_default();
        let error = tasks.iter().find_map(|task| task.error).map(|error| error_words(error.get()));
        let questions: Vec<&RawValue> =
            tasks.into_iter().filter_map(|task| task.interrupts).flatten().collect();
        let goes_on = self.next.is_some_and(|next| !next.is_empty());
        Some(Checkpoint {
            values: self.values,
            needs_input: goes_on || !questions.is_empty(),
            questions,
            error,
            assistant: metadata.assistant_id.and_then(|id| Uuid::parse_str(&id).ok()),
            graph: metadata.graph_id,
        })
    }
}

// Nothing of a state is parsed but what is named, so no depth can hurt; that of the values is checked with the result.

/// The checkpoint of `run` in an answer to a question for a thread's history; `None` when there is none of that run.
pub(super) fn read_history(body: &[u8], run: Uuid) -> Result<Option<Checkpoint<'_>>, EngineFailure> {
    let history: Vec<Snapshot<'_>> = serde_json::from_slice(body).map_err(|_| {
        let message = "the engine's answer about a thread's history has not the expected form";
        EngineFailure::new(FailureKind::BadResponse, "malformed_answer", message).with_reached(Reached::Maybe)
    })?;
    Result::Ok(history.into_iter().next().and_then(|snapshot| snapshot.checkpoint_of(run)))
}

/// What an answer to a question for a thread's state says of `run`. An answer that is not valid JSON says nothing at all.
pub(super) fn read_state(body: &[u8], run: Uuid) -> Result<State<'_>, EngineFailure> {
    match serde_json::from_slice::<Snapshot<'_>>(body) {
        Result::Ok(snapshot) if body.trim_ascii_start().starts_with(b"{") => {
            Result::Ok(snapshot.checkpoint_of(run).map_or(State::Another, State::Of))
        }
        _ if body.trim_ascii_start().starts_with(b"{") => {
            let message = "the engine's answer about a thread's state is none";
            let failure = EngineFailure::new(FailureKind::BadResponse, "malformed_answer", message);
            Err(failure.with_reached(Reached::Maybe))
        }
        _ => crate::client::parse::<serde::de::IgnoredAny>(body).map(|_| State::Unread),
    }
}

/// Whether a joined state says that the graph stopped to ask.
pub(super) fn asks(state: &[u8]) -> bool {
    let fields: Option<BTreeMap<Cow<'_, str>, &RawValue>> =
        state.starts_with(b"{").then(|| serde_json::from_slice(state).ok()).flatten();
    let asked = fields.and_then(|fields| fields.get(INTERRUPT).map(|asked| asked.get()));
    asked.is_some_and(|asked| !matches!(asked, "null" | "[]"))
}

impl Checkpoint<'_> {
    /// The graph's state, with what it asks. `body` is the answer that the checkpoint was read from.
    pub(super) fn result(&self, body: &Bytes) -> Bytes {
        if self.questions.is_empty() {
            return body.slice_ref(self.values.get().as_bytes());
        }
        let questions = self.questions.iter().map(|question| question.get()).collect::<Vec<_>>().join(",");
        with_questions(body, self.values.get(), &format!("[{questions}]"))
    }
}

/// A state with what the graph asks, a list, as `__interrupt__`; a state that is no object then stands in `values`. `state`
/// is a part of `body`.
pub(super) fn with_questions(body: &Bytes, state: &str, questions: &str) -> Bytes {
    type Keys<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;
    let fields = if state.starts_with('{') { state } else { "" };
    let known: Option<Keys<'_>> = serde_json::from_str(fields).ok();
    if questions == "[]" || known.as_ref().is_some_and(|fields| fields.contains_key(INTERRUPT)) {
        return body.slice_ref(state.as_bytes());
    }
    let asked = format!("\"{INTERRUPT}\":{questions}");
    Bytes::from(match known {
        Some(fields) if fields.is_empty() => format!("{{{asked}}}"),
        Some(_) => format!("{},{asked}}}", state[..state.len() - 1].trim_end()),
        None if state == "null" => format!("{{{asked}}}"),
        None => format!("{{\"values\":{state},{asked}}}"),
    })
}

/// What an event says that the graph asks, as a JSON list; `None` when the graph goes on behind it.
pub(super) fn questions_of(event: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow, rename = "__interrupt__")]
        asked: Option<&'a RawValue>,
    }
    let wire: Wire<'_> = serde_json::from_str(event).ok()?;
    wire.asked.map(|asked| asked.get().to_owned()).filter(|asked| asked.starts_with('['))
}

/// The form of a graph's state, without the name that it has from the graph.
pub(super) fn state_schema(schemas: Value) -> Option<Value> {
    let mut schema = schemas.get("state_schema").filter(|schema| schema.is_object())?.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("title");
    }
    Some(schema)
}

/// What the answer to `GET /threads/T` says of the thread's newest run.
#[derive(Deserialize)]
pub(super) struct Thread {
    #[serde(default)]
    status: String,
    error: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) metadata: ThreadMetadata,
}

#[derive(Deserialize, Default)]
pub(super) struct ThreadMetadata {
    pub(super) graph_id: Option<String>,
}

impl Thread {
    /// The error that the thread's newest run ended with, as `Type: message`.
    pub(super) fn error_words(&self) -> Option<String> {
        let error = self.error.as_ref().filter(|error| self.status == "error" && error.get() != "null")?;
        Some(error_words(error.get()))
    }
}

/// An error as the engine tells it: as an object, or as a text that may itself hold one.
fn error_words(json: &str) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Wire {
        error: String,
        message: String,
    }
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
    let wire: Wire = serde_json::from_str(&text).unwrap_or_default();
    match (wire.error.as_str(), wire.message.as_str()) {
        ("", "") => text,
        (error, "") => error.to_owned(),
        ("", message) => message.to_owned(),
        (error, message) => format!("{error}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_the_input_unless_they_answer_a_graph() {
        let split = |text: &str| {
            let parts = split_parameters(text.as_bytes()).map_err(|failure| failure.code);
            parts.map(|p| (p.input.map(|i| i.get().to_owned()), p.command.map(|c| c.get().to_owned())))
        };
        let input = |text: &str| Ok((Some(text.to_owned()), None));
        for text in
            ["null", "1", "[1]", r#"{"a":1.50}"#, r#"{"command":"x"}"#, r#"{"command":{"go":1}, "a":1}"#]
        {
            assert_eq!(split(text), input(text));
        }
        let command = r#"{"resume":{"ok":true}}"#;
        assert_eq!(split(&format!(r#"{{"command":{command}}}"#)), Ok((None, Some(command.to_owned()))));
        assert_eq!(split(r#"{"command":{"resume":1},"a":2}"#), Err("invalid_parameters".to_owned()));
        assert_eq!(split("{"), Err("invalid_parameters".to_owned()));
    }

    const RUN: Uuid = Uuid::from_u128(7);

    /// The end that a history with one checkpoint tells: the result, `?` where a human is needed, the error.
    fn end(checkpoint: &str) -> String {
        let body = Bytes::from(format!("[{checkpoint}]"));
        match read_history(&body, RUN).map_err(|failure| failure.code) {
            Err(code) => code,
            Result::Ok(None) => "none".to_owned(),
            Result::Ok(Some(checkpoint)) => {
                let result = String::from_utf8(checkpoint.result(&body).to_vec()).unwrap();
                let mark = if checkpoint.needs_input { "?" } else { "" };
                format!(
                    "{result}{mark}{}",
                    checkpoint.error.map(|error| format!(" {error}")).unwrap_or_default()
                )
            }
        }
    }

    #[test]
    fn an_end_is_read_from_the_runs_own_checkpoint() {
        let of = |rest: &str| end(&format!(r#"{{{rest},"metadata":{{"run_id":"{RUN}"}}}}"#));
        for (checkpoint, expected) in [
            (
                r#""values":{"a":1.50,"n":12345678901234567890},"next":[],"tasks":[]"#,
                r#"{"a":1.50,"n":12345678901234567890}"#,
            ),
            (r#""values":[1, 2]"#, "[1, 2]"),
            (r#""values":null,"next":null,"tasks":null"#, "null"),
            // A breakpoint: the graph would go on, and asks nothing.
            (r#""values":{"a":1},"next":["two"],"tasks":[{"interrupts":[],"error":null}]"#, r#"{"a":1}?"#),
            (
                r#""values":{"a":1 },"next":["ask"],"tasks":[{"interrupts":[{"value":1}]},{"interrupts":[{"value":2.0}]}]"#,
                r#"{"a":1,"__interrupt__":[{"value":1},{"value":2.0}]}?"#,
            ),
            (r#""values":{},"tasks":[{"interrupts":[1]}]"#, r#"{"__interrupt__":[1]}?"#),
            (r#""values":null,"tasks":[{"interrupts":[1]}]"#, r#"{"__interrupt__":[1]}?"#),
            (r#""values":[1],"tasks":[{"interrupts":[1]}]"#, r#"{"values":[1],"__interrupt__":[1]}?"#),
            (r#""values":{"__interrupt__":[2]},"tasks":[{"interrupts":[1]}]"#, r#"{"__interrupt__":[2]}?"#),
            (
                r#""values":{},"next":["n"],"tasks":[{"error":null},{"error":"RuntimeError('boom')"}]"#,
                "{}? RuntimeError('boom')",
            ),
            (r#""next":[]"#, "malformed_answer"),
        ] {
            assert_eq!(of(checkpoint), expected, "{checkpoint}");
        }
        assert_eq!(
            end(r#"{"values":1,"metadata":{"run_id":"00000000-0000-0000-0000-000000000008"}}"#),
            "none"
        );
        assert_eq!(end(r#"{"values":1,"metadata":{}}"#), "none", "another run's state is never taken");
        assert_eq!(end(""), "none");
        assert_eq!(end("{"), "malformed_answer");
        assert_eq!(of(&format!(r#""values":{}1{}"#, "[".repeat(5_000), "]".repeat(5_000))).len(), 10_001);
    }

    #[test]
    fn a_state_of_another_run_is_not_taken_and_one_that_is_none_is_told_from_it() {
        let told = |text: &str| match read_state(text.as_bytes(), RUN).map_err(|failure| failure.code) {
            Result::Ok(State::Of(checkpoint)) => checkpoint.values.get().to_owned(),
            Result::Ok(state) => format!("{state:?}"),
            Err(code) => code,
        };
        assert_eq!(told(&format!(r#"{{"values":{{"a":1}},"metadata":{{"run_id":"{RUN}"}}}}"#)), r#"{"a":1}"#);
        assert_eq!(
            told(r#"{"values":1,"metadata":{"run_id":"00000000-0000-0000-0000-000000000008"}}"#),
            "Another"
        );
        assert_eq!(told(r#"{"values":{},"metadata":null}"#), "Another");
        assert_eq!(told("{}"), "malformed_answer");
        assert_eq!(told(r#"{"message":"maintenance"}"#), "malformed_answer");
        assert_eq!(told("[]"), "Unread");
        assert_eq!(told("<html>"), "malformed_answer");
        assert_eq!(
            questions_of(r#"{"__interrupt__":[{"value":1.50}]}"#).as_deref(),
            Some(r#"[{"value":1.50}]"#)
        );
        assert_eq!(questions_of(r#"{"__interrupt__":[]}"#).as_deref(), Some("[]"));
        assert_eq!(questions_of(r#"{"one":{"a":1}}"#), None);
        for (state, asked) in [
            (r#"{"a":1}"#, false),
            ("[1]", false),
            (r#"{"__interrupt__":[{"value":1}]}"#, true),
            (r#"{"__interrupt__":[]}"#, false),
            (r#"{"__interrupt__":null}"#, false),
        ] {
            assert_eq!(asks(state.as_bytes()), asked, "{state}");
        }
    }

    #[test]
    fn a_threads_error_is_told_in_words() {
        let words = |text: &str| serde_json::from_str::<Thread>(text).unwrap().error_words();
        let error = |error: &str| words(&format!(r#"{{"status":"error","error":{error}}}"#)).unwrap();
        assert_eq!(error(r#"{"error":"RuntimeError","message":"boom"}"#), "RuntimeError: boom");
        assert_eq!(error(r#"{"error":"TimeoutError","message":""}"#), "TimeoutError");
        assert_eq!(error(r#""{\"error\":\"E\",\"message\":\"m\"}""#), "E: m");
        assert_eq!(error(r#""text""#), "text");
        for none in [
            "{}",
            r#"{"status":"error"}"#,
            r#"{"status":"error","error":null}"#,
            r#"{"status":"idle","error":{"error":"E"},"values":{"a":[1]}}"#,
        ] {
            assert_eq!(words(none), None, "{none}");
        }
    }
}
