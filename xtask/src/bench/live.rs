//! A trace at many times its speed against the real service and its workers, and the lab on the same traffic.
//!
//! Every span of the policy is divided by the speed, so that the run shows in minutes what would take hours. The traffic
//! that the service recorded itself then goes through the lab, and the two courses of the target are laid side by side.

use super::chart::{Line, Panel, svg};
use super::numbers::{quantile, seconds};
use crate::api::Api;
use crate::e2e::house::House;
use crate::process::{output, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const HELP: &str = "\
A trace at many times its speed against the real service and real workers. Its own record of that
traffic then goes through the lab. Prints how far the two courses of the target lie apart, waits and
cost of both, and saves a chart of target, ready, queue and waits.

Usage: cargo xtask bench live --trace T.csv --scenario T.json [OPTIONS]

  --provider in_process|process   where the workers run (default: in_process)
  --policy lead_time|threshold    (default: lead_time)
  --speed N                       how many times faster than the trace (default: 20)
  --debug                         the debug build
";

/// Threads that submit; a submit waits for its sync.
const SUBMITTERS: usize = 8;

struct Options {
    trace: PathBuf,
    scenario: Value,
    provider: String,
    policy: String,
    speed: f64,
    release: bool,
}

/// What the service said of its pool at one instant.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Seconds since 1970, by the service's clock.
    at: f64,
    target: f64,
    ready: f64,
    workers: f64,
    queued: f64,
}

/// A course of a number over seconds, each value until the next.
type Course = Vec<(f64, f64)>;

struct Side {
    target: Course,
    cost: f64,
    /// Sorted, in seconds.
    waits: Vec<f64>,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let options = options(args)?;
    let jobs = read_trace(&options.trace)?;
    let engines: BTreeSet<&str> = jobs.iter().map(|job| job.engine.as_str()).collect();
    let dir = target_dir().join("bench").join(format!("live-{}-{}", options.provider, options.policy));
    let config = config(&options, &engines);
    let house = House::start_built(&dir, &config, &[], options.release)?;
    println!(
        "{} executions in {:.0} s at {} times the speed, {} workers, {} policy",
        jobs.len(),
        jobs.last().map_or(0.0, |job| job.arrival) / options.speed,
        options.speed,
        options.provider,
        options.policy
    );
    let (samples, submitted_late) = drive(&house.api(), &jobs, options.speed)?;
    println!("submits were at most {submitted_late:.0} ms behind the trace");
    let program = std::path::absolute(crate::start::build(options.release)?)?;
    let url = house.url().to_owned();
    let own = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).args(["--url", &url]).env("ENGINEHOUSE_API_KEY", house.key()).current_dir(&dir);
        output(&mut command)
    };
    own(&["trace", "export", "--since", "1d", "--out", "trace.csv", "--scenario", "scenario.json"])?;
    let (waits, starts_at) = waits(&house.api())?;
    let decisions = house.api().must("GET", "/v1/scaling/decisions?limit=1000", None)?;
    std::fs::write(dir.join("decisions.json"), serde_json::to_string_pretty(&decisions)?)?;
    house.stop()?;
    let live = Side {
        target: samples.iter().map(|s| (s.at - starts_at, s.target)).collect(),
        cost: area(&samples.iter().map(|s| (s.at - starts_at, s.workers)).collect::<Course>()),
        waits,
    };
    let lab = lab(&program, &dir)?;
    report(&options, &dir, &live, &lab, &samples, starts_at)
}

