//! The key ring in the store: opened before anything else, and changed from there on by one node at a time.

use crate::committer::Planned;
use crate::context::Context;
use crate::seal::{Head, KeyId, Ring, SealError, SealKey, Sealer, needs, unhex};
use crate::settings::{SealSettings, Settings};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_core::time::{DAY, HOUR, Millis, Time};
use enginehouse_store::{Batch, Doc, DocKind, Outcome, Payloads, Store, StoreError, Write};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The ring's document.
const RING: &str = "seal-ring";
/// What stands where a store without a ring names its one key, so that a program that knows no ring refuses the store.
const BEFORE_RINGS: &str = "seal-key";
const HAS_RING: &str = "ring";
/// How often a change of the ring is tried when other nodes change it, too.
const CHANGES_MAX: usize = 5;
/// How often it is looked whether a data key is due to be followed by another, and whether another node changed the ring.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Records after which their number is noted in the ring; what was not noted when the process dies is not counted.
const NOTE_EVERY: u64 = 65_536;

/// A data key that retired longer ago may be forgotten once nothing stored needs it: the feed, which is not looked at, keeps a
/// day, and no other node seals with a key that long after it retired.
const FORGET_AFTER: Millis = 25 * HOUR;
/// How often a full ring is looked through for keys that nothing needs, which reads the beginning of every payload.
const FORGET_EVERY: Millis = DAY;
/// Enough of a record to tell its key.
const HEAD_BYTES: usize = 9;

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
    fn count(&mut self, record: &[u8], records: u64) {
        match Head::read(record) {
            Head::Sealed { key, .. } => *self.stored.entry(key).or_default() += records,
            Head::Plain => self.plain += records,
            Head::Unknown => self.unknown += records,
        }
    }
}

/// The seal keys at hand.
pub(crate) struct SealKeys {
    settings: SealSettings,
    keys: Mutex<Arc<Vec<SealKey>>>,
}

