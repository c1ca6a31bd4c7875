//! The sections of the configuration, a file each: its keys with their defaults, and what they come to.
//!
//! A section checks its values against each other and puts its part into the node's settings; what it needs of another
//! section is passed to it. No section knows another one, or the whole. Each takes its table apart key by key, so that a
//! key that no one reads does not compile.

pub(super) mod alerts;
pub(super) mod defaults;
pub(super) mod engines;
pub(super) mod fault_tolerance;
pub(super) mod health;
pub(super) mod log;
pub(super) mod metrics;
pub(super) mod queue;
pub(super) mod scaling;
pub(super) mod server;
pub(super) mod stop;
pub(super) mod storage;
pub(super) mod tracing;
pub(super) mod webhooks;
pub(super) mod workers;
