//! One request to one receiver.

use super::egress::{PublicOnly, host_may_be_asked};
use super::sign::{key_of, signatures};
use super::{CALLBACK, Delivery};
use crate::context::Context;
use crate::service::Service;
use aws_lc_rs::hmac;
use enginehouse_api::EventView;
use enginehouse_core::id::Key;
use enginehouse_core::time::Millis;
use enginehouse_core::webhook::Answer;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::Duration;

/// The receivers.
#[derive(Debug, Clone, Default)]
pub struct WebhookSettings {
    pub endpoints: Vec<WebhookEndpoint>,
    /// How an execution's own `callbackUrl` is called; `None`: requests may have none.
    pub callbacks: Option<WebhookPolicy>,
}

/// How a receiver is called.
#[derive(Debug, Clone)]
pub struct WebhookPolicy {
    pub secrets: WebhookSecrets,
    /// Addresses that are not public may be connected to.
    pub allow_private: bool,
    /// The longest that a request may take.
    pub timeout: Millis,
}

/// A configured receiver.
#[derive(Debug, Clone)]
pub struct WebhookEndpoint {
    pub name: String,
    pub url: String,
    /// The types of events it is told; empty: the ends of executions.
    pub events: Vec<String>,
    /// Only executions of these engines, by name; empty: of all.
    pub engines: Vec<String>,
    pub headers: Vec<(String, SecretString)>,
    pub policy: WebhookPolicy,
}

impl WebhookEndpoint {
    pub(super) fn wants(&self, event: &EventView) -> bool {
        const ENDS: [&str; 3] = ["execution_completed", "execution_failed", "execution_cancelled"];
        let kind = &event.kind;
        let listed = if self.events.is_empty() {
            ENDS.contains(&kind.as_str())
        } else {
            self.events.iter().any(|wanted| wanted == kind)
        };
        let here = event
            .engine
            .as_ref()
            .is_none_or(|engine| self.engines.is_empty() || self.engines.contains(engine));
        listed && here
    }
}

/// The keys that sign: more than one while a secret is being exchanged.
#[derive(Clone)]
pub struct WebhookSecrets(Vec<hmac::Key>);

impl WebhookSecrets {
    /// # Errors
    /// Says what is wrong with a secret, never what it is.
    pub fn new(secrets: &[SecretString]) -> Result<WebhookSecrets, &'static str> {
        let keys = secrets.iter().map(|secret| key_of(secret.expose_secret()));
        keys.collect::<Result<_, _>>().map(WebhookSecrets)
    }
}

impl std::fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookSecrets({})", self.0.len())
    }
}

/// What an attempt came to.
pub(super) struct Sent {
    pub(super) answer: Answer,
    /// The same in words, without anything that the receiver said.
    pub(super) text: String,
}

impl Sent {
    fn none(text: impl Into<String>) -> Sent {
        Sent { answer: Answer::None, text: text.into() }
    }

    /// No attempt would come to anything else.
    fn never(text: impl Into<String>) -> Sent {
        Sent { answer: Answer::Status(410, None), text: text.into() }
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
        let now = cx.store.now().0 / 1_000;
        self.post(&url, policy, headers, id, now, body.to_string().into_bytes()).await
    }

    async fn post(
        &self,
        url: &str,
        policy: &WebhookPolicy,
        headers: &[(String, SecretString)],
        id: &str,
        timestamp: i64,
        body: Vec<u8>,
    ) -> Sent {
        let Ok(url) = reqwest::Url::parse(url) else { return Sent::never("the URL cannot be read") };
        if !policy.allow_private && !host_may_be_asked(&url) {
            return Sent::never("its address is not public, and other addresses are not allowed");
        }
        let timeout = Duration::from_millis(policy.timeout);
        let built = enginehouse_engine::outward_builder(url.as_str(), timeout);
        // Each request has its own connection: a receiver is called seldom, and a name is looked at anew each time.
        let built = if policy.allow_private { built } else { built.dns_resolver(Arc::new(PublicOnly)) };
        let client = match built.build() {
            Ok(client) => client,
            Err(error) => return Sent::none(format!("no request can be made: {}", cause(&error))),
        };
        let signature = signatures(&policy.secrets.0, id, timestamp, &body);
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature)
            .body(body);
        for (name, value) in headers {
            if let (Ok(name), Ok(mut value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.expose_secret()))
            {
                value.set_sensitive(true);
                request = request.header(name, value);
            }
        }
        match request.send().await {
            // What the receiver says beside its status is not read.
            Ok(answer) => {
                let asked = answer
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                let status = answer.status().as_u16();
                let answer = Answer::Status(status, asked.map(|seconds| seconds.saturating_mul(1_000)));
                Sent { answer, text: format!("answered {status}") }
            }
            Err(error) if error.is_timeout() => Sent::none("no answer in time"),
            Err(error) => Sent::none(cause(&error)),
        }
    }
}

/// The innermost cause, which says more than "error sending request" and holds no URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
