//! What an answer means: the conditions of the configuration, in the light of its status.

use super::values::AnswerValues;
use super::{Http, pointer};
use crate::client::{Answer, answer_text, check_result, single_string, without_mark};
use crate::contract::{EngineFailure, Outcome, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use serde_json::value::RawValue;

/// What the conditions make of an answer that does not mean a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    Succeeded,
    Cancelled,
}

/// Whether a status alone says that the service could not serve: whatever stands in the body then is not about the work.
pub(super) fn is_out_of_service(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 502..=504)
}

impl Http {
    /// What an answer that ends the work means.
    pub(super) fn conclude(&self, answer: &Answer, bytes_max: usize) -> Result<Outcome, EngineFailure> {
        match self.judge(answer)? {
            Judged::Cancelled => Ok(Outcome::Cancelled),
            Judged::Succeeded => self.succeeded(answer, bytes_max),
        }
    }

    /// What the conditions say of an answer. The status counts before they do.
    pub(super) fn judge(&self, answer: &Answer) -> Result<Judged, EngineFailure> {
        if is_out_of_service(answer.status) {
            return Err(self.client.refusal(answer));
        }
        let values = AnswerValues::compared(answer.status, without_mark(&answer.body));
        if self.says(&self.config.failure, "failure", &values)? == Some(true) {
            return Err(self.work_failed(answer));
        }
        if self.says(&self.config.cancelled, "cancelled", &values)? == Some(true) {
            return Ok(Judged::Cancelled);
        }
        match self.says(&self.config.success, "success", &values)? {
            Some(true) => Ok(Judged::Succeeded),
            None if answer.is_success() => Ok(Judged::Succeeded),
            _ if answer.is_success() && answer.is_web_page() => Err(web_page(answer)),
            _ if answer.is_success() => Err(self.work_failed(answer)),
            _ => Err(self.client.refusal(answer)),
        }
    }

    /// Whether an answer says that the work itself failed, or was stopped.
    pub(super) fn says_it_is_over(&self, answer: &Answer) -> Result<bool, EngineFailure> {
        let values = AnswerValues::compared(answer.status, without_mark(&answer.body));
        Ok(self.says(&self.config.failure, "failure", &values)? == Some(true)
            || self.says(&self.config.cancelled, "cancelled", &values)? == Some(true))
    }

    /// Whether an answer with a success for its status is one by the condition, too.
    pub(super) fn is_success(&self, answer: &Answer) -> Result<bool, EngineFailure> {
        let values = AnswerValues::compared(answer.status, without_mark(&answer.body));
        Ok(self.says(&self.config.success, "success", &values)? != Some(false))
    }

    /// Whether a condition holds; `None` where it is not configured.
    fn says(
        &self,
        condition: &Option<String>,
        field: &str,
        values: &AnswerValues,
    ) -> Result<Option<bool>, EngineFailure> {
        condition.as_ref().map(|source| self.templates.holds(field, source, values)).transpose()
    }

    /// The result in an answer that means success.
    pub(super) fn succeeded(&self, answer: &Answer, bytes_max: usize) -> Result<Outcome, EngineFailure> {
        let result = self.result(answer, bytes_max)?;
        check_result(&result, bytes_max)?;
        Ok(Outcome::Succeeded { result, needs_input: false })
    }

    fn result(&self, answer: &Answer, bytes_max: usize) -> Result<Bytes, EngineFailure> {
        let body = without_mark(&answer.body);
        if self.config.result_template.is_some() {
            let values = AnswerValues::written(answer.status, body);
            let text = self.templates.json_of_answer("result_template", &values.values)?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text)
                .map_err(|error| malformed(answer, format!("result_template makes no JSON: {error}")))?;
            return Ok(Bytes::from(text));
        }
        if let Some(pointer) = &self.config.result {
            let json: Box<RawValue> = answer.json()?;
            return match pointer::find(&json, pointer) {
                Some(found) => Ok(Bytes::copy_from_slice(found.get().as_bytes())),
                None => {
                    Err(malformed(answer, format!("the answer has nothing at {pointer}{}", beginning(body))))
                }
            };
        }
        let text = std::str::from_utf8(body)
            .map_err(|_| malformed(answer, format!("the answer is not UTF-8{}", beginning(body))))?;
        if text.trim().is_empty() {
            return Ok(Bytes::from_static(b"null"));
        }
        if !answer.claims_json() {
            return Ok(single_string(text));
        }
        // JSON that is too deep stays what it is, and is refused.
        check_result(text.trim().as_bytes(), bytes_max)?;
        let _: serde::de::IgnoredAny = answer.json().map_err(|failure| EngineFailure {
            message: format!("{}{}", failure.message, beginning(body)),
            ..failure
        })?;
        Ok(Bytes::copy_from_slice(text.trim().as_bytes()))
    }

    pub(super) fn work_failed(&self, answer: &Answer) -> EngineFailure {
        let message = self.message_in(answer).unwrap_or_else(|| self.client.refusal(answer).message);
        self.failed(answer, message)
    }

    /// The same for an event by which a stream said so.
    pub(super) fn stream_failed(&self, answer: &Answer) -> EngineFailure {
        let said = self.message_in(answer).unwrap_or_else(|| answer_text(&answer.body));
        let message = if said.is_empty() { "the stream says that the work failed".to_owned() } else { said };
        self.failed(answer, message)
    }

    /// The words at the configured place.
    fn message_in(&self, answer: &Answer) -> Option<String> {
        let json: Box<RawValue> = answer.json().ok()?;
        pointer::text(&json, self.config.message.as_ref()?)
    }

    fn failed(&self, answer: &Answer, message: String) -> EngineFailure {
        let failure = EngineFailure::new(FailureKind::EngineError, "workflow_failed", message);
        self.client.scrubbed(failure.with_status(i32::from(answer.status)))
    }
}

/// A page in the place of an answer says nothing of the work.
pub(super) fn web_page(answer: &Answer) -> EngineFailure {
    malformed(answer, "the answer is a web page: a proxy or a sign-in page may stand in between".to_owned())
}

pub(super) fn malformed(answer: &Answer, text: String) -> EngineFailure {
    EngineFailure::new(FailureKind::BadResponse, "malformed_answer", text)
        .with_status(i32::from(answer.status))
        .with_reached(Reached::Maybe)
}

/// The beginning of what came, for people.
pub(super) fn beginning(body: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * CHARS_MAX)]);
    let text: String = text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
    if text.is_empty() { "; it is empty".to_owned() } else { format!("; it begins with {text:?}") }
}
