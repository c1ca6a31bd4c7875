//! The pipeline of one attempt, and the [`Link`] through which a worker hears and speaks.
//!
//! A worker knows only its link and its adapters: in process or over a network it is the same code, and it sees
//! neither store nor queue. It decides nothing about retries; it reports how the call ended.

mod attempt;
mod http_link;
mod link;
mod settings;
mod wire;
mod worker;

pub use bytes::Bytes;
pub use enginehouse_core::id::Fence;
pub use http_link::{HttpLink, Over};
pub use link::{Assignment, End, LeaseRef, Limit, Link, LinkError, Order, Report};
pub use settings::{Engines, WorkerSettings};
pub use wire::{WireError, assignment_from_wire, assignment_to_wire, end_from_wire, end_to_wire};
pub use worker::Worker;
