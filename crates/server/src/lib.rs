//! The HTTP API in front of the runtime's `Service`: connections, authentication, decoding, problems and the OpenAPI
//! document. It decides nothing about executions.
//!
//! Invariants: every route stands in one table with who may call it, and the router and the OpenAPI document are both made
//! from that table; every answer that is not a success is a problem with a code of the table of codes; everything a
//! client can make large, slow or many has a bound; a caller who hangs up undoes nothing.

mod accept;
mod answer;
mod app;
mod auth;
mod body;
mod call;
mod conditional;
mod cors;
mod events;
mod fields;
mod identity;
mod json;
mod openapi;
mod query;
mod request_id;
mod router;
mod routes;
mod same_origin;
mod server;
mod settings;
mod table;
mod tls;
mod watch;

pub use identity::Identity;
pub use openapi::{openapi, openapi_json};
pub use server::{Bound, Server, ServerError};
pub use settings::{ServerSettings, TlsSettings};
