//! Seals and opens with the ring that is in use, and hashes with keys that come from it.

use super::column::Column;
use super::error::SealError;
use super::hex::hex;
use super::keys::KeyId;
use super::record::{self, DataKey, Head};
use super::ring::{self, Ring};
use super::source::SealSettings;
use arc_swap::ArcSwap;
use aws_lc_rs::{hmac, rand};
use enginehouse_core::id::Key;
use enginehouse_store::Sealed;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

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

    /// This many of them are noted now.
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