/// Opens the ring of a store, makes one where there is none, and seals it anew when the first seal key is another.
///
/// # Errors
/// `key_unusable` when no seal key can be had, `key_missing` with the key's id when another is needed, `payload_damaged`
/// when the ring was tampered with.
pub(crate) async fn unlock(store: &dyn Store, settings: &Settings) -> Result<(Sealer, SealKeys), ApiError> {
    let seal = &settings.seal;
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
        if !changed || keep_first(store, settings, &docs, &ring, &keys[0]).await.map_err(unavailable)? {
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
async fn read(seal: &SealSettings) -> Result<Vec<SealKey>, SealError> {
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
    settings: &Settings,
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
    let batch = Batch { node: settings.node, scheduler_epoch: None, writes };
    let committed = store.commit(batch).await?;
    Ok(matches!(committed.outcomes.first(), Some(Outcome::Applied)))
}

/// The error in words for whoever starts the service.
fn refusal(error: &SealError, seal: &SealSettings, keys: &[SealKey]) -> ApiError {
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

impl SealKeys {
    /// The ids of the keys at hand, the one that seals first.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.keys.lock().iter().map(|key| key.id.to_string()).collect()
    }
}

impl Context {
    /// Counts payloads, failures and facts of adapters by the key they need. Reads every payload's beginning.
    pub(crate) async fn needs_of_store(&self) -> Result<Needs, StoreError> {
        let mut needs = Needs::default();
        let parts = [Part::Input, Part::Output, Part::Logs].map(Payloads::Part);
        for of in parts.into_iter().chain([Payloads::Failures]) {
            for (head, records) in self.store.heads(of, HEAD_BYTES).await? {
                needs.count(&head, records);
            }
        }
        for fact in self.store.docs(DocKind::EngineMemory).await? {
            needs.count(&fact.body.as_str().and_then(unhex).unwrap_or_default(), 1);
        }
        Ok(needs)
    }

    /// Makes room in the ring: drops data keys that retired long ago and that nothing stored needs.
    async fn forget_unused_keys(&self) -> Result<(), ApiError> {
        let unavailable = |error: StoreError| ApiError::new(Code::StoreUnavailable, error.to_string());
        let needs = self.needs_of_store().await.map_err(unavailable)?;
        let before = self.store.now().minus(FORGET_AFTER);
        let forgotten = AtomicUsize::new(0);
        self.change_ring(|ring| {
            let keys = ring.forget(before, |id| needs.stored.contains_key(&id));
            forgotten.store(keys, Ordering::Relaxed);
            keys > 0
        })
        .await?;
        let keys = forgotten.into_inner();
        if keys > 0 {
            tracing::info!(keys, "data keys that nothing needs any more were forgotten");
        }
        Ok(())
    }

    /// Seals the ring with the first seal key that is there now, with a new data key in it.
    pub(crate) async fn rotate_keys(&self) -> Result<(), ApiError> {
        let settings = &self.seal_keys.settings;
        let before = self.seal_keys.keys.lock().clone();
        let fresh = read(settings).await.map_err(|e| refusal(&e, settings, &before))?;
        let in_force = before.first().map(|key| key.id);
        if let Some(id) = in_force.filter(|id| fresh.iter().all(|key| key.id != *id)) {
            // Until the ring is sealed with another key it opens with this one only, and a kill may come before that.
            return Err(refusal(&SealError::MissingSealKey(id), settings, &fresh));
        }
        *self.seal_keys.keys.lock() = Arc::new(fresh);
        if self.sealer.ring().is_full() {
            self.forget_unused_keys().await?;
        }
        let now = self.store.now();
        let rotated = AtomicBool::new(false);
        self.change_ring(|ring| {
            rotated.store(ring.rotate(now), Ordering::Relaxed);
            ring.wrapped = now;
            true
        })
        .await?;
        let current = self.sealer.current();
        if !rotated.load(Ordering::Relaxed) {
            let text = "the data keys are sealed anew, but there is no room for another, so the newest goes on sealing";
            return Err(ApiError::new(Code::KeyRingFull, text));
        }
        tracing::info!(key = %current, "a new data key seals from here on");
        Ok(())
    }

    /// Opens a payload; looks into the store for a data key that another node made.
    pub(crate) async fn open(
        &self,
        row: Key,
        column: crate::seal::Column,
        sealed: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, SealError> {
        match self.sealer.open(row, column, sealed, bytes_max) {
            Err(SealError::MissingKey(_)) if self.store.features().shared => {
                if let Err(error) = self.change_ring(|_| false).await {
                    tracing::warn!(%error, "the key ring could not be read anew");
                }
                self.sealer.open(row, column, sealed, bytes_max)
            }
            opened => opened,
        }
    }

    /// Takes up the store's ring and changes it; `change` tells whether there is something to store, and is asked again
    /// when another node changed the ring meanwhile.
    pub(crate) async fn change_ring(
        &self,
        change: impl Fn(&mut Ring) -> bool + Send + Sync,
    ) -> Result<(), ApiError> {
        let unavailable = |error: StoreError| ApiError::new(Code::StoreUnavailable, error.to_string());
        let keys = self.seal_keys.keys.lock().clone();
        for _ in 0..CHANGES_MAX {
            let docs = self.store.docs(DocKind::Setting).await.map_err(unavailable)?;
            let Some(doc) = docs.into_iter().find(|doc| doc.id == RING) else { break };
            let mut ring =
                Ring::open(&doc.body, &keys).map_err(|e| refusal(&e, &self.seal_keys.settings, &keys))?;
            if !change(&mut ring) {
                self.sealer.take_up(ring);
                return Ok(());
            }
            let (rev, body) = (doc.rev, ring.sealed(&keys[0]));
            let write = Write::Keep { doc: Doc { body, ..doc }, rev };
            let settled = self.commit(vec![Planned::Other(write)], 0).await.map_err(unavailable)?;
            if let Some(Outcome::Applied) = settled.outcomes.first() {
                self.sealer.take_up(ring);
                return Ok(());
            }
        }
        Err(unavailable(StoreError::Unavailable("the key ring kept changing".to_owned())))
    }
}

/// Follows a data key that sealed for long enough, or often enough, by another.
pub(crate) struct Keeper {
    pub(crate) cx: Arc<Context>,
    /// When a full ring was last looked through for keys that nothing needs.
    pub(crate) looked: Option<Time>,
}

impl Keeper {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.cx.sealer.used_up.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "the key ring could not be looked after; trying again");
            }
        }
    }

    async fn round(&mut self) -> Result<(), ApiError> {
        let counted = self.cx.sealer.counted();
        let now = self.cx.store.now();
        let mut due = self.is_due(now, counted);
        if due && self.cx.sealer.ring().is_full() {
            due = self.make_room(now).await?;
        }
        if !due && counted < NOTE_EVERY && !self.cx.store.features().shared {
            return Ok(());
        }
        let before = self.cx.sealer.current();
        self.cx
            .change_ring(|ring| {
                let Some(last) = ring.keys.last_mut().filter(|last| last.id == before) else { return false };
                last.records += counted;
                due && ring.rotate(now) || counted > 0
            })
            .await?;
        self.cx.sealer.noted(counted);
        let current = self.cx.sealer.current();
        if current != before {
            tracing::info!(key = %current, %before, "a new data key seals from here on");
        }
        Ok(())
    }

    fn is_due(&self, now: Time, counted: u64) -> bool {
        let seal = &self.cx.settings.seal;
        self.cx.sealer.ring().current().is_some_and(|key| {
            now.since(key.made) >= seal.data_key_age || key.records + counted >= seal.data_key_records
        })
    }

    /// Whether the ring takes another key, after those that nothing needs are forgotten.
    async fn make_room(&mut self, now: Time) -> Result<bool, ApiError> {
        if self.looked.is_some_and(|at| now.since(at) < FORGET_EVERY) {
            return Ok(false);
        }
        self.looked = Some(now);
        self.cx.forget_unused_keys().await?;
        let full = self.cx.sealer.ring().is_full();
        if full {
            tracing::warn!("the key ring is full, so the newest data key goes on sealing");
        }
        Ok(!full)
    }
}

#[cfg(test)]
mod tests {
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
        let seal = SealSettings {
            source: crate::SealKeySource::Env("SEAL_KEY".to_owned()),
            ..SealSettings::default()
        };
        let keys = [SealKey::new([0x2a; 32])];
        let told = refusal(&SealError::MissingSealKey(KeyId([1, 2, 3, 4])), &seal, &keys);
        let text = told.to_string();
        for part in ["key_missing", "01020304", "SEAL_KEY", &keys[0].id.to_string()] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains(&"2a".repeat(8)), "{text}");
    }
}
