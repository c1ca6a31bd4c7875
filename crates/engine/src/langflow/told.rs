//! What the events of a run tell beside its answer: how far it is, and which components ended with an error message.
//!
//! A component may end well and still have made a message that says of itself that it is an error. Of a background run the
//! answer keeps only the text of it, so whether it was one is read from the events.

use super::{Langflow, wire};
use crate::client::{StreamEvent, parse, watch_events};
use crate::config::PROGRESS_BYTES_MAX;
use crate::contract::{Call, EngineFailure, Progress};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// How long the events of a run that has ended may take to be told again.
const REPLAYED_WITHIN: Duration = Duration::from_secs(5);
/// Components whose error messages are kept.
const ERRORS_MAX: usize = 64;

/// Shared between a run's follower and anyone who reads its events beside it.
#[derive(Default)]
pub(super) struct Told(Mutex<JobProgress>);

impl Told {
    /// The progress an event means, if any.
    pub(super) fn take(&self, event: &StreamEvent) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(&event.data)
    }

    fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).over
    }

    fn error_of(&self, components: &[String]) -> Option<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        components.iter().find_map(|component| told.errors.get(component).cloned())
    }
}

impl Langflow {
    /// The error message that one of a completed run's outputs is, if one is. What its events do not tell any more is no
    /// failure.
    pub(super) async fn error_message(
        &self,
        call: &Call,
        job: Uuid,
        components: &[String],
        told: &Told,
    ) -> Option<String> {
        if !told.is_over() && !components.is_empty() {
            // What was told so far is told again, and counts once.
            *told.0.lock().unwrap_or_else(PoisonError::into_inner) = JobProgress::default();
            let ended = Notify::new();
            let on_event = |event: &StreamEvent| drop(told.take(event));
            tokio::select! {
                () = watch_events(&self.client, || self.events_request(call, job), None, on_event, &ended) => {}
                () = ended.notified() => {}
                () = tokio::time::sleep(REPLAYED_WITHIN) => {}
            }
        }
        told.error_of(components)
    }

    pub(super) fn events_request(
        &self,
        call: &Call,
        job: Uuid,
    ) -> Result<crate::client::Request, EngineFailure> {
        let segments = ["api", "v2", "workflows", &job.to_string(), "events"];
        Ok(self.client.get(self.client.url(call.endpoint, &segments)?))
    }
}

/// Counts a run's components as their events come.
#[derive(Default)]
struct JobProgress {
    done: usize,
    of: usize,
    /// The end was told.
    over: bool,
    /// Components that ended with an error message, with what it says.
    errors: BTreeMap<String, String>,
}

impl JobProgress {
    /// The progress an event means, if any. An event that was too long to keep is a bare sign of life.
    fn take(&mut self, event: &str) -> Option<Progress> {
        #[derive(Deserialize)]
        struct Wire {
            event: String,
            #[serde(default)]
            data: Data,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Data {
            to_run: Vec<serde::de::IgnoredAny>,
            build_data: Option<Built>,
            chunk: Option<String>,
        }
        #[derive(Deserialize)]
        struct Built {
            id: Option<String>,
            data: Option<Box<RawValue>>,
        }
        let Some(wire) = parse::<Wire>(event.as_bytes()).ok() else {
            return event.is_empty().then(Progress::default);
        };
        let data = match wire.event.as_str() {
            "vertices_sorted" => {
                self.of = wire.data.to_run.len();
                return None;
            }
            "end_vertex" => {
                self.done += 1;
                let built = wire.data.build_data;
                if let Some(Built { id: Some(id), data: Some(data) }) = &built
                    && let Some(words) = error_of(data.get())
                    && self.errors.len() < ERRORS_MAX
                {
                    self.errors.insert(id.clone(), words);
                }
                let component = built.and_then(|built| built.id);
                serde_json::json!({ "event": "end_vertex", "component": component })
            }
            "token" => {
                let chunk = wire.data.chunk.filter(|chunk| chunk.len() <= PROGRESS_BYTES_MAX);
                serde_json::json!({ "event": "token", "chunk": chunk })
            }
            // These belong to the end, which the outcome tells.
            "end" => {
                self.over = true;
                return None;
            }
            "error" | "output" => return None,
            name => serde_json::json!({ "event": name }),
        };
        // Loops build a component more than once.
        let fraction = (self.of > 0).then(|| (self.done as f64 / self.of as f64).min(1.0));
        Some(Progress { fraction, data: Some(data.into()) })
    }
}

/// The words of the error message among a component's results.
fn error_of(data: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        results: BTreeMap<String, &'a RawValue>,
    }
    let data: Data<'_> = serde_json::from_str(data).ok()?;
    data.results.values().find_map(|message| wire::error_message(message.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_that_ended_are_progress() {
        let mut progress = JobProgress::default();
        assert_eq!(progress.take(r#"{"event":"vertices_sorted","data":{"to_run":["a","b"]}}"#), None);
        let half = progress.take(r#"{"event":"end_vertex","data":{"build_data":{"id":"a"}}}"#).unwrap();
        assert_eq!(half.fraction, Some(0.5));
        assert_eq!(half.data.unwrap().get(), r#"{"component":"a","event":"end_vertex"}"#);
        assert_eq!(progress.take(""), Some(Progress::default()));
        assert_eq!(progress.take("oops"), None);
        let token = progress.take(r#"{"event":"token","data":{"chunk":"wor"}}"#).unwrap();
        assert_eq!(token.data.unwrap().get(), r#"{"chunk":"wor","event":"token"}"#);
        assert_eq!(progress.take(r#"{"event":"end","data":{"build_duration":1.0}}"#), None);
    }

    #[test]
    fn a_component_that_ends_with_an_error_message_is_noticed() {
        let mut progress = JobProgress::default();
        let end = |id: &str, message: &str| {
            format!(
                r#"{{"event":"end_vertex","data":{{"build_data":{{"id":"{id}","valid":true,"data":{{"results":{{"message":{message}}}}}}}}}}}"#
            )
        };
        progress.take(&end("a", r#"{"text":"fine","error":false,"data":{"error":false}}"#));
        progress.take(&end("b", r#"{"text":"it went wrong","error":true}"#));
        progress.take(&end("c", r#"{"text_key":"text","data":{"text":"so did this","error":true}}"#));
        progress.take(&end("d", r#"[{"error":true}]"#));
        let told: Vec<(&str, &str)> =
            progress.errors.iter().map(|(id, words)| (id.as_str(), words.as_str())).collect();
        assert_eq!(told, [("b", "it went wrong"), ("c", "so did this")]);
    }
}
