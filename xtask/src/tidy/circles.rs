//! Which files use each other: in some folders in one direction only.
//!
//! What a file uses is read from its paths: `use`, `crate::`, `super::`, and those of modules that it declares itself.
//! Tests may use whatever they test with.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where sources of a crate begin, the module in it whose files may not use each other in a circle (empty: all of them), and
/// what a file may use of the modules above it.
const CLEAR: [(&str, &str, Parents); 9] = [
    ("crates/cli/src/", "config", Parents::Counted),
    ("crates/server/src/", "", Parents::Counted),
    ("crates/worker/src/", "", Parents::Counted),
    ("xtask/src/", "", Parents::Counted),
    ("crates/api/src/", "", Parents::Free),
    ("crates/cli/src/", "", Parents::Free),
    ("crates/core/src/", "", Parents::Free),
    ("crates/engine/src/", "", Parents::Free),
    ("crates/store/src/", "", Parents::Free),
];

/// What is thought of a file that uses the module which declares it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parents {
    /// It is a use like any other, so that the parent may only name its children.
    Counted,
    /// A type whose methods stand in several files is one thing with its parts: the parts may use it.
    Free,
}

fn within(module: &[String], folder: &str) -> bool {
    folder.is_empty() || module.first().is_some_and(|first| first == folder)
}

/// The path of the module that a file is, below its crate.
fn module_of(path: &str, root: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix(root)?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    Some(path.split('/').map(str::to_owned).collect())
}

/// One finding for each circle among files given by path and content.
pub(super) fn check(files: &[(String, String)]) -> Vec<String> {
    let mut findings = Vec::new();
    for (root, folder, parents) in CLEAR {
        let modules = files.iter().filter_map(|(path, content)| {
            let module = module_of(path, root).filter(|module| within(module, folder))?;
            Some((module, content.as_str()))
        });
        let modules: BTreeMap<Vec<String>, &str> = modules.collect();
        let uses: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = modules
            .iter()
            .map(|(module, content)| {
                let mut used = used(module, content, &modules);
                used.retain(|used| parents == Parents::Counted || !module.starts_with(used));
                (module, used)
            })
            .collect();
        let mut told = BTreeSet::new();
        for module in modules.keys() {
            if told.contains(module) {
                continue;
            }
            if let Some(circle) = circle(module, &uses) {
                let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
                findings.push(format!("{root}: files use each other in a circle: {}", names.join(" -> ")));
                told.extend(circle);
            }
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

/// The shortest way from a module back to itself.
fn circle<'m>(
    start: &'m Vec<String>,
    uses: &BTreeMap<&'m Vec<String>, BTreeSet<&'m Vec<String>>>,
) -> Option<Vec<&'m Vec<String>>> {
    let mut came_from: BTreeMap<&Vec<String>, &Vec<String>> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(module) = next.pop_front() {
        for used in uses.get(module).into_iter().flatten() {
            if came_from.contains_key(used) {
                continue;
            }
            came_from.insert(used, module);
            if *used == start {
                let mut way = vec![start];
                let mut at = came_from[start];
                while at != start {
                    way.push(at);
                    at = came_from[at];
                }
                way.push(start);
                way.reverse();
                return Some(way);
            }
            next.push_back(used);
        }
    }
    None
}

/// The modules that a file uses, of those there are.
fn used<'m>(
    module: &[String],
    content: &str,
    modules: &'m BTreeMap<Vec<String>, &str>,
) -> BTreeSet<&'m Vec<String>> {
    let code = code(content);
    let mut paths = used_paths(&code);
    for statement in statements(&code) {
        paths.extend(expanded(&statement));
    }
    let children: BTreeSet<&str> = code.lines().filter_map(declared).collect();
    let mut found = BTreeSet::new();
    for path in paths {
        let mut words = path.split("::").map(str::trim).peekable();
        let mut absolute = match words.peek().copied() {
            Some("crate") => Vec::new(),
            Some("self" | "super") => module.to_vec(),
            Some(first) if children.contains(first) => module.to_vec(),
            _ => continue,
        };
        for word in words {
            match word {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                word => absolute.push(word.to_owned()),
            }
        }
        // What stands in a path behind its last module is an item of it.
        let known = (1..=absolute.len()).rev().find_map(|end| modules.get_key_value(&absolute[..end]));
        found.extend(known.map(|(known, _)| known).filter(|known| known.as_slice() != module));
    }
    found
}

