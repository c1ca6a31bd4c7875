//! What an error on the way, or a status by itself, says about a call.

use super::Answer;
use crate::config::EXPLAIN_BYTES_MAX;
use crate::contract::{EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::RETRY_AFTER_MAX;
use enginehouse_core::time::{Millis, SECOND};
use reqwest::Url;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use std::error::Error;

/// The text of an answer that is repeated in a failure.
const EXPLAIN_CHARS_MAX: usize = 2_000;

/// Scheme, host and port, and nothing that could hold a secret.
pub(super) fn origin(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or(""))
}

/// A request that got no head of an answer.
pub(super) fn transport_failure(error: &reqwest::Error, origin: &str) -> EngineFailure {
    use FailureKind::{BadResponse, Connection, InvalidRequest};
    let cause = root_cause(error);
    let (kind, code, reached) = if error.is_builder() {
        (InvalidRequest, "invalid_request", Reached::No)
    } else if error.is_connect() {
        (Connection, connect_code(error), Reached::No)
    } else if is_parse(error) {
        (BadResponse, "not_http", Reached::Maybe)
    } else {
        (Connection, "connection_lost", Reached::Maybe)
    };
    let message = if chain(error).any(is_own_authority) {
        format!(
            "could not connect to {origin}: its certificate is marked as an authority (CaUsedAsEndEntity), which no server's may \
             be; make one with `openssl req -x509 ... -addext basicConstraints=critical,CA:FALSE` and name it in ca_file"
        )
    } else if reached == Reached::No {
        format!("could not connect to {origin}: {cause}")
    } else {
        format!("no answer from {origin}: {cause}")
    };
    EngineFailure::new(kind, code, message).with_reached(reached)
}

/// A body that broke off.
pub(super) fn body_failure(error: &reqwest::Error) -> EngineFailure {
    let code = if error.is_decode() && !chain(error).any(|cause| cause.is::<hyper::Error>()) {
        "undecodable_answer"
    } else {
        "truncated_answer"
    };
    let message = format!("the engine's answer broke off: {}", root_cause(error));
    EngineFailure::new(FailureKind::BadResponse, code, message).with_reached(Reached::Maybe)
}

/// The failure of a request that starts work, at an engine that cannot recognise a repeat of it: what the engine took, or
/// may have taken, is not sent again by itself. `remedy` says what makes a repeat safe.
pub(crate) fn if_taken(failure: EngineFailure, remedy: &str) -> EngineFailure {
    let accepted = failure.engine_status.is_some_and(|status| (200..300).contains(&status));
    let unanswered = is_unanswered(&failure);
    if !accepted && !unanswered {
        return failure;
    }
    let broke_off = matches!(failure.code.as_str(), "truncated_answer" | "answer_stalled");
    let (kind, word) = (failure.kind, failure.kind.as_str());
    let message = if unanswered || broke_off {
        let told = format!(
            "{}; the request may have been taken, so it is not sent again by itself: {remedy}, or ask for it by \
             retry.on = [\"{word}\"]",
            failure.message
        );
        EngineFailure::new(kind, "", told).message
    } else {
        failure.message.clone()
    };
    let failure = EngineFailure { message, ..failure };
    if accepted { failure.not_repeated() } else { EngineFailure { retried: Some(false), ..failure } }
}

/// Whether a request was sent whose engine may be at work on it, though nothing came back of it: the connection was lost, what
/// came was no HTTP, or a gateway grew tired of waiting for the answer (504). A gateway says 502 and 503 of what it
/// could not hand on.
pub(crate) fn is_unanswered(failure: &EngineFailure) -> bool {
    let lost = failure.kind == FailureKind::Connection && failure.reached == Reached::Maybe;
    lost || failure.code == "not_http" || failure.engine_status == Some(504)
}

fn connect_code(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "connect_timeout"
    } else if error.is_dns() {
        "name_not_found"
    } else if find_io(error, std::io::ErrorKind::ConnectionRefused) {
        "connection_refused"
    } else if chain(error).any(is_tls) {
        "tls_failed"
    } else {
        "connect_failed"
    }
}

/// TLS errors travel inside IO errors, whose `source` skips the error they wrap.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

/// Whether a server's certificate was refused because it is one of an authority, as tools make them by default.
fn is_own_authority(error: &(dyn Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref::<rustls::Error>().is_some_and(|error| error.to_string().contains("CaUsedAsEndEntity"))
        || inner.is_some_and(|inner| is_own_authority(inner))
}

fn is_parse(error: &reqwest::Error) -> bool {
    chain(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

fn find_io(error: &reqwest::Error, kind: std::io::ErrorKind) -> bool {
    chain(error).any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == kind))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}

/// The innermost error: the outer ones of the HTTP client say less and repeat the URL.
pub fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    chain(error).last().unwrap_or(error)
}

