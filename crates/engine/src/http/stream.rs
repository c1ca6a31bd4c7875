//! An answer that is a stream of server-sent events: which of them is the answer, and which the failure.
//!
//! Events are progress. The answer is the event that the configuration names, else the text that comes in pieces, as language
//! models send it, else the data of the last event. A mark of the end is no one's answer, and neither is a report of progress.

use super::pointer;
use crate::client::{Answer, EventStream, HttpClient, Request, StreamEvent, too_large};
use crate::config::ANSWER_BYTES_MAX;
use crate::contract::EngineFailure;
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use reqwest::header::CONTENT_TYPE;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The data by which many services say that a stream is over.
const DONE: &str = "[DONE]";

/// How the events of a stream are read. Events are named by their `event` field, else by `event` or `type` in their data.
#[derive(Debug, Clone)]
pub struct HttpStream {
    /// The event whose data is the answer; the last one of that name counts.
    pub answer: Option<String>,
    /// The event that says that the work failed.
    pub failure: String,
    /// Where in an event's data a piece of the answer's text is; all pieces together are the answer.
    pub join: Option<String>,
}

impl Default for HttpStream {
    fn default() -> HttpStream {
        HttpStream { answer: None, failure: "error".to_owned(), join: None }
    }
}

/// What came of a request.
pub(super) enum Told {
    /// A whole answer; of a stream, with what stands for its body.
    Answer(Answer),
    /// The stream said that the work failed, with this answer's body.
    Failed(Answer),
}

/// Sends a request and reads the whole answer. One that is a stream of events is told event by event.
pub(super) async fn send_told(
    client: &HttpClient,
    request: Request,
    rules: &HttpStream,
    mut on_event: impl FnMut(&StreamEvent),
) -> Result<Told, EngineFailure> {
    let bytes_max = request.bytes_max().min(ANSWER_BYTES_MAX);
    let answer = client.open(request).await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("text/event-stream") || !(200..300).contains(&status) {
        return answer.collect(client, bytes_max).await.map(Told::Answer);
    }
    let mut stream = EventStream::new(answer, bytes_max);
    let mut reading = Reading::new(rules, bytes_max);
    while let Some(event) = stream.next(client).await? {
        match reading.take(&event)? {
            Taken::Event => on_event(&event),
            Taken::Failure => {
                return Ok(Told::Failed(Answer { status, headers, body: Bytes::from(event.data) }));
            }
            Taken::Mark => {}
        }
    }
    let body = reading.end().map_err(|failure| failure.with_status(i32::from(status)))?;
    Ok(Told::Answer(Answer { status, headers, body }))
}

/// What an event was.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Event,
    Failure,
    Mark,
}

/// The state of a stream that is read.
struct Reading<'a> {
    rules: &'a HttpStream,
    bytes_max: usize,
    /// The answer so far: the event of that name, or the last one that may be it.
    answer: Option<StreamEvent>,
    /// The text that came in pieces, as it stands between the quotes of JSON: a piece may end within a character.
    pieces: Option<String>,
    /// A mark of the end was seen, which all known streams of pieces have.
    finished: bool,
}

