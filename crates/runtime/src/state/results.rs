//! Results kept in memory for a moment after they were stored or read, so that who waits for one need not read it back.

use enginehouse_core::id::{Fence, Key};
use enginehouse_core::time::{MINUTE, Millis, Time};
use std::collections::BTreeMap;

/// A result that was removed on another node, or while it was read, may be given for this long.
const FRESH: Millis = MINUTE;
/// A result that would take more than this part of the room is not kept.
const SHARE_MAX: usize = 8;
/// What an entry takes beside its result, so that many small ones are bounded, too.
const ENTRY_BYTES: usize = 96;

/// Results of executions, at most this many bytes; those of the oldest executions give way. Each is kept under the attempt that
/// brought it, so one may be put here before its commit: a row that another attempt completed does not meet it.
#[derive(Debug)]
pub(crate) struct ResultCache {
    results: BTreeMap<Key, Kept>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Kept {
    at: Time,
    fence: Fence,
    result: Box<[u8]>,
}

impl ResultCache {
    pub(crate) fn new(bytes_max: usize) -> ResultCache {
        ResultCache { results: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Keeps a copy: a result may be a small part of an engine's whole answer, which would stay in memory with it.
    pub(crate) fn put(&mut self, key: Key, fence: Fence, result: &[u8], now: Time) {
        if result.len() + ENTRY_BYTES > self.bytes_max / SHARE_MAX {
            return;
        }
        self.forget(key);
        self.bytes += result.len() + ENTRY_BYTES;
        self.results.insert(key, Kept { at: now, fence, result: result.into() });
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.results.pop_first() else { return };
            self.bytes -= oldest.result.len() + ENTRY_BYTES;
        }
    }

    pub(crate) fn get(&self, key: Key, fence: Fence, now: Time) -> Option<Vec<u8>> {
        let kept = self.results.get(&key).filter(|kept| kept.fence == fence)?;
        (now.since(kept.at) < FRESH).then(|| kept.result.to_vec())
    }

    pub(crate) fn forget(&mut self, key: Key) {
        if let Some(kept) = self.results.remove(&key) {
            self.bytes -= kept.result.len() + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_bounded_and_the_oldest_give_way() {
        let (ten, entry) = ([b'1'; 10], 10 + ENTRY_BYTES);
        let mut cache = ResultCache::new(8 * entry);
        for key in 1..=20 {
            cache.put(Key(key), Fence(1), &ten, Time(0));
        }
        let kept: Vec<i64> =
            (1..=20).filter(|key| cache.get(Key(*key), Fence(1), Time(0)).is_some()).collect();
        assert_eq!((kept, cache.bytes), ((13..=20).collect(), 8 * entry));
        cache.put(Key(21), Fence(1), &[b'1'; 11], Time(0));
        assert_eq!(
            (cache.get(Key(21), Fence(1), Time(0)), cache.bytes),
            (None, 8 * entry),
            "more than an eighth"
        );
        cache.put(Key(20), Fence(1), b"123", Time(0));
        cache.forget(Key(13));
        cache.forget(Key(13));
        assert_eq!(
            (cache.get(Key(20), Fence(1), Time(0)), cache.bytes),
            (Some(b"123".to_vec()), 7 * entry - 7)
        );
        let mut none = ResultCache::new(0);
        none.put(Key(1), Fence(1), b"", Time(0));
        assert_eq!(none.get(Key(1), Fence(1), Time(0)), None);
    }

    #[test]
    fn a_result_is_given_for_a_minute() {
        let mut cache = ResultCache::new(8 << 10);
        cache.put(Key(1), Fence(1), b"1", Time(1_000));
        assert!(cache.get(Key(1), Fence(1), Time(60_999)).is_some());
        assert!(cache.get(Key(1), Fence(2), Time(60_999)).is_none(), "of another attempt");
        assert!(cache.get(Key(1), Fence(1), Time(61_000)).is_none());
    }
}
