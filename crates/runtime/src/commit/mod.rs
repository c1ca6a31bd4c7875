//! The only writer of rows, and what comes back from the store. Besides it only the first key ring and the room that is given back
//! to the file system are written.
//!
//! The committer gathers what waits and keeps the queue true to the store; a round is one batch, with rows that were read ahead,
//! and settling is what follows from each outcome. The relay reads what was committed elsewhere.
//! What is to be written is decided where it is asked for; only grants are added here. A caller hands its writes to
//! [`Writes::commit`](crate::state::writes::Writes::commit).
//!
//! Rooms it may use: `state`, `breakpoints`, `role`.

pub(crate) mod ahead;
pub(crate) mod committer;
pub(crate) mod relay;
mod round;
mod settle;
