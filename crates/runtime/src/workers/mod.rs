//! This node's workers from their launch to their end: how many of which pool, where they run, what they are told, what they
//! hold, and what becomes of it when they die.
//!
//! How many workers there should be is decided by the room `scaling`, and which of them gets work by the scheduler in `state`.
//! The protocol that workers elsewhere speak is a part of the room `service`.
//!
//! Rooms it may use: `state`, `blobs`, `seal`, `breakpoints`, `role`.

pub(crate) mod dedicated;
pub(crate) mod link;
pub(crate) mod pool;
pub(crate) mod ports;
pub(crate) mod processes;
pub(crate) mod provider;
pub(crate) mod reaper;
pub(crate) mod sessions;
