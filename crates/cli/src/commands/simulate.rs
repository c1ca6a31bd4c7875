//! Trying scaling rules on a trace: the code that decides in the service decides here, on a virtual clock.
//!
//! Every value comes from the configuration's own keys: the file and the environment, over them the scenario, over that
//! `--set`, and over all the change of one what-if. So a rule that the service would refuse is refused here as well.

mod chart;
mod columns;
mod formula;
mod moment;
mod report;
mod scenario;
mod trace;

use super::configure::ConfigArgs;
use super::output::Output;
use super::printable::tell;
use super::{Exit, Failure};
use clap::Args;
use enginehouse::config::Sources;
use enginehouse_core::autoscaler::{Autoscaler, ScalingRules};
use enginehouse_core::lab::{self, Clairvoyant, DelayedOff, EngineShape, Job, LabRun, Measures, Scenario};
use enginehouse_core::time::{HOUR, MINUTE, Millis, SECOND};
use scenario::World;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Runs of one call: every policy with every what-if.
const VARIANTS_MAX: usize = 64;

const HELP: &str = "\
What to do with it:
  1. A trace is a CSV with one job a row, sorted:  arrival_s,service_s,engine,priority
     (priority 3 critical .. 0 low; a column workflow may follow). service_s is what the run takes
     on a healthy engine. `enginehouse trace export` writes what your service has seen.
     CSV and JSON lines with other columns are mapped by flags; without --engine all jobs are of
     one engine. Seconds can be computed from columns (a name with spaces in single quotes):
       enginehouse simulate --trace AzureLLMInferenceTrace_conv.csv --time TIMESTAMP \\
         --duration-expr \"0.2 + ContextTokens/5000 + GeneratedTokens/40\"
  2. Look at what your rules would have done:
       enginehouse simulate --trace week.csv --config enginehouse.toml
  3. Ask what would change, one line for each question:
       enginehouse simulate --trace week.csv --whatif maxWorkers=40 --whatif sloWait=2s,lateCost=120
  4. Compare policies, with charts for others to see:
       enginehouse simulate --trace week.csv --policy lead_time,threshold --report week.html

How to read the table:
  late      share of jobs that ended later than arrival + own run time + slo_wait
  wait      for a start: half of the jobs waited less than p50, 95 of 100 less than p95
  hours     workers that existed, from launch to removal, summed up: what the pool costs
  x work    the same over the slots' time that jobs really used; nothing can be below 1
  mean, most   workers that existed
  actions   changes of the number of workers per hour
  recovery  the longest time in which some job had waited longer than slo_wait
  x best    with --best: the cost over that of a plan that knows the future; no policy reaches it

A scenario (JSON) says what the configuration does not know: horizon_s, engines with their knee
(runs at once from which on an engine slows down), engine_events (an engine changes at t), and,
if they are to differ from the configuration, tick_s, slo_wait_s, min_workers, max_workers, slots.";

/// A trace, what to try on it, and where the results go.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Simulate {
    /// The jobs: CSV with arrival_s,service_s,engine,priority, sorted; or CSV or JSON lines with any columns, mapped by
    /// the flags below. - is standard input
    #[arg(long, value_name = "FILE.csv|.jsonl")]
    trace: PathBuf,
    #[command(flatten)]
    columns: columns::ColumnArgs,
    /// The world around: JSON [default: bounds from the configuration, healthy engines]
    #[arg(long, value_name = "FILE.json")]
    scenario: Option<PathBuf>,
    /// What a worker takes from its launch until it takes work [default: the scenario's, if it names one, else
    /// scaling.worker_startup_time]
    #[arg(long, value_name = "SECONDS")]
    startup_s: Option<f64>,
    /// Policies to compare, the first being the base
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    policy: Vec<PolicyChoice>,
    /// A change to try, such as maxWorkers=40 or sloWait=2s,lateCost=120; may be repeated
    #[arg(long, value_name = "KEY=VALUE[,...]")]
    whatif: Vec<String>,
    /// Write when each job of the base run started and ended
    #[arg(long, value_name = "FILE.csv")]
    jobs: Option<PathBuf>,
    /// Write the pool of the base run after each tick
    #[arg(long, value_name = "FILE.csv")]
    ticks: Option<PathBuf>,
    /// Write a report with charts of arrivals, workers, waits and cost
    #[arg(long, value_name = "FILE.html|.md")]
    report: Option<PathBuf>,
    /// Compare with a plan that knows the future: the column "x best"
    #[arg(long)]
    best: bool,
    #[command(flatten)]
    from: ConfigArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum PolicyChoice {
    /// By the slots expected to be in use when a worker launched now becomes useful
    LeadTime,
    /// By utilization alone
    Threshold,
    /// One slot per job, kept for a minute: a simple one to compare with
    DelayedOff,
}