/// What an unwelcome status says by itself. 5xx other than 503 leave open whether the request took effect.
pub(crate) fn status_failure(answer: &Answer) -> EngineFailure {
    use FailureKind::{Auth, BadResponse, InvalidRequest, NotFound, RateLimited, TooLarge, Unavailable};
    let (kind, code, reached) = match answer.status {
        401 => (Auth, "unauthorized", Reached::Yes),
        403 => (Auth, "forbidden", Reached::Yes),
        404 | 410 => (NotFound, "not_found", Reached::Yes),
        408 => (RateLimited, "request_timed_out", Reached::Yes),
        409 => (InvalidRequest, "conflict", Reached::Yes),
        413 => (TooLarge, "request_too_large", Reached::Yes),
        425 | 429 => (RateLimited, "too_many_requests", Reached::Yes),
        502 | 504 => (Unavailable, "engine_unavailable", Reached::Maybe),
        503 => (Unavailable, "engine_unavailable", Reached::Yes),
        300..400 => (InvalidRequest, "redirected", Reached::Yes),
        400..500 => (InvalidRequest, "request_refused", Reached::Yes),
        500.. => (BadResponse, "server_error", Reached::Maybe),
        _ => (BadResponse, "unexpected_status", Reached::Maybe),
    };
    let status = answer.status;
    let message = match (answer_text(&answer.body), redirected_to(answer)) {
        (_, Some(place)) => format!(
            "the engine answered with status {status}, a redirect to {place}, which is not followed: correct the endpoint's \
             URL, or look for a sign-in page or a proxy in between"
        ),
        (text, None) if text.is_empty() && answer.is_web_page() => {
            format!(
                "status {status} with a web page, not the engine's own answer: a proxy may stand in between"
            )
        }
        (text, None) if text.is_empty() => format!("the engine answered with status {status}"),
        (text, None) => format!("the engine answered with status {status}: {text}"),
    };
    EngineFailure::new(kind, code, message)
        .with_status(i32::from(answer.status))
        .with_retry_after(retry_after(&answer.headers))
        .with_reached(reached)
}

/// Where a redirect leads, without its query, which may hold what is no one's business.
fn redirected_to(answer: &Answer) -> Option<String> {
    if !(300..400).contains(&answer.status) {
        return None;
    }
    let place = answer.header("location")?.split(['?', '#']).next()?;
    Some(place.chars().filter(|c| !c.is_control()).take(EXPLAIN_CHARS_MAX).collect())
}

/// What an answer says in words: the usual fields of a JSON error, else the text itself; empty for a web page.
pub(crate) fn answer_text(body: &[u8]) -> String {
    let body = &body[..body.len().min(EXPLAIN_BYTES_MAX)];
    let text = String::from_utf8_lossy(body);
    let parsed = super::parse(body).ok();
    let words = match &parsed {
        Some(json) => json_words(json, 0).unwrap_or_else(|| text.trim().to_owned()),
        None if text.trim_start().starts_with('<') => String::new(),
        None => text.trim().to_owned(),
    };
    words.chars().filter(|c| !c.is_control() || *c == '\n').take(EXPLAIN_CHARS_MAX).collect()
}

fn json_words(json: &serde_json::Value, level: usize) -> Option<String> {
    if level > 3 {
        return None;
    }
    match json {
        serde_json::Value::String(words) => Some(words.clone()),
        serde_json::Value::Array(items) => {
            let words: Vec<String> =
                items.iter().take(5).filter_map(|item| json_words(item, level + 1)).collect();
            (!words.is_empty()).then(|| words.join("; "))
        }
        serde_json::Value::Object(fields) => ["message", "detail", "error", "msg", "title", "hint"]
            .iter()
            .find_map(|name| json_words(fields.get(*name)?, level + 1)),
        _ => None,
    }
}

/// `Retry-After` in seconds, or as a date compared with the answer's own `Date`; at most what the product honours.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let text = header(RETRY_AFTER)?.trim();
    // Whole seconds, by the specification; some servers send parts of one.
    if let Ok(seconds) = text.parse::<f64>() {
        let millis = (seconds * SECOND as f64).ceil();
        return (millis >= 0.0).then(|| (millis as Millis).min(RETRY_AFTER_MAX));
    }
    let then = http_date(text)?;
    let now = header(DATE).and_then(http_date).unwrap_or_else(jiff::Timestamp::now);
    let millis = then.as_millisecond().saturating_sub(now.as_millisecond());
    Some(Millis::try_from(millis).unwrap_or(0).min(RETRY_AFTER_MAX))
}

