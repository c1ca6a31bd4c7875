//! Sealing: what may be compressed, then encrypted, before it reaches a store.
//!
//! Payloads are sealed with data keys ([`record`]), the data keys with the seal key ([`ring`]), and the seal key comes from
//! outside ([`source`]). From the ring come the keyed hashes, too, that let ids and requests be compared without being
//! stored.

mod record;
mod ring;
mod source;

pub(crate) use record::{Head, is_manifest};
pub(crate) use ring::{Ring, needs};
pub use source::SealKeySource;

use crate::settings::SealSettings;
use arc_swap::ArcSwap;
use aws_lc_rs::{digest, hmac, rand};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_store::Sealed;
use record::DataKey;
use secrecy::{ExposeSecret, SecretBox};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What a sealed payload is bound to beside its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Input,
    Output,
    Logs,
    Failure,
    /// A fact an adapter keeps; it belongs to no execution.
    Fact,
    /// A part of a result that lies in a blob: of which one, and the how many-th.
    Frame([u8; BLOB_NAME], u32),
    /// What stands in the place of such a result and tells where it lies.
    Manifest,
}

/// Bytes of the name of a blob.
pub(crate) const BLOB_NAME: usize = 16;

impl Column {
    /// Adds what a record is bound to; a number never changes its meaning.
    fn bind(self, bound: &mut Vec<u8>) {
        bound.push(match self {
            Column::Input => 1,
            Column::Output => 2,
            Column::Logs => 3,
            Column::Failure => 4,
            Column::Fact => 5,
            Column::Frame(..) => 6,
            Column::Manifest => 7,
        });
        if let Column::Frame(blob, index) = self {
            bound.extend_from_slice(&blob);
            bound.extend_from_slice(&index.to_be_bytes());
        }
    }
}

impl From<Part> for Column {
    fn from(part: Part) -> Column {
        match part {
            Part::Input => Column::Input,
            Part::Output => Column::Output,
            Part::Logs => Column::Logs,
        }
    }
}

/// The name of a key, safe to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyId(pub(crate) [u8; 4]);

impl KeyId {
    /// What stands for a key where there is none.
    const NONE: KeyId = KeyId([0; 4]);

    pub(crate) fn parse(text: &str) -> Option<KeyId> {
        unhex(text).and_then(|bytes| bytes.try_into().ok()).map(KeyId)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The bytes of a key. They are wiped when they are no longer needed, and nothing prints them.
#[derive(Clone)]
pub(crate) struct Secret(Arc<SecretBox<[u8; 32]>>);

impl Secret {
    fn new(bytes: [u8; 32]) -> Secret {
        Secret(Arc::new(SecretBox::new(Box::new(bytes))))
    }

    fn bytes(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}

/// As hexadecimal digits; only a ring that is about to be sealed is written.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(self.bytes()))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        let bytes = unhex(&String::deserialize(from)?).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Secret::new).ok_or_else(|| D::Error::custom("no secret"))
    }
}

/// Why something sealed does not open. The texts name keys, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("it was sealed with data key {0}, which the store's key ring does not have")]
    MissingKey(KeyId),
    #[error("it was sealed with data key {0}, and was tampered with or damaged since")]
    Damaged(KeyId),
    #[error("it is not encrypted, though everything in this store is")]
    Bare,
    #[error(
        "it is no sealed payload of a format that this program knows; it is damaged, or of a newer program"
    )]
    Unknown,
    #[error("it is larger than {0} bytes when opened")]
    TooLarge(usize),
    #[error("the store's key ring needs seal key {0}, which is not at hand")]
    MissingSealKey(KeyId),
    #[error("the store's key ring was tampered with or damaged")]
    RingDamaged,
    #[error("the store's key ring is not there")]
    NoRing,
    #[error("{place}, where the seal key comes from, cannot be used: {why}")]
    Source { place: String, why: String },
}

impl SealError {
    /// The stable code of this error.
    pub(crate) fn code(&self) -> Code {
        match self {
            SealError::MissingKey(_) | SealError::MissingSealKey(_) => Code::KeyMissing,
            SealError::Source { .. } => Code::KeyUnusable,
            _ => Code::PayloadDamaged,
        }
    }

    pub(crate) fn public(&self, what: &str) -> ApiError {
        ApiError::new(self.code(), format!("{what} cannot be opened: {self}"))
    }
}

/// The key that seals the key ring, and nothing else.
pub(crate) struct SealKey {
    pub(crate) id: KeyId,
    secret: Secret,
}

impl SealKey {
    pub(crate) fn new(secret: [u8; 32]) -> SealKey {
        let mut id = [0; 4];
        id.copy_from_slice(&digest::digest(&digest::SHA256, &secret).as_ref()[..4]);
        SealKey { id: KeyId(id), secret: Secret::new(secret) }
    }
}

/// A ring ready for use.
struct Live {
    ring: Ring,
    keys: BTreeMap<KeyId, DataKey>,
    current: KeyId,
}