impl PolicyChoice {
    fn as_str(self) -> &'static str {
        match self {
            PolicyChoice::LeadTime => "lead_time",
            PolicyChoice::Threshold => "threshold",
            PolicyChoice::DelayedOff => "delayed_off",
        }
    }
}

/// One thing to try.
#[derive(Debug)]
struct Variant {
    name: String,
    delayed_off: bool,
    rules: ScalingRules,
    scenario: Scenario,
}

/// What came of a variant.
#[derive(Debug)]
struct Tried {
    variant: Variant,
    run: LabRun,
    measures: Measures,
    best: Option<Clairvoyant>,
}

/// A row of the answer for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RowView<'a> {
    name: &'a str,
    worker_hours: f64,
    /// The cost over that of a plan that knows the future, and the share of jobs that are late in that plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_per_best: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_late: Option<f64>,
    #[serde(flatten)]
    measures: &'a Measures,
}

impl Simulate {
    pub(crate) fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        if let Some(path) = &self.report {
            report::check(path)?;
        }
        let trace::Trace { jobs, notes } = trace::read(&self.trace, &self.columns)?;
        let name = trace::shown(&self.trace);
        notes.iter().for_each(|note| tell!("{name}: {note}"));
        let world = match &self.scenario {
            Some(path) => scenario::read(path)?,
            None => World::default(),
        };
        let mut tried = Vec::new();
        for variant in self.variants(&world, &jobs)? {
            let run = simulate(&variant, &jobs)?;
            let measures = lab::measure(&variant.scenario, &jobs, &run);
            let best = self.best.then(|| lab::clairvoyant(&variant.scenario, &jobs)).transpose();
            let best = best.map_err(|error| Failure::usage(error.to_string()))?;
            tried.push(Tried { variant, run, measures, best });
        }
        if let (Some(base), Some(path)) = (tried.first(), &self.jobs) {
            trace::write_jobs(path, &base.run.jobs)?;
        }
        if let (Some(base), Some(path)) = (tried.first(), &self.ticks) {
            trace::write_ticks(path, &base.run)?;
        }
        if let Some(path) = &self.report {
            report::write(path, &self.trace, &jobs, &tried)?;
        }
        show(&tried, output)?;
        Ok(Exit::Done)
    }

    /// Every policy with nothing changed and with each what-if.
    fn variants(&self, world: &World, jobs: &[Job]) -> Result<Vec<Variant>, Failure> {
        let startup = self.startup_s.map(|span| scenario::millis("--startup-s", span)).transpose();
        let startup = startup.map_err(Failure::usage)?.or(world.startup);
        let origin = self.scenario.as_ref().map_or(String::new(), |path| path.display().to_string());
        let sources = self.from.sources_over(None, |mut sources| {
            for (key, value) in &world.keys {
                sources = sources.flag(&origin, key, value.clone());
            }
            match startup {
                Some(span) => sources.flag("--startup-s", "scaling.worker_startup_time", Value::from(span)),
                None => sources,
            }
        })?;
        let changes: Vec<WhatIf> = self.whatif.iter().map(|text| change(text)).collect::<Result<_, _>>()?;
        let choices: Vec<Option<PolicyChoice>> =
            if self.policy.is_empty() { vec![None] } else { self.policy.iter().copied().map(Some).collect() };
        if choices.len() * (changes.len() + 1) > VARIANTS_MAX {
            return Err(Failure::usage(format!("at most {VARIANTS_MAX} runs at once")));
        }
        let mut variants = Vec::new();
        for choice in choices {
            let mut sources = sources.clone();
            if let Some(choice @ (PolicyChoice::LeadTime | PolicyChoice::Threshold)) = choice {
                sources = sources.flag("--policy", "scaling.policy", Value::from(choice.as_str()));
            }
            for change in std::iter::once(&Vec::new()).chain(&changes) {
                variants.push(variant(&sources, choice, change, world, jobs, startup)?);
            }
        }
        Ok(variants)
    }
}

/// Keys and values of one what-if.
type WhatIf = Vec<(String, String)>;

/// `maxWorkers=40,predict=off`; a key without a dot is one of `scaling`.
fn change(text: &str) -> Result<WhatIf, Failure> {
    let one = |part: &str| {
        let pair = part.split_once('=').filter(|(key, _)| !key.trim().is_empty());
        let (key, value) = pair.ok_or_else(|| {
            Failure::usage(format!("--whatif {text:?} must be KEY=VALUE, such as maxWorkers=40"))
        })?;
        let key = key.trim();
        let key = if key.contains('.') { key.to_owned() } else { format!("scaling.{key}") };
        Ok((key, value.trim().to_owned()))
    };
    text.split(',').map(one).collect()
}

