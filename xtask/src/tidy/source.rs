//! Rules for Rust files.

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// Names that say nothing about what they hold.
const EMPTY_NAMES: [&str; 6] = ["util", "common", "helper", "misc", "manager", "processor"];

/// A text that must not stand in some folders, and why.
struct Forbidden {
    text: &'static str,
    /// Beginnings of paths.
    below: &'static [&'static str],
    why: &'static str,
}

const DETERMINISTIC: &[&str] = &["crates/core/src/", "crates/worker/src/", "crates/runtime/src/"];

const FORBIDDEN: &[Forbidden] = &[
    Forbidden { text: "SystemTime::now", below: DETERMINISTIC, why: "time comes from the store's clock" },
    Forbidden {
        text: "std::time::Instant",
        below: DETERMINISTIC,
        why: "monotonic time is tokio's, which can be paused",
    },
    Forbidden {
        text: "HashMap",
        below: DETERMINISTIC,
        why: "its order differs from run to run; use BTreeMap",
    },
    Forbidden {
        text: "HashSet",
        below: DETERMINISTIC,
        why: "its order differs from run to run; use BTreeSet",
    },
    Forbidden { text: "Uuid::now_v7", below: DETERMINISTIC, why: "ids come from Env" },
    Forbidden { text: "rand::rng(", below: DETERMINISTIC, why: "random numbers come from Env" },
    Forbidden { text: "tokio::spawn(", below: DETERMINISTIC, why: "tasks belong to the node's JoinSet" },
    Forbidden { text: "unbounded_channel", below: &["crates/"], why: "every queue has a bound" },
    Forbidden { text: "async fn", below: &["crates/core/src/"], why: "core cannot wait" },
    Forbidden { text: "std::fs", below: &["crates/core/src/"], why: "core does no IO" },
    Forbidden { text: "std::net", below: &["crates/core/src/"], why: "core does no IO" },
    Forbidden { text: "todo!(", below: &["crates/", "xtask/"], why: "unfinished work does not land" },
    Forbidden {
        text: "unimplemented!(",
        below: &["crates/", "xtask/"],
        why: "unfinished work does not land",
    },
];

pub(super) fn check(path: &str, content: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = content.lines().collect();
    if lines.len() > FILE_LINES_MAX {
        findings.push(format!(": {} lines; at most {FILE_LINES_MAX}", lines.len()));
    }
    if path.starts_with("crates/") && !content.starts_with("//!") {
        findings.push(":1: a file begins with what it is for (//!)".to_owned());
    }
    let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if stem.split('_').any(|word| EMPTY_NAMES.contains(&word.trim_end_matches('s'))) {
        findings.push(": the file's name says nothing".to_owned());
    }
    // These rules are written down here, and would find themselves.
    if !path.starts_with("xtask/src/tidy/") {
        findings.extend(forbidden(path, &lines));
    }
    findings.extend(long_functions(&lines));
    findings
}

fn forbidden(path: &str, lines: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for rule in FORBIDDEN.iter().filter(|rule| rule.below.iter().any(|below| path.starts_with(below))) {
        for (index, line) in lines.iter().enumerate() {
            if line.contains(rule.text) && !line.trim_start().starts_with("//") {
                findings.push(format!(":{}: {}: {}", index + 1, rule.text, rule.why));
            }
        }
    }
    findings
}

/// Functions by their indentation, which the formatter guarantees.
fn long_functions(lines: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let closes = |line: &&str| {
            line.len() > indent && line[indent..].starts_with('}') && line[..indent].trim().is_empty()
        };
        // A declaration without a body ends before any brace opens.
        let opens = lines[start..].iter().find(|line| line.trim_end().ends_with(['{', ';']));
        if opens.is_none_or(|line| line.trim_end().ends_with(';')) {
            continue;
        }
        let Some(length) = lines[start + 1..].iter().position(closes) else { continue };
        if length > FUNCTION_LINES_MAX {
            findings.push(format!(":{}: {name} has {length} lines; at most {FUNCTION_LINES_MAX}", start + 1));
        }
    }
    findings
}

/// The name of the function whose body begins on this line or a later one.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        let (word, after) = rest.split_once(' ')?;
        rest = after;
        match word {
            "fn" => break,
            "const" | "async" | "unsafe" | "pub" => {}
            word if word.starts_with("pub(") => {}
            _ => return None,
        }
    }
    let ends_here = line.trim_end().ends_with(';') || line.trim_end().ends_with('}');
    if ends_here { None } else { rest.split(['(', '<']).next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A method whose body and the rest of its head have this many lines.
    fn function(lines: usize) -> String {
        let body = "        x();\n".repeat(lines - 2);
        format!(
            "//! Doc.\n\nimpl X {{\n    pub(crate) async fn long<T>(\n        a: T,\n    ) {{\n{body}    }}\n}}\n"
        )
    }

    #[test]
    fn planted_faults_are_found() {
        let long_file = format!("//! Doc.\n{}", "\n".repeat(FILE_LINES_MAX));
        for (path, content, part) in [
            ("crates/core/src/a.rs", "fn main() {}\n", "begins with what it is for"),
            ("crates/core/src/string_utils.rs", "//! Doc.\n", "says nothing"),
            ("crates/core/src/a.rs", &long_file, "801 lines"),
            ("crates/cli/src/a.rs", &function(71), "long has 71 lines"),
            ("crates/core/src/a.rs", "//! Doc.\nasync fn a() {}\n", "core cannot wait"),
            ("crates/runtime/src/a.rs", "//! Doc.\nuse std::collections::HashMap;\n", "BTreeMap"),
            ("crates/worker/src/a.rs", "//! Doc.\nlet t = SystemTime::now();\n", "store's clock"),
            ("crates/cli/src/a.rs", "//! Doc.\nlet x = todo!();\n", "does not land"),
        ] {
            let findings = check(path, content);
            assert!(findings.iter().any(|finding| finding.contains(part)), "{path}: {part}: {findings:?}");
        }
    }

    #[test]
    fn what_is_fine_is_not_found() {
        for (path, content) in [
            ("crates/cli/src/a.rs", function(70)),
            (
                "crates/server/src/a.rs",
                "//! Doc.\nuse std::collections::HashMap;\n// SystemTime::now is fine here\n".to_owned(),
            ),
            (
                "crates/core/src/a.rs",
                "//! Doc.\ntrait A {\n    fn a(&self);\n    fn b(&self) {}\n}\n".to_owned(),
            ),
        ] {
            assert_eq!(check(path, &content), Vec::<String>::new(), "{path}");
        }
    }
}
