//! A canonical text for JSON: equal values have equal texts, after RFC 8785 (sorted members, no spaces, one form per
//! number). It only ever meets a keyed hash, so it need not be shown.

use serde_json::Value;
use std::fmt::Write;

/// Integers beyond this lose digits in a double, and are told apart by all of theirs.
const EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

pub(super) fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
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
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (at, name) in names.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write(&members[name], out);
            }
            out.push('}');
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    // serde_json escapes exactly what must be escaped, in one form each.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
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
            assert_eq!(canonical(&value), expected);
        }
    }
}
