//! The configured engines of this node: settings, adapters, and what is known of their health.

use super::pause::Paused;
use super::settings::{EngineSettings, RegisteredEngine};
use enginehouse_api::{ApiError, Code};
use enginehouse_core::queue::{EndpointRules, EngineRules};
use enginehouse_core::time::Time;
use enginehouse_engine::{Engine, Health};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The last health check of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) health: Health,
    /// Why the engine does not take its key, as far as that was looked at.
    pub(crate) key_refused: Option<String>,
    /// That it takes its key, where this check looked and it said so.
    pub(crate) key_taken: Option<String>,
    pub(crate) at: Time,
}

pub(crate) struct Registry {
    engines: BTreeMap<String, RegisteredEngine>,
    state: Mutex<BTreeMap<String, EngineState>>,
    /// While the whole service is paused, every engine is.
    pause: Paused,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct EngineState {
    pub(crate) paused: bool,
    /// By endpoint index.
    pub(crate) checked: BTreeMap<usize, Checked>,
}

impl Checked {
    /// Whether it answers well and takes the key; `None` where neither can be said.
    pub(crate) fn is_well(&self) -> Option<bool> {
        if self.key_refused.is_some() { Some(false) } else { self.health.healthy }
    }

    /// What it said, or what is wrong with its key.
    pub(crate) fn detail(&self) -> String {
        match (&self.key_refused, &self.key_taken) {
            (Some(refused), _) => refused.clone(),
            (None, Some(taken)) => format!("{}; {taken}", self.health.detail),
            (None, None) => self.health.detail.clone(),
        }
    }
}

impl Registry {
    pub(crate) fn new(engines: Vec<RegisteredEngine>) -> Registry {
        let engines: BTreeMap<String, RegisteredEngine> =
            engines.into_iter().map(|e| (e.settings.name.clone(), e)).collect();
        let state = engines.keys().map(|name| (name.clone(), EngineState::default())).collect();
        Registry { engines, state: Mutex::new(state), pause: watch::Sender::new(None) }
    }

    pub(crate) fn pause(&self) -> &Paused {
        &self.pause
    }

    /// Nothing more is started on it, by its own pause or by the service's.
    pub(crate) fn is_paused(&self, name: &str) -> bool {
        self.pause.borrow().is_some() || self.state(name).paused
    }

    pub(crate) fn get(&self, name: &str) -> Option<&RegisteredEngine> {
        self.engines.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &RegisteredEngine> {
        self.engines.values()
    }

    pub(crate) fn adapters(&self) -> BTreeMap<String, Arc<dyn Engine>> {
        let watched = |e: &RegisteredEngine| crate::breakpoints::watched(e.adapter.clone());
        self.engines.iter().map(|(name, e)| (name.clone(), watched(e))).collect()
    }

    pub(crate) fn state(&self, name: &str) -> EngineState {
        self.state.lock().get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn set_paused(&self, name: &str, paused: bool) {
        self.state.lock().entry(name.to_owned()).or_default().paused = paused;
    }

    pub(crate) fn set_health(&self, name: &str, endpoint: usize, checked: Checked) {
        self.state.lock().entry(name.to_owned()).or_default().checked.insert(endpoint, checked);
    }

    /// The engine a request means: by name, else the only one of its type or that type's default.
    pub(crate) fn choose(
        &self,
        name: Option<&str>,
        engine_type: Option<&str>,
    ) -> Result<&RegisteredEngine, ApiError> {
        let engine_type = engine_type.map(|t| if t == "langgraph" { "langsmith" } else { t });
        if let Some(name) = name {
            let engine = self.engines.get(name).ok_or_else(|| {
                let text = format!("no engine is named {name:?}; configured are: {}", self.names());
                ApiError::field(Code::UnknownEngine, "/engine", text)
            })?;
            if engine_type.is_some_and(|t| t != engine.settings.engine_type) {
                let text = format!("engine {name:?} is of type {:?}", engine.settings.engine_type);
                return Err(ApiError::field(Code::InvalidField, "/engineType", text));
            }
            return Ok(engine);
        }
        let Some(engine_type) = engine_type else {
            let text = "name an engine, or its type with engineType";
            return Err(ApiError::field(Code::InvalidField, "/engineType", text));
        };
        let of_type: Vec<&RegisteredEngine> =
            self.engines.values().filter(|e| e.settings.engine_type == engine_type).collect();
        match of_type.as_slice() {
            [] => {
                let text = format!(
                    "no engine of type {engine_type:?} is configured; configured are: {}",
                    self.names()
                );
                Err(ApiError::field(Code::UnknownEngine, "/engineType", text))
            }
            [only] => Ok(only),
            several => several.iter().find(|e| e.settings.default).copied().ok_or_else(|| {
                let names: Vec<&str> = several.iter().map(|e| e.settings.name.as_str()).collect();
                let text = format!("several engines are of type {engine_type:?}: {}", names.join(", "));
                ApiError::field(Code::EngineAmbiguous, "/engineType", text)
            }),
        }
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.engines.keys().map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// The name of an endpoint by its place.
    pub(crate) fn endpoint_name(&self, engine: &str, at: u32) -> String {
        let known = self.get(engine).and_then(|e| e.settings.endpoints.get(at as usize));
        known.map_or_else(|| at.to_string(), |e| e.name.clone())
    }

    /// What the queue needs to know of an engine.
    pub(crate) fn rules(&self, settings: &EngineSettings) -> EngineRules {
        let endpoints = settings.endpoints.iter().map(|e| EndpointRules { weight: e.weight }).collect();
        let paused = self.is_paused(&settings.name);
        EngineRules { engine_type: settings.engine_type.clone(), paused, endpoints }
    }
}
