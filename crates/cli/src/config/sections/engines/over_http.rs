//! What the engines have in common that speak HTTP.

use crate::config::checker::Checker;
use crate::config::secret::{Private, Secret};
use crate::config::types::{FilePath, Span, Text, Whole, section};
use enginehouse_core::time::{DAY, HOUR, SECOND};
use enginehouse_engine::config::{EndpointConfig, HealthRoute, HttpSettings, PollSettings};
use enginehouse_runtime::EndpointSettings;
use secrecy::SecretString;
use std::collections::BTreeMap;

section! {
    /// Keys of the engines that speak HTTP.
    pub struct Http {
        /// Where the engine is; the work is spread over them as `balancing` says.
        endpoints: Vec<Endpoint> = Vec::new();
        /// Sent in the header that the engine wants it in.
        api_key: Option<Secret> = None;
        /// More headers for every request, by name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
        /// PEM file with certificates to trust besides those of the system.
        ca_file: Option<FilePath> = None;
        /// URL of a proxy for every request to the engine: `http://` or `https://`. One with a user and a password comes from a file or the environment.
        proxy: Option<Private> = None;
        /// How an endpoint is asked for its health: a path for a GET, or `off`. Absent: what the engine's type has for it. Where there is no such route, its work says how it is.
        health: Option<Text> = None;
        /// The longest that name lookup, TCP and TLS handshake may take together.
        connect_timeout: Span<1, HOUR> = Span(5 * SECOND);
        /// The longest from sending a request to the head of its answer, and for small answers to their end.
        request_timeout: Span<1, DAY> = Span(30 * SECOND);
        /// The longest from sending a request to the end of a body that may carry a result.
        transfer_timeout: Span<1, DAY> = Span(300 * SECOND);
        /// How a running workflow is followed.
        poll: PollRaw = PollRaw::default();
    }

    /// One base URL of an engine.
    pub struct Endpoint {
        /// `http://` or `https://`, with an optional path; without user, password, query or fragment.
        url: Option<Text> = None;
        /// Its share of the work relative to the other endpoints, if they are equally fast.
        weight: Whole<1, 1000> = Whole(1);
    }

    /// How a running workflow is followed by polling.
    pub struct PollRaw {
        /// The first pause between two polls.
        first: Span<10, HOUR> = Span(250);
        /// The pause grows to this; at least `first`.
        longest: Span<10, HOUR> = Span(2 * SECOND);
        /// How long an engine may be out of reach before the attempt is given up; its run is left alone.
        unreachable_after: Span<100, DAY> = Span(30 * SECOND);
    }
}

/// The endpoints as the queue knows them, and what a client is made of.
pub(super) fn resolve(
    http: &Http,
    path: &str,
    checker: &mut Checker<'_>,
) -> (Vec<EndpointSettings>, HttpSettings) {
    let Http {
        endpoints,
        api_key,
        headers,
        ca_file,
        proxy,
        health,
        connect_timeout,
        request_timeout,
        transfer_timeout,
        poll,
    } = http;
    let (mut named, mut found) = (Vec::new(), Vec::new());
    if endpoints.is_empty() {
        checker.fault(
            &format!("{path}/endpoints"),
            "is missing; at least one is needed, such as [{ url = \"http://127.0.0.1:5678\" }]",
        );
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = format!("{path}/endpoints");
        let Endpoint { url: written, weight } = endpoint;
        match written.as_ref().map(|url| url.0.clone()) {
            None => checker.fault(&at, format!("endpoint {index} has no url")),
            Some(url) if endpoints[..index].iter().any(|other| other.url == *written) => {
                checker.fault(&at, format!("{url} is there twice"));
            }
            Some(url) => {
                let weight = weight.get32();
                named.push(EndpointSettings { name: url.clone(), weight: f64::from(weight) });
                found.push(EndpointConfig { url, weight });
            }
        }
    }
    let PollRaw { first, longest, unreachable_after } = poll;
    if first.0 > longest.0 {
        checker.fault(&format!("{path}/poll/first"), "must not be more than poll.longest");
    }
    let api_key = api_key.as_ref().and_then(|secret| checker.read(secret, &format!("{path}/api_key")));
    let headers = checker.read_all(headers, &format!("{path}/headers"));
    let settings = HttpSettings {
        endpoints: found,
        api_key,
        headers,
        ca_file: ca_file.as_ref().map(FilePath::expanded),
        proxy: proxy.as_ref().and_then(|proxy| read_proxy(proxy, path, checker)),
        health: match health.as_ref().map(|route| route.0.as_str()) {
            None => HealthRoute::Usual,
            Some("off") => HealthRoute::Off,
            Some(route) => HealthRoute::Path(route.to_owned()),
        },
        connect_timeout: connect_timeout.duration(),
        request_timeout: request_timeout.duration(),
        transfer_timeout: transfer_timeout.duration(),
        poll: PollSettings {
            first: first.duration(),
            longest: longest.duration(),
            unreachable_after: unreachable_after.duration(),
        },
    };
    (named, settings)
}

/// A proxy's URL. One that holds a password is a secret.
fn read_proxy(proxy: &Private, path: &str, checker: &mut Checker<'_>) -> Option<SecretString> {
    let at = format!("{path}/proxy");
    let holds_password = matches!(proxy, Private::Written(url) if url.contains('@'));
    if holds_password {
        checker.fault(&at, "holds a user or a password; write { env = \"NAME\" } or { file = \"PATH\" }");
        return None;
    }
    checker.read_private("proxy", proxy, &at)
}

/// Where the key lies that an engine knows this service by: `api_key`, else the headers whose values lie elsewhere.
pub(super) fn key_source(http: &Http) -> Option<String> {
    let headers = http.headers.values().filter_map(|value| match value {
        Private::Named(secret) => Some(secret),
        Private::Written(_) => None,
    });
    let places: Vec<String> = match &http.api_key {
        Some(secret) => vec![secret.words()],
        None => headers.map(Secret::words).collect(),
    };
    (!places.is_empty()).then(|| places.join(" and "))
}
