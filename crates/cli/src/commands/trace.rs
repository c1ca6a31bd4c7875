//! The service's own traffic as a trace for the lab: when work came, for how long it ran, on which engine.

use super::executions::parse_past;
use super::output::{Output, counted};
use super::printable::tell;
use super::{Exit, Failure};
use clap::{Args, Subcommand};
use enginehouse_api::client::Client;
use enginehouse_api::{AttemptView, ExecutionView, FilterRequest, ScalingView, Timestamp};
use enginehouse_core::execution::Priority;
use enginehouse_core::time::{HOUR, SECOND, Time};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Rows held in memory at once; each takes about 60 bytes.
const ROWS_MAX: usize = 10_000_000;

/// Traces of the service's own traffic.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Write arrivals and run times as a trace for `enginehouse simulate`
    Export(Box<Export>),
}

/// What to write, and where.
#[derive(Debug, Args)]
#[command(after_help = "\
One line for each attempt that ended: arrival_s, service_s, engine, priority (3 critical to 0 low).
No payload, no user and no id is written. The scenario holds the bounds, slots and promises in force,
so that the two files answer what another policy would have done with the same traffic:

  enginehouse trace export --since 7d --out week.csv --scenario week.json
  enginehouse simulate --trace week.csv --scenario week.json --whatif maxWorkers=40")]
struct Export {
    /// Created at or after: a time, or a duration ago such as 7d
    #[arg(long, value_parser = parse_past, value_name = "TIME", default_value = "7d")]
    since: Timestamp,
    /// Created before: a time, or a duration ago
    #[arg(long, value_parser = parse_past, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Where the trace goes (CSV), or - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// Where the scenario goes (JSON)
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    arrival: Time,
    run_ms: u64,
    engine: usize,
    priority: u8,
}

#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    engines: Vec<String>,
    /// Executions that did not end, or ended before they started.
    left_out: usize,
}

impl Trace {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.command {
            TraceCommand::Export(export) => export.run(client, output).await,
        }
    }
}

impl Export {
    async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let filter = FilterRequest { since: Some(self.since), until: self.until, ..FilterRequest::default() };
        let mut rows = collect(client, &filter).await?;
        if rows.rows.is_empty() {
            return Err(Failure::call(
                "no execution of that time ended; look further back with --since".to_owned(),
            ));
        }
        rows.rows.sort_unstable();
        let first = rows.rows[0].arrival;
        if let Some(path) = &self.scenario {
            let scenario = scenario(&rows, first, &client.scaling().await?);
            let text = serde_json::to_string_pretty(&scenario).unwrap_or_default();
            std::fs::write(path, text + "\n").map_err(|error| file_failure(path, &error))?;
        }
        if self.out == Path::new("-") {
            let mut text = Vec::new();
            rows.write(first, &mut text).map_err(|error| file_failure(&self.out, &error))?;
            output.text(&String::from_utf8_lossy(&text))?;
        } else {
            let file = std::fs::File::create(&self.out).map_err(|error| file_failure(&self.out, &error))?;
            let mut file = BufWriter::new(file);
            rows.write(first, &mut file)
                .and_then(|()| file.flush())
                .map_err(|error| file_failure(&self.out, &error))?;
        }
        tell!(
            "{} on {}; {} left out because they did not run to an end",
            counted(rows.rows.len(), "attempt"),
            counted(rows.engines.len(), "engine"),
            counted(rows.left_out, "execution")
        );
        Ok(Exit::Done)
    }
}

fn file_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::call(format!("{}: {error}", path.display()))
}

