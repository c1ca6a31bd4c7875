//! Building a [`SubmitRequest`] in code: what it names is required, everything else is a method.

use crate::{InlineWorkflow, PriorityName, RetryRequest, Span, SubmitRequest, Timestamp};
use enginehouse_core::priority::Priority;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::time::Duration;

/// Without a description a method sets the field of its name; the fields of [`SubmitRequest`] say what each means.
impl SubmitRequest {
    /// Runs a workflow that the engine knows by `workflow_id`. `engine` is the name of a configured engine.
    ///
    /// ```
    /// use enginehouse_api::SubmitRequest;
    /// use std::time::Duration;
    ///
    /// let request = SubmitRequest::new("n8n", "wf-17")
    ///     .id("order-4711")
    ///     .parameters(&serde_json::json!({"customer": 42}))?
    ///     .timeout(Duration::from_secs(300))
    ///     .tag("orders");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn new(engine: impl Into<String>, workflow_id: impl Into<String>) -> SubmitRequest {
        SubmitRequest {
            engine: Some(engine.into()),
            workflow_id: Some(workflow_id.into()),
            ..SubmitRequest::default()
        }
    }

    /// Runs a workflow that the request carries, in the engine's own format. The engine has to allow it.
    ///
    /// # Errors
    /// When `definition` cannot be written as JSON.
    pub fn inline(
        engine: impl Into<String>,
        definition: &impl Serialize,
    ) -> Result<SubmitRequest, serde_json::Error> {
        let workflow = InlineWorkflow { name: None, definition: Some(to_raw_value(definition)?) };
        Ok(SubmitRequest {
            engine: Some(engine.into()),
            workflow: Some(workflow),
            ..SubmitRequest::default()
        })
    }

    /// Your own unique id, which makes the submit repeatable: the same id with the same request gives the same execution.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> SubmitRequest {
        self.id = Some(id.into());
        self
    }

    /// What the workflow gets.
    ///
    /// # Errors
    /// When `parameters` cannot be written as JSON.
    pub fn parameters(mut self, parameters: &impl Serialize) -> Result<SubmitRequest, serde_json::Error> {
        self.parameters = Some(to_raw_value(parameters)?);
        Ok(self)
    }

    /// What the workflow gets, as JSON that is handed on byte by byte.
    #[must_use]
    pub fn raw_parameters(mut self, parameters: Box<RawValue>) -> SubmitRequest {
        self.parameters = Some(parameters);
        self
    }

    /// What this engine type takes beside the parameters.
    ///
    /// # Errors
    /// When `options` cannot be written as JSON.
    pub fn engine_options(mut self, options: &impl Serialize) -> Result<SubmitRequest, serde_json::Error> {
        self.engine_options = Some(to_raw_value(options)?);
        Ok(self)
    }

    /// Work of a higher priority starts first.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> SubmitRequest {
        self.priority = Some(PriorityName(priority));
        self
    }

    /// The longest that one attempt may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> SubmitRequest {
        self.timeout = Some(Span::from(timeout));
        self
    }

    /// The longest that all attempts and the waits between them may take.
    #[must_use]
    pub fn total_timeout(mut self, timeout: Duration) -> SubmitRequest {
        self.total_timeout = Some(Span::from(timeout));
        self
    }

    /// The longest silence of the engine.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> SubmitRequest {
        self.idle_timeout = Some(Span::from(timeout));
        self
    }

    /// Fails unless it starts within this time.
    #[must_use]
    pub fn expires_in(mut self, span: Duration) -> SubmitRequest {
        self.expires_in = Some(Span::from(span));
        self
    }

    /// Does not start before this time.
    #[must_use]
    pub fn ready_at(mut self, at: Timestamp) -> SubmitRequest {
        self.ready_at = Some(at);
        self
    }

    /// Attempts beyond the first.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> SubmitRequest {
        self.max_retries = Some(retries);
        self
    }

    /// When and how often it is tried again.
    #[must_use]
    pub fn retry(mut self, retry: RetryRequest) -> SubmitRequest {
        self.retry = Some(retry);
        self
    }

    /// The user it belongs to, for fair shares and filters.
    #[must_use]
    pub fn user_id(mut self, user: impl Into<String>) -> SubmitRequest {
        self.user_id = Some(user.into());
        self
    }

    /// Executions with the same key run one after the other.
    #[must_use]
    pub fn concurrency_key(mut self, key: impl Into<String>) -> SubmitRequest {
        self.concurrency_key = Some(key.into());
        self
    }

    /// The engine's conversation: Langflow's session, the Agent Server's thread.
    #[must_use]
    pub fn session_id(mut self, session: impl Into<String>) -> SubmitRequest {
        self.session_id = Some(session.into());
        self
    }

    /// Never repeats what may have reached the engine.
    #[must_use]
    pub fn at_most_once(mut self) -> SubmitRequest {
        self.at_most_once = Some(true);
        self
    }

    /// Fails instead of waiting while the engine is unavailable.
    #[must_use]
    pub fn fail_fast(mut self) -> SubmitRequest {
        self.fail_fast = Some(true);
        self
    }

    /// Adds a label to filter by.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> SubmitRequest {
        self.tags.push(tag.into());
        self
    }

    /// Adds a value that is kept with the execution and never sent to the engine.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON.
    pub fn metadata(
        mut self,
        name: impl Into<String>,
        value: &impl Serialize,
    ) -> Result<SubmitRequest, serde_json::Error> {
        self.metadata.insert(name.into(), to_raw_value(value)?);
        Ok(self)
    }

    /// URL that gets a signed webhook when the execution has ended.
    #[must_use]
    pub fn callback_url(mut self, url: impl Into<String>) -> SubmitRequest {
        self.callback_url = Some(url.into());
        self
    }

    /// The W3C `traceparent` of the trace that it belongs to.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> SubmitRequest {
        self.traceparent = Some(traceparent.into());
        self
    }
}

