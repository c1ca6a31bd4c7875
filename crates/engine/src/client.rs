//! The HTTP client every adapter speaks through, and the rules it shares with them.
//!
//! It follows no redirect, uses no proxy but a configured one, repeats nothing on its own and reads no more of a body
//! than the caller allows. A request value enters a URL only through [`HttpClient::url`], as one percent-encoded
//! segment below a configured base URL. Secrets travel in headers marked sensitive, and are taken out of every text
//! that leaves as a failure.

mod classify;
mod health;
mod json;
mod key;
mod poll;
mod scrub;
mod sse;

pub(crate) use classify::{answer_text, if_taken, is_unanswered, status_failure};
pub use classify::{retry_after, root_cause};
pub(crate) use json::{check_depth, check_result, parse, single_string, without_mark};
pub(crate) use key::is_the_engines;
pub(crate) use poll::Poll;
pub(crate) use sse::{EventStream, StreamEvent, watch_events};

use crate::config::{
    ANSWER_BYTES_MAX, CONTROL_BYTES_MAX, ConfigError, ENDPOINTS_MAX, HealthRoute, HttpSettings,
};
use crate::contract::{Call, Engine, EngineFailure, Outcome, Reached};
use bytes::{Bytes, BytesMut};
use enginehouse_core::failure::FailureKind;
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use reqwest::{Method, Url};
use scrub::Scrubber;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections are given up sooner than the common servers of the engines do (5 s), because a request sent into
/// a connection that is just being closed has an unknown end.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);
const IDLE_CONNECTIONS_MAX: usize = 64;
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    /// Whose trace the requests of this task belong to. A task's own, so that no adapter can forget to hand it on.
    static TRACED: HeaderValue;
}

/// Runs a call; each request that is made for it by this task carries the call's `traceparent`.
pub async fn run_traced(engine: &dyn Engine, call: Call) -> Outcome {
    let context = call.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
    match context {
        Some(context) => TRACED.scope(context, engine.run(call)).await,
        None => engine.run(call).await,
    }
}

/// A client for all endpoints of one configured engine.
pub(crate) struct HttpClient {
    inner: reqwest::Client,
    endpoints: Vec<Url>,
    /// Sent with every request.
    headers: HeaderMap,
    /// Sent with every request that is not anonymous.
    key: Option<(HeaderName, HeaderValue)>,
    scrubber: Scrubber,
    request_timeout: Duration,
    transfer_timeout: Duration,
    poll: crate::config::PollSettings,
    health: HealthRoute,
}

impl HttpClient {
    /// `key_header` is where `settings.api_key` is sent. `more_secrets` are those an adapter puts into requests by
    /// itself; they are only kept out of texts here.
    pub(crate) fn new(
        settings: &HttpSettings,
        key_header: Option<&'static str>,
        more_secrets: &[SecretString],
    ) -> Result<HttpClient, ConfigError> {
        let endpoints = parse_endpoints(settings)?;
        let headers = parse_headers(settings)?;
        let key = match (key_header, &settings.api_key) {
            (Some(name), Some(key)) => Some((
                HeaderName::from_static(name),
                sensitive(key).map_err(|m| ConfigError::new("api_key", m))?,
            )),
            _ => None,
        };
        let configured = settings.headers.iter().map(|(_, value)| value).chain(&settings.proxy);
        let secrets = settings.api_key.iter().chain(configured).chain(more_secrets);
        Ok(HttpClient {
            inner: build_client(settings, &endpoints)?,
            endpoints,
            headers,
            key,
            scrubber: Scrubber::new(secrets.map(ExposeSecret::expose_secret)),
            request_timeout: settings.request_timeout,
            transfer_timeout: settings.transfer_timeout,
            poll: settings.poll,
            health: health::checked(&settings.health)?,
        })
    }

    /// The URL of `segments` below an endpoint. Each segment is percent-encoded as a whole; one that cannot be a
    /// segment (empty, `.` or `..`) is refused.
    pub(crate) fn url(&self, endpoint: usize, segments: &[&str]) -> Result<Url, EngineFailure> {
        url_below(self.endpoint(endpoint)?, segments)
    }

