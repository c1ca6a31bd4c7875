//! The Rust client of the HTTP API (feature `client`).
//!
//! It follows no redirect, reads no proxy from the environment and repeats nothing by itself: a submit whose answer
//! was lost ends as [`ClientError::Lost`], and the caller repeats it with the same id. Ids and names travel as one
//! percent-encoded path segment each; what cannot be one is refused before anything is sent.

mod sse;
mod worker;

pub use sse::{EventReader, ServerEvent};

use crate::*;
use enginehouse_core::id::ExecutionId;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::time::Duration;

/// The largest answer read: the largest result, written as JSON, with room around it.
const ANSWER_BYTES_MAX: usize = 80 << 20;
/// The part of an unreadable answer that is shown.
const SHOWN_CHARS_MAX: usize = 300;
/// A stream that is silent for longer than three beats (each 15 s) is dead.
const STREAM_SILENCE: Duration = Duration::from_secs(45);

/// Where the service is and who asks.
#[derive(Clone)]
pub struct ClientOptions {
    /// Base URL, such as `http://127.0.0.1:7070`; a path in it is kept in front of `/v1`.
    pub url: String,
    /// The API key's secret; absent for a service without authentication.
    pub api_key: Option<String>,
    /// PEM certificates to trust besides those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Name lookup, TCP and TLS handshake together.
    pub connect_timeout: Duration,
    /// From sending a request to the end of its answer; the time of `?wait=` comes on top.
    pub request_timeout: Duration,
}

impl ClientOptions {
    /// Five seconds to connect, sixty for an answer.
    #[must_use]
    pub fn new(url: impl Into<String>) -> ClientOptions {
        ClientOptions {
            url: url.into(),
            api_key: None,
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// Why a call has no answer, or not the wished one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The options or an argument cannot be used; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// No connection could be made; nothing was sent.
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The connection broke or the time was over after something may have been sent: the outcome is unknown.
    #[error("the answer of {url} was lost: {reason}")]
    Lost { url: String, reason: String },
    /// The service refused, and says why.
    #[error("{}", describe(problem))]
    Problem { problem: Box<Problem>, retry_after: Option<Duration> },
    /// Something answered that does not speak this API.
    #[error("unexpected answer with status {status}: {text}")]
    BadAnswer { status: u16, text: String },
}

impl ClientError {
    /// The stable code of a problem.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            ClientError::Problem { problem, .. } => Some(problem.code),
            _ => None,
        }
    }
}

fn describe(problem: &Problem) -> String {
    let mut text = format!("{} ({})", problem.detail, problem.code.as_str());
    for error in &problem.errors {
        if !problem.detail.contains(&error.detail) {
            text.push_str(&format!("\n  {}: {}", error.pointer, error.detail));
        }
    }
    text
}

/// What a submit answered.
#[derive(Debug, Clone)]
pub struct SubmitAnswer {
    pub execution: ExecutionView,
    /// The same request was accepted earlier.
    pub replayed: bool,
}

/// Which of the service's events, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Any of these types; empty: all.
    pub types: Vec<String>,
    /// Only executions of this engine, by name.
    pub engine: Option<String>,
    /// The id of the last event seen, or `oldest`; `None`: what happens next.
    pub after: Option<String>,
}

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: reqwest::Client,
    streams: reqwest::Client,
    base: Url,
    key: Option<HeaderValue>,
    request_timeout: Duration,
}

