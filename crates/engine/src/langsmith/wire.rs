//! What an Agent Server is sent and what it answers.

use crate::client::Answer;
use crate::contract::{Call, EngineFailure, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use uuid::Uuid;

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
    /// Cancelled, by us or by somebody else.
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

#[derive(Serialize)]
struct RunBody<'a> {
    assistant_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a RawValue>,
    metadata: Metadata<'a>,
    if_not_exists: &'static str,
    multitask_strategy: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stream_mode: &'a [String],
    stream_resumable: bool,
}

#[derive(Serialize)]
struct Metadata<'a> {
    execution_id: &'a str,
    idempotency_key: &'a str,
}

/// The body that starts a run on a thread, creating the thread where it is not there yet.
pub(super) fn run_body(call: &Call, stream_modes: &[String]) -> Result<Bytes, EngineFailure> {
    let parts = split_parameters(&call.parameters)?;
    let body = RunBody {
        assistant_id: &call.workflow_id,
        input: parts.input,
        command: parts.command,
        metadata: Metadata { execution_id: &call.execution_id, idempotency_key: &call.idempotency_key },
        if_not_exists: "create",
        multitask_strategy: "reject",
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
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
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

/// What stands in a final state besides the graph's own values.
pub(super) struct Marks {
    /// The engine's error, as `Type: message`.
    pub(super) error: Option<String>,
    /// The graph stopped to ask a human.
    pub(super) interrupted: bool,
}

impl Marks {
    /// A state that is no object has no marks.
    pub(super) fn of(state: &[u8]) -> Marks {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow, rename = "__error__")]
            error: Option<&'a RawValue>,
            #[serde(borrow, rename = "__interrupt__")]
            interrupt: Option<&'a RawValue>,
        }
        match serde_json::from_slice::<Wire<'_>>(state) {
            Result::Ok(wire) if state.starts_with(b"{") => Marks {
                error: wire.error.map(|error| error_words(error.get())),
                interrupted: wire.interrupt.is_some_and(|asked| !matches!(asked.get(), "null" | "[]")),
            },
            _ => Marks { error: None, interrupted: false },
        }
    }
}

fn error_words(json: &str) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Wire {
        error: String,
        message: String,
    }
    let wire: Wire = serde_json::from_str(json).unwrap_or_default();
    match (wire.error.as_str(), wire.message.as_str()) {
        ("", "") => json.to_owned(),
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

    #[test]
    fn marks_are_read_from_the_final_state() {
        let marks = |text: &str| {
            let marks = Marks::of(text.as_bytes());
            (marks.error, marks.interrupted)
        };
        assert_eq!(marks(r#"{"a":1}"#), (None, false));
        assert_eq!(marks("[1]"), (None, false));
        assert_eq!(marks("\"text\""), (None, false));
        assert_eq!(marks(r#"{"__interrupt__":[{"value":1}]}"#), (None, true));
        assert_eq!(marks(r#"{"__interrupt__":[]}"#), (None, false));
        let error = r#"{"__error__":{"error":"RuntimeError","message":"boom"}}"#;
        assert_eq!(marks(error), (Some("RuntimeError: boom".to_owned()), false));
        assert_eq!(
            marks(r#"{"__error__":{"error":"TimeoutError","message":""}}"#).0.unwrap(),
            "TimeoutError"
        );
        assert_eq!(marks(r#"{"__error__":"text"}"#).0.unwrap(), "\"text\"");
    }
}
