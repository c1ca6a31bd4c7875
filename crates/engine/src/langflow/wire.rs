//! What Langflow's v2 interface is sent and what it answers.

use super::request::{Input, session_of};
use super::truncation::Completed;
use crate::client::{Answer, parse};
use crate::contract::{Call, EngineFailure, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The answer to `GET /health_check`.
#[derive(Deserialize)]
pub(super) struct Ok {
    pub(super) status: String,
}

#[derive(Deserialize)]
pub(super) struct Submitted {
    pub(super) job_id: Uuid,
}

#[derive(Serialize)]
struct SubmitBody<'a> {
    flow_id: &'a str,
    input_value: &'a str,
    mode: &'static str,
    session_id: &'a str,
    idempotency_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tweaks: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    globals: Option<&'a RawValue>,
}

pub(super) fn submit_body(call: &Call, flow: &str, input: &Input<'_>) -> Result<Bytes, EngineFailure> {
    let body = SubmitBody {
        flow_id: flow,
        input_value: &input.value,
        mode: "background",
        session_id: session_of(call),
        idempotency_key: &call.idempotency_key,
        tweaks: input.tweaks,
        globals: input.globals,
    };
    serde_json::to_vec(&body).map(Bytes::from).map_err(|error| unserializable(&error))
}

pub(super) fn unserializable(error: &serde_json::Error) -> EngineFailure {
    let failure = EngineFailure::new(FailureKind::InvalidRequest, "invalid_parameters", error.to_string());
    failure.with_reached(Reached::No)
}

/// `detail` of an unwelcome answer, where it is an object with a code.
#[derive(Deserialize)]
pub(super) struct Refusal {
    pub(super) code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error_detail: serde_json::Value,
}

impl Refusal {
    pub(super) fn of(answer: &Answer) -> Option<Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            detail: Refusal,
        }
        answer.json::<Wire>().ok().map(|wire| wire.detail)
    }
}

/// `detail` of an unwelcome answer where it is text, or JSON inside text, in words.
pub(super) fn detail_text(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        detail: String,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    let detail = answer.json::<Wire>().ok()?.detail;
    let words = parse::<Inner>(detail.as_bytes()).map_or(detail, |inner| inner.message);
    Some(plain_words(&words))
}

/// Refuses an answer that names another job.
pub(super) fn about(answer: &Answer, job: Uuid) -> Result<(), EngineFailure> {
    #[derive(Deserialize)]
    struct Named {
        job_id: Option<Uuid>,
    }
    match answer.json::<Named>() {
        Result::Ok(Named { job_id: Some(other) }) if other != job => {
            let message = "the engine's answer is about another job";
            let failure = EngineFailure::new(FailureKind::BadResponse, "contradictory_answer", message);
            Err(failure.with_reached(Reached::Maybe))
        }
        _ => Result::Ok(()),
    }
}

/// A job as a status answer tells it.
#[derive(Debug)]
pub(super) enum Job {
    Going,
    /// Waits for a human.
    Suspended,
    Completed(Completed),
    Failed(EngineFailure),
    Cancelled,
    Unknown,
}

#[derive(Deserialize)]
struct JobAnswer<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    output: Option<JobOutput<'a>>,
    #[serde(borrow)]
    outputs: Option<BTreeMap<String, ComponentOutput<'a>>>,
    #[serde(default)]
    errors: Vec<JobError>,
    #[serde(default)]
    has_errors: bool,
}

#[derive(Deserialize)]
struct JobOutput<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ComponentOutput<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

impl ComponentOutput<'_> {
    /// The words of an output that is an error, though its job is told as completed.
    fn error(&self) -> Option<String> {
        let kind = self.kind.as_deref().unwrap_or_default();
        let content = self.content.map_or("null", RawValue::get);
        if kind == "error" || self.status.as_deref() == Some("failed") {
            return Some(message_words(content).unwrap_or_else(|| plain_words(content)));
        }
        // Data of a flow may have a field of that name as well.
        if matches!(kind, "message" | "text") { error_message(content) } else { None }
    }
}

