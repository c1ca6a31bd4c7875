//! What one decision of the auto-scaler costs, and what each of its parts is worth, by the product's own switches.

use crate::process::{cargo, output, run, target_dir};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

const HELP: &str = "\
What one decision of the auto-scaler costs, and what each part of it is worth.

Usage: cargo xtask bench autoscale [--traces DIR] [--startups 1,10,30]

Without --traces: microseconds of one step of the policy, by the number of running executions.
With it also: every trace in DIR (NAME.csv with its scenario NAME.json) runs through `enginehouse simulate`
with each start-up time, as it is and with each of scaling.parts switched off. Printed are
  J      cost over a plan that knows the future + 10 x (late - late in that plan) + 0.001 x actions per hour;
         the geometric mean over all runs, 1 is perfect
  cost   the first term alone       late   the mean share of late jobs
";

/// Variants by name, and what they set. Where workers start is told wrongly, so that learning it has something to do.
const VARIANTS: [(&str, &[&str]); 11] = [
    ("everything", &[]),
    ("without limiter", &["scaling.parts.limiter=false"]),
    ("without recurrence", &["scaling.parts.recurrence=false"]),
    ("without job_ages", &["scaling.parts.job_ages=false"]),
    ("without headroom", &["scaling.parts.headroom=false"]),
    ("without retention", &["scaling.parts.retention=false"]),
    ("without standby", &["scaling.parts.standby=false"]),
    ("without damping", &["scaling.parts.damping=false"]),
    ("told 1 s", &["scaling.worker_startup_time=1s"]),
    (
        "told 1 s, without learned_startup",
        &["scaling.worker_startup_time=1s", "scaling.parts.learned_startup=false"],
    ),
    ("threshold policy", &["scaling.policy=threshold"]),
];

/// What is read of one row of `enginehouse simulate --json --best`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    late: f64,
    actions_per_hour: f64,
    cost_per_best: f64,
    best_late: f64,
}

impl Row {
    fn score(&self) -> f64 {
        self.cost_per_best + 10.0 * (self.late - self.best_late).max(0.0) + 0.001 * self.actions_per_hour
    }
}

pub(super) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let (mut traces, mut startups) = (None, vec!["1".to_owned(), "10".to_owned(), "30".to_owned()]);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--traces" => traces = Some(PathBuf::from(value()?)),
            "--startups" => startups = value()?.split(',').map(str::to_owned).collect(),
            other => bail!("{other:?} is not known\n\n{HELP}"),
        }
    }
    run(&mut cargo(&[
        "run",
        "--release",
        "--quiet",
        "--package",
        "enginehouse-core",
        "--example",
        "policy_step",
    ]))?;
    let Some(folder) = traces else { return Ok(()) };
    run(&mut cargo(&["build", "--release", "--quiet", "--package", "enginehouse"]))?;
    let traces = traces_in(&folder)?;
    println!("\n{} traces, start-up {} s", traces.len(), startups.join(", "));
    println!("{:36} {:>6} {:>6} {:>8} {:>10}", "", "J", "cost", "late", "actions/h");
    for (name, sets) in VARIANTS {
        let mut rows = Vec::new();
        for trace in &traces {
            for startup in &startups {
                rows.push(simulate(trace, startup, sets)?);
            }
        }
        print_mean(name, &rows);
    }
    Ok(())
}

fn traces_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut traces: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "csv") && path.with_extension("json").exists())
        .collect();
    traces.sort();
    if traces.is_empty() {
        bail!("{} has no NAME.csv with a NAME.json beside it", folder.display());
    }
    Ok(traces)
}

fn simulate(trace: &Path, startup: &str, sets: &[&str]) -> Result<Row> {
    let mut command = Command::new(target_dir().join("release/enginehouse"));
    command.args(["simulate", "--json", "--best", "--startup-s", startup, "--trace"]).arg(trace);
    command.arg("--scenario").arg(trace.with_extension("json"));
    sets.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    let rows: Vec<Row> = serde_json::from_slice(&output(&mut command)?)?;
    rows.first().copied().context("no row came back")
}

fn print_mean(name: &str, rows: &[Row]) {
    let n = rows.len() as f64;
    let geometric = |value: fn(&Row) -> f64| (rows.iter().map(|row| value(row).ln()).sum::<f64>() / n).exp();
    let mean = |value: fn(&Row) -> f64| rows.iter().map(value).sum::<f64>() / n;
    println!(
        "{name:36} {:6.3} {:6.2} {:6.2} % {:10.0}",
        geometric(Row::score),
        geometric(|row| row.cost_per_best),
        mean(|row| row.late) * 100.0,
        mean(|row| row.actions_per_hour)
    );
}
