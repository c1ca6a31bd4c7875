//! JSON pointers (RFC 6901) into an answer, without reading the rest of it: what is found keeps the form it was sent in.

use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Whether a text is a pointer: empty, or beginning with a slash.
pub(super) fn check(pointer: &str) -> Result<(), String> {
    if pointer.is_empty() || pointer.starts_with('/') {
        return Ok(());
    }
    Err(format!("{pointer:?} is not a JSON pointer such as /data/id"))
}

/// The value a pointer leads to.
pub(super) fn find<'a>(json: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    let mut at = json;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = match at.get().as_bytes().first()? {
            b'{' => {
                let mut fields: BTreeMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(at.get()).ok()?;
                fields.remove(token.as_str())?
            }
            b'[' => {
                let items: Vec<&'a RawValue> = serde_json::from_str(at.get()).ok()?;
                items.get(token.parse::<usize>().ok()?).copied()?
            }
            _ => return None,
        };
    }
    Some(at)
}

/// A text, or a number as it is written.
pub(super) fn text(json: &RawValue, pointer: &str) -> Option<String> {
    let found = find(json, pointer)?.get();
    match found.as_bytes().first()? {
        b'"' => serde_json::from_str(found).ok(),
        b'-' | b'0'..=b'9' => Some(found.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_a_value_in_its_own_form() {
        let json: Box<RawValue> =
            serde_json::from_str(r#"{"a":{"b":[1.0,{"c/d": "x" }]},"~":"t","n":17}"#).unwrap();
        for (pointer, found) in [
            ("/a/b/0", Some("1.0")),
            ("/a/b/1", Some(r#"{"c/d": "x" }"#)),
            ("/a/b/1/c~1d", Some(r#""x""#)),
            ("/~0", Some(r#""t""#)),
            ("/a/b/2", None),
            ("/a/b/-", None),
            ("/n/x", None),
            ("/z", None),
        ] {
            assert_eq!(find(&json, pointer).map(RawValue::get), found, "{pointer}");
        }
        assert_eq!(find(&json, "").map(RawValue::get), Some(json.get()));
        assert_eq!(text(&json, "/n").as_deref(), Some("17"));
        assert_eq!(text(&json, "/a"), None);
        let large: Box<RawValue> = serde_json::from_str(r#"{"n":123456789012345678901234567890}"#).unwrap();
        assert_eq!(text(&large, "/n").as_deref(), Some("123456789012345678901234567890"));
    }
}
