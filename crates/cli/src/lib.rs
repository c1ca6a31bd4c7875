//! Enginehouse as a library: durable execution of AI workflows on the engines that run them.
//!
//! [`ExecutionService`] offers the verbs of the HTTP API inside your own program: build it from a configuration,
//! register engines of your own ([`Engine`]), start it, submit. Everything needed is re-exported here.

#![deny(missing_docs)]

pub mod config;
pub mod directory;
pub mod plain_text;
mod service;

pub use service::{Builder, ExecutionService, Files, StartError, Waited};

/// For an implementation of [`Engine`].
pub use async_trait::async_trait;
/// What an engine gets and gives.
pub use bytes::Bytes;

pub use config::{Config, ConfigFaults};
pub use enginehouse_api as api;
pub use enginehouse_api::{
    ApiError, BatchAnswer, Code, ExecutionView, FailureView, FilterRequest, MetricsView, QueueView,
    ResultView, RetryRequest, SubmitRequest, WorkerView,
};
pub use enginehouse_core::execution::Status;
pub use enginehouse_core::failure::FailureKind;
pub use enginehouse_core::priority::Priority;
pub use enginehouse_engine::{
    Call, Capabilities, Engine, EngineFailure, Health, Host, LetGo, Outcome, Progress, Reached, Stop,
    Workflow,
};
pub use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, EventItem, EventStream, RegisteredEngine, Scope, SealKeySource,
    Service,
};
