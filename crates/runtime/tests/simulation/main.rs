//! The real service, committer, scheduler, workers and links on a simulated clock, with seeded faults.
//!
//! Each seed chooses a mix of work and of faults (`faults.rs`); a run has two phases, chaos and quiet, and after the quiet
//! one everything must have ended. `SEEDS=n` and `SEED=n` steer it; `cargo xtask chaos` runs many.

#![allow(clippy::print_stdout, reason = "figures are printed for whoever looks")]

mod callers;
mod checker;
mod degrading;
mod engine;
mod fairness;
mod fate;
mod faults;
mod outage;
#[cfg(feature = "planted-bugs")]
mod planted;
mod run;
mod store;

use enginehouse_runtime::Caller;
use run::{Came, Kind, Run, on_paused_time, simulate};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Seeds that once failed, each with what it found; they go first in every run.
const CORPUS: &str = include_str!("corpus.txt");
/// Failing seeds that are told one by one.
const TOLD_MAX: usize = 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn corpus() -> Vec<(u64, Kind)> {
    let read = |line: &str| {
        let (seed, rest) = line.split_once(' ')?;
        let kind = if rest.starts_with("first ") { Kind::First } else { Kind::Any };
        Some((seed.parse().ok()?, kind))
    };
    CORPUS.lines().filter_map(read).collect()
}

fn seeds() -> Vec<(u64, Kind)> {
    let first = number("FROM").unwrap_or(1);
    match (number("SEED"), number("FIRST")) {
        (Some(seed), _) => vec![(seed, Kind::Any)],
        (None, Some(seed)) => vec![(seed, Kind::First)],
        (None, None) => {
            let fresh = first..first + number("SEEDS").unwrap_or(30);
            corpus().into_iter().chain(fresh.map(|seed| (seed, Kind::Any))).collect()
        }
    }
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    accepted: usize,
    events: usize,
    late_results: usize,
    fired: BTreeMap<&'static str, u64>,
    /// Pending executions by what they were told, each looked at after each step.
    said: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, Kind, Vec<String>)>,
    /// From the loss of an attempt to the start of the next, in milliseconds of simulated time.
    recoveries: Vec<u64>,
}

impl Sum {
    fn add(&mut self, seed: u64, kind: Kind, came: Came) {
        self.seeds += 1;
        self.accepted += came.verdict.accepted;
        self.events += came.verdict.trace.len();
        self.late_results += came.verdict.late_results;
        self.recoveries.extend(came.verdict.recoveries);
        for (name, count) in came.fired {
            *self.fired.entry(name).or_default() += count;
        }
        for (reason, count) in came.said {
            *self.said.entry(reason).or_default() += count;
        }
        if !came.verdict.violations.is_empty() {
            self.failed.push((seed, kind, came.verdict.violations));
        }
    }

    fn faults(&self) -> u64 {
        self.fired.values().sum()
    }

    fn tell(&self, kind: Kind) {
        for (seed, kind, violations) in self.failed.iter().take(TOLD_MAX) {
            let word = if *kind == Kind::First { "FIRST" } else { "SEED" };
            println!("{word}={seed} {kind:?}: {} violations, first: {}", violations.len(), violations[0]);
        }
        for (name, count) in &self.fired {
            println!("fault {name} {count}");
        }
        for (reason, count) in &self.said {
            println!("told {reason} {count}");
        }
        println!(
            "{kind:?}: accepted {} events {} late results refused {}",
            self.accepted, self.events, self.late_results
        );
        println!("seeds {} faults {} violations {}", self.seeds, self.faults(), self.failed.len());
    }
}

/// Runs the seeds on some threads, each run on one thread alone.
fn run_all(seeds: &[(u64, Kind)]) -> Sum {
    let threads = number("THREADS").unwrap_or(1).clamp(1, 64);
    let until = number("MINUTES").map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let (next, sum, told) = (AtomicUsize::new(0), Mutex::new(Sum::default()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((seed, kind)) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if until.is_some_and(|until| Instant::now() > until) {
                        return;
                    }
                    let came = simulate(*seed, *kind);
                    if number("SEED").or(number("FIRST")).is_some() {
                        println!("{}", came.verdict.trace.join("\n"));
                        came.verdict
                            .violations
                            .iter()
                            .for_each(|violation| println!("violation {violation}"));
                    }
                    sum.lock().expect("no panics").add(*seed, *kind, came);
                    let done = told.fetch_add(1, Ordering::SeqCst) + 1;
                    if done.is_multiple_of(500) {
                        println!("... {done} of {} seeds", seeds.len());
                    }
                }
            });
        }
    });
    sum.into_inner().expect("no panics")
}

