//! Layers of configuration: each is checked against the documented keys, and a later one wins key by key.
//!
//! Every fault is reported, not only the first one, each with the place it was written at.

use super::near_miss::near_miss;
use super::types::{Key, Shape, Tagged};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Nesting of a configuration.
const DEPTH_MAX: usize = 24;
/// Names in one table with free names.
const NAMES_MAX: usize = 1_000;
/// Faults reported at once.
const FAULTS_MAX: usize = 50;

/// Something wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it was written: a file, an environment variable, a flag; empty for a default.
    pub origin: String,
    /// The key, as it was written.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.origin.as_str(), self.path.as_str(), self.message.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join(": "))
    }
}

/// One source of configuration.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// A file's path, the word for the environment, a flag.
    pub origin: String,
    pub tree: Value,
    /// Values are texts that may stand for numbers and tables, as in the environment.
    pub texts: bool,
}

/// A value with where it came from.
#[derive(Debug, Clone)]
struct Found {
    value: Value,
    origin: String,
    written: String,
}

/// All layers laid over each other: one value per documented key.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// By path in snake_case. A table that must exist even when empty has an entry of its own.
    found: BTreeMap<Vec<String>, Found>,
}

impl Tree {
    /// Lays the layers over each other, the later over the earlier.
    pub(super) fn build(root: &[Key], layers: &[Layer]) -> Result<Tree, Vec<Fault>> {
        let mut walk = Walk { layers, found: BTreeMap::new(), faults: Vec::new(), origin: "", texts: false };
        for layer in layers {
            walk.origin = &layer.origin;
            walk.texts = layer.texts;
            walk.section(root, &layer.tree, &Place::root());
        }
        if walk.faults.is_empty() {
            Ok(Tree { found: walk.found })
        } else {
            walk.faults.truncate(FAULTS_MAX);
            Err(walk.faults)
        }
    }

    /// The merged configuration with every key in snake_case.
    #[must_use]
    pub(super) fn value(&self) -> Value {
        let mut root = Map::new();
        for (path, found) in &self.found {
            place(&mut root, path, &found.value);
        }
        Value::Object(root)
    }

    /// A fault at a key; the key is named as it was written, or as it is documented when it was not.
    #[must_use]
    pub(super) fn fault(&self, path: &str, message: impl Into<String>) -> Fault {
        let key: Vec<String> = path.split('/').map(str::to_owned).collect();
        let found =
            (0..key.len()).rev().find_map(|cut| self.found.get(&key[..=cut]).map(|found| (cut, found)));
        let (origin, path) = match found {
            Some((cut, found)) if cut + 1 == key.len() => (found.origin.clone(), found.written.clone()),
            Some((_, found)) => (found.origin.clone(), key.join(".")),
            None => (String::new(), key.join(".")),
        };
        Fault { origin, path, message: message.into() }
    }
}

fn place(table: &mut Map<String, Value>, path: &[String], value: &Value) {
    match path {
        [] => {}
        [last] => {
            // An entry that only says that a table exists must not empty it.
            if !(value.as_object().is_some_and(Map::is_empty) && table.contains_key(last)) {
                table.insert(last.clone(), value.clone());
            }
        }
        [first, rest @ ..] => {
            let below = table.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(below) = below {
                place(below, rest, value);
            }
        }
    }
}

/// What decides on the keys of the table at `path`: the value of its key `tag` in the last layer that has one.
fn tag_of<'l>(layers: &'l [Layer], path: &[String], tag: &str) -> Option<&'l str> {
    layers.iter().rev().find_map(|layer| {
        let table = path.iter().try_fold(&layer.tree, |below, name| below.get(name))?;
        table.get(tag)?.as_str()
    })
}

/// A place in the layer being walked: the path in snake_case, and as it was written.
#[derive(Clone)]
struct Place {
    path: Vec<String>,
    written: String,
}

impl Place {
    fn root() -> Place {
        Place { path: Vec::new(), written: String::new() }
    }

    fn below(&self, name: &str, written: &str) -> Place {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        let dot = if self.written.is_empty() { "" } else { "." };
        Place { path, written: format!("{}{dot}{written}", self.written) }
    }
}

struct Walk<'a> {
    layers: &'a [Layer],
    found: BTreeMap<Vec<String>, Found>,
    faults: Vec<Fault>,
    origin: &'a str,
    texts: bool,
}

