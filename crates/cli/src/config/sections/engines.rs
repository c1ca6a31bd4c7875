//! `[engines.NAME]`: what all engines have in common, and how the keys of each type are put together.
//!
//! A type's own keys stand in its file; those of `over_http` are shared by the types that speak HTTP.

mod command;
mod demo;
mod http;
mod langflow;
mod langsmith;
mod n8n;
mod over_http;
mod retry;

use crate::config::checker::{Checker, is_name};
use crate::config::types::{
    self, Flag, Fraction, Key, Section, Setting, Shape, Tagged, Text, Whole, choice, section,
};
use command::CommandRaw;
use demo::DemoRaw;
use enginehouse_core::balance::{BalanceRules, Balancing};
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::pace::{Rate, RetryBudgetRules};
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{HOUR, MINUTE, SECOND};
use enginehouse_engine::{
    Command, CommandConfig, Demo, Engine, HttpConfig, Langflow, LangflowConfig, Langsmith, LangsmithConfig,
    N8n, N8nConfig,
};
use enginehouse_runtime::{EndpointSettings, EngineSettings, RegisteredEngine, RetryRule};
use http::HttpRaw;
use langflow::LangflowRaw;
use langsmith::LangsmithRaw;
use n8n::N8nRaw;
use over_http::Http;
use retry::Retry;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest name of an engine.
const NAME_BYTES_MAX: usize = 64;

