//! Identifiers: the store's internal key, and the id callers see.
//!
//! A [`Key`] is 64 bits and ordered by time, so the newest rows lie at the right edge of every index. An id the
//! service makes itself is a UUIDv7 that *encodes* the key and a keyed hash of it: it needs no column and no index,
//! and it can be checked but not guessed. The hash is computed by the caller, who has the secret.

use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Keys count milliseconds from 2020-01-01T00:00:00Z; 41 bits last until 2089.
const KEY_EPOCH_MS: i64 = 1_577_836_800_000;
const NODE_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const SEQUENCE_MAX: u16 = (1 << SEQUENCE_BITS) - 1;
/// How many bits of the keyed hash a server-made id carries.
pub const TAG_BITS: u32 = 52;

/// The store's primary key: 41 bit milliseconds, 10 bit node, 12 bit sequence. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub i64);

impl Key {
    fn compose(at: Time, node: NodeId, sequence: u16) -> Key {
        let ms = (at.0 - KEY_EPOCH_MS).max(0);
        Key((ms << (NODE_BITS + SEQUENCE_BITS)) | (i64::from(node.0) << SEQUENCE_BITS) | i64::from(sequence))
    }

    /// The millisecond in which the key was made.
    #[must_use]
    pub fn time(self) -> Time {
        Time((self.0 >> (NODE_BITS + SEQUENCE_BITS)) + KEY_EPOCH_MS)
    }

    fn node(self) -> u16 {
        u16::try_from((self.0 >> SEQUENCE_BITS) & ((1 << NODE_BITS) - 1)).unwrap_or(0)
    }

    fn sequence(self) -> u16 {
        u16::try_from(self.0 & i64::from(SEQUENCE_MAX)).unwrap_or(0)
    }

    /// The UUIDv7 that stands for this key; `tag` is the keyed hash of the key, of which [`TAG_BITS`] bits are used.
    #[must_use]
    pub fn to_uuid(self, tag: u64) -> String {
        let ms = u128::from(u64::try_from(self.time().0).unwrap_or(0));
        let tag = u128::from(tag & ((1 << TAG_BITS) - 1));
        let bits = (ms << 80)
            | (0x7 << 76)
            | (u128::from(self.sequence()) << 64)
            | (0b10 << 62)
            | (u128::from(self.node()) << TAG_BITS)
            | tag;
        uuid::Uuid::from_u128(bits).to_string()
    }

    /// The key and the tag of a server-made id; `None` when the text is not of that form. The caller compares the tag.
    #[must_use]
    pub fn from_uuid(text: &str) -> Option<(Key, u64)> {
        let shape = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            });
        if !shape {
            return None;
        }
        let bits = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
        if (bits >> 76) & 0xf != 0x7 || (bits >> 62) & 0b11 != 0b10 {
            return None;
        }
        let ms = i64::try_from(bits >> 80).ok()?;
        let sequence = u16::try_from((bits >> 64) & u128::from(SEQUENCE_MAX)).ok()?;
        let node = u16::try_from((bits >> TAG_BITS) & ((1 << NODE_BITS) - 1)).ok()?;
        let tag = u64::try_from(bits & ((1 << TAG_BITS) - 1)).ok()?;
        (ms >= KEY_EPOCH_MS).then(|| (Key::compose(Time(ms), NodeId(node), sequence), tag))
    }
}

/// One Enginehouse process among those that share a store: 0 to 1023.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

/// The right of one worker incarnation to hold leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub i64);

/// The integer that proves a lease is still the current one; it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

/// Makes keys that only grow, at most 4,096 a millisecond; beyond that it runs ahead of the clock instead of repeating.
#[derive(Debug)]
pub struct KeyMaker {
    node: NodeId,
    last: Time,
    sequence: u16,
}

impl KeyMaker {
    #[must_use]
    pub fn new(node: NodeId) -> KeyMaker {
        KeyMaker { node, last: Time(KEY_EPOCH_MS), sequence: 0 }
    }

    /// A maker whose keys lie behind every one that an earlier maker of the same node can have made up to `now`.
    #[must_use]
    pub fn after(node: NodeId, now: Time) -> KeyMaker {
        KeyMaker { node, last: now, sequence: SEQUENCE_MAX }
    }

    /// The next key; greater than every earlier one of this maker even if `now` steps back.
    pub fn next(&mut self, now: Time) -> Key {
        if now > self.last {
            self.last = now;
            self.sequence = 0;
        } else if self.sequence == SEQUENCE_MAX {
            self.last = self.last.plus(1 as Millis);
            self.sequence = 0;
        } else {
            self.sequence += 1;
        }
        Key::compose(self.last, self.node, self.sequence)
    }
}

/// An id as callers see it: 1 to 256 bytes of printable text, compared byte by byte and never normalised.
///
/// It may hold anything but control characters and line breaks, inner spaces and slashes included, so it is one
/// [`path_segment`] in a URL and one [`engine_key`] in a header. `.` and `..` are refused, as a whole and as a part between
/// slashes: in a path they mean a place, and libraries and proxies take them for one even when they are percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(String);

