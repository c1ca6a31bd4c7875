//! Requests kept in memory from submit to worker, so that work that starts soon is not read and opened again.

use bytes::Bytes;
use enginehouse_core::id::Key;
use std::collections::BTreeMap;

/// Requests of pending executions, at most this many bytes; the newest give way, as they start last.
#[derive(Debug)]
pub(crate) struct InputCache {
    requests: BTreeMap<Key, Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl InputCache {
    pub(crate) fn new(bytes_max: usize) -> InputCache {
        InputCache { requests: BTreeMap::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn put(&mut self, key: Key, request: Bytes) {
        if self.bytes + request.len() <= self.bytes_max {
            self.bytes += request.len();
            self.requests.insert(key, request);
        }
    }

    pub(crate) fn holds(&self, key: Key) -> bool {
        self.requests.contains_key(&key)
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<Bytes> {
        let request = self.requests.remove(&key)?;
        self.bytes -= request.len();
        Some(request)
    }
}
