//! docs/CONFIG.md and the sample that `config init` writes, both printed from the declaration of the keys.

use super::raw::Raw;
use super::sections::engines;
use super::types::{Key, Section, Shape};
use super::wants;
use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = "\
# Configuration

This page is printed from the program (`cargo run -p enginehouse --example config_md > docs/CONFIG.md`); a test keeps
them equal.

A configuration is one file in TOML, JSON or YAML (the extension tells), given with `--config` or `ENGINEHOUSE_CONFIG`.
The environment wins over the file, and flags win over both. Without any of them the defaults below hold.

- **Keys** may be written in snake_case or camelCase. An unknown key is an error that names its path and the nearest
  known key. All faults are reported at once. `enginehouse config check` looks without starting anything.
- **Environment**: `ENGINEHOUSE_` and the path in capitals, its keys separated by `__`, such as
  `ENGINEHOUSE_SCALING__MIN_WORKERS=4` or `ENGINEHOUSE_ENGINES__N8N_PROD__MAX_CONCURRENCY=20` (`N8N_PROD` stands for the
  configured engine `n8n-prod`). Tables and lists are written as JSON. Variables without `__` are no configuration.
- **Any key as a flag**: `enginehouse serve --set scaling.min_workers=4`.
- **Durations** are whole milliseconds, or text like `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"2h\"`, `\"7d\"`.
- **Secrets** are never written into the configuration: `{ env = \"NAME\" }` names an environment variable,
  `{ file = \"PATH\" }` a file. They are read at the start and never shown.

";

/// docs/CONFIG.md.
#[must_use]
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    out.push_str(&wants::table());
    for key in Raw::keys() {
        match &key.shape {
            Shape::Tagged(_) => engine_sections(&mut out, &key),
            Shape::Section(keys) => {
                let _ = writeln!(out, "## `{}`\n\n{}\n", key.name, key.doc);
                table(&mut out, keys, key.name);
            }
            _ => {}
        }
    }
    out
}

fn engine_sections(out: &mut String, key: &Key) {
    let _ = writeln!(out, "## `{}`\n\n{}\n", key.name, key.doc);
    let _ = writeln!(out, "```toml\n{}```\n", SAMPLE_ENGINE);
    for group in engines::groups() {
        let _ = writeln!(out, "### {}\n\n{}\n", group.title, group.about);
        table(out, &group.keys, "");
    }
}

fn table(out: &mut String, keys: &[Key], prefix: &str) {
    let mut rows = Vec::new();
    collect(keys, prefix, &mut rows);
    if rows.is_empty() {
        out.push_str("No keys of its own.\n\n");
        return;
    }
    out.push_str("| key | takes | default | meaning |\n|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(out, "| `{}` | {} | {} | {} |", row.path, row.kind, row.default, row.doc);
    }
    out.push('\n');
}

struct Row {
    path: String,
    kind: String,
    default: String,
    doc: String,
}

fn collect(keys: &[Key], prefix: &str, rows: &mut Vec<Row>) {
    for key in keys {
        let path = if prefix.is_empty() { key.name.to_owned() } else { format!("{prefix}.{}", key.name) };
        let mut row = |path: String, kind: &str, default: String| {
            let escaped = |text: &str| text.replace('|', "\\|");
            rows.push(Row { path, kind: escaped(kind), default, doc: escaped(&key.doc) });
        };
        match &key.shape {
            Shape::Leaf { kind, .. } => row(path, kind, shown(&key.default)),
            Shape::Section(below) => collect(below, &path, rows),
            Shape::List(below) => {
                row(path.clone(), "list of tables", "none".to_owned());
                collect(below, &format!("{path}[]"), rows);
            }
            Shape::Named(inner) => match inner.as_ref() {
                Shape::Section(below) => {
                    row(path.clone(), "table of names", "none".to_owned());
                    collect(below, &format!("{path}.NAME"), rows);
                }
                Shape::Leaf { kind, .. } => row(format!("{path}.NAME"), kind, "none".to_owned()),
                _ => {}
            },
            Shape::Tagged(_) => {}
        }
    }
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => "none".to_owned(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        other => format!("`{other}`"),
    }
}

const SAMPLE_ENGINE: &str = "\
[engines.n8n-prod]
type = \"n8n\"
endpoints = [{ url = \"http://127.0.0.1:5678\", weight = 1 }]
api_key = { env = \"N8N_API_KEY\" }
default = true
max_concurrency = 20
workflows.orders = { path = \"orders-hook\", mode = \"track\" }
";

/// A configuration file to begin with: every section with its defaults as comments, and a demo engine.
#[must_use]
pub fn sample() -> String {
    let mut out = String::from(
        "# Enginehouse. Every key with its meaning: docs/CONFIG.md. Lines that are comments show the defaults.\n\n\
         # Something to try things out with; remove it in production.\n[engines.demo]\ntype = \"demo\"\n\n",
    );
    for line in SAMPLE_ENGINE.lines() {
        let _ = writeln!(out, "# {line}");
    }
    for key in Raw::keys() {
        if let Shape::Section(keys) = &key.shape {
            let _ = writeln!(out, "\n# {}\n[{}]", key.doc, key.name);
            sample_keys(&mut out, keys, "");
        }
    }
    out
}

fn sample_keys(out: &mut String, keys: &[Key], prefix: &str) {
    for key in keys {
        let path = if prefix.is_empty() { key.name.to_owned() } else { format!("{prefix}.{}", key.name) };
        match &key.shape {
            Shape::Section(below) => sample_keys(out, below, &path),
            _ if !key.default.is_null() => {
                let _ = writeln!(out, "# {path} = {}", key.default);
            }
            _ => {}
        }
    }
}
