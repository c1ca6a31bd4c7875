//! The only way into the store, and what comes back of it.
//!
//! The committer gathers what waits and keeps the queue true to the store; a round is one batch, with rows that were read ahead,
//! and settling is what follows from each outcome. The relay reads what was committed elsewhere. What is to be written is decided where it is asked for, never here; here only grants are
//! added. Anyone who wants something written calls `Context::commit`.
//!
//! Rooms it may use: `state`, `breakpoints`, `role`.

pub(crate) mod ahead;
pub(crate) mod committer;
pub(crate) mod relay;
mod round;
mod settle;
