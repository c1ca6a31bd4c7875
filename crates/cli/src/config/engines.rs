//! `[engines.NAME]`: what all engines have in common, what those that speak HTTP share, and what each type adds.

mod command;
mod rules;
mod service;

use super::checker::Checker;
use super::secret::{Private, Secret};
use super::types::{
    Factor, FilePath, Flag, Fraction, Key, Rate, Section, Setting, Span, Text, Texts, Whole, choice, section,
};
use enginehouse_core::balance::{BalanceRules, Balancing};
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::pace::RetryBudgetRules;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{DAY, HOUR, SECOND};
use enginehouse_engine::config::{EndpointConfig, HealthRoute, HttpSettings, PollSettings};
use enginehouse_engine::langflow::LangflowApi;
use enginehouse_engine::{
    Command, CommandConfig, Demo, Engine, HttpConfig, Langflow, LangflowConfig, Langsmith, LangsmithConfig,
    N8n, N8nConfig, N8nFiles, N8nMode, N8nWebhook,
};
use enginehouse_runtime::{EndpointSettings, EngineSettings, RegisteredEngine};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

section! {
    /// Keys of every engine.
    pub struct Common {
        /// The engine for requests that name only its type; needed as soon as a type has several engines.
        default: Flag = Flag(false);
        /// Whether requests may carry workflow definitions. Whoever may send one runs code on the engine.
        allow_inline: Flag = Flag(false);
        /// Attempts running at once per endpoint. Absent: bounded by the workers only.
        max_concurrency: Option<Whole<1, 10000>> = None;
        /// Lowers the concurrency below `max_concurrency` while the engine is slow or refuses.
        adaptive: Flag = Flag(true);
        /// Attempts started per time. Absent: any number.
        rate_limit: Option<Rate> = None;
        /// Which endpoint gets the next attempt. With any, none that is full or whose breaker is open.
        balancing: BalancingWord = BalancingWord::LeastExpected;
        /// `concurrency_key`: the work of one key goes to one endpoint, as long as that takes it and has not far more than its share. Absent: nothing sticks.
        sticky: Option<StickyWord> = None;
        /// An endpoint that fails far more often than the others, or takes far longer, gets nothing new for a while; at most half of them at a time.
        eject_outliers: Flag = Flag(true);
        /// How many of the engine's attempts may be retries; beyond it retries wait.
        retry_budget: RetryBudgetRaw = RetryBudgetRaw::default();
        /// Replaces parts of `fault_tolerance` for this engine's work.
        retry: Option<Retry> = None;
    }

    /// How many of an engine's attempts may be retries.
    pub struct RetryBudgetRaw {
        /// Retries per success of the last minute.
        ratio: Fraction = Fraction(0.2);
        /// Retries that may always start, per minute.
        per_minute: Whole<0, 100000> = Whole(60);
    }

    /// Says of failures that look like this whether they are retried; what is not given matches anything.
    pub struct RetryRuleRaw {
        /// The failure's kind.
        kind: Option<Text> = None;
        /// The HTTP status of the engine's answer, or the exit status of a command.
        status: Option<Whole<0, 999>> = None;
        /// The failure's code.
        code: Option<Text> = None;
        /// A regular expression that is found in what the engine said.
        message: Option<Text> = None;
        /// Whether such failures are retried.
        retry: Flag = Flag(false);
    }

    /// Replaces parts of `fault_tolerance` for one engine's work.
    pub struct Retry {
        /// Attempts beyond the first.
        max_retries: Option<Whole<0, 1000>> = None;
        /// Bound of the first back-off.
        delay: Option<Span<0, DAY>> = None;
        /// How the bound grows with each retry.
        factor: Option<Factor> = None;
        /// Ceiling of the bound.
        max_delay: Option<Span<0, DAY>> = None;
        /// Failure kinds retried beside the usual ones.
        on: Texts = Texts::default();
        /// Failure kinds never retried.
        not_on: Texts = Texts::default();
        /// Rules for single failures, above their kinds; the first that matches decides.
        rules: Vec<RetryRuleRaw> = Vec::new();
    }

    /// Keys of the engines that speak HTTP.
    pub struct Http {
        /// Where the engine is; the work is spread over them as `balancing` says.
        endpoints: Vec<Endpoint> = Vec::new();
        /// Sent in the header that the engine wants it in.
        api_key: Option<Secret> = None;
        /// More headers for every request, by name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
        /// PEM file with certificates to trust besides those of the system.
        ca_file: Option<FilePath> = None;
        /// URL of a proxy for every request to the engine: `http://` or `https://`. One with a user and a password comes from a file or the environment.
        proxy: Option<Private> = None;
        /// How an endpoint is asked for its health: a path for a GET, or `off`. Absent: what the engine's type has for it. Where there is no such route, its work says how it is.
        health: Option<Text> = None;
        /// The longest that name lookup, TCP and TLS handshake may take together.
        connect_timeout: Span<1, HOUR> = Span(5 * SECOND);
        /// The longest from sending a request to the head of its answer, and for small answers to their end.
        request_timeout: Span<1, DAY> = Span(30 * SECOND);
        /// The longest from sending a request to the end of a body that may carry a result.
        transfer_timeout: Span<1, DAY> = Span(300 * SECOND);
        /// How a running workflow is followed.
        poll: PollRaw = PollRaw::default();
    }

    /// One base URL of an engine.
    pub struct Endpoint {
        /// `http://` or `https://`, with an optional path; without user, password, query or fragment.
        url: Option<Text> = None;
        /// Its share of the work relative to the other endpoints, if they are equally fast.
        weight: Whole<1, 1000> = Whole(1);
    }

    /// How a running workflow is followed by polling.
    pub struct PollRaw {
        /// The first pause between two polls.
        first: Span<10, HOUR> = Span(250);
        /// The pause grows to this; at least `first`.
        longest: Span<10, HOUR> = Span(2 * SECOND);
        /// How long an engine may be out of reach before the attempt is given up; its run is left alone.
        unreachable_after: Span<100, DAY> = Span(30 * SECOND);
    }

    /// Keys of the type `demo`, which runs inside the service.
    pub struct DemoRaw {
        /// Endpoints it pretends to have.
        endpoint_count: Whole<1, 256> = Whole(1);
    }

    /// Keys of the type `langflow`. The API key is sent as `x-api-key`.
    pub struct LangflowRaw {
        /// Which of Langflow's interfaces runs the flows.
        api: ApiWord = ApiWord::V2;
        /// Hands `parameters.tweaks` on, which change the fields of a flow's components.
        allow_tweaks: Flag = Flag(false);
        /// Hands `parameters.globals` on, which stand in for Langflow's global variables.
        allow_globals: Flag = Flag(false);
        /// A run that asks a human is waited for, instead of ending as failed with the code `needs_input`.
        wait_for_input: Flag = Flag(false);
        /// Reads a run's events for progress.
        progress: Flag = Flag(true);
    }

    /// Keys of the type `n8n`. The API key is sent as `X-N8N-API-KEY`, and never to a webhook.
    pub struct N8nRaw {
        /// How workflows are called, by their id. Others are asked for through n8n's API and called by what they say.
        workflows: BTreeMap<String, WebhookRaw> = BTreeMap::new();
        /// Base URL of the webhooks, where they are not called at the endpoint (n8n's `WEBHOOK_URL`, a webhook processor of its own). For an engine with one endpoint.
        webhook_url: Option<Text> = None;
        /// The first part of a webhook's path, as n8n's `N8N_ENDPOINT_WEBHOOK` says.
        webhook_prefix: Text = Text("webhook".to_owned());
        /// What a result says of the files of its items, under `$files` beside what they say themselves.
        files: FilesWord = FilesWord::Metadata;
    }

    /// The webhook of one workflow.
    pub struct WebhookRaw {
        /// What follows `/webhook/` in its URL.
        path: Option<Text> = None;
        /// How its execution is known: the webhook's answer holds `executionId` (`track`), a node behind it answers with it (`ack`), or it is found by the header `x-execution-key` (`lookup`).
        mode: ModeWord = ModeWord::Track;
        /// What the webhook's own authentication asks for, by header name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
    }

    /// Keys of the type `langsmith`: LangSmith Deployment and every other LangGraph Agent Server. The API key is sent as `x-api-key`.
    pub struct LangsmithRaw {
        /// What a run streams as progress: such as `custom`, `updates`, `messages`; empty for none.
        stream_modes: Texts = Texts(vec!["custom".to_owned(), "updates".to_owned()]);
    }
}

