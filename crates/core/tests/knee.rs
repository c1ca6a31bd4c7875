//! Pool and limit together on an engine that suddenly gets more than it can do: all of its runs are alike, so that those
//! that began together also end together.

#![allow(clippy::print_stdout, reason = "many seeds are read by people")]

use enginehouse_core::autoscaler::{Autoscaler, Policy, ScalingRules};
use enginehouse_core::lab::traffic::Dice;
use enginehouse_core::lab::{EngineShape, Job, Scenario, run};
use enginehouse_core::limiter::LimiterRules;
use enginehouse_core::priority::Priority;
use std::sync::Arc;

/// Runs at once beyond which the engine does less in all, and what it does there in a second.
const KNEE: f64 = 8.0;
const STRENGTH: f64 = KNEE / RUN_S;
const RUN_S: f64 = 0.4;
/// It gets 60 % of that, then 150 %.
const CALM_S: f64 = 30.0;
const PRESSED_S: f64 = 90.0;

fn jobs(seed: u64) -> Vec<Job> {
    let mut dice = Dice::new(seed);
    let job = |at: f64, service_s: f64, engine: &str| Job {
        arrival: (at * 1_000.0) as u64,
        service_s,
        engine: Arc::from(engine),
        workflow: None,
        priority: Priority::Normal,
    };
    let mut jobs = Vec::new();
    let mut at = dice.gap(0.2);
    while at < CALM_S + PRESSED_S {
        jobs.push(job(at + dice.gap(0.002), RUN_S + dice.gap(0.002), "slow"));
        at += 1.0 / (STRENGTH * if at < CALM_S { 0.6 } else { 1.5 });
    }
    at = 0.0;
    while at < CALM_S + PRESSED_S {
        at += dice.gap(0.1);
        jobs.push(job(at, 0.2, "other"));
    }
    jobs.sort_by_key(|job| job.arrival);
    jobs
}

/// What the slow engine completes a second in the second half of the pressed time.
fn completed(policy: Policy, seed: u64) -> f64 {
    let startup = [100, 250, 400, 700, 1_000][(seed % 5) as usize];
    let slow = EngineShape { knee: KNEE, gamma: 0.6, speed: 1.0 };
    let scenario = Scenario {
        name: "knee".into(),
        horizon: 240_000,
        tick: 1_000,
        between_ticks: true,
        slo_wait: 5_000,
        min_workers: 2,
        max_workers: 30,
        slots: 4,
        startup,
        engines: [(Arc::from("slow"), slow), (Arc::from("other"), EngineShape::default())].into(),
        changes: Vec::new(),
    };
    let rules = ScalingRules {
        policy,
        min_workers: 2,
        max_workers: 30,
        worker_capacity: 4,
        worker_startup_time: startup,
        ..ScalingRules::default()
    };
    let jobs = jobs(seed);
    let mut pool = Autoscaler::new(rules);
    let lab = run(&scenario, &jobs, &mut pool, true, LimiterRules::default(), false).expect("it can be run");
    let from = ((CALM_S + PRESSED_S / 2.0) * 1_000.0) as u64;
    let until = ((CALM_S + PRESSED_S) * 1_000.0) as u64;
    let seen = jobs.iter().zip(&lab.jobs);
    let done =
        seen.filter(|(job, told)| &*job.engine == "slow" && (from..until).contains(&told.finish)).count();
    done as f64 / (PRESSED_S / 2.0)
}

#[test]
fn an_engine_pressed_beyond_its_knee_is_held_near_it() {
    for policy in [Policy::LeadTime, Policy::Threshold] {
        let seen: Vec<f64> = (0..30).map(|seed| completed(policy, seed) / STRENGTH).collect();
        let mean = seen.iter().sum::<f64>() / seen.len() as f64;
        let least = seen.iter().copied().fold(f64::INFINITY, f64::min);
        println!("{policy:?}: {mean:.2} of what is possible, at least {least:.2}");
        assert!(mean >= 0.8 && least >= 0.6, "{policy:?}: {mean:.2}, {least:.2} of what is possible");
    }
}
