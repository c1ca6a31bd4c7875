//! From what was written to what is meant: each section comes to its part of the whole.

use super::checker::{Checker, SecretValues, Secrets};
use super::raw::Raw;
use super::sections::engines::EngineConfig;
use super::sections::log::LogFormat;
use super::sections::storage::blobs::BlobPlace;
use super::sections::workers::ProviderName;
use super::sections::{
    alerts, defaults, engines, fault_tolerance, health, metrics, queue, scaling, server, stop, storage,
    tracing, webhooks, workers,
};
use super::tree::{Fault, Tree};
use enginehouse_core::autoscaler::ScalingRules;
use enginehouse_runtime::{SealKeySource, Settings};
use enginehouse_server::ServerSettings;
use serde_json::Value;
use std::path::PathBuf;

/// The whole configuration: every default filled in, every value checked, secrets read.
#[derive(Clone)]
pub struct Config {
    /// What a node is started with; the seal key's place is decided with the data directory.
    pub settings: Settings,
    /// In the order of their names.
    pub engines: Vec<EngineConfig>,
    /// Workers are processes of their own.
    pub worker_processes: bool,
    /// The table `engines` as it was written, in snake_case, and the values of the secrets that it names: what worker
    /// processes are told.
    pub engine_tables: serde_json::Value,
    /// The secrets by the names that the tables use.
    pub secrets: SecretValues,
    /// How the HTTP API is served.
    pub server: ServerSettings,
    /// The directory of the store.
    pub data_dir: PathBuf,
    /// Which results are blobs, and where they lie.
    pub blobs: BlobPlace,
    /// Where the seal key comes from, if that was said.
    pub seal_key: Option<SealKeySource>,
    /// A filter as `tracing` reads it, such as `info` or `info,enginehouse=debug`.
    pub log_level: String,
    /// How log lines are written.
    pub log_format: LogFormat,
}

/// Checks values against each other and fills in what was not given.
pub(super) fn resolve(
    raw: &Raw,
    tree: &Tree,
    secrets: Secrets,
    given: Option<&SecretValues>,
) -> Result<Config, Vec<Fault>> {
    let mut checker = Checker::new(tree, secrets, given);
    let check = &mut checker;
    let mut settings = Settings::default();
    let set = &mut settings;
    let is_engine = |name: &str| raw.engines.0.contains_key(name);
    let breaker = fault_tolerance::resolve(&raw.fault_tolerance, set, check);
    metrics::resolve(&raw.metrics, set, check);
    defaults::resolve(&raw.defaults, set, check);
    queue::resolve(&raw.queue, set, check);
    stop::resolve(&raw.stop, set);
    health::resolve(&raw.health, set);
    let server = server::resolve(&raw.server, check);
    let place = storage::resolve(&raw.storage, is_engine, set, check);
    workers::resolve(&raw.workers, raw.scaling.max_workers.get32(), set, check);
    scaling::resolve(&raw.scaling, raw.workers.max_idle_time, set, check);
    alerts::resolve(&raw.alerts, set, check);
    tracing::resolve(&raw.tracing, set, check);
    webhooks::resolve(&raw.webhooks, raw.callbacks.as_ref(), is_engine, set, check);
    let engines = engines::resolve(&raw.engines, &set.defaults.retry, breaker, check);
    let secrets = checker.finish()?;
    Ok(Config {
        settings,
        engines,
        worker_processes: raw.workers.provider == ProviderName::Process,
        engine_tables: without_nulls(serde_json::to_value(&raw.engines).unwrap_or_default()),
        secrets,
        server,
        data_dir: place.data_dir,
        blobs: place.blobs,
        seal_key: place.seal_key,
        log_level: raw.log.level.0.clone(),
        log_format: raw.log.format,
    })
}

/// Keys that hold nothing mean the same as keys that are not there, and only the latter may be written.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(keys) => {
            let kept = keys.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The auto-scaler's rules, checked by themselves.
pub(super) fn only_scaling(raw: &Raw, tree: &Tree) -> Result<ScalingRules, Vec<Fault>> {
    let mut checker = Checker::new(tree, Secrets::Skip, None);
    let rules = scaling::rules(&raw.scaling, raw.workers.max_idle_time, &mut checker);
    checker.finish().map(|_| rules)
}
