//! Traces through the lab.

use super::*;
use crate::autoscaler::{Autoscaler, Policy, ScalingRules};
use crate::execution::Priority;
use crate::limiter::LimiterRules;
use crate::time::{Millis, SECOND};
use std::collections::BTreeMap;
use std::sync::Arc;

fn scenario(min_workers: u32, max_workers: u32, startup: Millis) -> Scenario {
    Scenario {
        between_ticks: false,
        name: "test".to_owned(),
        horizon: 60 * SECOND,
        tick: SECOND,
        slo_wait: 5 * SECOND,
        min_workers,
        max_workers,
        slots: 1,
        startup,
        engines: BTreeMap::from([(Arc::from("n8n"), EngineShape::default())]),
        changes: Vec::new(),
    }
}

fn job(arrival: Millis, service_s: f64, priority: Priority) -> Job {
    Job { arrival, service_s, engine: Arc::from("n8n"), workflow: None, priority }
}

/// The rules that fit a scenario.
fn rules(scenario: &Scenario) -> ScalingRules {
    ScalingRules {
        min_workers: scenario.min_workers,
        max_workers: scenario.max_workers,
        worker_capacity: scenario.slots,
        worker_startup_time: scenario.startup,
        ..ScalingRules::default()
    }
}

/// The Poisson stream of a seed (Steele et al., SplitMix64, 2014, as the source of chance), with run times around `run_s`.
fn stream(seed: u64, per_second: f64, seconds: u64, run_s: f64) -> Vec<Job> {
    let mut state = seed;
    let mut draw = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut at, mut jobs) = (0.0, Vec::new());
    loop {
        at -= (1.0 - draw()).ln() / per_second;
        if at >= seconds as f64 {
            return jobs;
        }
        let normal = (0..12).map(|_| draw()).sum::<f64>() - 6.0;
        jobs.push(job((at * 1_000.0) as Millis, run_s * (0.7 * normal).exp(), Priority::Normal));
    }
}

fn run_with(scenario: &Scenario, jobs: &[Job], policy: &mut dyn LabPolicy) -> LabRun {
    run(scenario, jobs, policy, true, LimiterRules::default(), true).expect("it can be run")
}

#[test]
fn a_run_small_enough_to_be_done_by_hand() {
    let scenario = scenario(1, 2, 2 * SECOND);
    let jobs = [
        job(500, 3.0, Priority::Normal),
        job(600, 1.0, Priority::Low),
        job(700, 1.0, Priority::High),
        job(9_000, 0.5, Priority::Normal),
    ];
    let run = run_with(&scenario, &jobs, &mut Fixed(2));
    // One worker is there from the start, the second one is launched at 0 and ready at 2 s. The high job, which came last,
    // goes before the low one.
    let times: Vec<(Millis, Millis)> = run.jobs.iter().map(|times| (times.start, times.finish)).collect();
    assert_eq!(times, [(500, 3_500), (3_000, 4_000), (2_000, 3_000), (9_000, 9_500)]);
    let first: Vec<(u32, u32, u32)> =
        run.ticks.iter().take(4).map(|tick| (tick.ready, tick.starting, tick.busy_slots)).collect();
    assert_eq!(first, [(1, 1, 0), (1, 1, 1), (2, 0, 2), (2, 0, 2)]);
    let measures = measure(&scenario, &jobs, &run);
    assert_eq!((run.end, measures.cost_s, measures.workers_max), (60_000, 120.0, 2));
    assert_eq!((measures.waits.p50, measures.waits.p99, measures.late), (0.0, 2.4, 0.0));
    // Knowing the future one worker is enough: the low job starts at 3.5 s and the high one at 4.5 s, both within the promise.
    let best = clairvoyant(&scenario, &jobs).expect("it can be planned");
    assert_eq!((best.cost_s, best.late), (60.0, 0.0));
    let hasty = Scenario { slo_wait: 0, ..scenario };
    // Without waiting: the second worker starts for 2 s and is there from 0.6 to 2.6 s.
    let best = clairvoyant(&hasty, &jobs).expect("it can be planned");
    assert_eq!((best.cost_s, best.late), (60.0 + 2.0 + 2.0, 0.25));
}

#[test]
fn between_ticks_a_job_waits_a_quarter_of_one_for_a_look() {
    let jobs = [job(100, 1.0, Priority::Normal)];
    // (looks between ticks, start)
    for (between_ticks, start) in [(false, 1_000), (true, 350)] {
        let scenario = Scenario { between_ticks, ..scenario(0, 5, 0) };
        let run = run_with(&scenario, &jobs, &mut Autoscaler::new(rules(&scenario)));
        assert_eq!(run.jobs[0].start, start, "{:?}", run.ticks);
    }
}