impl Reading<'_> {
    fn new(rules: &HttpStream, bytes_max: usize) -> Reading<'_> {
        Reading { rules, bytes_max, answer: None, pieces: None, finished: false }
    }

    fn take(&mut self, event: &StreamEvent) -> Result<Taken, EngineFailure> {
        // Read in its own form: a number too large for ours, or half of a surrogate pair, makes nothing else of an event.
        let data: Option<&RawValue> = serde_json::from_str(&event.data).ok();
        let name = name_of(event, data);
        let name = name.as_deref();
        if is_failure(&self.rules.failure, name, data) {
            return Ok(Taken::Failure);
        }
        let named = self.rules.answer.as_deref().is_some_and(|answer| Some(answer) == name);
        self.finished |= is_end(name, data);
        if is_mark(event, name, data) && !named {
            self.finished = true;
            return Ok(Taken::Mark);
        }
        if let Some(piece) = self.piece(name, data) {
            let pieces = self.pieces.get_or_insert_default();
            if pieces.len() + piece.len() > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            pieces.push_str(&piece);
        } else if named || (self.rules.answer.is_none() && !is_progress(name, data)) {
            self.answer = Some(event.clone());
        }
        Ok(Taken::Event)
    }

    /// The piece of text that an event brings, as it stands between the quotes of JSON.
    fn piece(&self, name: Option<&str>, data: Option<&RawValue>) -> Option<String> {
        if self.rules.answer.is_some() {
            return None;
        }
        match &self.rules.join {
            Some(at) => {
                let found = pointer::find(data?, at)?.get();
                let is_number = found.starts_with(|c: char| c == '-' || c.is_ascii_digit());
                if is_number { Some(found.to_owned()) } else { between_quotes(found) }
            }
            None => known_piece(name, data?),
        }
    }

    /// What stands for the body of the answer.
    fn end(self) -> Result<Bytes, EngineFailure> {
        if let Some(text) = self.pieces.filter(|text| !text.is_empty()) {
            if !self.finished && self.rules.join.is_none() {
                let message = "the stream of the answer's text ended before its end was said";
                return Err(EngineFailure::new(FailureKind::BadResponse, "truncated_answer", message));
            }
            let whole = format!("\"{text}\"");
            return Ok(Bytes::from(between_quotes(&whole).map_or(whole, |text| format!("\"{text}\""))));
        }
        match self.answer {
            Some(event) if event.over => Err(too_large(self.bytes_max)),
            Some(event) => Ok(Bytes::from(event.data)),
            None => {
                let message = match &self.rules.answer {
                    Some(name) => format!("the stream ended without the event {name:?}, which is its answer"),
                    None => "the stream ended without an event that can be its answer; name it with stream.answer, or \
                             where the pieces of its text are with stream.join"
                        .to_owned(),
                };
                Err(EngineFailure::new(FailureKind::BadResponse, "no_answer_event", message))
            }
        }
    }
}

fn name_of<'a>(event: &'a StreamEvent, data: Option<&RawValue>) -> Option<Cow<'a, str>> {
    if !matches!(event.name.as_str(), "" | "message") {
        return Some(Cow::Borrowed(&event.name));
    }
    ["/event", "/type"].iter().find_map(|field| string(data?, field)).map(Cow::Owned)
}

/// The name says so, or all that the event holds is an error.
fn is_failure(named: &str, name: Option<&str>, data: Option<&RawValue>) -> bool {
    let error = data.and_then(|data| pointer::find(data, "/error")).map(RawValue::get);
    let is_error = error.is_some_and(|error| {
        error.starts_with('{')
            || (error.starts_with('"') && data.is_some_and(|data| holds_only(data, "error")))
    });
    let is_error = is_error || data.is_some_and(|data| string(data, "/object").as_deref() == Some("error"));
    name == Some(named)
        || matches!(name, Some("response.failed" | "response.incomplete"))
        || (name.is_none() && is_error)
}

/// Whether an event says that the text is whole.
fn is_end(name: Option<&str>, data: Option<&RawValue>) -> bool {
    let reason = data.and_then(|data| pointer::find(data, "/choices/0/finish_reason"));
    reason.is_some_and(|reason| reason.get().starts_with('"'))
        || matches!(name, Some("message_stop" | "response.completed" | "end"))
}

fn is_mark(event: &StreamEvent, name: Option<&str>, data: Option<&RawValue>) -> bool {
    let done =
        event.data.trim() == DONE || data.is_some_and(|data| string(data, "/data").as_deref() == Some(DONE));
    let empty = matches!(event.data.trim(), "" | "null" | "{}") && !event.over;
    done || (empty && matches!(name, Some("end" | "done" | "complete" | "close")))
}

/// Reports of progress, by their name or by holding nothing else.
fn is_progress(name: Option<&str>, data: Option<&RawValue>) -> bool {
    let named = matches!(
        name,
        Some(
            "progress"
                | "token"
                | "delta"
                | "chunk"
                | "ping"
                | "heartbeat"
                | "keepalive"
                | "start"
                | "metadata"
                | "usage"
                | "message_start"
                | "message_delta"
                | "message_stop"
                | "content_block_start"
                | "content_block_delta"
                | "content_block_stop"
        )
    );
    let share = data.and_then(|data| pointer::find(data, "/progress"));
    let share = share.and_then(|share| serde_json::from_str::<f64>(share.get()).ok());
    let only = data.is_some_and(|data| holds_only(data, "progress"));
    named || only || share.is_some_and(|share| (0.0..1.0).contains(&share))
}

