//! From bytes to a wire type: UTF-8 and depth are checked in one pass before anything is decoded, and an error names
//! the field by its JSON pointer.

use crate::fields::{nearest, plain, pointer};
use enginehouse_api::{ApiError, Code, Object, lone_surrogate};
use enginehouse_core::limits::JSON_DEPTH_MAX;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// The longest detail made from a decoder's message, in characters: the message repeats what the caller sent.
const DETAIL_CHARS_MAX: usize = 300;

/// The body as text: valid UTF-8 nested at most `depth` deep. Whether it is JSON is left to the decoder.
pub(crate) fn checked(bytes: &[u8], depth: usize) -> Result<&str, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        ApiError::new(Code::InvalidJson, format!("the body is not UTF-8: byte {at} begins no character"))
    })?;
    match too_deep(bytes, depth) {
        None => Ok(text),
        Some(at) => Err(ApiError::new(
            Code::TooDeep,
            format!("more than {depth} levels of arrays and objects at byte {at}"),
        )),
    }
}

/// Where the text first nests too deeply. Brackets in strings do not count.
fn too_deep(bytes: &[u8], most: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return Some(at);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(bytes, at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The closing quote of the string that opens at `start`, or the end of the text.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Decodes a body of the usual depth.
///
/// Half of a surrogate pair is refused anywhere in it: what is kept as it was sent is read by others later, and what they would make
/// of it differs. The words of an engine, which a worker reports, are not this caller's to mend and pass.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if let Some(lone) = lone_surrogate(bytes) {
        return Err(ApiError::new(Code::InvalidJson, lone.to_string()));
    }
    decode_of(bytes, JSON_DEPTH_MAX)
}

/// Decodes a body that may be nested so deep.
pub(crate) fn decode_of<T: DeserializeOwned>(bytes: &[u8], depth: usize) -> Result<T, ApiError> {
    let text = checked(bytes, depth)?;
    if text.trim_ascii().is_empty() {
        return Err(ApiError::new(Code::InvalidJson, "the body is empty"));
    }
    // Keeping track of the path costs time that a good body need not pay: a bad one is read again with it.
    if let Ok(Object(value)) = serde_json::from_str(text) {
        return Ok(value);
    }
    let mut from = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, Object<T>>(&mut from) {
        Err(error) => {
            let path = pointer(error.path());
            Err(problem(&path, error.inner()))
        }
        // The value was read, so what spoiled it comes after it.
        Ok(_) => match from.end() {
            Err(error) => Err(problem("", &error)),
            Ok(()) => Err(ApiError::new(Code::InvalidJson, "the body cannot be read")),
        },
    }
}

fn problem(path: &str, error: &serde_json::Error) -> ApiError {
    let message: String = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
    if error.classify() != Category::Data {
        return ApiError::new(Code::InvalidJson, message);
    }
    // The place is told by the pointer; line and column add nothing for JSON on one line.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(before, _)| before);
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = quoted(rest).into_iter();
        let unknown = names.next().unwrap_or_default();
        let known: Vec<String> = names.collect();
        let hint = match nearest(&unknown, known.iter().map(String::as_str)) {
            Some(name) => format!("; did you mean {name}?"),
            None => String::new(),
        };
        let pointer = format!("{}/{}", parent_of_unknown(path, &unknown), crate::fields::escape(&unknown));
        return ApiError::field(Code::UnknownField, pointer, format!("is not a known field{hint}"));
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        let name = quoted(rest).into_iter().next().unwrap_or_default();
        return ApiError::field(Code::InvalidField, format!("{path}/{name}"), "is required");
    }
    if let Some(rest) = message.strip_prefix("duplicate field ") {
        let name = quoted(rest).into_iter().next().unwrap_or_default();
        return ApiError::field(Code::InvalidField, format!("{path}/{name}"), "is given more than once");
    }
    ApiError::field(Code::InvalidField, path, plain(message))
}