#[test]
fn the_same_inputs_give_the_same_run() {
    let mut degrading = scenario(1, 20, 10 * SECOND);
    degrading.horizon = 900 * SECOND;
    let change =
        |at, knee| EngineChange { at, engine: Arc::from("n8n"), knee: Some(knee), gamma: None, speed: None };
    degrading.changes = vec![change(300 * SECOND, 4.0), change(600 * SECOND, 60.0)];
    let jobs = stream(7, 0.8, 900, 5.0);
    let once = || run_with(&degrading, &jobs, &mut Autoscaler::new(rules(&degrading)));
    assert!(once() == once());
}

/// The limits that the engine had at the ends of ticks after `from`.
fn limits(run: &LabRun, from: Millis) -> Vec<Option<u32>> {
    let late = run.ticks.iter().filter(|tick| tick.at >= from);
    let figures = late.filter_map(|tick| tick.decision.as_ref());
    figures.flat_map(|decision| decision.figures.engines.iter().map(|engine| engine.limit)).collect()
}

#[test]
fn the_pool_does_not_grow_into_an_engine_that_concurrency_slows_down() {
    const SEEDS: u64 = 20;
    let (mut found, mut grown, mut by_threshold) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut knee = scenario(1, 40, 10 * SECOND);
        knee.horizon = 1_800 * SECOND;
        knee.changes = vec![EngineChange {
            at: 500 * SECOND,
            engine: Arc::from("n8n"),
            knee: Some(6.0),
            gamma: Some(0.6),
            speed: None,
        }];
        let jobs = stream(seed, 1.4, 1_800, 5.0);
        let lab = run_with(&knee, &jobs, &mut Autoscaler::new(rules(&knee)));
        let late = limits(&lab, 1_200 * SECOND);
        let mean = late.iter().map(|limit| f64::from(limit.unwrap_or(40))).sum::<f64>() / late.len() as f64;
        found += u32::from((3.0..=9.0).contains(&mean));
        let mean_target = |lab: &LabRun| {
            let late: Vec<f64> =
                lab.ticks.iter().filter(|t| t.at > 1_200 * SECOND).map(|t| f64::from(t.target)).collect();
            late.iter().sum::<f64>() / late.len() as f64
        };
        grown += u32::from(mean_target(&lab) > 12.0);
        let threshold = ScalingRules { policy: Policy::Threshold, ..rules(&knee) };
        let unlimited =
            run(&knee, &jobs, &mut Autoscaler::new(threshold), false, LimiterRules::default(), false);
        by_threshold += u32::from(mean_target(&unlimited.expect("it can be run")) > 30.0);
    }
    assert!(found >= SEEDS as u32 / 2, "the limit was near the knee in {found} of {SEEDS} runs");
    assert!(grown <= SEEDS as u32 / 2, "the pool grew beyond twice the knee in {grown} of {SEEDS} runs");
    assert!(
        by_threshold >= SEEDS as u32 - 1,
        "thresholds alone grew to the most in {by_threshold} of {SEEDS} runs"
    );
}

#[test]
fn what_cannot_be_run_is_refused() {
    let sound = scenario(1, 2, SECOND);
    type Change = fn(&mut Scenario, &mut Vec<Job>);
    let table: [(&str, Change); 6] = [
        ("min_workers <= max_workers", |s, _| s.min_workers = 3),
        ("the tick must be", |s, _| s.tick = 0),
        ("not among the engines", |_, jobs| jobs[0].engine = Arc::from("other")),
        ("must be sorted", |_, jobs| jobs[0].arrival = 5_000),
        ("runs for longer", |_, jobs| jobs[0].service_s = f64::NAN),
        ("knee must be", |s, _| s.engines.values_mut().for_each(|shape| shape.knee = 0.5)),
    ];
    for (wanted, change) in table {
        let (mut scenario, mut jobs) =
            (sound.clone(), vec![job(0, 1.0, Priority::Normal), job(1, 1.0, Priority::Normal)]);
        change(&mut scenario, &mut jobs);
        let found = run(&scenario, &jobs, &mut Fixed(1), true, LimiterRules::default(), false);
        let text = found.expect_err(wanted).to_string();
        assert!(text.contains(wanted), "{text}");
    }
}
