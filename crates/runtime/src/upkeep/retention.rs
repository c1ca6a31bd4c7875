//! Removes what has ended for long enough, or is too much, and gives the room back to the file system.
//!
//! It works in slices that go through the committer like everything else, and pauses after each for several times as long as it
//! took, so that submits and ends in between wait for one slice at most. Only the scheduler's node does it.

use crate::blobs::BLOB_BYTES_MIN;
use crate::role::{Role, Round};
use crate::state::context::Context;
use crate::state::figures::Pass;
use crate::state::planned::Planned;
use enginehouse_core::id::Key;
use enginehouse_core::retention::{EndedExecution, Fate, RetentionRules};
use enginehouse_core::time::Time;
use enginehouse_store::{EndedRow, Removal, StoreError, Usage, Write, WriteOutcome};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Ended rows looked at in one read.
const PAGE: usize = 1_000;
/// Rows removed in one commit, and bytes given back in one step.
const SLICE: usize = 50;
const RECLAIM_BYTES: u64 = 512 << 10;
/// A slice is followed by a pause of this many times its own length, within these bounds.
const PAUSE_FACTOR: u32 = 6;
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Free room that stays in the files for what comes next: this share of what is in use, and at least so much.
const SPARE_SHARE: u64 = 20;
const SPARE_MIN: u64 = 8 << 20;

pub(crate) struct Retention {
    pub(crate) cx: Arc<Context>,
}

impl Role for Retention {
    const NAME: &'static str = "retention";
    const TROUBLE: &'static str = "retention could not do its work";
    const LONG: bool = true;
    type Error = StoreError;

    fn again(&self) -> Duration {
        LOOK_EVERY
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        let round = Round::then_rest(LOOK_EVERY);
        if !self.cx.scheduling.scheduler.lock().may_grant() {
            return Ok(round);
        }
        Ok(match self.pass().await? {
            (0, 0) => round,
            (removed, emptied) => {
                round.did(format!("removed {removed} executions and the payloads of {emptied} more"))
            }
        })
    }
}

impl Retention {
    /// Removes until nothing is due and nothing is too much, then gives back what is free. Gives how many executions were
    /// removed, and how many only lost their payloads.
    async fn pass(&self) -> Result<(u64, u64), StoreError> {
        let rules = &self.cx.settings.retention;
        let (mut gone, mut bare) = (0, 0);
        loop {
            let usage = self.cx.store.usage().await?;
            let blobs =
                self.cx.payloads.blobs.as_ref().map_or(0, |blobs| blobs.held.bytes.load(Ordering::Relaxed));
            // The feed is bounded by itself, and no removal makes it smaller.
            let bytes = usage.bytes.saturating_sub(usage.feed_bytes) + blobs;
            let surplus = rules.surplus(ended(&usage), bytes);
            let begun = Instant::now();
            let now = self.cx.store.now();
            let last = *self.cx.observed.retention.lock();
            let due = last.at == Time(0) || last.next_due.is_some_and(|due| due <= now);
            if surplus == 0 && !due {
                break;
            }
            let pass = self.walk(rules, surplus, now).await?;
            let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            *self.cx.observed.retention.lock() = Pass { at: now, took, ..pass };
            if pass.removed + pass.emptied > 0 {
                let (removed, emptied) = (pass.removed, pass.emptied);
                (gone, bare) = (gone + removed, bare + emptied);
                tracing::info!(removed, emptied, took_ms = took, "retention removed what was due");
            }
            // A number that is met by removing is met by now; a size may need another look.
            if surplus == 0 || pass.removed + pass.emptied == 0 {
                break;
            }
        }
        self.give_back().await?;
        Ok((gone, bare))
    }

    /// Goes through what has ended, from the oldest, as far as anything may be due.
    async fn walk(&self, rules: &RetentionRules, surplus: u64, now: Time) -> Result<Pass, StoreError> {
        let (mut pass, mut surplus, mut after) = (Pass::default(), surplus, None);
        loop {
            let rows = self.cx.store.ended(after, PAGE).await?;
            let (mut removals, mut large) = (Vec::new(), BTreeSet::new());
            for row in &rows {
                if row.output_bytes >= BLOB_BYTES_MIN {
                    large.insert(row.key);
                }
                // Nothing ends before it is made, and a key tells when it was made.
                let earliest = rules.least_age().map(|age| row.key.time().plus(age));
                if surplus == 0 && earliest.is_none_or(|earliest| earliest > now) {
                    note_due(&mut pass.next_due, earliest);
                    self.remove(&removals, &large, &mut pass).await?;
                    return Ok(pass);
                }
                removals.extend(decide(rules, row, surplus > 0, now, &mut pass.next_due));
                surplus = surplus.saturating_sub(1);
            }
            self.remove(&removals, &large, &mut pass).await?;
            after = rows.last().map(|row: &EndedRow| row.key);
            if rows.len() < PAGE {
                return Ok(pass);
            }
        }
    }

    /// Removes in slices; `large`: those that may have a blob, which goes once its row went.
    async fn remove(
        &self,
        removals: &[Removal],
        large: &BTreeSet<Key>,
        pass: &mut Pass,
    ) -> Result<(), StoreError> {
        for slice in removals.chunks(SLICE) {
            let begun = Instant::now();
            let settled =
                self.cx.writes.commit(vec![Planned::Other(Write::Remove(slice.to_vec()))], 0).await?;
            if let Some(WriteOutcome::Removed(_)) = settled.outcomes.first() {
                let keys = || slice.iter().map(|removal| removal.key);
                keys().for_each(|key| self.cx.payloads.results.lock().forget(key));
                self.cx.remove_blobs(keys().filter(|key| large.contains(key))).await;
                pass.removed += slice.iter().filter(|removal| removal.whole).count() as u64;
                pass.emptied += slice.iter().filter(|removal| !removal.whole).count() as u64;
            }
            pause(begun).await;
        }
        Ok(())
    }

    async fn give_back(&self) -> Result<(), StoreError> {
        let usage = self.cx.store.usage().await?;
        let spare = (usage.bytes / SPARE_SHARE).max(SPARE_MIN);
        let mut left = usage.reclaimable;
        while left > spare {
            let begun = Instant::now();
            let now = self.cx.store.reclaim(RECLAIM_BYTES.min(left - spare)).await?;
            if now >= left {
                break;
            }
            left = now;
            pause(begun).await;
        }
        Ok(())
    }
}

pub(crate) fn ended(usage: &Usage) -> u64 {
    usage.completed + usage.failed + usage.cancelled
}

/// The removal of a row, if it is to go; else notes when it may.
fn decide(
    rules: &RetentionRules,
    row: &EndedRow,
    surplus: bool,
    now: Time,
    next_due: &mut Option<Time>,
) -> Option<Removal> {
    let ended = EndedExecution {
        engine: &row.engine,
        status: row.status,
        ended_at: row.ended_at,
        named: row.named,
        has_payload: row.has_payload,
    };
    let removal = |whole| Some(Removal { key: row.key, rev: row.rev, whole });
    match rules.fate(&ended, surplus, now) {
        Fate::Whole => removal(true),
        Fate::Payload(until) => {
            note_due(next_due, Some(until));
            removal(false)
        }
        Fate::Keep(until) => {
            note_due(next_due, until);
            None
        }
    }
}

fn note_due(next: &mut Option<Time>, at: Option<Time>) {
    *next = match (*next, at) {
        (Some(next), Some(at)) => Some(next.min(at)),
        (next, at) => next.or(at),
    };
}

async fn pause(begun: Instant) {
    tokio::time::sleep((begun.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX)).await;
}
