//! The adaptive limit on traffic made from seeds: hardly any harm where the engine is well, and a gain where it degrades.
//! `cargo xtask chaos --traffic N` looks at many seeds.

#![allow(clippy::print_stdout, reason = "many seeds are read by people")]

use enginehouse_core::autoscaler::{Autoscaler, ScalingRules};
use enginehouse_core::lab::traffic::{Traffic, degrading, healthy};
use enginehouse_core::lab::{Measures, measure, run};
use enginehouse_core::limiter::LimiterRules;

fn measured(traffic: &Traffic, limiter: bool) -> Measures {
    let scenario = &traffic.scenario;
    let mut rules = ScalingRules {
        min_workers: scenario.min_workers,
        max_workers: scenario.max_workers,
        worker_capacity: scenario.slots,
        worker_startup_time: scenario.startup,
        ..ScalingRules::default()
    };
    rules.parts.limiter = limiter;
    let mut policy = Autoscaler::new(rules);
    let engine = LimiterRules::default();
    let lab = run(scenario, &traffic.jobs, &mut policy, limiter, engine, false).expect("it can be run");
    measure(scenario, &traffic.jobs, &lab)
}

/// One seed with the limit, compared with the same without.
struct Compared {
    seed: u64,
    shape: String,
    /// Late jobs without and with the limit, in percent of all.
    late: [f64; 2],
    /// Worker hours with the limit over those without.
    hours: f64,
}

struct Sum {
    /// The worst first.
    rows: Vec<Compared>,
}

impl Sum {
    fn of(traffic: impl Fn(u64) -> Traffic, seeds: std::ops::Range<u64>) -> Sum {
        let mut rows: Vec<Compared> = seeds
            .map(|seed| {
                let traffic = traffic(seed);
                let [without, with] = [false, true].map(|limiter| measured(&traffic, limiter));
                let late = [100.0 * without.late, 100.0 * with.late];
                Compared { seed, shape: traffic.shape, late, hours: with.cost_s / without.cost_s }
            })
            .collect();
        rows.sort_by(|a, b| (b.late[1] - b.late[0]).total_cmp(&(a.late[1] - a.late[0])));
        Sum { rows }
    }

    /// Late jobs without and with the limit, in percent; the mean over seeds.
    fn late(&self) -> [f64; 2] {
        [0, 1].map(|at| self.rows.iter().map(|row| row.late[at]).sum::<f64>() / self.rows.len() as f64)
    }

    /// Worker hours with the limit over those without; the geometric mean over seeds.
    fn hours(&self) -> f64 {
        (self.rows.iter().map(|row| row.hours.ln()).sum::<f64>() / self.rows.len() as f64).exp()
    }

    fn print(&self, name: &str) {
        let [without, with] = self.late();
        println!(
            "{name}: late {without:.2} % without the limit, {with:.2} % with it; worker hours {:+.2} %; {} seeds",
            100.0 * (self.hours() - 1.0),
            self.rows.len()
        );
        for row in self.rows.iter().take(5) {
            let points = row.late[1] - row.late[0];
            println!("  seed {}: {points:+.2} points, hours x {:.2}: {}", row.seed, row.hours, row.shape);
        }
    }
}

fn seeds(or: u64) -> std::ops::Range<u64> {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let from = number("FROM", 1);
    from..from + number("SEEDS", or)
}

#[test]
fn a_healthy_engine_is_hardly_harmed() {
    let sum = Sum::of(healthy, seeds(60));
    sum.print("healthy");
    let [without, with] = sum.late();
    assert!(with <= without + 1.0, "{with:.2} % late, {without:.2} % without the limit");
    assert!(sum.hours() <= 1.03, "worker hours x {:.3}", sum.hours());
}

/// Seeds on which a limit that was taken in a slow spell stayed, or the pool did not follow it when it rose: most of their
/// jobs were late.
#[test]
fn what_was_harmed_once_is_not_harmed_again() {
    for (seed, most) in [(20_308, 15.0), (20_808, 10.0), (20_580, 15.0), (20_988, 35.0), (20_754, 20.0)] {
        let late = 100.0 * measured(&healthy(seed), true).late;
        assert!(late <= most, "seed {seed}: {late:.1} % late");
    }
}

#[test]
fn a_degrading_engine_gains() {
    let sum = Sum::of(degrading, seeds(60));
    sum.print("degrading");
    let [without, with] = sum.late();
    assert!(with < without, "{with:.2} % late, {without:.2} % without the limit");
    assert!(sum.hours() < 0.85, "worker hours x {:.3}", sum.hours());
}
