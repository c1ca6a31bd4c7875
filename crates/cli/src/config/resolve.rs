//! From what was written to what is meant: values are checked against each other, secrets are read, and the settings
//! of each part of the program come out.

use super::blobs::BlobPlace;
use super::engines::{self, EngineConfig};
use super::raw::{LogFormat, PlacementWord, PolicyName, PredictMode, ProviderName, Raw};
use super::secret::Secret;
use super::tree::{Fault, Tree};
use enginehouse_core::autoscaler::{Guards, LateFactors, Parts, Policy, Predict, ScalingRules};
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::limits::CORS_ORIGINS_MAX;
use enginehouse_core::queue::Placement;
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_runtime::{
    ExecutionDefaults, QueueSettings, ScalingSettings, SealKeySource, SealSettings, Settings, WorkerSettings,
};
use secrecy::SecretString;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Values of secrets by their places, `env:NAME` or `file:PATH`.
pub type SecretValues = BTreeMap<String, SecretString>;

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
    pub secrets: SecretValues,
    pub server: ServerConfig,
    pub data_dir: PathBuf,
    /// Which results are blobs, and where they lie.
    pub blobs: BlobPlace,
    /// Where the seal key comes from, if that was said.
    pub seal_key: Option<SealKeySource>,
    pub log_level: String,
    pub log_format: LogFormat,
    /// What the present version does not act on, though it was given, and other advice.
    pub notes: Vec<String>,
}

/// How the HTTP API is served.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub auth: bool,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub connections_max: usize,
    pub event_streams_max: usize,
    pub body_bytes_max: usize,
    pub cors_origins: Vec<String>,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
}

/// How much of the world is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Every secret must be there.
    Read,
    /// Secrets are not looked for; what comes out can be shown, not run.
    Skip,
}

/// Collects faults with their places.
pub(crate) struct Checker<'a> {
    pub(crate) tree: &'a Tree,
    secrets: Secrets,
    /// What stands for the secrets' places; only these are looked into. `None`: the places themselves.
    given: Option<&'a SecretValues>,
    /// The secrets that were read, by their places.
    found: SecretValues,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    /// The value of a secret; the error names its place.
    pub(crate) fn secret(&mut self, secret: &Secret) -> Result<SecretString, String> {
        if self.secrets == Secrets::Skip {
            return Ok(SecretString::from("not-read"));
        }
        let place = secret.place();
        let value = match self.given {
            Some(given) => given.get(&place).cloned().ok_or_else(|| format!("{place} was not given")),
            None => secret.read(),
        }?;
        self.found.insert(place, value.clone());
        Ok(value)
    }

    /// `path` is the key's path joined by `/`.
    pub(crate) fn fault(&mut self, path: &str, message: impl Into<String>) {
        let fault = self.tree.fault(path, message);
        self.faults.push(fault);
    }

    pub(crate) fn require(&mut self, holds: bool, path: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.fault(path, message());
        }
    }
}

