//! The v1 interface: one request that lasts as long as the run. Langflow goes on with the run when the connection is
//! dropped, and can neither be asked for it again nor told to stop it; a wish to stop is therefore only heard by the
//! worker, which gives the call up.

use super::{Langflow, request, wire};
use crate::client::{Request, check_result, if_taken, single_string};
use crate::config::{ANSWER_BYTES_MAX, CONTROL_BYTES_MAX};
use crate::contract::{Call, EngineFailure, Outcome, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::DEFAULT_TOTAL_TIMEOUT;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// No run may hold a connection longer; the attempt's own limit is normally far below.
const RUN_WITHIN: Duration = Duration::from_millis(DEFAULT_TOTAL_TIMEOUT);
/// What makes it safe to send a request again.
const REMEDY: &str = "use `api = \"v2\"`, which recognises a repeat";
/// The text of a result is repeated this many times in an answer.
const REPEATS: usize = 6;

#[derive(Serialize)]
struct Body<'a> {
    input_value: &'a str,
    input_type: &'static str,
    output_type: &'static str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tweaks: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RunAnswer<'a> {
    #[serde(borrow)]
    outputs: &'a RawValue,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    outputs: Vec<Option<Part<'a>>>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    component_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    results: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

impl<'a> Part<'a> {
    fn message(&self) -> Option<&'a RawValue> {
        let results: Results<'a> = serde_json::from_str(self.results?.get()).ok()?;
        results.message
    }

    fn text(&self) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Message<'a>>(self.message()?.get()).ok()?.text
    }
}

impl Langflow {
    pub(super) async fn run_v1(&self, call: &Call) -> Result<Outcome, EngineFailure> {
        if call.stop.requested().is_some() {
            return Ok(Outcome::Cancelled);
        }
        let flow = match &call.definition {
            None => Cow::Borrowed(call.workflow_id.as_str()),
            Some(definition) => {
                let flow = self.inline_flow(definition, call)?;
                self.ensure_flow(call, &flow).await?;
                Cow::Owned(flow.id)
            }
        };
        let input = self.input(&call.parameters)?;
        if input.globals.is_some() {
            let message = "globals need the v2 interface";
            let failure = EngineFailure::new(FailureKind::InvalidRequest, "globals_not_supported", message);
            return Err(failure.with_reached(Reached::No));
        }
        let body = Body {
            input_value: &input.value,
            input_type: "chat",
            output_type: "chat",
            session_id: request::session_of(call),
            tweaks: input.tweaks,
        };
        let body = serde_json::to_vec(&body).map_err(|error| wire::unserializable(&error))?;
        let url = self.client.url(call.endpoint, &["api", "v1", "run", &flow])?;
        let bytes_max = call.result_bytes_max.saturating_mul(REPEATS).saturating_add(CONTROL_BYTES_MAX);
        let request = self.client.post(url, body).query("stream", "false");
        let request = request.within(RUN_WITHIN, RUN_WITHIN).body_bytes_max(bytes_max.min(ANSWER_BYTES_MAX));
        self.ran(call, request).await.map_err(|failure| if_taken(failure, REMEDY))
    }

    /// Sends what runs the flow.
    async fn ran(&self, call: &Call, request: Request) -> Result<Outcome, EngineFailure> {
        let answer = self.client.send(request).await?;
        match answer.status {
            200..300 => {
                let result = result_of(&answer.body).map_err(EngineFailure::not_repeated)?;
                check_result(&result, call.result_bytes_max)?;
                Ok(Outcome::Succeeded { result, needs_input: false })
            }
            404 if wire::detail_text(&answer).is_some() => {
                Err(EngineFailure { code: "workflow_not_found".to_owned(), ..self.client.refusal(&answer) })
            }
            // A component that raised answers like a broken server, but says so.
            500 => Err(wire::detail_text(&answer).map_or_else(
                || self.client.refusal(&answer),
                |words| {
                    EngineFailure::new(FailureKind::EngineError, "workflow_failed", words).with_status(500)
                },
            )),
            _ => Err(self.client.refusal(&answer)),
        }
    }
}

