//! Why something sealed does not open.

use super::keys::KeyId;
use enginehouse_api::{ApiError, Code};

/// Why something sealed does not open. The texts name keys, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("it was sealed with data key {0}, which the store's key ring does not have")]
    MissingKey(KeyId),
    #[error("it was sealed with data key {0}, and was tampered with or damaged since")]
    Damaged(KeyId),
    #[error("it is not encrypted, though everything in this store is")]
    Bare,
    #[error(
        "it is no sealed payload of a format that this program knows; it is damaged, or of a newer program"
    )]
    Unknown,
    #[error("it is larger than {0} bytes when opened")]
    TooLarge(usize),
    #[error("the store's key ring needs seal key {0}, which is not at hand")]
    MissingSealKey(KeyId),
    #[error("the store's key ring was tampered with or damaged")]
    RingDamaged,
    #[error("the store's key ring is not there")]
    NoRing,
    #[error("{place}, where the seal key comes from, cannot be used: {why}")]
    Source { place: String, why: String },
}

impl SealError {
    /// The stable code of this error.
    pub(crate) fn code(&self) -> Code {
        match self {
            SealError::MissingKey(_) | SealError::MissingSealKey(_) => Code::KeyMissing,
            SealError::Source { .. } => Code::KeyUnusable,
            _ => Code::PayloadDamaged,
        }
    }

    pub(crate) fn public(&self, what: &str) -> ApiError {
        ApiError::new(self.code(), format!("{what} cannot be opened: {self}"))
    }
}
