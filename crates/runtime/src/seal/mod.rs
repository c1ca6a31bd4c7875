//! Sealing: what may be compressed, then encrypted, before it reaches a store.
//!
//! Payloads are sealed with data keys ([`record`]), the data keys with the seal key ([`ring`]), and the seal key comes from
//! outside ([`source`]). From the ring come the keyed hashes, too, that let ids and requests be compared without being
//! stored ([`sealer`]). A start opens the ring before anything else ([`unlock`](mod@unlock)).
//!
//! Nothing here writes to a store but the first ring, before there is a committer. Changes of the ring go through the state.
//!
//! Rooms it may use: none.

mod column;
mod error;
mod hex;
mod keys;
mod record;
mod ring;
mod sealer;
mod source;
mod unlock;

pub(crate) use column::{BLOB_NAME, Column};
pub(crate) use error::SealError;
pub(crate) use hex::{hex, unhex};
pub(crate) use keys::fresh_secret;
pub(crate) use record::is_manifest;
pub(crate) use ring::Ring;
pub(crate) use sealer::Sealer;
pub use source::{SealKeySource, SealSettings};
pub use unlock::needed_seal_key;
pub(crate) use unlock::{CHANGES_MAX, Needs, RING, SealKeys, read, refusal, unlock};

#[cfg(test)]
mod tests;
