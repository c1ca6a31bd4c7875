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

/// An id as callers see it: 1 to 128 of `A-Z a-z 0-9 . _ : -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(String);

impl ExecutionId {
    pub const MAX_LEN: usize = 128;

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
        let valid = (1..=Self::MAX_LEN).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        if valid { Ok(ExecutionId(text)) } else { Err(InvalidId) }
    }
}

/// The text is not an execution id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 128 of the characters A-Z a-z 0-9 . _ : - and begins with a letter or digit")]
pub struct InvalidId;

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
        for good in ["a", "0", "order-17:2026.11_x", &"a".repeat(128)] {
            assert!(ExecutionId::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "a/b", "a b", "ü", "a\n", &"a".repeat(129)] {
            assert!(ExecutionId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