impl ExecutionId {
    pub const BYTES_MAX: usize = 256;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> String {
        id.0
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        // A line or paragraph separator breaks a line as a control character does.
        let unprintable = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        let valid = (1..=Self::BYTES_MAX).contains(&text.len())
            && !text.chars().any(unprintable)
            && text.trim() == text
            && !text.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
        if valid { Ok(ExecutionId(text)) } else { Err(InvalidId) }
    }
}

/// The text is not an execution id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an id is 1 to 256 bytes of text without control characters, line breaks or surrounding spaces, and no part of it between \
     slashes is . or .."
)]
pub struct InvalidId;

/// The text as one segment of a URL's path.
#[must_use]
pub fn path_segment(text: &str) -> String {
    percent_encoded(text, |b| b.is_ascii_alphanumeric() || b"-._~:".contains(&b))
}

/// Text that a header can carry, no two texts alike: all but visible ASCII and spaces is percent-encoded, and `%` itself.
#[must_use]
pub fn header_text(text: &str) -> String {
    percent_encoded(text, |b| matches!(b, b' '..=b'~') && b != b'%')
}

/// The key by which an engine knows one run of an execution, `{id}.{run}`, in the form of [`header_text`].
#[must_use]
pub fn engine_key(id: &str, run: u32) -> String {
    format!("{}.{run}", header_text(id))
}

fn percent_encoded(text: &str, kept: impl Fn(u8) -> bool) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if kept(byte) {
            encoded.push(char::from(byte));
        } else {
            let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
            encoded.extend(['%', char::from(high), char::from(low)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_server_made_id_gives_its_key_and_tag_back(ms in 0i64..2_000_000_000_000, node in 0u16..1024, tag in 0u64..(1 << TAG_BITS)) {
            let mut maker = KeyMaker::new(NodeId(node));
            let key = maker.next(Time(KEY_EPOCH_MS + ms));
            let uuid = key.to_uuid(tag);
            prop_assert_eq!(Key::from_uuid(&uuid), Some((key, tag)));
        }

        #[test]
        fn keys_only_grow_even_when_the_clock_steps_back(steps in prop::collection::vec(-50i64..50, 1..200)) {
            let mut maker = KeyMaker::new(NodeId(3));
            let (mut now, mut last) = (Time(KEY_EPOCH_MS + 1_000_000), Key(-1));
            for step in steps {
                now = Time(now.0 + step);
                let key = maker.next(now);
                prop_assert!(key > last);
                last = key;
            }
        }
    }

    #[test]
    fn ids_are_checked() {
        let long = "a".repeat(256);
        let wide = "ü".repeat(128);
        for good in [
            "a",
            "0",
            "order-17:2026.11_x",
            &long,
            &wide,
            "throughput-Low Load-0",
            "-a",
            "a/b",
            "/",
            "a/..b/c",
            "...",
            "%2e",
            "größe",
            "🧪 7",
            "a\u{202e}b",
            "a\u{200b}",
            "a\"b'c\\d",
            "?x=1#y",
            "u\u{308}",
        ] {
            assert!(ExecutionId::try_from(good.to_owned()).is_ok(), "{good}");
        }
        let (too_long, too_wide) = ("a".repeat(257), "ü".repeat(129));
        for bad in [
            "",
            " ",
            ".",
            "..",
            "../../etc/passwd",
            "a/../b",
            "a/.",
            "./a",
            "..\\a",
            "a\n",
            "\ta",
            " a",
            "a ",
            "a\u{a0}",
            "\u{3000}a",
            "a\0b",
            "a\u{7f}b",
            "a\u{85}b",
            "a\u{2028}b",
            "a\u{1b}[2J",
            &too_long,
            &too_wide,
        ] {
            assert!(ExecutionId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_one_segment_and_one_key() {
        for (id, segment, key) in [
            ("order-17:2026.11_x", "order-17:2026.11_x", "order-17:2026.11_x.3"),
            ("throughput-Low Load-0", "throughput-Low%20Load-0", "throughput-Low Load-0.3"),
            ("a/b?c#d", "a%2Fb%3Fc%23d", "a/b?c#d.3"),
            ("ü", "%C3%BC", "%C3%BC.3"),
            ("%C3%BC", "%25C3%25BC", "%25C3%25BC.3"),
            ("a\u{202e}", "a%E2%80%AE", "a%E2%80%AE.3"),
        ] {
            assert_eq!((path_segment(id).as_str(), engine_key(id, 3).as_str()), (segment, key), "{id}");
        }
    }

    proptest! {
        #[test]
        fn a_header_text_gives_its_text_back(text in "\\PC{0,40}|[ -~]{0,40}") {
            let encoded = header_text(&text);
            prop_assert!(encoded.bytes().all(|b| matches!(b, b' '..=b'~')));
            let mut bytes = Vec::new();
            let mut rest = encoded.as_bytes();
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                if *first == b'%' {
                    let digits = std::str::from_utf8(&rest[..2]).unwrap();
                    bytes.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = &rest[2..];
                } else {
                    bytes.push(*first);
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }
    }
}