impl Client {
    /// Checks the options; no connection is made yet.
    pub fn new(options: ClientOptions) -> Result<Client, ClientError> {
        let invalid = |text: String| ClientError::Invalid(text);
        let base = Url::parse(&options.url).map_err(|error| invalid(format!("{}: {error}", options.url)))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(invalid(format!(
                "{}: the URL of the service begins with http:// or https://",
                options.url
            )));
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(invalid("the URL of the service carries no user, password or query".to_owned()));
        }
        let key = match &options.api_key {
            None => None,
            Some(secret) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {secret}"))
                    .map_err(|_| invalid("the API key holds characters no header can carry".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let build = |silence: Option<Duration>| build(&options, base.scheme() == "https", silence);
        Ok(Client {
            inner: build(None)?,
            streams: build(Some(STREAM_SILENCE))?,
            base,
            key,
            request_timeout: options.request_timeout,
        })
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Submits one execution. With `wait` the answer comes when it ended, or after that time.
    pub async fn submit(
        &self,
        request: &SubmitRequest,
        idempotency_key: Option<&str>,
        wait: Option<Duration>,
    ) -> Result<SubmitAnswer, ClientError> {
        let mut url = self.path(&["executions"])?;
        let mut within = self.request_timeout;
        if let Some(wait) = wait {
            url.query_pairs_mut().append_pair("wait", &format!("{}ms", wait.as_millis()));
            within += wait;
        }
        let mut building = self.request(Method::POST, url).timeout(within).json(request);
        if let Some(key) = idempotency_key {
            building = building.header("idempotency-key", key);
        }
        let response = self.send(building).await?;
        let replayed = response.headers().get("idempotency-replayed").is_some_and(|value| value == "true");
        Ok(SubmitAnswer { execution: self.read(response).await?, replayed })
    }

    /// Submits 1 to 1,000 executions; all are stored or none.
    pub async fn submit_batch(&self, request: &BatchRequest) -> Result<BatchAnswer, ClientError> {
        self.post(self.path(&["executions", "batch"])?, request).await
    }

    pub async fn get(&self, id: &str) -> Result<ExecutionView, ClientError> {
        self.fetch(self.execution(id, &[])?).await
    }

    /// The request as it was sent.
    pub async fn request_of(&self, id: &str) -> Result<Box<RawValue>, ClientError> {
        self.fetch(self.execution(id, &["request"])?).await
    }

    pub async fn result(&self, id: &str) -> Result<ResultView, ClientError> {
        self.fetch(self.execution(id, &["result"])?).await
    }

    pub async fn attempts(&self, id: &str) -> Result<AttemptsAnswer, ClientError> {
        self.fetch(self.execution(id, &["attempts"])?).await
    }

    pub async fn logs(&self, id: &str) -> Result<LogsAnswer, ClientError> {
        self.fetch(self.execution(id, &["logs"])?).await
    }

    /// Durable events after `last_event_id` (or from the first), then live ones; ends after the terminal event.
    pub async fn events(&self, id: &str, last_event_id: Option<&str>) -> Result<EventReader, ClientError> {
        let mut building = self.authorized(self.streams.get(self.execution(id, &["events"])?));
        building = building.header(ACCEPT, "text/event-stream");
        if let Some(last) = last_event_id {
            building = building.header("last-event-id", last);
        }
        Ok(EventReader::new(self.send(building).await?, self.base.to_string()))
    }

    /// The service's events, from now on or after the event that `query` names; without end.
    pub async fn all_events(&self, query: &EventQuery) -> Result<EventReader, ClientError> {
        let mut url = self.path(&["events"])?;
        {
            let mut pairs = url.query_pairs_mut();
            for kind in &query.types {
                pairs.append_pair("type", kind);
            }
            for (name, value) in [("engine", &query.engine), ("after", &query.after)] {
                if let Some(value) = value {
                    pairs.append_pair(name, value);
                }
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let building = self.authorized(self.streams.get(url)).header(ACCEPT, "text/event-stream");
        Ok(EventReader::new(self.send(building).await?, self.base.to_string()))
    }

    /// One page, newest first; `limit` is 1 to 1,000.
    pub async fn list(
        &self,
        filter: &FilterRequest,
        cursor: Option<&str>,
        limit: Option<usize>,
    ) -> Result<ListAnswer, ClientError> {
        let mut url = self.path(&["executions"])?;
        {
            let mut query = url.query_pairs_mut();
            for status in &filter.status {
                query.append_pair("status", status);
            }
            for kind in &filter.failure_kind {
                query.append_pair("failureKind", kind);
            }
            let texts = [
                ("engine", &filter.engine),
                ("engineType", &filter.engine_type),
                ("workflowId", &filter.workflow_id),
                ("userId", &filter.user_id),
                ("tag", &filter.tag),
                ("failureCode", &filter.failure_code),
            ];
            for (name, value) in texts {
                if let Some(value) = value {
                    query.append_pair(name, value);
                }
            }
            for (name, value) in [("since", filter.since), ("until", filter.until)] {
                if let Some(value) = value {
                    query.append_pair(name, &value.to_string());
                }
            }
            if let Some(cursor) = cursor {
                query.append_pair("cursor", cursor);
            }
            if let Some(limit) = limit {
                query.append_pair("limit", &limit.to_string());
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        self.fetch(url).await
    }

    pub async fn set_priority(&self, id: &str, change: &PatchRequest) -> Result<ExecutionView, ClientError> {
        let building = self.request(Method::PATCH, self.execution(id, &[])?).json(change);
        let response = self.send(building).await?;
        self.read(response).await
    }

    /// Pending work is cancelled at once; of running work the wish is stored and `cancelRequestedAt` is set.
    pub async fn cancel(&self, id: &str) -> Result<ExecutionView, ClientError> {
        self.command(self.execution(id, &["cancel"])?).await
    }

    pub async fn redrive(&self, id: &str) -> Result<ExecutionView, ClientError> {
        self.command(self.execution(id, &["redrive"])?).await
    }

    /// A new execution from an old one's request.
    pub async fn replay(&self, id: &str) -> Result<ExecutionView, ClientError> {
        self.command(self.execution(id, &["replay"])?).await
    }

    pub async fn bulk_cancel(&self, request: &BulkRequest) -> Result<BulkAnswer, ClientError> {
        self.post(self.path(&["executions", "cancel"])?, request).await
    }

    pub async fn bulk_redrive(&self, request: &BulkRequest) -> Result<BulkAnswer, ClientError> {
        self.post(self.path(&["executions", "redrive"])?, request).await
    }

    pub async fn engines(&self) -> Result<EnginesAnswer, ClientError> {
        self.fetch(self.path(&["engines"])?).await
    }

    pub async fn engine(&self, name: &str) -> Result<EngineView, ClientError> {
        self.fetch(self.path(&["engines", name])?).await
    }

    pub async fn pause_engine(&self, name: &str) -> Result<EngineView, ClientError> {
        self.command(self.path(&["engines", name, "pause"])?).await
    }

    pub async fn resume_engine(&self, name: &str) -> Result<EngineView, ClientError> {
        self.command(self.path(&["engines", name, "resume"])?).await
    }

    /// Forces an engine's circuit breakers open or closed, or lets them go by what is measured again.
    pub async fn force_breaker(
        &self,
        name: &str,
        request: &BreakerRequest,
    ) -> Result<EngineView, ClientError> {
        self.post(self.path(&["engines", name, "breaker"])?, request).await
    }

    /// Asks every endpoint of the engine for its health now.
    pub async fn test_engine(&self, name: &str) -> Result<EngineTest, ClientError> {
        self.command(self.path(&["engines", name, "test"])?).await
    }

    /// Lets a service work that was restored from a backup.
    pub async fn resume(&self) -> Result<ResumeAnswer, ClientError> {
        self.command(self.path(&["resume"])?).await
    }

    pub async fn workers(&self) -> Result<WorkersAnswer, ClientError> {
        self.fetch(self.path(&["workers"])?).await
    }

    pub async fn worker(&self, id: &str) -> Result<WorkerView, ClientError> {
        self.fetch(self.path(&["workers", id])?).await
    }

    pub async fn drain_worker(&self, id: &str, request: &DrainRequest) -> Result<WorkerView, ClientError> {
        self.post(self.path(&["workers", id, "drain"])?, request).await
    }

    pub async fn scaling(&self) -> Result<ScalingView, ClientError> {
        self.fetch(self.path(&["scaling"])?).await
    }

    /// Decisions that changed the number of workers or were held back, the newest first.
    pub async fn scaling_decisions(&self, limit: u32) -> Result<ScalingDecisionsAnswer, ClientError> {
        let mut url = self.path(&["scaling", "decisions"])?;
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        self.fetch(url).await
    }

    /// Puts rules in the place of the configured ones.
    pub async fn set_scaling(&self, request: &ScalingRequest) -> Result<ScalingView, ClientError> {
        let url = self.path(&["scaling"])?;
        let response = self.send(self.request(Method::PUT, url).json(request)).await?;
        self.read(response).await
    }

    pub async fn queue(&self) -> Result<QueueView, ClientError> {
        self.fetch(self.path(&["queue"])?).await
    }

    pub async fn metrics(&self) -> Result<MetricsView, ClientError> {
        self.fetch(self.path(&["metrics"])?).await
    }

    /// The figures over the last `window` milliseconds.
    pub async fn metrics_history(&self, window: u64) -> Result<MetricsHistory, ClientError> {
        let mut url = self.path(&["metrics", "history"])?;
        url.query_pairs_mut().append_pair("window", &window.to_string());
        self.fetch(url).await
    }

    /// Webhooks that were not delivered yet, or were given up; `state`: `waiting` or `dead` alone.
    pub async fn webhook_deliveries(
        &self,
        state: Option<&str>,
    ) -> Result<WebhookDeliveriesAnswer, ClientError> {
        let mut url = self.path(&["webhooks", "deliveries"])?;
        if let Some(state) = state {
            url.query_pairs_mut().append_pair("state", state);
        }
        self.fetch(url).await
    }

    /// The configured receivers of webhooks, with how their last delivery went.
    pub async fn webhook_receivers(&self) -> Result<WebhookReceiversAnswer, ClientError> {
        self.fetch(self.path(&["webhooks", "receivers"])?).await
    }

    /// Sends one signed test event to a receiver, and says what came back.
    pub async fn test_webhook(&self, receiver: &str) -> Result<WebhookTestView, ClientError> {
        let url = self.path(&["webhooks", "receivers", receiver, "test"])?;
        self.command(url).await
    }

    /// Tries a delivery again at once.
    pub async fn replay_webhook(&self, id: &str) -> Result<WebhookDeliveryView, ClientError> {
        self.command(self.path(&["webhooks", "deliveries", id, "replay"])?).await
    }

    /// Gives a delivery up for good.
    pub async fn discard_webhook(&self, id: &str) -> Result<(), ClientError> {
        let url = self.path(&["webhooks", "deliveries", id])?;
        self.send(self.request(Method::DELETE, url)).await.map(drop)
    }

    /// The keys, and what needs them.
    pub async fn encryption(&self) -> Result<EncryptionView, ClientError> {
        self.fetch(self.path(&["encryption"])?).await
    }

    /// Lets a new data key seal from here on, and seals the data keys with the first seal key that is there now.
    pub async fn rotate_encryption(&self) -> Result<EncryptionView, ClientError> {
        self.command(self.path(&["encryption", "rotate"])?).await
    }

    /// What the store holds and what room that takes.
    pub async fn storage(&self) -> Result<StorageView, ClientError> {
        self.fetch(self.path(&["storage"])?).await
    }

    /// What fires, what is about to, and every rule.
    pub async fn alerts(&self) -> Result<AlertsAnswer, ClientError> {
        self.fetch(self.path(&["alerts"])?).await
    }

    /// Looks at everything there is; `full` reads the whole store.
    pub async fn doctor(&self, full: bool) -> Result<DoctorAnswer, ClientError> {
        let mut url = self.path(&["doctor"])?;
        url.query_pairs_mut().append_pair("depth", if full { "full" } else { "quick" });
        self.fetch(url).await
    }

    pub async fn keys(&self) -> Result<KeysAnswer, ClientError> {
        self.fetch(self.path(&["keys"])?).await
    }

    pub async fn create_key(&self, request: &KeyRequest) -> Result<KeyCreated, ClientError> {
        self.post(self.path(&["keys"])?, request).await
    }

    pub async fn delete_key(&self, id: &str) -> Result<(), ClientError> {
        let building = self.request(Method::DELETE, self.path(&["keys", id])?);
        self.send(building).await.map(drop)
    }

    /// One call of the worker protocol; `within` is from its sending to the end of its answer.
    pub(crate) async fn worker_call<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, ClientError> {
        let building = self.request(Method::POST, self.path(&["worker", verb])?).timeout(within).json(body);
        let response = self.send(building).await?;
        self.read(response).await
    }

    /// Whether the service takes new work.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let mut url = self.base.clone();
        extend(&mut url, &["readyz"])?;
        self.send(self.request(Method::GET, url)).await.map(drop)
    }

    /// Which service answers; who shares its secret can check that.
    pub async fn identity(&self, challenge: &str) -> Result<IdentityAnswer, ClientError> {
        let mut url = self.base.clone();
        extend(&mut url, &["identity"])?;
        url.query_pairs_mut().append_pair("challenge", challenge);
        self.fetch(url).await
    }

    fn path(&self, segments: &[&str]) -> Result<Url, ClientError> {
        let mut url = self.base.clone();
        extend(&mut url, &["v1"])?;
        extend(&mut url, segments)?;
        Ok(url)
    }

    fn execution(&self, id: &str, rest: &[&str]) -> Result<Url, ClientError> {
        // A word of the API in the place of an id would reach another route.
        if RESERVED_IDS.contains(&id) {
            return Err(ClientError::Invalid(format!("{id:?} is part of the API's own paths, not an id")));
        }
        ExecutionId::try_from(id.to_owned())
            .map_err(|error| ClientError::Invalid(format!("{id:?}: {error}")))?;
        let mut segments = vec!["executions", id];
        segments.extend(rest);
        self.path(&segments)
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.authorized(self.inner.request(method, url)).timeout(self.request_timeout)
    }

    fn authorized(&self, building: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => building.header(AUTHORIZATION, key.clone()),
            None => building,
        }
    }

    async fn fetch<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        let response = self.send(self.request(Method::GET, url)).await?;
        self.read(response).await
    }

    async fn post<T: DeserializeOwned>(&self, url: Url, body: &impl Serialize) -> Result<T, ClientError> {
        let response = self.send(self.request(Method::POST, url).json(body)).await?;
        self.read(response).await
    }

    async fn command<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        let response = self.send(self.request(Method::POST, url)).await?;
        self.read(response).await
    }

    /// Sends; an answer that is not a success becomes an error.
    async fn send(&self, building: RequestBuilder) -> Result<Response, ClientError> {
        let response = building.send().await.map_err(|error| self.transport(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = self.body(response).await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Problem {
                problem: Box::new(problem),
                retry_after: retry_after.map(Duration::from_secs),
            }),
            Err(_) => Err(ClientError::BadAnswer { status, text: shown(&body) }),
        }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let status = response.status().as_u16();
        let body = self.body(response).await?;
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::BadAnswer { status, text: format!("{error}: {}", shown(&body)) })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let text = format!("larger than {ANSWER_BYTES_MAX} bytes");
                return Err(ClientError::BadAnswer { status, text });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn transport(&self, error: &reqwest::Error) -> ClientError {
        let (url, reason) = (self.base.to_string(), root_cause(error));
        if error.is_builder() {
            ClientError::Invalid(reason)
        } else if error.is_connect() {
            ClientError::Unreachable { url, reason }
        } else {
            ClientError::Lost { url, reason }
        }
    }
}

/// The innermost cause: the outer layers only say that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn build(
    options: &ClientOptions,
    tls: bool,
    silence: Option<Duration>,
) -> Result<reqwest::Client, ClientError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race to another thread means that a default is there, which is all that is wanted.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("enginehouse/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(options.connect_timeout);
    if let Some(silence) = silence {
        builder = builder.read_timeout(silence);
    }
    let certificates = match &options.ca_pem {
        None => Vec::new(),
        Some(pem) => reqwest::Certificate::from_pem_bundle(pem)
            .map_err(|error| ClientError::Invalid(format!("the CA certificates: {}", root_cause(&error))))?,
    };
    // The system's roots are loaded only where TLS is spoken, so that plain HTTP works on a host without any.
    builder = if tls { builder.tls_certs_merge(certificates) } else { builder.tls_certs_only(certificates) };
    builder.build().map_err(|error| ClientError::Invalid(root_cause(&error)))
}

fn extend(url: &mut Url, segments: &[&str]) -> Result<(), ClientError> {
    for segment in segments {
        if matches!(*segment, "" | "." | "..") {
            return Err(ClientError::Invalid(format!("{segment:?} is not a name")));
        }
    }
    match url.path_segments_mut() {
        Ok(mut path) => {
            path.pop_if_empty().extend(segments);
            Ok(())
        }
        Err(()) => Err(ClientError::Invalid("the URL of the service cannot have a path".to_owned())),
    }
}

fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        Client::new(ClientOptions::new(url)).unwrap()
    }

