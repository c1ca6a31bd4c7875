//! The key ring of a store, opened before anything else: by the seal keys at hand, or refused with what is missing.

use super::error::SealError;
use super::keys::{KeyId, SealKey};
use super::record::Head;
use super::ring::{Ring, needs};
use super::sealer::Sealer;
use super::source::SealSettings;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::id::NodeId;
use enginehouse_core::time::Time;
use enginehouse_store::{Batch, Doc, DocKind, Store, StoreError, Write, WriteOutcome};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ring's document.
pub(crate) const RING: &str = "seal-ring";

/// What stands where a store without a ring names its one key, so that a program that knows no ring refuses the store.
const BEFORE_RINGS: &str = "seal-key";

const HAS_RING: &str = "ring";

/// How often a change of the ring is tried when other nodes change it, too.
pub(crate) const CHANGES_MAX: usize = 5;

/// What is stored, counted by the data key that it needs.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    pub(crate) stored: BTreeMap<KeyId, u64>,
    /// Not encrypted.
    pub(crate) plain: u64,
    /// Of no format that is known.
    pub(crate) unknown: u64,
}

impl Needs {
    pub(crate) fn count(&mut self, record: &[u8], records: u64) {
        match Head::read(record) {
            Head::Sealed { key, .. } => *self.stored.entry(key).or_default() += records,
            Head::Plain => self.plain += records,
            Head::Unknown => self.unknown += records,
        }
    }
}

/// The seal keys at hand.
pub(crate) struct SealKeys {
    pub(crate) settings: SealSettings,
    pub(crate) keys: Mutex<Arc<Vec<SealKey>>>,
}

impl SealKeys {
    /// The ids of the keys at hand, the one that seals first.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.keys.lock().iter().map(|key| key.id.to_string()).collect()
    }
}

/// Opens the ring of a store, makes one where there is none, and seals it again when the first seal key is another.
///
/// # Errors
/// `key_unusable` when no seal key can be had, `key_missing` with the key's id when another is needed, `payload_damaged`
/// when the ring was tampered with.
pub(crate) async fn unlock(
    store: &dyn Store,
    node: NodeId,
    seal: &SealSettings,
) -> Result<(Sealer, SealKeys), ApiError> {
    let keys = read(seal).await.map_err(|e| refusal(&e, seal, &[]))?;
    let unavailable = |error: StoreError| ApiError::new(Code::StoreUnavailable, error.to_string());
    for _ in 0..CHANGES_MAX {
        let docs = store.docs(DocKind::Setting).await.map_err(unavailable)?;
        let used = store.totals().await.map_err(unavailable)?.accepted > 0;
        let durable = store.features().durable;
        let found = find(&docs, &keys, used, durable, store.now()).map_err(|e| refusal(&e, seal, &keys))?;
        let (mut ring, mut changed) = found;
        if !seal.encrypt && !ring.plain {
            (ring.plain, changed) = (true, true);
        }
        if !changed || keep_first(store, node, &docs, &ring, &keys[0]).await.map_err(unavailable)? {
            let sealer = Sealer::new(ring, seal);
            return Ok((sealer, SealKeys { settings: seal.clone(), keys: Mutex::new(Arc::new(keys)) }));
        }
    }
    Err(unavailable(StoreError::Unavailable("the key ring kept changing".to_owned())))
}

/// The id of the seal key that opens a store, by its documents of the kind `Setting`; `None`: none is needed yet.
#[must_use]
pub fn needed_seal_key(docs: &[Doc]) -> Option<String> {
    let body = |id: &str| docs.iter().find(|doc| doc.id == id).map(|doc| &doc.body);
    let before_rings = || body(BEFORE_RINGS)?.as_str().filter(|id| *id != HAS_RING).and_then(KeyId::parse);
    body(RING).and_then(needs).or_else(before_rings).map(|id| id.to_string())
}

/// A command may take its time, so it is waited for on a thread of its own.
pub(crate) async fn read(seal: &SealSettings) -> Result<Vec<SealKey>, SealError> {
    if !seal.source.is_slow() {
        return seal.source.read();
    }
    let source = seal.source.clone();
    let gone = |place: String| SealError::Source { place, why: "the reading thread ended early".to_owned() };
    let place = source.to_string();
    tokio::task::spawn_blocking(move || source.read()).await.map_err(|_| gone(place))?
}

/// The ring, and whether it is to be stored.
fn find(
    docs: &[Doc],
    keys: &[SealKey],
    used: bool,
    durable: bool,
    now: Time,
) -> Result<(Ring, bool), SealError> {
    let body = |id: &str| docs.iter().find(|doc| doc.id == id).map(|doc| &doc.body);
    if let Some(document) = body(RING) {
        return match Ring::open(document, keys) {
            Ok(ring) if needs(document) == Some(keys[0].id) => Ok((ring, false)),
            Ok(mut ring) => {
                ring.wrapped = now;
                Ok((ring, true))
            }
            // A store in memory may be left to a node with a key of its own, which cannot read what lies there.
            Err(SealError::MissingSealKey(_)) if !durable => Ok((Ring::new(now), false)),
            Err(error) => Err(error),
        };
    }
    match body(BEFORE_RINGS).and_then(|body| body.as_str()) {
        Some(HAS_RING) => Err(SealError::NoRing),
        Some(id) => {
            let id = KeyId::parse(id).ok_or(SealError::NoRing)?;
            let key = keys.iter().find(|key| key.id == id).ok_or(SealError::MissingSealKey(id))?;
            Ok((Ring::around(key, now), true))
        }
        None if used && durable => Err(SealError::NoRing),
        None => Ok((Ring::new(now), true)),
    }
}

