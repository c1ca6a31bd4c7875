//! Where configuration comes from: a file in TOML, JSON or YAML, the environment, and flags.

use super::tree::{Fault, Layer};
use serde_json::{Map, Value};
use std::path::Path;

/// The largest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The prefix of variables that are configuration.
const PREFIX: &str = "ENGINEHOUSE_";
/// What separates the keys of a path in a variable's name.
const SEPARATOR: &str = "__";

/// A file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.toml`
    Toml,
    /// `.json`
    Json,
    /// `.yaml` or `.yml`
    Yaml,
}

impl Format {
    /// By the file's extension.
    #[must_use]
    pub fn of(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "toml" => Some(Format::Toml),
            "json" => Some(Format::Json),
            "yaml" | "yml" => Some(Format::Yaml),
            _ => None,
        }
    }
}

/// Reads a file.
pub(super) fn file(path: &Path) -> Result<Layer, Fault> {
    let origin = path.display().to_string();
    let fault = |message: String| Fault { origin: origin.clone(), path: String::new(), message };
    let format = Format::of(path)
        .ok_or_else(|| fault("the file's name must end in .toml, .json, .yaml or .yml".into()))?;
    let size = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fault(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    let text = crate::plain_text::decode(bytes).map_err(&fault)?;
    text_layer(&text, format, &origin)
}

/// Reads a text; `origin` names it in faults.
pub(super) fn text_layer(text: &str, format: Format, origin: &str) -> Result<Layer, Fault> {
    let parsed: Result<Value, String> = match format {
        Format::Toml => toml::from_str(text).map_err(|error| error.to_string()),
        Format::Json => match enginehouse_api::lone_surrogate(text.as_bytes()) {
            Some(lone) => Err(lone.to_string()),
            None => serde_json::from_str(text).map_err(|error| error.to_string()),
        },
        Format::Yaml => serde_yaml_ng::from_str(text).map_err(|error| error.to_string()),
    };
    let fault = |message: String| Fault { origin: origin.to_owned(), path: String::new(), message };
    let tree = match parsed.map_err(|message| fault(message.trim_end().to_owned()))? {
        // An empty YAML document is an empty configuration.
        Value::Null => Value::Object(Map::new()),
        tree @ Value::Object(_) => tree,
        _ => return Err(fault("must be a table".to_owned())),
    };
    Ok(Layer { origin: origin.to_owned(), tree, texts: false })
}

/// What the environment says: one layer per variable, so that a fault can name it.
///
/// A variable is configuration when its name is `ENGINEHOUSE_` and a path with `__` in it: such as
/// `ENGINEHOUSE_SCALING__MIN_WORKERS`. Names without `__` are not (an orchestrator may set such for its own purposes).
#[must_use]
pub(super) fn environment(vars: impl Iterator<Item = (String, String)>, engines: &[String]) -> Vec<Layer> {
    let mut vars: Vec<(String, String)> = vars
        .filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains(SEPARATOR)))
        .collect();
    vars.sort();
    vars.into_iter()
        .map(|(name, text)| {
            let path: Vec<String> =
                name[PREFIX.len()..].split(SEPARATOR).map(str::to_ascii_lowercase).collect();
            let path = with_engine_name(path, engines);
            Layer { origin: name, tree: nested(&path, Value::String(text)), texts: true }
        })
        .collect()
}

/// A variable's name cannot hold every engine's name: `N8N_PROD` also stands for the configured `n8n-prod`.
fn with_engine_name(mut path: Vec<String>, engines: &[String]) -> Vec<String> {
    if path.len() > 1 && path[0] == "engines" {
        let fold = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
        if let Some(known) = engines.iter().find(|known| fold(known) == path[1]) {
            path[1].clone_from(known);
        }
    }
    path
}

/// The names of the engines in a layer.
#[must_use]
pub(super) fn engine_names(layer: &Layer) -> Vec<String> {
    let engines = layer.tree.get("engines").and_then(Value::as_object);
    engines.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

/// A flag's layer; `path` is the key in snake_case, joined by dots.
#[must_use]
pub(super) fn flag(origin: &str, path: &str, value: Value) -> Layer {
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    Layer { origin: origin.to_owned(), tree: nested(&path, value), texts: true }
}

fn nested(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |below, name| Value::Object(Map::from_iter([(name.clone(), below)])))
}
