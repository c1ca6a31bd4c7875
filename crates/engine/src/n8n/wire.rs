//! What n8n's public API answers, and how it is read.

use crate::client::Answer;
use crate::contract::{EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A status that ends an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Error,
    Crashed,
    Canceled,
}

impl End {
    /// `None` while it goes on; an unknown word counts so, because the attempt's timeout ends it in any case.
    pub(super) fn of(status: &str) -> Option<End> {
        match status {
            "success" => Some(End::Success),
            "error" => Some(End::Error),
            "crashed" => Some(End::Crashed),
            "canceled" => Some(End::Canceled),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Readiness {
    pub(super) status: String,
}

/// An execution without its data.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    #[serde(deserialize_with = "text_or_number")]
    pub(super) id: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    finished: Option<bool>,
    #[serde(default)]
    stopped_at: Option<String>,
}

impl Listed {
    /// How it ended, or `None` while it goes on. `Err` where nothing says so: then it is no execution of n8n.
    pub(super) fn end(&self) -> Result<Option<End>, EngineFailure> {
        match (&self.status, self.finished) {
            (Some(status), _) => Ok(End::of(status)),
            // Older versions have no status.
            (None, Some(true)) => Ok(Some(End::Success)),
            (None, Some(false)) => Ok(self.stopped_at.is_some().then_some(End::Error)),
            (None, None) => {
                let message = "the answer about an execution says nothing of its status";
                let failure = EngineFailure::new(FailureKind::BadResponse, "malformed_answer", message);
                Err(failure.with_reached(Reached::Maybe))
            }
        }
    }
}

/// What is an execution at all.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    #[serde(deserialize_with = "text_or_number")]
    pub(super) id: String,
}

/// A page of executions.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) data: Vec<Listed>,
    #[serde(default, rename = "nextCursor")]
    pub(super) next_cursor: Option<String>,
}

/// The execution's id in the answer of a webhook.
pub(super) fn execution_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Told {
        #[serde(rename = "executionId", deserialize_with = "text_or_number")]
        id: String,
    }
    let told: Told = crate::client::parse(body.trim_ascii()).ok()?;
    is_id(&told.id).then_some(told.id)
}

/// Ids are numbers in n8n, and must stay one segment of a path in any case.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The text, or the number as it is written.
fn text_or_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let raw = Box::<RawValue>::deserialize(from)?;
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw.get()).map_err(serde::de::Error::custom),
        Some(b'-' | b'0'..=b'9') => Ok(raw.get().to_owned()),
        _ => Err(serde::de::Error::custom("neither text nor a number")),
    }
}

/// Whether a 404 is n8n's own "no such execution": something else on the way may not know the path either.
pub(super) fn is_not_found(answer: &Answer) -> bool {
    answer.status == 404
        && message_of(answer).is_some_and(|message| message.eq_ignore_ascii_case("not found"))
}

/// Whether an answer of a webhook is n8n's own word that it is not registered. A workflow may answer 404 as well.
pub(super) fn is_not_registered(answer: &Answer) -> bool {
    let said =
        |message: String| message.starts_with("The requested webhook") && message.contains("not registered");
    answer.status == 404 && message_of(answer).is_some_and(said)
}

fn message_of(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    answer.json::<Refusal>().ok().map(|refusal| refusal.message)
}

/// Whether a run failed because n8n had no task runner for it, which says nothing of its workflow.
pub(super) fn is_runner_missing(message: &str) -> bool {
    message.starts_with("Task request timed out") && message.contains("not matched to a runner")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_task_runner_is_not_the_workflow_s_fault() {
        let said = "Task request timed out: Your Code node task was not matched to a runner within the timeout period \
                    (waited 0 seconds). This indicates that the task runner is currently down, or not ready";
        assert!(is_runner_missing(said));
        assert!(!is_runner_missing("Task request timed out"));
        assert!(!is_runner_missing("my own text: not matched to a runner"));
    }

    #[test]
    fn an_end_is_told_by_the_status_or_what_older_versions_say() {
        for (body, end) in [
            (r#"{"id":"1","status":"success"}"#, Ok(Some(End::Success))),
            (r#"{"id":1,"status":"waiting","finished":false}"#, Ok(None)),
            (r#"{"id":1,"finished":true}"#, Ok(Some(End::Success))),
            (r#"{"id":1,"finished":false,"stoppedAt":"2026-01-01T00:00:00Z"}"#, Ok(Some(End::Error))),
            (r#"{"id":1,"finished":false,"stoppedAt":null}"#, Ok(None)),
            (r#"{"id":1}"#, Err("malformed_answer".to_owned())),
        ] {
            let listed: Listed = serde_json::from_str(body).unwrap();
            assert_eq!(listed.end().map_err(|failure| failure.code), end, "{body}");
        }
    }

    #[test]
    fn an_id_is_found_in_an_answer() {
        for (body, id) in [
            ("{\"executionId\":\"17\"}", Some("17")),
            (" {\"executionId\":17} ", Some("17")),
            ("{\"executionId\":9007199254740993123456789}", Some("9007199254740993123456789")),
            ("{\"executionId\":\"../x\"}", None),
            ("{\"message\":\"Workflow was started\"}", None),
            ("", None),
        ] {
            assert_eq!(execution_id(body.as_bytes()).as_deref(), id, "{body}");
        }
    }
}
