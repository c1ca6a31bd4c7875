//! Scalars with their own text form: times, durations, priorities.

use crate::word::{PriorityWord, schema};
use enginehouse_core::execution::Priority;
use enginehouse_core::limits::SPAN_MAX;
use enginehouse_core::time::{Millis, Time};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// An instant as RFC 3339 text: written in UTC with milliseconds, read with any offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-24T08:00:00.000Z")]
pub struct Timestamp(pub Time);

/// RFC 3339 is narrower than what the time library reads: date, `T`, time with seconds, and `Z` or an offset.
fn is_rfc3339_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let fixed = bytes.len() >= 20
        && bytes[..19].iter().enumerate().all(|(i, b)| match i {
            4 | 7 => *b == b'-',
            10 => matches!(b, b'T' | b't'),
            13 | 16 => *b == b':',
            _ => b.is_ascii_digit(),
        });
    if !fixed {
        return false;
    }
    let mut rest = &bytes[19..];
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    match rest {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].into_iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_string())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}", self.0.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an RFC 3339 time such as \"2026-11-24T08:00:00Z\"");
        if !is_rfc3339_shape(text) {
            return Err(wrong());
        }
        let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        Ok(Timestamp(Time(at.as_millisecond())))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A span: integer milliseconds, or text such as `"30s"`, `"7d"`, `"1h 30m"`, `"250ms"`. Written as milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Span(pub Millis);

impl PartialSchema for Span {
    fn schema() -> RefOr<Schema> {
        schema(json!({
            "description": "A span of time: milliseconds as an integer, or text such as \"30s\", \"5m\", \"2h\", \"7d\", \"250ms\".",
            "oneOf": [
                {"type": "integer", "minimum": 0, "maximum": SPAN_MAX},
                {"type": "string", "pattern": "^([0-9]{1,11}|[0-9]{1,6} ?(ms|s|m|min|h|d)( ?[0-9]{1,6} ?(ms|s|m|min|h|d)){0,4})$", "maxLength": 64},
            ],
        }))
    }
}

impl ToSchema for Span {}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a duration; write milliseconds as an integer, or text like \"30s\", \"5m\", \"2h\", \"7d\""
            )
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Span).map_err(|_| wrong());
        }
        let mut total: u64 = 0;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = rest[digits..].trim_start();
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit: u64 = match &rest[..letters] {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            rest = rest[letters..].trim_start();
            total = number.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        }
        Ok(Span(total))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration: integer milliseconds of at least 0, or text like \"30s\"")
            }

            fn visit_u64<E: Error>(self, ms: u64) -> Result<Span, E> {
                Ok(Span(ms))
            }

            fn visit_i64<E: Error>(self, ms: i64) -> Result<Span, E> {
                u64::try_from(ms).map(Span).map_err(|_| E::custom("a duration cannot be negative"))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// `LOW`, `NORMAL`, `HIGH`, `CRITICAL`, or 1 to 4 in that order. Written as the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriorityName(pub Priority);

impl PartialSchema for PriorityName {
    fn schema() -> RefOr<Schema> {
        schema(json!({
            "description": "A priority: a word, or 1 to 4 in the order of the words. Answers carry the word.",
            "oneOf": [
                {"type": "string", "enum": PriorityWord::words()},
                {"type": "integer", "minimum": 1, "maximum": Priority::ALL.len()},
            ],
        }))
    }
}

impl ToSchema for PriorityName {}

impl Serialize for PriorityName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for PriorityName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = PriorityName;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("LOW, NORMAL, HIGH, CRITICAL or 1 to 4")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<PriorityName, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<PriorityName, E> {
                let found = Priority::from_number(number);
                found
                    .map(PriorityName)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PriorityName, E> {
                let found = Priority::parse(text);
                found
                    .map(PriorityName)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_nothing_else() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01T00:00:00.25Z", 250),
            ("1970-01-01T01:00:00.001+01:00", 1),
            ("1969-12-31T23:59:59-00:00", -1_000),
        ] {
            assert_eq!(text.parse::<Timestamp>(), Ok(Timestamp(Time(ms))), "{text}");
        }
        for bad in [
            "",
            "now",
            "1970-01-01",
            "1970-01-01T00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "0",
            "1970-01-01T00:00:00.Z",
            "1970-13-01T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00Z[UTC]",
            "1970-01-01T00:00:00+01:00x",
            "19700-01-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_is_written_in_utc_with_milliseconds() {
        assert_eq!(Timestamp(Time(1_500)).to_string(), "1970-01-01T00:00:01.500Z");
        assert_eq!(Timestamp(Time(0)).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn spans_are_milliseconds_or_text() {
        for (json, ms) in [
            ("0", 0),
            ("30000", 30_000),
            ("\"30s\"", 30_000),
            ("\"1h 30m\"", 5_400_000),
            ("\"7d\"", 604_800_000),
            ("\"250ms\"", 250),
            ("\"5\"", 5),
        ] {
            let span: Span = serde_json::from_str(json).expect(json);
            assert_eq!(span, Span(ms), "{json}");
        }
        for bad in [
            "-1",
            "1.5",
            "\"\"",
            "\"s\"",
            "\"-5s\"",
            "\"5 weeks\"",
            "\"1 2\"",
            "\"1m 2\"",
            "\"99999999999999999999s\"",
            "null",
            "[]",
            "true",
        ] {
            assert!(serde_json::from_str::<Span>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn priorities_are_words_or_numbers() {
        for (json, priority) in
            [("\"LOW\"", Priority::Low), ("4", Priority::Critical), ("2", Priority::Normal)]
        {
            let name: PriorityName = serde_json::from_str(json).expect(json);
            assert_eq!(name.0, priority, "{json}");
        }
        for bad in ["0", "5", "-1", "\"low\"", "\"URGENT\"", "1.0", "null", "9223372036854775808"] {
            assert!(serde_json::from_str::<PriorityName>(bad).is_err(), "{bad}");
        }
    }
}
