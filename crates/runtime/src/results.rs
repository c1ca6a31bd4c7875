//! Results kept in memory for a moment after they were stored or read, so that who waits for one need not read it back.

use bytes::Bytes;
use enginehouse_core::id::Key;
use enginehouse_core::time::{MINUTE, Millis, Time};
use std::collections::BTreeMap;

/// A result that another node removed may be given for so long.
const FRESH: Millis = MINUTE;
/// A result that would take more than this part of the room is not kept.
const SHARE_MAX: usize = 8;

/// Results of completed executions, at most so many bytes; those of the oldest executions give way.
#[derive(Debug)]
pub(crate) struct ResultCache {
    results: BTreeMap<Key, (Time, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl ResultCache {
    pub(crate) fn new(bytes_max: usize) -> ResultCache {
        ResultCache { results: BTreeMap::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn put(&mut self, key: Key, result: Bytes, now: Time) {
        if result.len() > self.bytes_max / SHARE_MAX {
            return;
        }
        self.forget(key);
        self.bytes += result.len();
        self.results.insert(key, (now, result));
        while self.bytes > self.bytes_max {
            let Some((_, (_, oldest))) = self.results.pop_first() else { return };
            self.bytes -= oldest.len();
        }
    }

    pub(crate) fn get(&self, key: Key, now: Time) -> Option<Bytes> {
        let (at, result) = self.results.get(&key)?;
        (now.since(*at) < FRESH).then(|| result.clone())
    }

    pub(crate) fn forget(&mut self, key: Key) {
        if let Some((_, result)) = self.results.remove(&key) {
            self.bytes -= result.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: usize) -> Bytes {
        Bytes::from(vec![b'1'; bytes])
    }

    #[test]
    fn the_room_is_bounded_and_the_oldest_give_way() {
        let mut cache = ResultCache::new(80);
        for key in 1..=20 {
            cache.put(Key(key), of(10), Time(0));
        }
        let kept: Vec<i64> = (1..=20).filter(|key| cache.get(Key(*key), Time(0)).is_some()).collect();
        assert_eq!((kept, cache.bytes), ((13..=20).collect(), 80));
        cache.put(Key(21), of(11), Time(0));
        assert_eq!((cache.get(Key(21), Time(0)), cache.bytes), (None, 80), "more than an eighth");
        cache.put(Key(20), of(3), Time(0));
        cache.forget(Key(13));
        cache.forget(Key(13));
        assert_eq!((cache.get(Key(20), Time(0)), cache.bytes), (Some(of(3)), 63));
        ResultCache::new(0).put(Key(1), of(1), Time(0));
    }

    #[test]
    fn a_result_is_given_for_a_minute() {
        let mut cache = ResultCache::new(80);
        cache.put(Key(1), of(1), Time(1_000));
        assert!(cache.get(Key(1), Time(60_999)).is_some());
        assert!(cache.get(Key(1), Time(61_000)).is_none());
    }
}
