//! An engine that gets slower with concurrency, beside one that does not: what the pool and the limit make of it.
//!
//! The slow engine is a real HTTP service that shares its strength among its runs: with `n` of them each has the speed
//! `min(1, (KNEE / n)^(1 + GAMMA))`, so that beyond the knee more runs mean less done in all. It is driven at 60 % of what it
//! can do, then at 150 %.

use super::chart::{Line, Panel, svg};
use super::numbers::{quantile, seconds};
use crate::api::Api;
use crate::e2e::house::House;
use crate::process::target_dir;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const HELP: &str = "\
An HTTP engine that gets slower with concurrency, driven below and above what it can do, beside one that
stays as it is. Prints where the limit settles, how large the pool gets, what is done and how long the
other engine's work waits: with the lead-time policy, with thresholds, and with thresholds and no
adaptive limit. Fails when the limit does not settle between half the knee and one and a half of it.

Usage: cargo xtask bench knee [--debug]
";

const KNEE: f64 = 8.0;
const GAMMA: f64 = 0.6;
/// What one run takes alone.
const RUN: Duration = Duration::from_millis(400);
/// Runs a second that the engine can do at its knee.
const STRENGTH: f64 = KNEE * 1_000.0 / 400.0;
/// Below the knee, then above it.
const CALM: Duration = Duration::from_secs(30);
const PRESSED: Duration = Duration::from_secs(90);
/// What the other engine gets a second, and how long its runs take.
const OTHER_RATE: f64 = 10.0;
const OTHER_RUN_MS: u64 = 200;

/// How the service is set up.
struct Setup {
    name: &'static str,
    policy: &'static str,
    adaptive: bool,
}

const SETUPS: [Setup; 3] = [
    Setup { name: "lead_time", policy: "lead_time", adaptive: true },
    Setup { name: "threshold", policy: "threshold", adaptive: true },
    Setup { name: "threshold, no adaptive limit", policy: "threshold", adaptive: false },
];

/// What was seen at one instant, by seconds since the start.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: f64,
    workers: f64,
    limit: f64,
    running: f64,
}

struct Seen {
    samples: Vec<Sample>,
    /// Runs of the slow engine that ended in the second half of the pressed time, a second.
    goodput: f64,
    /// Waits of the other engine's work in seconds, sorted: in the calm time, and in the pressed one.
    others: [Vec<f64>; 2],
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let release = !args.iter().any(|arg| arg == "--debug");
    println!(
        "an engine with its knee at {KNEE} runs of {} ms; {:.0} s at 60 %, then {:.0} s at 150 % of its {STRENGTH:.0} runs a second",
        RUN.as_millis(),
        CALM.as_secs_f64(),
        PRESSED.as_secs_f64()
    );
    println!(
        "\n| setup | limit | runs at once | workers of 4 slots | goodput/s | others' wait p95 calm, ms | pressed, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut panels = Vec::new();
    let mut settled = true;
    for setup in &SETUPS {
        let seen = run(setup, release)?;
        let late: Vec<&Sample> =
            seen.samples.iter().filter(|s| s.at > (CALM + PRESSED / 2).as_secs_f64()).collect();
        let middle = |number: fn(&Sample) -> f64| {
            let mut all: Vec<f64> = late.iter().map(|sample| number(sample)).collect();
            all.sort_by(f64::total_cmp);
            quantile(&all, 0.5)
        };
        let limit = middle(|s| s.limit);
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} |",
            setup.name,
            if limit.is_nan() { "none".to_owned() } else { format!("{limit:.0}") },
            middle(|s| s.running),
            middle(|s| s.workers),
            seen.goodput,
            quantile(&seen.others[0], 0.95) * 1_000.0,
            quantile(&seen.others[1], 0.95) * 1_000.0
        );
        if setup.adaptive {
            settled &= (KNEE / 2.0..=KNEE * 1.5).contains(&limit);
        }
        panels.push(panel(setup.name, &seen.samples));
    }
    let path = target_dir().join("bench").join("knee.svg");
    std::fs::write(&path, svg("An engine that gets slower with concurrency", &panels))?;
    println!("\nchart: {}", path.display());
    if !settled {
        bail!("the limit did not settle within {} and {}", KNEE / 2.0, KNEE * 1.5);
    }
    Ok(())
}

fn panel(name: &str, samples: &[Sample]) -> Panel {
    let line = |name: &str, look, number: fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        look,
        points: samples.iter().map(|s| (s.at, number(s))).filter(|(_, value)| !value.is_nan()).collect(),
        steps: true,
    };
    Panel {
        title: name.to_owned(),
        lines: vec![
            line("runs on it", ("#4a90d9", false), |s| s.running),
            line("its limit", ("#d0021b", false), |s| s.limit),
            line("workers", ("#417505", true), |s| s.workers),
        ],
    }
}

