//! `cargo xtask e2e`: the real service in front of the real engines, one scenario after the other.
//!
//! Each column is an engine started by its recipe in `e2e/engines/`, each row a scenario driven through the HTTP API of
//! the real program. What happened is read from the engine's own record (its execution list, or the trace its fixture
//! workflows write), never only from what the service says about it.

mod engine;
mod faults;
pub(crate) mod house;
mod proxy;
mod scenarios;
mod table;

use crate::start;
use anyhow::{Result, bail};
use engine::{Engine, Kind};
use scenarios::Stage;
use table::{Cell, Table};

const HELP: &str = "\
Drive the real engines and print what was seen, one table for all. Installs the engines at the
first time (some minutes and some gigabytes below ~/.cache/engines).

Usage: cargo xtask e2e [ENGINE...] [--only TEXT] [--port N] [--release] [--keep]
       cargo xtask e2e --faults [--release]

  ENGINE      n8n, langflow, langgraph; all three when none is named
  --only      only the scenarios whose name contains TEXT
  --port      the engine's port (5678, 7860, 8123 when not given); with one engine only
  --release   use an optimised build of the service
  --faults    instead: stop n8n for a minute under load while the others work on
  --keep      leave the engine running at the end

The table is also written to target/e2e.json. Fails when a cell does.
";

struct Options {
    kinds: Vec<Kind>,
    only: Option<String>,
    port: Option<u16>,
    release: bool,
    keep: bool,
    faults: bool,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let options = options(args)?;
    start::build(options.release)?;
    if options.faults {
        return faults::command(options.release);
    }
    let mut table = Table::default();
    for kind in &options.kinds {
        if let Err(error) = column(*kind, &options, &mut table) {
            table.put("start", *kind, &Cell::Failed(format!("{error:#}")));
        }
    }
    table.print();
    table.write(&crate::process::target_dir().join("e2e.json"))?;
    match table.failures() {
        0 => Ok(()),
        failures => bail!("{failures} cells failed"),
    }
}

fn options(args: &[String]) -> Result<Options> {
    let mut options =
        Options { kinds: Vec::new(), only: None, port: None, release: false, keep: false, faults: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| anyhow::anyhow!("{arg} takes a value"));
        match arg.as_str() {
            "--only" => options.only = Some(value()?),
            "--port" => options.port = Some(value()?.parse()?),
            "--release" => options.release = true,
            "--faults" => options.faults = true,
            "--keep" => options.keep = true,
            name => match Kind::parse(name) {
                Some(kind) => options.kinds.push(kind),
                None => bail!("{name:?} is neither an engine nor an option\n\n{HELP}"),
            },
        }
    }
    if options.kinds.is_empty() {
        options.kinds = Kind::ALL.to_vec();
    }
    if options.port.is_some() && options.kinds.len() != 1 {
        bail!("--port is for one engine");
    }
    Ok(options)
}

/// One engine with all its scenarios; the engine is stopped at the end, whatever happens.
fn column(kind: Kind, options: &Options, table: &mut Table) -> Result<()> {
    println!("\n=== {} starts", kind.name());
    let engine = Engine::start(kind, options.port.unwrap_or(kind.default_port()), options.keep)?;
    println!("{} {} at {}", kind.name(), engine.version(), engine.url());
    let mut stage = Stage::new(engine, options.release)?;
    for (name, scenario) in scenarios::ALL {
        if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let begun = std::time::Instant::now();
        let cell = match scenario(&mut stage) {
            Ok(cell) => cell,
            Err(error) => Cell::Failed(format!("{error:#}")),
        };
        println!("{:<34} {:>6.1} s  {cell}", name, begun.elapsed().as_secs_f64());
        table.put(name, kind, &cell);
        stage.recover()?;
    }
    stage.finish()
}