    #[test]
    fn paths_are_kept_apart_and_encoded() {
        let at_root = client("http://127.0.0.1:7070");
        assert_eq!(
            at_root.execution("a:b", &["cancel"]).unwrap().as_str(),
            "http://127.0.0.1:7070/v1/executions/a:b/cancel"
        );
        assert_eq!(
            at_root.path(&["engines", "a/b c"]).unwrap().as_str(),
            "http://127.0.0.1:7070/v1/engines/a%2Fb%20c"
        );
        let below = client("https://example.test/house/");
        assert_eq!(below.path(&["queue"]).unwrap().as_str(), "https://example.test/house/v1/queue");
        for (id, segment) in [
            ("-a", "-a"),
            ("throughput-Low Load-0", "throughput-Low%20Load-0"),
            ("a/b", "a%2Fb"),
            ("%2e%2e", "%252e%252e"),
            ("a\\b", "a%5Cb"),
            ("a?b#c", "a%3Fb%23c"),
            ("größe", "gr%C3%B6%C3%9Fe"),
        ] {
            let url = format!("http://127.0.0.1:7070/v1/executions/{segment}/cancel");
            assert_eq!(at_root.execution(id, &["cancel"]).unwrap().as_str(), url);
        }
        for wrong in ["", ".", "..", "a/../b", " a", "a\n", "batch"] {
            assert!(at_root.execution(wrong, &["cancel"]).is_err(), "{wrong:?}");
        }
        for wrong in ["", ".", ".."] {
            assert!(at_root.path(&["engines", wrong, "pause"]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn unusable_urls_are_refused() {
        for wrong in ["127.0.0.1:7070", "ftp://a", "http://user:pass@a", "http://", "/v1", "http://a?x=1"] {
            assert!(Client::new(ClientOptions::new(wrong)).is_err(), "{wrong}");
        }
        let key = ClientOptions { api_key: Some("a\nb".to_owned()), ..ClientOptions::new("http://a") };
        assert!(Client::new(key).is_err());
    }
}
