//! Reading server-sent events from an answer.

use super::{ClientError, root_cause};
use crate::EventView;
use std::collections::VecDeque;

/// One event; a stream with a larger one is given up.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEvent {
    /// Give it back as `last_event_id` to resume after this event.
    pub id: Option<String>,
    /// The name, such as `execution_started` or `gap`.
    pub event: String,
    /// JSON.
    pub data: String,
}

impl ServerEvent {
    /// The data of an execution's event; an error for events of another shape, such as `gap`.
    pub fn view(&self) -> Result<EventView, serde_json::Error> {
        serde_json::from_str(&self.data)
    }
}

/// Events in order, read as they come.
pub struct EventReader {
    response: reqwest::Response,
    url: String,
    parser: Parser,
    ready: VecDeque<ServerEvent>,
}

impl EventReader {
    pub(super) fn new(response: reqwest::Response, url: String) -> EventReader {
        EventReader { response, url, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The next event; `None` when the service ended the stream.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let lost = |reason: String| ClientError::Lost { url: self.url.clone(), reason };
            match self.response.chunk().await.map_err(|error| lost(root_cause(&error)))? {
                None => return Ok(None),
                Some(chunk) => {
                    self.parser.push(&chunk, &mut self.ready).map_err(|text| lost(text.to_owned()))?
                }
            }
        }
    }
}

/// Splits a byte stream into events; a chunk may end anywhere, within a character too.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    /// The last line ended with CR, so that an LF that follows belongs to it.
    after_cr: bool,
    id: Option<String>,
    event: String,
    data: String,
    has_data: bool,
}

impl Parser {
    fn push(&mut self, chunk: &[u8], out: &mut VecDeque<ServerEvent>) -> Result<(), &'static str> {
        for byte in chunk {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    self.end_line(out);
                }
                _ => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err("an event is too large");
            }
        }
        Ok(())
    }

    fn end_line(&mut self, out: &mut VecDeque<ServerEvent>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let data = std::mem::take(&mut self.data);
            if std::mem::take(&mut self.has_data) {
                out.push_back(ServerEvent { id: self.id.clone(), event, data });
            }
            return;
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            // A comment is a beat; `retry` and unknown fields say nothing this reader acts upon.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let text = ": beat\n\nid: 1\nevent: execution_started\ndata: {\"a\":\"\u{e9}\"}\n\r\nid: 2\r\ndata: x\r\ndata:y\r\n\r\nevent: none\n\n";
        let expected = [
            ServerEvent {
                id: Some("1".into()),
                event: "execution_started".into(),
                data: "{\"a\":\"\u{e9}\"}".into(),
            },
            ServerEvent { id: Some("2".into()), event: String::new(), data: "x\ny".into() },
        ];
        for size in 1..text.len() {
            let (mut parser, mut out) = (Parser::default(), VecDeque::new());
            for chunk in text.as_bytes().chunks(size) {
                parser.push(chunk, &mut out).unwrap();
            }
            assert_eq!(out.make_contiguous(), expected, "in chunks of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_given_up() {
        let (mut parser, mut out) = (Parser::default(), VecDeque::new());
        assert!(parser.push(&vec![b'a'; EVENT_BYTES_MAX + 1], &mut out).is_err());
    }
}
