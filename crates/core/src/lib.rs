//! The pure domain of Enginehouse: every decision, and nothing that waits.
//!
//! Nothing here is async, does IO, reads a clock or rolls dice: `now` and random numbers are passed in, so a decision
//! can be tested as a table, replayed from a seed and run in virtual time.

pub mod alert;
pub mod autoscaler;
pub mod balance;
pub mod breaker;
pub mod event;
pub mod exact;
pub mod execution;
pub mod failure;
pub mod gate;
pub mod id;
pub mod lab;
#[cfg(not(feature = "planted-bugs"))]
pub mod lifecycle;
#[cfg(feature = "planted-bugs")]
#[path = "planted/lifecycle.rs"]
pub mod lifecycle;
pub mod limiter;
pub mod limits;
pub mod pace;
pub mod pauses;
pub mod planted;
pub mod pool;
pub mod pools;
pub mod priority;
pub mod queue;
pub mod rank;
pub mod reach;
pub mod reason;
pub mod retention;
pub mod retry;
pub mod run_times;
pub mod session;
#[cfg(feature = "planted-bugs")]
#[allow(unreachable_pub, reason = "some of it is reached through what plants faults only")]
#[path = "lifecycle.rs"]
mod sound_lifecycle;
pub mod sse;
pub mod surrogate;
pub mod time;
pub mod trace;
pub mod trace_context;
pub mod wait;
pub mod webhook;
