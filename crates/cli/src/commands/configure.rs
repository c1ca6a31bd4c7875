//! Looking at a configuration without starting anything.

use super::connect::{DataDir, Said};
use super::output::Output;
use super::{Exit, Failure};
use clap::{Args, Subcommand};
use enginehouse::config::{Loaded, Secrets, Sources, sample};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file: TOML, JSON or YAML
    #[arg(long, short, env = CONFIG_VARIABLE, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any key of the configuration, such as scaling.min_workers=4; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

/// The variable that names a configuration file.
const CONFIG_VARIABLE: &str = "ENGINEHOUSE_CONFIG";
/// The variable that is the key of the data directory.
const DATA_VARIABLE: &str = "ENGINEHOUSE_STORAGE__DATA_DIR";

impl ConfigArgs {
    /// What the environment names, for commands that take no configuration of their own.
    pub(crate) fn of_environment() -> ConfigArgs {
        let config = std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        ConfigArgs { config, set: Vec::new() }
    }

    /// The data directory of the service that is configured; `None`: nothing is configured.
    pub(crate) fn data_dir(&self, said: Said) -> Result<Option<DataDir>, Failure> {
        let of_variable = std::env::var_os(DATA_VARIABLE).is_some_and(|dir| !dir.is_empty());
        if self.config.is_none() && self.set.is_empty() && !of_variable {
            return Ok(None);
        }
        let loaded = self.sources(None)?.read().map_err(|faults| {
            Failure::usage(format!("which data directory is meant cannot be told:\n{faults}"))
        })?;
        Ok(Some(DataDir { path: loaded.raw.storage.data_dir.expanded(), said }))
    }

    /// File, then environment, then `--set` and `--data`: the later wins.
    pub(crate) fn sources(&self, data: Option<&Path>) -> Result<Sources, Failure> {
        self.sources_over(data, |sources| sources)
    }

    /// The same, with more between the environment and `--set`.
    pub(crate) fn sources_over(
        &self,
        data: Option<&Path>,
        between: impl FnOnce(Sources) -> Sources,
    ) -> Result<Sources, Failure> {
        let mut sources = Sources::new();
        if let Some(path) = &self.config {
            sources = sources.file(path).map_err(|faults| Failure::usage(faults.to_string()))?;
        }
        let readable = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        sources = between(sources.environment(readable));
        for (key, value) in &self.set {
            sources = sources.flag("--set", key, Value::from(value.as_str()));
        }
        if let Some(dir) = data {
            let dir = dir.to_str().ok_or_else(|| Failure::usage("--data must be UTF-8".to_owned()))?;
            sources = sources.flag("--data", "storage.data_dir", Value::from(dir));
        }
        Ok(sources)
    }
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// What to do with the configuration.
#[derive(Debug, Args)]
pub(crate) struct Configure {
    #[command(subcommand)]
    command: ConfigureCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigureCommand {
    /// Check everything, secrets and files included, and tell all faults at once
    Check {
        #[command(flatten)]
        from: ConfigArgs,
        /// Do not look whether the secrets are there
        #[arg(long)]
        skip_secrets: bool,
    },
    /// Print the configuration in force with all defaults; secrets are shown as where they are
    Show {
        #[command(flatten)]
        from: ConfigArgs,
    },
    /// Print a configuration file to begin with
    Init,
}

impl Configure {
    pub(crate) fn run(self, data: Option<PathBuf>, output: &mut Output) -> Result<Exit, Failure> {
        match self.command {
            ConfigureCommand::Check { from, skip_secrets } => {
                check(&from, data.as_deref(), skip_secrets, output)
            }
            ConfigureCommand::Show { from } => {
                let value = without_nulls(
                    serde_json::to_value(&load(&from, data.as_deref())?.raw).unwrap_or_default(),
                );
                if output.is_json() {
                    output.document(&value)?;
                } else {
                    let text = toml::to_string(&value).map_err(|error| Failure::call(error.to_string()))?;
                    output.text(&text)?;
                }
                Ok(Exit::Done)
            }
            ConfigureCommand::Init => {
                output.text(&sample())?;
                Ok(Exit::Done)
            }
        }
    }
}

fn load(from: &ConfigArgs, data: Option<&Path>) -> Result<Loaded, Failure> {
    from.sources(data)?.read().map_err(|faults| Failure::usage(faults.to_string()))
}

fn check(
    from: &ConfigArgs,
    data: Option<&Path>,
    skip_secrets: bool,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let secrets = if skip_secrets { Secrets::Skip } else { Secrets::Read };
    let config = load(from, data)?.resolve(secrets).map_err(|faults| Failure::usage(faults.to_string()))?;
    let mut faults = Vec::new();
    let mut names = Vec::new();
    for engine in config.engines {
        let name = engine.settings.name.clone();
        if let Err(error) = engine.build() {
            faults.push(format!("engines.{name}.{error}"));
        }
        names.push(name);
    }
    if !faults.is_empty() {
        return Err(Failure::usage(faults.join("\n")));
    }
    if output.is_json() {
        output.document(&serde_json::json!({ "valid": true, "engines": names }))?;
    } else {
        output.line(&format!("the configuration is valid; engines: {}", or_none(&names)))?;
    }
    Ok(Exit::Done)
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// TOML has no word for "absent".
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(table) => Value::Object(
            table.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