/// The words of a message that says of itself, or in its data, that it is an error.
pub(super) fn error_message(message: &str) -> Option<String> {
    let outer = Marked::of(message)?;
    let data = outer.data.map(RawValue::get);
    let inside = data.filter(|data| Marked::of(data).is_some_and(|marked| marked.is_error()));
    if !outer.is_error() && inside.is_none() {
        return None;
    }
    let words = message_words(message).or_else(|| message_words(data?));
    Some(words.unwrap_or_else(|| "the flow ended with an error message without words".to_owned()))
}

#[derive(Deserialize)]
struct Marked<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Marked<'a> {
    fn of(message: &'a str) -> Option<Marked<'a>> {
        message.starts_with('{').then(|| serde_json::from_str(message).ok()).flatten()
    }

    fn is_error(&self) -> bool {
        self.error.is_some_and(|error| error.get() == "true")
    }
}

/// The text of a message, or of JSON that is one text.
fn message_words(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        text: String,
    }
    let text = match serde_json::from_str::<String>(json) {
        Result::Ok(text) => text,
        Err(_) => serde_json::from_str::<Wire>(json).ok()?.text,
    };
    Some(plain_words(&text)).filter(|words| !words.is_empty())
}

#[derive(Deserialize)]
struct JobError {
    #[serde(default)]
    error: String,
}

impl Job {
    /// `None` when the answer is not about the job: the engine itself is unwell, or refuses.
    pub(super) fn read(answer: &Answer) -> Option<Result<Job, EngineFailure>> {
        if answer.is_success() {
            return Some(Job::read_success(&answer.body));
        }
        let refusal = Refusal::of(answer)?;
        let failed = |failure: EngineFailure| Job::Failed(failure.with_status(i32::from(answer.status)));
        match (answer.status, refusal.code.as_str()) {
            (404, "JOB_NOT_FOUND") => Some(Ok(Job::Unknown)),
            (408, "EXECUTION_TIMEOUT") => Some(Ok(failed(over_time(&refusal.message)))),
            (500, "JOB_FAILED") => Some(Ok(match refusal.error_detail["type"].as_str() {
                Some("cancelled") => Job::Cancelled,
                _ => failed(job_failure(&refusal)),
            })),
            _ => None,
        }
    }

    fn read_success(body: &[u8]) -> Result<Job, EngineFailure> {
        // Depth is checked on a parse that keeps nothing.
        parse::<serde::de::IgnoredAny>(body)?;
        let malformed = |problem: &str| {
            let message = format!("the engine's answer about a job {problem}");
            EngineFailure::new(FailureKind::BadResponse, "malformed_answer", message)
                .with_reached(Reached::Maybe)
        };
        let job: JobAnswer<'_> =
            serde_json::from_slice(body).map_err(|_| malformed("has not the expected form"))?;
        let failed = |errors: &[JobError]| {
            let words =
                errors.first().map(|error| plain_words(&error.error)).filter(|words| !words.is_empty());
            let message = words.unwrap_or_else(|| "the flow failed without saying why".to_owned());
            Job::Failed(EngineFailure::new(FailureKind::EngineError, "workflow_failed", message))
        };
        Ok(match &*job.status {
            "completed" if job.has_errors => failed(&job.errors),
            "completed" if job.output.is_none() && job.outputs.is_none() => {
                return Err(malformed("says completed but has no output"));
            }
            "completed" => {
                let error = job.outputs.iter().flatten().find_map(|(_, output)| output.error());
                error
                    .map_or_else(|| Job::Completed(result_of(&job)), |words| Job::Failed(error_output(words)))
            }
            "failed" => failed(&job.errors),
            "cancelled" => Job::Cancelled,
            "timed_out" => Job::Failed(over_time("")),
            "suspended" => Job::Suspended,
            _ => Job::Going,
        })
    }
}

