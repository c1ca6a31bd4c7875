//! Durability: the [`Store`] trait and its drivers.
//!
//! Charter: a driver keeps rows and applies [`Transition`](enginehouse_core::lifecycle::Transition)s by
//! compare-and-set; it decides nothing. Batching, queue order and retries live above it. Only this crate knows tables.

pub mod clock;
mod contract;
mod history;
mod memory;
pub mod sqlite;

pub use clock::{ManualClock, SystemClock};
pub use contract::*;
pub use memory::MemoryStore;
pub use sqlite::{Durability, SqliteOptions, SqliteStore, Threads};
