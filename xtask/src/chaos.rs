//! `cargo xtask chaos`: the simulation on many seeds, zombies, and the check of the checker.

use crate::process::{cargo, output, root, target_dir, watched};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const HELP: &str = "\
The real service on a simulated clock under seeded faults: seeds of every kind of fault, workers that
wake after their lease ended, and planted faults that must be found. Writes reliability.json; the last
line is `seeds N faults N violations N`, and the exit status says whether all held.

Usage: cargo xtask chaos [--seeds N] [--from N] [--zombies N] [--threads N] [--no-planted]
       cargo xtask chaos --traffic N [--from N]

  --seeds N      how many seeds of any fault (default 10000; seeds that once failed come on top)
  --from N       the first of them (default 1)
  --zombies N    rounds with workers that stand still past their lease (default 500)
  --threads N    runs at a time (default: as many as there are cores)
  --no-planted   leave the planted faults out
  --traffic N    instead of all this: seeds of made traffic through the lab, with the adaptive limit and
                 without, on engines that are well and on engines that degrade

A seed that fails is told; replay it with
  SEED=n cargo test --release -p enginehouse-runtime --test simulation every_seed -- --nocapture
";

struct Options {
    seeds: u64,
    from: u64,
    zombies: u64,
    threads: usize,
    planted: bool,
    traffic: Option<u64>,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let options = options(args)?;
    if let Some(seeds) = options.traffic {
        return traffic(seeds, options.from);
    }
    let begun = Instant::now();
    let reports = target_dir().join("chaos");
    std::fs::create_dir_all(&reports).context("a directory for the reports")?;
    let program = built(&[])?;
    println!("=== {} seeds on {} threads", options.seeds, options.threads);
    let any = phase(&program, "every_seed_keeps_every_invariant", "REPORT", &reports, &options)?;
    println!("\n=== {} rounds of zombies", options.zombies);
    let zombies = phase(&program, "zombies_are_fenced_off", "ZOMBIE_REPORT", &reports, &options)?;
    let planted = if options.planted {
        println!("\n=== planted faults");
        let program = built(&["--features", "planted-bugs"])?;
        phase(&program, "planted::every_planted_fault_is_found", "PLANTED_REPORT", &reports, &options)?
    } else {
        Phase { held: true, report: Value::Null }
    };
    let report = json!({
        "seeds": any.report["seeds"],
        "faults": any.report["faults"],
        "by_fault": any.report["by_fault"],
        "accepted": any.report["accepted"],
        "violations": any.report["violations"],
        "lost": any.report["lost"],
        "duplicate_terminal": any.report["duplicate_terminal"],
        "extra_calls": any.report["extra_calls"],
        "recovery_p50_ms": any.report["recovery_p50_ms"],
        "recovery_p99_ms": any.report["recovery_p99_ms"],
        "failed_seeds": any.report["failed_seeds"],
        "zombies": {
            "rounds": zombies.report["seeds"],
            "stale_completions_sent": zombies.report["late_results"],
            "accepted": zombies.report["violations"],
        },
        "planted": planted.report,
    });
    let path = root().join("reliability.json");
    std::fs::write(&path, format!("{report:#}\n")).context("reliability.json cannot be written")?;
    println!("\nreliability.json written after {} s", begun.elapsed().as_secs());
    let number = |report: &Value, name: &str| report[name].as_u64().unwrap_or(0);
    let violations = number(&any.report, "violations") + number(&zombies.report, "violations");
    let (seeds, faults) = (number(&any.report, "seeds"), number(&any.report, "faults"));
    println!("seeds {seeds} faults {faults} violations {violations}");
    if !(any.held && zombies.held && planted.held) {
        bail!("not everything held; the lines above say what and how to replay it");
    }
    Ok(())
}

fn options(args: &[String]) -> Result<Options> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { seeds: 10_000, from: 1, zombies: 500, threads, planted: true, traffic: None };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64> {
            let text = args.next().with_context(|| format!("{arg} needs a number\n\n{HELP}"))?;
            text.parse().with_context(|| format!("{arg} {text}: not a number"))
        };
        match arg.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--zombies" => options.zombies = number()?,
            "--threads" => options.threads = usize::try_from(number()?)?.max(1),
            "--traffic" => options.traffic = Some(number()?),
            "--no-planted" => options.planted = false,
            other => bail!("{other:?} is not an option\n\n{HELP}"),
        }
    }
    Ok(options)
}

/// The adaptive limit on made traffic.
fn traffic(seeds: u64, from: u64) -> Result<()> {
    let mut command =
        cargo(&["test", "--release", "--locked", "-p", "enginehouse-core", "--test", "traffic"]);
    command.args(["--", "--nocapture"]).env("SEEDS", seeds.to_string()).env("FROM", from.to_string());
    if watched(&mut command, &mut |_| {})? {
        return Ok(());
    }
    bail!(
        "the adaptive limit harms engines that are well, or gains nothing where they degrade; the lines above say where"
    )
}

/// Builds the simulation as it is released, and gives its program.
pub(crate) fn built(features: &[&str]) -> Result<PathBuf> {
    let mut build = cargo(&["test", "--release", "--locked", "-p", "enginehouse-runtime"]);
    build.args(features).args(["--test", "simulation", "--no-run", "--message-format=json"]);
    let said = output(&mut build)?;
    let artifact = |line: &[u8]| {
        let message: Value = serde_json::from_slice(line).ok()?;
        let simulation = message["target"]["name"] == "simulation";
        message["executable"].as_str().filter(|_| simulation).map(PathBuf::from)
    };
    said.split(|byte| *byte == b'\n').find_map(artifact).context("cargo names no program of the simulation")
}

struct Phase {
    held: bool,
    report: Value,
}

fn phase(program: &Path, test: &str, variable: &str, reports: &Path, options: &Options) -> Result<Phase> {
    let report = reports.join(variable);
    let _ = std::fs::remove_file(&report);
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env(variable, &report);
    command.env("SEEDS", options.seeds.to_string()).env("ROUNDS", options.zombies.to_string());
    command.env("FROM", options.from.to_string()).env("THREADS", options.threads.to_string());
    let held = watched(&mut command, &mut |_| {})?;
    let text = std::fs::read_to_string(&report).with_context(|| format!("{test} left no report"))?;
    Ok(Phase { held, report: serde_json::from_str(&text)? })
}