choice! {
    /// Which endpoint gets the next attempt.
    pub enum BalancingWord {
        /// The one on which it should be done first, by live load and learned run time.
        LeastExpected "least_expected",
        /// In turn, exactly by weight, whatever the endpoints' speed and load: a new version gets its share, a quota is kept.
        RoundRobin "round_robin",
    }

    /// What keeps work on one endpoint.
    pub enum StickyWord {
        /// Its concurrency key.
        ConcurrencyKey "concurrency_key",
    }

    /// How an n8n execution is known.
    pub enum ModeWord {
        /// The webhook answers at once with the id.
        Track "track",
        /// A node behind it answers with the id.
        Ack "ack",
        /// It is found by a header.
        Lookup "lookup",
    }

    /// What a result says of files.
    pub enum FilesWord {
        /// Name, type and size.
        Metadata "metadata",
        /// Their bytes as well, as base64, where n8n keeps them with the execution (`N8N_DEFAULT_BINARY_DATA_MODE=default`).
        Base64 "base64",
    }

    /// Langflow's interfaces.
    pub enum ApiWord {
        /// Background jobs, which can be stopped and taken up again.
        V2 "v2",
        /// One request per run, for what v2 does not serve: nothing can be stopped or taken up again.
        V1 "v1",
    }
}

