//! Reading server-sent events from an answer.

use super::{ClientError, root_cause};
use crate::EventView;
use enginehouse_core::sse::Parser;
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
    events: Events,
    ready: VecDeque<ServerEvent>,
}

impl EventReader {
    pub(super) fn new(response: reqwest::Response, url: String) -> EventReader {
        EventReader { response, url, events: Events::default(), ready: VecDeque::new() }
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
                    self.events.push(&chunk, &mut self.ready).map_err(|text| lost(text.to_owned()))?
                }
            }
        }
    }
}

/// What is kept between two pieces of a stream.
struct Events {
    parser: Parser,
    /// Of the last event that had one: an event without one comes behind it too.
    id: Option<String>,
}

impl Default for Events {
    fn default() -> Events {
        Events { parser: Parser::new(EVENT_BYTES_MAX), id: None }
    }
}

impl Events {
    fn push(&mut self, mut chunk: &[u8], out: &mut VecDeque<ServerEvent>) -> Result<(), &'static str> {
        while !chunk.is_empty() {
            let (used, event) = self.parser.feed(chunk);
            chunk = &chunk[used..];
            if self.parser.is_over() || event.as_ref().is_some_and(|event| event.over) {
                return Err("an event is too large");
            }
            if let Some(event) = event {
                self.id = event.id.or(self.id.take());
                out.push_back(ServerEvent { id: self.id.clone(), event: event.name, data: event.data });
            }
        }
        Ok(())
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
            let (mut events, mut out) = (Events::default(), VecDeque::new());
            for chunk in text.as_bytes().chunks(size) {
                events.push(chunk, &mut out).unwrap();
            }
            assert_eq!(out.make_contiguous(), expected, "in chunks of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_given_up() {
        let (mut events, mut out) = (Events::default(), VecDeque::new());
        assert!(events.push(&vec![b'a'; EVENT_BYTES_MAX + 1], &mut out).is_err());
    }
}
