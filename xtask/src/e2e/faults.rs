//! `cargo xtask e2e --faults`: one engine is stopped under load while the others work on.
//!
//! Three real engines behind one service. n8n is stopped for a minute and started again; what the others did meanwhile,
//! which attempts were burnt, which calls were made while the breaker was open, and how work was released afterwards is read
//! from the service's attempts and printed.

use crate::api::Api;
use crate::e2e::engine::{Engine, Kind};
use crate::e2e::house::{House, place};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Executions of each engine that are under way at any time.
const CLIENTS: usize = 4;
const BEFORE: Duration = Duration::from_secs(30);
const AWAY: Duration = Duration::from_secs(60);
/// What waits for the stopped engine beside its clients' own.
const BACKLOG: usize = 60;
const RECOVERED_WITHIN: Duration = Duration::from_secs(240);

const SETTINGS: &str = "
[scaling]
min_workers = 4
worker_capacity = 10

[fault_tolerance.circuit_breaker_config]
reset_timeout = \"10s\"

[health]
interval = \"5s\"
";

/// Completions of each engine, in seconds since the beginning.
type Completions = Arc<Mutex<BTreeMap<&'static str, Vec<f64>>>>;

pub(super) fn command(release: bool) -> Result<()> {
    let mut engines = Vec::new();
    for kind in Kind::ALL {
        println!("=== {} starts", kind.name());
        engines.push(Engine::start(kind, kind.default_port(), false)?);
    }
    let house = open(&engines, release)?;
    bad_workflow(&house, &engines)?;
    let mut failures = under_load(&house, &mut engines)?;
    failures.extend(judge(&house)?);
    house.stop()?;
    for failure in &failures {
        println!("FAILED {failure}");
    }
    if failures.is_empty() { Ok(()) } else { bail!("{} of the promises did not hold", failures.len()) }
}

fn open(engines: &[Engine], release: bool) -> Result<House> {
    let mut config = SETTINGS.to_owned();
    let mut env = Vec::new();
    for engine in engines {
        let (name, kind) = (engine.kind().name(), engine.kind().engine_type());
        let variable = format!("E2E_KEY_{}", name.to_uppercase());
        config.push_str(&format!(
            "\n[engines.{name}]\ntype = \"{kind}\"\nendpoints = [{{ url = \"{}\" }}]\napi_key = {{ env = \"{variable}\" }}\n",
            engine.url()
        ));
        env.push((variable, engine.key().to_owned()));
    }
    let env: Vec<(&str, &str)> = env.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
    House::start_built(&place("faults"), &config, &env, release)
}

fn breaker(api: &Api, engine: &str) -> Result<Value> {
    let view = api.must("GET", &format!("/v1/engines/{engine}"), None)?;
    Ok(view["endpoints"][0]["breaker"].clone())
}

/// A workflow that always fails says nothing of its engine.
fn bad_workflow(house: &House, engines: &[Engine]) -> Result<()> {
    let api = house.api();
    for engine in engines {
        let name = engine.kind().name();
        for _ in 0..12 {
            let request = json!({"engine": name, "workflowId": engine.workflow("fail"), "parameters": {},
                "maxRetries": 0});
            let view = api.must("POST", "/v1/executions?wait=50s", Some(&request))?;
            if view["status"] != "failed" {
                bail!("{name}: the failing workflow is {}", view["status"]);
            }
        }
        let seen = breaker(&api, name)?;
        println!(
            "{name:<10} 12 runs of a workflow that always fails: breaker {}, {} counted",
            seen["state"], seen["failures"]
        );
        if seen["state"] != "closed" || seen["failures"] != 0 {
            bail!("{name}: a bad workflow moved the breaker: {seen}");
        }
    }
    Ok(())
}