impl Live {
    fn new(ring: Ring) -> Live {
        let made = |key: &ring::RingKey| (key.id, DataKey::new(key.id, key.secret.bytes()));
        let keys = ring.keys.iter().map(made).collect();
        let current = ring.current().map_or(KeyId::NONE, |key| key.id);
        Live { ring, keys, current }
    }
}

/// Seals and opens payloads, and hashes what is compared without being stored.
pub(crate) struct Sealer {
    live: ArcSwap<Live>,
    /// Records sealed and not yet noted in the ring.
    sealed: AtomicU64,
    /// The number of records not noted at which the current key is used up.
    sealed_max: AtomicU64,
    records_max: u64,
    /// Rings when the current key is used up.
    pub(crate) used_up: Notify,
    ids: hmac::Key,
    requests: hmac::Key,
    names: hmac::Key,
    compress: bool,
    encrypt: bool,
}

impl Sealer {
    pub(crate) fn new(ring: Ring, settings: &SealSettings) -> Sealer {
        let derive = |label: &str| {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, ring.names.bytes());
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, label.as_bytes()).as_ref())
        };
        Sealer {
            ids: derive("ids"),
            requests: derive("requests"),
            names: derive("names"),
            sealed: AtomicU64::new(0),
            sealed_max: AtomicU64::new(left(&ring, settings.data_key_records)),
            records_max: settings.data_key_records,
            used_up: Notify::new(),
            live: ArcSwap::from_pointee(Live::new(ring)),
            compress: settings.compress,
            encrypt: settings.encrypt,
        }
    }

    /// Goes on with another state of the same ring.
    pub(crate) fn take_up(&self, ring: Ring) {
        self.sealed_max.store(left(&ring, self.records_max), Ordering::Relaxed);
        self.live.store(Arc::new(Live::new(ring)));
    }

    /// Records sealed and not yet noted in the ring.
    pub(crate) fn counted(&self) -> u64 {
        self.sealed.load(Ordering::Relaxed)
    }

    /// So many of them are noted now.
    pub(crate) fn noted(&self, records: u64) {
        self.sealed.fetch_sub(records, Ordering::Relaxed);
    }

    /// The key that seals.
    pub(crate) fn current(&self) -> KeyId {
        self.live.load().current
    }

    /// The ring in use.
    pub(crate) fn ring(&self) -> Ring {
        self.live.load().ring.clone()
    }

    pub(crate) fn seal(&self, row: Key, column: Column, plain: &[u8]) -> Sealed {
        self.seal_with(None, row, column, plain)
    }

    /// Seals with this data key while the ring has it, so that what belongs together needs the same one; else with the current
    /// key.
    pub(crate) fn seal_with(&self, key: Option<KeyId>, row: Key, column: Column, plain: &[u8]) -> Sealed {
        if !self.encrypt {
            return record::plain(column, plain, self.compress);
        }
        let live = self.live.load();
        let named = key.and_then(|id| live.keys.get(&id));
        let key = named.or_else(|| live.keys.get(&live.current)).expect("a ring has a current key");
        let mut nonce = [0; record::NONCE];
        rand::fill(&mut nonce).expect("the system gives random numbers");
        if self.sealed.fetch_add(1, Ordering::Relaxed) + 1 == self.sealed_max.load(Ordering::Relaxed) {
            self.used_up.notify_one();
        }
        record::seal(key, row, column, plain, self.compress, nonce)
    }

    /// The payload again; refuses to unpack beyond `bytes_max`.
    pub(crate) fn open(
        &self,
        row: Key,
        column: Column,
        sealed: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, SealError> {
        let live = self.live.load();
        if Head::read(sealed) == Head::Plain && !live.ring.plain {
            return Err(SealError::Bare);
        }
        record::open(|id| live.keys.get(&id), row, column, sealed, bytes_max)
    }

    /// The keyed hash inside a server-made id.
    pub(crate) fn id_tag(&self, row: Key) -> u64 {
        let tag = hmac::sign(&self.ids, &row.0.to_be_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_be_bytes(first) >> (64 - enginehouse_core::id::TAG_BITS)
    }

    /// The keyed hash by which equal requests are known.
    pub(crate) fn request_hash(&self, canonical: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.requests, canonical).as_ref());
        hash
    }

    /// A name that is compared but never shown: concurrency keys, idempotency keys, secrets of API keys.
    pub(crate) fn name_hash(&self, name: &str) -> String {
        hex(&hmac::sign(&self.names, name.as_bytes()).as_ref()[..16])
    }
}

/// How many records the current key of a ring may still seal.
fn left(ring: &Ring, records_max: u64) -> u64 {
    records_max.saturating_sub(ring.current().map_or(0, |key| key.records)).max(1)
}

pub(crate) fn fresh_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    rand::fill(&mut secret).expect("the system gives random numbers");
    secret
}

fn fresh_id() -> KeyId {
    let mut id = [0; 4];
    rand::fill(&mut id).expect("the system gives random numbers");
    KeyId(id)
}

/// The bytes of what [`hex`] wrote.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
