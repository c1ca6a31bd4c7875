//! The key ring: the data keys of a store, themselves sealed with the seal key and kept in the store.
//!
//! The ring is sealed as a whole, so that no key of it can be exchanged, taken out or put back by itself. Its document
//! tells only which seal key opens it.

use super::error::SealError;
use super::hex::{hex, unhex};
use super::keys::{KeyId, SealKey, Secret, fresh_id, fresh_secret};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use enginehouse_core::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Data keys of one ring. With one more each quarter of a year it takes a while to get there, and rotation says when.
pub(crate) const DATA_KEYS_MAX: usize = 64;
const VERSION: u8 = 1;
const NONCE: usize = 12;
/// What the key that seals the ring is expanded with.
const RING: &[u8] = b"enginehouse key ring v1";

/// One data key with what is known of it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RingKey {
    #[serde(with = "hex_id")]
    pub(crate) id: KeyId,
    pub(super) secret: Secret,
    pub(crate) made: Time,
    /// Since when nothing new is sealed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retired: Option<Time>,
    /// How many records were sealed with it, as far as that was noted.
    pub(crate) records: u64,
}

/// Everything a store's payloads and hashes need.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Ring {
    /// What ids, requests and names are hashed with. It stays for the life of the store.
    pub(super) names: Secret,
    /// The oldest first; the last is the one that seals.
    pub(crate) keys: Vec<RingKey>,
    /// Records may lie in the store that are not encrypted.
    pub(crate) plain: bool,
    /// When the ring was sealed with the seal key that it needs now.
    pub(crate) wrapped: Time,
}

impl Ring {
    /// The ring of a store that holds nothing yet.
    pub(crate) fn new(now: Time) -> Ring {
        let names = Secret::new(fresh_secret());
        let mut ring = Ring { names, keys: Vec::new(), plain: false, wrapped: now };
        ring.rotate(now);
        ring
    }

    /// The ring of a store that was sealed with one key alone, for payloads and hashes alike.
    pub(crate) fn around(old: &SealKey, now: Time) -> Ring {
        let key = RingKey { id: old.id, secret: old.secret.clone(), made: now, retired: None, records: 0 };
        let mut ring = Ring { names: old.secret.clone(), keys: vec![key], plain: false, wrapped: now };
        ring.rotate(now);
        ring
    }

    /// From here on a new key seals. False when the ring is full.
    pub(crate) fn rotate(&mut self, now: Time) -> bool {
        if self.is_full() {
            return false;
        }
        if let Some(last) = self.keys.last_mut() {
            last.retired = Some(now);
        }
        let id = loop {
            let id = fresh_id();
            if id != KeyId::NONE && self.key(id).is_none() {
                break id;
            }
        };
        let secret = Secret::new(fresh_secret());
        self.keys.push(RingKey { id, secret, made: now, retired: None, records: 0 });
        true
    }

    /// Drops keys that sealed nothing since `before` and that nothing needs; how many.
    pub(crate) fn forget(&mut self, before: Time, needed: impl Fn(KeyId) -> bool) -> usize {
        let there = self.keys.len();
        self.keys.retain(|key| key.retired.is_none_or(|retired| retired >= before) || needed(key.id));
        there - self.keys.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.keys.len() >= DATA_KEYS_MAX
    }

    /// The key that seals.
    pub(crate) fn current(&self) -> Option<&RingKey> {
        self.keys.last()
    }

    pub(crate) fn key(&self, id: KeyId) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// As it is kept in the store.
    pub(crate) fn sealed(&self, with: &SealKey) -> Value {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).expect("the system gives random numbers");
        let mut bytes = serde_json::to_vec(self).expect("a ring is plain data");
        let bound = Aad::from(additional(with.id));
        wrapping(with)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut bytes)
            .expect("a ring is far below the cipher's limit");
        let sealed = [nonce.as_slice(), &bytes].concat();
        bytes.fill(0);
        json!({"version": VERSION, "sealKey": with.id.to_string(), "sealed": hex(&sealed)})
    }

    /// The ring of a document; `keys` are the seal keys at hand.
    pub(crate) fn open(document: &Value, keys: &[SealKey]) -> Result<Ring, SealError> {
        if document.get("version").and_then(Value::as_u64) != Some(u64::from(VERSION)) {
            return Err(SealError::Unknown);
        }
        let id = needs(document).ok_or(SealError::RingDamaged)?;
        let key = keys.iter().find(|key| key.id == id).ok_or(SealError::MissingSealKey(id))?;
        let sealed = document.get("sealed").and_then(Value::as_str).and_then(unhex);
        let sealed = sealed.filter(|sealed| sealed.len() > NONCE).ok_or(SealError::RingDamaged)?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed[..NONCE]).map_err(|_| SealError::RingDamaged)?;
        let mut bytes = sealed[NONCE..].to_vec();
        let opened = wrapping(key).open_in_place(nonce, Aad::from(additional(id)), &mut bytes);
        let opened = opened.map_err(|_| SealError::RingDamaged)?;
        let ring: Ring = serde_json::from_slice(opened).map_err(|_| SealError::RingDamaged)?;
        bytes.fill(0);
        if ring.keys.is_empty() || ring.keys.len() > DATA_KEYS_MAX {
            return Err(SealError::RingDamaged);
        }
        Ok(ring)
    }
}