/// Checks values against each other and fills in what was not given.
pub(crate) fn resolve(
    raw: &Raw,
    tree: &Tree,
    secrets: Secrets,
    given: Option<&SecretValues>,
) -> Result<Config, Vec<Fault>> {
    let mut checker = Checker { tree, secrets, given, found: BTreeMap::new(), faults: Vec::new() };
    check_spans(raw, &mut checker);
    let server = server(raw, &mut checker);
    let seal_key = seal_key(raw, &mut checker);
    let pools = super::pools::resolve(raw, &mut checker);
    let alerts = super::alerts::resolve(raw, &mut checker);
    let tracing = super::tracing::resolve(&raw.tracing, &mut checker);
    let retention = super::retention::resolve(raw, &mut checker);
    let webhooks = super::webhooks::resolve(raw, &mut checker);
    let blobs = super::blobs::resolve(&raw.storage, &mut checker);
    let scaling = scaling(raw, &mut checker);
    let settings = Settings { scaling, pools, alerts, tracing, retention, webhooks, ..settings(raw) };
    let engines = engines(raw, &settings.defaults.retry, &mut checker);
    match server {
        Some(server) if checker.faults.is_empty() => Ok(Config {
            settings,
            engines,
            worker_processes: raw.workers.provider == ProviderName::Process,
            engine_tables: without_nulls(serde_json::to_value(&raw.engines).unwrap_or_default()),
            secrets: checker.found,
            server,
            data_dir: raw.storage.data_dir.expanded(),
            blobs,
            seal_key,
            log_level: raw.log.level.0.clone(),
            log_format: raw.log.format,
            notes: notes(raw, tree),
        }),
        _ => Err(checker.faults),
    }
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
pub(crate) fn only_scaling(raw: &Raw, tree: &Tree) -> Result<ScalingRules, Vec<Fault>> {
    let mut checker =
        Checker { tree, secrets: Secrets::Skip, given: None, found: BTreeMap::new(), faults: Vec::new() };
    let settings = scaling(raw, &mut checker);
    if checker.faults.is_empty() { Ok(settings.rules) } else { Err(checker.faults) }
}

/// The auto-scaler's rules as configured; a rule that makes no sense is a fault of its key.
fn scaling(raw: &Raw, checker: &mut Checker<'_>) -> ScalingSettings {
    let rules = scaling_rules(raw);
    if let Err(error) = rules.check() {
        let path = match error.field {
            "max_idle_time" => "workers/max_idle_time".to_owned(),
            field => format!("scaling/{}", field.replace('.', "/")),
        };
        checker.fault(&path, error.message);
    }
    ScalingSettings { rules, shadow: raw.scaling.shadow.map(policy), guard_machine: true }
}

fn policy(name: PolicyName) -> Policy {
    match name {
        PolicyName::LeadTime => Policy::LeadTime,
        PolicyName::Threshold => Policy::Threshold,
    }
}

fn scaling_rules(raw: &Raw) -> ScalingRules {
    let scaling = &raw.scaling;
    let (late, guards, parts) = (&scaling.late_factors, &scaling.guards, &scaling.parts);
    ScalingRules {
        policy: policy(scaling.policy),
        min_workers: scaling.min_workers.get32(),
        max_workers: scaling.max_workers.get32(),
        worker_capacity: scaling.worker_capacity.get32(),
        target_utilization: scaling.target_utilization.0,
        scale_up_threshold: scaling.scale_up_threshold.0,
        scale_down_threshold: scaling.scale_down_threshold.0,
        scale_up_cooldown: scaling.scale_up_cooldown.0,
        scale_down_cooldown: scaling.scale_down_cooldown.0,
        worker_startup_time: scaling.worker_startup_time.0,
        slo_wait: scaling.slo_wait.0,
        slo_share: scaling.slo_share.0,
        late_cost: scaling.late_cost.0,
        action_cost: scaling.action_cost.0,
        late_factors: LateFactors {
            low: late.low.0,
            normal: late.normal.0,
            high: late.high.0,
            critical: late.critical.0,
        },
        tick_interval: scaling.tick_interval.0,
        retention: scaling.retention.0,
        tolerance: scaling.tolerance.0,
        predict: match scaling.predict {
            PredictMode::On => Predict::On,
            PredictMode::Shadow => Predict::Shadow,
            PredictMode::Off => Predict::Off,
        },
        guards: Guards {
            mem_soft: guards.mem_soft.0,
            mem_hard: guards.mem_hard.0,
            cpu: guards.cpu.0,
            psi: guards.psi.0,
        },
        drain_timeout: scaling.drain_timeout.0,
        max_idle_time: raw.workers.max_idle_time.map(|span| span.0),
        parts: Parts {
            limiter: parts.limiter.0,
            recurrence: parts.recurrence.0,
            job_ages: parts.job_ages.0,
            headroom: parts.headroom.0,
            retention: parts.retention.0,
            standby: parts.standby.0,
            damping: parts.damping.0,
            learned_startup: parts.learned_startup.0,
        },
        ..ScalingRules::default()
    }
}

fn check_spans(raw: &Raw, checker: &mut Checker<'_>) {
    let fault_tolerance = &raw.fault_tolerance;
    checker.require(
        fault_tolerance.retry_delay.0 <= fault_tolerance.retry_max_delay.0,
        "fault_tolerance/retry_delay",
        || "must not be more than fault_tolerance.retry_max_delay".to_owned(),
    );
    let breaker = &fault_tolerance.circuit_breaker_config;
    checker.require(
        breaker.reset_timeout.0 <= breaker.reset_timeout_max.0,
        "fault_tolerance/circuit_breaker_config/reset_timeout",
        || "must not be more than reset_timeout_max".to_owned(),
    );
    let metrics = &raw.metrics;
    checker.require(
        metrics.collection_interval.0 <= metrics.aggregation_window.0,
        "metrics/aggregation_window",
        || "must not be less than metrics.collection_interval".to_owned(),
    );
    checker.require(
        metrics.aggregation_window.0 <= metrics.retention_period.0,
        "metrics/retention_period",
        || "must not be less than metrics.aggregation_window".to_owned(),
    );
    let defaults = &raw.defaults;
    checker.require(defaults.timeout.0 <= defaults.total_timeout.0, "defaults/total_timeout", || {
        "must not be less than defaults.timeout".to_owned()
    });
    let starts = &raw.queue.head_start;
    let order = [starts.low.0, starts.normal.0, starts.high.0, starts.critical.0];
    checker.require(order.is_sorted(), "queue/head_start", || {
        "may not fall from low to normal to high to critical: more urgent work would start later".to_owned()
    });
}

fn settings(raw: &Raw) -> Settings {
    let starts = &raw.queue.head_start;
    Settings {
        workers: WorkerSettings {
            placement: match raw.workers.placement {
                PlacementWord::Pack => Placement::Pack,
                PlacementWord::Spread => Placement::Spread,
            },
            max_age: raw.workers.max_age.map(|span| span.0),
            max_executions: raw.workers.max_executions.map(|most| most.0),
            max_memory_bytes: raw.workers.max_memory_mib.map(|mib| mib.0 << 20),
        },
        queue: QueueSettings {
            depth_max: raw.queue.depth_max.0,
            engine_depth_max: raw.queue.engine_depth_max.map(|most| most.0),
            user_depth_max: raw.queue.user_depth_max.map(|most| most.0),
            user_weights: raw.queue.user_weights.iter().map(|(user, w)| (user.clone(), w.0)).collect(),
        },
        head_starts: HeadStarts {
            low: starts.low.0,
            normal: starts.normal.0,
            high: starts.high.0,
            critical: starts.critical.0,
        },
        defaults: ExecutionDefaults {
            timeout: raw.defaults.timeout.0,
            total_timeout: raw.defaults.total_timeout.0,
            idle_timeout: raw.defaults.idle_timeout.map(|span| span.0),
            retry: RetryPolicy {
                max_retries: raw.fault_tolerance.max_retries.get32(),
                delay: raw.fault_tolerance.retry_delay.0,
                factor: raw.fault_tolerance.backoff_factor.0,
                max_delay: raw.fault_tolerance.retry_max_delay.0,
                on: Vec::new(),
                not_on: Vec::new(),
            },
        },
        stop_grace: raw.stop.grace.0,
        cancel_grace: raw.stop.cancel_grace.0,
        aggregation_window: raw.metrics.aggregation_window.0,
        collection_interval: raw.metrics.collection_interval.0,
        metrics_retention: raw.metrics.retention_period.0,
        health_interval: raw.health.interval.0,
        concurrency_key_limit: raw.queue.concurrency_key_limit.get32(),
        result_cache_bytes: usize::try_from(raw.storage.result_cache_mib.0 << 20).unwrap_or(usize::MAX),
        seal: SealSettings {
            compress: raw.storage.compression_enabled.0,
            encrypt: raw.storage.encryption_enabled.0,
            data_key_age: raw.storage.data_key_age.0,
            data_key_records: raw.storage.data_key_records.0,
            ..SealSettings::default()
        },
        ..Settings::default()
    }
}

/// Where the seal key comes from; `None`: where the data directory says.
fn seal_key(raw: &Raw, checker: &mut Checker<'_>) -> Option<SealKeySource> {
    let storage = &raw.storage;
    let file = storage.seal_key_file.as_ref().map(|path| SealKeySource::File(path.expanded()));
    let env = storage.seal_key_env.as_ref().map(|name| SealKeySource::Env(name.0.clone()));
    let command = storage.seal_key_command.as_ref().map(|words| SealKeySource::Command(words.0.clone()));
    if matches!(&command, Some(SealKeySource::Command(words)) if words.is_empty()) {
        checker.fault("storage/seal_key_command", "must name a program");
    }
    let mut given = [file, env, command].into_iter().flatten();
    let first = given.next();
    checker.require(given.next().is_none(), "storage", || {
        "the seal key comes from one place: seal_key_file, seal_key_env or seal_key_command".to_owned()
    });
    first
}

fn server(raw: &Raw, checker: &mut Checker<'_>) -> Option<ServerConfig> {
    let server = &raw.server;
    let found = match server.listen.0.to_socket_addrs() {
        Ok(mut found) => found.next(),
        Err(error) => {
            let text =
                format!("{:?} is not an address and port such as 127.0.0.1:7070: {error}", server.listen.0);
            checker.fault("server/listen", text);
            None
        }
    };
    let listen = found?;
    let auth = server.auth.0;
    checker.require(auth || listen.ip().is_loopback(), "server/auth", || {
        format!("API keys may only be left out on an address of this machine, and server.listen is {listen}")
    });
    let tls = server.tls.as_ref().map(|tls| (tls.cert_file.expanded(), tls.key_file.expanded()));
    if let Some((cert, key)) = &tls {
        for (path, name) in [(cert, "server/tls/cert_file"), (key, "server/tls/key_file")] {
            if path.as_os_str().is_empty() {
                checker.fault(name, "is missing; TLS needs a certificate and its key");
            } else if let Err(error) = std::fs::File::open(path) {
                checker.fault(name, format!("{}: {error}", path.display()));
            }
        }
    }
    check_origins(&server.cors_origins.0, checker);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Some(ServerConfig {
        listen,
        auth,
        tls,
        connections_max: size(server.connections_max.0),
        event_streams_max: size(server.event_streams_max.0),
        body_bytes_max: size(server.body_max_mib.0) << 20,
        cors_origins: server.cors_origins.0.clone(),
        handshake_timeout: server.handshake_timeout.duration(),
        header_timeout: server.header_timeout.duration(),
        body_timeout: server.body_timeout.duration(),
        idle_timeout: server.idle_timeout.duration(),
    })
}

/// An origin that no browser ever names would let nobody in, without a word; one that stands for all would let everybody in.
fn check_origins(origins: &[String], checker: &mut Checker<'_>) {
    checker.require(origins.len() <= CORS_ORIGINS_MAX, "server/cors_origins", || {
        format!("has {} origins; at most {CORS_ORIGINS_MAX} may be named", origins.len())
    });
    for origin in origins {
        let named = url::Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let exact = named.as_ref().map(|url| url.origin().ascii_serialization());
        checker.require(exact.as_ref() == Some(origin), "server/cors_origins", || {
            match (exact, origin.as_str()) {
                (Some(exact), _) => format!(
                    "{origin:?} is written {exact:?} by browsers: scheme, host and port, nothing behind"
                ),
                (None, "*") => "\"*\" would let every web page in; name each origin".to_owned(),
                (None, _) => format!("{origin:?} is no origin such as https://app.example"),
            }
        });
    }
}

fn engines(raw: &Raw, retry: &RetryPolicy, checker: &mut Checker<'_>) -> Vec<EngineConfig> {
    let raw_breaker = &raw.fault_tolerance.circuit_breaker_config;
    let breaker = BreakerRules {
        failure_threshold: raw_breaker.failure_threshold.get32(),
        failure_ratio: raw_breaker.failure_ratio.0,
        reset_timeout: raw_breaker.reset_timeout.0,
        reset_timeout_max: raw_breaker.reset_timeout_max.0,
        monitoring_period: raw_breaker.monitoring_period.0,
    };
    let mut found = Vec::new();
    let mut defaults: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, engine) in &raw.engines.0 {
        let path = format!("engines/{name}");
        let valid = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && name.as_bytes()[0].is_ascii_alphanumeric();
        checker.require(valid, &path, || {
            "an engine's name is 1 to 64 of a-z A-Z 0-9 . _ - and begins with a letter or digit".to_owned()
        });
        let kind = engine.adapter.engine_type();
        if engine.common.default.0
            && let Some(other) = defaults.insert(kind, name)
        {
            checker.fault(
                &format!("{path}/default"),
                format!("there can be one default for the type {kind}, and {other} is it already"),
            );
        }
        found.extend(engines::resolve(name, engine, retry, breaker, checker));
    }
    found
}

/// What was given and changes nothing in this version.
fn notes(raw: &Raw, tree: &Tree) -> Vec<String> {
    let mut notes = Vec::new();
    super::each_key(&super::raw::keys(), raw, &mut |path, key| {
        let joined = path.join("/");
        if key.later && tree.given(&joined) {
            let place = tree.origin(&joined).unwrap_or_default();
            notes.push(format!("{place}: {} is kept, but this version does not act on it", path.join(".")));
        }
    });
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_as_the_rules_say_themselves() {
        assert_eq!(scaling_rules(&Raw::default()), ScalingRules::default());
    }
}
