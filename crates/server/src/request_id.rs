//! The id that joins an answer, its problem and the log lines: the client's own if it is harmless, else a fresh one.

use enginehouse_core::limits::REQUEST_ID_CHARS_MAX;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request at hand, kept in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// Makes ids that no other request of this process, and hardly one of another, has.
pub(crate) struct RequestIds {
    prefix: u32,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(prefix: u32) -> RequestIds {
        RequestIds { prefix, next: AtomicU64::new(1) }
    }

    pub(crate) fn of(&self, headers: &HeaderMap) -> RequestId {
        if let Some(given) = headers.get(X_REQUEST_ID).filter(|given| is_harmless(given.as_bytes())) {
            return RequestId(given.clone());
        }
        let text = format!("{:08x}-{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
        RequestId(HeaderValue::from_str(&text).expect("hexadecimal digits are a header value"))
    }
}

fn is_harmless(id: &[u8]) -> bool {
    (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harmless_id_is_kept_and_another_replaced() {
        let ids = RequestIds::new(7);
        for (given, kept) in [
            ("abc-1.2:3_x", true),
            ("", false),
            ("a b", false),
            ("<script>", false),
            (&"x".repeat(129), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(given).expect("a header value"));
            assert_eq!(ids.of(&headers).as_str() == given, kept, "{given}");
        }
        assert_ne!(ids.of(&HeaderMap::new()).as_str(), ids.of(&HeaderMap::new()).as_str());
    }
}
