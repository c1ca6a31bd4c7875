//! Server-sent events, read with a bound on every part.

use super::{HttpClient, Request, Streaming};
use crate::config::STREAM_EVENT_BYTES_MAX;
use crate::contract::EngineFailure;
use bytes::Bytes;
use enginehouse_core::pauses::Pauses;
use enginehouse_core::sse::Parser;
pub(crate) use enginehouse_core::sse::StreamEvent;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use std::time::Duration;
use tokio::sync::Notify;

/// The pause before a stream that ended is opened again, at first and at most.
const REOPEN_PAUSES: Pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(30));

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
        EventStream { answer, parser: Parser::new(bytes_max), chunk: Bytes::new() }
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
