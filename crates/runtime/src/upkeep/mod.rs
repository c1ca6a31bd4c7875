//! What time brings: roles that look at everything there is, again and again, and put right what is due.
//!
//! Timers wake and end executions, gates keep breakers and limits, health asks engines how they are, retention and sweeper
//! remove, the keyring goes on to a new key. Each is idempotent and loses nothing when a nudge is lost. A role that looks
//! after workers belongs to the room `workers`.
//!
//! Rooms it may use: `state`, `blobs`, `seal`, `role`.

pub(crate) mod gates;
pub(crate) mod health;
pub(crate) mod keyring;
pub(crate) mod retention;
pub(crate) mod sweeper;
pub(crate) mod timers;
