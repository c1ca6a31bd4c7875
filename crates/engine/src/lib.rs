//! One call to one workflow engine: the [`Engine`] trait and its adapters.
//!
//! An adapter knows neither queue nor store nor retry: one request goes out, one [`Outcome`] comes back. Every adapter
//! follows *track, then poll or stream*: it learns the engine's own run id first, hands it to [`Call::attached`] so
//! that it is stored, and only then waits for the end.

mod client;
pub mod command;
pub mod config;
mod contract;
pub mod demo;
pub mod http;
pub mod langflow;
pub mod langsmith;
pub mod n8n;
mod tracked;

pub use client::{
    configured_header, install_crypto, outward_builder, outward_client, retry_after, root_cause, run_traced,
};
pub use command::{Command, CommandConfig, CommandOutput};
pub use contract::*;
pub use demo::Demo;
pub use http::{Http, HttpConfig, HttpFollow, HttpStep, HttpStream};
pub use langflow::{Langflow, LangflowConfig};
pub use langsmith::{Langsmith, LangsmithConfig};
pub use n8n::{N8n, N8nConfig, N8nFiles, N8nMode, N8nWebhook};
