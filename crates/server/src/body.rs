//! Reading a request's body: bounded in size and time.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::limits::DISCARDED_BODY_BYTES_MAX;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use std::time::Duration;
use tokio::time::timeout;

/// How long the rest of a body that is too large is read and thrown away.
const DISCARD_FOR: Duration = Duration::from_secs(5);

/// How many bytes the body says it has; `None` when it does not say.
pub(crate) fn announced(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}

/// The whole body, at most `most` bytes of JSON.
pub(crate) async fn read_json_of(
    parts: &Parts,
    body: Body,
    most: usize,
    within: Duration,
) -> Result<Bytes, ApiError> {
    let unsupported = || {
        ApiError::new(
            Code::UnsupportedMediaType,
            "the body must be application/json in UTF-8, not compressed",
        )
    };
    if !parts.headers.contains_key(CONTENT_TYPE) && !parts.headers.contains_key(CONTENT_ENCODING) {
        // A client may announce a body of unknown length and then send none; that is as good as no body.
        let bytes = if body.is_end_stream() { Bytes::new() } else { read(parts, body, most, within).await? };
        return if bytes.is_empty() { Ok(bytes) } else { Err(unsupported()) };
    }
    if !is_json(parts) {
        return Err(unsupported());
    }
    read(parts, body, most, within).await
}

async fn read(parts: &Parts, mut body: Body, most: usize, within: Duration) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            Code::BodyTooLarge,
            format!("the body has more than {most} bytes (server.body_max_mib)"),
        )
    };
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        // Who waits for permission to send has sent nothing yet and hears the answer at once.
        if !parts.headers.contains_key(EXPECT) {
            discard(body).await;
        }
        return Err(too_large());
    }
    let collect = async {
        let mut whole = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(Code::InvalidJson, format!("the body could not be read to its end: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > most {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
        Ok(Some(whole.freeze()))
    };
    match timeout(within, collect).await {
        Ok(Ok(Some(whole))) => Ok(whole),
        Ok(Ok(None)) => {
            discard(body).await;
            Err(too_large())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ApiError::new(
            Code::RequestTimeout,
            format!("the body did not arrive within {} s", within.as_secs_f32()),
        )),
    }
}

/// A connection closed with unread bytes is reset, and the reset overtakes the answer: so the sender is heard out,
/// within bounds.
async fn discard(mut body: Body) {
    let mut left = DISCARDED_BODY_BYTES_MAX;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Running out of time is one of the two bounds.
    let _ = timeout(DISCARD_FOR, all).await;
}

fn is_json(parts: &Parts) -> bool {
    let headers = &parts.headers;
    let plain = headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding.as_bytes() == b"identity");
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(Ok(text)) = types.next().map(|value| value.to_str()) else {
        return false;
    };
    let mut pieces = text.split(';').map(str::trim);
    plain
        && types.next().is_none()
        && pieces.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
        && pieces.filter(|piece| !piece.is_empty()).all(|piece| match piece.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            Some(_) => true,
            None => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn only_json_in_utf8_is_taken() {
        for (content_type, good) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; profile=x", true),
            ("application/json;", true),
            ("application/json; charset=utf-16", false),
            ("application/json; nonsense", false),
            ("text/json", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let request = Request::builder().header(CONTENT_TYPE, content_type).body(()).expect("a request");
            assert_eq!(is_json(&request.into_parts().0), good, "{content_type}");
        }
        let packed =
            Request::builder().header(CONTENT_TYPE, "application/json").header(CONTENT_ENCODING, "gzip");
        assert!(!is_json(&packed.body(()).expect("a request").into_parts().0));
    }
}