/// The engine types this program builds.
pub const TYPES: &[&str] = &["n8n", "langflow", "langsmith", "http", "command", "demo"];

/// The keys of an engine type; `None` for a type that is not built.
#[must_use]
pub(crate) fn keys_of(engine_type: &str) -> Option<Vec<Key>> {
    let (http, own) = match engine_type {
        "http" => (true, service::HttpRaw::keys()),
        "command" => (false, command::CommandRaw::keys()),
        "demo" => (false, DemoRaw::keys()),
        "n8n" => (true, N8nRaw::keys()),
        "langflow" => (true, LangflowRaw::keys()),
        "langsmith" | "langgraph" => (true, LangsmithRaw::keys()),
        _ => return None,
    };
    let mut keys = vec![type_key()];
    keys.extend(Common::keys());
    if http {
        keys.extend(Http::keys());
    }
    keys.extend(own);
    Some(keys)
}

/// What every engine has first.
fn type_key() -> Key {
    Key {
        name: "type",
        doc: "Which kind of engine this is; decides which other keys there are. `langgraph` is another word for `langsmith`."
            .to_owned(),
        default: Value::Null,
        shape: Text::shape(),
    }
}

/// One engine as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineRaw {
    pub common: Common,
    pub adapter: AdapterRaw,
}

/// What depends on the type.
#[derive(Debug, Clone, PartialEq)]
pub enum AdapterRaw {
    Http(Box<Http>, Box<service::HttpRaw>),
    Command(command::CommandRaw),
    Demo(DemoRaw),
    N8n(Box<Http>, N8nRaw),
    Langflow(Box<Http>, LangflowRaw),
    Langsmith(Box<Http>, LangsmithRaw),
}

impl AdapterRaw {
    /// The keys that all engines share which speak HTTP.
    fn http(&self) -> Option<&Http> {
        match self {
            AdapterRaw::Http(http, _) => Some(http),
            AdapterRaw::N8n(http, _) => Some(http),
            AdapterRaw::Langflow(http, _) => Some(http),
            AdapterRaw::Langsmith(http, _) => Some(http),
            AdapterRaw::Command(_) | AdapterRaw::Demo(_) => None,
        }
    }

