//! How a run ended, from what belongs to that run alone.
//!
//! A thread outlives its runs: the engine's `join` of a run that has ended, the thread's values and the thread's error are
//! those of its *newest* run. A result is therefore read from the newest checkpoint that carries the run's id (the thread's
//! state, while that does), and the thread's error counts only while no other run has come after.

use super::wire::{self, Checkpoint};
use super::{Langsmith, RunId};
use crate::client::{Answer, Poll, Request, check_result};
use crate::config::{ANSWER_BYTES_MAX, CONTROL_BYTES_MAX};
use crate::contract::{Call, EngineFailure, Outcome};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use uuid::Uuid;

/// A checkpoint of older servers repeats what its last step wrote.
const REPEATS: usize = 3;

impl Langsmith {
    /// What came of a run that has ended.
    pub(super) async fn concluded(
        &self,
        call: &Call,
        run: &RunId,
        end: wire::End,
        poll: &mut Poll,
    ) -> Result<Outcome, EngineFailure> {
        match end {
            wire::End::Success => self.success(call, run, poll).await,
            wire::End::Interrupted => Ok(Outcome::Cancelled),
            wire::End::Timeout => {
                let message = "the run went over the time limit of the engine";
                Err(EngineFailure::new(FailureKind::Timeout, "engine_timeout", message))
            }
            wire::End::Error => {
                let words = match self.thread_error(call, run, poll).await {
                    Some(words) => Some(words),
                    None => self.task_error(call, run, poll).await,
                };
                let message = words.unwrap_or_else(|| "the graph failed without saying why".to_owned());
                Err(EngineFailure::new(FailureKind::EngineError, "workflow_failed", message))
            }
        }
    }

    async fn success(&self, call: &Call, run: &RunId, poll: &mut Poll) -> Result<Outcome, EngineFailure> {
        let found = match self.newest_state(call, run, poll).await? {
            Newest::Own(gave) => Some(gave),
            Newest::Another => self.own_state(call, run, poll).await?,
            // No one else runs on a thread of the run's own, so what the engine joins it with can only be its own.
            Newest::NotTold if call.session_id.is_none() => self.joined(call, run, poll).await?,
            Newest::NotTold => self.own_state(call, run, poll).await?,
        };
        let Some(gave) = found else {
            let message = "the run succeeded, but the engine has no checkpoint of it, so its result cannot be read; \
                let the engine keep every run's last checkpoint (its checkpointer's ttl and pruning)";
            return Err(unavailable(message));
        };
        let gave = if call.session_id.is_some() { self.in_full(call, run, gave, poll).await? } else { gave };
        check_result(&gave.result, call.result_bytes_max)?;
        Ok(Outcome::Succeeded { result: gave.result, needs_input: gave.needs_input })
    }

    /// What a run on a shared thread gave, as its own graph shows it: the engine reads a thread's states through the graph
    /// that the thread's newest run belongs to.
    async fn in_full(
        &self,
        call: &Call,
        run: &RunId,
        gave: Gave,
        poll: &mut Poll,
    ) -> Result<Gave, EngineFailure> {
        let newest = self.newest_run(call, run, poll).await?;
        let (Some(newest), Some(graph)) = (newest.filter(|newest| newest.run_id != run.run), &gave.graph)
        else {
            return Ok(gave);
        };
        let thread = self.thread(call, run, poll).await?;
        let through = thread.and_then(|thread| thread.metadata.graph_id);
        if through.is_none_or(|through| through == *graph) {
            return Ok(gave);
        }
        let same = match (gave.assistant, newest.assistant_id) {
            (Some(ours), Some(theirs)) => self.same_states(call, ours, theirs, poll).await?,
            _ => false,
        };
        let replay = if same { self.replayed(call, run).await } else { None };
        let Some(replay) = replay else {
            let message = "the run succeeded, but a graph with another state has run on its thread since, and the engine \
                shows a thread's states only as its newest graph reads them; give each graph sessions of its own";
            return Err(unavailable(message));
        };
        Ok(match replay.asked {
            None => gave,
            Some(asked) => {
                let state = std::str::from_utf8(&gave.result).unwrap_or("null");
                let result = wire::with_questions(&gave.result, state, &asked);
                Gave { result, needs_input: true, ..gave }
            }
        })
    }

    /// The thread's state, if it is still this run's.
    async fn newest_state(&self, call: &Call, run: &RunId, poll: &mut Poll) -> Result<Newest, EngineFailure> {
        let request = || {
            let url = self.client.url(call.endpoint, &["threads", &run.thread.to_string(), "state"])?;
            Ok(self.with_state(call, self.client.get(url)))
        };
        let read = |answer: Answer| match answer.status {
            200..300 => Ok(Some(match wire::read_state(&answer.body, run.run)? {
                wire::State::Of(checkpoint) => Newest::Own(Gave::of(&checkpoint, &answer, call)?),
                wire::State::Another => Newest::Another,
                wire::State::Unread => Newest::NotTold,
            })),
            404 if wire::is_not_found(&answer) => Ok(None),
            _ => Err(self.client.refusal(&answer)),
        };
        Ok(poll.until_known(&self.client, request, read).await?.unwrap_or(Newest::NotTold))
    }

    /// The newest checkpoint of the run among those of its thread.
    async fn own_state(
        &self,
        call: &Call,
        run: &RunId,
        poll: &mut Poll,
    ) -> Result<Option<Gave>, EngineFailure> {
        let request = || self.history_request(call, run);
        let read = |answer: Answer| match own_checkpoint(self, &answer, run)? {
            Some(checkpoint) => Gave::of(&checkpoint, &answer, call).map(Some),
            None => Ok(None),
        };
        poll.until_known(&self.client, request, read).await
    }

