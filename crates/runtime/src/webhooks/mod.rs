//! Tells receivers what happened, by HTTP: configured endpoints of the events they want, and `callbackUrl` of an execution's end.

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