    #[must_use]
    pub fn engine_type(&self) -> &'static str {
        match self {
            AdapterRaw::Http(..) => "http",
            AdapterRaw::Command(..) => "command",
            AdapterRaw::Demo(..) => "demo",
            AdapterRaw::N8n(..) => "n8n",
            AdapterRaw::Langflow(..) => "langflow",
            AdapterRaw::Langsmith(..) => "langsmith",
        }
    }
}

impl<'de> Deserialize<'de> for EngineRaw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut table = Map::deserialize(from)?;
        let kind = match table.remove("type") {
            Some(Value::String(kind)) => kind,
            _ => return Err(D::Error::missing_field("type")),
        };
        let common = take(&mut table).map_err(D::Error::custom)?;
        let adapter = adapter(&kind, table).map_err(D::Error::custom)?;
        Ok(EngineRaw { common, adapter })
    }
}

fn adapter(kind: &str, mut table: Map<String, Value>) -> Result<AdapterRaw, serde_json::Error> {
    let table = &mut table;
    Ok(match kind {
        "http" => AdapterRaw::Http(Box::new(take(table)?), Box::new(take(table)?)),
        "command" => AdapterRaw::Command(take(table)?),
        "demo" => AdapterRaw::Demo(take(table)?),
        "n8n" => AdapterRaw::N8n(Box::new(take(table)?), take(table)?),
        "langflow" => AdapterRaw::Langflow(Box::new(take(table)?), take(table)?),
        "langsmith" | "langgraph" => AdapterRaw::Langsmith(Box::new(take(table)?), take(table)?),
        other => return Err(serde::de::Error::custom(format!("{other:?} is not an engine type"))),
    })
}

/// Takes the keys of one section out of a table.
fn take<T: Section>(table: &mut Map<String, Value>) -> Result<T, serde_json::Error> {
    let mut own = Map::new();
    for key in T::keys() {
        if let Some(value) = table.remove(key.name) {
            own.insert(key.name.to_owned(), value);
        }
    }
    serde_json::from_value(Value::Object(own))
}

impl Serialize for EngineRaw {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut table = Map::new();
        table.insert("type".to_owned(), Value::from(self.adapter.engine_type()));
        add(&mut table, &self.common);
        match &self.adapter {
            AdapterRaw::Http(http, own) => {
                add(&mut table, http);
                add(&mut table, own);
            }
            AdapterRaw::Command(own) => add(&mut table, own),
            AdapterRaw::Demo(own) => add(&mut table, own),
            AdapterRaw::N8n(http, own) => {
                add(&mut table, http);
                add(&mut table, own);
            }
            AdapterRaw::Langflow(http, own) => {
                add(&mut table, http);
                add(&mut table, own);
            }
            AdapterRaw::Langsmith(http, own) => {
                add(&mut table, http);
                add(&mut table, own);
            }
        }
        table.serialize(to)
    }
}

fn add(table: &mut Map<String, Value>, section: &impl Serialize) {
    if let Ok(Value::Object(keys)) = serde_json::to_value(section) {
        table.extend(keys);
    }
}

/// A group of keys in docs/CONFIG.md.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) keys: Vec<Key>,
}