fn options(args: &[String]) -> Result<Options> {
    let value = |name: &str| {
        args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).map(String::as_str)
    };
    let path = |name: &str| {
        value(name).map(PathBuf::from).with_context(|| format!("{name} FILE is missing\n\n{HELP}"))
    };
    let scenario = path("--scenario")?;
    let text = std::fs::read_to_string(&scenario).with_context(|| scenario.display().to_string())?;
    let provider = value("--provider").unwrap_or("in_process").to_owned();
    if !["in_process", "process"].contains(&provider.as_str()) {
        bail!("--provider is in_process or process, not {provider}");
    }
    let speed: f64 = value("--speed").unwrap_or("20").parse().context("--speed takes a number")?;
    if !(1.0..=20.0).contains(&speed) {
        bail!("--speed is 1 to 20: a tick cannot be shorter than 50 ms");
    }
    Ok(Options {
        trace: path("--trace")?,
        scenario: serde_json::from_str(&text).with_context(|| scenario.display().to_string())?,
        provider,
        policy: value("--policy").unwrap_or("lead_time").to_owned(),
        speed,
        release: !args.iter().any(|arg| arg == "--debug"),
    })
}

struct Job {
    arrival: f64,
    service: f64,
    engine: String,
    priority: &'static str,
}

fn read_trace(path: &Path) -> Result<Vec<Job>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let rows = text.lines().enumerate().skip(1);
    rows.map(|(at, line)| {
        let fields: Vec<&str> = line.split(',').collect();
        let [arrival, service, engine, priority] = fields[..] else {
            bail!("{}:{}: not four fields", path.display(), at + 1)
        };
        let priority = *["LOW", "NORMAL", "HIGH", "CRITICAL"]
            .get(priority.trim().parse::<usize>()?)
            .with_context(|| format!("{}:{}: no such priority", path.display(), at + 1))?;
        Ok(Job { arrival: arrival.parse()?, service: service.parse()?, engine: engine.to_owned(), priority })
    })
    .collect()
}

/// The policy's defaults with every span divided by the speed, and the trace's bounds.
fn config(options: &Options, engines: &BTreeSet<&str>) -> String {
    let number = |name: &str| options.scenario[name].as_f64().unwrap_or(1.0);
    let ms = |seconds: f64| format!("\"{}ms\"", (seconds * 1_000.0 / options.speed).round().max(1.0));
    let mut text = format!(
        "[scaling]\npolicy = \"{}\"\nmin_workers = {}\nmax_workers = {}\nworker_capacity = {}\ntick_interval = {}\n\
         slo_wait = {}\nretention = {}\nscale_up_cooldown = {}\nscale_down_cooldown = {}\n\
         worker_startup_time = {}\nlate_cost = {}\naction_cost = {}\n\n[workers]\nprovider = \"{}\"\n",
        options.policy,
        number("min_workers"),
        number("max_workers"),
        number("slots"),
        ms(number("tick_s")),
        ms(number("slo_wait_s")),
        ms(20.0),
        ms(5.0),
        ms(10.0),
        ms(1.0),
        60.0 / options.speed,
        2.0 / options.speed,
        options.provider,
    );
    for engine in engines {
        let _ = write!(text, "\n[engines.{engine}]\ntype = \"demo\"\n");
    }
    text
}

/// Submits the trace in its time and watches the pool until all is done; also gives how late the latest submit was, in ms.
fn drive(api: &Api, jobs: &[Job], speed: f64) -> Result<(Vec<Sample>, f64)> {
    let begun = Instant::now();
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let submitters: Vec<_> =
            (0..SUBMITTERS).map(|_| scope.spawn(|| submit(api, jobs, speed, begun, &next))).collect();
        let watcher = scope.spawn(|| watch(api, speed, &done));
        let mut late = 0.0;
        let mut failed = None;
        for submitter in submitters {
            match submitter.join() {
                Ok(Ok(latest)) => late = f64::max(late, latest),
                Ok(Err(error)) => failed = Some(error),
                Err(_) => failed = Some(anyhow::anyhow!("a submitter panicked")),
            }
        }
        let drained = if failed.is_none() { drained(api) } else { Ok(()) };
        done.store(true, Ordering::Relaxed);
        let samples = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        if let Some(error) = failed {
            return Err(error);
        }
        drained?;
        Ok((samples, late))
    })
}