/// The failure of a flow that ended with an error message.
pub(super) fn error_output(words: String) -> EngineFailure {
    EngineFailure::new(FailureKind::EngineError, "workflow_failed", words)
}

/// The one output's text, parsed if it is JSON, or its content; of several outputs that have any, all of them by component id.
fn result_of(job: &JobAnswer<'_>) -> Completed {
    let outputs = job.outputs.iter().flatten();
    let contents: BTreeMap<&str, Option<&RawValue>> =
        outputs.map(|(id, output)| (id.as_str(), output.content)).collect();
    let components: Vec<String> = contents.keys().map(|&id| id.to_owned()).collect();
    let filled = contents.values().flatten().filter(|content| content.get() != "null").count();
    if let Some(text) = job.output.as_ref().and_then(|output| output.text.as_deref()).filter(|_| filled <= 1)
    {
        return Completed { components, ..Completed::of_text(text) };
    }
    let json = match contents.len() {
        0 => Ok(b"null".to_vec()),
        1 => serde_json::to_vec(&contents.values().next()),
        _ => serde_json::to_vec(&contents),
    };
    Completed { components, ..Completed::of_json(json.expect("raw JSON under text keys can be written")) }
}

fn over_time(message: &str) -> EngineFailure {
    let message = if message.is_empty() { "the run went over the time limit of the engine" } else { message };
    EngineFailure::new(FailureKind::Timeout, "engine_timeout", message)
}

fn job_failure(refusal: &Refusal) -> EngineFailure {
    let detail = &refusal.error_detail;
    match detail["type"].as_str() {
        Some("worker_lost") => {
            let message = "the engine stopped while it ran the job";
            EngineFailure::new(FailureKind::Unavailable, "worker_lost", message)
        }
        Some("timed_out") => over_time(""),
        kind => {
            let words = error_words(detail).or_else(|| kind.map(str::to_owned));
            let message = words.unwrap_or_else(|| plain_words(&refusal.message));
            EngineFailure::new(FailureKind::EngineError, "workflow_failed", message)
        }
    }
}

/// The component's own words, with the type of its error in front; never the traceback that comes along.
fn error_words(detail: &serde_json::Value) -> Option<String> {
    let text = ["text", "message", "detail", "error"].iter().find_map(|name| detail[*name].as_str());
    let reason = detail.pointer("/content_blocks/0/contents/0/reason").and_then(serde_json::Value::as_str);
    // The reason begins with the type of the error in bold.
    let kind = reason.and_then(|reason| reason.strip_prefix("**")?.split_once("**")).map(|(kind, _)| kind);
    let words = plain_words(text.or(reason)?);
    Some(match kind {
        Some(kind) if !words.starts_with(kind) => format!("{kind}: {words}"),
        _ => words,
    })
}

