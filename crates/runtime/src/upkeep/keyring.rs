//! The keeper of the key ring: what follows a data key by another, and what forgets those that nothing needs.

use crate::role::{Role, Round};
use crate::seal::{Needs, SealError, read, refusal, unhex};
use crate::state::context::Context;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::lifecycle::Part;
use enginehouse_core::time::{DAY, HOUR, Millis, Time};
use enginehouse_store::{DocKind, Payloads, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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

/// Counts payloads, failures and facts of adapters by the key they need. Reads every payload's beginning.
pub(crate) async fn needs_of_store(cx: &Context) -> Result<Needs, StoreError> {
    let mut needs = Needs::default();
    let parts = [Part::Input, Part::Output, Part::Logs].map(Payloads::Part);
    for of in parts.into_iter().chain([Payloads::Failures]) {
        for (head, records) in cx.store.heads(of, HEAD_BYTES).await? {
            needs.count(&head, records);
        }
    }
    for fact in cx.store.docs(DocKind::EngineMemory).await? {
        needs.count(&fact.body.as_str().and_then(unhex).unwrap_or_default(), 1);
    }
    Ok(needs)
}

/// Makes room in the ring: drops data keys that retired long ago and that nothing stored needs.
async fn forget_unused_keys(cx: &Context) -> Result<(), ApiError> {
    let unavailable = |error: StoreError| ApiError::new(Code::StoreUnavailable, error.to_string());
    let needs = needs_of_store(cx).await.map_err(unavailable)?;
    let before = cx.store.now().minus(FORGET_AFTER);
    let forgotten = AtomicUsize::new(0);
    cx.change_ring(|ring| {
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
pub(crate) async fn rotate_keys(cx: &Context) -> Result<(), ApiError> {
    let settings = &cx.payloads.seal_keys.settings;
    let before = cx.payloads.seal_keys.keys.lock().clone();
    let fresh = read(settings).await.map_err(|e| refusal(&e, settings, &before))?;
    let in_force = before.first().map(|key| key.id);
    if let Some(id) = in_force.filter(|id| fresh.iter().all(|key| key.id != *id)) {
        // Until the ring is sealed with another key it opens with this one only, and a kill may come before that.
        return Err(refusal(&SealError::MissingSealKey(id), settings, &fresh));
    }
    *cx.payloads.seal_keys.keys.lock() = Arc::new(fresh);
    if cx.payloads.sealer.ring().is_full() {
        forget_unused_keys(cx).await?;
    }
    let now = cx.store.now();
    let rotated = AtomicBool::new(false);
    cx.change_ring(|ring| {
        rotated.store(ring.rotate(now), Ordering::Relaxed);
        ring.wrapped = now;
        true
    })
    .await?;
    let current = cx.payloads.sealer.current();
    if !rotated.load(Ordering::Relaxed) {
        let text =
            "the data keys are sealed again, but there is no room for another, so the newest goes on sealing";
        return Err(ApiError::new(Code::KeyRingFull, text));
    }
    tracing::info!(key = %current, "a new data key seals from here on");
    Ok(())
}

/// Follows a data key that sealed for long enough, or often enough, by another.
pub(crate) struct Keeper {
    pub(crate) cx: Arc<Context>,
    /// When a full ring was last looked through for keys that nothing needs.
    pub(crate) looked: Option<Time>,
}

impl Role for Keeper {
    const NAME: &'static str = "keeper";
    const TROUBLE: &'static str = "the key ring could not be looked after";
    type Error = ApiError;

    fn first(&self) -> Duration {
        LOOK_EVERY
    }

    fn again(&self) -> Duration {
        LOOK_EVERY
    }

    async fn nudged(&mut self) {
        self.cx.payloads.sealer.used_up.notified().await;
    }

    async fn round(&mut self) -> Result<Round, ApiError> {
        let before = self.cx.payloads.sealer.current();
        self.look_after().await?;
        let round = Round::then_rest(LOOK_EVERY);
        let current = self.cx.payloads.sealer.current();
        Ok(if current == before {
            round
        } else {
            round.did(format!("the data key {current} seals from here on"))
        })
    }
}

impl Keeper {
    async fn look_after(&mut self) -> Result<(), ApiError> {
        let counted = self.cx.payloads.sealer.counted();
        let now = self.cx.store.now();
        let mut due = self.is_due(now, counted);
        if due && self.cx.payloads.sealer.ring().is_full() {
            due = self.make_room(now).await?;
        }
        if !due && counted < NOTE_EVERY && !self.cx.store.features().shared {
            return Ok(());
        }
        let before = self.cx.payloads.sealer.current();
        self.cx
            .change_ring(|ring| {
                let Some(last) = ring.keys.last_mut().filter(|last| last.id == before) else { return false };
                last.records += counted;
                due && ring.rotate(now) || counted > 0
            })
            .await?;
        self.cx.payloads.sealer.noted(counted);
        let current = self.cx.payloads.sealer.current();
        if current != before {
            tracing::info!(key = %current, %before, "a new data key seals from here on");
        }
        Ok(())
    }

    fn is_due(&self, now: Time, counted: u64) -> bool {
        let seal = &self.cx.settings.seal;
        self.cx.payloads.sealer.ring().current().is_some_and(|key| {
            now.since(key.made) >= seal.data_key_age || key.records + counted >= seal.data_key_records
        })
    }

    /// Whether the ring takes another key, after those that nothing needs are forgotten.
    async fn make_room(&mut self, now: Time) -> Result<bool, ApiError> {
        if self.looked.is_some_and(|at| now.since(at) < FORGET_EVERY) {
            return Ok(false);
        }
        self.looked = Some(now);
        forget_unused_keys(&self.cx).await?;
        let full = self.cx.payloads.sealer.ring().is_full();
        if full {
            tracing::warn!("the key ring is full, so the newest data key goes on sealing");
        }
        Ok(!full)
    }
}
