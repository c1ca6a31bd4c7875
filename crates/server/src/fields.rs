//! Naming fields for people: JSON pointers, near misses, and a decoder's words in plain English.

use serde_path_to_error::{Path, Segment};

/// The RFC 6901 pointer of a decoder's path.
pub(crate) fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&escape(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// A name as one token of a pointer.
pub(crate) fn escape(name: &str) -> String {
    let cut: String = name.chars().take(100).collect();
    cut.replace('~', "~0").replace('/', "~1")
}

/// The known name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A long name is no typing mistake, and the distance takes time that grows with its square.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The decoder speaks of its own types; callers speak of JSON.
pub(crate) fn plain(message: &str) -> String {
    const WORDS: &[(&str, &str)] = &[
        ("u8", "an integer of at least 0"),
        ("u16", "an integer of at least 0"),
        ("u32", "an integer of at least 0"),
        ("u64", "an integer of at least 0"),
        ("usize", "an integer of at least 0"),
        ("i32", "an integer"),
        ("i64", "an integer"),
        ("f64", "a number"),
        ("a string", "text"),
        ("a boolean", "true or false"),
        ("a sequence", "an array"),
        ("a map", "an object"),
    ];
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let found = found.replace("invalid type: ", "").replace("invalid value: ", "");
    let found = found.replace("sequence", "an array").replace("map", "an object").replace("boolean ", "");
    let word = WORDS.iter().find(|(from, _)| *from == expected).map(|(_, to)| *to);
    let expected = match word {
        Some(word) => word,
        None if expected.starts_with("struct ") => "an object",
        None => expected,
    };
    format!("expected {expected}, found {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_named_and_far_ones_are_not() {
        let known = ["engineType", "engine", "priority", "timeout", "totalTimeout"];
        for (name, meant) in [
            ("enginetype", Some("engineType")),
            ("engine_type", Some("engineType")),
            ("prioritty", Some("priority")),
            ("Timeout", Some("timeout")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), meant, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), known.into_iter()), None);
    }
}