/// The one message's text, parsed if it is JSON; of several outputs all of them by component id, a message as its text;
/// the outputs as they are where none is a message.
fn result_of(body: &[u8]) -> Result<Bytes, EngineFailure> {
    // Depth is checked on a parse that keeps nothing.
    crate::client::parse::<serde::de::IgnoredAny>(body)?;
    let answer: RunAnswer<'_> = serde_json::from_slice(body).map_err(|_| {
        let message = "the engine's answer has no outputs";
        EngineFailure::new(FailureKind::BadResponse, "malformed_answer", message).with_reached(Reached::Maybe)
    })?;
    let outputs: Vec<Option<Output<'_>>> = serde_json::from_str(answer.outputs.get()).unwrap_or_default();
    let outputs = outputs.into_iter().flatten().flat_map(|output| output.outputs).flatten();
    let parts: Vec<Part<'_>> =
        outputs.filter(|part| part.results.is_some_and(|results| results.get() != "{}")).collect();
    if let Some(words) = parts.iter().find_map(|part| wire::error_message(part.message()?.get())) {
        return Err(wire::error_output(words));
    }
    let whole = || Bytes::copy_from_slice(answer.outputs.get().as_bytes());
    if parts.iter().all(|part| part.text().is_none()) {
        return Ok(whole());
    }
    if let [part] = &parts[..] {
        return Ok(part.text().map_or_else(whole, |text| single_string(&text)));
    }
    let mut by_component = BTreeMap::new();
    for part in &parts {
        let value = match part.text() {
            Some(text) => Cow::Owned(serde_json::Value::from(text).to_string()),
            None => Cow::Borrowed(part.results.map_or("null", RawValue::get)),
        };
        let named = part.component_id.as_deref().map(|id| by_component.insert(id, value));
        // Nothing of a run may be left out, so what has no name of its own is given as it is.
        if !matches!(named, Some(None)) {
            return Ok(whole());
        }
    }
    let fields: Vec<String> =
        by_component.iter().map(|(id, value)| format!("{}:{value}", serde_json::Value::from(*id))).collect();
    Ok(Bytes::from(format!("{{{}}}", fields.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_is_the_result() {
        let answer = |message: &str| format!(r#"{{"outputs":[{{"outputs":[{{"results":{message}}}]}}]}}"#);
        let result = |body: &str| result_of(body.as_bytes()).map_err(|failure| failure.code);
        assert_eq!(result(&answer(r#"{"message":{"text":"hi\n"}}"#)).unwrap(), "\"hi\\n\"");
        assert_eq!(result(&answer(r#"{"message":{"text":"{\"a\":1.50}"}}"#)).unwrap(), r#"{"a":1.50}"#);
        let table = answer(r#"{"table":[1]}"#);
        assert_eq!(result(&table).unwrap(), table.as_bytes()[11..table.len() - 1]);
        let second = r#"{"component_id":"B","results":{"message":{"text":"{\"n\":1}","error":false}}}"#;
        let several = |first: &str| format!(r#"{{"outputs":[{{"outputs":[{first},null,{second}]}}]}}"#);
        let first = r#"{"component_id":"A","results":{"message":{"text":"hi","data":{"error":false}}}}"#;
        assert_eq!(result(&several(first)).unwrap(), r#"{"A":"hi","B":"{\"n\":1}"}"#);
        let data = r#"{"component_id":"A","results":{"data":[1.50]}}"#;
        assert_eq!(result(&several(data)).unwrap(), r#"{"A":{"data":[1.50]},"B":"{\"n\":1}"}"#);
        let empty = r#"{"component_id":"A","results":{}}"#;
        assert_eq!(result(&several(empty)).unwrap(), r#"{"n":1}"#);
        let nameless = several(r#"{"results":{"message":{"text":"hi"}}}"#);
        assert_eq!(result(&nameless).unwrap(), nameless.as_bytes()[11..nameless.len() - 1]);
        for error in [r#"{"text":"no\nkey","error":true}"#, r#"{"data":{"text":"no key","error":true}}"#] {
            let failed = several(&format!(r#"{{"component_id":"A","results":{{"message":{error}}}}}"#));
            let failure = result_of(failed.as_bytes()).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.message.as_str()), ("workflow_failed", "no key"));
        }
        assert_eq!(result(r#"{"outputs":[]}"#).unwrap(), "[]");
        assert_eq!(result("{}"), Err("malformed_answer".to_owned()));
    }
}