/// What is no comment, no test, no text between quotes and no word on who may see an item.
fn code(content: &str) -> String {
    let mut kept = String::new();
    let mut lines = content.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        {
            for line in lines.by_ref() {
                if line == "}" {
                    break;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            let line = line.replace("pub(in crate", "pub(in ");
            // Of texts that go over several lines only the first and the last are seen as such.
            kept.extend(line.split('"').step_by(2));
            kept.push('\n');
        }
    }
    kept
}

/// The module that a line declares to be in a file of its own.
fn declared(line: &str) -> Option<&str> {
    let (before, name) = line.trim().strip_suffix(';')?.rsplit_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

/// Paths anywhere: `a::b::c`.
fn used_paths(code: &str) -> Vec<String> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .filter(|word| word.contains("::"))
        .map(|word| word.trim_matches(':').to_owned())
        .collect()
}

/// What follows `use` up to its semicolon.
fn statements(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let begins = rest[..at].chars().next_back().is_none_or(char::is_whitespace);
        rest = &rest[at + 4..];
        if begins && let Some(end) = rest.find(';') {
            found.push(rest[..end].split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expanded(statement: &str) -> Vec<String> {
    let Some((before, within)) = statement.split_once('{') else {
        return vec![statement.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let within = within.rsplit_once('}').map_or(within, |(within, _)| within);
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in within.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expanded(&format!("{before}{}", part.trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(name, text)| (format!("crates/cli/src/{name}"), (*text).to_owned()));
        check(&files.collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_is_found_however_it_is_written() {
        let table: [(&[(&str, &str)], &str); 6] = [
            (
                &[("config/a.rs", "use super::b::B;\n"), ("config/b.rs", "use super::a::A;\n")],
                "config::a -> config::b -> config::a",
            ),
            (
                &[
                    ("config/a.rs", "use crate::config::{c::C, b::{self, B}};\n"),
                    ("config/b.rs", "fn f() { super::d::g() }\n"),
                    ("config/c.rs", ""),
                    ("config/d.rs", "pub(super) use super::a::A as Z;\n"),
                ],
                "config::a -> config::b -> config::d -> config::a",
            ),
            (
                &[("config.rs", "mod a;\npub use a::A;\n"), ("config/a.rs", "use super::Whole;\n")],
                "config -> config::a -> config",
            ),
            (
                &[
                    ("config.rs", "pub(crate) mod a;\nfn f() { a::g() }\n"),
                    ("config/a.rs", "use crate::config::W;\n"),
                ],
                "config -> config::a -> config",
            ),
            (
                &[
                    ("config/a/mod.rs", "mod b;\nuse b::B;\n"),
                    ("config/a/b.rs", "use super::super::c::C;\n"),
                    ("config/c.rs", "use super::a::A;\n"),
                ],
                "config::a -> config::a::b -> config::c -> config::a",
            ),
            (
                &[("config/a.rs", "m! { $crate::config::b::B }\n"), ("config/b.rs", "use super::a;\n")],
                "config::a -> config::b -> config::a",
            ),
        ];
        for (files, circle) in table {
            let found = findings(files);
            assert_eq!(found.len(), 1, "{files:?}: {found:?}");
            assert!(found[0].ends_with(&format!(": {circle}")), "{files:?}: {found:?}");
        }
    }

    #[test]
    fn one_direction_is_no_circle() {
        let files = [
            ("config.rs", "mod a;\nmod b;\npub use a::A;\nuse crate::other::X;\n"),
            ("config/a.rs", "//! super::b\nuse super::b::{B, C};\npub(in crate::config) fn f() {}\n"),
            ("config/b.rs", "// super::a\n#[cfg(test)]\nmod tests {\n    use crate::config::a::A;\n}\n"),
            ("other.rs", "// crate::config::A\n"),
        ];
        assert_eq!(findings(&files), Vec::<String>::new());
    }

    #[test]
    fn parts_may_use_what_they_are_parts_of_and_not_each_other_in_a_circle() {
        let found = |files: &[(&str, &str)]| {
            let files =
                files.iter().map(|(name, text)| (format!("crates/core/src/{name}"), (*text).to_owned()));
            check(&files.collect::<Vec<_>>())
        };
        let parts = [("queue.rs", "mod lane;\nuse lane::Lane;\n"), ("queue/lane.rs", "use super::Queue;\n")];
        assert_eq!(found(&parts), Vec::<String>::new());
        let apart = [("queue.rs", "use crate::gate::Gate;\n"), ("gate.rs", "use crate::queue::Queue;\n")];
        assert_eq!(found(&apart).len(), 1);
        let siblings =
            [("queue/lane.rs", "use super::place::P;\n"), ("queue/place.rs", "use super::lane::L;\n")];
        assert_eq!(found(&siblings).len(), 1);
    }
}