/// Parts of a millisecond count as a whole one; a span beyond all bounds becomes the longest there is, which the service refuses.
impl From<Duration> for Span {
    fn from(span: Duration) -> Span {
        let ms = span.as_nanos().div_ceil(1_000_000);
        Span(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_core::time::Time;
    use serde_json::{Value, json};

    #[test]
    fn what_is_built_is_what_one_would_write() {
        let retry = RetryRequest { delay: Some(Duration::from_micros(1).into()), ..RetryRequest::default() };
        let built = SubmitRequest::new("agents", "wf")
            .id("order-1")
            .parameters(&json!({"a": [1, null]}))
            .and_then(|request| request.engine_options(&json!({"recursionLimit": 5})))
            .and_then(|request| request.metadata("team", &"red"))
            .expect("it is JSON")
            .priority(Priority::High)
            .timeout(Duration::from_secs(2))
            .total_timeout(Duration::from_secs(3))
            .idle_timeout(Duration::from_secs(1))
            .expires_in(Duration::from_secs(9))
            .ready_at(Timestamp(Time(1_000)))
            .max_retries(4)
            .retry(retry)
            .user_id("u")
            .concurrency_key("k")
            .session_id("s")
            .at_most_once()
            .fail_fast()
            .tag("one")
            .tag("two")
            .callback_url("https://example.com/ended")
            .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let wanted = json!({
            "engine": "agents", "workflowId": "wf", "id": "order-1", "parameters": {"a": [1, null]},
            "engineOptions": {"recursionLimit": 5}, "metadata": {"team": "red"}, "priority": "HIGH",
            "timeout": 2_000, "totalTimeout": 3_000, "idleTimeout": 1_000, "expiresIn": 9_000,
            "readyAt": "1970-01-01T00:00:01.000Z", "maxRetries": 4, "retry": {"delay": 1}, "userId": "u",
            "concurrencyKey": "k", "sessionId": "s", "atMostOnce": true, "failFast": true,
            "tags": ["one", "two"], "callbackUrl": "https://example.com/ended",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        });
        let text = serde_json::to_string(&built).expect("it is written");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("it is read"), wanted);
        let inline = SubmitRequest::inline("n8n", &json!({"nodes": []})).expect("it is JSON");
        let text = serde_json::to_string(&inline).expect("it is written");
        let wanted = json!({"engine": "n8n", "workflow": {"definition": {"nodes": []}}});
        assert_eq!(serde_json::from_str::<Value>(&text).expect("it is read"), wanted);
    }
}
