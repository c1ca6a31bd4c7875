//! Configuration: a TOML, JSON or YAML file, the environment and flags become one checked [`Config`].
//!
//! Two types: [`Raw`] is what was written, with the defaults; [`Config`] is what is meant. Flags win over the
//! environment, which wins over the file. Every key is declared once, in its section's file, with its default and
//! meaning: reading, checking and docs/CONFIG.md all come from that declaration.
//!
//! Files use each other in one direction only: `resolve` and `document` the whole in `raw`, that the `sections`, and
//! these the `checker` and the `types` of values. `sources` and `tree` know keys, but no section.

mod checker;
mod document;
mod near_miss;
mod raw;
mod resolve;
mod secret;
mod sections;
mod sources;
mod tree;
mod types;
mod wants;

pub use checker::{SecretValues, Secrets};
pub use document::{markdown, sample};
pub use raw::Raw;
pub use resolve::Config;
pub use sections::engines::{AdapterConfig, EngineConfig, TYPES as ENGINE_TYPES};
pub use sections::log::LogFormat;
pub use sections::storage::blobs::{BlobPlace, DIRECTORY as BLOBS_DIRECTORY};
pub use sources::Format;
pub use tree::Fault;

use enginehouse_core::autoscaler::ScalingRules;
use serde_json::Value;
use std::fmt;
use std::path::Path;
use tree::{Layer, Tree};
use types::Section;

/// Everything wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<Fault>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

impl From<Fault> for ConfigFaults {
    fn from(fault: Fault) -> ConfigFaults {
        ConfigFaults(vec![fault])
    }
}

/// Sources laid over each other, the later over the earlier; nothing is checked before [`Sources::load`].
#[derive(Debug, Clone, Default)]
pub struct Sources {
    layers: Vec<Layer>,
}

impl Sources {
    /// No source: the defaults.
    #[must_use]
    pub fn new() -> Sources {
        Sources::default()
    }

    /// A file; its extension tells the format.
    pub fn file(mut self, path: &Path) -> Result<Sources, ConfigFaults> {
        self.layers.push(sources::file(path)?);
        Ok(self)
    }

    /// A text in a format; `origin` names it in faults.
    pub fn text(mut self, text: &str, format: Format, origin: &str) -> Result<Sources, ConfigFaults> {
        self.layers.push(sources::text_layer(text, format, origin)?);
        Ok(self)
    }

    /// `ENGINEHOUSE_*` variables with `__` in their name.
    #[must_use]
    pub fn environment(mut self, vars: impl Iterator<Item = (String, String)>) -> Sources {
        let engines: Vec<String> = self.layers.iter().flat_map(sources::engine_names).collect();
        self.layers.extend(sources::environment(vars, &engines));
        self
    }

    /// One key as a flag gives it: `origin` is the flag, `path` the key with dots, in snake_case.
    #[must_use]
    pub fn flag(mut self, origin: &str, path: &str, value: Value) -> Sources {
        self.layers.push(sources::flag(origin, path, value));
        self
    }

    /// A `demo` engine named `demo`, unless an engine of that name is configured.
    #[must_use]
    pub fn with_demo(self) -> Sources {
        let there = self.layers.iter().flat_map(sources::engine_names).any(|name| name == "demo");
        if there { self } else { self.flag("--demo", "engines.demo.type", Value::from("demo")) }
    }

    /// Checks every key and value by itself.
    pub fn read(&self) -> Result<Loaded, ConfigFaults> {
        let tree = Tree::build(&Raw::keys(), &self.layers).map_err(ConfigFaults)?;
        let raw: Raw = serde_json::from_value(tree.value()).map_err(|error| {
            ConfigFaults(vec![Fault {
                origin: String::new(),
                path: String::new(),
                message: error.to_string(),
            }])
        })?;
        Ok(Loaded { raw, tree })
    }

    /// Reads and resolves.
    pub fn load(&self) -> Result<Config, ConfigFaults> {
        self.read()?.resolve(Secrets::Read)
    }
}

/// A configuration whose keys and values are each fine by themselves.
#[derive(Debug)]
pub struct Loaded {
    /// Every key with its value.
    pub raw: Raw,
    tree: Tree,
}

impl Loaded {
    /// Checks the values against each other, and reads the secrets.
    pub fn resolve(&self, secrets: Secrets) -> Result<Config, ConfigFaults> {
        resolve::resolve(&self.raw, &self.tree, secrets, None).map_err(ConfigFaults)
    }

    /// As [`resolve`](Loaded::resolve), with the values of the secrets at hand: their places are not looked into.
    pub fn resolve_given(&self, secrets: &SecretValues) -> Result<Config, ConfigFaults> {
        resolve::resolve(&self.raw, &self.tree, Secrets::Read, Some(secrets)).map_err(ConfigFaults)
    }

    /// The auto-scaler's rules, whatever the rest says.
    pub fn scaling(&self) -> Result<ScalingRules, ConfigFaults> {
        resolve::only_scaling(&self.raw, &self.tree).map_err(ConfigFaults)
    }
}

#[cfg(test)]
mod tests;