section! {
    /// Keys of every engine.
    pub struct Common {
        /// The engine for requests that name only its type; needed as soon as a type has several engines.
        default: Flag = Flag(false);
        /// Whether requests may carry workflow definitions. Anyone who may send one runs code on the engine.
        allow_inline: Flag = Flag(false);
        /// Attempts running at once per endpoint. Absent: bounded by the workers only.
        max_concurrency: Option<Whole<1, 10000>> = None;
        /// Lowers the concurrency below `max_concurrency` while the engine is slow or refuses.
        adaptive: Flag = Flag(true);
        /// Attempts started per time. Absent: any number.
        rate_limit: Option<types::Rate> = None;
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
}

/// The engines by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Engines(pub BTreeMap<String, EngineRaw>);

impl Setting for Engines {
    fn shape() -> Shape {
        Shape::Tagged(Tagged { tag: "type", what: "an engine type", names: TYPES, keys_of })
    }
}

/// The engine types this program builds.
pub const TYPES: &[&str] = &["n8n", "langflow", "langsmith", "http", "command", "demo"];

/// The keys of an engine type; `None` for a type that is not built.
#[must_use]
fn keys_of(engine_type: &str) -> Option<Vec<Key>> {
    let (http, own) = match engine_type {
        "http" => (true, HttpRaw::keys()),
        "command" => (false, CommandRaw::keys()),
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
    Http(Box<Http>, Box<HttpRaw>),
    Command(CommandRaw),
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
pub(in crate::config) struct Group {
    pub(in crate::config) title: &'static str,
    pub(in crate::config) about: &'static str,
    pub(in crate::config) keys: Vec<Key>,
}

/// Every key of every engine type, grouped as a reader looks for them.
pub(in crate::config) fn groups() -> Vec<Group> {
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
            HttpRaw::keys(),
        ),
        group(
            "`command`",
            "A local program: the parameters are its standard input as JSON, its standard error is kept as logs.",
            CommandRaw::keys(),
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
    /// What the service goes by.
    pub settings: EngineSettings,
    /// What the adapter goes by.
    pub adapter: AdapterConfig,
}

/// What an adapter is built from.
#[derive(Clone)]
pub enum AdapterConfig {
    /// Any HTTP service.
    Http(Box<HttpConfig>),
    /// A program on this machine.
    Command(CommandConfig),
    /// The engine to try things with.
    Demo {
        /// How many endpoints it has.
        endpoints: usize,
    },
    /// n8n.
    N8n(N8nConfig),
    /// Langflow.
    Langflow(LangflowConfig),
    /// LangSmith Deployment and every other LangGraph Agent Server.
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

/// Checks every engine. `retry` is what an engine's own policy replaces parts of.
pub(in crate::config) fn resolve(
    raw: &Engines,
    retry: &RetryPolicy,
    breaker: BreakerRules,
    checker: &mut Checker<'_>,
) -> Vec<EngineConfig> {
    let mut found = Vec::new();
    let mut defaults: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, engine) in &raw.0 {
        let path = format!("engines/{name}");
        let valid = is_name(name, NAME_BYTES_MAX) && name.as_bytes()[0].is_ascii_alphanumeric();
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
        found.push(one(name, engine, retry, breaker, checker));
    }
    found
}

fn one(
    name: &str,
    raw: &EngineRaw,
    retry: &RetryPolicy,
    breaker: BreakerRules,
    checker: &mut Checker<'_>,
) -> EngineConfig {
    let path = format!("engines/{name}");
    let own = raw.common.retry.as_ref().map(|own| retry::resolve(own, retry, &path, checker));
    let retry = own.map_or((None, Vec::new()), |(policy, rules)| (Some(policy), rules));
    let inline = raw.common.allow_inline.0;
    let (endpoints, adapter) = match &raw.adapter {
        AdapterRaw::Http(http, own) => {
            let (endpoints, http) = over_http::resolve(http, &path, checker);
            (endpoints, AdapterConfig::Http(Box::new(http::resolve(own, http, &path, checker))))
        }
        AdapterRaw::Command(own) => {
            let config = command::resolve(own, &path, checker);
            let name = config.argv.first().cloned().unwrap_or_default();
            (vec![EndpointSettings { name, weight: 1.0 }], AdapterConfig::Command(config))
        }
        AdapterRaw::Demo(own) => {
            let endpoints = demo::resolve(own);
            let count = endpoints.len();
            (endpoints, AdapterConfig::Demo { endpoints: count })
        }
        AdapterRaw::N8n(http, own) => {
            let (endpoints, http) = over_http::resolve(http, &path, checker);
            (endpoints, AdapterConfig::N8n(n8n::resolve(own, http, inline, &path, checker)))
        }
        AdapterRaw::Langflow(http, own) => {
            let (endpoints, http) = over_http::resolve(http, &path, checker);
            (endpoints, AdapterConfig::Langflow(langflow::resolve(own, http, inline)))
        }
        AdapterRaw::Langsmith(http, own) => {
            let (endpoints, http) = over_http::resolve(http, &path, checker);
            (endpoints, AdapterConfig::Langsmith(langsmith::resolve(own, http)))
        }
    };
    let settings = common_settings(name, raw, endpoints, retry, breaker);
    EngineConfig { settings, adapter }
}

/// What all engines have in common.
fn common_settings(
    name: &str,
    raw: &EngineRaw,
    endpoints: Vec<EndpointSettings>,
    retry: (Option<RetryPolicy>, Vec<RetryRule>),
    breaker: BreakerRules,
) -> EngineSettings {
    let Common {
        default,
        allow_inline,
        max_concurrency,
        adaptive,
        rate_limit,
        balancing,
        sticky,
        eject_outliers,
        retry_budget: RetryBudgetRaw { ratio, per_minute },
        retry: _,
    } = &raw.common;
    let (retry, retry_rules) = retry;
    EngineSettings {
        name: name.to_owned(),
        engine_type: raw.adapter.engine_type().to_owned(),
        default: default.0,
        allow_inline: allow_inline.0,
        key_source: raw.adapter.http().and_then(over_http::key_source),
        max_concurrency: max_concurrency.map(Whole::get32),
        endpoints,
        retry,
        retry_rules,
        retry_budget: RetryBudgetRules { ratio: ratio.0, per_minute: per_minute.get32() },
        breaker,
        rate: rate_limit.as_ref().map(rate),
        adaptive: adaptive.0,
        balance: BalanceRules {
            balancing: match balancing {
                BalancingWord::LeastExpected => Balancing::LeastExpected,
                BalancingWord::RoundRobin => Balancing::RoundRobin,
            },
            sticky: *sticky == Some(StickyWord::ConcurrencyKey),
            eject: eject_outliers.0,
        },
    }
}

fn rate(raw: &types::Rate) -> Rate {
    let per = match raw.per {
        'h' => HOUR,
        'm' => MINUTE,
        _ => SECOND,
    };
    Rate { starts: raw.count, per }
}
