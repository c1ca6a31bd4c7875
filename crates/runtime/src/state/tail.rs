//! The newest commits of the feed in memory, so that many readers of events at its end read the store once.

use enginehouse_store::{Commit, Cursor, Store, StoreError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Changes and notes kept, about 4 MB; a larger commit is kept alone.
const ITEMS_MAX: usize = 8_192;
/// Commits read at once.
const PAGE: usize = 256;

#[derive(Default)]
pub(crate) struct Tail {
    kept: Mutex<Kept>,
    /// Held by the one who reads what is new.
    reading: tokio::sync::Mutex<()>,
}

impl Tail {
    /// The commits of `store` after `cursor`, oldest first; none when there are none yet.
    pub(crate) async fn after(
        &self,
        store: &dyn Store,
        cursor: Cursor,
        max: usize,
    ) -> Result<Vec<Arc<Commit>>, StoreError> {
        let found = self.kept.lock().after(cursor, max);
        if let Some(found) = found {
            return Ok(found);
        }
        if *store.changed().borrow() <= cursor {
            return Ok(Vec::new());
        }
        if !self.kept.lock().ends_at_or_before(cursor) {
            // Far behind: it reads the store by itself until it is near the end.
            let page = store.feed(cursor, max).await?;
            return Ok(page.commits.into_iter().map(Arc::new).collect());
        }
        let _alone = self.reading.lock().await;
        let found = self.kept.lock().after(cursor, max);
        if let Some(found) = found {
            return Ok(found);
        }
        let page = store.feed(cursor, PAGE).await?;
        let commits: Vec<Arc<Commit>> = page.commits.into_iter().map(Arc::new).collect();
        let mut kept = self.kept.lock();
        if kept.ends_at_or_before(cursor) {
            commits.iter().for_each(|commit| kept.push(commit.clone()));
        }
        Ok(commits.into_iter().take(max).collect())
    }
}

/// Commits without a gap, the oldest first.
#[derive(Default)]
struct Kept {
    commits: VecDeque<Arc<Commit>>,
    items: usize,
}

fn items(commit: &Commit) -> usize {
    commit.changes.len() + commit.notes.len()
}

impl Kept {
    /// What comes after `cursor`; `None` when that is not kept, or not yet.
    fn after(&self, cursor: Cursor, max: usize) -> Option<Vec<Arc<Commit>>> {
        let first = self.commits.front()?.cursor.0;
        let from = usize::try_from((cursor.0 + 1).checked_sub(first)?).ok()?;
        (from < self.commits.len()).then(|| self.commits.range(from..).take(max).cloned().collect())
    }

    /// Whether `cursor` is the newest one kept, or newer.
    fn ends_at_or_before(&self, cursor: Cursor) -> bool {
        self.commits.back().is_none_or(|last| last.cursor <= cursor)
    }

    fn push(&mut self, commit: Arc<Commit>) {
        if self.commits.back().is_some_and(|last| last.cursor.0 + 1 != commit.cursor.0) {
            // No one read for a while: what lies between is not kept.
            self.commits.clear();
            self.items = 0;
        }
        self.items += items(&commit);
        self.commits.push_back(commit);
        while self.items > ITEMS_MAX && self.commits.len() > 1 {
            if let Some(oldest) = self.commits.pop_front() {
                self.items -= items(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_core::id::NodeId;
    use enginehouse_core::time::Time;
    use enginehouse_store::Note;

    fn commit(cursor: u64, notes: usize) -> Arc<Commit> {
        let note = Note { kind: enginehouse_core::event::NoteKind::Alert, data: serde_json::Value::Null };
        let notes = vec![note; notes];
        Arc::new(Commit { cursor: Cursor(cursor), at: Time(0), node: NodeId(0), changes: Vec::new(), notes })
    }

    fn cursors(kept: &Kept, after: u64, max: usize) -> Option<Vec<u64>> {
        kept.after(Cursor(after), max).map(|found| found.iter().map(|commit| commit.cursor.0).collect())
    }

    #[test]
    fn the_end_is_kept_without_a_gap_and_within_its_bound() {
        let mut kept = Kept::default();
        assert_eq!(cursors(&kept, 0, 9), None);
        (5..9).for_each(|cursor| kept.push(commit(cursor, 1)));
        let table = [
            (3, 9, None),
            (4, 9, Some(vec![5, 6, 7, 8])),
            (5, 2, Some(vec![6, 7])),
            (7, 9, Some(vec![8])),
            (8, 9, None),
            (99, 9, None),
        ];
        for (after, max, wanted) in table {
            assert_eq!(cursors(&kept, after, max), wanted, "after {after}");
        }
        assert!(!kept.ends_at_or_before(Cursor(7)) && kept.ends_at_or_before(Cursor(8)));
        // A gap starts over; a commit larger than all may stand alone.
        kept.push(commit(20, 1));
        assert_eq!((cursors(&kept, 4, 9), cursors(&kept, 19, 9)), (None, Some(vec![20])));
        kept.push(commit(21, ITEMS_MAX + 1));
        assert_eq!((cursors(&kept, 19, 9), cursors(&kept, 20, 9)), (None, Some(vec![21])));
        kept.push(commit(22, 1));
        assert_eq!((kept.commits.len(), kept.items), (1, 1));
    }
}
