//! What the roles of a node share: [`Context`](context::Context), and everything that it holds.
//!
//! A file belongs here if it is a part of that state, or a verb that needs nothing but the state and the store. Whatever runs
//! by itself, on a timer or on a nudge, is a role and belongs to the room of its work. No file here names one; what is kept of
//! their rounds is of the room `role`.
//!
//! Only here are methods of `Context` written. What another room does with it is a function of that room, so that every use
//! of one room by another is seen in its imports.
//!
//! Rooms it may use: `blobs`, `seal`, `breakpoints`, `role`.

pub(crate) mod alerts;
pub(crate) mod context;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod figures;
pub(crate) mod history;
pub(crate) mod hub;
pub(crate) mod inputs;
pub(crate) mod joined;
pub(crate) mod large_results;
pub(crate) mod lock;
pub(crate) mod observed;
mod opening;
pub(crate) mod operator_words;
mod orders;
pub(crate) mod pause;
pub(crate) mod payloads;
pub(crate) mod planned;
pub(crate) mod port;
pub(crate) mod registry;
pub(crate) mod results;
pub(crate) mod scaling;
pub(crate) mod scaling_change;
pub(crate) mod scheduler;
pub(crate) mod scheduling;
pub(crate) mod settings;
pub(crate) mod tail;
pub(crate) mod telemetry;
pub(crate) mod traffic;
pub(crate) mod unreached;
pub(crate) mod wanted;
pub(crate) mod workers;
pub(crate) mod writes;
