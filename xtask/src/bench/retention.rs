//! Many finished executions, most of which retention removes: how long that takes, what submits notice of it, and what room comes
//! back.

use super::filled::{PATIENCE, RESULT_BYTES, ended, fill, number};
use super::numbers::quantile;
use crate::api::Api;
use crate::e2e::house::House;
use crate::process::target_dir;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HELP: &str = "\
Fills a store with finished executions, then lets retention remove all but some of them while single
executions are submitted at a steady rate. Prints the time taken, submit latencies before and during,
and bytes on disk before and after beside those of a store that never held more than the rest.

Usage: cargo xtask bench retention [OPTIONS]

  --rows N     finished executions (default: 1000000)
  --keep N     of which so many stay (default: 100000)
  --debug      the debug build
";

/// Submits a second beside it.
const RATE: f64 = 50.0;
const CALM: Duration = Duration::from_secs(20);

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let (rows, keep) = (number(args, "--rows", 1_000_000)?, number(args, "--keep", 100_000)?);
    if keep >= rows {
        bail!("--keep must be less than --rows");
    }
    let release = !args.iter().any(|arg| arg == "--debug");
    let base = target_dir().join("bench/retention");
    let rest = base.join("rest");
    let (_, rest_feed) = filled(&rest, keep, release)?;
    let rest_bytes = on_disk(&rest)?;
    let dir = base.join("full");
    let (mut house, _) = filled(&dir, rows, release)?;
    let before_bytes = on_disk(&dir)?;
    println!(
        "{rows} finished executions of {RESULT_BYTES} bytes: {} MiB; {keep} alone: {} MiB",
        before_bytes >> 20,
        rest_bytes >> 20
    );

    house.launch()?;
    let calm = probe(&house.api(), |_| Ok(false), CALM)?;
    print_latencies("before", &calm);
    house.terminate()?;
    house.set(format!("storage.ended_max={keep}"));
    house.launch()?;
    let begun = Instant::now();
    let spare = (calm.len() as u64) * 2 + 1_000;
    let done =
        |api: &Api| -> Result<bool> { Ok(ended(&api.must("GET", "/v1/storage", None)?) <= keep + spare) };
    let during = probe(&house.api(), done, PATIENCE)?;
    let took = begun.elapsed();
    print_latencies("during", &during);
    println!(
        "{:.1} s for {} executions: {:.0} a second",
        took.as_secs_f64(),
        rows - keep,
        (rows - keep) as f64 / took.as_secs_f64()
    );
    shrunk(&house.api(), &dir)?;
    let view = house.api().must("GET", "/v1/storage", None)?;
    house.stop()?;
    let after_bytes = on_disk(&dir)?;
    println!(
        "on disk: {} MiB before, {} MiB after, {} MiB for the rest alone ({:+.1} %)",
        before_bytes >> 20,
        after_bytes >> 20,
        rest_bytes >> 20,
        (after_bytes as f64 / rest_bytes as f64 - 1.0) * 100.0
    );
    let feed = view["feedBytes"].as_u64().unwrap_or(0);
    let (own, own_rest) = (after_bytes.saturating_sub(feed), rest_bytes.saturating_sub(rest_feed));
    println!(
        "without the feed: {} MiB after, {} MiB for the rest alone \
         ({:+.1} %), of it {} MiB free in the files",
        own >> 20,
        own_rest >> 20,
        (own as f64 / own_rest as f64 - 1.0) * 100.0,
        mib(&view["reclaimableBytes"])
    );
    Ok(())
}

/// Goes on in the table `storage`. Compression would only hide how much there is.
const CONFIG: &str = "compression_enabled = false\n\n[queue]\ndepth_max = 2000000\n\n\
    [scaling]\nmin_workers = 4\nmax_workers = 4\nworker_capacity = 50\n\n[engines.demo]\ntype = \"demo\"\n";

fn mib(bytes: &Value) -> u64 {
    bytes.as_u64().unwrap_or(0) >> 20
}

/// A data directory with this many finished executions, the service stopped; and the bytes of its feed.
fn filled(dir: &Path, rows: u64, release: bool) -> Result<(House, u64)> {
    let mut house = fill(dir, CONFIG, rows, release)?;
    let feed = house.api().must("GET", "/v1/storage", None)?["feedBytes"].as_u64().unwrap_or(0);
    house.terminate()?;
    Ok((house, feed))
}

/// Submits at a steady rate until `done`; milliseconds from when each was due to its answer, sorted.
fn probe(api: &Api, done: impl Fn(&Api) -> Result<bool> + Sync, most: Duration) -> Result<Vec<f64>> {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| -> Result<()> {
            while begun.elapsed() < most && !done(api)? {
                std::thread::sleep(Duration::from_millis(250));
            }
            over.store(true, Ordering::SeqCst);
            Ok(())
        });
        let one = json!({"engine": "demo", "workflowId": "probe"});
        let mut latencies = Vec::new();
        while !over.load(Ordering::SeqCst) && !watcher.is_finished() {
            let due = Duration::from_secs_f64(latencies.len() as f64 / RATE);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            api.must("POST", "/v1/executions", Some(&one))?;
            // From when it was due, so that a submit that stood still also counts for those behind it.
            latencies.push((begun.elapsed() - due).as_secs_f64() * 1_000.0);
        }
        watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    })
}

fn print_latencies(when: &str, sorted: &[f64]) {
    let at = |share| quantile(sorted, share);
    println!(
        "{when}: {} submits, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        sorted.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Waits until nothing more is given back.
fn shrunk(api: &Api, dir: &Path) -> Result<()> {
    let (deadline, mut last, mut since) = (Instant::now() + PATIENCE, 0, Instant::now());
    loop {
        let free = mib(&api.must("GET", "/v1/storage", None)?["reclaimableBytes"]);
        let now = on_disk(dir)? + free;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(25) || Instant::now() > deadline {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Bytes of the database and its log.
fn on_disk(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir.join("data")).context("no data directory")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("enginehouse.sqlite") {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}