/// The seal key that a ring's document needs.
pub(crate) fn needs(document: &Value) -> Option<KeyId> {
    document.get("sealKey").and_then(Value::as_str).and_then(KeyId::parse)
}

fn wrapping(key: &SealKey) -> LessSafeKey {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"enginehouse seal key");
    let prk = salt.extract(key.secret.bytes());
    let info = [RING];
    let key = prk.expand(&info, &AES_256_GCM).expect("one block is within the limit of HKDF");
    LessSafeKey::new(UnboundKey::from(key))
}

fn additional(seal_key: KeyId) -> Vec<u8> {
    [RING, &[VERSION], &seal_key.0].concat()
}

mod hex_id {
    use super::KeyId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &KeyId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KeyId, D::Error> {
        let text = String::deserialize(from)?;
        KeyId::parse(&text).ok_or_else(|| D::Error::custom("no key id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal_key(byte: u8) -> SealKey {
        SealKey::new([byte; 32])
    }

    #[test]
    fn a_ring_comes_back_and_only_with_its_seal_key() {
        let mut ring = Ring::new(Time(5));
        assert!(ring.rotate(Time(9)));
        let document = ring.sealed(&seal_key(7));
        let text = document.to_string();
        for key in &ring.keys {
            assert!(!text.contains(&hex(key.secret.bytes())));
        }
        let opened = Ring::open(&document, &[seal_key(8), seal_key(7)]).unwrap();
        let ids = |ring: &Ring| ring.keys.iter().map(|k| (k.id, k.made, k.retired)).collect::<Vec<_>>();
        assert_eq!(ids(&opened), ids(&ring));
        assert_eq!(opened.names.bytes(), ring.names.bytes());
        assert_eq!(opened.keys[0].retired, Some(Time(9)));
        let missing = Ring::open(&document, &[seal_key(8)]).err();
        assert_eq!(missing, Some(SealError::MissingSealKey(seal_key(7).id)));
    }

    #[test]
    fn any_changed_part_of_a_ring_is_refused() {
        let document = Ring::new(Time(5)).sealed(&seal_key(7));
        let keys = [seal_key(7), seal_key(8)];
        let sealed = document["sealed"].as_str().unwrap();
        for at in [0, NONCE * 2, sealed.len() / 2, sealed.len() - 1] {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let mut bad = document.clone();
            bad["sealed"] = String::from_utf8(bytes).unwrap().into();
            assert_eq!(Ring::open(&bad, &keys).err(), Some(SealError::RingDamaged), "digit {at}");
        }
        let mut bad = document.clone();
        bad["sealKey"] = seal_key(8).id.to_string().into();
        assert_eq!(Ring::open(&bad, &keys).err(), Some(SealError::RingDamaged));
        bad["version"] = 2.into();
        assert_eq!(Ring::open(&bad, &keys).err(), Some(SealError::Unknown));
    }

    #[test]
    fn a_key_is_forgotten_once_it_is_old_and_nothing_needs_it() {
        let mut ring = Ring::new(Time(0));
        for at in 1..=4 {
            ring.rotate(Time(at));
        }
        let ids: Vec<KeyId> = ring.keys.iter().map(|key| key.id).collect();
        // Retired at 1 to 4; the last one seals, needed or not.
        let table: [(i64, &[usize], &[usize]); 4] = [
            (0, &[], &[0, 1, 2, 3, 4]),
            (3, &[1], &[1, 2, 3, 4]),
            (9, &[0, 1, 2, 3], &[0, 1, 2, 3, 4]),
            (9, &[], &[4]),
        ];
        for (before, needed, kept) in table {
            let mut ring = ring.clone();
            let forgotten = ring.forget(Time(before), |id| needed.iter().any(|at| ids[*at] == id));
            let left: Vec<KeyId> = ring.keys.iter().map(|key| key.id).collect();
            let expected: Vec<KeyId> = kept.iter().map(|at| ids[*at]).collect();
            assert_eq!((left, forgotten), (expected, ids.len() - kept.len()), "{before} {needed:?}");
        }
    }

    #[test]
    fn a_ring_has_a_bound() {
        let mut ring = Ring::new(Time(0));
        let grown = (0..2 * DATA_KEYS_MAX).take_while(|_| ring.rotate(Time(1))).count();
        assert_eq!((grown + 1, ring.keys.len()), (DATA_KEYS_MAX, DATA_KEYS_MAX));
        let document = ring.sealed(&seal_key(7));
        assert_eq!(Ring::open(&document, &[seal_key(7)]).unwrap().keys.len(), DATA_KEYS_MAX);
    }
}
