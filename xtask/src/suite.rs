//! `cargo xtask test`: every test of the workspace.

use crate::process::{cargo, watched, works};
use anyhow::{Result, bail};

const HELP: &str = "\
Run the tests of all crates: with cargo-nextest where it is installed, else with cargo test.
Needs no network and no service.

Usage: cargo xtask test [FILTER...] [--no-nextest] [-- ARGS]

  FILTER         only tests whose name contains it
  --no-nextest   use cargo test even where cargo-nextest is installed
  ARGS           handed to the test binaries (cargo test) or to nextest's (after its own --)
";

/// Tests that ran, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "--no-nextest").collect();
    let (ok, tally) = run(&args, std::env::args().any(|arg| arg == "--no-nextest"))?;
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if !ok {
        bail!("tests failed");
    }
    Ok(())
}

/// Runs the tests; `false` when one failed or did not build.
pub(crate) fn run(args: &[&str], without_nextest: bool) -> Result<(bool, Tally)> {
    let nextest = !without_nextest && works(&mut cargo(&["nextest", "--version"]));
    let mut tally = Tally::default();
    let mut see = |line: &str| tally.add(line);
    if !nextest {
        let ok = watched(cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]).args(args), &mut see)?;
        return Ok((ok, tally));
    }
    let mut ok = watched(
        cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--no-tests=pass"]).args(args),
        &mut see,
    )?;
    if args.is_empty() {
        // nextest does not run the examples in doc comments.
        ok &= watched(&mut cargo(&["test", "--doc", "--workspace", "--locked", "--quiet"]), &mut see)?;
    }
    Ok((ok, tally))
}

impl Tally {
    /// Counts a summary line of either runner; other lines change nothing.
    fn add(&mut self, line: &str) {
        let line = plain(line);
        let line = line.trim();
        let counts = if let Some(rest) = line.strip_prefix("test result: ") {
            rest.split_once(". ").map(|(_, counts)| counts.to_owned())
        } else if line.starts_with("Summary [") {
            line.split_once(" run: ").map(|(_, counts)| counts.to_owned())
        } else {
            None
        };
        for part in counts.unwrap_or_default().split([',', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" | "skipped" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// The line without colours.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "\u{1b}[32;1m     Summary\u{1b}[0m [   1.203s] 30 tests run: 29 passed (1 slow), 1 failed, 2 skipped",
            "a line that says 7 passed and is none",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 45, failed: 3, ignored: 3 });
    }
}
