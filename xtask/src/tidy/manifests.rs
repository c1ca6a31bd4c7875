//! Which crate may use which.

/// A crate's folder, and the crates of ours it may depend on.
const EDGES: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("store", &["core"]),
    ("engine", &["core"]),
    ("api", &["core"]),
    ("worker", &["core", "engine", "api"]),
    ("runtime", &["core", "store", "engine", "worker", "api"]),
    ("server", &["core", "runtime", "api"]),
    ("cli", &["core", "store", "engine", "worker", "runtime", "api", "server"]),
];

/// Libraries that only some crates may use.
const CONFINED: [(&str, &[&str]); 6] = [
    ("rusqlite", &["store"]),
    ("axum", &["server"]),
    ("reqwest", &["engine", "api", "runtime"]),
    ("anyhow", &["cli", "xtask"]),
    ("tokio", &["store", "engine", "worker", "runtime", "server", "cli"]),
    ("clap", &["cli"]),
];

/// Findings in one manifest; its dependencies for tests are its own affair.
pub(super) fn check(path: &str, content: &str) -> Vec<String> {
    let folder = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["crates", folder, "Cargo.toml"] => (*folder).to_owned(),
        ["xtask", "Cargo.toml"] => "xtask".to_owned(),
        _ => return Vec::new(),
    };
    let mut findings = Vec::new();
    if !content.contains("[lints]\nworkspace = true") {
        findings.push(": the lints of the workspace are not taken over".to_owned());
    }
    let Some((_, ours)) = EDGES
        .iter()
        .find(|(name, _)| *name == folder)
        .or_else(|| (folder != "xtask").then_some(&("", &[] as &[&str])))
    else {
        return findings;
    };
    for (line, name) in dependencies(content) {
        if let Some(used) = name.strip_prefix("enginehouse-")
            && !ours.contains(&used)
        {
            findings.push(format!(":{line}: {folder} may not use {used}"));
        }
        let confined = CONFINED.iter().find(|(library, _)| *library == name);
        if confined.is_some_and(|(_, crates)| !crates.contains(&folder.as_str())) {
            findings.push(format!(":{line}: {folder} may not use {name}"));
        }
    }
    findings
}

/// The names under `[dependencies]`, with their lines.
fn dependencies(content: &str) -> Vec<(usize, String)> {
    let mut within = false;
    let mut found = Vec::new();
    for (index, line) in content.lines().enumerate() {
        if line.starts_with('[') {
            within = line.trim() == "[dependencies]";
        } else if within
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
        {
            found.push((index + 1, name.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_edge_is_found() {
        let manifest = |dependency: &str| {
            format!(
                "[lints]\nworkspace = true\n\n[dependencies]\n{dependency}\n\n[dev-dependencies]\ntokio.workspace = true\n"
            )
        };
        for (path, dependency, clean) in [
            ("crates/core/Cargo.toml", "serde.workspace = true", true),
            ("crates/core/Cargo.toml", "tokio.workspace = true", false),
            ("crates/store/Cargo.toml", "enginehouse-core.workspace = true", true),
            ("crates/worker/Cargo.toml", "enginehouse-store.workspace = true", false),
            ("crates/runtime/Cargo.toml", "rusqlite = { workspace = true }", false),
            ("crates/server/Cargo.toml", "anyhow = \"1\"", false),
            ("xtask/Cargo.toml", "anyhow = \"1\"", true),
        ] {
            assert_eq!(check(path, &manifest(dependency)).is_empty(), clean, "{path} {dependency}");
        }
        assert_eq!(check("crates/core/Cargo.toml", "[dependencies]\n").len(), 1);
    }
}
