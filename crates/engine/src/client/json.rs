//! JSON from engines: bounded in depth before any parser sees it.

use crate::contract::{EngineFailure, Reached};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::JSON_DEPTH_MAX;
use serde::de::DeserializeOwned;

/// Levels an engine may wrap around a request or a result that is itself as deep as the product carries.
const WRAPPING_DEPTH: usize = 16;

/// Parses an engine's JSON. The failure says where it broke, never what stood there.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EngineFailure> {
    let body = without_mark(body);
    check_depth(body, JSON_DEPTH_MAX + WRAPPING_DEPTH)?;
    serde_json::from_slice(body).map_err(|error| {
        let problem = match error.classify() {
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Data => "has not the expected form",
            _ => "is not JSON",
        };
        let message = if body.trim_ascii_start().starts_with(b"<") {
            "the answer is a web page, not the engine's JSON: a proxy or a sign-in page may stand in between"
                .to_owned()
        } else {
            format!("the engine's answer {problem} (line {}, column {})", error.line(), error.column())
        };
        EngineFailure::new(FailureKind::BadResponse, "malformed_answer", message).with_reached(Reached::Maybe)
    })
}

/// A text without the byte order mark that some programs put in front.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Refuses a result that is larger or deeper than the product carries.
pub(crate) fn check_result(result: &[u8], bytes_max: usize) -> Result<(), EngineFailure> {
    let refuse = |code, message| Err(EngineFailure::new(FailureKind::TooLarge, code, message));
    if result.len() > bytes_max {
        return refuse("result_too_large", format!("the result is over {bytes_max} bytes"));
    }
    if std::str::from_utf8(result).is_err() {
        let failure =
            EngineFailure::new(FailureKind::BadResponse, "malformed_answer", "the result is not UTF-8");
        return Err(failure.not_repeated());
    }
    if check_depth(result, JSON_DEPTH_MAX).is_err() {
        return refuse("result_too_deep", format!("the result is nested deeper than {JSON_DEPTH_MAX}"));
    }
    Ok(())
}

/// Refuses JSON nested deeper than `depth_max`. Text that is not valid JSON passes: parsing finds that out.
pub(crate) fn check_depth(body: &[u8], depth_max: usize) -> Result<(), EngineFailure> {
    let mut depth = 0_usize;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    let message = format!("the engine's answer is nested deeper than {depth_max}");
                    return Err(EngineFailure::new(FailureKind::BadResponse, "answer_too_deep", message)
                        .with_reached(Reached::Maybe));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// `text` itself where it is JSON, else as a JSON string.
pub(crate) fn single_string(text: &str) -> Bytes {
    let trimmed = text.trim();
    let is_json = check_depth(trimmed.as_bytes(), JSON_DEPTH_MAX).is_ok()
        && serde_json::from_str::<&serde_json::value::RawValue>(trimmed).is_ok();
    if is_json {
        Bytes::copy_from_slice(trimmed.as_bytes())
    } else {
        Bytes::from(serde_json::Value::from(text).to_string())
    }
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let check = |text: String| check_depth(text.as_bytes(), JSON_DEPTH_MAX);
        assert!(check(nested(JSON_DEPTH_MAX)).is_ok());
        assert_eq!(check(nested(JSON_DEPTH_MAX + 1)).unwrap_err().code, "answer_too_deep");
        assert!(check(format!("\"{}\"", "[".repeat(500))).is_ok());
        assert!(check(format!("\"\\\"{}\"", "[".repeat(500))).is_ok());
        assert!(check("[],".repeat(500)).is_ok());
    }

    #[test]
    fn a_result_over_a_limit_is_refused_for_good() {
        assert_eq!(check_result(b"[1]", 3), Ok(()));
        assert_eq!(check_result(b"\"\xe9\"", 9).unwrap_err().code, "malformed_answer");
        assert_eq!(check_result(b"[1]", 2).unwrap_err().code, "result_too_large");
        let deep = "[".repeat(JSON_DEPTH_MAX + 1);
        assert_eq!(check_result(deep.as_bytes(), 1_000).unwrap_err().kind, FailureKind::TooLarge);
    }

    #[test]
    fn text_that_is_json_stays_itself() {
        for (text, json) in [
            ("hello", "\"hello\""),
            ("{\"a\":1.50}", "{\"a\":1.50}"),
            (" [1] ", "[1]"),
            ("12", "12"),
            ("", "\"\""),
            ("{\"a\":", "\"{\\\"a\\\":\""),
        ] {
            assert_eq!(single_string(text), json.as_bytes(), "{text}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert_eq!(single_string(&deep), format!("\"{deep}\"").as_bytes());
    }
}