async fn collect(client: &Client, filter: &FilterRequest) -> Result<Rows, Failure> {
    let style = ProgressStyle::with_template("{spinner} {pos} executions read, {elapsed}");
    let progress =
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let mut rows = Rows::default();
    let mut cursor: Option<String> = None;
    loop {
        let page = client.list(filter, cursor.as_deref(), Some(1_000)).await?;
        for view in &page.executions {
            let attempts =
                if view.attempt > 1 { client.attempts(&view.id).await?.attempts } else { Vec::new() };
            rows.add(view, &attempts);
        }
        if rows.rows.len() > ROWS_MAX {
            let text = format!("more than {ROWS_MAX} attempts; take a shorter time with --since and --until");
            return Err(Failure::call(text));
        }
        progress.inc(page.executions.len() as u64);
        cursor = page.next_cursor;
        if cursor.is_none() {
            progress.finish_and_clear();
            return Ok(rows);
        }
    }
}

impl Rows {
    /// Takes in an execution; `attempts` are given where there was more than one. The wait before an attempt in the middle is
    /// not kept, so that one counts as if it had started at once.
    fn add(&mut self, view: &ExecutionView, attempts: &[AttemptView]) {
        let engine = self.engines.iter().position(|name| *name == view.engine).unwrap_or_else(|| {
            self.engines.push(view.engine.clone());
            self.engines.len() - 1
        });
        let priority = view.priority.0 as u8;
        let mut push = |arrival: Timestamp, started: Timestamp, ended: Timestamp| {
            let arrival = arrival.0.min(started.0);
            self.rows.push(Row { arrival, run_ms: ended.0.since(started.0), engine, priority });
        };
        match (attempts, view.started_at, view.ended_at) {
            ([], Some(started), Some(ended)) => push(view.ready_at, started, ended),
            ([], ..) => self.left_out += 1,
            (attempts, ..) => {
                let last = attempts.len() - 1;
                for (at, attempt) in attempts.iter().enumerate() {
                    let Some(ended) = attempt.ended_at else { continue };
                    let arrival = match at {
                        0 => view.created_at,
                        _ if at == last => view.ready_at,
                        _ => attempt.started_at,
                    };
                    push(arrival, attempt.started_at, ended);
                }
            }
        }
    }

    fn write(&self, first: Time, to: &mut impl Write) -> std::io::Result<()> {
        writeln!(to, "arrival_s,service_s,engine,priority")?;
        for row in &self.rows {
            let (arrival, run) = (row.arrival.since(first), row.run_ms);
            let engine = &self.engines[row.engine];
            writeln!(
                to,
                "{}.{:03},{}.{:03},{engine},{}",
                arrival / SECOND,
                arrival % SECOND,
                run / SECOND,
                run % SECOND,
                row.priority
            )?;
        }
        Ok(())
    }
}

/// What the lab needs beside the trace, as it is in force now.
fn scenario(rows: &Rows, first: Time, scaling: &ScalingView) -> Value {
    let end = rows.rows.iter().map(|row| row.arrival.plus(row.run_ms)).max().unwrap_or(first);
    let rules = &scaling.rules;
    let seconds = |ms: u64| ms as f64 / SECOND as f64;
    let used: BTreeSet<usize> = rows.rows.iter().map(|row| row.engine).collect();
    let engines: serde_json::Map<String, Value> =
        used.into_iter().map(|at| (rows.engines[at].clone(), json!({}))).collect();
    json!({
        "name": format!("traffic from {}", Timestamp(first)),
        // A whole number of ticks, so that the last one is complete.
        "horizon_s": seconds(end.since(first).max(SECOND).next_multiple_of(rules.tick_interval.0.clamp(1, HOUR))),
        "tick_s": seconds(rules.tick_interval.0),
        // The service looks at once when work finds no free slot.
        "between_ticks": true,
        "slo_wait_s": seconds(rules.slo_wait.0),
        "min_workers": rules.min_workers,
        "max_workers": rules.max_workers,
        "slots": rules.worker_capacity,
        "startup_s": [seconds(scaling.startup_time_ms)],
        "engines": engines,
        "engine_events": [],
    })
}

/// Priorities are written as the lab reads them.
const _: () = assert!(Priority::Low as u8 == 0 && Priority::Critical as u8 == 3);