    /// A base URL by its index, for adapters with fixed paths of their own.
    pub(crate) fn endpoint(&self, endpoint: usize) -> Result<&Url, EngineFailure> {
        self.endpoints.get(endpoint).ok_or_else(|| {
            let message = format!("the engine has no endpoint {endpoint}");
            EngineFailure::new(FailureKind::InvalidRequest, "unknown_endpoint", message)
                .with_reached(Reached::No)
        })
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> Request {
        Request {
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            anonymous: false,
            head_within: self.request_timeout,
            end_within: self.request_timeout,
            body_bytes_max: CONTROL_BYTES_MAX,
        }
    }

    pub(crate) fn get(&self, url: Url) -> Request {
        self.request(Method::GET, url)
    }

    /// A POST of a JSON body.
    pub(crate) fn post(&self, url: Url, body: impl Into<Bytes>) -> Request {
        self.request(Method::POST, url).json(body)
    }

    /// How long an answer with a result may take as a whole.
    pub(crate) fn transfer_timeout(&self) -> Duration {
        self.transfer_timeout
    }

    /// A poll for a run that is there, with this engine's pauses.
    pub(crate) fn poll(&self, call: &Call) -> Poll {
        Poll::new(self.poll, call.stop.clone(), true)
    }

    /// The same for what is asked before a run is started.
    pub(crate) fn poll_before(&self, call: &Call) -> Poll {
        Poll::new(self.poll, call.stop.clone(), false)
    }

    /// The same for what another attempt can ask as well.
    pub(crate) fn poll_once(&self, call: &Call) -> Poll {
        Poll::hasty(self.poll, call.stop.clone())
    }

    /// Sends a request and reads the whole answer, whatever its status. `Err` is for what went wrong on the way.
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, EngineFailure> {
        let deadline = Instant::now() + request.end_within;
        let body_bytes_max = request.body_bytes_max.min(ANSWER_BYTES_MAX);
        let streaming = self.open(request).await?;
        let status = i32::from(streaming.status());
        match tokio::time::timeout_at(deadline, streaming.collect(self, body_bytes_max)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = "the engine did not finish its answer in time";
                let failure = EngineFailure::new(FailureKind::Connection, "answer_stalled", message);
                Err(failure.with_status(status).with_reached(Reached::Maybe))
            }
        }
    }

    /// Sends a request and returns once the head of the answer is there, whatever its status.
    pub(crate) async fn open(&self, request: Request) -> Result<Streaming, EngineFailure> {
        let origin = classify::origin(&request.url);
        let mut headers = self.headers.clone();
        if let (Some((name, value)), false) = (&self.key, request.anonymous) {
            headers.insert(name.clone(), value.clone());
        }
        let _ = TRACED.try_with(|context| headers.insert(TRACEPARENT, context.clone()));
        for (name, value) in &request.headers {
            headers.insert(name.clone(), value.clone());
        }
        let mut building = self.inner.request(request.method, request.url).headers(headers);
        if let Some(body) = request.body {
            building = building.body(body);
        }
        match tokio::time::timeout(request.head_within, building.send()).await {
            Ok(Ok(response)) => Ok(Streaming { response }),
            Ok(Err(error)) => Err(self.scrubbed(classify::transport_failure(&error, &origin))),
            Err(_) => {
                let message = format!("{origin} did not answer in time");
                Err(EngineFailure::new(FailureKind::Connection, "no_answer", message)
                    .with_reached(Reached::Maybe))
            }
        }
    }

    /// Takes every secret this client knows out of a text.
    pub(crate) fn scrub(&self, text: &str) -> String {
        self.scrubber.scrub(text)
    }

    /// The same for a whole failure; every failure an adapter makes of an engine's words passes here.
    pub(crate) fn scrubbed(&self, failure: EngineFailure) -> EngineFailure {
        EngineFailure { message: self.scrub(&failure.message), ..failure }
    }

    /// The failure that an answer's status alone says, explained by the body; adapters that know better look at the
    /// body first.
    pub(crate) fn refusal(&self, answer: &Answer) -> EngineFailure {
        self.scrubbed(status_failure(answer))
    }
}

/// One request to be sent.
pub(crate) struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    anonymous: bool,
    head_within: Duration,
    end_within: Duration,
    body_bytes_max: usize,
}