fn run(setup: &Setup, release: bool) -> Result<Seen> {
    let stub = Stub::start()?;
    let dir = target_dir().join("bench").join(format!("knee-{}", setup.name.replace([',', ' '], "-")));
    let config = format!(
        "[scaling]\npolicy = \"{}\"\nmin_workers = 2\nmax_workers = 30\nworker_capacity = 4\n\n\
         [engines.slow]\ntype = \"http\"\nendpoints = [{{ url = \"{}\" }}]\nadaptive = {}\n\n\
         [engines.other]\ntype = \"demo\"\n",
        setup.policy, stub.url, setup.adaptive
    );
    let house = House::start_built(&dir, &config, &[], release)?;
    let api = house.api();
    let begun = Instant::now();
    let samples = std::thread::scope(|scope| {
        scope.spawn(|| load(&api, "slow", 0, begun, &[(CALM, STRENGTH * 0.6), (PRESSED, STRENGTH * 1.5)]));
        scope.spawn(|| load(&api, "other", OTHER_RUN_MS, begun, &[(CALM + PRESSED, OTHER_RATE)]));
        watch(&api, begun)
    })?;
    let now = api.must("GET", "/v1/scaling", None)?;
    std::fs::write(dir.join("scaling.json"), serde_json::to_string_pretty(&now)?)?;
    let decisions = api.must("GET", "/v1/scaling/decisions?limit=1000", None)?;
    std::fs::write(dir.join("decisions.json"), serde_json::to_string_pretty(&decisions)?)?;
    let others = waits(&api, begun)?;
    let goodput = stub.ended_since(begun + CALM + PRESSED / 2) as f64 / (PRESSED / 2).as_secs_f64();
    // What waits for the slow engine would take minutes more, and nothing more is to be learned from it.
    drop(house);
    Ok(Seen { samples, goodput, others })
}

/// Submits to an engine at a steady rate, one rate after the other.
fn load(api: &Api, engine: &str, sleep_ms: u64, begun: Instant, phases: &[(Duration, f64)]) -> Result<()> {
    let mut due = begun;
    for (span, rate) in phases {
        let end = due + *span;
        while due < end {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let body = json!({"engine": engine, "workflowId": "w", "parameters": {"sleepMs": sleep_ms}});
            api.must("POST", "/v1/executions", Some(&body))?;
            due += Duration::from_secs_f64(1.0 / rate);
        }
    }
    Ok(())
}

fn watch(api: &Api, begun: Instant) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while begun.elapsed() < CALM + PRESSED {
        let scaling = api.must("GET", "/v1/scaling", None)?;
        let engine = api.must("GET", "/v1/engines/slow", None)?;
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let endpoint = &engine["endpoints"][0];
        samples.push(Sample {
            at: begun.elapsed().as_secs_f64(),
            workers: number(&scaling["ready"]) + number(&scaling["starting"]),
            limit: endpoint["limit"]["current"].as_f64().unwrap_or(f64::NAN),
            running: number(&endpoint["running"]),
        });
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(samples)
}

/// The other engine's waits in milliseconds: of what was submitted in the calm time, and after it.
fn waits(api: &Api, begun: Instant) -> Result<[Vec<f64>; 2]> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.must(
            "GET",
            &format!("/v1/executions?engine=other&status=completed&limit=1000{cursor}"),
            None,
        )?;
        for view in page["executions"].as_array().into_iter().flatten() {
            let created = seconds(view["createdAt"].as_str().unwrap_or_default())?;
            let started = seconds(view["startedAt"].as_str().unwrap_or_default())?;
            all.push((created, started - created));
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock")?;
    let pressed = (unix - begun.elapsed() + CALM).as_secs_f64();
    let part = |calm: bool| {
        let mut waits: Vec<f64> =
            all.iter().filter(|(at, _)| (*at < pressed) == calm).map(|(_, wait)| *wait).collect();
        waits.sort_by(f64::total_cmp);
        waits
    };
    Ok([part(true), part(false)])
}

/// The engine: one run for each request, until the connection closes.
struct Stub {
    url: String,
    engine: Arc<Engine>,
}

#[derive(Default)]
struct Engine {
    /// Runs now, and when runs ended.
    state: Mutex<(usize, Vec<Instant>)>,
    changed: Condvar,
}

impl Stub {
    fn start() -> Result<Stub> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let engine = Arc::new(Engine::default());
        let shared = engine.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let engine = shared.clone();
                std::thread::spawn(move || while engine.answer(&connection).is_ok() {});
            }
        });
        Ok(Stub { url, engine })
    }

    fn ended_since(&self, at: Instant) -> usize {
        let state = self.engine.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.iter().filter(|ended| **ended >= at).count()
    }
}

impl Engine {
    fn answer(&self, mut connection: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let works = line.starts_with("POST");
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if works {
            self.work();
        }
        connection.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}",
        )
    }

    /// Takes part in the engine's strength until this run's work is done.
    fn work(&self) {
        let mut left = RUN.as_secs_f64();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        self.changed.notify_all();
        loop {
            let speed = (KNEE / state.0 as f64).powf(1.0 + GAMMA).min(1.0);
            let since = Instant::now();
            let wait = Duration::from_secs_f64((left / speed).max(0.001));
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            left -= since.elapsed().as_secs_f64() * speed;
            if left <= 0.0 {
                state.0 -= 1;
                state.1.push(Instant::now());
                self.changed.notify_all();
                return;
            }
        }
    }
}