fn submit(api: &Api, jobs: &[Job], speed: f64, begun: Instant, next: &AtomicUsize) -> Result<f64> {
    let mut late: f64 = 0.0;
    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
        let due = begun + Duration::from_secs_f64(job.arrival / speed);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        late = late.max(due.elapsed().as_secs_f64() * 1_000.0);
        let body = json!({"engine": job.engine, "workflowId": "w", "priority": job.priority,
            "parameters": {"sleepMs": (job.service * 1_000.0 / speed).round() as u64}});
        api.must("POST", "/v1/executions", Some(&body))?;
    }
    Ok(late)
}

fn watch(api: &Api, speed: f64, done: &AtomicBool) -> Result<Vec<Sample>> {
    let tick = Duration::from_secs_f64(1.0 / speed);
    let mut samples: Vec<Sample> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let scaling = api.must("GET", "/v1/scaling", None)?;
        let decision = &scaling["decision"];
        if let Some(at) = decision["at"].as_str() {
            let number = |value: &Value| value.as_f64().unwrap_or(0.0);
            let seen = &decision["inputs"];
            let at = seconds(at)?;
            if samples.last().is_none_or(|last| last.at < at) {
                let (ready, starting) = (number(&scaling["ready"]), number(&scaling["starting"]));
                samples.push(Sample {
                    at,
                    target: number(&decision["targetWorkerCount"]),
                    ready,
                    workers: ready + starting + number(&scaling["draining"]),
                    queued: number(&seen["queued"]),
                });
            }
        }
        std::thread::sleep(tick / 2);
    }
    Ok(samples)
}

fn drained(api: &Api) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let queue = api.must("GET", "/v1/queue", None)?;
        if queue["currentQueueSize"] == 0 && queue["activeExecutions"] == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("work is left: {queue}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every execution's wait for its start, sorted, and when the first was submitted.
fn waits(api: &Api) -> Result<(Vec<f64>, f64)> {
    let mut waits = Vec::new();
    let mut first = f64::INFINITY;
    let mut cursor = String::new();
    loop {
        let page = api.must("GET", &format!("/v1/executions?limit=1000{cursor}"), None)?;
        for view in page["executions"].as_array().into_iter().flatten() {
            let (Some(created), Some(started)) = (view["createdAt"].as_str(), view["startedAt"].as_str())
            else {
                continue;
            };
            if view["status"] != "completed" || view["attempt"] != 1 {
                bail!("an execution did not complete at its first attempt: {view}");
            }
            let created = seconds(created)?;
            first = first.min(created);
            waits.push(seconds(started)? - created);
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    waits.sort_by(f64::total_cmp);
    Ok((waits, first))
}

/// The lab on the recorded traffic, with the same configuration.
fn lab(program: &Path, dir: &Path) -> Result<Side> {
    let scenario: Value = serde_json::from_slice(&std::fs::read(dir.join("scenario.json"))?)?;
    let startup = scenario["startup_s"][0].as_f64().unwrap_or(0.0).to_string();
    let mut simulate = Command::new(program);
    simulate.args([
        "simulate",
        "--trace",
        "trace.csv",
        "--scenario",
        "scenario.json",
        "--startup-s",
        &startup,
    ]);
    simulate
        .args(["--jobs", "jobs.csv", "--ticks", "ticks.csv", "--config", "enginehouse.toml"])
        .current_dir(dir);
    output(&mut simulate)?;
    let ticks = columns(&dir.join("ticks.csv"))?;
    let target = ticks.iter().map(|row| (row[0], row[4])).collect();
    let cost = area(&ticks.iter().map(|row| (row[0], row[1] + row[2] + row[3])).collect::<Course>());
    let arrivals = columns(&dir.join("trace.csv"))?;
    let starts = columns(&dir.join("jobs.csv"))?;
    let mut waits: Vec<f64> =
        starts.iter().filter_map(|row| Some(row[1] - arrivals.get(row[0] as usize)?[0])).collect();
    waits.sort_by(f64::total_cmp);
    Ok(Side { target, cost, waits })
}

/// The numbers of a CSV file; what is not a number is 0.
fn columns(path: &Path) -> Result<Vec<Vec<f64>>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|n| n.trim().parse().unwrap_or(0.0)).collect())
        .collect())
}

