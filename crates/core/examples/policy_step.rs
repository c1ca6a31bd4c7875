//! What one step of the scaling policy costs: `cargo run --release -p enginehouse-core --example policy_step`.

#![allow(clippy::print_stdout, reason = "it says what it measured")]

use enginehouse_core::autoscaler::{
    Autoscaler, Completed, EngineLoad, Observation, PoolCounts, Running, ScalingRules,
};
use enginehouse_core::execution::Priority;
use enginehouse_core::time::{SECOND, Time};
use std::hint::black_box;
use std::time::Instant;

const ENGINES: u32 = 3;
const WARM_UP: u64 = 4_000;
const STEPS: u64 = 20_000;

/// One second of a service with this many running executions on three engines.
fn observation(second: u64, running: u32) -> Observation {
    let now = Time(0).plus(second * SECOND);
    let engine = |at: u32| {
        let mut load = EngineLoad::idle(["n8n", "langflow", "langgraph"][at as usize]);
        load.arrivals[1] = 1 + at;
        load.queued[1] = 2;
        let workflow = |n: u32| Some(format!("flow-{}", n % 8).into());
        load.completed = (0..=at)
            .map(|n| Completed {
                took: 500 + (second * 7_919 + u64::from(n) * 104_729) % 20_000,
                workflow: workflow(n),
            })
            .collect();
        let share = running / ENGINES + u32::from(at < running % ENGINES);
        load.running = (0..share)
            .map(|n| Running {
                since: now.minus(u64::from(n) * 431 % 30_000),
                workflow: workflow(n),
                priority: Priority::Normal,
            })
            .collect();
        load
    };
    Observation {
        now,
        pool: PoolCounts {
            ready: running.div_ceil(4).max(1),
            busy_slots: running,
            busy_ready: running,
            ..PoolCounts::default()
        },
        engines: (0..ENGINES).map(engine).collect(),
        ..Observation::default()
    }
}

fn main() {
    println!("{:>8} {:>12} {:>12}", "running", "median us", "p99 us");
    for running in [0, 50, 200, 1_000] {
        for (name, startup) in [("at once", SECOND), ("ahead", 10 * SECOND)] {
            let rules = ScalingRules {
                max_workers: 500,
                worker_capacity: 4,
                worker_startup_time: startup,
                ..ScalingRules::default()
            };
            let mut autoscaler = Autoscaler::new(rules);
            (0..WARM_UP).for_each(|second| drop(autoscaler.step(&observation(second, running))));
            let mut spans: Vec<f64> = (WARM_UP..WARM_UP + STEPS)
                .map(|second| {
                    let seen = observation(second, running);
                    let begin = Instant::now();
                    black_box(autoscaler.step(black_box(&seen)));
                    begin.elapsed().as_nanos() as f64 / 1_000.0
                })
                .collect();
            spans.sort_by(f64::total_cmp);
            let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
            println!("{running:>8} {:>12.1} {:>12.1}   looking {name}", at(0.5), at(0.99));
        }
    }
}
