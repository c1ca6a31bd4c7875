//! The examples run, and print what is written beside them.
//!
//! `examples/NAME.expected` is the output of `examples/NAME.rs`. In it, `[..]` stands for anything within one line.

use crate::process::{cargo, output, root};
use anyhow::{Context, Result, bail};

/// Runs every example that has an expected output; gives how many there were.
pub(crate) fn check() -> Result<usize> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("examples")).context("examples/")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "expected") {
            names.push(path);
        }
    }
    names.sort();
    let mut wrong = Vec::new();
    for path in &names {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = std::fs::read_to_string(path)?;
        let command = ["run", "--quiet", "--locked", "--package", "enginehouse", "--example", &name];
        let found = String::from_utf8_lossy(&output(&mut cargo(&command))?).into_owned();
        if let Some(difference) = difference(&wanted, &found) {
            wrong.push(format!("example {name}, {difference}\n--- it printed\n{found}"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(names.len())
}

fn difference(wanted: &str, found: &str) -> Option<String> {
    let (wanted, found): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), found.lines().collect());
    for line in 0..wanted.len().max(found.len()) {
        match (wanted.get(line), found.get(line)) {
            (Some(wanted), Some(found)) if matches(wanted, found) => {}
            (wanted, found) => {
                let shown =
                    |text: Option<&&str>| text.map_or("(nothing)".to_owned(), |text| (*text).to_owned());
                return Some(format!("line {}: wanted {}, found {}", line + 1, shown(wanted), shown(found)));
            }
        }
    }
    None
}

/// Whether a line fits a pattern in which `[..]` stands for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    last.map_or(rest.is_empty(), |end| rest.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_stands_for_anything_in_its_line() {
        for (pattern, line, fits) in [
            ("same", "same", true),
            ("same", "same!", false),
            ("id [..] ok", "id 17 ok", true),
            ("id [..] ok", "id 17 ok!", false),
            ("[..] of [..]", "3 of 4", true),
            ("[..] of [..]", "3 in 4", false),
            ("[..]", "", true),
        ] {
            assert_eq!(matches(pattern, line), fits, "{pattern:?} {line:?}");
        }
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert!(difference("a\n", "a\nb\n").is_some_and(|text| text.contains("line 2")));
    }
}