impl Walk<'_> {
    fn fault(&mut self, place: &Place, message: impl Into<String>) {
        let (origin, path) = (self.origin.to_owned(), place.written.clone());
        self.faults.push(Fault { origin, path, message: message.into() });
    }

    fn value(&mut self, shape: &Shape, value: &Value, place: &Place) {
        if place.path.len() > DEPTH_MAX {
            return self.fault(place, "is nested too deeply");
        }
        // A key without a value, as YAML writes it, is as good as absent.
        if value.is_null() {
            return;
        }
        match shape {
            Shape::Leaf { check, .. } => self.leaf(*check, value, place),
            Shape::Section(keys) => self.section(keys, value, place),
            Shape::List(keys) => self.list(keys, value, place),
            Shape::Named(inner) => self.named(value, place, |walk, below, at| walk.value(inner, below, at)),
            Shape::Tagged(tagged) => {
                self.named(value, place, |walk, below, at| walk.tagged(*tagged, below, at));
            }
        }
    }

    fn section(&mut self, keys: &[Key], value: &Value, place: &Place) {
        let value = self.structured(value);
        let Value::Object(table) = value.as_ref() else {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            return self.fault(place, format!("must be a table with the keys {}", names.join(", ")));
        };
        if table.is_empty() && !place.path.is_empty() {
            self.keep(place, Value::Object(Map::new()));
        }
        let mut seen: Vec<&str> = Vec::new();
        for (written, below) in table {
            let at = place.below(written, written);
            let Some(key) = keys.iter().find(|key| key.name == written || key.name == snake_case(written))
            else {
                self.fault(&at, unknown(written, keys));
                continue;
            };
            if seen.contains(&key.name) {
                self.fault(&at, format!("is there twice: {} in another spelling", key.name));
                continue;
            }
            seen.push(key.name);
            self.value(&key.shape, below, &place.below(key.name, written));
        }
    }

    fn named(&mut self, value: &Value, place: &Place, each: impl Fn(&mut Self, &Value, &Place)) {
        let value = self.structured(value);
        let Value::Object(table) = value.as_ref() else {
            return self.fault(place, "must be a table of names");
        };
        if table.len() > NAMES_MAX {
            return self.fault(place, format!("has more than {NAMES_MAX} names"));
        }
        for (name, below) in table {
            each(self, below, &place.below(name, name));
        }
    }

    fn tagged(&mut self, tagged: Tagged, value: &Value, place: &Place) {
        let Tagged { tag, what, names, keys_of } = tagged;
        let (at, known) = (place.below(tag, tag), format!("the {tag}s are {}", names.join(", ")));
        let Some(word) = tag_of(self.layers, &place.path, tag) else {
            return self.fault(&at, format!("is missing; {known}"));
        };
        match keys_of(word) {
            Some(keys) => self.section(&keys, value, place),
            None => {
                let near = near_miss(word, names.iter().copied());
                self.fault(&at, format!("{word:?} is not {what}{near}; {known}"));
            }
        }
    }

    fn list(&mut self, keys: &[Key], value: &Value, place: &Place) {
        let value = self.structured(value);
        let Value::Array(items) = value.as_ref() else {
            return self.fault(place, "must be a list of tables");
        };
        let mut kept = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let at = Place { path: Vec::new(), written: format!("{}[{index}]", place.written) };
            // Each item is checked by itself; the list as a whole is one value that a later layer replaces.
            let outer = std::mem::take(&mut self.found);
            self.section(keys, item, &at);
            let inner = std::mem::replace(&mut self.found, outer);
            kept.push(Tree { found: inner }.value());
        }
        self.keep(place, Value::Array(kept));
    }

    fn leaf(&mut self, check: fn(&Value) -> Result<(), String>, value: &Value, place: &Place) {
        // The environment knows only text: what reads as JSON and fits is taken so, else the text itself.
        if let (true, Value::String(text)) = (self.texts, value)
            && let Ok(parsed) = serde_json::from_str::<Value>(text)
            && check(&parsed).is_ok()
        {
            return self.keep(place, parsed);
        }
        match check(value) {
            Ok(()) => self.keep(place, value.clone()),
            Err(message) => self.fault(place, message),
        }
    }

    /// A table or list written as JSON text, where texts may stand for them.
    fn structured<'v>(&self, value: &'v Value) -> std::borrow::Cow<'v, Value> {
        if let (true, Value::String(text)) = (self.texts, value)
            && let Ok(parsed @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text)
        {
            return std::borrow::Cow::Owned(parsed);
        }
        std::borrow::Cow::Borrowed(value)
    }

    fn keep(&mut self, place: &Place, value: Value) {
        let marker = value.as_object().is_some_and(Map::is_empty);
        if marker && self.found.contains_key(&place.path) {
            return;
        }
        let found = Found { value, origin: self.origin.to_owned(), written: place.written.clone() };
        self.found.insert(place.path.clone(), found);
    }
}

fn unknown(written: &str, keys: &[Key]) -> String {
    let near = near_miss(&snake_case(written), keys.iter().map(|key| key.name));
    if near.is_empty() {
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        format!("unknown key; the keys here are {}", names.join(", "))
    } else {
        format!("unknown key{near}")
    }
}

/// `minWorkers` as `min_workers`.
#[must_use]
pub(super) fn snake_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            if !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}
