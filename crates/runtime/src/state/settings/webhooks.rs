//! Who is told of events by HTTP, and how such a receiver is called.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use enginehouse_core::time::Millis;
use secrecy::{ExposeSecret, SecretString};

/// How secrets begin.
const PREFIX: &str = "whsec_";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

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

    pub(crate) fn keys(&self) -> &[hmac::Key] {
        &self.0
    }
}

impl std::fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookSecrets({})", self.0.len())
    }
}

/// The key in a secret of the form `whsec_BASE64`, of 24 to 64 bytes.
pub(crate) fn key_of(secret: &str) -> Result<hmac::Key, &'static str> {
    let encoded = secret.strip_prefix(PREFIX).ok_or("must begin with whsec_")?;
    let bytes = STANDARD.decode(encoded).map_err(|_| "must be Base64 behind whsec_")?;
    if !SECRET_BYTES.contains(&bytes.len()) {
        return Err("must hold 24 to 64 bytes");
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}
