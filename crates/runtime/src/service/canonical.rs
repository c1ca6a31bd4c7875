//! A canonical text for JSON: equal values have equal texts, after RFC 8785 (sorted members, no spaces, one form per
//! number). It only ever meets a keyed hash, so it need not be shown.

use serde_json::Value;
use std::io::Write;

/// Integers beyond this lose digits in a double, and are told apart by all of theirs.
const EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// `about`: how many bytes are expected.
pub(super) fn canonical(value: &Value, about: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(about);
    write(value, &mut out);
    out
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
            (r#"{"b": 1, "a": [true, null]}"#, r#"{"a":[true,null],"b":1}"#),
            (r#"{"n": 1.0}"#, r#"{"n":1}"#),
            (r#"{"n": 1e2}"#, r#"{"n":100}"#),
            (r#""\u0061\/""#, r#""a/""#),
            (r#"9007199254740993"#, r#"9007199254740993"#),
            (r#"-0.5"#, r#"-0.5"#),
        ];
        for (text, expected) in rows {
            let value: Value = serde_json::from_str(text).expect("valid");
            assert_eq!(canonical(&value, 0), expected.as_bytes());
        }
    }
}
