//! The keys: looked at with what needs them, and followed by others.

use super::{Service, store_error};
use crate::seal::Needs;
use crate::upkeep::keyring::{needs_of_store, rotate_keys};
use enginehouse_api::{ApiError, DataKeyView, EncryptionView, MissingKeyView, Timestamp};

impl Service {
    /// Counts what is stored by the key that it needs. Reads every payload's beginning, which takes time in a large store.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn encryption(&self) -> Result<EncryptionView, ApiError> {
        let needs = needs_of_store(&self.cx).await.map_err(|e| store_error(&e))?;
        let Needs { mut stored, plain, unknown } = needs;
        let ring = self.cx.payloads.sealer.ring();
        let data_keys: Vec<DataKeyView> = ring
            .keys
            .iter()
            .map(|key| DataKeyView {
                id: key.id.to_string(),
                made_at: Timestamp(key.made),
                retired_at: key.retired.map(Timestamp),
                records: key.records,
                stored: stored.remove(&key.id).unwrap_or(0),
            })
            .collect();
        let missing: Vec<MissingKeyView> =
            stored.into_iter().map(|(id, stored)| MissingKeyView { id: id.to_string(), stored }).collect();
        let sound = missing.is_empty() && unknown == 0;
        Ok(EncryptionView {
            verdict: if sound { "ok" } else { "failed" }.to_owned(),
            encrypts: self.cx.settings.seal.encrypt,
            seal_key_source: self.cx.settings.seal.source.to_string(),
            seal_keys: self.cx.payloads.seal_keys.ids(),
            sealed_at: Timestamp(ring.wrapped),
            data_keys,
            plain,
            unknown,
            missing,
        })
    }

    /// Reads the seal keys again and seals the data keys with the first of them, and lets a new data key seal from here on.
    /// What is stored stays as it is, and opens as before.
    ///
    /// # Errors
    /// `key_unusable` when the seal keys cannot be read, `key_missing` when the one in force is not among them,
    /// `key_ring_full`.
    pub async fn rotate_encryption(&self) -> Result<EncryptionView, ApiError> {
        rotate_keys(&self.cx).await?;
        self.encryption().await
    }
}