#[test]
fn every_seed_keeps_every_invariant() {
    let sum = run_all(&seeds());
    sum.tell(Kind::Any);
    report(&sum, "REPORT");
    if sum.seeds >= 300 {
        let silent: Vec<_> = faults::NAMES.iter().filter(|name| !sum.fired.contains_key(*name)).collect();
        assert!(silent.is_empty(), "faults that never struck prove nothing: {silent:?}");
    }
    assert!(sum.failed.is_empty(), "replay the first of {:?}", sum.failed);
}

/// Workers that stand still past their lease report what they have when they wake; none of it is taken.
#[test]
fn zombies_are_fenced_off() {
    let first = number("FROM").unwrap_or(1);
    let rounds = first..first + number("ROUNDS").unwrap_or(10);
    let rounds: Vec<(u64, Kind)> = rounds.map(|seed| (seed, Kind::Zombies)).collect();
    let sum = run_all(&rounds);
    sum.tell(Kind::Zombies);
    report(&sum, "ZOMBIE_REPORT");
    assert!(sum.late_results > 0, "no zombie spoke");
    assert!(sum.failed.is_empty(), "replay with FROM=seed ROUNDS=1 the first of {:?}", sum.failed);
}

/// Writes the figures for anyone who asked for them.
fn report(sum: &Sum, variable: &str) {
    let Ok(path) = std::env::var(variable) else { return };
    let found = |prefix: &str| {
        let violations = sum.failed.iter().flat_map(|(.., violations)| violations);
        violations.filter(|violation| violation.starts_with(prefix)).count()
    };
    let mut recoveries = sum.recoveries.clone();
    recoveries.sort_unstable();
    let at = |share: f64| recoveries.get((recoveries.len() as f64 * share) as usize).copied();
    let report = json!({
        "lost": found("I1 "), "duplicate_terminal": found("I2 "), "extra_calls": found("I5 "),
        "recovery_p50_ms": at(0.5), "recovery_p99_ms": at(0.99),
        "seeds": sum.seeds, "faults": sum.faults(), "violations": sum.failed.len(), "accepted": sum.accepted,
        "events": sum.events, "late_results": sum.late_results, "by_fault": sum.fired,
        "failed_seeds": sum.failed.iter().map(|(seed, ..)| *seed).collect::<Vec<_>>(),
    });
    std::fs::write(path, report.to_string()).expect("the report can be written");
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in [3, 4, 5, 20] {
        let [first, second] = [0, 1].map(|_| simulate(seed, Kind::Any).verdict.trace);
        assert!(!first.is_empty());
        for (at, (a, b)) in first.iter().zip(&second).enumerate() {
            assert_eq!(a, b, "seed {seed}, line {at}");
        }
        assert_eq!(first.len(), second.len());
    }
}

/// After a failed sync no one in this process knows what the disk holds, so the node says that it cannot go on.
#[test]
fn a_store_that_cannot_go_on_fails_its_node() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    on_paused_time(async {
        let mut run = Run::new(3, Kind::Any, directory.path());
        run.quiet.store(true, Ordering::SeqCst);
        let life = run.live(0).await;
        let failed = timeout(Duration::from_secs(60), life.node.failed()).await;
        assert!(failed.is_err(), "it goes on while all is well");
        life.store.broken.store(true, Ordering::SeqCst);
        let request = run.request(1);
        let answer = life.node.service().submit(&Caller::local(), request, None).await;
        assert_eq!(answer.map(|_| ()).expect_err("not stored").code.as_str(), "store_unavailable");
        let why = timeout(Duration::from_secs(60), life.node.failed()).await.expect("it says so");
        assert!(why.contains("cannot go on"), "{why}");
    });
}
