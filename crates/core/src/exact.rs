//! JSON that is carried and not read: its numbers keep every digit, because none becomes a number of ours on the way.

use crate::limits::JSON_DEPTH_MAX;
use crate::surrogate::lone_surrogate;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// One JSON value on one line: numbers and strings as they were written, without the blanks between them.
#[derive(Debug, Clone)]
pub struct ExactJson(Box<RawValue>);

impl ExactJson {
    /// # Errors
    /// The text is not one JSON value, is nested too deeply, or holds half of a surrogate pair.
    pub fn parse(text: &str) -> Result<ExactJson, serde_json::Error> {
        ExactJson::parse_within(text, JSON_DEPTH_MAX)
    }

    /// As [`parse`](ExactJson::parse), for what others will stand around.
    ///
    /// # Errors
    /// As of [`parse`](ExactJson::parse).
    pub fn parse_within(text: &str, depth_max: usize) -> Result<ExactJson, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        ExactJson::of(raw, depth_max)
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    fn of(raw: &RawValue, depth_max: usize) -> Result<ExactJson, serde_json::Error> {
        // What a parser with values of its own would have found.
        if let Some(lone) = lone_surrogate(raw.get().as_bytes()) {
            return Err(serde_json::Error::custom(lone));
        }
        let text =
            compact(raw.get(), depth_max).ok_or_else(|| serde_json::Error::custom("nested too deeply"))?;
        RawValue::from_string(text).map(ExactJson)
    }
}

/// Valid JSON without the blanks between its parts; `None` when it is nested too deeply.
fn compact(text: &str, depth_max: usize) -> Option<String> {
    let mut kept = String::with_capacity(text.len());
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
    for c in text.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                ' ' | '\t' | '\n' | '\r' => continue,
                '"' => quoted = true,
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > depth_max {
                return None;
            }
        }
        kept.push(c);
    }
    Some(kept)
}

impl PartialEq for ExactJson {
    fn eq(&self, other: &ExactJson) -> bool {
        self.get() == other.get()
    }
}

impl Eq for ExactJson {}

impl From<serde_json::Value> for ExactJson {
    /// For values that are made here: those of others have lost what they lose when they are parsed.
    fn from(value: serde_json::Value) -> ExactJson {
        ExactJson(RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl Serialize for ExactJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExactJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExactJson, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        ExactJson::of(&raw, JSON_DEPTH_MAX).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_is_kept_and_no_line_is_broken() {
        for (text, kept) in [
            ("12345678901234567890123", "12345678901234567890123"),
            (
                " { \"n\" : 0.1000000000000000055 ,\r\n\t\"e\": 1E400 } ",
                "{\"n\":0.1000000000000000055,\"e\":1E400}",
            ),
            (r#"["a b", "\" , \\", "c  d"]"#, r#"["a b","\" , \\","c  d"]"#),
        ] {
            let json = ExactJson::parse(text).expect(text);
            assert_eq!(json.get(), kept);
            assert_eq!(serde_json::to_string(&json).expect("text"), kept);
            assert_eq!(serde_json::from_str::<ExactJson>(text).expect("JSON"), json);
        }
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_refused() {
        for text in ["", "{", "NaN", "1 2", "\"a\nb\"", r#"{"a":"\ud800"}"#] {
            assert!(ExactJson::parse(text).is_err(), "{text}");
        }
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(ExactJson::parse(&nested(JSON_DEPTH_MAX)).is_ok());
        assert!(ExactJson::parse(&nested(JSON_DEPTH_MAX + 1)).is_err());
        assert!(serde_json::from_str::<ExactJson>(&nested(JSON_DEPTH_MAX + 1)).is_err());
    }
}
