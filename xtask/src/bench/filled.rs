//! Stores that are full before something is measured of them.

use crate::api::Api;
use crate::e2e::house::House;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Stored result of each execution, in bytes.
pub(super) const RESULT_BYTES: u64 = 2_048;
const BATCH: u64 = 1_000;
pub(super) const PATIENCE: Duration = Duration::from_secs(3_600);

/// The number behind `--name`.
pub(super) fn number(args: &[String], name: &str, usual: u64) -> Result<u64> {
    let at = args.iter().position(|arg| arg == name);
    let text = at.and_then(|at| args.get(at + 1));
    text.map_or(Ok(usual), |text| text.parse().with_context(|| format!("{name} takes a number")))
}

/// A fresh service that has this many finished executions of its engine `demo`, in batches, as fast as they go.
pub(super) fn fill(dir: &Path, config: &str, rows: u64, release: bool) -> Result<House> {
    let house = House::start_built(dir, config, &[], release)?;
    let api = house.api();
    let begun = Instant::now();
    let one = json!({"engine": "demo", "workflowId": "w", "parameters": {"resultBytes": RESULT_BYTES}});
    let mut sent = 0;
    while sent < rows {
        let count = BATCH.min(rows - sent);
        submit(&api, &one, count)?;
        sent += count;
        if sent % 100_000 == 0 {
            println!("  {sent} submitted after {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while ended(&api.must("GET", "/v1/storage", None)?) < rows {
        if Instant::now() > deadline {
            bail!("the executions do not end");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(house)
}

/// Adds executions that wait, or run, as the engine of `one` has it.
pub(super) fn pile(api: &Api, one: &Value, count: u64) -> Result<()> {
    let mut sent = 0;
    while sent < count {
        let some = BATCH.min(count - sent);
        submit(api, one, some)?;
        sent += some;
    }
    Ok(())
}

fn submit(api: &Api, one: &Value, count: u64) -> Result<()> {
    let batch = json!({"executions": vec![one.clone(); usize::try_from(count)?]});
    api.must("POST", "/v1/executions/batch", Some(&batch)).map(drop)
}

/// How many executions have ended, of what `/v1/storage` tells.
pub(super) fn ended(view: &Value) -> u64 {
    let count = |status: &str| view["executions"][status].as_u64().unwrap_or(0);
    count("completed") + count("failed") + count("cancelled")
}