impl Request {
    pub(crate) fn json(self, body: impl Into<Bytes>) -> Request {
        self.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body)
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Some(body.into());
        self
    }

    /// Sets one header, in place of a configured one of that name.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Request {
        self.headers.insert(name, value);
        self
    }

    /// Adds one pair to the query, encoded.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Request {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    /// Leaves the API key out: for a URL that does not belong to the engine's own API.
    pub(crate) fn anonymous(mut self) -> Request {
        self.anonymous = true;
        self
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// The most bytes of body to read, after decompression; more is a `too_large` failure.
    pub(crate) fn body_bytes_max(mut self, bytes: usize) -> Request {
        self.body_bytes_max = bytes;
        self
    }

    /// A limit for the head of the answer and for the whole of it.
    pub(crate) fn within(mut self, head: Duration, end: Duration) -> Request {
        self.head_within = head;
        self.end_within = end.max(head);
        self
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Media types that are JSON.
fn is_json_type(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON, its nesting checked first. Blanks around it are ignored.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, EngineFailure> {
        parse(&self.body).map_err(|failure| failure.with_status(i32::from(self.status)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether it calls itself JSON; one that calls itself nothing is judged by how it begins.
    pub(crate) fn claims_json(&self) -> bool {
        match self.header("content-type") {
            Some(kind) => is_json_type(kind),
            None => matches!(without_mark(&self.body).trim_ascii().first(), Some(b'{' | b'[')),
        }
    }

    /// Whether it is an engine's answer to a stop: that it stops the run, or that it knows no run that could be stopped. A page
    /// of something on the way is neither.
    pub(crate) fn takes_a_stop(&self) -> bool {
        let own =
            without_mark(&self.body).trim_ascii().is_empty() || self.json::<serde::de::IgnoredAny>().is_ok();
        match self.status {
            200..300 => !self.is_web_page(),
            404 | 409 | 410 => own,
            _ => false,
        }
    }

    /// Whether it is a page for people, which no engine answers.
    pub(crate) fn is_web_page(&self) -> bool {
        without_mark(&self.body).trim_ascii_start().starts_with(b"<")
    }
}

/// An answer whose body is still to come.
pub(crate) struct Streaming {
    response: reqwest::Response,
}

impl Streaming {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Whether the answer says itself where it ends, so that a lost connection is told from its end.
    pub(crate) fn is_framed(&self) -> bool {
        let says = |name| self.response.headers().contains_key(name);
        self.response.version() > reqwest::Version::HTTP_11 || says(TRANSFER_ENCODING) || says(CONTENT_LENGTH)
    }

    /// The failure of an answer that broke off.
    pub(crate) fn truncated(&self) -> EngineFailure {
        let message = "the engine's answer broke off in the middle";
        let failure = EngineFailure::new(FailureKind::BadResponse, "truncated_answer", message);
        failure.with_status(i32::from(self.status())).with_reached(Reached::Maybe)
    }

    /// The next piece of the body, `None` at its end.
    pub(crate) async fn chunk(&mut self, client: &HttpClient) -> Result<Option<Bytes>, EngineFailure> {
        let status = i32::from(self.status());
        self.response
            .chunk()
            .await
            .map_err(|error| client.scrubbed(classify::body_failure(&error)).with_status(status))
    }

    pub(crate) async fn collect(
        mut self,
        client: &HttpClient,
        body_bytes_max: usize,
    ) -> Result<Answer, EngineFailure> {
        let too_large = || too_large(body_bytes_max);
        let status = self.status();
        let announced = self.response.content_length().unwrap_or(0);
        if announced > body_bytes_max as u64 {
            return Err(too_large().with_status(i32::from(status)));
        }
        let mut body =
            BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0).min(CONTROL_BYTES_MAX));
        while let Some(chunk) = self.chunk(client).await? {
            if body.len() + chunk.len() > body_bytes_max {
                return Err(too_large().with_status(i32::from(status)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers: self.response.headers().clone(), body: body.freeze() })
    }
}

pub(crate) fn too_large(bytes_max: usize) -> EngineFailure {
    let message = format!("the engine's answer is over {bytes_max} bytes");
    EngineFailure::new(FailureKind::TooLarge, "answer_too_large", message).with_reached(Reached::Maybe)
}

fn build_client(settings: &HttpSettings, endpoints: &[Url]) -> Result<reqwest::Client, ConfigError> {
    let extra = match &settings.ca_file {
        Some(path) => read_certificates(path)?,
        None => Vec::new(),
    };
    let mut builder = builder(endpoints.iter().any(|url| url.scheme() == "https"), extra)
        // A host that vanished is noticed even where an answer may take hours.
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(KEEPALIVE_RETRIES)
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
    if let Some(proxy) = &settings.proxy {
        // The text itself is kept out of the message: it may hold a password.
        let refuse =
            |_| ConfigError::new("proxy", "is not the URL of a proxy, such as http://proxy.example:3128");
        builder = builder.proxy(reqwest::Proxy::all(proxy.expose_secret().trim()).map_err(refuse)?);
    }
    builder.build().map_err(|error| ConfigError::new("endpoints", root_cause(&error).to_string()))
}

/// What all clients have in common. `extra`: certificates to trust beside those of the system.
fn builder(tls: bool, extra: Vec<reqwest::Certificate>) -> reqwest::ClientBuilder {
    install_crypto();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("enginehouse/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE_CONNECTION);
    // The roots of the system are loaded only where TLS is spoken, so that plain HTTP works on a host without any.
    if tls { builder.tls_certs_merge(extra) } else { builder.tls_certs_only(extra) }
}

/// A client for other parts of the service that speak to `url` on their own: no redirects, no proxies, no repeats.
///
/// # Errors
/// Says why there can be none, such as that the roots of the system could not be read.
pub fn outward_client(url: &str, within: Duration) -> Result<reqwest::Client, String> {
    outward_builder(url, within).build().map_err(|error| root_cause(&error).to_string())
}

/// The same, for who has more to say of it.
pub fn outward_builder(url: &str, within: Duration) -> reqwest::ClientBuilder {
    builder(url.starts_with("https:"), Vec::new()).timeout(within)
}

/// Makes aws-lc-rs the crypto library of the process unless another part has chosen one already.
pub fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race to another thread means that a default is there, which is all that is wanted.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, ConfigError> {
    let refuse = |message: String| ConfigError::new("ca_file", format!("{}: {message}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| refuse(root_cause(&error).to_string()))?;
    if found.is_empty() { Err(refuse("no certificate in this file".to_owned())) } else { Ok(found) }
}

fn parse_endpoints(settings: &HttpSettings) -> Result<Vec<Url>, ConfigError> {
    if settings.endpoints.is_empty() || settings.endpoints.len() > ENDPOINTS_MAX {
        return Err(ConfigError::new("endpoints", format!("there must be 1 to {ENDPOINTS_MAX} endpoints")));
    }
    let mut urls = Vec::with_capacity(settings.endpoints.len());
    for (index, endpoint) in settings.endpoints.iter().enumerate() {
        let field = format!("endpoints.{index}.url");
        let url = check_base(&endpoint.url).map_err(|message| ConfigError::new(&*field, message))?;
        if endpoint.weight == 0 {
            return Err(ConfigError::new(format!("endpoints.{index}.weight"), "must be at least 1"));
        }
        urls.push(url);
    }
    Ok(urls)
}

/// Reads a base URL.
///
/// # Errors
/// Says what is wrong with it, but does not repeat it: it may hold a password.
pub(crate) fn check_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let problem = if !matches!(url.scheme(), "http" | "https") {
        Some("must begin with http:// or https://")
    } else if url.host_str().is_none_or(str::is_empty) {
        Some("has no host")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("must hold no user name or password; use api_key or headers")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("must have neither a query nor a fragment")
    } else {
        None
    };
    problem.map_or(Ok(url), |problem| Err(problem.to_owned()))
}

fn parse_headers(settings: &HttpSettings) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in &settings.headers {
        let refuse = |message| ConfigError::new(format!("headers.{name}"), message);
        let (name, value) = configured_header(name, value).map_err(refuse)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// A configured header; the error says what is wrong with it without repeating it.
pub fn configured_header(
    name: &str,
    value: &SecretString,
) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not the name of an HTTP header")?;
    Ok((name, sensitive(value)?))
}

/// A header value that neither logs nor HTTP/2 compression may remember.
fn sensitive(secret: &SecretString) -> Result<HeaderValue, &'static str> {
    let mut value = HeaderValue::from_str(secret.expose_secret().trim())
        .map_err(|_| "holds characters that cannot be sent in an HTTP header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The URL of `segments` below a base, each percent-encoded as a whole.
pub(crate) fn url_below(base: &Url, segments: &[&str]) -> Result<Url, EngineFailure> {
    let mut text = base.as_str().trim_end_matches('/').to_owned();
    for segment in segments {
        if matches!(*segment, "" | "." | "..") {
            let message = format!("{segment:?} cannot be part of a URL");
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "invalid_segment", message)
                .with_reached(Reached::No));
        }
        text.push('/');
        percent_encode(segment, &mut text);
    }
    Url::parse(&text).map_err(|error| {
        EngineFailure::new(FailureKind::InvalidRequest, "invalid_url", error.to_string())
            .with_reached(Reached::No)
    })
}

/// Appends `text` with everything but unreserved characters percent-encoded.
pub(crate) fn percent_encode(text: &str, to: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            to.push(char::from(byte));
        } else {
            to.push('%');
            to.push(char::from(DIGITS[usize::from(byte >> 4)]));
            to.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> HttpClient {
        HttpClient::new(&HttpSettings::new(url), None, &[]).unwrap()
    }

    #[test]
    fn a_request_value_stays_one_segment_below_the_base() {
        let client = client("http://127.0.0.1:1/base/");
        let cases = [
            ("abc", "/base/x/abc"),
            ("a/b", "/base/x/a%2Fb"),
            ("../../etc", "/base/x/..%2F..%2Fetc"),
            ("a?b#c", "/base/x/a%3Fb%23c"),
            ("a\\b", "/base/x/a%5Cb"),
            ("%2e%2e", "/base/x/%252e%252e"),
            ("a\nb", "/base/x/a%0Ab"),
            ("@host", "/base/x/%40host"),
            ("...", "/base/x/..."),
            ("ü", "/base/x/%C3%BC"),
        ];
        for (value, path) in cases {
            let url = client.url(0, &["x", value]).unwrap();
            assert_eq!((url.path(), url.host_str()), (path, Some("127.0.0.1")), "{value:?}");
            assert_eq!((url.query(), url.fragment()), (None, None), "{value:?}");
        }
        for value in ["", ".", ".."] {
            assert_eq!(client.url(0, &["x", value]).unwrap_err().code, "invalid_segment");
        }
        assert_eq!(client.url(1, &["x"]).unwrap_err().code, "unknown_endpoint");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let refused = |change: fn(&mut HttpSettings)| {
            let mut settings = HttpSettings::new("http://127.0.0.1:1");
            change(&mut settings);
            HttpClient::new(&settings, Some("x-api-key"), &[]).err().map(|error| error.field)
        };
        let field = |text: &str| Some(text.to_owned());
        assert_eq!(refused(|_| ()), None);
        assert_eq!(refused(|s| s.endpoints.clear()), field("endpoints"));
        assert_eq!(refused(|s| s.endpoints[0].url = "ftp://h".to_owned()), field("endpoints.0.url"));
        assert_eq!(refused(|s| s.endpoints[0].url = "http://u:p@h".to_owned()), field("endpoints.0.url"));
        assert_eq!(refused(|s| s.endpoints[0].url = "http://h/?a=b".to_owned()), field("endpoints.0.url"));
        assert_eq!(refused(|s| s.endpoints[0].url = "not a url".to_owned()), field("endpoints.0.url"));
        assert_eq!(refused(|s| s.endpoints[0].weight = 0), field("endpoints.0.weight"));
        assert_eq!(refused(|s| s.headers.push(("a b".to_owned(), "x".into()))), field("headers.a b"));
        assert_eq!(refused(|s| s.headers.push(("a".to_owned(), "x\ny".into()))), field("headers.a"));
        assert_eq!(refused(|s| s.api_key = Some("x\ny".into())), field("api_key"));
        assert_eq!(refused(|s| s.ca_file = Some("/nowhere/ca.pem".into())), field("ca_file"));
    }
}
