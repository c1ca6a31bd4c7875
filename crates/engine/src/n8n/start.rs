//! Starting a workflow by its webhook, and learning which execution that made.

use super::find::{EXECUTION_KEY, Seen};
use super::wire;
use super::workflow::{N8nMode, N8nWebhook};
use super::{N8n, lock};
use crate::client::{Answer, Request, configured_header, if_taken, is_unanswered};
use crate::contract::{Call, EngineFailure, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use reqwest::header::{HeaderName, HeaderValue};
use std::time::Duration;

/// A webhook that answers at the end of its workflow is bounded by the attempt, not by the request.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What makes it safe to call a webhook again.
const REMEDY: &str = "let n8n save the executions of the workflow (saveDataSuccessExecution and saveDataErrorExecution in its \
                      settings), so that one can be found";

/// Workflows that are warned of.
const WARNED_MAX: usize = 1_000;

impl N8n {
    /// The execution of this call: one that an earlier attempt may have started, or a new one.
    pub(super) async fn begin(&self, call: &Call) -> Result<String, EngineFailure> {
        self.check_key(call.endpoint).await?;
        let (workflow, webhook) = match &call.definition {
            Some(definition) => self.copy_of(call, definition).await?,
            None => (call.workflow_id.clone(), self.webhook_of(call.endpoint, &call.workflow_id).await?),
        };
        if call.maybe_started
            && let Some(id) = self.find_in_time(call, &workflow, 0).await?
        {
            return Ok(id);
        }
        match webhook.mode {
            N8nMode::Track | N8nMode::Ack => {
                let answer = self.call_webhook(call, &webhook, None).await;
                match answer.as_ref().ok().and_then(told_id) {
                    Some(id) => Ok(id),
                    None => self.read_end(call, &workflow, 0, answer).await,
                }
            }
            N8nMode::Lookup => self.start_and_look(call, &workflow, &webhook).await,
        }
    }

    /// Calls the webhook and looks for its execution at the same time: the answer may come hours later, at the end.
    async fn start_and_look(
        &self,
        call: &Call,
        workflow: &str,
        webhook: &N8nWebhook,
    ) -> Result<String, EngineFailure> {
        let after = self.newest(call, workflow).await?;
        let answer = self.call_webhook(call, webhook, Some(AS_LONG_AS_IT_TAKES));
        tokio::pin!(answer);
        let mut poll = self.client.poll(call);
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return self.read_end(call, workflow, after, answer).await,
                () = poll.pause() => {}
            }
            let found = tokio::select! {
                biased;
                answer = &mut answer => return self.read_end(call, workflow, after, answer).await,
                found = self.glance(&mut poll, call, workflow, after, &mut seen) => found?,
            };
            if seen.dark {
                self.warn_of_dark_runs(call, workflow);
            }
            if let Some(id) = found {
                // Closing the connection does not stop the workflow.
                return Ok(id);
            }
        }
    }

    async fn read_end(
        &self,
        call: &Call,
        workflow: &str,
        after: u64,
        answer: Result<Answer, EngineFailure>,
    ) -> Result<String, EngineFailure> {
        match answer {
            Ok(answer) => self.read_answer(call, workflow, after, &answer).await,
            Err(failure) => self.unanswered(call, workflow, after, failure).await,
        }
    }

    /// What comes of a call of which nothing came back. The next attempt looks for its execution first and calls again only when
    /// there is none; but where the workflow keeps none, nothing tells one that has ended from one that never began.
    async fn unanswered(
        &self,
        call: &Call,
        workflow: &str,
        after: u64,
        failure: EngineFailure,
    ) -> Result<String, EngineFailure> {
        if !is_unanswered(&failure) || call.definition.is_some() || self.keeps_ends(call, workflow).await {
            return Err(failure);
        }
        match self.find_in_time(call, workflow, after).await {
            Ok(Some(id)) => Ok(id),
            _ => Err(if_taken(failure, REMEDY)),
        }
    }

    /// Says once for each workflow what cannot be done while it runs, and what would make it possible.
    fn warn_of_dark_runs(&self, call: &Call, workflow: &str) {
        let mut warned = lock(&self.warned);
        if warned.len() < WARNED_MAX && warned.insert(workflow.to_owned()) {
            let text = "n8n does not show which of its running executions this is: until it ends it can neither be \
                        taken up again nor be stopped. Turn on \"Save execution progress\" in the workflow's settings, \
                        or let the workflow answer with its executionId (mode track or ack)";
            call.host.log(text);
            tracing::warn!(workflow, "{text}");
        }
    }

    async fn call_webhook(
        &self,
        call: &Call,
        webhook: &N8nWebhook,
        within: Option<Duration>,
    ) -> Result<Answer, EngineFailure> {
        let body = match call.parameters.as_ref() {
            b"null" => Bytes::from_static(b"{}"),
            _ => call.parameters.clone(),
        };
        let mut request: Request =
            self.client.post(self.webhook(call.endpoint, &webhook.path)?, body).anonymous();
        let invalid = |message: &str| {
            EngineFailure::new(FailureKind::InvalidRequest, "invalid_header", message)
                .with_reached(Reached::No)
        };
        let key =
            HeaderValue::from_str(&call.idempotency_key).map_err(|_| invalid("the key cannot be sent"))?;
        request = request.header(HeaderName::from_static(EXECUTION_KEY), key);
        for (name, value) in &webhook.headers {
            let (name, value) = configured_header(name, value)
                .map_err(|why| invalid(&format!("the configured header {name} {why}")))?;
            request = request.header(name, value);
        }
        if let Some(within) = within {
            request = request.within(within, within);
        }
        self.ask_webhook(request).await
    }

    /// The answer of a workflow may be of any size and is not looked at beyond its beginning.
    async fn ask_webhook(&self, request: Request) -> Result<Answer, EngineFailure> {
        match self.client.send(request).await {
            // It has answered, so it has run; its execution is found by its header.
            Err(failure) if failure.code == "answer_too_large" => {
                let status =
                    failure.engine_status.and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
                Ok(Answer { status, headers: reqwest::header::HeaderMap::new(), body: Bytes::new() })
            }
            Err(failure) if failure.kind == FailureKind::Connection => {
                *lock(&self.unsettled) = tokio::time::Instant::now();
                Err(failure)
            }
            answer => answer,
        }
    }

    async fn read_answer(
        &self,
        call: &Call,
        workflow: &str,
        after: u64,
        answer: &Answer,
    ) -> Result<String, EngineFailure> {
        if wire::is_not_registered(answer) {
            return Err(self.not_registered(call.endpoint, workflow).await);
        }
        // A workflow answers what it likes, with any status, and n8n answers 500 when it failed or was stopped: only
        // n8n's own record says whether there is an execution, and how it ends.
        if matches!(answer.status, 408 | 429 | 502..=504) {
            // n8n itself may be out of service, and may show what it took later: the next attempt looks again first.
            let found = self.find(&mut self.client.poll_once(call), call, workflow, after).await;
            return match found {
                Ok(Some(id)) => Ok(id),
                _ => {
                    let failure = self.refusal(answer).with_reached(Reached::Maybe);
                    self.unanswered(call, workflow, after, failure).await
                }
            };
        }
        match self.find_in_time(call, workflow, after).await {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(self.untracked(workflow, answer)),
            Err(failure) => Err(failure.with_reached(Reached::Maybe)),
        }
    }

    /// No execution belongs to this call.
    fn untracked(&self, workflow: &str, answer: &Answer) -> EngineFailure {
        let refusal = self.refusal(answer);
        match answer.status {
            200..300 => {}
            401 | 403 => return EngineFailure { code: "webhook_unauthorized".to_owned(), ..refusal },
            500 => {
                let code = "workflow_failed".to_owned();
                return EngineFailure {
                    kind: FailureKind::EngineError,
                    code,
                    reached: Reached::Yes,
                    ..refusal
                };
            }
            _ => return refusal,
        }
        let message = format!(
            "the workflow {workflow} was started, but n8n keeps no execution of it and its answer has no executionId: \
             let it save its executions, or answer with its id"
        );
        // It has run.
        EngineFailure::new(FailureKind::InvalidRequest, "untracked", message).not_repeated()
    }
}

/// The execution's id as a workflow tells it that is made for it.
fn told_id(answer: &Answer) -> Option<String> {
    let header = answer.header("x-execution-id").filter(|id| wire::is_id(id));
    header.map(str::to_owned).or_else(|| wire::execution_id(&answer.body))
}
