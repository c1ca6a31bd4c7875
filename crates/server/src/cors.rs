//! Web pages of other origins: which may call the service, and what their browsers are told.
//!
//! An origin is compared exactly, and answers name the one that asked, never all. Browsers send no cookies or saved passwords:
//! a page authenticates with an API key of its own.

use crate::answer;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// What a request may carry, and what of an answer a page may read.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, accept, idempotency-key, last-event-id, if-none-match, range, traceparent, x-request-id",
);
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "location, idempotency-replayed, retry-after, etag, content-range, x-request-id",
);
/// Seconds for which a browser need not ask again.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// The origins that may call; none unless configured.
pub(crate) struct Origins(Vec<HeaderValue>);

impl Origins {
    pub(crate) fn new(origins: &[String]) -> Origins {
        Origins(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }

    /// The origin of a request, if it is one of these.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<&HeaderValue> {
        let mut given = headers.get_all(ORIGIN).iter();
        let origin = given.next().filter(|_| given.next().is_none())?;
        self.0.iter().find(|known| *known == origin)
    }

    /// The answer to a browser that asks, before a page's request, whether it may send it.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let asks = *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        self.of(headers).filter(|_| asks)?;
        let mut response = answer::nothing();
        let said = response.headers_mut();
        said.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        said.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        said.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        Some(response)
    }

    /// Lets the page of `origin` read an answer. What is kept between the two must not be given to another page.
    pub(crate) fn finish(&self, origin: Option<HeaderValue>, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        answer.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exact_origin_is_one_of_them() {
        let origins = Origins::new(&["https://app.example".to_owned(), "http://localhost:3000".to_owned()]);
        for (given, known) in [
            (&["https://app.example"][..], true),
            (&["http://localhost:3000"], true),
            (&["http://app.example"], false),
            (&["https://app.example:8443"], false),
            (&["https://app.example.evil"], false),
            (&["https://APP.example"], false),
            (&["null"], false),
            (&["*"], false),
            (&[], false),
            (&["https://app.example", "https://app.example"], false),
        ] {
            let mut headers = HeaderMap::new();
            for origin in given {
                headers.append(ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(origins.of(&headers).is_some(), known, "{given:?}");
            assert!(Origins::new(&[]).of(&headers).is_none());
        }
    }
}
