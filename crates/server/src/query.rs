//! Query parameters, as strict as bodies: unknown and repeated names, and bytes that are not UTF-8, are errors.

use crate::fields::nearest;
use enginehouse_api::{ApiError, Code};
use serde_json::Value;

/// A query parameter a route takes.
#[derive(Clone, Copy)]
pub(crate) struct QueryParam {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// Its JSON schema.
    pub(crate) schema: fn() -> Value,
    /// It may be given several times; a comma also separates values.
    pub(crate) list: bool,
}

/// The parameters of one request, each known to its route.
#[derive(Debug, Default)]
pub(crate) struct Query {
    given: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads what follows the `?`.
    pub(crate) fn read(text: Option<&str>, known: &'static [QueryParam]) -> Result<Query, ApiError> {
        let mut query = Query::default();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).ok_or_else(|| wrong("", "the name of a parameter is not UTF-8"))?;
            let Some(param) = known.iter().find(|param| param.name == name) else {
                return Err(unknown(&name, known));
            };
            let value = decoded(value).ok_or_else(|| wrong(param.name, "is not UTF-8"))?;
            if param.list {
                query.given.extend(value.split(',').map(|one| (param.name, one.to_owned())));
            } else if query.one(param.name).is_some() {
                return Err(wrong(param.name, "is given more than once"));
            } else {
                query.given.push((param.name, value));
            }
        }
        Ok(query)
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that may be given several times.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// A parameter's value by its type's own reading.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        self.one(name)
            .map(|text| text.parse().map_err(|error: T::Err| wrong(name, error.to_string())))
            .transpose()
    }
}

/// One parameter has a value that cannot be taken.
pub(crate) fn wrong(name: &str, detail: impl Into<String>) -> ApiError {
    ApiError::field(Code::InvalidField, format!("?{name}"), detail)
}

fn unknown(name: &str, known: &'static [QueryParam]) -> ApiError {
    let hint = match nearest(name, known.iter().map(|param| param.name)) {
        Some(meant) => format!("; did you mean {meant}?"),
        None => String::new(),
    };
    let shown: String = name.chars().take(100).collect();
    ApiError::field(Code::UnknownField, format!("?{shown}"), format!("is not a known parameter{hint}"))
}

/// Undoes `application/x-www-form-urlencoded`; `None` when the result is not UTF-8. A `%` without two hexadecimal
/// digits stands for itself, as browsers have it.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'+' => out.push(b' '),
            b'%' => {
                let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
                match (hex(at + 1), hex(at + 2)) {
                    (Some(high), Some(low)) => {
                        out.push((high * 16 + low) as u8);
                        at += 2;
                    }
                    _ => out.push(b'%'),
                }
            }
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KNOWN: &[QueryParam] = &[
        QueryParam { name: "limit", description: "", schema: || json!({}), list: false },
        QueryParam { name: "status", description: "", schema: || json!({}), list: true },
    ];

    #[test]
    fn values_are_decoded_and_lists_split() {
        let query = Query::read(Some("status=a,b&limit=%31+0&&status=c%2Cd"), KNOWN).expect("valid");
        assert_eq!(query.all("status").collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(query.one("limit"), Some("1 0"));
        assert!(query.parsed::<usize>("limit").is_err());
        assert_eq!(Query::read(None, KNOWN).expect("valid").one("limit"), None);
    }

    #[test]
    fn what_is_not_known_or_twice_or_not_text_is_refused() {
        for (text, code, pointer) in [
            ("limt=1", Code::UnknownField, "?limt"),
            ("=1", Code::UnknownField, "?"),
            ("limit=1&limit=2", Code::InvalidField, "?limit"),
            ("limit=%ff", Code::InvalidField, "?limit"),
            ("%ff=1", Code::InvalidField, "?"),
        ] {
            let error = Query::read(Some(text), KNOWN).expect_err(text);
            assert_eq!((error.code, error.errors[0].pointer.as_str()), (code, pointer), "{text}");
        }
        assert!(
            Query::read(Some("limt=1"), KNOWN).expect_err("unknown").detail.contains("did you mean limit?")
        );
    }
}
