//! Which room of `runtime` may use which, and that no files of a room go round in a circle.
//!
//! A room is a folder of the crate, or a file beside the folders. What uses it is read off paths that begin with `crate` or
//! `super`, so nothing else may hide a use: no path through a name that the root gives on, and no method of `Context` outside
//! of `state`.

use std::collections::{BTreeMap, BTreeSet};

const SOURCE: &str = "crates/runtime/src/";

/// The rooms from the top floor to the ground, each with the rooms that it may use. All of these stand below it, so that there
/// is no circle.
const ROOMS: [(&str, &[&str]); 14] = [
    (
        "node",
        &[
            "watch", "webhooks", "service", "commit", "scaling", "upkeep", "workers", "state", "blobs",
            "seal", "role",
        ],
    ),
    ("watch", &["service", "state", "machine", "role"]),
    ("webhooks", &["service", "state", "role"]),
    ("service", &["upkeep", "scaling", "workers", "state", "seal", "machine"]),
    ("commit", &["state", "breakpoints", "role"]),
    ("scaling", &["workers", "state", "machine", "role"]),
    ("upkeep", &["state", "blobs", "seal", "role"]),
    ("workers", &["state", "blobs", "seal", "breakpoints", "role"]),
    ("state", &["blobs", "seal", "breakpoints", "role"]),
    ("blobs", &["seal"]),
    ("seal", &[]),
    ("machine", &[]),
    ("breakpoints", &[]),
    ("role", &[]),
];
/// The only room with methods of `Context`.
const STATE: &str = "state";
/// Begins the line of a charter that repeats the list above.
const CHARTER: &str = "//! Rooms it may use: ";

/// Uses of a file by another of the same room: both with the room before them.
pub(super) type Uses = BTreeMap<String, BTreeSet<String>>;

/// Findings in one file; adds to `uses` what it uses within its room.
pub(super) fn check(path: &str, content: &str, uses: &mut Uses) -> Vec<String> {
    let Some(inside) = path.strip_prefix(SOURCE).filter(|inside| *inside != "lib.rs") else {
        return Vec::new();
    };
    let places: Vec<&str> = inside.trim_end_matches(".rs").split('/').filter(|name| *name != "mod").collect();
    let Some((room, may_use)) = ROOMS.iter().find(|(room, _)| places.first() == Some(room)) else {
        return vec![": it stands in no room that xtask/src/tidy/rooms.rs knows".to_owned()];
    };
    let mut findings = Vec::new();
    if inside.ends_with("/mod.rs") && places.len() == 1 {
        findings.extend(charter(may_use, content));
    }
    for Path { line, supers, nested, heads } in paths(content) {
        let mut own = Vec::new();
        match supers {
            None => {
                for (name, next) in heads {
                    if name == *room {
                        own.push(next);
                    } else if !ROOMS.iter().any(|(known, _)| *known == name) {
                        findings.push(format!(":{line}: crate::{name} names no room"));
                    } else if !may_use.contains(&name.as_str()) {
                        findings.push(format!(":{line}: {room} may not use {name}"));
                    }
                }
            }
            Some(supers) if supers > places.len() - 1 + nested => {
                findings.push(format!(":{line}: super leads out of {room}"));
            }
            Some(supers) if supers == places.len() - 1 + nested => {
                own.extend(heads.into_iter().map(|(name, _)| name));
            }
            Some(_) => {}
        }
        if let Some(file) = places.get(1) {
            let others = own.into_iter().filter(|name| name != file).map(|name| format!("{room}/{name}"));
            uses.entry(format!("{room}/{file}")).or_default().extend(others);
        }
    }
    for (index, line) in content.lines().enumerate() {
        if *room != STATE && line.trim_start().starts_with("impl Context ") {
            findings.push(format!(":{}: methods of Context belong to the room {STATE}", index + 1));
        }
    }
    findings
}

fn charter(may_use: &[&str], content: &str) -> Option<String> {
    let names: Vec<String> = may_use.iter().map(|room| format!("`{room}`")).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let line = format!("{CHARTER}{names}.");
    (!content.lines().any(|found| found == line)).then(|| format!(": its charter has no line '{line}'"))
}

/// Files that use one another in a circle, if there are any.
pub(super) fn circle(mut uses: Uses) -> Option<String> {
    let known: BTreeSet<String> = uses.keys().cloned().collect();
    uses.values_mut().for_each(|used| used.retain(|name| known.contains(name)));
    loop {
        // Who uses no one who is left is in no circle, nor is who is used by no one.
        let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        uses.retain(|name, uses| !uses.is_empty() && used.contains(name));
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        uses.values_mut().for_each(|used| used.retain(|name| left.contains(name)));
        if uses.len() == before {
            break;
        }
    }
    let files: Vec<String> = uses.into_keys().collect();
    (!files.is_empty()).then(|| format!("{SOURCE}: files use one another in a circle: {}", files.join(", ")))
}

/// A path in code that begins with `crate` or `super`.
struct Path {
    line: usize,
    /// How many; `None`: it begins with `crate`.
    supers: Option<usize>,
    /// In how many modules within the file it stands.
    nested: usize,
    /// The name behind its beginning and the one behind that, or several of a group.
    heads: Vec<(String, String)>,
}