/// The text of an event of Flowise, of OpenAI's chat completions and responses, or of Anthropic's messages, as it stands
/// between the quotes of JSON.
fn known_piece(name: Option<&str>, data: &RawValue) -> Option<String> {
    let text = |at: &str| pointer::find(data, at).and_then(|found| between_quotes(found.get()));
    if pointer::find(data, "/choices/0/delta").is_some() {
        // Of several answers side by side the first is the answer.
        let index = pointer::find(data, "/choices/0/index").map(RawValue::get);
        if index.and_then(|index| index.parse::<u64>().ok()).unwrap_or(0) > 0 {
            return Some(String::new());
        }
        return Some(text("/choices/0/delta/content").unwrap_or_default());
    }
    match name? {
        "token" => text("/data"),
        "content_block_delta" => text("/delta/text"),
        name if name.ends_with("output_text.delta") => text("/delta"),
        _ => None,
    }
}

fn string(data: &RawValue, at: &str) -> Option<String> {
    serde_json::from_str(pointer::find(data, at)?.get()).ok()
}

/// Whether it is an object with this field alone.
fn holds_only(data: &RawValue, field: &str) -> bool {
    let fields: Option<BTreeMap<Cow<'_, str>, &RawValue>> = serde_json::from_str(data.get()).ok();
    fields.is_some_and(|fields| fields.len() == 1 && fields.contains_key(field))
}

