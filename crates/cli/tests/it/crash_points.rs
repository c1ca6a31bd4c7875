//! The real process killed at every named breakpoint, under mixed load and after an earlier kill: what was acknowledged is
//! there after the next start, ends once, and nothing is run twice that may run once. `BREAKPOINT=NAME` for one of them,
//! `ROUNDS=10` for more hits of each.

use crate::engines::http_engine;
use crate::house::House;
use crate::ledger::{Ledger, Outside, all_ended, everything, store_findings};
use crate::load::{Kind, Load, program, programs_begun};
use enginehouse_runtime::breakpoints;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Breakpoints tried side by side.
const AT_ONCE: usize = 2;
const REACHED_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// Steps of one load; far more than it takes to reach any breakpoint.
const STEPS_MAX: u64 = 300;

const MIX: &[Kind] = &[
    Kind::Program,
    Kind::Remote,
    Kind::Once,
    Kind::Group,
    Kind::Failing,
    Kind::Scheduled,
    Kind::Cancelled,
    Kind::ProgramOnce,
    Kind::BackOff,
    Kind::CancelledEarly,
    Kind::Large,
    Kind::Plain,
];
/// What runs when the process is killed for the first time, so that the next one finds leases of a dead session.
const FIRST: &[Kind] = &[Kind::Long, Kind::Long, Kind::Program, Kind::Remote, Kind::Once, Kind::ProgramOnce];

/// Which hit is the deadly one: late enough that other work is under way where a name is hit often enough, and another one
/// in each round.
fn deadly_hit(name: &str, round: u32) -> u32 {
    match name {
        // Two leases are certain to be there, and each is ended by a commit of its own.
        "commit.lose.before" => 2 - round % 2,
        "commit.lose.after" => 1 + round % 2,
        "commit.other.before" => 2 + round,
        // The first hits belong to the start, the later ones to redrives.
        "commit.other.after" => 6 + round,
        "commit.cancel.before" | "commit.cancel.after" | "commit.wake.before" | "commit.wake.after" => {
            3 + round
        }
        "blob.written" => 2 + round,
        "commit.attach.before" | "commit.attach.after" | "attempt.attached" => 4 + round,
        _ => 10 + 3 * round,
    }
}

/// How many runs the service behind has of each execution of these workflows.
fn runs_behind(behind: &House, workflows: &[&str]) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for workflow in workflows {
        for id in everything(behind, &format!("&workflowId={workflow}")).keys() {
            // The key of a run is the id with the run's number.
            let (id, _) = id.rsplit_once('.').unwrap();
            *runs.entry(id.to_owned()).or_default() += 1;
        }
    }
    runs
}

/// One breakpoint from the first start to the last check; the line to print, or what is wrong.
fn try_breakpoint(name: &str, hit: u32, behind: &House, bearer: &Path) -> Result<String, String> {
    let notes = tempfile::tempdir().unwrap();
    let mut house = House::start(&format!("{}{}", program(notes.path()), http_engine(behind, bearer)));
    let label = format!("{}-{hit}", name.replace('.', "-"));
    let first = Load::new(&format!("{label}-first"), FIRST, STEPS_MAX);
    let callers = first.begin(&house);
    let running = || house.must("GET", "/v1/executions?status=running", None)["executions"].clone();
    let deadline = Instant::now() + REACHED_WITHIN;
    while running().as_array().unwrap().len() < 2 || first.acknowledged() < 5 {
        assert!(Instant::now() < deadline, "{name}: nothing runs: {}", house.said());
    }
    house.kill();
    callers.stop();
    let load = Load::new(&label, MIX, STEPS_MAX);
    let mut command = house.serve();
    command.env("ENGINEHOUSE_BREAKPOINT", format!("{name}:{hit}"));
    house.spawn(command);
    let callers = load.begin(&house);
    let ended = house.ended_within(REACHED_WITHIN);
    callers.stop();
    match ended {
        Some(status) if status.signal() == Some(9) => {}
        Some(status) => return Err(format!("{name}: {status}: {}", house.said())),
        None => return Err(format!("{name} was never reached: {}", house.said())),
    }
    house.launch();
    all_ended(&house, ENDED_WITHIN);
    let acknowledged = first.acknowledged() + load.acknowledged();
    let ledger = joined(&first, &load);
    let remote = runs_behind(behind, &[&label, &format!("{label}-first")]);
    let outside = Outside { programs: programs_begun(notes.path()), remote };
    let findings = ledger.check(&house, &outside);
    house.halt();
    let damage = store_findings(&house.data());
    if !findings.is_empty() || !damage.is_empty() {
        return Err(format!("{name}: {findings:#?} {damage:?}"));
    }
    let (lost, double, reattached) = (findings.lost.len(), findings.double.len(), findings.reattached);
    let point = format!("{name}:{hit}");
    Ok(format!(
        "{point:<23} acknowledged {acknowledged:>3}  lost {lost}  double {double}  re-attached {reattached}"
    ))
}

/// What was told to the callers of both loads.
fn joined(first: &Load, second: &Load) -> Ledger {
    let mut all = Ledger::default();
    for load in [first, second] {
        let mut ledger = load.ledger();
        all.sent.append(&mut ledger.sent);
        all.acknowledged.append(&mut ledger.acknowledged);
        all.groups.append(&mut ledger.groups);
        all.cancelled.append(&mut ledger.cancelled);
        all.redriven.append(&mut ledger.redriven);
        all.seen_completed.append(&mut ledger.seen_completed);
    }
    all
}

#[test]
fn nothing_is_lost_or_doubled_at_any_breakpoint() {
    let wanted = std::env::var("BREAKPOINT").ok();
    let rounds: u32 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let behind = House::start("");
    let bearer = behind.dir.path().join("bearer");
    std::fs::write(&bearer, format!("Bearer {}", behind.key)).unwrap();
    let names = breakpoints::ALL.iter().filter(|name| wanted.as_deref().is_none_or(|w| w == **name));
    let points: Vec<(&str, u32)> = (0..rounds)
        .flat_map(|round| names.clone().map(move |name| (*name, deadly_hit(name, round))))
        .collect();
    let queue = Mutex::new(points.into_iter());
    let failures = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, hit)) = next() {
                    match try_breakpoint(name, hit, &behind, &bearer) {
                        Ok(line) => println!("{line}"),
                        Err(why) => failures.lock().unwrap().push(why),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    behind.stop();
}

#[test]
fn a_first_start_that_was_cut_short_is_made_good_by_the_next() {
    let mut cuts = 0;
    for place in ["before", "after"] {
        for hit in 1.. {
            let mut house = House::prepare("");
            let mut command = house.serve();
            command.env("ENGINEHOUSE_BREAKPOINT", format!("commit.other.{place}:{hit}"));
            house.spawn(command);
            let Some(ended) = house.ready() else {
                // The start has fewer commits than this.
                house.kill();
                break;
            };
            assert_eq!(ended.signal(), Some(9), "{ended}: {}", house.said());
            cuts += 1;
            house.launch();
            house.read_key();
            let request = json!({"id": "one", "engineType": "demo", "workflowId": "w"});
            let (status, answer) = house.call("POST", "/v1/executions", Some(&request));
            assert_eq!(status, 201, "cut {place} commit {hit}: {answer}");
            assert_eq!(house.ended("one")["status"], "completed");
            let keys = house.must("GET", "/v1/keys", None);
            assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "cut {place} commit {hit}: {keys}");
            house.stop();
        }
    }
    println!("{cuts} first starts cut short");
    assert!(cuts >= 8, "a first start has at least four commits, but only {cuts} were cut");
}
