//! What the store holds, and how long it is kept.

use super::{Service, store_error};
use crate::machine::free_mib;
use enginehouse_api::{ApiError, BlobsView, RetentionView, StorageView, StoredExecutions, Timestamp};
use enginehouse_core::time::Time;
use std::sync::atomic::Ordering;

impl Service {
    /// Rows, bytes and what retention did last on this node.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn storage(&self) -> Result<StorageView, ApiError> {
        let usage = self.cx.store.usage().await.map_err(|e| store_error(&e))?;
        let (rules, last) = (&self.cx.settings.retention, *self.cx.observed.retention.lock());
        let free = self.cx.settings.data_dir.as_deref().and_then(free_mib);
        Ok(StorageView {
            executions: StoredExecutions {
                pending: usage.pending,
                running: usage.running,
                completed: usage.completed,
                failed: usage.failed,
                cancelled: usage.cancelled,
                removed: usage.removed,
            },
            bytes: usage.bytes,
            reclaimable_bytes: usage.reclaimable,
            log_bytes: usage.log_bytes,
            feed_bytes: usage.feed_bytes,
            blobs: self.cx.payloads.blobs.as_ref().map(|blobs| BlobsView {
                place: blobs.settings.told().to_owned(),
                count: blobs.held.count.load(Ordering::Relaxed),
                bytes: blobs.held.bytes.load(Ordering::Relaxed),
                inline_max: blobs.settings.inline_max as u64,
            }),
            disk_free_bytes: free.map(|mib| (mib * f64::from(1 << 20)) as u64),
            oldest_ended_at: usage.oldest_ended.map(Timestamp),
            retention: RetentionView {
                age_ms: rules.age,
                executions_max: rules.rows_max,
                bytes_max: rules.bytes_max,
                last_at: Some(Timestamp(last.at)).filter(|at| at.0 > Time(0)),
                last_removed: last.removed,
                last_emptied: last.emptied,
                last_took_ms: last.took,
                next_due_at: last.next_due.map(Timestamp),
            },
        })
    }
}