/// A message as one line.
fn plain_words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderMap;

    fn read(status: u16, body: &str) -> Option<Result<Job, EngineFailure>> {
        Job::read(&Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    }

    fn told(status: u16, body: &str) -> String {
        match read(status, body) {
            None => "not about the job".to_owned(),
            Some(Err(failure)) => format!("unreadable {}", failure.code),
            Some(Ok(Job::Completed(completed))) => String::from_utf8(completed.result.to_vec()).unwrap(),
            Some(Ok(Job::Failed(failure))) => {
                format!("{} {}: {}", failure.kind.as_str(), failure.code, failure.message)
            }
            Some(Ok(job)) => format!("{job:?}"),
        }
    }

    #[test]
    fn a_job_is_told_by_the_body() {
        let failed = |detail: &str| {
            format!(
                r#"{{"detail":{{"code":"JOB_FAILED","message":"Job j has failed.","error_detail":{detail}}}}}"#
            )
        };
        let boom = r#"{"text":"boom\n","content_blocks":[{"contents":[{"reason":"**ValueError**\n - **Details: boom**\n",
            "traceback":"Traceback ..."}]}]}"#;
        for (status, body, expected) in [
            (200, r#"{"status":"queued"}"#, "Going"),
            (200, r#"{"status":"in_progress"}"#, "Going"),
            (200, r#"{"status":"suspended"}"#, "Suspended"),
            (200, r#"{"status":"cancelled"}"#, "Cancelled"),
            (200, r#"{"status":"completed","output":{"text":"hi"}}"#, "\"hi\""),
            (200, r#"{"status":"completed","output":{"text":"{\"a\":1.50}"}}"#, r#"{"a":1.50}"#),
            (200, r#"{"status":"completed","output":{"text":null},"outputs":{"A":{"content":[1]}}}"#, "[1]"),
            (
                200,
                r#"{"status":"completed","output":{},"outputs":{"A":{"content":"x"},"B":{"content":null}}}"#,
                r#"{"A":"x","B":null}"#,
            ),
            (200, r#"{"status":"completed","output":{},"outputs":{}}"#, "null"),
            (200, r#"{"status":"completed"}"#, "unreadable malformed_answer"),
            (
                200,
                r#"{"status":"completed","has_errors":true,"errors":[{"error":"a \n\nboom"}],"output":{}}"#,
                "engine_error workflow_failed: a boom",
            ),
            (
                200,
                r#"{"status":"failed"}"#,
                "engine_error workflow_failed: the flow failed without saying why",
            ),
            (200, "{}", "unreadable malformed_answer"),
            (200, "oops", "unreadable malformed_answer"),
            (404, r#"{"detail":{"code":"JOB_NOT_FOUND"}}"#, "Unknown"),
            (404, r#"{"detail":"Not Found"}"#, "not about the job"),
            (500, r#"{"detail":{"code":"INTERNAL_SERVER_ERROR"}}"#, "not about the job"),
            (500, "oops", "not about the job"),
            (403, r#"{"detail":"no key"}"#, "not about the job"),
        ] {
            assert_eq!(told(status, body), expected, "{status} {body}");
        }
        assert_eq!(told(500, &failed(boom)), "engine_error workflow_failed: ValueError: boom");
        assert_eq!(told(500, &failed("null")), "engine_error workflow_failed: Job j has failed.");
        assert_eq!(told(500, &failed(r#"{"type":"cancelled"}"#)), "Cancelled");
        let lost = told(500, &failed(r#"{"type":"worker_lost"}"#));
        assert!(lost.starts_with("unavailable worker_lost"), "{lost}");
        let slow =
            told(408, r#"{"detail":{"code":"EXECUTION_TIMEOUT","message":"Workflow execution timed out"}}"#);
        assert_eq!(slow, "timeout engine_timeout: Workflow execution timed out");
    }

    #[test]
    fn several_outputs_are_given_together_and_an_error_among_them_is_a_failure() {
        for (status, body, expected) in [
            // A text beside data: neither is left out.
            (
                200,
                r#"{"status":"completed","output":{"reason":"single","text":"x"},"outputs":{"A":{"type":"message","content":"x"},"B":{"type":"data","content":{"n":1.50}},"C":{"content":null}}}"#,
                r#"{"A":"x","B":{"n":1.50},"C":null}"#,
            ),
            (
                200,
                r#"{"status":"completed","output":{"text":"x"},"outputs":{"A":{"content":"x"},"C":{"content":null}}}"#,
                "\"x\"",
            ),
            (
                200,
                r#"{"status":"completed","output":{"text":"x"},"outputs":{"A":{"type":"message","status":"failed","content":"no\n key"}}}"#,
                "engine_error workflow_failed: no key",
            ),
            (
                200,
                r#"{"status":"completed","output":{},"outputs":{"A":{"type":"message","content":{"text":"boom","error":true}},"B":{"content":1}}}"#,
                "engine_error workflow_failed: boom",
            ),
            (
                200,
                r#"{"status":"completed","output":{},"outputs":{"A":{"type":"data","content":{"text":"mine","error":true}}}}"#,
                r#"{"text":"mine","error":true}"#,
            ),
        ] {
            assert_eq!(told(status, body), expected, "{body}");
        }
    }
}
