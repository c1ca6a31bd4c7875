//! A canonical text for JSON: equal values have equal texts, after RFC 8785 (sorted members, no spaces, one form per
//! number). It only ever meets a keyed hash, so it need not be shown.
//!
//! RFC 8785 takes numbers for doubles, in which long ones are equal that differ. A text with such a number has each of its
//! numbers written out as the decimal that it is.

use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

/// Integers beyond this lose digits in a double, and are told apart by all of theirs.
const EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Significant digits up to which different decimals are different doubles.
const DOUBLE_DIGITS: usize = 15;
/// Digits of an exponent up to which a double can hold it whatever it is.
const EXPONENT_DIGITS: usize = 2;

/// The canonical text of a JSON object, without the members in `left_out`.
///
/// # Errors
/// The text is not valid JSON.
pub(super) fn canonical(json: &[u8], left_out: &[&str]) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(json.len());
    if has_long_number(json) {
        let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(json)?;
        members.retain(|name, _| !left_out.contains(&name.as_ref()));
        write_members(members, &mut out)?;
        return Ok(out);
    }
    let mut value: Value = serde_json::from_slice(json)?;
    if let Some(members) = value.as_object_mut() {
        left_out.iter().for_each(|name| drop(members.remove(*name)));
    }
    write(&value, &mut out);
    Ok(out)
}

/// Whether a number outside of strings has more digits than a double tells apart, or an exponent that it may not hold.
fn has_long_number(json: &[u8]) -> bool {
    let (mut digits, mut in_exponent, mut in_string, mut escaped) = (0_usize, false, false, false);
    for byte in json {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'0'..=b'9' => {
                digits += 1;
                if digits > if in_exponent { EXPONENT_DIGITS } else { DOUBLE_DIGITS } {
                    return true;
                }
            }
            b'e' | b'E' if digits > 0 => (digits, in_exponent) = (0, true),
            b'.' | b'-' | b'+' => {}
            _ => (digits, in_exponent) = (0, false),
        }
    }
    false
}

fn write_raw(raw: &RawValue, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => write_members(serde_json::from_str(text)?, out)?,
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push(b'[');
            for (at, item) in items.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_raw(item, out)?;
            }
            out.push(b']');
        }
        Some(b'"') => write_string(&serde_json::from_str::<Cow<'_, str>>(text)?, out),
        Some(b'-' | b'0'..=b'9') => out.extend_from_slice(decimal(text).as_bytes()),
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Ok(())
}

fn write_members(
    members: BTreeMap<Cow<'_, str>, &RawValue>,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    out.push(b'{');
    for (at, (name, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(&name, out);
        out.push(b':');
        write_raw(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// One form for a decimal: its digits without zeros at either end, and the power of ten that they are multiplied with.
fn decimal(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |number| ("-", number));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{part}");
    let short = digits.trim_end_matches('0');
    // Both are lengths of a text in memory, so they fit.
    let moved = (digits.len() - short.len()) as i64 - part.len() as i64;
    let short = short.trim_start_matches('0');
    match (short, exponent.parse::<i64>()) {
        ("", _) => "0".to_owned(),
        (_, Ok(exponent)) => format!("{sign}{short}e{}", exponent.saturating_add(moved)),
        // An exponent of more than eighteen digits is told apart by its text.
        (_, Err(_)) => format!("{sign}{number}"),
    }
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(number) => {
            let whole =
                number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() <= EXACT_INTEGER);
            match whole {
                // 1.0 and 1 are the same number.
                Some(n) => {
                    let _ = write!(out, "{}", n as i64);
                }
                None => {
                    let _ = write!(out, "{number}");
                }
            }
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_unstable_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (at, name) in names.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_string(name, out);
                out.push(b':');
                write(&members[name], out);
            }
            out.push(b'}');
        }
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // serde_json escapes exactly what must be escaped, in one form each; memory takes whatever is written to it.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_text() {
        let rows = [
            (r#"{"b": 1, "a": [true, null], "skip": 7}"#, r#"{"a":[true,null],"b":1}"#),
            (r#"{"n": 1.0}"#, r#"{"n":1}"#),
            (r#"{"n": 1e2}"#, r#"{"n":100}"#),
            (r#"{"n": "\u0061\/"}"#, r#"{"n":"a/"}"#),
            (r#"{"n": -0.5}"#, r#"{"n":-0.5}"#),
            (r#"{"n": "1234567890123456789"}"#, r#"{"n":"1234567890123456789"}"#),
        ];
        for (text, expected) in rows {
            let found = canonical(text.as_bytes(), &["skip"]).expect("valid");
            assert_eq!(String::from_utf8_lossy(&found), expected);
        }
    }

    #[test]
    fn long_numbers_are_told_apart_by_all_their_digits() {
        let of =
            |text: &str| canonical(format!("{{\"b\":1,\"a\":[{text}]}}").as_bytes(), &["b"]).expect("valid");
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("0.12345678901234567891", "0.12345678901234567892"),
            ("1e400", "1e401"),
            ("-1e400", "1e400"),
        ] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
        for (one, other) in [
            ("12345678901234567890", "12345678901234567890.0"),
            ("12345678901234567890", "1.234567890123456789e19"),
            ("123456789012345678000e-3", "123456789012345678"),
            ("0.00012345678901234567890", "1234567890123456789e-22"),
        ] {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
    }

    #[test]
    fn a_number_is_long_only_outside_of_strings() {
        for (text, long) in [
            (r#"["1234567890123456", 123456789012345]"#, false),
            (r#"["\\", 1234567890123456]"#, true),
            (r#"["\"1234567890123456", 1]"#, false),
            (r#"{"1234567890123456e999": [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7]}"#, false),
            ("[1e99, 1E-99]", false),
            ("[1e100]", true),
            ("[0.1234567890123456]", true),
        ] {
            assert_eq!(has_long_number(text.as_bytes()), long, "{text}");
        }
    }
}