/// Every key of every engine type, grouped as a reader looks for them.
pub(crate) fn groups() -> Vec<Group> {
    let mut all = vec![type_key()];
    all.extend(Common::keys());
    let group = |title, about, keys| Group { title, about, keys };
    vec![
        group("Every engine", "Keys of `[engines.NAME]`, whatever its type.", all),
        group(
            "Engines that speak HTTP",
            "Also keys of the types `n8n`, `langflow`, `langsmith` and `http`.",
            Http::keys(),
        ),
        group(
            "`http`",
            "Any HTTP service. The API key is sent as `x-api-key`. Templates are minijinja: those of requests see \
             `parameters`, `workflow_id`, `execution_id`, `session_id`, `attempt` and `idempotency_key`, those of `follow` \
             also `run_id`; conditions see `status` and `body`.",
            service::HttpRaw::keys(),
        ),
        group(
            "`command`",
            "A local program: the parameters are its standard input as JSON, its standard error is kept as logs.",
            command::CommandRaw::keys(),
        ),
        group("`demo`", "Runs inside the service; its parameters say what happens.", DemoRaw::keys()),
        group(
            "`n8n`",
            "n8n. The API key is sent as `X-N8N-API-KEY`, and never to a webhook.",
            N8nRaw::keys(),
        ),
        group("`langflow`", "Langflow. The API key is sent as `x-api-key`.", LangflowRaw::keys()),
        group(
            "`langsmith`",
            "LangSmith Deployment and every other LangGraph Agent Server. The API key is sent as `x-api-key`.",
            LangsmithRaw::keys(),
        ),
    ]
}

/// An engine with everything its adapter needs.
#[derive(Clone)]
pub struct EngineConfig {
    pub settings: EngineSettings,
    pub adapter: AdapterConfig,
}

/// What an adapter is built from.
#[derive(Clone)]
pub enum AdapterConfig {
    Http(Box<HttpConfig>),
    Command(CommandConfig),
    Demo { endpoints: usize },
    N8n(N8nConfig),
    Langflow(LangflowConfig),
    Langsmith(LangsmithConfig),
}

impl EngineConfig {
    /// Builds the adapter.
    pub fn build(self) -> Result<RegisteredEngine, enginehouse_engine::config::ConfigError> {
        let adapter: Arc<dyn Engine> = match self.adapter {
            AdapterConfig::Http(config) => Arc::new(enginehouse_engine::Http::new(*config)?),
            AdapterConfig::Command(config) => Arc::new(Command::new(config)?),
            AdapterConfig::Demo { endpoints } => Arc::new(Demo::new(endpoints)?),
            AdapterConfig::N8n(config) => Arc::new(N8n::new(config)?),
            AdapterConfig::Langflow(config) => Arc::new(Langflow::new(config)?),
            AdapterConfig::Langsmith(config) => Arc::new(Langsmith::new(config)?),
        };
        Ok(RegisteredEngine { settings: self.settings, adapter })
    }
}

/// Checks one engine; the faults go to the checker.
pub(crate) fn resolve(
    name: &str,
    raw: &EngineRaw,
    retry: &RetryPolicy,
    breaker: BreakerRules,
    checker: &mut Checker<'_>,
) -> Option<EngineConfig> {
    let path = format!("engines/{name}");
    let retry_rules = rules::resolve(raw.common.retry.as_ref(), &path, checker);
    let retry = raw.common.retry.as_ref().and_then(|own| resolve_retry(own, retry, &path, checker));
    let (endpoints, adapter) = match &raw.adapter {
        AdapterRaw::Http(http, own) => {
            let (endpoints, http) = resolve_http(http, &path, checker)?;
            (endpoints, AdapterConfig::Http(Box::new(service::resolve(own, http, &path, checker))))
        }
        AdapterRaw::Command(own) => {
            let config = command::resolve(own, &path, checker);
            let name = config.argv.first().cloned().unwrap_or_default();
            (vec![EndpointSettings { name, weight: 1.0 }], AdapterConfig::Command(config))
        }
        AdapterRaw::Demo(own) => {
            let count = own.endpoint_count.0 as usize;
            let endpoints =
                (1..=count).map(|n| EndpointSettings { name: format!("demo-{n}"), weight: 1.0 }).collect();
            (endpoints, AdapterConfig::Demo { endpoints: count })
        }
        AdapterRaw::N8n(http, own) => {
            let (endpoints, http) = resolve_http(http, &path, checker)?;
            let config = N8nConfig {
                workflows: resolve_webhooks(own, &path, checker),
                allow_inline: raw.common.allow_inline.0,
                webhook_url: own.webhook_url.as_ref().map(|url| url.0.clone()),
                webhook_prefix: own.webhook_prefix.0.clone(),
                files: match own.files {
                    FilesWord::Metadata => N8nFiles::Metadata,
                    FilesWord::Base64 => N8nFiles::Base64,
                },
                ..N8nConfig::new(http)
            };
            (endpoints, AdapterConfig::N8n(config))
        }
        AdapterRaw::Langflow(http, own) => {
            let (endpoints, http) = resolve_http(http, &path, checker)?;
            let config = LangflowConfig {
                http,
                api: match own.api {
                    ApiWord::V2 => LangflowApi::V2,
                    ApiWord::V1 => LangflowApi::V1,
                },
                allow_inline: raw.common.allow_inline.0,
                allow_tweaks: own.allow_tweaks.0,
                allow_globals: own.allow_globals.0,
                wait_for_input: own.wait_for_input.0,
                progress: own.progress.0,
            };
            (endpoints, AdapterConfig::Langflow(config))
        }
        AdapterRaw::Langsmith(http, own) => {
            let (endpoints, http) = resolve_http(http, &path, checker)?;
            (
                endpoints,
                AdapterConfig::Langsmith(LangsmithConfig { http, stream_modes: own.stream_modes.0.clone() }),
            )
        }
    };
    let settings = common_settings(name, raw, endpoints, retry, breaker);
    let settings = EngineSettings { retry_rules, ..settings };
    Some(EngineConfig { settings, adapter })
}

