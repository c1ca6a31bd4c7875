//! `cargo xtask test`: every test of the workspace.

use crate::process::{cargo, watched, works};
use anyhow::{Result, bail};

const HELP: &str = "\
Run the tests of all crates: with cargo-nextest where it is installed, else with cargo test.
Needs no network and no service.

Usage: cargo xtask test [FILTER...] [--explore] [--no-nextest] [-- ARGS]

  FILTER         only tests whose name contains it
  --explore      property tests draw new cases; without it they draw the same ones in every run, so that
                 a run fails for what was changed and for nothing else
  --no-nextest   use cargo test even where cargo-nextest is installed
  ARGS           handed to the test binaries (cargo test) or to nextest's (after its own --)
";

/// The seed of all property tests where none is asked for.
const PROPERTY_SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "20260101");
/// Names kept of each list of a [`Tally`].
const NAMES_MAX: usize = 50;

/// Tests that ran, by how they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Names of those that failed.
    pub(crate) failures: Vec<String>,
    /// Names of those that passed only when they were tried again.
    pub(crate) flaky: Vec<String>,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let options =
        Options { without_nextest: has("--no-nextest"), explore: has("--explore"), ..Options::default() };
    let ours = ["--no-nextest", "--explore"];
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !ours.contains(arg)).collect();
    let (ok, tally) = run(&args, options)?;
    tally.print_names();
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if !ok {
        bail!("tests failed");
    }
    Ok(())
}

/// How the tests are run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) without_nextest: bool,
    /// New cases for the property tests.
    pub(crate) explore: bool,
    /// nextest's profile `ci`, which tries a failed test of real processes once more and says so.
    pub(crate) ci: bool,
}

/// Runs the tests; `false` when one failed or did not build.
pub(crate) fn run(args: &[&str], options: Options) -> Result<(bool, Tally)> {
    let nextest = !options.without_nextest && works(&mut cargo(&["nextest", "--version"]));
    let mut tally = Tally::default();
    let mut see = |line: &str| tally.add(line);
    let prepared = |words: &[&str]| {
        let mut command = cargo(words);
        // Tests that ask it are skipped, and say so, where it was not installed.
        command.envs(crate::witness::python().map(|python| ("ENGINEHOUSE_WITNESS", python)));
        if !options.explore && std::env::var_os(PROPERTY_SEED.0).is_none() {
            command.env(PROPERTY_SEED.0, PROPERTY_SEED.1);
        }
        command
    };
    if !nextest {
        let all = ["test", "--workspace", "--locked", "--no-fail-fast"];
        let ok = watched(prepared(&all).args(args), &mut see)?;
        return Ok((ok, tally));
    }
    let profile = if options.ci { "ci" } else { "default" };
    let all = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--no-tests=pass"];
    let mut ok = watched(prepared(&all).args(["--profile", profile]).args(args), &mut see)?;
    if args.is_empty() {
        // nextest does not run the examples in doc comments.
        ok &= watched(&mut cargo(&["test", "--doc", "--workspace", "--locked", "--quiet"]), &mut see)?;
    }
    Ok((ok, tally))
}

impl Tally {
    /// Says which tests failed or were flaky, so that anyone who reads only the end knows.
    pub(crate) fn print_names(&self) {
        for (word, names) in [("failed", &self.failures), ("flaky (failed, then passed)", &self.flaky)] {
            names.iter().for_each(|name| println!("{word}: {name}"));
        }
    }

    /// Counts a summary line of either runner and keeps the names of tests that failed; other lines change nothing.
    fn add(&mut self, line: &str) {
        let line = plain(line);
        let line = line.trim();
        self.keep_name(line);
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

impl Tally {
    fn keep_name(&mut self, line: &str) {
        // After the time nextest may count: "[   4.969s] (114/406) crate test".
        let named = |rest: &str| {
            let (_, rest) = rest.split_once("] ")?;
            let rest = rest.trim();
            Some(
                rest.split_once(") ")
                    .filter(|_| rest.starts_with('('))
                    .map_or(rest, |(_, name)| name)
                    .to_owned(),
            )
        };
        let list = if line.starts_with("FAIL [") || line.starts_with("TRY 2 FAIL [") {
            named(line).map(|name| (&mut self.failures, name))
        } else if line.starts_with("FLAKY ") {
            named(line).map(|name| (&mut self.flaky, name))
        } else {
            line.strip_prefix("test ")
                .and_then(|rest| rest.strip_suffix(" ... FAILED"))
                .map(|name| (&mut self.failures, name.to_owned()))
        };
        // nextest repeats the output of a test that failed, in which the test's own runner names it again.
        if let Some((names, name)) = list
            && names.len() < NAMES_MAX
            && !names.iter().any(|known| known.ends_with(&name))
        {
            names.push(name);
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
            "        FAIL [   4.969s] (114/406) house-core autoscaler::a_steady_load",
            "    test autoscaler::a_steady_load ... FAILED",
            "test queue::order ... FAILED",
            "  TRY 1 FAIL [   1.203s] (3/4) house::it workers::killed",
            "  TRY 2 FAIL [   1.203s] (4/4) house::it workers::lost",
            "   FLAKY 2/2 [   1.203s] (3/4) house::it workers::killed",
        ] {
            tally.add(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (45, 3, 3));
        assert_eq!(
            tally.failures,
            ["house-core autoscaler::a_steady_load", "queue::order", "house::it workers::lost"]
        );
        assert_eq!(tally.flaky, ["house::it workers::killed"]);
    }
}
