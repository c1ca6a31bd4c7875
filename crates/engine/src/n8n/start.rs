//! Starting a workflow by its webhook, and learning which execution that made.

use super::find::EXECUTION_KEY;
use super::wire;
use super::workflow::{N8nMode, N8nWebhook};
use super::{N8n, lock};
use crate::client::{Answer, Request, answer_text, sensitive};
use crate::contract::{Call, EngineFailure, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use reqwest::header::{HeaderName, HeaderValue};
use std::collections::BTreeSet;
use std::time::Duration;

/// A webhook that answers at the end of its workflow is bounded by the attempt, not by the request.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(366 * 24 * 3_600);

impl N8n {
    /// The execution of this call: one that an earlier attempt may have started, or a new one.
    pub(super) async fn begin(&self, call: &Call) -> Result<String, EngineFailure> {
        self.check_key(call.endpoint).await?;
        let (workflow, webhook) = match &call.definition {
            Some(definition) => self.copy_of(call, definition).await?,
            None => (call.workflow_id.clone(), self.webhook_of(call.endpoint, &call.workflow_id).await?),
        };
        if call.maybe_started
            && let Some(id) = self.find(call, &workflow, 0).await?
        {
            return Ok(id);
        }
        match webhook.mode {
            N8nMode::Track | N8nMode::Ack => {
                let answer = self.call_webhook(call, &webhook, None).await?;
                self.read_answer(call, &workflow, 0, &answer).await
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
        let mut strangers = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return self.read_answer(call, workflow, after, &answer?).await,
                () = poll.pause() => {}
            }
            let found = tokio::select! {
                biased;
                answer = &mut answer => return self.read_answer(call, workflow, after, &answer?).await,
                found = self.glance(&mut poll, call, workflow, after, &mut strangers) => found?,
            };
            if let Some(id) = found {
                // Closing the connection does not stop the workflow.
                return Ok(id);
            }
        }
    }

    async fn call_webhook(
        &self,
        call: &Call,
        webhook: &N8nWebhook,
        within: Option<Duration>,
    ) -> Result<Answer, EngineFailure> {
        let mut segments = vec!["webhook"];
        segments.extend(webhook.segments());
        let body = match call.parameters.as_ref() {
            b"null" => Bytes::from_static(b"{}"),
            _ => call.parameters.clone(),
        };
        let mut request: Request =
            self.client.post(self.client.url(call.endpoint, &segments)?, body).anonymous();
        let invalid = |message: &str| {
            EngineFailure::new(FailureKind::InvalidRequest, "invalid_header", message)
                .with_reached(Reached::No)
        };
        let key =
            HeaderValue::from_str(&call.idempotency_key).map_err(|_| invalid("the key cannot be sent"))?;
        request = request.header(HeaderName::from_static(EXECUTION_KEY), key);
        for (name, value) in &webhook.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid("a configured header has no valid name"))?;
            request = request.header(name, sensitive(value).map_err(invalid)?);
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
        if let Some(id) = answer.header("x-execution-id").filter(|id| wire::is_id(id)) {
            return Ok(id.to_owned());
        }
        if answer.is_success()
            && let Some(id) = wire::execution_id(&answer.body)
        {
            return Ok(id);
        }
        match answer.status {
            404 if answer_text(&answer.body).contains("not registered") => {
                Err(self.not_registered(call.endpoint, workflow).await)
            }
            401 | 403 => {
                let refusal = self.refusal(answer);
                Err(EngineFailure { code: "webhook_unauthorized".to_owned(), ..refusal })
            }
            // 500 is what n8n answers when the workflow failed or was stopped: its execution says more.
            200..300 | 500 => match self.find(call, workflow, after).await? {
                Some(id) => Ok(id),
                None => Err(self.untracked(workflow, answer)),
            },
            _ => Err(self.refusal(answer)),
        }
    }

    fn untracked(&self, workflow: &str, answer: &Answer) -> EngineFailure {
        if answer.status == 500 {
            let refusal = self.refusal(answer);
            let code = "workflow_failed".to_owned();
            return EngineFailure { kind: FailureKind::EngineError, code, reached: Reached::Yes, ..refusal };
        }
        let message = format!(
            "the workflow {workflow} was started, but n8n keeps no execution of it and its answer has no executionId: \
             let it save its executions, or answer with its id"
        );
        // Not to be repeated: it has run.
        EngineFailure::new(FailureKind::InvalidRequest, "untracked", message)
    }
}
