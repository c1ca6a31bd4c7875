//! Following an execution to its end, and what that end means.
//!
//! n8n keeps of an execution only what its settings say. One that is gone, or that hides what it gave, has run all the
//! same: it ends as failed with the code `result_unavailable` and is not started again.

use super::N8n;
use super::data::Execution;
use super::wire::{self, End};
use crate::client::{Answer, Poll, check_result};
use crate::contract::{Call, EngineFailure, Outcome, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::time::{Millis, SECOND};

/// How long n8n is left alone once it had no task runner for a Code node; one is started within seconds.
const RUNNER_PATIENCE: Millis = 5 * SECOND;

impl N8n {
    pub(super) async fn outcome(&self, call: &Call, id: &str) -> Result<Outcome, EngineFailure> {
        let mut poll = self.client.poll(call);
        let Some((end, named)) = self.until_ended(&mut poll, call, id).await? else {
            return Err(result_unavailable("n8n keeps no execution of this run"));
        };
        let data = poll
            .until_known(
                &self.client,
                || self.execution(call.endpoint, id, true),
                |answer| match answer.status {
                    200..300 => of_execution(&answer, &named)
                        .and_then(|()| Ok(Some(answer.json::<Execution>()?).filter(Execution::has_data))),
                    404 if wire::is_not_found(&answer) => Ok(None),
                    _ => Err(self.client.refusal(&answer)),
                },
            )
            .await?;
        match data {
            Some(data) => self.conclude(end, &data, call.result_bytes_max),
            None if end == End::Success => {
                Err(result_unavailable("the execution succeeded, but n8n keeps no data of it"))
            }
            None => self.conclude(end, &Execution::default(), call.result_bytes_max),
        }
    }

    /// Waits for a status that ends the execution, and answers the id that came with it; `None` when n8n says that it knows no
    /// such execution. An end under another id than was asked for may be of something on the way, so it has to be said
    /// twice.
    async fn until_ended(
        &self,
        poll: &mut Poll,
        call: &Call,
        id: &str,
    ) -> Result<Option<(End, String)>, EngineFailure> {
        let mut before = None;
        loop {
            let told = poll
                .until_known(
                    &self.client,
                    || self.execution(call.endpoint, id, false),
                    |answer| match answer.status {
                        200..300 => {
                            let told = answer.json::<wire::Listed>()?;
                            Ok(Some((told.end()?, told.id)))
                        }
                        404 if wire::is_not_found(&answer) => Ok(None),
                        _ => Err(self.client.refusal(&answer)),
                    },
                )
                .await?;
            match told {
                None => return Ok(None),
                Some((Some(end), named)) if named == id || before.as_ref() == Some(&named) => {
                    return Ok(Some((end, named)));
                }
                Some((Some(_), named)) => before = Some(named),
                Some((None, _)) => before = None,
            }
            poll.pause().await;
        }
    }

    /// Reads the data of an ended execution in the light of its status.
    fn conclude(&self, end: End, ended: &Execution, bytes_max: usize) -> Result<Outcome, EngineFailure> {
        match end {
            End::Success if ended.is_redacted() => {
                Err(result_unavailable("the execution succeeded, but n8n hides its data (redaction)"))
            }
            End::Success => {
                let result = Bytes::from(ended.result(self.config.files));
                check_result(&result, bytes_max)?;
                Ok(Outcome::Succeeded { result, needs_input: false })
            }
            End::Canceled if ended.timed_out() => {
                let message = "the execution went over the time limit of its workflow";
                Err(EngineFailure::new(FailureKind::Timeout, "engine_timeout", message))
            }
            End::Canceled => Ok(Outcome::Cancelled),
            End::Crashed => {
                let message =
                    ended.error().unwrap_or_else(|| "n8n died while it ran the workflow".to_owned());
                Err(EngineFailure::new(FailureKind::Unavailable, "run_crashed", message))
            }
            End::Error => Err(workflow_failed(ended)),
        }
    }
}

/// Refuses what is no execution, or names another one than its status did: it is the word of something on the way.
fn of_execution(answer: &Answer, named: &str) -> Result<(), EngineFailure> {
    if answer.json::<wire::Named>()?.id == named {
        return Ok(());
    }
    let message = "n8n's answer is about another execution";
    let failure = EngineFailure::new(FailureKind::BadResponse, "contradictory_answer", message);
    Err(failure.with_reached(Reached::Maybe))
}

fn workflow_failed(ended: &Execution) -> EngineFailure {
    let message = ended.error().unwrap_or_else(|| "the workflow failed without saying why".to_owned());
    // The node never ran: n8n says it is ready before the runner of its Code nodes is. Until then every workflow
    // with such a node would fail the same way, so n8n is left alone for a while.
    if wire::is_runner_missing(&message) {
        let failure = EngineFailure::new(FailureKind::Unavailable, "task_runner_not_ready", message);
        return failure.with_retry_after(Some(RUNNER_PATIENCE));
    }
    EngineFailure::new(FailureKind::EngineError, "workflow_failed", message)
}

/// The failure of a run that is over without a result to be had.
fn result_unavailable(what: &str) -> EngineFailure {
    let message = format!(
        "{what}, so its result cannot be read and the workflow is not run again; let n8n save it: \"Save successful \
         production executions\" in the workflow's settings (EXECUTIONS_DATA_SAVE_ON_SUCCESS=all, and \
         EXECUTIONS_DATA_SAVE_ON_ERROR=all), a longer EXECUTIONS_DATA_MAX_AGE, and no redaction of its data"
    );
    EngineFailure::new(FailureKind::BadResponse, "result_unavailable", message).not_repeated()
}
