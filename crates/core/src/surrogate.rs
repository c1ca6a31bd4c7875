//! Escapes in JSON that stand for no character: half of a surrogate pair. The grammar of JSON lets them pass, and no text in
//! UTF-8 can hold them, so each reader makes something else of them.

use std::fmt;

/// Half of a surrogate pair without the other half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoneSurrogate {
    /// Where its backslash is, in bytes from the beginning.
    pub at: usize,
    /// As it is written.
    pub escape: String,
}

impl fmt::Display for LoneSurrogate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the escape {} at byte {} is half of a surrogate pair and stands for no character; write both halves, or leave it out",
            self.escape, self.at
        )
    }
}

/// The first in a JSON text.
#[must_use]
pub fn lone_surrogate(json: &[u8]) -> Option<LoneSurrogate> {
    let mut at = 0;
    // Outside of strings there is no backslash, so strings need not be told from the rest.
    while let Some(skipped) = json.get(at..)?.iter().position(|byte| *byte == b'\\') {
        at += skipped;
        at += match (unit(json, at), unit(json, at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                let escape = String::from_utf8_lossy(&json[at..at + 6]).into_owned();
                return Some(LoneSurrogate { at, escape });
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
    }
    None
}

/// The code unit of a `\uXXXX` that begins there.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_found_and_pairs_are_not() {
        for (text, found) in [
            (r#""\ud800""#, Some((1, r"\ud800"))),
            (r#"{"a":"x\uDFFF"}"#, Some((7, r"\uDFFF"))),
            (r#"{"\ud83d":1}"#, Some((2, r"\ud83d"))),
            (r#""\ud83d\ud83d\ude00""#, Some((1, r"\ud83d"))),
            (r#""\ud83d\ude00\ude00""#, Some((13, r"\ude00"))),
            (r#""\ud83d\n""#, Some((1, r"\ud83d"))),
            (r#""\ud83d\ude00""#, None),
            (r#""\\ud800""#, None),
            (r#""\\\\ud800 \u0041 \" \/""#, None),
            (r#""\ud80""#, None),
            (r#""\u+800""#, None),
            (r#""\"#, None),
            ("", None),
        ] {
            let wanted = found.map(|(at, escape)| LoneSurrogate { at, escape: escape.to_owned() });
            assert_eq!(lone_surrogate(text.as_bytes()), wanted, "{text}");
        }
    }
}
