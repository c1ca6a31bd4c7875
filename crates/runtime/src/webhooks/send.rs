//! One request to one receiver.

use super::delivery::{CALLBACK, Delivery};
use super::egress::{NotPublic, PublicOnly, host_may_be_asked};
use super::sign::signatures;
use crate::service::Service;
use crate::state::context::Context;
use crate::state::settings::{WebhookEndpoint, WebhookPolicy, WebhookSettings};
use enginehouse_api::{Timestamp, WebhookTestView};
use enginehouse_core::id::Key;
use enginehouse_core::time::{Millis, SECOND};
use enginehouse_core::webhook::Reply;
use enginehouse_engine::{configured_header, outward_builder, retry_after, root_cause};
use reqwest::header::CONTENT_TYPE;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;

/// What an attempt came to.
pub(super) struct Sent {
    pub(super) answer: Reply,
    /// The same in words, without anything that the receiver said.
    pub(super) text: String,
    /// Nothing was sent, because its address is not one that may be connected to.
    pub(super) refused: bool,
}

impl Sent {
    fn none(text: impl Into<String>) -> Sent {
        Sent { answer: Reply::None, text: text.into(), refused: false }
    }

    /// No attempt would come to anything else.
    fn never(text: impl Into<String>) -> Sent {
        Sent { answer: Reply::Status(410, None), text: text.into(), refused: false }
    }

    fn refused(mut self) -> Sent {
        self.refused = true;
        self
    }
}

/// Sends deliveries.
pub(super) struct Sender {
    settings: WebhookSettings,
}

impl Sender {
    pub(super) fn new(settings: WebhookSettings) -> Sender {
        Sender { settings }
    }

    pub(super) async fn send(&self, cx: &Arc<Context>, id: &str, delivery: &Delivery) -> Sent {
        let (url, policy, headers) = if delivery.to == CALLBACK {
            let Some(policy) = &self.settings.callbacks else {
                return Sent::none("callbacks are not configured any more");
            };
            let Some(key) = delivery.key else { return Sent::never("it belongs to no execution") };
            match Service::new(cx.clone()).callback_url(Key(key)).await {
                Ok(Some(url)) => (url, policy, &[][..]),
                Ok(None) => return Sent::never("its execution and the URL in it were removed"),
                Err(error) => return Sent::none(error.to_string()),
            }
        } else {
            match self.settings.endpoints.iter().find(|endpoint| endpoint.name == delivery.to) {
                Some(endpoint) => (endpoint.url.clone(), &endpoint.policy, &endpoint.headers[..]),
                None => return Sent::none("the endpoint is not configured any more"),
            }
        };
        let body = serde_json::json!({
            "type": delivery.event["type"], "timestamp": delivery.event["at"], "data": delivery.event,
        });
        let outgoing =
            Outgoing { id, timestamp: cx.store.now().0 / 1_000, body: body.to_string().into_bytes() };
        match post(&url, policy, headers, outgoing).await {
            // What the receiver says beside its status is not read.
            Ok(answer) => {
                let status = answer.status().as_u16();
                let answer = Reply::Status(status, retry_after(answer.headers()));
                Sent { answer, text: format!("answered {status}"), refused: false }
            }
            Err(sent) => sent,
        }
    }
}

/// One signed message.
struct Outgoing<'a> {
    id: &'a str,
    /// Seconds.
    timestamp: i64,
    body: Vec<u8>,
}

/// Sends a message; an error says why there is no answer.
async fn post(
    url: &str,
    policy: &WebhookPolicy,
    headers: &[(String, SecretString)],
    message: Outgoing<'_>,
) -> Result<reqwest::Response, Sent> {
    let url = reqwest::Url::parse(url).map_err(|_| Sent::never("the URL cannot be read"))?;
    if !policy.allow_private && !host_may_be_asked(&url) {
        let text = "its address is not public, and other addresses are not allowed (allow_private)";
        return Err(Sent::never(text).refused());
    }
    let built = outward_builder(url.as_str(), Duration::from_millis(policy.timeout));
    // Each request has its own connection: a receiver is called seldom, and a name is looked at again each time.
    let built = if policy.allow_private { built } else { built.dns_resolver(Arc::new(PublicOnly)) };
    let client = built
        .build()
        .map_err(|error| Sent::none(format!("no request can be made: {}", root_cause(&error))))?;
    let Outgoing { id, timestamp, body } = message;
    let signature = signatures(policy.secrets.keys(), id, timestamp, &body);
    let mut request = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp.to_string())
        .header("webhook-signature", signature)
        .body(body);
    for (name, value) in headers {
        if let Ok((name, value)) = configured_header(name, value) {
            request = request.header(name, value);
        }
    }
    request.send().await.map_err(|error| match root_cause(&error) {
        _ if error.is_timeout() => Sent::none("no answer in time"),
        cause if cause.is::<NotPublic>() => Sent::none(cause.to_string()).refused(),
        cause => Sent::none(cause.to_string()),
    })
}

/// Someone waits for what a test comes to.
const TEST_WITHIN: Millis = 30 * SECOND;
/// What is shown of an answer to a test.
const ANSWER_BYTES_SHOWN: usize = 1_024;

/// Sends one event that says that it is a test, signed as every other. The operator named the receiver, so what it answers may
/// be shown; and nothing of it is kept.
pub(crate) async fn test_event(cx: &Context, endpoint: &WebhookEndpoint) -> WebhookTestView {
    let now = cx.store.now();
    let id = format!("msg_test_{:032x}", cx.env.trace_id());
    let policy =
        WebhookPolicy { timeout: endpoint.policy.timeout.min(TEST_WITHIN), ..endpoint.policy.clone() };
    let body = serde_json::json!({
        "type": "webhook_test", "timestamp": Timestamp(now),
        "data": { "receiver": endpoint.name, "text": "a test of this receiver; nothing happened" },
    });
    let message = Outgoing { id: &id, timestamp: now.0 / 1_000, body: body.to_string().into_bytes() };
    let begun = tokio::time::Instant::now();
    let answered = post(&endpoint.url, &policy, &endpoint.headers, message).await;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, text, answer) = match answered {
        Ok(answer) => {
            let status = answer.status().as_u16();
            (Some(status), format!("answered {status}"), beginning(answer).await)
        }
        Err(sent) => (None, sent.text, None),
    };
    let delivered = status.is_some_and(|status| (200..300).contains(&status));
    WebhookTestView { receiver: endpoint.name.clone(), id, delivered, status, text, answer, took_ms }
}

/// The beginning of what was answered, if it is text.
async fn beginning(mut answer: reqwest::Response) -> Option<String> {
    let mut read = Vec::new();
    while read.len() < ANSWER_BYTES_SHOWN {
        match answer.chunk().await {
            Ok(Some(chunk)) => read.extend_from_slice(&chunk),
            _ => break,
        }
    }
    read.truncate(ANSWER_BYTES_SHOWN);
    let text = String::from_utf8_lossy(&read).trim().to_owned();
    (!text.is_empty()).then_some(text)
}
