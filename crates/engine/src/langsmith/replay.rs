//! A run's end where another graph has run on its thread since.
//!
//! The engine reads all states of a thread through the graph of the thread's newest run. That shows the values in full
//! when both graphs have the same state, but never whether the run had stopped to ask. The run's own event stream still
//! tells that, for as long as the engine keeps it.

use super::wire;
use super::{Langsmith, RunId};
use crate::client::{Poll, StreamEvent, watch_events};
use crate::contract::{Call, EngineFailure};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// How long a stream of the past may take to be told.
const REPLAYED_WITHIN: Duration = Duration::from_secs(30);

/// What a run's own stream told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// The stream was there from its beginning, and nothing of it was left out.
    whole: bool,
    /// The graph stopped: what it asks, as a JSON list; an empty one at a breakpoint.
    pub(super) asked: Option<String>,
}

impl Replay {
    fn take(&mut self, event: &StreamEvent) {
        match event.name.as_str() {
            "metadata" => self.whole = true,
            // An event that is too long to keep comes without its data.
            "updates" if event.data.is_empty() => self.whole = false,
            "updates" => self.asked = wire::questions_of(&event.data).or(self.asked.take()),
            _ => {}
        }
    }
}

impl Langsmith {
    /// Whether a state of one assistant's graph is shown in full through the graph of the other.
    pub(super) async fn same_states(
        &self,
        call: &Call,
        ours: Uuid,
        theirs: Uuid,
        poll: &mut Poll,
    ) -> Result<bool, EngineFailure> {
        let ours = self.state_schema(call, ours, poll).await?;
        Ok(ours.is_some() && ours == self.state_schema(call, theirs, poll).await?)
    }

    async fn state_schema(
        &self,
        call: &Call,
        assistant: Uuid,
        poll: &mut Poll,
    ) -> Result<Option<Value>, EngineFailure> {
        let request = || {
            let url = self.client.url(call.endpoint, &["assistants", &assistant.to_string(), "schemas"])?;
            Ok(self.client.get(url))
        };
        poll.until_read(&self.client, request, |answer| match answer.status {
            200..300 => Ok(wire::state_schema(answer.json()?)),
            404 if wire::is_not_found(&answer) => Ok(None),
            _ => Err(self.client.refusal(&answer)),
        })
        .await
    }

    /// What the run's own stream tells of its end; `None` where the engine does not keep it whole.
    pub(super) async fn replayed(&self, call: &Call, run: &RunId) -> Option<Replay> {
        if !self.stream_modes.iter().any(|mode| mode == "updates") {
            return None;
        }
        let mut replay = Replay::default();
        let ended = Notify::new();
        let open = || self.run_request(call.endpoint, run, &["stream"]);
        tokio::select! {
            () = watch_events(&self.client, open, Some("-1".to_owned()), |event| replay.take(event), &ended) => {}
            () = ended.notified() => {}
            () = tokio::time::sleep(REPLAYED_WITHIN) => return None,
        }
        replay.whole.then_some(replay)
    }
}
