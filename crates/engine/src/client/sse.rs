//! Server-sent events, read with a bound on every part.

use super::{HttpClient, Request, Streaming};
use crate::config::STREAM_EVENT_BYTES_MAX;
use crate::contract::EngineFailure;
use bytes::Bytes;
use enginehouse_core::pauses::Pauses;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use std::time::Duration;
use tokio::sync::Notify;

/// The pause before a stream that ended is opened again, at first and at most.
const REOPEN_PAUSES: Pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(30));

/// One event of a stream; `data` is empty when it was over the bound. What has a name only is no event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamEvent {
    /// Empty when the stream did not name it.
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) id: Option<String>,
    pub(crate) over: bool,
}

/// Reads a run's events for as long as it is polled, opening the stream again where it left off whenever it ends.
/// Each end of a stream is told by `ended`: the run may be over. It is only an addition to polling, so what goes wrong
/// with it is no failure: it returns when the engine refuses the stream.
pub(crate) async fn watch_events(
    client: &HttpClient,
    open: impl Fn() -> Result<Request, EngineFailure>,
    mut from: Option<String>,
    mut on_event: impl FnMut(&StreamEvent),
    ended: &Notify,
) {
    let mut pauses = REOPEN_PAUSES;
    loop {
        let Ok(mut request) = open() else { return };
        request = request.header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = from.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            request = request.header(HeaderName::from_static("last-event-id"), id);
        }
        match client.open(request).await {
            Ok(answer) if answer.status() == 200 => {
                let mut stream = EventStream::new(answer, STREAM_EVENT_BYTES_MAX);
                while let Ok(Some(event)) = stream.next(client).await {
                    pauses.restart();
                    on_event(&event);
                    if event.id.is_some() {
                        from = event.id;
                    }
                }
                ended.notify_one();
            }
            Ok(answer) if answer.status() < 500 => return,
            _ => {}
        }
        tokio::time::sleep(pauses.after_failure()).await;
    }
}

/// Reads events from an answer.
pub(crate) struct EventStream {
    answer: Streaming,
    parser: Parser,
    chunk: Bytes,
}

impl EventStream {
    /// `bytes_max`: of a line, and of the data of an event.
    pub(crate) fn new(answer: Streaming, bytes_max: usize) -> EventStream {
        EventStream { answer, parser: Parser { bytes_max, ..Parser::default() }, chunk: Bytes::new() }
    }

    /// The next event, `None` at the end of the stream. Comments are passed over. An event that the end of the stream leaves
    /// open is one where the answer says itself where it ends; else the connection may as well have been lost in it.
    pub(crate) async fn next(&mut self, client: &HttpClient) -> Result<Option<StreamEvent>, EngineFailure> {
        loop {
            while !self.chunk.is_empty() {
                let (used, event) = self.parser.feed(&self.chunk);
                self.chunk = self.chunk.slice(used..);
                if event.is_some() {
                    return Ok(event);
                }
            }
            match self.answer.chunk(client).await? {
                Some(chunk) => self.chunk = chunk,
                None => match self.parser.finish() {
                    Some(_) if !self.answer.is_framed() => return Err(self.answer.truncated()),
                    event => return Ok(event),
                },
            }
        }
    }
}

/// The state between two pieces of a stream: the line so far and the event so far.
#[derive(Default)]
struct Parser {
    bytes_max: usize,
    line: Vec<u8>,
    /// The line, or the event's data, went over the bound: the rest of it is passed over.
    line_over: bool,
    data_over: bool,
    after_return: bool,
    /// The first line has been read, before which a byte order mark may stand.
    begun: bool,
    name: String,
    data: String,
    has_data: bool,
    id: Option<String>,
}

impl Parser {
    /// Takes bytes up to the end of the next event; says how many, and the event if it is complete.
    fn feed(&mut self, bytes: &[u8]) -> (usize, Option<StreamEvent>) {
        for (at, byte) in bytes.iter().enumerate() {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    if let Some(event) = self.end_line() {
                        return (at + 1, Some(event));
                    }
                }
                _ if self.line.len() < self.bytes_max => self.line.push(*byte),
                _ => self.line_over = true,
            }
        }
        (bytes.len(), None)
    }

    fn end_line(&mut self) -> Option<StreamEvent> {
        let line = std::mem::take(&mut self.line);
        let over = std::mem::take(&mut self.line_over);
        if line.is_empty() {
            return self.end_event();
        }
        let text = String::from_utf8_lossy(&line);
        let first = !std::mem::replace(&mut self.begun, true);
        let text = text.strip_prefix('\u{feff}').filter(|_| first).unwrap_or(&text);
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data_over |= over || self.data.len() + value.len() > self.bytes_max;
                if !self.data_over {
                    self.data.push_str(value);
                }
            }
            _ => {}
        }
        None
    }

    /// What the end of the stream leaves open.
    fn finish(&mut self) -> Option<StreamEvent> {
        let line_ended = if self.line.is_empty() { None } else { self.end_line() };
        line_ended.or_else(|| self.end_event())
    }

    fn end_event(&mut self) -> Option<StreamEvent> {
        let over = std::mem::take(&mut self.data_over);
        let has_data = std::mem::take(&mut self.has_data);
        let event = StreamEvent {
            name: std::mem::take(&mut self.name),
            data: std::mem::take(&mut self.data),
            id: self.id.take(),
            over,
        };
        let data = if over { String::new() } else { event.data };
        has_data.then_some(StreamEvent { data, ..event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<StreamEvent> {
        let mut parser = Parser { bytes_max: STREAM_EVENT_BYTES_MAX, ..Parser::default() };
        let mut events = Vec::new();
        for piece in pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let (used, event) = parser.feed(rest);
                rest = &rest[used..];
                events.extend(event);
            }
        }
        events.extend(parser.finish());
        events
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> StreamEvent {
        let (name, data) = (name.to_owned(), data.to_owned());
        StreamEvent { name, data, id: id.map(str::to_owned), over: false }
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = b"\xef\xbb\xbf: beat\n\nevent: custom\ndata: {\"a\":\ndata: 1}\nid: 7\n\r\ndata:x\r\n\r\nevent: end\n\ndata: cut";
        let expected =
            [event("custom", "{\"a\":\n1}", Some("7")), event("", "x", None), event("", "cut", None)];
        assert_eq!(read(&[text]), expected);
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&single), expected);
    }

    #[test]
    fn an_event_over_the_bound_is_kept_as_a_bare_sign_of_life() {
        let long = "y".repeat(STREAM_EVENT_BYTES_MAX);
        let text = format!(
            "event: values\ndata: {long}\n\ndata: small\n\ndata: {long}\ndata: {long}\n\ndata: z\n\n"
        );
        let events = read(&[text.as_bytes()]);
        let over = |name| StreamEvent { over: true, ..event(name, "", None) };
        let expected = [over("values"), event("", "small", None), over(""), event("", "z", None)];
        assert_eq!(events, expected);
    }
}
