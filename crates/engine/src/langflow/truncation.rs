//! Langflow cuts the texts and lists of background results at a limit of its own (`LANGFLOW_MAX_TEXT_LENGTH`, 6,000
//! characters unless set, and `LANGFLOW_MAX_ITEMS_LENGTH`) and says so only by an ellipsis. A cut result is never
//! passed on as the result: it is taken whole from the engine's messages where the flow stores them, else the run ends
//! `too_large` with words on what to set.

use super::{Langflow, request};
use crate::client::single_string;
use crate::config::{ANSWER_BYTES_MAX, CONTROL_BYTES_MAX};
use crate::contract::{Call, EngineFailure};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use serde::Deserialize;
use uuid::Uuid;

const ELLIPSIS: &str = "...";
/// What stands at the end of a list that was cut.
const LIST_MARK: &str = "... [truncated ";
/// Langflow's limit where it does not tell another.
const TEXT_CHARS_DEFAULT: usize = 6_000;
/// Messages of the session that are looked through, the newest first.
const MESSAGES_LISTED: &str = "20";

/// What a completed job gave, and where it may have been cut.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Completed {
    pub(super) result: Bytes,
    /// The result is this one text.
    pub(super) text: Option<String>,
    /// Characters in front of the ellipsis, of each text that ends with one.
    pub(super) cut_at: Vec<usize>,
    /// A list says that it was cut.
    pub(super) cut_list: bool,
    /// The components whose outputs it is made of.
    pub(super) components: Vec<String>,
}

impl Completed {
    pub(super) fn of_text(text: &str) -> Completed {
        let cut_at = cut_text(text).into_iter().collect::<Vec<_>>();
        let text_if_cut = (!cut_at.is_empty()).then(|| text.to_owned());
        Completed { result: single_string(text), text: text_if_cut, cut_at, ..Completed::default() }
    }

    pub(super) fn of_json(result: Vec<u8>) -> Completed {
        let mut completed = Completed::default();
        // Most results hold no ellipsis, and are then not parsed.
        if (result.windows(4).any(|bytes| bytes == b"...\"")
            || result.windows(4).any(|bytes| bytes == b"... "))
            && let Ok(json) = crate::client::parse::<serde_json::Value>(&result)
        {
            completed.look_through(&json);
        }
        Completed { result: Bytes::from(result), ..completed }
    }

    /// The depth of a parsed value is bounded.
    fn look_through(&mut self, json: &serde_json::Value) {
        match json {
            serde_json::Value::String(text) => self.cut_at.extend(cut_text(text)),
            serde_json::Value::Array(items) => {
                let last = items.last().and_then(serde_json::Value::as_str).unwrap_or_default();
                self.cut_list |= last.starts_with(LIST_MARK) && last.ends_with(" items]");
                items.iter().for_each(|item| self.look_through(item));
            }
            serde_json::Value::Object(fields) => fields.values().for_each(|field| self.look_through(field)),
            _ => {}
        }
    }
}

fn cut_text(text: &str) -> Option<usize> {
    text.strip_suffix(ELLIPSIS).map(|front| front.chars().count())
}

impl Langflow {
    /// The result as the flow made it, or a failure if the engine has only a part of it.
    pub(super) async fn whole(
        &self,
        call: &Call,
        job: Uuid,
        completed: Completed,
    ) -> Result<Bytes, EngineFailure> {
        if completed.cut_at.is_empty() && !completed.cut_list {
            return Ok(completed.result);
        }
        let limit = self.text_limit(call.endpoint).await;
        if !completed.cut_list && !completed.cut_at.contains(&limit) {
            return Ok(completed.result);
        }
        if let Some(text) = &completed.text
            && let Some(whole) = self.message_of(call, job, &text[..text.len() - ELLIPSIS.len()]).await
        {
            return Ok(single_string(&whole));
        }
        let message = format!(
            "the engine keeps only {limit} characters of a text (or a part of a list) of a background result; raise \
             LANGFLOW_MAX_TEXT_LENGTH and LANGFLOW_MAX_ITEMS_LENGTH there"
        );
        Err(EngineFailure::new(FailureKind::TooLarge, "result_truncated", message))
    }

    async fn text_limit(&self, endpoint: usize) -> usize {
        #[derive(Deserialize)]
        struct Wire {
            serialization_max_text_length: usize,
        }
        let told = async {
            let url = self.client.url(endpoint, &["api", "v1", "config"])?;
            self.client.send(self.client.get(url)).await?.json::<Wire>()
        };
        told.await.map_or(TEXT_CHARS_DEFAULT, |config| config.serialization_max_text_length)
    }

    /// The stored message of this job that begins with `front`.
    async fn message_of(&self, call: &Call, job: Uuid, front: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Message {
            #[serde(default)]
            text: String,
            #[serde(default)]
            session_metadata: Option<Metadata>,
        }
        #[derive(Deserialize)]
        struct Metadata {
            graph_run_id: Option<String>,
        }
        let url = self.client.url(call.endpoint, &["api", "v1", "monitor", "messages"]).ok()?;
        let bytes_max = call.result_bytes_max.saturating_mul(4).saturating_add(CONTROL_BYTES_MAX);
        let limit = self.client.transfer_timeout();
        let request = self
            .client
            .get(url)
            .query("session_id", request::session_of(call))
            .query("order", "DESC")
            .query("limit", MESSAGES_LISTED)
            .within(limit, limit)
            .body_bytes_max(bytes_max.min(ANSWER_BYTES_MAX));
        let answer = self.client.send(request).await.ok()?;
        let job = job.to_string();
        let messages: Vec<Message> = answer.is_success().then(|| answer.json().ok()).flatten()?;
        messages
            .into_iter()
            .filter(|message| {
                let run =
                    message.session_metadata.as_ref().and_then(|metadata| metadata.graph_run_id.as_deref());
                run == Some(&*job)
            })
            .map(|message| message.text)
            .find(|text| text.starts_with(front))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsis_is_noticed_wherever_it_stands() {
        let text = Completed::of_text("abc...");
        assert_eq!((text.cut_at, text.text.as_deref()), (vec![3], Some("abc...")));
        assert_eq!(Completed::of_text("...abc").cut_at, Vec::<usize>::new());
        let json = |text: &str| {
            let completed = Completed::of_json(text.as_bytes().to_vec());
            (completed.cut_at, completed.cut_list)
        };
        assert_eq!(json(r#"{"a":["x","üy..."]}"#), (vec![2], false));
        assert_eq!(json(r#"{"a":[1,"... [truncated 7 items]"]}"#), (vec![], true));
        assert_eq!(json(r#"{"a":["x"]}"#), (vec![], false));
    }
}
