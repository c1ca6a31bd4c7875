//! Answers that a client may have already, or wants a part of (RFC 9110, sections 13 and 14).

use aws_lc_rs::digest::{Context, SHA256};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use enginehouse_api::{ApiError, Code};
use enginehouse_runtime::LargeResult;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::fmt::Write;
use std::ops::Range;

/// Bytes of the hash in an entity tag.
const TAG_BYTES: usize = 16;

/// JSON that stays as it is: 304 for who has it, 206 with the one range that was asked for, else all of it.
pub(crate) fn json(asked: &HeaderMap, body: Vec<u8>) -> Result<Response, ApiError> {
    let (tag, body) = (entity_tag(&[&body]), Bytes::from(body));
    let wanted = wanted(asked, &tag, body.len())?;
    let part = wanted.part.clone().map(|part| body.slice(part)).unwrap_or_default();
    Ok(wanted.answer(Body::from(part)))
}

/// As [`json`], for an answer that holds a large result: what comes before it, the result, and what comes behind it. Only
/// what is asked for is read, as it is sent; an error after the first piece ends the connection.
pub(crate) async fn large_json(
    asked: &HeaderMap,
    before: Vec<u8>,
    large: &LargeResult,
    behind: Vec<u8>,
) -> Result<Response, ApiError> {
    let too_large = |_| ApiError::new(Code::Internal, "the result is larger than this machine can tell");
    let bytes = usize::try_from(large.bytes()).map_err(too_large)?;
    let tag = entity_tag(&[&before, large.sha256().as_bytes(), &behind]);
    let wanted = wanted(asked, &tag, before.len() + bytes + behind.len())?;
    let Some(part) = wanted.part.clone() else { return Ok(wanted.answer(Body::empty())) };
    let within = |from: usize, len: usize| {
        part.start.saturating_sub(from).min(len)..part.end.saturating_sub(from).min(len)
    };
    let (first, middle) = (within(0, before.len()), within(before.len(), bytes));
    let last = within(before.len() + bytes, behind.len());
    let mut frames = Box::pin(large.read(middle.start as u64..middle.end as u64));
    // What cannot be read at all is an error that the caller is told of.
    let frame = frames.try_next().await?.unwrap_or_default();
    let begun = [Bytes::from(before).slice(first), frame].map(Ok);
    let end = stream::iter([Ok(Bytes::from(behind).slice(last))]);
    Ok(wanted.answer(Body::from_stream(stream::iter(begun).chain(frames).chain(end))))
}

/// What of a body is to be sent, and how the answer says so.
struct Wanted {
    status: StatusCode,
    /// `None`: nothing, since the client has it.
    part: Option<Range<usize>>,
    len: usize,
    tag: String,
}