/// What stands between the quotes of a JSON string, with no more escapes than it needs; one that holds half of a surrogate pair
/// stays as it is, because the other half may come with what follows.
fn between_quotes(json: &str) -> Option<String> {
    let short = serde_json::from_str::<String>(json).map(|text| serde_json::Value::from(text).to_string());
    let written = short.as_deref().unwrap_or(json);
    Some(written.strip_prefix('"')?.strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rules: &HttpStream, events: &[(&str, &str)]) -> String {
        let mut reading = Reading::new(rules, 1_000);
        for (name, data) in events {
            let event =
                StreamEvent { name: (*name).to_owned(), data: (*data).to_owned(), ..StreamEvent::default() };
            match reading.take(&event) {
                Ok(Taken::Failure) => return format!("failed {data}"),
                Ok(_) => {}
                Err(failure) => return failure.code,
            }
        }
        match reading.end() {
            Ok(body) => String::from_utf8(body.to_vec()).unwrap(),
            Err(failure) => failure.code,
        }
    }

    #[test]
    fn the_answer_is_told_from_progress_marks_and_failures() {
        let usual = HttpStream::default();
        let answer = HttpStream { answer: Some("result".to_owned()), ..HttpStream::default() };
        let join = HttpStream { join: Some("/t".to_owned()), ..HttpStream::default() };
        let piece = |text: &str| format!(r#"{{"event":"token","data":"{text}"}}"#);
        let (hel, lo) = (piece("Hel"), piece("lo"));
        let delta =
            |text: &str| format!(r#"{{"object":"chat.completion.chunk","choices":[{{"delta":{text}}}]}}"#);
        let (role, hi) = (delta(r#"{"role":"assistant"}"#), delta(r#"{"content":"hi"}"#));
        type Row<'a> = (&'a HttpStream, &'a [(&'a str, &'a str)], &'a str);
        let rows: &[Row<'_>] = &[
            (&usual, &[("", r#"{"progress":0.5}"#), ("", r#"{"answer":42}"#)], r#"{"answer":42}"#),
            (&usual, &[("", r#"{"answer":42}"#), ("", "[DONE]")], r#"{"answer":42}"#),
            (&usual, &[("result", r#"{"answer":42}"#), ("end", "{}")], r#"{"answer":42}"#),
            (&usual, &[("end", r#"{"answer":42}"#)], r#"{"answer":42}"#),
            (&usual, &[("", r#"{"progress":0.5}"#)], "no_answer_event"),
            (&usual, &[("progress", "half")], "no_answer_event"),
            (&usual, &[], "no_answer_event"),
            (&usual, &[("", r#"{"delta":"hel"}"#), ("error", "\"away\"")], "failed \"away\""),
            (
                &usual,
                &[("", r#"{"event":"error","data":"away"}"#)],
                r#"failed {"event":"error","data":"away"}"#,
            ),
            (&usual, &[("", r#"{"error":{"code":1}}"#)], r#"failed {"error":{"code":1}}"#),
            (&usual, &[("", r#"{"error":null}"#)], r#"{"error":null}"#),
            (&usual, &[("", &hel), ("", &lo), ("", r#"{"event":"end","data":"[DONE]"}"#)], "\"Hello\""),
            (&usual, &[("", &role), ("", &hi), ("", "[DONE]")], "\"hi\""),
            (&usual, &[("", &hi)], "truncated_answer"),
            (
                &usual,
                &[("", &hi), ("", r#"{"error":{"message":"away"},"code":500}"#)],
                r#"failed {"error":{"message":"away"},"code":500}"#,
            ),
            (
                &usual,
                &[
                    ("", r#"{"type":"response.output_text.delta","delta":"a"}"#),
                    ("", r#"{"type":"response.failed"}"#),
                ],
                r#"failed {"type":"response.failed"}"#,
            ),
            (&usual, &[("", r#"{"progress":0.5,"step":"a"}"#)], "no_answer_event"),
            (
                &usual,
                &[("content_block_delta", r#"{"delta":{"text":"a"}}"#), ("message_stop", "{\"type\":\"x\"}")],
                "\"a\"",
            ),
            (&answer, &[("", &hel), ("result", "1"), ("usage", "2")], "1"),
            (
                &answer,
                &[("", r#"{"type":"result","n":1.0}"#), ("", "[DONE]")],
                r#"{"type":"result","n":1.0}"#,
            ),
            (&answer, &[("", "1")], "no_answer_event"),
            (&join, &[("", r#"{"t":"a"}"#), ("", r#"{"x":1}"#), ("", r#"{"t":"b"}"#)], "\"ab\""),
        ];
        for (rules, events, expected) in rows {
            assert_eq!(read(rules, events), *expected, "{events:?}");
        }
        let long = "y".repeat(600);
        let pieces = [("", piece(&long)), ("", piece(&long))];
        assert_eq!(
            read(&usual, &pieces.each_ref().map(|(name, data)| (*name, data.as_str()))),
            "answer_too_large"
        );
    }

    /// A number too large for a double, or a piece that ends within a character, makes nothing else of an event.
    #[test]
    fn events_are_read_in_their_own_form() {
        let usual = HttpStream::default();
        let join = HttpStream { join: Some("/t".to_owned()), ..HttpStream::default() };
        let piece = |text: &str| format!(r#"{{"event":"token","data":"{text}"}}"#);
        type Row<'a> = (&'a HttpStream, &'a [(&'a str, &'a str)], &'a str);
        let rows: &[Row<'_>] = &[
            (&usual, &[("", r#"{"progress":0.5,"loss":1e400}"#)], "no_answer_event"),
            (&usual, &[("", r#"{"type":"error","n":1e400}"#)], r#"failed {"type":"error","n":1e400}"#),
            (&usual, &[("", r#"{"error":{"n":1e400}}"#)], r#"failed {"error":{"n":1e400}}"#),
            (
                &usual,
                &[("", &piece(r"Hi \ud83d")), ("", &piece(r"\ude00\u0041")), ("end", "[DONE]")],
                "\"Hi \u{1f600}A\"",
            ),
            (&join, &[("", r#"{"t":"\ud83d"}"#), ("", r#"{"t":"\ude00"}"#)], "\"\u{1f600}\""),
            (&join, &[("", r#"{"t":"\ud83d"}"#), ("", r#"{"t":-1e400}"#)], r#""\ud83d-1e400""#),
        ];
        for (rules, events, expected) in rows {
            assert_eq!(read(rules, events), *expected, "{events:?}");
        }
    }
}
