//! Without authentication, being reachable is the only protection: a request must address this machine by a loopback
//! name (a page under an attacker's name that resolves here does not) and must not come from another web page, but for those
//! that the operator named.

use crate::cors::Origins;
use enginehouse_api::{ApiError, Code};
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderName, Method};
use std::net::IpAddr;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what a browser may have been tricked into sending.
pub(crate) fn check(parts: &Parts, allowed: &Origins) -> Result<(), ApiError> {
    let refused = |detail: &str| Err(ApiError::new(Code::Forbidden, detail));
    let Some(host) = addressed(parts) else {
        return refused("the request names no host; without authentication it must name a loopback one");
    };
    if !is_loopback(&host) {
        return refused(
            "without authentication only requests addressed to localhost or a loopback address are answered",
        );
    }
    if allowed.of(&parts.headers).is_some() {
        // The operator named this page.
        return Ok(());
    }
    if let Some(origin) = parts.headers.get(ORIGIN) {
        let same = origin.to_str().is_ok_and(|origin| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(&host))
        });
        if !same {
            return refused("without authentication requests of other web pages are refused");
        }
    }
    let site = parts.headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes());
    if parts.method != Method::GET && site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return refused("without authentication requests of other web pages are refused");
    }
    Ok(())
}

/// Host and port the client addressed: HTTP/2 has them in the target, HTTP/1 in the `Host` header.
fn addressed(parts: &Parts) -> Option<String> {
    if let Some(authority) = parts.uri.authority() {
        return Some(authority.as_str().to_owned());
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then(|| host.to_owned())
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, "")) => name,
            Some((name, port)) if port.strip_prefix(':').is_some_and(is_port) => name,
            _ => return false,
        },
        None => match host.rsplit_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/v1/executions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn only_loopback_names_are_answered() {
        for (host, good) in [
            ("localhost:7070", true),
            ("LOCALHOST", true),
            ("127.0.0.1:7070", true),
            ("127.8.9.1", true),
            ("[::1]:7070", true),
            ("[::1]", true),
            ("evil.example:7070", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
            ("[::2]", false),
            ("[::1]x", false),
            ("localhost:", false),
            ("localhost:99999", false),
            ("user@localhost", false),
            ("", false),
        ] {
            assert_eq!(check(&parts("GET", &[("host", host)]), &Origins::new(&[])).is_ok(), good, "{host}");
        }
        assert!(check(&parts("GET", &[]), &Origins::new(&[])).is_err());
        assert!(
            check(&parts("GET", &[("host", "localhost"), ("host", "localhost")]), &Origins::new(&[]))
                .is_err()
        );
    }

    #[test]
    fn requests_of_other_pages_are_refused() {
        for (method, name, value, good) in [
            ("POST", "origin", "http://localhost:7070", true),
            ("POST", "origin", "https://localhost:7070", true),
            ("POST", "origin", "http://localhost:3000", false),
            ("GET", "origin", "http://127.0.0.1:7070", false),
            ("POST", "origin", "https://evil.example", false),
            ("POST", "origin", "null", false),
            ("POST", "sec-fetch-site", "cross-site", false),
            ("POST", "sec-fetch-site", "same-site", false),
            ("POST", "sec-fetch-site", "same-origin", true),
            ("POST", "sec-fetch-site", "none", true),
            ("GET", "sec-fetch-site", "cross-site", true),
        ] {
            let request = parts(method, &[("host", "localhost:7070"), (name, value)]);
            assert_eq!(check(&request, &Origins::new(&[])).is_ok(), good, "{method} {name}: {value}");
        }
    }

    #[test]
    fn a_page_that_was_named_is_answered_and_no_other_host() {
        let origins = Origins::new(&["https://app.example".to_owned()]);
        for (host, origin, good) in [
            ("localhost:7070", "https://app.example", true),
            ("localhost:7070", "https://app.example.evil", false),
            ("evil.example:7070", "https://app.example", false),
        ] {
            let request =
                parts("POST", &[("host", host), ("origin", origin), ("sec-fetch-site", "cross-site")]);
            assert_eq!(check(&request, &origins).is_ok(), good, "{host} {origin}");
        }
    }
}
