//! Traffic made from a seed: arrivals and run times of many shapes, on engines that are well or that degrade.
//!
//! It is what decisions are tried on beside the traces that are at hand: a policy that was tuned to a few traces does well on
//! those. A seed means the same traffic forever.
//!
//! The recorded parts are of public traces: `azure_*` of the Azure LLM inference trace of 2023 (Patel et al., "Splitwise",
//! ISCA 2024; CC-BY), `mooncake_conv` of the conversation trace published with Mooncake (Qin et al., FAST 2025). A run's time
//! there is 0.2 s, and 1 s for each 5,000 tokens of prompt and each 40 tokens of answer.

use super::scenario::{EngineChange, EngineShape, Job, Scenario};
use crate::execution::Priority;
use crate::time::{Millis, SECOND};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Jobs of one trace at most; longer ones are cut short.
const JOBS_MAX: f64 = 9_000.0;
/// Recorded jobs that are taken in a row, so that what belongs together stays together (Kuensch, "The jackknife and the
/// bootstrap for general stationary observations", 1989).
const BLOCK: usize = 20;
const ENGINE: &str = "engine";

/// A source of chance whose numbers are the same forever (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x5851_F42D_4C95_7F2D))
    }

    /// From 0 to below 1, all alike.
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.draw() * (most - least)
    }

    /// Between two values, each factor being as likely as any other.
    pub fn about(&mut self, least: f64, most: f64) -> f64 {
        least * (most / least).powf(self.draw())
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[((self.draw() * all.len() as f64) as usize).min(all.len() - 1)]
    }

    /// Exponential with this mean.
    pub fn gap(&mut self, mean: f64) -> f64 {
        -(1.0 - self.draw()).ln() * mean
    }

    /// Close to the standard normal distribution.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.draw()).sum::<f64>() - 6.0
    }
}

/// How jobs arrive. Rates are jobs per second, spans seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Arrivals {
    Poisson,
    /// Between two rates, each for a while (a Markov-modulated Poisson process): the factor and the mean stay.
    Modulated {
        factor: f64,
        stay: f64,
    },
    /// A wave.
    Diurnal {
        swing: f64,
        period: f64,
    },
    /// Many at once, now and then, beside a thin stream.
    Bursts {
        size: f64,
        every: f64,
    },
    /// One rate, and from a third of the time on another one.
    Step {
        factor: f64,
    },
}

/// How long runs take; `mean` is that of all of them together.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Runs {
    Lognormal {
        sigma: f64,
    },
    /// A share of long runs.
    Bimodal {
        share: f64,
        factor: f64,
    },
    /// Pareto with this index.
    HeavyTail {
        index: f64,
    },
    /// Neighbours are alike: an autoregressive chain of the logarithm.
    Chain {
        sigma: f64,
        memory: f64,
    },
    /// Ever longer, or ever shorter.
    Drift {
        factor: f64,
    },
    /// The kind of work changes at a fixed period, in seconds.
    Switch {
        factor: f64,
        every: f64,
    },
    /// Runs of the first seconds are shorter by a factor.
    ColdStart {
        factor: f64,
        seconds: f64,
    },
}

/// A trace and the world around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    pub scenario: Scenario,
    pub jobs: Vec<Job>,
    /// What it is made of, for people.
    pub shape: String,
}

/// Traffic on an engine that is well whatever the concurrency.
#[must_use]
pub fn healthy(seed: u64) -> Traffic {
    let mut dice = Dice::new(seed);
    if dice.draw() < 0.3 {
        return recorded(&mut dice, seed);
    }
    let arrivals = any_arrivals(&mut dice);
    let runs = any_runs(&mut dice);
    made(&mut dice, seed, arrivals, runs)
}

/// Traffic on an engine that bears less from a third of the time on, for a third of it: beyond a knee around its load every
/// run gets slower, so that more runs mean less done in all.
#[must_use]
pub fn degrading(seed: u64) -> Traffic {
    let mut dice = Dice::new(seed ^ 0x00DE_64AD);
    let arrivals = dice.one_of(&[Arrivals::Poisson, Arrivals::Modulated { factor: 2.0, stay: 60.0 }]);
    let runs = Runs::Lognormal { sigma: dice.between(0.3, 0.9) };
    let mut traffic = made(&mut dice, seed, arrivals, runs);
    let scenario = &mut traffic.scenario;
    let work: f64 = traffic.jobs.iter().map(|job| job.service_s).sum();
    let load = work / (scenario.horizon as f64 / SECOND as f64);
    let (knee, gamma) = ((load * dice.between(1.0, 1.5)).max(2.0).round(), dice.between(0.3, 0.9));
    let change = |at: Millis, knee: f64| EngineChange {
        at,
        engine: Arc::from(ENGINE),
        knee: Some(knee),
        gamma: Some(gamma),
        speed: None,
    };
    scenario.changes = vec![change(scenario.horizon / 3, knee), change(scenario.horizon * 2 / 3, 1e9)];
    traffic.shape = format!("{} on an engine with its knee at {knee}, gamma {gamma:.1}", traffic.shape);
    traffic
}

