//! Settings every adapter that speaks HTTP shares, in their resolved form: secrets are values, spans are durations.
//!
//! Reading files, environment and flags is the work of the configuration module; an adapter gets these types ready made.

use secrecy::SecretString;
use std::path::PathBuf;
use std::time::Duration;

/// An answer that carries no result: a submit, a status, a cancel, a health check.
pub(crate) const CONTROL_BYTES_MAX: usize = 1 << 20;
/// The part of an unwelcome answer that is looked at to explain a failure.
pub(crate) const EXPLAIN_BYTES_MAX: usize = 64 << 10;
/// The largest answer read at all, whatever it wraps around a result.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 << 20;
/// One server-sent event; a longer one is skipped as it comes, without being kept.
pub(crate) const STREAM_EVENT_BYTES_MAX: usize = 256 << 10;
/// The data of one progress item; above it the item is only a sign of life.
pub(crate) const PROGRESS_BYTES_MAX: usize = 16 << 10;
/// Its JSON may be nested so deeply: the messages that carry it have room for as much and for themselves.
pub(crate) const PROGRESS_DEPTH_MAX: usize = enginehouse_core::limits::JSON_DEPTH_MAX - 16;
/// Endpoints of one engine.
pub(crate) const ENDPOINTS_MAX: usize = 256;

const _: () = assert!(PROGRESS_BYTES_MAX < STREAM_EVENT_BYTES_MAX);
const _: () = assert!(enginehouse_core::limits::RESULT_BYTES_MAX < ANSWER_BYTES_MAX);

/// One base URL of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `http` or `https`, with an optional path in front of the engine's own; without credentials, query or fragment.
    pub url: String,
    /// Share of the work among the engine's endpoints, relative to the others; at least 1.
    pub weight: u32,
}

/// How an engine's HTTP endpoints are reached.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    pub endpoints: Vec<EndpointConfig>,
    /// Sent in the header that the engine type wants it in.
    pub api_key: Option<SecretString>,
    /// More headers for every request, by name; the values are treated as secrets.
    pub headers: Vec<(String, SecretString)>,
    /// PEM file with certificates to trust besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Every request goes through this proxy, an `http` or `https` URL; it may hold a user and a password.
    pub proxy: Option<SecretString>,
    /// How an endpoint is asked for its health.
    pub health: HealthRoute,
    /// Name lookup, TCP and TLS handshake together.
    pub connect_timeout: Duration,
    /// From sending a request to the head of its answer; for small answers to the end of the body.
    pub request_timeout: Duration,
    /// From sending a request to the end of a body that may carry a result.
    pub transfer_timeout: Duration,
    pub poll: PollSettings,
}

/// How an endpoint is asked for its health.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HealthRoute {
    /// At the path that its engine type has for it.
    #[default]
    Usual,
    /// By a GET of this path below the endpoint's URL, with an optional query.
    Path(String),
    /// Not at all: only its work says how it is.
    Off,
}

/// How a running workflow is followed by polling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollSettings {
    /// The first pause between two polls.
    pub first: Duration,
    /// The pause grows to this.
    pub longest: Duration,
    /// How long an engine may be out of reach before the attempt is given up (its run is left alone).
    pub unreachable_after: Duration,
}

impl HttpSettings {
    /// Defaults with one endpoint.
    #[must_use]
    pub fn new(url: impl Into<String>) -> HttpSettings {
        let endpoints = vec![EndpointConfig { url: url.into(), weight: 1 }];
        HttpSettings { endpoints, ..HttpSettings::default() }
    }
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            endpoints: Vec::new(),
            api_key: None,
            headers: Vec::new(),
            ca_file: None,
            proxy: None,
            health: HealthRoute::default(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(300),
            poll: PollSettings::default(),
        }
    }
}

impl Default for PollSettings {
    fn default() -> PollSettings {
        PollSettings {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(2),
            unreachable_after: Duration::from_secs(30),
        }
    }
}

/// A setting no adapter can work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    /// The setting, as its path below `[engines.NAME]`, such as `endpoints.0.url`.
    pub field: String,
    pub message: String,
}

impl ConfigError {
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> ConfigError {
        ConfigError { field: field.into(), message: message.into() }
    }
}
