//! `cargo xtask ci`: everything a change must pass.

use crate::process::{cargo, run, works};
use crate::step_end::StepEnd;
use crate::suite::Tally;
use crate::{bench, deploy, docs, examples, schemathesis, suite, tidy, witness};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const HELP: &str = "\
Everything a change must pass: formatting, tidy, clippy, tests, generated docs, examples, and the
API against its own OpenAPI document. Prints each step's time and a summary.

Usage: cargo xtask ci [STEP...]

  STEP   only these: fmt tidy clippy witnesses test docs examples deploy
         instructions deny schemathesis
";

type Step = (&'static str, fn(&mut Tally) -> Result<StepEnd>);

const STEPS: [Step; 11] = [
    ("fmt", |_| passed(run(&mut cargo(&["fmt", "--all", "--check"])))),
    ("tidy", |_| tidy::check().map(|files| StepEnd::Passed(format!("{files} files")))),
    ("clippy", |_| {
        let flags = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        passed(run(&mut cargo(&flags)))
    }),
    ("witnesses", |_| witness::install()),
    ("test", tests),
    ("docs", |_| passed(docs::check())),
    ("examples", |_| examples::check().map(|count| StepEnd::Passed(format!("{count} examples")))),
    ("deploy", |_| deploy::check()),
    ("instructions", |_| bench::instructions::check()),
    ("deny", |_| deny()),
    ("schemathesis", |_| schemathesis::check()),
];

struct Report {
    name: &'static str,
    took: Duration,
    result: Result<StepEnd>,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    if let Some(unknown) = args.iter().find(|arg| !STEPS.iter().any(|(name, _)| name == arg)) {
        bail!("{unknown:?} is not a step\n\n{HELP}");
    }
    let mut tally = Tally::default();
    let mut reports = Vec::new();
    for (name, step) in STEPS {
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        println!("\n=== {name}");
        let begun = Instant::now();
        let result = step(&mut tally);
        match &result {
            Ok(StepEnd::Passed(_)) => {}
            Ok(StepEnd::Skipped(why)) => println!("SKIPPED {name}: {why}"),
            Err(error) => println!("FAILED {name}: {error:#}"),
        }
        reports.push(Report { name, took: begun.elapsed(), result });
    }
    let failed = summary(&reports);
    tally.print_names();
    // Kept as the last line: anyone who reads only the end learns what the tests said.
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if failed > 0 {
        bail!("{failed} of {} steps failed", reports.len());
    }
    Ok(())
}

/// Prints one line a step; gives how many failed.
fn summary(reports: &[Report]) -> usize {
    println!("\n=== summary");
    for report in reports {
        let (word, note) = match &report.result {
            Ok(StepEnd::Passed(note)) => ("ok", note.clone()),
            Ok(StepEnd::Skipped(why)) => ("SKIPPED", why.clone()),
            Err(error) => ("FAILED", error.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        println!("{:<14} {:>7.1} s  {word:<8} {note}", report.name, report.took.as_secs_f64());
    }
    reports.iter().filter(|report| report.result.is_err()).count()
}

fn passed(result: Result<()>) -> Result<StepEnd> {
    result.map(|()| StepEnd::Passed(String::new()))
}

fn tests(tally: &mut Tally) -> Result<StepEnd> {
    let (ok, counted) = suite::run(&[], suite::Options { ci: true, ..suite::Options::default() })?;
    *tally = counted;
    if !ok {
        bail!("{} of {} tests failed", tally.failed, tally.passed + tally.failed);
    }
    if tally.passed == 0 {
        bail!("no test ran");
    }
    let flaky = if tally.flaky.is_empty() { String::new() } else { format!(", {} FLAKY", tally.flaky.len()) };
    Ok(StepEnd::Passed(format!("{} passed, {} ignored{flaky}", tally.passed, tally.ignored)))
}

fn deny() -> Result<StepEnd> {
    if !works(&mut cargo(&["deny", "--version"])) {
        return Ok(StepEnd::Skipped("cargo-deny is not installed (cargo install cargo-deny)".to_owned()));
    }
    // Advisories come and go without a change here, so they are for a scheduled look, not for every change.
    passed(run(&mut cargo(&["deny", "check", "licenses", "bans", "sources"])))
}
