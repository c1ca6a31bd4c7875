//! What a store that holds much costs: the usual figures, lists and a start with nothing in it, with a million finished executions,
//! and with as many that wait.

use super::filled::{fill, number, pile};
use super::numbers::quantile;
use super::standard::bench;
use crate::e2e::house::House;
use crate::process::target_dir;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Instant;

const HELP: &str = "\
The same figures on an empty store, on one with finished executions, and on that with executions that
wait while some of them run, a thousand first and then more; and how soon the service is ready again.

Usage: cargo xtask bench scale [OPTIONS]

  --rows N     finished executions (default: 1000000)
  --pending N  executions that wait in the end (default: 1000000)
  --debug      the debug build
";

/// The engine `busy` never runs out of work: half of the slots are always taken by what waited longest.
const CONFIG: &str = "compression_enabled = false\n\n[queue]\ndepth_max = 3000000\n\n\
    [scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 64\n\n[engines.demo]\ntype = \"demo\"\ndefault = true\n\n\
    [engines.busy]\ntype = \"demo\"\nmax_concurrency = 32\nadaptive = false\n";
/// Pending executions at which grants are measured, up to what was asked for.
const DEPTHS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Pending executions with which the usual figures and the start are measured.
const USUAL_DEPTH: u64 = 100_000;
const LISTS: [(&str, &str); 6] = [
    ("newest", "/v1/executions?limit=100"),
    ("of one status", "/v1/executions?status=completed&limit=100"),
    ("of a status that none has", "/v1/executions?status=failed&limit=100"),
    ("of one workflow", "/v1/executions?workflowId=bench&limit=100"),
    ("of a status and an engine", "/v1/executions?status=completed&engine=demo&limit=100"),
    ("of a tag that none has", "/v1/executions?tag=none&limit=100"),
];
const LIST_TIMES: usize = 40;

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let (rows, most) = (number(args, "--rows", 1_000_000)?, number(args, "--pending", 1_000_000)?);
    let release = !args.iter().any(|arg| arg == "--debug");
    let base = target_dir().join("bench/scale");
    let mut empty = fill(&base.join("empty"), CONFIG, 0, release)?;
    let mut full = fill(&base.join("full"), CONFIG, rows, release)?;
    println!("\n| store | submits/s | whole way/s | 200/s p50, ms | p99, ms | memory, MiB | start, s |");
    println!("|---|---|---|---|---|---|---|");
    usual("empty", &mut empty, release)?;
    usual(&format!("{rows} finished"), &mut full, release)?;
    // Once more, as the machine may have changed meanwhile.
    usual("empty, again", &mut empty, release)?;
    empty.stop()?;
    lists(&full)?;
    println!("\n| pending | grants seen at 100/s: p50, ms | p99, ms | memory, MiB |\n|---|---|---|---|");
    let mut depth = 0;
    for wanted in DEPTHS.into_iter().filter(|depth| *depth <= most) {
        pile(&full.api(), &busy(), wanted - depth)?;
        depth = wanted;
        grants(wanted, &full, release)?;
        if wanted == USUAL_DEPTH {
            usual(&format!("{rows} finished, {wanted} pending"), &mut full, release)?;
        }
    }
    let start = restart(&mut full)?;
    println!("\nready {start:.2} s after a start with {rows} finished and {depth} pending");
    lists(&full)?;
    full.stop()
}

/// Work of a quarter of a second, so that 32 at once need 128 new ones a second.
fn busy() -> Value {
    json!({"engine": "busy", "workflowId": "busy", "priority": "LOW", "parameters": {"sleepMs": 250}})
}

fn usual(name: &str, house: &mut House, release: bool) -> Result<()> {
    let start = restart(house)?;
    let figure = |args: &[&str]| bench(house, release, args);
    let submits = figure(&["--duration", "5s", "--submits-only"])?;
    let whole = figure(&["--duration", "5s", "--wait"])?;
    let paced = figure(&["--duration", "10s", "--wait", "--rate", "200"])?;
    println!(
        "| {name} | {:.0} | {:.0} | {} | {} | {start:.2} |",
        of(&submits["submitsPerSecond"]),
        of(&whole["executionsPerSecond"]),
        latencies(&paced),
        house.memory()? >> 20,
    );
    Ok(())
}

/// How soon work that may start at once is started and done while slots are given to what waits.
fn grants(depth: u64, house: &House, release: bool) -> Result<()> {
    let paced = bench(house, release, &["--duration", "15s", "--wait", "--rate", "100"])?;
    println!("| {depth} | {} | {} |", latencies(&paced), house.memory()? >> 20);
    Ok(())
}

fn of(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn latencies(figures: &Value) -> String {
    let calls = &figures["calls"];
    format!("{:.2} | {:.2}", of(&calls["p50"]), of(&calls["p99"]))
}

/// Seconds from the start of the process until it says that it is ready.
fn restart(house: &mut House) -> Result<f64> {
    house.terminate()?;
    let begun = Instant::now();
    house.launch()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn lists(house: &House) -> Result<()> {
    println!("\n| list of 100 | p50, ms | longest, ms | found |\n|---|---|---|---|");
    let api = house.api();
    for (name, path) in LISTS {
        let (mut times, mut found) = (Vec::new(), 0);
        for _ in 0..LIST_TIMES {
            let begun = Instant::now();
            let page = api.must("GET", path, None)?;
            times.push(begun.elapsed().as_secs_f64() * 1_000.0);
            found = page["executions"].as_array().map_or(0, Vec::len);
        }
        times.sort_by(f64::total_cmp);
        println!("| {name} | {:.1} | {:.1} | {found} |", quantile(&times, 0.5), quantile(&times, 1.0));
    }
    Ok(())
}