impl Wanted {
    fn answer(self, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(part) = self.part {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(part.len()));
            if self.status == StatusCode::PARTIAL_CONTENT {
                let text = format!("bytes {}-{}/{}", part.start, part.end - 1, self.len);
                insert(headers, CONTENT_RANGE, &text);
            }
        }
        insert(headers, ETAG, &self.tag);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // A client may keep it, and asks whether it is still the same and still allowed.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

fn wanted(asked: &HeaderMap, tag: &str, len: usize) -> Result<Wanted, ApiError> {
    let text = |name: HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    let wanted = |status, part| Ok(Wanted { status, part, len, tag: tag.to_owned() });
    if text(IF_NONE_MATCH).is_some_and(|given| matches(given, tag)) {
        return wanted(StatusCode::NOT_MODIFIED, None);
    }
    // A range of another state of it would fit nothing.
    let same = text(IF_RANGE).is_none_or(|given| given == tag);
    match text(RANGE).filter(|_| same).map(|given| range(given, len)) {
        Some(Asked::Part(part)) => wanted(StatusCode::PARTIAL_CONTENT, Some(part)),
        Some(Asked::Nothing) => Err(ApiError::new(Code::RangeNotSatisfiable, format!("it has {len} bytes"))),
        Some(Asked::All) | None => wanted(StatusCode::OK, Some(0..len)),
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    // Digits, letters and the marks between them, which every header may have.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn entity_tag(parts: &[&[u8]]) -> String {
    let mut hash = Context::new(&SHA256);
    parts.iter().for_each(|part| hash.update(part));
    let mut tag = String::from("\"");
    for byte in &hash.finish().as_ref()[..TAG_BYTES] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

/// Whether a list of entity tags holds this one; weak ones count, as for every `If-None-Match`.
fn matches(given: &str, tag: &str) -> bool {
    given.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Part(Range<usize>),
    /// No such range, or several: all of it is an answer to that.
    All,
    /// It lies beyond the end.
    Nothing,
}

fn range(given: &str, len: usize) -> Asked {
    let Some((first, last)) = given.strip_prefix("bytes=").and_then(|rest| rest.trim().split_once('-'))
    else {
        return Asked::All;
    };
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<usize>().ok()).flatten();
    match (first, last) {
        ("", last) => match number(last) {
            Some(0) => Asked::Nothing,
            Some(_) if len == 0 => Asked::Nothing,
            Some(count) => Asked::Part(len.saturating_sub(count)..len),
            None => Asked::All,
        },
        (first, last) => match (number(first), if last.is_empty() { Some(usize::MAX) } else { number(last) })
        {
            (Some(first), Some(last)) if first > last => Asked::All,
            (Some(first), Some(_)) if first >= len => Asked::Nothing,
            (Some(first), Some(last)) => Asked::Part(first..last.saturating_add(1).min(len)),
            _ => Asked::All,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_the_standard_says() {
        let table = [
            ("bytes=0-3", Asked::Part(0..4)),
            ("bytes=4-", Asked::Part(4..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=9-99", Asked::Part(9..10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-4", Asked::All),
            ("bytes=0-1,3-4", Asked::All),
            ("bytes=", Asked::All),
            ("bytes=-", Asked::All),
            ("bytes=a-b", Asked::All),
            ("bytes=+1-2", Asked::All),
            ("lines=0-1", Asked::All),
            ("bytes=99999999999999999999-", Asked::All),
        ];
        for (given, wanted) in table {
            assert_eq!(range(given, 10), wanted, "{given}");
        }
    }

    #[test]
    fn who_has_it_gets_nothing_and_who_wants_a_part_gets_that() {
        let ask = |headers: &[(HeaderName, &str)]| {
            let mut asked = HeaderMap::new();
            for (name, value) in headers {
                asked.insert(name.clone(), HeaderValue::from_str(value).expect("it can be sent"));
            }
            json(&asked, b"{\"a\":12345}".to_vec())
        };
        let whole = ask(&[]).expect("an answer");
        let tag = whole.headers()[ETAG].to_str().expect("text").to_owned();
        assert_eq!((whole.status(), tag.len()), (StatusCode::OK, 2 * TAG_BYTES + 2));
        let other = "\"other\"";
        let weak = format!("{other}, W/{tag}");
        // If-None-Match, Range, If-Range -> status, Content-Range
        type Row<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, u16, Option<&'a str>);
        let table: [Row<'_>; 8] = [
            (Some(&tag), None, None, 304, None),
            (Some(&weak), Some("bytes=0-1"), None, 304, None),
            (Some("*"), None, None, 304, None),
            (Some(other), None, None, 200, None),
            (None, Some("bytes=5-9"), None, 206, Some("bytes 5-9/11")),
            (None, Some("bytes=5-9"), Some(&tag), 206, Some("bytes 5-9/11")),
            (None, Some("bytes=5-9"), Some(other), 200, None),
            (Some(other), Some("bytes=-1"), None, 206, Some("bytes 10-10/11")),
        ];
        for (none_match, range, if_range, status, content_range) in table {
            let given = [(IF_NONE_MATCH, none_match), (RANGE, range), (IF_RANGE, if_range)];
            let given: Vec<(HeaderName, &str)> =
                given.into_iter().filter_map(|(n, v)| Some((n, v?))).collect();
            let answer = ask(&given).expect("an answer");
            let found = answer.headers().get(CONTENT_RANGE).map(|value| value.to_str().expect("text"));
            assert_eq!((answer.status().as_u16(), found), (status, content_range), "{given:?}");
            assert_eq!(answer.headers()[ETAG], tag.as_str());
        }
        let beyond = ask(&[(RANGE, "bytes=11-")]).expect_err("there is nothing");
        assert_eq!(beyond.code, Code::RangeNotSatisfiable);
    }
}
