//! Rows read before they are needed: those that are likely to start in the next batch, while this one is synced.
//!
//! The committer is one chain of rounds, and a row that waited in the store must be read before its grant can be made. Read
//! in the round itself, that is a quarter of a drain's time in which nothing is written.
//!
//! A row kept here may be older than the store: whoever changes one says so with [`ReadAhead::forget`], and what it misses is
//! refused by the row's `rev`, which brings the true row.

use enginehouse_core::id::Key;
use enginehouse_store::{Started, Starting, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The most rows that are kept.
const ROWS_MAX: usize = 256;
/// A larger request is read by whoever carries the row to its worker.
pub(crate) const REQUEST_BYTES_MAX: u64 = 16 << 10;

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Option<Started>>, StoreError>> + Send>>;

#[derive(Default)]
pub(crate) struct ReadAhead {
    rows: BTreeMap<Key, Started>,
    reading: Option<Reading>,
    /// Those being read that nobody changed meanwhile.
    awaited: BTreeSet<Key>,
}

impl ReadAhead {
    /// How many rows to have at hand after a batch that started `waited` rows which it did not bring itself: twice as many,
    /// because batches differ in size.
    pub(crate) fn wanted(waited: usize) -> usize {
        waited.saturating_mul(2).min(ROWS_MAX)
    }

    /// Keeps the rows that are likely to start next, and begins to read those that are not here; see [`during`](Self::during).
    pub(crate) fn begin(&mut self, store: &Arc<dyn Store>, mut likely: Vec<Starting>) {
        likely.truncate(ROWS_MAX);
        let wanted: BTreeSet<Key> = likely.iter().map(|one| one.key).collect();
        self.rows.retain(|key, _| wanted.contains(key));
        likely.retain(|one| !self.rows.contains_key(&one.key));
        if likely.is_empty() {
            return;
        }
        self.awaited = likely.iter().map(|one| one.key).collect();
        let store = store.clone();
        self.reading = Some(Box::pin(async move { store.starting(&likely).await }));
    }

    /// Reads while `work` is under way, and ends with it.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        if self.reading.is_some() {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.finish() => {}
            }
        }
        work.await
    }

    /// Waits for what is being read.
    pub(crate) async fn finish(&mut self) {
        let Some(reading) = &mut self.reading else { return };
        let read = reading.await;
        self.reading = None;
        let awaited = std::mem::take(&mut self.awaited);
        match read {
            Ok(rows) => {
                let rows = rows.into_iter().flatten().map(|started| (started.0.key(), started));
                self.rows.extend(rows.filter(|(key, _)| awaited.contains(key)));
            }
            // Whoever needs the rows reads them again, and says what is wrong.
            Err(error) => tracing::debug!(%error, "rows could not be read ahead"),
        }
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<Started> {
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
    use enginehouse_core::execution::{Execution, Priority, Spec};
    use enginehouse_core::lifecycle::{self, NewExecution};
    use enginehouse_core::rank::HeadStarts;
    use enginehouse_core::retry::RetryPolicy;
    use enginehouse_core::time::Time;

    fn row(key: i64) -> Execution {
        let spec = Spec {
            timeout: 60_000,
            total_timeout: 60_000,
            expires_in: None,
            idle_timeout: None,
            retry: RetryPolicy::default(),
            at_most_once: false,
            fail_fast: false,
            inline: false,
            input_bytes: 1,
            trace: None,
            callback: false,
        };
        let new = NewExecution {
            key: Key(key),
            ext_id: None,
            idem_key: None,
            request_hash: [0; 32],
            engine: "e".into(),
            engine_type: "demo".into(),
            workflow: "w".into(),
            user: None,
            ckey: None,
            tags: Vec::new(),
            priority: Priority::Normal,
            ready_at: None,
            spec,
            by: None,
        };
        lifecycle::submit(new, &HeadStarts::default(), Time(0))
    }

    /// Reads the keys given as soon as it is asked.
    fn reading(keys: &[i64]) -> ReadAhead {
        let found: Vec<Option<Started>> = keys.iter().map(|key| Some((row(*key), None))).collect();
        let awaited = keys.iter().map(|key| Key(*key)).collect();
        ReadAhead { reading: Some(Box::pin(async { Ok(found) })), awaited, ..ReadAhead::default() }
    }

    fn kept(ahead: &ReadAhead) -> Vec<i64> {
        ahead.rows.keys().map(|key| key.0).collect()
    }

    #[tokio::test]
    async fn a_row_changed_while_it_was_read_or_after_is_not_kept() {
        let mut ahead = reading(&[1, 2, 3]);
        ahead.forget(Key(2));
        ahead.during(tokio::task::yield_now()).await;
        assert_eq!(kept(&ahead), [1, 3]);
        assert!(ahead.take(Key(3)).is_some());
        ahead.forget(Key(1));
        assert!(ahead.rows.is_empty() && ahead.awaited.is_empty());
    }

    #[tokio::test]
    async fn work_does_not_wait_for_a_read_and_the_read_is_not_lost_with_it() {
        let (answer, asked) = tokio::sync::oneshot::channel();
        let mut ahead = ReadAhead {
            reading: Some(Box::pin(async { asked.await.map_err(|_| StoreError::Closed) })),
            awaited: BTreeSet::from([Key(1)]),
            ..ReadAhead::default()
        };
        assert_eq!(ahead.during(async { 7 }).await, 7);
        answer.send(vec![Some((row(1), None)), None]).expect("it still waits");
        ahead.finish().await;
        assert_eq!(kept(&ahead), [1]);
    }

    #[tokio::test]
    async fn a_read_that_fails_leaves_what_was_there() {
        let mut ahead = reading(&[1]);
        ahead.finish().await;
        ahead.reading = Some(Box::pin(async { Err(StoreError::Closed) }));
        ahead.finish().await;
        assert!(ahead.reading.is_none());
        assert_eq!(kept(&ahead), [1]);
    }
}
