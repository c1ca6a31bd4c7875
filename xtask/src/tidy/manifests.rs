//! Which crate may use which, and that it uses what its manifest names.

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
    for Dependency { line, name, .. } in dependencies(content, "[dependencies]") {
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

/// Dependencies that no source names. One that is there for another reason has a comment above it that tells the reason.
pub(super) fn unused(content: &str, sources: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for section in ["[dependencies]", "[dev-dependencies]"] {
        for Dependency { line, name, .. } in dependencies(content, section).iter().filter(|it| !it.explained)
        {
            let word = name.replace('-', "_");
            if !sources.iter().any(|source| names(source, &word)) {
                findings.push(format!(":{line}: nothing uses {name}"));
            }
        }
    }
    findings
}

/// Dependencies of the workspace that none of its crates takes.
pub(super) fn untaken(workspace: &str, crates: &[&str]) -> Vec<String> {
    let taken = |name: &str| {
        crates.iter().any(|manifest| {
            let sections = ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"];
            sections.iter().any(|section| dependencies(manifest, section).iter().any(|it| it.name == name))
        })
    };
    let named = dependencies(workspace, "[workspace.dependencies]");
    let left = named.iter().filter(|it| !taken(&it.name));
    left.map(|it| format!(":{}: no crate takes {}", it.line, it.name)).collect()
}

/// Whether a text has this word.
fn names(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part)
            && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

struct Dependency {
    line: usize,
    name: String,
    /// There is a comment above it.
    explained: bool,
}

/// What stands under the head of a section.
fn dependencies(content: &str, section: &str) -> Vec<Dependency> {
    let (mut within, mut explained) = (false, false);
    let mut found = Vec::new();
    for (index, line) in content.lines().enumerate() {
        let comment = line.starts_with('#');
        if line.starts_with('[') {
            within = line.trim() == section;
        } else if within
            && !comment
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
        {
            found.push(Dependency { line: index + 1, name: name.trim().to_owned(), explained });
        }
        explained = comment;
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

    #[test]
    fn what_nothing_uses_is_found() {
        let manifest = "[dependencies]\ntokio-util.workspace = true\n# For its feature.\nother = \"1\"\n\n[dev-dependencies]\ntempfile = \"3\"\n";
        let table: [(&[&str], &[&str]); 4] = [
            (&["use tokio_util::x;", "let x = tempfile::tempdir();"], &[]),
            (&["use tokio_util::x;"], &[":7: nothing uses tempfile"]),
            (
                &["use my_tokio_util::x;", "tempfiles"],
                &[":2: nothing uses tokio-util", ":7: nothing uses tempfile"],
            ),
            (&[], &[":2: nothing uses tokio-util", ":7: nothing uses tempfile"]),
        ];
        for (sources, findings) in table {
            assert_eq!(unused(manifest, sources), findings, "{sources:?}");
        }
        let workspace = "[workspace.dependencies]\ntempfile = \"3\"\nsubtle = \"2\"\n";
        assert_eq!(untaken(workspace, &[manifest]), [":3: no crate takes subtle"]);
    }
}
