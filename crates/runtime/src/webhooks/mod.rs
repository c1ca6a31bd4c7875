//! Tells receivers what happened, by HTTP: configured endpoints of the events they want, and `callbackUrl` of an execution's end.
//!
//! What is delivered to whom, how a request is signed and where it may go, what is kept of a receiver, and the verbs by which
//! callers see and change that. Which answer is followed by another try is the rule of `core/webhook`.
//!
//! Rooms it may use: `service`, `state`, `role`.

mod delivery;
mod egress;
mod outbox;
mod receivers;
mod send;
mod sign;
mod verbs;

pub use egress::names_private_address;
pub(crate) use outbox::Webhooks;
pub(crate) use receivers::begin;