/// What all engines have in common.
fn common_settings(
    name: &str,
    raw: &EngineRaw,
    endpoints: Vec<EndpointSettings>,
    retry: Option<RetryPolicy>,
    breaker: BreakerRules,
) -> EngineSettings {
    EngineSettings {
        name: name.to_owned(),
        engine_type: raw.adapter.engine_type().to_owned(),
        default: raw.common.default.0,
        allow_inline: raw.common.allow_inline.0,
        key_source: raw.adapter.http().and_then(key_source),
        max_concurrency: raw.common.max_concurrency.map(Whole::get32),
        endpoints,
        retry,
        retry_rules: Vec::new(),
        retry_budget: RetryBudgetRules {
            ratio: raw.common.retry_budget.ratio.0,
            per_minute: raw.common.retry_budget.per_minute.get32(),
        },
        breaker,
        rate: raw.common.rate_limit.as_ref().map(rules::rate),
        adaptive: raw.common.adaptive.0,
        balance: BalanceRules {
            balancing: match raw.common.balancing {
                BalancingWord::LeastExpected => Balancing::LeastExpected,
                BalancingWord::RoundRobin => Balancing::RoundRobin,
            },
            sticky: raw.common.sticky == Some(StickyWord::ConcurrencyKey),
            eject: raw.common.eject_outliers.0,
        },
    }
}

/// Where the key lies that an engine knows this service by: `api_key`, else the headers whose values lie elsewhere.
fn key_source(http: &Http) -> Option<String> {
    let headers = http.headers.values().filter_map(|value| match value {
        Private::Named(secret) => Some(secret),
        Private::Written(_) => None,
    });
    let places: Vec<String> = match &http.api_key {
        Some(secret) => vec![secret.words()],
        None => headers.map(Secret::words).collect(),
    };
    (!places.is_empty()).then(|| places.join(" and "))
}

fn resolve_retry(
    own: &Retry,
    base: &RetryPolicy,
    path: &str,
    checker: &mut Checker<'_>,
) -> Option<RetryPolicy> {
    let mut kinds = |words: &Texts, key: &str| -> Vec<FailureKind> {
        let at = format!("{path}/retry/{key}");
        words.0.iter().filter_map(|word| rules::kind(word, &at, checker)).collect()
    };
    let policy = RetryPolicy {
        on: kinds(&own.on, "on"),
        not_on: kinds(&own.not_on, "not_on"),
        max_retries: own.max_retries.map_or(base.max_retries, Whole::get32),
        delay: own.delay.map_or(base.delay, |span| span.0),
        factor: own.factor.map_or(base.factor, |factor| factor.0),
        max_delay: own.max_delay.map_or(base.max_delay, |span| span.0),
    };
    if policy.delay > policy.max_delay {
        checker.fault(&format!("{path}/retry/delay"), "must not be more than the engine's max_delay");
    }
    Some(policy)
}