fn http_date(text: &str) -> Option<jiff::Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use reqwest::header::{HeaderName, HeaderValue};

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Answer { status, headers: map, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn statuses_have_their_kinds() {
        use FailureKind::{Auth, BadResponse, InvalidRequest, NotFound, RateLimited, TooLarge, Unavailable};
        for (status, kind) in [
            (302, InvalidRequest),
            (400, InvalidRequest),
            (401, Auth),
            (403, Auth),
            (404, NotFound),
            (408, RateLimited),
            (413, TooLarge),
            (422, InvalidRequest),
            (429, RateLimited),
            (500, BadResponse),
            (502, Unavailable),
            (503, Unavailable),
            (504, Unavailable),
        ] {
            assert_eq!(status_failure(&answer(status, &[], "")).kind, kind, "{status}");
        }
    }

    #[test]
    fn what_may_have_been_taken_is_not_repeated_and_says_what_makes_that_safe() {
        let told = |code: &str, kind, status: Option<i32>, reached| {
            let failure = EngineFailure::new(kind, code, "words").with_reached(reached);
            if_taken(EngineFailure { engine_status: status, ..failure }, "do this")
        };
        use FailureKind::{BadResponse, Connection, Unavailable};
        for (code, kind, status, reached, retried, says) in [
            ("engine_unavailable", Unavailable, Some(504), Reached::Maybe, Some(false), true),
            ("engine_unavailable", Unavailable, Some(502), Reached::Maybe, None, false),
            ("engine_unavailable", Unavailable, Some(503), Reached::Yes, None, false),
            ("server_error", BadResponse, Some(500), Reached::Maybe, None, false),
            ("not_http", BadResponse, None, Reached::Maybe, Some(false), true),
            ("connection_lost", Connection, None, Reached::Maybe, Some(false), true),
            ("connection_refused", Connection, None, Reached::No, None, false),
            ("truncated_answer", BadResponse, Some(200), Reached::Maybe, Some(false), true),
            ("malformed_answer", BadResponse, Some(200), Reached::Maybe, Some(false), false),
        ] {
            let failure = told(code, kind, status, reached);
            assert_eq!(failure.retried, retried, "{code} {status:?}");
            let wanted = format!("do this, or ask for it by retry.on = [\"{}\"]", kind.as_str());
            assert_eq!(failure.message.ends_with(&wanted), says, "{code} {status:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = ("date", "Tue, 15 Nov 1994 08:12:31 GMT");
        for (headers, expected) in [
            (vec![("retry-after", "7")], Some(7_000)),
            (vec![("retry-after", "999999")], Some(RETRY_AFTER_MAX)),
            (vec![("retry-after", "3.5")], Some(3_500)),
            (vec![("retry-after", "0.0001")], Some(1)),
            (vec![("retry-after", "-3")], None),
            (vec![("retry-after", "nan")], None),
            (vec![("retry-after", "inf")], Some(RETRY_AFTER_MAX)),
            (vec![("retry-after", "Tue, 15 Nov 1994 08:12:41 GMT"), date], Some(10_000)),
            (vec![("retry-after", "Tue, 15 Nov 1994 08:12:01 GMT"), date], Some(0)),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
        ] {
            assert_eq!(status_failure(&answer(429, &headers, "")).retry_after, expected, "{headers:?}");
        }
    }

    #[test]
    fn what_stands_in_between_is_named() {
        let words = |status, headers: &[(&'static str, &'static str)], body| {
            status_failure(&answer(status, headers, body)).message
        };
        let login = ("location", "https://login.example/start?token=secret");
        let redirect = words(302, &[login], "");
        assert!(redirect.contains("a redirect to https://login.example/start, which"), "{redirect}");
        assert!(words(403, &[], "<html>Attention</html>").contains("a web page, not the engine's own"));
        assert_eq!(words(405, &[], ""), "the engine answered with status 405");
    }

    #[test]
    fn an_answer_is_told_in_its_own_words() {
        for (body, words) in [
            (r#"{"message":"Not Found"}"#, "Not Found"),
            (r#"{"detail":"no key"}"#, "no key"),
            (r#"{"detail":[{"loc":["a"],"msg":"bad"},{"msg":"worse"}]}"#, "bad; worse"),
            (r#"{"detail":{"code":"X","message":"deeper"}}"#, "deeper"),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            ("plain words\u{7}", "plain words"),
            ("<html>a page</html>", ""),
            ("", ""),
        ] {
            assert_eq!(answer_text(body.as_bytes()), words, "{body}");
        }
    }
}
