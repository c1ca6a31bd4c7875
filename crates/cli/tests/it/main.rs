//! The real program from outside: real processes, real HTTP, real signals. One binary for all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what a test cannot go on without may end it")]
#![allow(clippy::print_stdout, reason = "figures are printed for whoever looks")]

mod agent_server;
mod api;
mod bad_input;
mod bench;
mod blobs;
mod breaker;
mod burst;
mod cancels;
mod command_line;
#[cfg(debug_assertions)]
mod crash_points;
mod door;
mod embedded;
mod engine_keys;
mod engines;
mod events;
mod faults;
mod house;
mod http;
mod ids;
mod kills;
mod large_requests;
mod ledger;
mod limits;
mod load;
mod metrics;
mod origins;
mod picture;
mod restored;
mod results;
mod retention;
mod scaling;
mod sealed;
mod stopping;
mod submitting;
mod tracing;
mod waiting;
mod watching;
mod webhooks;
mod which_service;
mod worker_links;
mod workers;