/// The path of an unknown field may end in its own name, or in its container.
fn parent_of_unknown<'a>(path: &'a str, unknown: &str) -> &'a str {
    let own = format!("/{}", crate::fields::escape(unknown));
    path.strip_suffix(own.as_str()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_api::{BatchRequest, BulkRequest, SubmitRequest};

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn depth_is_counted_outside_strings() {
        for good in
            [&nested(64), r#""[[[[""#, r#"{"a":"\"[\\"}"#, "", "]]]]", &"[]".repeat(500), "\"", "\"\\"]
        {
            assert!(checked(good.as_bytes(), JSON_DEPTH_MAX).is_ok(), "{good}");
        }
        for bad in [nested(65), "[".repeat(100_000), format!("{{\"a\":\"]]]\",\"b\":{}}}", nested(64))] {
            let error = checked(bad.as_bytes(), JSON_DEPTH_MAX).expect_err("too deep");
            assert_eq!(error.code, Code::TooDeep);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        for bad in
            [&b"{\"id\":\"\xff\"}"[..], b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf"]
        {
            assert_eq!(checked(bad, JSON_DEPTH_MAX).expect_err("not UTF-8").code, Code::InvalidJson);
        }
    }

    /// Body, expected code, expected pointer, a part of the expected detail.
    const REJECTIONS: &[(&str, &str, &str, &str)] = &[
        ("", "invalid_json", "", "empty"),
        ("  \n", "invalid_json", "", "empty"),
        ("{", "invalid_json", "", "EOF"),
        ("{\"id\":1,}", "invalid_field", "/id", "expected text"),
        ("{\"id\":\"a\",}", "invalid_json", "", "trailing comma"),
        ("{} {}", "invalid_json", "", "trailing characters"),
        ("\u{feff}{}", "invalid_json", "", "expected value"),
        ("[]", "invalid_field", "", "expected an object"),
        ("7", "invalid_field", "", "expected an object"),
        ("null", "invalid_field", "", "expected an object"),
        ("{\"id\":NaN}", "invalid_json", "", "expected value"),
        ("{\"prioriti\":1}", "unknown_field", "/prioriti", "did you mean priority?"),
        ("{\"zzz\":1}", "unknown_field", "/zzz", "not a known field"),
        ("{\"a/b~c\":1}", "unknown_field", "/a~1b~0c", "not a known field"),
        ("{\"retry\":{\"factr\":2}}", "unknown_field", "/retry/factr", "did you mean factor?"),
        ("{\"retry\":{\"factor\":\"x\"}}", "invalid_field", "/retry/factor", "expected a number"),
        (
            "{\"retry\":{\"maxRetries\":-1}}",
            "invalid_field",
            "/retry/maxRetries",
            "expected an integer of at least 0",
        ),
        ("{\"retry\":[]}", "invalid_field", "/retry", "expected an object"),
        ("{\"maxRetries\":1.5}", "invalid_field", "/maxRetries", "expected an integer"),
        ("{\"timeout\":-5}", "invalid_field", "/timeout", "negative"),
        ("{\"timeout\":\"soon\"}", "invalid_field", "/timeout", "not a duration"),
        ("{\"readyAt\":\"tomorrow\"}", "invalid_field", "/readyAt", "RFC 3339"),
        ("{\"priority\":\"URGENT\"}", "invalid_field", "/priority", "LOW, NORMAL, HIGH, CRITICAL"),
        ("{\"tags\":\"a\"}", "invalid_field", "/tags", "expected an array"),
        ("{\"tags\":[\"a\",3]}", "invalid_field", "/tags/1", "expected text"),
        ("{\"atMostOnce\":\"yes\"}", "invalid_field", "/atMostOnce", "expected true or false"),
        ("{\"id\":\"a\",\"id\":\"b\"}", "invalid_field", "/id", "more than once"),
        ("{\"metadata\":[]}", "invalid_field", "/metadata", "expected an object"),
        (
            "{\"workflow\":{\"definitoin\":{}}}",
            "unknown_field",
            "/workflow/definitoin",
            "did you mean definition?",
        ),
        ("{\"parameters\":{\"a\":tru}}", "invalid_json", "", "expected"),
        ("{\"parameters\":{\"a\":\"\\ud800\"}}", "invalid_json", "", "\\ud800 at byte 20 is half of"),
        ("{\"id\":\"\\udc00\"}", "invalid_json", "", "\\udc00 at byte 7 is half of"),
    ];

    #[test]
    fn errors_name_the_code_and_the_field() {
        for (body, code, pointer, detail) in REJECTIONS {
            let error = decode::<SubmitRequest>(body.as_bytes()).expect_err(body);
            assert_eq!(error.code.as_str(), *code, "{body}: {error}");
            let found = error.errors.first().map_or("", |e| e.pointer.as_str());
            assert_eq!(found, *pointer, "{body}: {error}");
            assert!(error.detail.contains(detail), "{body}: {error}");
        }
        let error =
            decode::<BatchRequest>(br#"{"executions":[{},{"retry":{"on":[1]}}]}"#).expect_err("a number");
        assert_eq!(error.errors[0].pointer, "/executions/1/retry/on/0");
        let error = decode::<BatchRequest>(b"{}").expect_err("nothing");
        assert_eq!(
            (error.errors[0].pointer.as_str(), error.errors[0].detail.as_str()),
            ("/executions", "is required")
        );
        let error = decode::<BulkRequest>(br#"{"filter":{"status":"failed"}}"#).expect_err("not an array");
        assert_eq!(error.errors[0].pointer, "/filter/status");
    }

    #[test]
    fn parameters_are_kept_as_they_were_sent() {
        let body = r#"{"parameters": {"b" : 1.0, "a":[1e3, "\u0041"] } }"#;
        let request: SubmitRequest = decode(body.as_bytes()).expect("valid");
        let raw = request.parameters.expect("given");
        assert_eq!(raw.get(), r#"{"b" : 1.0, "a":[1e3, "\u0041"] }"#);
    }
}