fn paths(content: &str) -> Vec<Path> {
    let mut found = Vec::new();
    let mut modules: Vec<usize> = Vec::new();
    let mut begins = 0;
    for (index, line) in content.lines().enumerate() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if !text.starts_with("//") {
            if text == "}" && modules.last() == Some(&indent) {
                modules.pop();
            }
            for at in
                ["crate::", "super::"].iter().flat_map(|root| line.match_indices(root)).map(|(at, _)| at)
            {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let mut rest = &content[begins + at..];
                let mut supers = 0;
                while let Some(behind) = rest.strip_prefix("super::") {
                    (rest, supers) = (behind, supers + 1);
                }
                let supers = if supers == 0 { None } else { Some(supers) };
                let heads = heads(rest.strip_prefix("crate::").unwrap_or(rest));
                found.push(Path { line: index + 1, supers, nested: modules.len(), heads });
            }
            if text.ends_with('{') && (text.starts_with("mod ") || text.contains(" mod ")) {
                modules.push(indent);
            }
        }
        begins += line.len() + 1;
    }
    found
}

/// The first names of a path and the second ones, of each part if it is a group.
fn heads(path: &str) -> Vec<(String, String)> {
    let Some(group) = path.strip_prefix('{') else { return vec![head(path)] };
    let (mut depth, mut from, mut heads) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => {
                heads.push(head(&group[from..at]));
                break;
            }
            ',' if depth == 0 => {
                heads.push(head(&group[from..at]));
                from = at + 1;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads.retain(|(name, _)| !name.is_empty());
    heads
}

fn head(path: &str) -> (String, String) {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let path = path.trim_start();
    let first = name(path);
    let second = path[first.len()..].strip_prefix("::").map(name).unwrap_or_default();
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, content: &str) -> Vec<String> {
        check(&format!("{SOURCE}{path}"), content, &mut Uses::new())
    }

    #[test]
    fn a_room_uses_only_rooms_below_it() {
        for (at, (room, may_use)) in ROOMS.iter().enumerate() {
            let below: Vec<&str> = ROOMS[at + 1..].iter().map(|(room, _)| *room).collect();
            assert!(may_use.iter().all(|used| below.contains(used)), "{room}");
        }
    }

    #[test]
    fn a_use_that_is_not_in_the_list_is_found() {
        for (path, content, part) in [
            ("state/a.rs", "use crate::workers::pool::Pool;\n", ":1: state may not use workers"),
            (
                "state/a.rs",
                "use crate::{\n    seal::Ring,\n    workers::pool::Pool,\n};\n",
                "may not use workers",
            ),
            ("blobs/a.rs", "fn f() {\n    crate::state::context::f();\n}\n", ":2: blobs may not use state"),
            ("upkeep/a.rs", "use crate::Service;\n", "crate::Service names no room"),
            ("upkeep/a.rs", "use super::super::state::hub::Hub;\n", "super leads out of upkeep"),
            ("upkeep/mod.rs", "//! Rooms it may use: `seal`.\n", "has no line"),
            ("upkeep/mod.rs", "use super::node::Node;\n", "super leads out of upkeep"),
            ("node.rs", "use super::state::hub::Hub;\n", "super leads out of node"),
            ("upkeep/a.rs", "impl Context {\n}\n", "belong to the room state"),
            ("util.rs", "//! Doc.\n", "in no room"),
        ] {
            let findings = found(path, content);
            assert!(findings.iter().any(|finding| finding.contains(part)), "{path} {content}: {findings:?}");
        }
    }

    #[test]
    fn what_is_in_the_list_is_not_found() {
        for (path, content) in [
            ("lib.rs", "pub use service::Service;\n"),
            ("node.rs", "use crate::seal::unlock;\n"),
            ("state/a.rs", "use super::hub::Hub;\nuse crate::{seal, blobs::Blobs};\nimpl Context {\n}\n"),
            ("state/b/c.rs", "use super::super::hub::Hub;\npub(crate) fn f() {}\n// crate::workers\n"),
            ("state/a.rs", "mod tests {\n    use super::super::hub::Hub;\n}\n"),
            ("seal/mod.rs", "//! Rooms it may use: none.\n"),
        ] {
            assert_eq!(found(path, content), Vec::<String>::new(), "{path} {content}");
        }
    }

    #[test]
    fn a_circle_of_files_is_found() {
        let circle_of = |files: &[(&str, &str)]| {
            let mut uses = Uses::new();
            for (path, content) in files {
                assert_eq!(check(&format!("{SOURCE}{path}"), content, &mut uses), Vec::<String>::new());
            }
            circle(uses)
        };
        let round = [
            ("state/a.rs", "use super::b::B;\n"),
            ("state/b/inner.rs", "use super::super::{c::C, d};\n"),
            ("state/c.rs", "use crate::state::a::A;\n"),
            ("state/d.rs", "use crate::seal::a;\n"),
            ("state/e.rs", "use super::a::A;\n"),
        ];
        assert!(circle_of(&round).is_some_and(|text| text.ends_with(": state/a, state/b, state/c")));
        assert_eq!(circle_of(&round[1..]), None);
    }
}