    async fn joined(&self, call: &Call, run: &RunId, poll: &mut Poll) -> Result<Option<Gave>, EngineFailure> {
        let request = || Ok(self.with_state(call, self.run_request(call.endpoint, run, &["join"])?));
        let read = |answer: Answer| match answer.status {
            200..300 => {
                // The body starts with line breaks where the server had to keep a slow connection alive.
                let result = answer.body.slice_ref(answer.body.trim_ascii());
                check_result(&result, call.result_bytes_max)?;
                crate::client::parse::<serde::de::IgnoredAny>(&result)?;
                let needs_input = wire::asks(&result);
                Ok(Some(Gave { result, needs_input, graph: None, assistant: None }))
            }
            404 if wire::is_not_found(&answer) => Ok(None),
            _ => Err(self.client.refusal(&answer)),
        };
        poll.until_read(&self.client, request, read).await
    }

    /// The thread's error in words, if it is this run's.
    async fn thread_error(&self, call: &Call, run: &RunId, poll: &mut Poll) -> Option<String> {
        // In this order: had another run come before the thread was read, it would be seen now.
        let thread = self.thread(call, run, poll).await.ok()??;
        let words = thread.error_words()?;
        let newest = self.newest_run(call, run, poll).await.ok()??;
        (newest.run_id == run.run).then_some(words)
    }

    /// The error that the run's own last checkpoint tells of, as the engine writes it there.
    async fn task_error(&self, call: &Call, run: &RunId, poll: &mut Poll) -> Option<String> {
        let request = || self.history_request(call, run);
        let read = |answer: Answer| {
            let checkpoint = own_checkpoint(self, &answer, run)?;
            Ok(checkpoint.and_then(|checkpoint| checkpoint.error))
        };
        poll.until_read(&self.client, request, read).await.ok()?
    }

    fn history_request(&self, call: &Call, run: &RunId) -> Result<Request, EngineFailure> {
        let url = self.client.url(call.endpoint, &["threads", &run.thread.to_string(), "history"])?;
        let body = serde_json::json!({ "limit": 1, "metadata": { "run_id": run.run } }).to_string();
        Ok(self.with_state(call, self.client.post(url, body)))
    }

    /// Room and time for an answer that holds a state.
    fn with_state(&self, call: &Call, request: Request) -> Request {
        let limit = self.client.transfer_timeout();
        let bytes_max = call.result_bytes_max.saturating_mul(REPEATS).saturating_add(CONTROL_BYTES_MAX);
        request.within(limit, limit).body_bytes_max(bytes_max.min(ANSWER_BYTES_MAX))
    }

    async fn thread(
        &self,
        call: &Call,
        run: &RunId,
        poll: &mut Poll,
    ) -> Result<Option<wire::Thread>, EngineFailure> {
        let request = || {
            let url = self.client.url(call.endpoint, &["threads", &run.thread.to_string()])?;
            Ok(self.with_state(call, self.client.get(url)))
        };
        let read = |answer: Answer| match answer.status {
            200..300 => answer.json().map(Some),
            404 if wire::is_not_found(&answer) => Ok(None),
            _ => Err(self.client.refusal(&answer)),
        };
        poll.until_read(&self.client, request, read).await
    }

    async fn newest_run(
        &self,
        call: &Call,
        run: &RunId,
        poll: &mut Poll,
    ) -> Result<Option<wire::ListedRun>, EngineFailure> {
        let request = || Ok(self.newest_runs(call.endpoint, run.thread, 1)?.query("select", "assistant_id"));
        let read = |answer: Answer| match answer.status {
            200..300 => answer.json::<Vec<wire::ListedRun>>(),
            _ => Err(self.client.refusal(&answer)),
        };
        Ok(poll.until_read(&self.client, request, read).await?.into_iter().next())
    }
}

/// What the thread's newest state is.
enum Newest {
    Own(Gave),
    /// Not this run's, or no one's.
    Another,
    /// The engine does not tell it.
    NotTold,
}

/// What a run gave.
struct Gave {
    result: Bytes,
    needs_input: bool,
    /// The graph that wrote it, where that is told.
    graph: Option<String>,
    assistant: Option<Uuid>,
}

impl Gave {
    fn of(checkpoint: &Checkpoint<'_>, answer: &Answer, call: &Call) -> Result<Gave, EngineFailure> {
        let result = checkpoint.result(&answer.body);
        check_result(&result, call.result_bytes_max)?;
        let (graph, assistant) = (checkpoint.graph.clone(), checkpoint.assistant);
        Ok(Gave { result, needs_input: checkpoint.needs_input, graph, assistant })
    }
}

/// The run's checkpoint in an answer about a thread's history; `None` while there is none.
fn own_checkpoint<'a>(
    engine: &Langsmith,
    answer: &'a Answer,
    run: &RunId,
) -> Result<Option<Checkpoint<'a>>, EngineFailure> {
    match answer.status {
        200..300 => wire::read_history(&answer.body, run.run),
        // The thread itself is gone.
        404 if wire::is_not_found(answer) => Ok(None),
        _ => Err(engine.client.refusal(answer)),
    }
}

fn unavailable(message: &str) -> EngineFailure {
    EngineFailure::new(FailureKind::BadResponse, "result_unavailable", message).not_repeated()
}