fn any_arrivals(dice: &mut Dice) -> Arrivals {
    let bursts = Arrivals::Bursts { size: dice.about(10.0, 200.0).round(), every: dice.about(20.0, 300.0) };
    dice.one_of(&[
        Arrivals::Poisson,
        Arrivals::Modulated { factor: 4.0, stay: 60.0 },
        Arrivals::Diurnal { swing: 0.8, period: 600.0 },
        bursts,
        Arrivals::Step { factor: 5.0 },
    ])
}

fn any_runs(dice: &mut Dice) -> Runs {
    let all = [
        Runs::Lognormal { sigma: dice.between(0.0, 1.2) },
        Runs::Bimodal { share: dice.between(0.05, 0.5), factor: dice.about(3.0, 30.0) },
        Runs::HeavyTail { index: dice.between(1.3, 2.5) },
        Runs::Chain { sigma: dice.between(0.5, 1.0), memory: dice.between(0.9, 0.99) },
        Runs::Drift { factor: dice.about(0.2, 5.0) },
        Runs::Switch { factor: dice.about(2.0, 10.0), every: dice.about(60.0, 400.0) },
        Runs::ColdStart { factor: dice.about(2.0, 10.0), seconds: dice.about(10.0, 60.0) },
    ];
    dice.one_of(&all)
}

/// A trace of `arrivals` and `runs` with a load, run time and pool that chance chooses.
fn made(dice: &mut Dice, seed: u64, arrivals: Arrivals, runs: Runs) -> Traffic {
    let (load, mean) = (dice.about(2.0, 60.0), dice.about(0.4, 20.0));
    let rate = load / mean;
    let horizon_s = (JOBS_MAX / rate).clamp(300.0, 1_800.0);
    let mut times = times_of(dice, arrivals, rate, horizon_s);
    times.sort_by(f64::total_cmp);
    times.truncate(JOBS_MAX as usize);
    let mut chain = 0.0;
    let mut jobs = Vec::with_capacity(times.len());
    for at in times {
        let took = run_of(dice, runs, mean, (at, horizon_s), &mut chain).clamp(0.01, 600.0);
        jobs.push(job((at * SECOND as f64) as Millis, took));
    }
    let shape = format!("{arrivals:?} with {runs:?}, {load:.1} slots of {mean:.1} s");
    Traffic { scenario: scenario(dice, seed, load, horizon_s), jobs, shape }
}

/// Blocks of a recorded trace in another order, faster or slower as a whole.
fn recorded(dice: &mut Dice, seed: u64) -> Traffic {
    let (name, rows) = &RECORDED[(dice.draw() * RECORDED.len() as f64) as usize % RECORDED.len()];
    let (pace, horizon_s) = (dice.about(0.3, 3.0), 1_200.0);
    let mut jobs = Vec::new();
    let (mut at, mut work) = (0.0, 0.0);
    while at < horizon_s && (jobs.len() as f64) < JOBS_MAX {
        let from = (dice.draw() * (rows.len() - BLOCK) as f64) as usize;
        for (gap, took) in &rows[from..from + BLOCK] {
            at += gap / pace;
            work += took;
            if at < horizon_s {
                jobs.push(job((at * SECOND as f64) as Millis, *took));
            }
        }
    }
    let load = work / at.max(1.0);
    let shape = format!("{name} at {pace:.1} times its pace, {load:.1} slots");
    Traffic { scenario: scenario(dice, seed, load, at.min(horizon_s)), jobs, shape }
}

fn job(arrival: Millis, service_s: f64) -> Job {
    Job { arrival, service_s, engine: Arc::from(ENGINE), workflow: None, priority: Priority::Normal }
}

fn scenario(dice: &mut Dice, seed: u64, load: f64, horizon_s: f64) -> Scenario {
    let slots = dice.one_of(&[1, 4, 10]);
    Scenario {
        name: format!("seed {seed}"),
        horizon: (horizon_s * SECOND as f64) as Millis,
        tick: SECOND,
        between_ticks: false,
        slo_wait: 5 * SECOND,
        min_workers: 1,
        max_workers: ((6.0 * load / f64::from(slots)).ceil() as u32 + 2).min(1_024),
        slots,
        startup: dice.one_of(&[1, 10, 30]) * SECOND,
        engines: BTreeMap::from([(Arc::from(ENGINE), EngineShape::default())]),
        changes: Vec::new(),
    }
}