fn variant(
    sources: &Sources,
    choice: Option<PolicyChoice>,
    change: &WhatIf,
    world: &World,
    jobs: &[Job],
    startup: Option<Millis>,
) -> Result<Variant, Failure> {
    let mut sources = sources.clone();
    for (key, value) in change {
        sources = sources.flag("--whatif", key, Value::from(value.as_str()));
    }
    let rules = sources.read().and_then(|loaded| loaded.scaling());
    let rules = rules.map_err(|faults| Failure::usage(faults.to_string()))?;
    let mut name = choice.map_or(rules.policy.as_str(), PolicyChoice::as_str).to_owned();
    for (key, value) in change {
        name.push_str(&format!(" {}={value}", key.strip_prefix("scaling.").unwrap_or(key)));
    }
    let scenario = Scenario {
        name: name.clone(),
        horizon: world.horizon.unwrap_or_else(|| until_last(jobs)),
        tick: rules.tick_interval,
        between_ticks: world.between_ticks,
        slo_wait: rules.slo_wait,
        min_workers: rules.min_workers,
        max_workers: rules.max_workers,
        slots: rules.worker_capacity,
        startup: startup.unwrap_or(rules.worker_startup_time),
        engines: world.engines.clone().unwrap_or_else(|| engines_of(jobs)),
        changes: world.changes.clone(),
    };
    Ok(Variant { name, delayed_off: choice == Some(PolicyChoice::DelayedOff), rules, scenario })
}

/// Until the minute after the last arrival.
fn until_last(jobs: &[Job]) -> Millis {
    jobs.last().map_or(MINUTE, |job| (job.arrival / MINUTE + 1) * MINUTE)
}

fn engines_of(jobs: &[Job]) -> BTreeMap<Arc<str>, EngineShape> {
    jobs.iter().map(|job| (job.engine.clone(), EngineShape::default())).collect()
}

fn simulate(variant: &Variant, jobs: &[Job]) -> Result<LabRun, Failure> {
    let rules = &variant.rules;
    let mut delayed_off;
    let mut autoscaler;
    let policy: &mut dyn lab::LabPolicy = if variant.delayed_off {
        delayed_off = DelayedOff::new(rules.worker_capacity);
        &mut delayed_off
    } else {
        autoscaler = Autoscaler::new(rules.clone());
        // Before a trace there was nothing, as before a new store.
        autoscaler.begins();
        &mut autoscaler
    };
    lab::run(&variant.scenario, jobs, policy, rules.parts.limiter, rules.engine, false)
        .map_err(|error| Failure::usage(format!("{}: {error}", variant.name)))
}

fn worker_hours(measures: &Measures) -> f64 {
    measures.cost_s * SECOND as f64 / HOUR as f64
}

fn show(tried: &[Tried], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        let rows: Vec<RowView<'_>> = tried
            .iter()
            .map(|tried| RowView {
                name: &tried.variant.name,
                worker_hours: worker_hours(&tried.measures),
                cost_per_best: tried.best.map(|best| tried.measures.cost_s / best.cost_s.max(1e-9)),
                best_late: tried.best.map(|best| best.late),
                measures: &tried.measures,
            })
            .collect();
        return output.document(&rows);
    }
    let best = tried.iter().any(|tried| tried.best.is_some());
    let mut head = HEAD.to_vec();
    let mut rows: Vec<Vec<String>> =
        tried.iter().map(|tried| row(&tried.variant.name, &tried.measures)).collect();
    if best {
        head.push("x best");
        for (row, tried) in rows.iter_mut().zip(tried) {
            let ratio = tried.best.map(|best| tried.measures.cost_s / best.cost_s.max(1e-9));
            row.push(ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
        }
    }
    output.table(&head, &rows)
}

/// What [`row`] holds.
const HEAD: [&str; 11] =
    ["run", "late", "p50", "p95", "p99", "hours", "x work", "mean", "most", "actions/h", "recovery"];

fn row(name: &str, m: &Measures) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.2} %", m.late * 100.0),
        format!("{:.1} s", m.waits.p50),
        format!("{:.1} s", m.waits.p95),
        format!("{:.1} s", m.waits.p99),
        format!("{:.2}", worker_hours(m)),
        format!("{:.2}", m.cost_per_work),
        format!("{:.1}", m.workers_mean),
        m.workers_max.to_string(),
        format!("{:.0}", m.actions_per_hour),
        format!("{:.0} s", m.recovery_s),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_key_or_several() {
        let keys = |text: &str| change(text).map_err(|failure| failure.message);
        assert_eq!(keys("maxWorkers=40"), Ok(vec![("scaling.maxWorkers".into(), "40".into())]));
        assert_eq!(
            keys("slo_wait=2s, scaling.parts.limiter=false"),
            Ok(vec![
                ("scaling.slo_wait".into(), "2s".into()),
                ("scaling.parts.limiter".into(), "false".into())
            ])
        );
        assert!(keys("maxWorkers").is_err() && keys("=3").is_err() && keys("a=1,").is_err());
    }
}
