//! The shapes of the HTTP API: every JSON body in and out, the table of error codes, and list cursors.
//!
//! Invariant: a JSON shape of the API is defined here and nowhere else; the server, the CLI and the library share it.

#[cfg(feature = "client")]
pub mod client;
mod error;
mod error_page;
mod execution;
mod object;
mod request;
mod scalar;
mod scaling;
mod service;
mod watching;
mod word;
mod worker_protocol;

pub use enginehouse_core::surrogate::*;
pub use error::*;
pub use error_page::*;
pub use execution::*;
pub use object::Object;
pub use scalar::*;
pub use scaling::*;
pub use service::*;
pub use watching::*;
pub use word::*;
pub use worker_protocol::*;