/// Submits one after the other and waits for each, until told to stop.
fn client(
    api: &Api,
    name: &'static str,
    workflow: &str,
    begun: Instant,
    stop: &AtomicBool,
    done: &Completions,
) {
    let request =
        json!({"engine": name, "workflowId": workflow, "parameters": {"message": "load"}, "tags": ["load"]});
    while !stop.load(Ordering::SeqCst) {
        match api.must("POST", "/v1/executions?wait=20s", Some(&request)) {
            Ok(view) if view["status"] == "completed" => {
                let at = begun.elapsed().as_secs_f64();
                done.lock().expect("no panics").entry(name).or_default().push(at);
            }
            // Parked work is waited for at the end, not by its client.
            Ok(_) => {}
            Err(error) => {
                println!("{name}: {error:#}");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// Before, away, back: prints what each engine completed, and gives what did not hold.
fn under_load(house: &House, engines: &mut [Engine]) -> Result<Vec<String>> {
    let (stop, done, begun) = (AtomicBool::new(false), Completions::default(), Instant::now());
    let workflows: Vec<(&'static str, String)> =
        engines.iter().map(|engine| (engine.kind().name(), engine.workflow("echo"))).collect();
    let api = house.api();
    let n8n = engines.iter_mut().find(|engine| engine.kind() == Kind::N8n).context("n8n")?;
    let away = std::thread::scope(|scope| {
        for (name, workflow) in &workflows {
            for _ in 0..CLIENTS {
                scope.spawn(|| client(&api, name, workflow, begun, &stop, &done));
            }
        }
        let away = stop_and_start(&api, n8n, begun);
        stop.store(true, Ordering::SeqCst);
        away
    })?;
    let mut failures = Vec::new();
    println!("\n{:<10} {:>12} {:>12} {:>8}", "engine", "before, /s", "away, /s", "ratio");
    for (name, times) in done.lock().expect("no panics").iter() {
        let between = |from: f64, to: f64| {
            times.iter().filter(|t| (from..to).contains(*t)).count() as f64 / (to - from).max(1e-9)
        };
        // The first seconds of the load warm the engines up.
        let (before, during) = (between(8.0, away.0), between(away.0 + 2.0, away.1));
        println!("{name:<10} {before:>12.2} {during:>12.2} {:>8.2}", during / before.max(1e-9));
        if *name != "n8n" && during < 0.8 * before {
            failures.push(format!("{name} kept only {:.0} % of its throughput", 100.0 * during / before));
        }
    }
    Ok(failures)
}

/// Takes n8n away for a minute; gives when it went and when it was started again, in seconds since the beginning.
fn stop_and_start(api: &Api, n8n: &mut Engine, begun: Instant) -> Result<(f64, f64)> {
    std::thread::sleep(BEFORE);
    println!("\nn8n is stopped");
    let away = begun.elapsed().as_secs_f64();
    n8n.down()?;
    let request = json!({"engine": "n8n", "workflowId": n8n.workflow("echo"), "parameters": {"message": "wait"},
        "tags": ["backlog"]});
    let batch = json!({"executions": vec![request; BACKLOG]});
    api.must("POST", "/v1/executions/batch", Some(&batch))?;
    while begun.elapsed().as_secs_f64() < away + AWAY.as_secs_f64() {
        std::thread::sleep(Duration::from_secs(1));
    }
    let queue = api.must("GET", "/v1/queue", None)?;
    println!(
        "after {} s: breaker {}, waiting by reason {}",
        AWAY.as_secs(),
        breaker(api, "n8n")?,
        queue["byWaitReason"]
    );
    for kind in Kind::ALL {
        let view = api.must("GET", &format!("/v1/engines/{}", kind.name()), None)?;
        println!("{:<10} limit {}", kind.name(), view["endpoints"][0]["limit"]);
    }
    let back = begun.elapsed().as_secs_f64();
    println!("n8n is started");
    n8n.up(true)?;
    println!("n8n is there {:.0} s later", begun.elapsed().as_secs_f64() - back);
    let deadline = Instant::now() + RECOVERED_WITHIN;
    loop {
        let waiting =
            api.must("GET", "/v1/executions?engine=n8n&tag=backlog&status=pending,running&limit=1", None)?;
        if waiting["executions"].as_array().is_some_and(Vec::is_empty) {
            return Ok((away, back));
        }
        if Instant::now() > deadline {
            bail!("work of n8n still waits: {waiting}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Reads every attempt on n8n: what was burnt, what was called while the breaker was open, how the rest was released.
fn judge(house: &House) -> Result<Vec<String>> {
    let api = house.api();
    let mut failures = Vec::new();
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    let mut starts: BTreeMap<String, u32> = BTreeMap::new();
    for tag in ["load", "backlog"] {
        for id in ids(&api, tag)? {
            let view = settled(&api, &id)?;
            if view["status"] != "completed" {
                failures.push(format!("{id} is {}: {}", view["status"], view["failure"]));
            }
            let found = api.must("GET", &format!("/v1/executions/{id}/attempts"), None)?;
            for attempt in found["attempts"].as_array().into_iter().flatten() {
                let kind = attempt["failure"]["kind"].as_str().unwrap_or_default();
                let code = attempt["failure"]["code"].as_str().unwrap_or_default();
                let outcome = attempt["outcome"].as_str().unwrap_or("unknown");
                *outcomes.entry(format!("{outcome} {kind} {code}").trim().to_owned()).or_default() += 1;
                if tag == "backlog" {
                    let second =
                        attempt["startedAt"].as_str().unwrap_or_default().get(11..19).unwrap_or_default();
                    *starts.entry(format!("{second} {outcome}")).or_default() += 1;
                }
            }
        }
    }
    println!("\nattempts on n8n by how they ended:");
    outcomes.iter().for_each(|(outcome, count)| println!("  {count:>5} {outcome}"));
    println!("starts of the {BACKLOG} executions that waited, by second:");
    starts.iter().for_each(|(second, count)| println!("  {second:<22} {count}"));
    // What the engine itself reports as crashed, or as not ready to run, was really tried; everything else burns nothing.
    let burnt = outcomes.iter().filter(|(outcome, _)| outcome.starts_with("failed"));
    for (outcome, count) in burnt {
        println!("burnt: {count} {outcome}");
        if !outcome.contains("crash") && !outcome.contains("task_runner_not_ready") {
            failures.push(format!("{count} attempts were burnt: {outcome}"));
        }
    }
    let refused: u32 =
        starts.iter().filter(|(second, _)| second.contains("refused")).map(|(_, count)| *count).sum();
    println!("calls of the waiting executions that met no one: {refused}");
    Ok(failures)
}

fn ids(api: &Api, tag: &str) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page =
            api.must("GET", &format!("/v1/executions?engine=n8n&tag={tag}&limit=500{cursor}"), None)?;
        for execution in page["executions"].as_array().into_iter().flatten() {
            ids.push(execution["id"].as_str().context("id")?.to_owned());
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(ids),
        }
    }
}

/// The execution once it has ended.
fn settled(api: &Api, id: &str) -> Result<Value> {
    let deadline = Instant::now() + RECOVERED_WITHIN;
    loop {
        let view = api.must("GET", &format!("/v1/executions/{id}"), None)?;
        if matches!(view["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
            return Ok(view);
        }
        if Instant::now() > deadline {
            bail!("{id} does not end: {view}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
