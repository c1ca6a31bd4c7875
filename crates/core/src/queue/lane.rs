//! The rows of one lane: a window of its first rows in memory, the rest by number.

use super::Entry;
use crate::execution::Lane;
use crate::id::Key;
use crate::limits::{READY_LANE_WINDOW, READY_REFILL};
use crate::rank::Rank;
use std::collections::{BTreeMap, BTreeSet};

/// Rows in memory are a prefix of the lane's rows in the store.
#[derive(Debug, Clone)]
pub(super) struct LaneRows {
    pub(super) lane: Lane,
    rows: BTreeMap<(Rank, Key), Entry>,
    /// The same rows by the endpoint they are bound to: those of a closed endpoint must not stand before the others.
    by_pin: BTreeMap<Option<u32>, BTreeSet<(Rank, Key)>>,
    /// Rows behind those in memory, known by number only.
    pub(super) tail: u64,
    /// What the queue's depths hold of this lane.
    pub(super) counted: u64,
}

impl LaneRows {
    pub(super) fn new(lane: Lane) -> LaneRows {
        LaneRows { lane, rows: BTreeMap::new(), by_pin: BTreeMap::new(), tail: 0, counted: 0 }
    }

    pub(super) fn total(&self) -> u64 {
        self.rows.len() as u64 + self.tail
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let at = (entry.rank, entry.key);
        self.rows.insert(at, entry);
        self.by_pin.entry(entry.pinned).or_default().insert(at);
    }

    pub(super) fn remove(&mut self, rank: Rank, key: Key) -> Option<Entry> {
        let entry = self.rows.remove(&(rank, key))?;
        if let Some(pinned) = self.by_pin.get_mut(&entry.pinned) {
            pinned.remove(&(rank, key));
            if pinned.is_empty() {
                self.by_pin.remove(&entry.pinned);
            }
        }
        Some(entry)
    }

    pub(super) fn entry(&self, rank: Rank, key: Key) -> Option<&Entry> {
        self.rows.get(&(rank, key))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.rows.values()
    }

    pub(super) fn last(&self) -> Option<(Rank, Key)> {
        self.rows.last_key_value().map(|(at, _)| *at)
    }

    /// The first row for each endpoint that rows are bound to, and for those that are not.
    pub(super) fn heads(&self) -> impl Iterator<Item = (Option<u32>, (Rank, Key))> {
        self.by_pin.iter().filter_map(|(pin, rows)| Some((*pin, *rows.first()?)))
    }

    /// Rows that are bound to the endpoint, or to none. Of those behind the window it is not known; they count as bound to none.
    pub(super) fn bound_to(&self, pin: Option<u32>) -> u64 {
        let behind = if pin.is_none() { self.tail } else { 0 };
        behind + self.by_pin.get(&pin).map_or(0, |rows| rows.len() as u64)
    }

    pub(super) fn position(&self, rank: Rank, key: Key) -> u64 {
        self.rows.range(..(rank, key)).count() as u64
    }

    /// Whether a row of this place is to be kept by number only: it stands behind the window, or the window is full.
    pub(super) fn goes_behind(&self, at: (Rank, Key), memory_is_full: bool) -> bool {
        let full = self.rows.len() >= READY_LANE_WINDOW || memory_is_full;
        let behind = self.last().is_none_or(|last| at > last);
        behind && (self.tail > 0 || (full && !self.rows.is_empty()))
    }

    pub(super) fn is_hungry(&self) -> bool {
        self.tail > 0 && self.rows.len() < READY_REFILL / 2
    }
}
