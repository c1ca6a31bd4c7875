//! The standard set: what `enginehouse bench` says of a fresh service in each of the usual ways of asking, and how close the seed
//! workloads come to the ideal.

use crate::e2e::house::House;
use crate::process::{output, root, target_dir};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const HELP: &str = "\
Runs the standard set of measurements, each against a fresh service (release build, every submit
synced), and writes them to bench/results/standard.md with the machine and its load.

Usage: cargo xtask bench standard [--secs S] [--debug]

  --secs S   how long each measurement submits (default: 10)
";

/// One worker with as many slots as there are connections.
const STEADY: &str = "\n[scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 64\n\n[engines.demo]\ntype = \"demo\"\n";
/// The seed workloads run on 2 to 20 workers of capacity 10.
const SCALED: &str = "\n[scaling]\nmin_workers = 2\nmax_workers = 20\nworker_capacity = 10\n\n[engines.demo]\ntype = \"demo\"\n";
/// What the ideal of a seed workload is reckoned with: all slots that there may be.
const SLOTS_MAX: f64 = 200.0;
const WORK_MS: f64 = 10.0;

/// Name and arguments of one measurement.
type Way = (&'static str, &'static [&'static str]);

const WAYS: [Way; 5] = [
    ("single submits, 64 connections", &[]),
    ("batches of 100, 8 connections", &["--batch", "100", "--connections", "8"]),
    ("the whole way, 64 connections", &["--wait"]),
    ("the whole way at 200 a second", &["--wait", "--rate", "200"]),
    ("the whole way at 1,000 a second", &["--wait", "--rate", "1000"]),
];

/// Executions of a seed workload, one group after the other, and whether their priorities are mixed.
const SEEDS: [(&str, &[u32], bool); 6] = [
    ("100 at once", &[100], false),
    ("200, scaling up", &[200], false),
    ("500", &[500], false),
    ("50, 100 and 200 one after the other", &[50, 100, 200], false),
    ("190 of mixed priority", &[190], true),
    ("a burst of 1,000", &[1_000], false),
];

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let at = args.iter().position(|arg| arg == "--secs");
    let secs = at.and_then(|at| args.get(at + 1)).map_or("10", String::as_str);
    secs.parse::<f64>().context("--secs takes a number")?;
    let release = !args.iter().any(|arg| arg == "--debug");
    let mut page = format!("# The standard set\n\nWritten by `cargo xtask bench standard`. {}\n", machine()?);
    say(
        &mut page,
        "\n| | submits/s | executions/s | p50, ms | p99, ms | longest, ms | memory, MiB | written for each, KiB |\n|---|---|---|---|---|---|---|---|",
    );
    for (name, more) in WAYS {
        let duration = format!("{secs}s");
        say(&mut page, &measured(name, release, &[&["--duration", &duration], more].concat())?);
    }
    say(&mut page, "\nEach of the following works 10 ms; the ideal has all 200 slots from the start.\n");
    say(&mut page, "| | took, ms | ideal, ms | ratio | memory, MiB |\n|---|---|---|---|---|");
    for (name, groups, mixed) in SEEDS {
        say(&mut page, &seed(name, groups, mixed, release)?);
    }
    let file = root().join("bench/results/standard.md");
    std::fs::create_dir_all(root().join("bench/results"))?;
    std::fs::write(&file, page)?;
    println!("\nwritten to bench/results/standard.md");
    Ok(())
}

fn say(page: &mut String, line: &str) {
    println!("{line}");
    page.push_str(line);
    page.push('\n');
}

/// A fresh service, measured once, with its peak memory and what it wrote for each execution from submit to end.
fn measured(name: &str, release: bool, args: &[&str]) -> Result<String> {
    let dir = target_dir().join("bench/standard");
    let house = House::start_built(&dir, STEADY, &[], release)?;
    let before = house.written()?;
    let figures = bench(&house, release, args)?;
    let written = (house.written()? - before) as f64 / 1_024.0;
    let memory = house.peak_memory()? >> 20;
    house.stop()?;
    let each = written / figures["ended"].as_f64().unwrap_or(f64::NAN);
    Ok(format!("| {name} | {} | {memory} | {each:.1} |", times(&figures)))
}

/// What `enginehouse bench` says of a running service.
pub(super) fn bench(house: &House, release: bool, args: &[&str]) -> Result<Value> {
    let program = target_dir().join(if release { "release" } else { "debug" }).join("enginehouse");
    let mut command = Command::new(program);
    command.args(["bench", "--json", "--url", house.url()]).args(args);
    if !args.contains(&"--engine") {
        command.args(["--type", "demo"]);
    }
    command.env("ENGINEHOUSE_API_KEY", house.key());
    serde_json::from_slice(&output(&mut command)?).context("the figures are no JSON")
}

fn times(figures: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let calls = &figures["calls"];
    format!(
        "{:.0} | {:.0} | {:.2} | {:.2} | {:.2}",
        number(&figures["submitsPerSecond"]),
        number(&figures["executionsPerSecond"]),
        number(&calls["p50"]),
        number(&calls["p99"]),
        number(&calls["max"])
    )
}

/// A workload of groups, each in one call, the next when the last has ended.
fn seed(name: &str, groups: &[u32], mixed: bool, release: bool) -> Result<String> {
    let dir = target_dir().join("bench/standard");
    let house = House::start_built(&dir, SCALED, &[], release)?;
    let (mut took, mut ideal) = (0.0, 0.0);
    for count in groups {
        let count = count.to_string();
        let mut args =
            vec!["--executions", &count, "--batch", &count, "--connections", "1", "--work", "10ms"];
        if mixed {
            args.extend([
                "--priority",
                "LOW",
                "--priority",
                "NORMAL",
                "--priority",
                "HIGH",
                "--priority",
                "CRITICAL",
            ]);
        }
        let figures = bench(&house, release, &args)?;
        let ended = figures["ended"].as_f64().unwrap_or(0.0);
        took += 1_000.0 * ended / figures["executionsPerSecond"].as_f64().unwrap_or(f64::NAN);
        ideal += (ended / SLOTS_MAX).ceil() * WORK_MS;
    }
    let memory = house.peak_memory()? >> 20;
    house.stop()?;
    Ok(format!("| {name} | {took:.0} | {ideal:.0} | {:.1} | {memory} |", took / ideal))
}

/// What the figures were measured on.
fn machine() -> Result<String> {
    let first = |path: &str, name: &str| -> String {
        let text = std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned()
    };
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!(
        "Version {}, {cores} cores ({}), memory {}, load {load} before it began; the client shares the cores.",
        env!("CARGO_PKG_VERSION"),
        first("/proc/cpuinfo", "model name"),
        first("/proc/meminfo", "MemTotal"),
    ))
}
