//! The pipeline of one attempt, and the [`Link`] through which a worker hears and speaks.
//!
//! A worker knows only its link and its adapters: in process or over a network it is the same code, and it sees
//! neither store nor queue. It decides nothing about retries; it reports how the call ended.

mod attempt;
mod link;
mod worker;

pub use link::{Assignment, End, LeaseRef, Limit, Link, LinkError, Order, Report};
pub use worker::{Engines, Worker, WorkerSettings};
