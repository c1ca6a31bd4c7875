//! Rows read before they are needed: those that are likely to start in the next batch, while this one is synced.
//!
//! The committer is one chain of rounds, and a row that waited in the store must be read before its grant can be made. Read
//! in the round itself, that is a quarter of a drain's time in which nothing is written.
//!
//! A row kept here may be older than the store: who changes one calls [`ReadAhead::forget`], and what it misses is
//! refused by the row's `rev`, which brings the true row.

use enginehouse_core::id::Key;
use enginehouse_store::{Started, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use tokio::task::JoinSet;

/// The most rows that are kept.
const ROWS_MAX: usize = 256;
/// A larger request is read by anyone who carries the row to its worker.
pub(crate) const REQUEST_BYTES_MAX: u64 = 16 << 10;

type Read<T> = Result<Vec<(Key, T)>, StoreError>;

/// `T`: what is kept of each row.
pub(crate) struct ReadAhead<T = Started> {
    rows: BTreeMap<Key, T>,
    /// At most one task: a read that no one drives could stand in line for a reader, and keep it from those behind.
    reading: JoinSet<Read<T>>,
    /// Those being read that no one changed meanwhile.
    awaited: BTreeSet<Key>,
}

impl<T> Default for ReadAhead<T> {
    fn default() -> ReadAhead<T> {
        ReadAhead { rows: BTreeMap::new(), reading: JoinSet::new(), awaited: BTreeSet::new() }
    }
}

impl<T: Send + 'static> ReadAhead<T> {
    /// How many rows to have at hand after a batch that started `waited` rows which it did not bring itself: twice as many,
    /// because batches differ in size.
    pub(crate) fn wanted(waited: usize) -> usize {
        waited.saturating_mul(2).min(ROWS_MAX)
    }

    /// Keeps of its rows those that are likely to start next; gives back the others of them, which are to be read.
    pub(crate) fn keep(&mut self, mut likely: Vec<Key>) -> Vec<Key> {
        likely.truncate(ROWS_MAX);
        let wanted: BTreeSet<Key> = likely.iter().copied().collect();
        self.rows.retain(|key, _| wanted.contains(key));
        likely.retain(|key| !self.rows.contains_key(key));
        likely
    }

    /// Begins to read `keys` by `read`, once what was being read is [finished](Self::finish).
    pub(crate) fn begin(
        &mut self,
        keys: impl IntoIterator<Item = Key>,
        read: impl Future<Output = Read<T>> + Send + 'static,
    ) {
        self.awaited = keys.into_iter().collect();
        self.reading.spawn(read);
    }

    /// Waits for what is being read.
    pub(crate) async fn finish(&mut self) {
        let Some(read) = self.reading.join_next().await else { return };
        let awaited = std::mem::take(&mut self.awaited);
        match read {
            Ok(Ok(rows)) => self.rows.extend(rows.into_iter().filter(|(key, _)| awaited.contains(key))),
            // Anyone who needs the rows reads them again, and says what is wrong.
            Ok(Err(error)) => tracing::debug!(%error, "rows could not be read ahead"),
            Err(error) => tracing::error!(%error, "reading ahead ended early"),
        }
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<T> {
        self.rows.remove(&key)
    }

    /// The row was changed.
    pub(crate) fn forget(&mut self, key: Key) {
        self.rows.remove(&key);
        self.awaited.remove(&key);
    }

    /// Nothing that was read is known to be true.
    pub(crate) fn clear(&mut self) {
        *self = ReadAhead::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Reads these keys; each row is its key's number.
    fn reading(keys: &[i64]) -> ReadAhead<i64> {
        let mut ahead = ReadAhead::default();
        let found = keys.iter().map(|key| (Key(*key), *key)).collect();
        ahead.begin(keys.iter().map(|key| Key(*key)), async { Ok(found) });
        ahead
    }

    fn kept(ahead: &ReadAhead<i64>) -> Vec<i64> {
        ahead.rows.values().copied().collect()
    }

    #[tokio::test]
    async fn a_row_changed_while_it_was_read_or_after_is_not_kept() {
        let mut ahead = reading(&[1, 2, 3]);
        ahead.forget(Key(2));
        ahead.finish().await;
        assert_eq!(kept(&ahead), [1, 3]);
        assert_eq!((ahead.take(Key(3)), ahead.take(Key(3))), (Some(3), None));
        ahead.forget(Key(1));
        assert!(ahead.rows.is_empty() && ahead.awaited.is_empty());
    }

    #[tokio::test]
    async fn what_is_likely_stays_and_the_rest_is_to_be_read() {
        let mut ahead = reading(&[1, 2, 3]);
        ahead.finish().await;
        assert_eq!(ahead.keep(vec![Key(5), Key(3), Key(4)]), [Key(5), Key(4)]);
        assert_eq!(kept(&ahead), [3]);
        let many = (1_000..2_000).map(Key).collect();
        assert_eq!((ahead.keep(many).len(), kept(&ahead).len()), (ROWS_MAX, 0));
    }

    #[tokio::test]
    async fn a_read_goes_on_although_nobody_waits_for_it() {
        let (begun, seen) = oneshot::channel();
        let mut ahead: ReadAhead<i64> = ReadAhead::default();
        ahead.begin([Key(1)], async move {
            tokio::task::yield_now().await;
            let _ = begun.send(());
            Ok(vec![(Key(1), 1)])
        });
        timeout(PATIENCE, seen).await.expect("it was driven").expect("to its end");
        ahead.finish().await;
        assert_eq!(kept(&ahead), [1]);
    }

    #[tokio::test]
    async fn a_read_that_fails_leaves_what_was_there() {
        let mut ahead = reading(&[1]);
        ahead.finish().await;
        ahead.begin([Key(2)], async { Err(StoreError::Closed) });
        ahead.finish().await;
        assert!(ahead.reading.is_empty() && ahead.awaited.is_empty());
        assert_eq!(kept(&ahead), [1]);
    }
}