/// Stores a ring before the committer runs; false when another node was faster.
async fn keep_first(
    store: &dyn Store,
    node: NodeId,
    docs: &[Doc],
    ring: &Ring,
    key: &SealKey,
) -> Result<bool, StoreError> {
    let write = |id: &str, body: serde_json::Value| {
        let rev = docs.iter().find(|doc| doc.id == id).map_or(0, |doc| doc.rev);
        Write::Keep { doc: Doc { kind: DocKind::Setting, id: id.to_owned(), rev, body }, rev }
    };
    let mut writes = vec![write(RING, ring.sealed(key))];
    if !docs.iter().any(|doc| doc.id == BEFORE_RINGS && doc.body == HAS_RING) {
        writes.push(write(BEFORE_RINGS, HAS_RING.into()));
    }
    let batch = Batch { node, scheduler_epoch: None, writes };
    let committed = store.commit(batch).await?;
    Ok(matches!(committed.outcomes.first(), Some(WriteOutcome::Applied)))
}

/// The error in words for anyone who starts the service.
pub(crate) fn refusal(error: &SealError, seal: &SealSettings, keys: &[SealKey]) -> ApiError {
    let at_hand = keys.iter().map(|key| key.id.to_string()).collect::<Vec<_>>().join(", ");
    let help = match error {
        SealError::MissingSealKey(id) => format!(
            "; {} holds {at_hand}. Put key {id} there, behind the one that is to seal, or restore a backup that was made \
             with a key you have",
            seal.source
        ),
        SealError::NoRing | SealError::RingDamaged => {
            "; restore a backup: without the ring nothing in the store can be read".to_owned()
        }
        _ => String::new(),
    };
    ApiError::new(error.code(), format!("{error}{help}"))
}

#[cfg(test)]
mod tests {
    use super::super::source::SealKeySource;
    use super::*;

    fn doc(id: &str, body: serde_json::Value) -> Doc {
        Doc { kind: DocKind::Setting, id: id.to_owned(), rev: 1, body }
    }

    #[test]
    fn each_state_of_a_store_finds_its_ring_or_says_what_is_missing() {
        let key = |byte: u8| SealKey::new([byte; 32]);
        let named = |byte: u8| serde_json::Value::from(key(byte).id.to_string());
        let ring = || doc(RING, Ring::new(Time(1)).sealed(&key(1)));
        let guard = || doc(BEFORE_RINGS, HAS_RING.into());
        let missing = SealError::MissingSealKey(key(1).id);
        // Documents; seal keys; whether there were executions; whether the store is durable; what comes of it: how many
        // data keys, and whether the ring is to be stored.
        type Expected = Result<(usize, bool), SealError>;
        type Row = (Vec<Doc>, Vec<SealKey>, bool, bool, Expected);
        let rows: [Row; 11] = [
            (vec![], vec![key(1)], false, true, Ok((1, true))),
            (vec![], vec![key(1)], true, true, Err(SealError::NoRing)),
            (vec![], vec![key(1)], true, false, Ok((1, true))),
            (vec![ring(), guard()], vec![key(1)], true, true, Ok((1, false))),
            (vec![ring(), guard()], vec![key(2), key(1)], true, true, Ok((1, true))),
            (vec![ring(), guard()], vec![key(2)], true, true, Err(missing.clone())),
            (vec![ring(), guard()], vec![key(2)], true, false, Ok((1, false))),
            (vec![guard()], vec![key(1)], false, true, Err(SealError::NoRing)),
            (vec![doc(BEFORE_RINGS, named(1))], vec![key(1)], true, true, Ok((2, true))),
            (vec![doc(BEFORE_RINGS, named(1))], vec![key(2), key(1)], true, true, Ok((2, true))),
            (vec![doc(BEFORE_RINGS, named(1))], vec![key(2)], true, true, Err(missing)),
        ];
        for (at, (docs, keys, used, durable, expected)) in rows.into_iter().enumerate() {
            let found = find(&docs, &keys, used, durable, Time(9));
            assert_eq!(found.map(|(ring, changed)| (ring.keys.len(), changed)), expected, "row {at}");
        }
    }

    #[test]
    fn a_refusal_names_keys_and_places_and_no_secret() {
        let seal =
            SealSettings { source: SealKeySource::Env("SEAL_KEY".to_owned()), ..SealSettings::default() };
        let keys = [SealKey::new([0x2a; 32])];
        let told = refusal(&SealError::MissingSealKey(KeyId([1, 2, 3, 4])), &seal, &keys);
        let text = told.to_string();
        for part in ["key_missing", "01020304", "SEAL_KEY", &keys[0].id.to_string()] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains(&"2a".repeat(8)), "{text}");
    }
}
