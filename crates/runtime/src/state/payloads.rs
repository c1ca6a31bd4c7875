//! What seals and opens, and the requests and results that are at hand.

use super::inputs::InputCache;
use super::lock::Lock;
use super::results::ResultCache;
use crate::blobs::Blobs;
use crate::seal::{SealKeys, Sealer};
use enginehouse_core::execution::Execution;
use enginehouse_core::id::{ExecutionId, Key};

pub(crate) struct Payloads {
    pub(crate) sealer: Sealer,
    pub(crate) seal_keys: SealKeys,
    pub(crate) inputs: Lock<InputCache>,
    pub(crate) results: Lock<ResultCache>,
    /// The place of large results, if there is one.
    pub(crate) blobs: Option<Blobs>,
}

impl Payloads {
    /// The id callers see.
    pub(crate) fn public_id(&self, row: &Execution) -> String {
        self.id_of(row.key(), row.fixed.ext_id.as_ref())
    }

    /// The id under which callers know an execution.
    pub(crate) fn id_of(&self, key: Key, ext_id: Option<&ExecutionId>) -> String {
        match ext_id {
            Some(id) => id.to_string(),
            None => key.to_uuid(self.sealer.id_tag(key)),
        }
    }

    /// What is kept of the token of a worker process.
    pub(crate) fn token_hash(&self, token: &str) -> String {
        self.sealer.name_hash(&format!("worker-token:{token}"))
    }
}