fn times_of(dice: &mut Dice, arrivals: Arrivals, rate: f64, horizon_s: f64) -> Vec<f64> {
    let third = horizon_s / 3.0;
    match arrivals {
        Arrivals::Poisson => thinned(dice, horizon_s, rate, |_| rate),
        Arrivals::Diurnal { swing, period } => thinned(dice, horizon_s, rate * (1.0 + swing), |at| {
            rate * (1.0 + swing * (at / period * std::f64::consts::TAU).sin())
        }),
        Arrivals::Step { factor } => {
            let low = 3.0 * rate / (1.0 + 2.0 * factor);
            thinned(dice, horizon_s, low * factor, |at| if at < third { low } else { low * factor })
        }
        Arrivals::Modulated { factor, stay } => {
            let (mut switches, mut at) = (Vec::new(), 0.0);
            while at < horizon_s {
                at += dice.gap(stay);
                switches.push(at);
            }
            let low = 2.0 * rate / (1.0 + factor);
            thinned(dice, horizon_s, low * factor, |at| {
                let past = switches.partition_point(|switch| *switch <= at);
                if past % 2 == 0 { low } else { low * factor }
            })
        }
        Arrivals::Bursts { size, every } => {
            let thin = 0.2 * rate;
            let mut times = thinned(dice, horizon_s, thin, |_| thin);
            let mut at = dice.gap(every);
            while at < horizon_s {
                let count = dice.about(size / 2.0, size * 2.0).min(0.8 * rate * every * 2.0) as u32;
                times.extend((0..count).map(|_| at + dice.gap(3.0)).filter(|at| *at < horizon_s));
                at += dice.gap(every);
            }
            times
        }
    }
}

/// A Poisson process whose rate changes, by thinning (Lewis and Shedler, 1979); `most` bounds the rate.
fn thinned(dice: &mut Dice, horizon_s: f64, most: f64, rate: impl Fn(f64) -> f64) -> Vec<f64> {
    let (mut times, mut at) = (Vec::new(), 0.0);
    loop {
        at += dice.gap(1.0 / most.max(1e-6));
        if at >= horizon_s {
            return times;
        }
        if dice.draw() * most <= rate(at) {
            times.push(at);
        }
    }
}

fn run_of(dice: &mut Dice, runs: Runs, mean: f64, (at, horizon_s): (f64, f64), chain: &mut f64) -> f64 {
    let lognormal = |dice: &mut Dice, sigma: f64| (sigma * dice.normal() - sigma * sigma / 2.0).exp();
    match runs {
        Runs::Lognormal { sigma } => mean * lognormal(dice, sigma),
        Runs::Bimodal { share, factor } => {
            let short = mean / (1.0 + share * (factor - 1.0));
            let long = if dice.draw() < share { factor } else { 1.0 };
            short * long * lognormal(dice, 0.3)
        }
        Runs::HeavyTail { index } => mean * (index - 1.0) / index * (1.0 - dice.draw()).powf(-1.0 / index),
        Runs::Chain { sigma, memory } => {
            *chain = memory * *chain + (1.0 - memory * memory).sqrt() * dice.normal();
            mean * (sigma * *chain - sigma * sigma / 2.0).exp()
        }
        Runs::Drift { factor } => mean * factor.powf(at / horizon_s - 0.5) * lognormal(dice, 0.4),
        Runs::Switch { factor, every } => {
            let long = (at / every) as u64 % 2 == 1;
            2.0 * mean / (1.0 + factor) * if long { factor } else { 1.0 } * lognormal(dice, 0.2)
        }
        Runs::ColdStart { factor, seconds } => {
            mean * lognormal(dice, 0.6) / if at < seconds { factor } else { 1.0 }
        }
    }
}

type Recorded = (&'static str, Vec<(f64, f64)>);

/// Gap before the job and its run time, in seconds.
static RECORDED: LazyLock<[Recorded; 3]> = LazyLock::new(|| {
    let rows = |text: &str| {
        let number = |text: &str| text.parse::<f64>().unwrap_or(0.0) / SECOND as f64;
        let pairs = text.lines().skip(1).filter_map(|line| line.split_once(','));
        pairs.map(|(gap, took)| (number(gap), number(took))).collect()
    };
    [
        ("azure_code", rows(include_str!("traffic/azure_code.csv"))),
        ("azure_conv", rows(include_str!("traffic/azure_conv.csv"))),
        ("mooncake_conv", rows(include_str!("traffic/mooncake_conv.csv"))),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_traffic_and_can_be_run() {
        for seed in 0..40 {
            for traffic in [healthy(seed), degrading(seed)] {
                assert_eq!(traffic.scenario.check(&traffic.jobs), Ok(()), "{}", traffic.shape);
                assert!(traffic.jobs.len() >= 20, "{}: {} jobs", traffic.shape, traffic.jobs.len());
            }
            assert_eq!(healthy(seed), healthy(seed));
        }
        assert_ne!(healthy(1).jobs, healthy(2).jobs);
    }
}