/// What lies below a course.
fn area(course: &Course) -> f64 {
    course.windows(2).map(|pair| (pair[1].0 - pair[0].0) * pair[0].1).sum()
}

/// How far each live target is from the nearest one the lab had within `ticks` of it.
fn apart(live: &Side, lab: &Side, tick: f64, ticks: f64) -> Vec<f64> {
    let near = |(at, target): &(f64, f64)| {
        let within = lab.target.iter().filter(|(t, _)| (t - at).abs() <= ticks * tick);
        within.map(|(_, other)| (other - target).abs()).fold(f64::INFINITY, f64::min)
    };
    let mut apart: Vec<f64> = live.target.iter().map(near).filter(|distance| distance.is_finite()).collect();
    apart.sort_by(f64::total_cmp);
    apart
}

fn report(
    options: &Options,
    dir: &Path,
    live: &Side,
    lab: &Side,
    samples: &[Sample],
    starts_at: f64,
) -> Result<()> {
    let tick = options.scenario["tick_s"].as_f64().unwrap_or(1.0) / options.speed;
    let slo = options.scenario["slo_wait_s"].as_f64().unwrap_or(5.0) / options.speed;
    println!("\n|  | live | lab |\n|---|---|---|");
    let row = |what: &str, number: &dyn Fn(&Side) -> String| {
        println!("| {what} | {} | {} |", number(live), number(lab));
    };
    row("worker-seconds", &|side| format!("{:.1}", side.cost));
    row("most workers wanted", &|side| format!("{:.0}", side.target.iter().map(|t| t.1).fold(0.0, f64::max)));
    for (name, share) in [("wait p50, ms", 0.5), ("wait p95, ms", 0.95), ("wait p99, ms", 0.99)] {
        row(name, &|side| format!("{:.0}", quantile(&side.waits, share) * 1_000.0));
    }
    row("waited longer than promised", &|side| {
        let late = side.waits.iter().filter(|wait| **wait > slo).count();
        format!("{:.2} %", late as f64 * 100.0 / side.waits.len().max(1) as f64)
    });
    for ticks in [1.0, 2.0] {
        let apart = apart(live, lab, tick, ticks);
        let share = |most: f64| {
            let near = apart.iter().filter(|distance| **distance <= most).count();
            near as f64 * 100.0 / apart.len().max(1) as f64
        };
        println!(
            "targets of the lab within {ticks} tick of each of {} live ones: the same {:.1} %, at most 1 apart {:.1} %, p99 {:.0} apart",
            apart.len(),
            share(0.0),
            share(1.0),
            quantile(&apart, 0.99)
        );
    }
    let course = |number: fn(&Sample) -> f64| samples.iter().map(|s| (s.at - starts_at, number(s))).collect();
    let line = |name: &str, look, points| Line { name: name.to_owned(), look, points, steps: true };
    let share = |side: &Side| {
        (0..=100).map(|n| (f64::from(n), quantile(&side.waits, f64::from(n) / 100.0))).collect()
    };
    let title =
        format!("{} at {} times the speed, {} workers", options.policy, options.speed, options.provider);
    let workers = Panel {
        title: "Workers".to_owned(),
        lines: vec![
            line("ready", ("#4a90d9", false), course(|s| s.ready)),
            line("target", ("#d0021b", false), course(|s| s.target)),
            line("target in the lab", ("#417505", true), lab.target.clone()),
        ],
    };
    let queue = Panel {
        title: "Waiting executions".to_owned(),
        lines: vec![line("live", ("#d0021b", false), course(|s| s.queued))],
    };
    std::fs::write(dir.join("live.svg"), svg(&title, &[workers, queue]))?;
    let waits = Panel {
        title: "Wait in seconds, by percent of the executions".to_owned(),
        lines: vec![
            line("live", ("#d0021b", false), share(live)),
            line("lab", ("#417505", true), share(lab)),
        ],
    };
    std::fs::write(dir.join("waits.svg"), svg(&title, &[waits]))?;
    println!("charts: {} and waits.svg beside it", dir.join("live.svg").display());
    Ok(())
}
