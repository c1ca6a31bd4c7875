//! Opening what is sealed, and the key ring in the store, which is changed by one node at a time.

use super::context::Context;
use super::planned::Planned;
use crate::seal::{CHANGES_MAX, Column, RING, Ring, SealError, refusal};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::id::Key;
use enginehouse_store::{Doc, DocKind, StoreError, Write, WriteOutcome};

impl Context {
    /// Opens a payload; looks into the store for a data key that another node made.
    pub(crate) async fn open(
        &self,
        row: Key,
        column: Column,
        sealed: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, SealError> {
        match self.payloads.sealer.open(row, column, sealed, bytes_max) {
            Err(SealError::MissingKey(_)) if self.store.features().shared => {
                if let Err(error) = self.change_ring(|_| false).await {
                    tracing::warn!(%error, "the key ring could not be read again");
                }
                self.payloads.sealer.open(row, column, sealed, bytes_max)
            }
            opened => opened,
        }
    }

    /// Takes up the store's ring and changes it; `change` tells whether there is something to store, and is asked again
    /// when another node changed the ring meanwhile.
    pub(crate) async fn change_ring(
        &self,
        change: impl Fn(&mut Ring) -> bool + Send + Sync,
    ) -> Result<(), ApiError> {
        let unavailable = |error: StoreError| ApiError::new(Code::StoreUnavailable, error.to_string());
        let keys = self.payloads.seal_keys.keys.lock().clone();
        for _ in 0..CHANGES_MAX {
            let docs = self.store.docs(DocKind::Setting).await.map_err(unavailable)?;
            let Some(doc) = docs.into_iter().find(|doc| doc.id == RING) else { break };
            let mut ring = Ring::open(&doc.body, &keys)
                .map_err(|e| refusal(&e, &self.payloads.seal_keys.settings, &keys))?;
            if !change(&mut ring) {
                self.payloads.sealer.take_up(ring);
                return Ok(());
            }
            let (rev, body) = (doc.rev, ring.sealed(&keys[0]));
            let write = Write::Keep { doc: Doc { body, ..doc }, rev };
            let settled = self.writes.commit(vec![Planned::Other(write)], 0).await.map_err(unavailable)?;
            if let Some(WriteOutcome::Applied) = settled.outcomes.first() {
                self.payloads.sealer.take_up(ring);
                return Ok(());
            }
        }
        Err(unavailable(StoreError::Unavailable("the key ring kept changing".to_owned())))
    }
}
