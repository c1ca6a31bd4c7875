//! How many instructions one execution takes on the core path: a figure that a noisy machine does not move, and so one that CI
//! can hold still.

use crate::process::{cargo, output, run, target_dir};
use crate::step_end::StepEnd;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const HELP: &str = "\
Counts the instructions of one execution from submit to the answer of a caller who waits, with a kilobyte
in and out, on the store in memory and on SQLite without syncs, under valgrind. Fails when one of them is
more than a tenth above bench/results/instructions.json.

Usage: cargo xtask bench instructions [OPTIONS]

  --update   write the figures down as those to compare with
";

const STORES: [&str; 2] = ["memory", "sqlite"];
/// The same once more with this many executions more; the difference is theirs alone.
const FEW: u64 = 200;
const MANY: u64 = 1_200;
const TOLERANCE: f64 = 0.10;
const FILE: &str = "bench/results/instructions.json";

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    if !has_valgrind() {
        bail!("valgrind is not installed (apt-get install valgrind)");
    }
    let counts = count_all()?;
    if args.iter().any(|arg| arg == "--update") {
        let text = serde_json::to_string_pretty(&counts)?;
        std::fs::write(FILE, text + "\n").context(FILE)?;
        println!("written to {FILE}");
        return Ok(());
    }
    compare(&counts).map(|line| println!("{line}"))
}

/// The step of CI: installs valgrind where it may, says loudly when it cannot.
pub(crate) fn check() -> Result<StepEnd> {
    if !has_valgrind() {
        // Where this is not allowed, or there is no package index, the answer below says what is missing.
        let _ =
            output(Command::new("apt-get").args(["install", "--yes", "--no-install-recommends", "valgrind"]));
    }
    if !has_valgrind() {
        return Ok(StepEnd::Skipped("valgrind is not installed (apt-get install valgrind)".to_owned()));
    }
    compare(&count_all()?).map(StepEnd::Passed)
}

fn has_valgrind() -> bool {
    output(Command::new("valgrind").arg("--version")).is_ok()
}

/// Instructions of one execution, by store.
fn count_all() -> Result<BTreeMap<String, u64>> {
    let build =
        ["build", "--release", "--locked", "--package", "enginehouse-runtime", "--example", "core_path"];
    run(&mut cargo(&build)).context("the core path does not build")?;
    let program = target_dir().join("release/examples/core_path");
    let each = |store: &str| -> Result<u64> {
        let (few, many) = (count(&program, store, FEW)?, count(&program, store, MANY)?);
        Ok(many.saturating_sub(few) / (MANY - FEW))
    };
    STORES.into_iter().map(|store| Ok((store.to_owned(), each(store)?))).collect()
}

fn count(program: &Path, store: &str, executions: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let told = command.args([store, &executions.to_string()]).output().context("valgrind")?;
    let text = String::from_utf8_lossy(&told.stderr);
    let counted =
        text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, number)| number.trim());
    match counted.and_then(|number| number.parse().ok()) {
        Some(number) if told.status.success() => Ok(number),
        _ => bail!("{store} {executions}: {}: {text}", told.status),
    }
}

fn compare(counts: &BTreeMap<String, u64>) -> Result<String> {
    let text = std::fs::read_to_string(FILE).context(FILE)?;
    let before: BTreeMap<String, u64> = serde_json::from_str(&text).context(FILE)?;
    let mut told = Vec::new();
    let mut grown = false;
    for (store, now) in counts {
        let was = *before.get(store).with_context(|| format!("{FILE} has no {store}"))?;
        let change = *now as f64 / was as f64 - 1.0;
        told.push(format!("{store} {now} instructions an execution ({:+.1} %)", change * 100.0));
        grown |= change > TOLERANCE;
    }
    let told = told.join(", ");
    if grown {
        bail!(
            "{told}: more than a tenth above {FILE}; find what costs it (valgrind --tool=callgrind), or write it down with \
             `cargo xtask bench instructions --update` and say why in the commit"
        );
    }
    Ok(told)
}