fn resolve_http(
    http: &Http,
    path: &str,
    checker: &mut Checker<'_>,
) -> Option<(Vec<EndpointSettings>, HttpSettings)> {
    let (mut named, mut endpoints) = (Vec::new(), Vec::new());
    if http.endpoints.is_empty() {
        checker.fault(
            &format!("{path}/endpoints"),
            "is missing; at least one is needed, such as [{ url = \"http://127.0.0.1:5678\" }]",
        );
    }
    for (index, endpoint) in http.endpoints.iter().enumerate() {
        let at = format!("{path}/endpoints");
        match endpoint.url.as_ref().map(|url| url.0.clone()) {
            None => checker.fault(&at, format!("endpoint {index} has no url")),
            Some(url) if http.endpoints[..index].iter().any(|other| other.url == endpoint.url) => {
                checker.fault(&at, format!("{url} is there twice"));
            }
            Some(url) => {
                let weight = endpoint.weight.get32();
                named.push(EndpointSettings { name: url.clone(), weight: f64::from(weight) });
                endpoints.push(EndpointConfig { url, weight });
            }
        }
    }
    if http.poll.first.0 > http.poll.longest.0 {
        checker.fault(&format!("{path}/poll/first"), "must not be more than poll.longest");
    }
    let api_key = http.api_key.as_ref().and_then(|secret| checker.read(secret, &format!("{path}/api_key")));
    let headers = checker.read_all(&http.headers, &format!("{path}/headers"));
    let settings = HttpSettings {
        endpoints,
        api_key,
        headers,
        ca_file: http.ca_file.as_ref().map(FilePath::expanded),
        proxy: http.proxy.as_ref().and_then(|proxy| read_proxy(proxy, path, checker)),
        health: match http.health.as_ref().map(|route| route.0.as_str()) {
            None => HealthRoute::Usual,
            Some("off") => HealthRoute::Off,
            Some(route) => HealthRoute::Path(route.to_owned()),
        },
        connect_timeout: http.connect_timeout.duration(),
        request_timeout: http.request_timeout.duration(),
        transfer_timeout: http.transfer_timeout.duration(),
        poll: PollSettings {
            first: http.poll.first.duration(),
            longest: http.poll.longest.duration(),
            unreachable_after: http.poll.unreachable_after.duration(),
        },
    };
    Some((named, settings))
}

fn resolve_webhooks(own: &N8nRaw, path: &str, checker: &mut Checker<'_>) -> BTreeMap<String, N8nWebhook> {
    let mut webhooks = BTreeMap::new();
    for (id, raw) in &own.workflows {
        let at = format!("{path}/workflows/{id}");
        let Some(hook) = &raw.path else {
            checker.fault(&format!("{at}/path"), "is missing: what follows /webhook/ in the workflow's URL");
            continue;
        };
        let mode = match raw.mode {
            ModeWord::Track => N8nMode::Track,
            ModeWord::Ack => N8nMode::Ack,
            ModeWord::Lookup => N8nMode::Lookup,
        };
        let headers = checker.read_all(&raw.headers, &format!("{at}/headers"));
        webhooks.insert(id.clone(), N8nWebhook { path: hook.0.clone(), mode, headers });
    }
    webhooks
}

/// A proxy's URL. One that holds a password is a secret.
fn read_proxy(proxy: &Private, path: &str, checker: &mut Checker<'_>) -> Option<SecretString> {
    let at = format!("{path}/proxy");
    let holds_password = matches!(proxy, Private::Written(url) if url.contains('@'));
    if holds_password {
        checker.fault(&at, "holds a user or a password; write { env = \"NAME\" } or { file = \"PATH\" }");
        return None;
    }
    checker.read_private("proxy", proxy, &at)
}
