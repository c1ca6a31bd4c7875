//! Workers that are worth holding for bursts which nothing announces.
//!
//! For each of some sizes a shadow pool takes the arrivals as they come. It never gets smaller than its size, and beyond that
//! it follows what waits in it, with the start-up time in force. What its workers and its late jobs cost is summed up with
//! forgetting, and the size that was cheapest is held. This is "follow the leader" among experts (Cesa-Bianchi and Lugosi,
//! "Prediction, Learning, and Games", 2006). A burst that never comes back is held for until that has cost what its late jobs
//! were worth, as in ski rental, so the mistake costs about as much again as the burst did.
//!
//! A shadow pool is a fluid: jobs are counted in fractions, and runs end at one rate.

use super::window::WindowMax;
use crate::time::{Millis, SECOND, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Time constant with which costs are forgotten, in seconds.
const MEMORY_S: f64 = 1_200.0;
/// Sizes that are tried, and the least ratio between large ones that follow each other.
const SIZES_MAX: usize = 32;
const RATIO: f64 = 1.15;
/// The least time for which a shadow pool keeps what it needed, in seconds.
const KEPT_MIN_S: f64 = 10.0;
/// A fraction of a worker up to this is not worth a whole one.
const ROUND_SLACK: f64 = 0.2;
/// Entries of a shadow pool's short histories. Beyond it the newest ones are taken together.
const ENTRIES_MAX: usize = 64;

/// What the pool and its jobs are like at the moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Terms {
    pub(super) min_workers: u32,
    pub(super) max_workers: u32,
    /// Slots of one worker.
    pub(super) capacity: f64,
    /// Of a worker, in seconds.
    pub(super) startup_s: f64,
    /// A job that waits longer is late.
    pub(super) slo_wait: Millis,
    /// What a late job costs, in seconds of one worker.
    pub(super) late_cost: f64,
    /// Mean run time in seconds.
    pub(super) mean_s: f64,
}

/// What is worth holding, and why.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Held {
    /// Workers; 0 where the least pool is the cheapest.
    pub(super) workers: u32,
    /// Late jobs that the least pool would have had beyond those of this one.
    pub(super) saves: f64,
    /// What this one would have cost beyond the least pool, in seconds of one worker.
    pub(super) costs_s: f64,
}

/// Shadow pools, the smallest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Standby {
    pools: Vec<Shadow>,
    /// The bounds that the sizes were made for.
    bounds: (u32, u32),
    /// Arrivals that are not late yet, whatever happened to them.
    recent: VecDeque<(Time, f64)>,
    pub(super) held: Held,
}

/// A pool that is only counted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Shadow {
    size: u32,
    ready: u32,
    /// When workers were launched, and how many.
    starting: VecDeque<(Time, u32)>,
    serving: f64,
    queued: f64,
    /// Of those that wait, the ones that were counted as late.
    overdue: f64,
    wants: WindowMax,
    /// Both with forgetting: seconds of workers, and late jobs.
    cost_s: f64,
    late: f64,
}

impl Shadow {
    /// Lets `seconds` pass and `arrivals` come. `recent`: arrivals within the promised wait.
    fn step(&mut self, now: Time, seconds: f64, arrivals: f64, recent: f64, terms: &Terms) {
        self.queued += arrivals;
        let startup = (terms.startup_s * SECOND as f64) as Millis;
        while self.starting.front().is_some_and(|(at, _)| now.since(*at) >= startup) {
            self.ready += self.starting.pop_front().map_or(0, |(_, workers)| workers);
        }
        self.serving *= (-seconds / terms.mean_s).exp();
        // A slot takes several runs in a step if they are that short.
        let turns = (seconds / terms.mean_s).max(1.0);
        let free = (f64::from(self.ready) * terms.capacity - self.serving).max(0.0);
        let taken = self.queued.min(free * turns);
        self.queued -= taken;
        self.serving += taken / turns;
        // The first in line go first, so those that wait longer than promised are what is more than came since.
        self.overdue = (self.overdue - taken).max(0.0);
        let overdue = (self.queued - recent).max(self.overdue);
        let late = overdue - self.overdue;
        self.overdue = overdue;
        let workers = self.follow(now, terms);
        let kept = (-seconds / MEMORY_S).exp();
        self.cost_s = self.cost_s * kept + f64::from(workers) * seconds;
        self.late = self.late * kept + late;
    }

    /// Launches and stops by what is needed; gives the workers that are paid for.
    fn follow(&mut self, now: Time, terms: &Terms) -> u32 {
        let workers = |slots: f64| {
            (slots / terms.capacity - ROUND_SLACK).ceil().clamp(0.0, f64::from(terms.max_workers)) as u32
        };
        let need = workers(self.serving + self.queued);
        let keep = (terms.startup_s.max(KEPT_MIN_S) * SECOND as f64) as Millis;
        let least = terms.min_workers.max(self.size);
        let target = self.wants.push(now, need, keep).max(least).min(terms.max_workers.max(least));
        let starting: u32 = self.starting.iter().map(|(_, workers)| *workers).sum();
        let more = target.saturating_sub(self.ready + starting);
        if more > 0 {
            let full = self.starting.len() >= ENTRIES_MAX;
            match self.starting.back_mut().filter(|_| full) {
                Some(last) => last.1 += more,
                None => self.starting.push_back((now, more)),
            }
        }
        // Busy workers finish what they have.
        self.ready = self.ready.min(target.max(workers(self.serving)));
        self.ready + starting + more
    }

    fn total(&self, late_cost: f64) -> f64 {
        self.cost_s + late_cost * self.late
    }
}

impl Standby {
    /// Lets `seconds` pass and `arrivals` come, and looks again at what is worth holding. `most`: workers for all that the
    /// engines take at once.
    pub(super) fn step(&mut self, now: Time, seconds: f64, arrivals: u32, most: u32, terms: &Terms) {
        let bounds = (terms.min_workers, terms.max_workers);
        if self.pools.is_empty() || self.bounds != bounds {
            *self = Standby::new(bounds);
        }
        if terms.mean_s <= 0.0 || seconds <= 0.0 {
            return;
        }
        let arrivals = f64::from(arrivals);
        let recent = self.recent(now, arrivals, terms.slo_wait);
        for pool in &mut self.pools {
            pool.step(now, seconds, arrivals, recent, terms);
        }
        let total = |pool: &&Shadow| pool.total(terms.late_cost);
        let cheapest = self.pools.iter().min_by(|a, b| total(a).total_cmp(&total(b)));
        self.held = match (self.pools.first(), cheapest) {
            (Some(least), Some(pool)) if pool.size > least.size => Held {
                workers: pool.size.min(most),
                saves: (least.late - pool.late).max(0.0),
                costs_s: (pool.cost_s - least.cost_s).max(0.0),
            },
            _ => Held::default(),
        };
    }

    fn new(bounds: (u32, u32)) -> Standby {
        let of = |size| Shadow { size, ready: bounds.0, ..Shadow::default() };
        Standby { pools: sizes(bounds).into_iter().map(of).collect(), bounds, ..Standby::default() }
    }

    /// Takes in arrivals; gives those within the promised wait.
    fn recent(&mut self, now: Time, arrivals: f64, slo_wait: Millis) -> f64 {
        while self.recent.front().is_some_and(|(at, _)| now.since(*at) > slo_wait) {
            self.recent.pop_front();
        }
        if arrivals > 0.0 {
            let full = self.recent.len() >= ENTRIES_MAX;
            match self.recent.back_mut().filter(|_| full) {
                Some(last) => *last = (now, last.1 + arrivals),
                None => self.recent.push_back((now, arrivals)),
            }
        }
        self.recent.iter().map(|(_, count)| count).sum()
    }
}

/// From the least to the most, at most [`SIZES_MAX`]: each one while they are few, then by a ratio.
fn sizes((least, most): (u32, u32)) -> Vec<u32> {
    // The first ones are a worker apart, which for these sizes is more than the ratio.
    let few = 1.0 / (RATIO - 1.0);
    let ratio = (f64::from(most) / f64::from(least).max(few)).powf(1.0 / (SIZES_MAX as f64 - few)).max(RATIO);
    let mut sizes = vec![least];
    while let Some(last) = sizes.last().copied().filter(|last| *last < most)
        && sizes.len() < SIZES_MAX
    {
        sizes.push(((f64::from(last) * ratio).ceil() as u32).max(last + 1).min(most));
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        min_workers: 1,
        max_workers: 20,
        capacity: 4.0,
        startup_s: 30.0,
        slo_wait: 5_000,
        late_cost: 60.0,
        mean_s: 2.0,
    };

    /// What is held after each minute, where `arrivals(second)` jobs come.
    fn held(terms: &Terms, minutes: i64, arrivals: impl Fn(i64) -> u32) -> Vec<u32> {
        let mut standby = Standby::default();
        let mut held = Vec::new();
        for second in 0..60 * minutes {
            standby.step(Time(second * 1_000), 1.0, arrivals(second), u32::MAX, terms);
            assert!(standby.held.saves.is_finite() && standby.held.costs_s.is_finite());
            if second % 60 == 59 {
                held.push(standby.held.workers);
            }
        }
        held
    }

    /// Bursts of 60 jobs of 2 s each, every this many minutes, on workers with 4 slots that take 30 s to start.
    #[test]
    fn bursts_that_come_again_are_waited_for() {
        let every = |minutes: i64| move |second: i64| if second % (60 * minutes) < 3 { 20 } else { 0 };
        for minutes in [1, 2, 5] {
            let last = held(&TERMS, 60, every(minutes))[59];
            assert!((4..=10).contains(&last), "every {minutes} min: {last}");
        }
        // A worker second is worth far more than a late job.
        let cheap = Terms { late_cost: 0.2, ..TERMS };
        assert_eq!(held(&cheap, 60, every(5))[59], 0);
    }

    #[test]
    fn a_burst_that_does_not_come_again_is_forgotten() {
        let held = held(&TERMS, 90, |second| if (120..123).contains(&second) { 20 } else { 0 });
        assert_eq!(held[1], 0, "before it");
        let held = &held[2..];
        let minutes = held.iter().take_while(|workers| **workers > 0).count();
        // 50 late jobs are worth 3,000 s of a worker, and several workers were held.
        assert!((2..60).contains(&minutes) && held[87] == 0, "{held:?}");
        assert!(held.is_sorted_by(|a, b| a >= b), "{held:?}");
    }

    #[test]
    fn a_steady_load_needs_nothing_ready() {
        let held = held(&TERMS, 60, |second| u32::from(second % 2 == 0));
        assert!(held[59] <= 1, "{held:?}");
    }

    #[test]
    fn sizes_go_from_the_least_to_the_most() {
        for (least, most) in [(0, 0), (0, 1), (1, 10), (2, 60), (0, 1_000), (5, 5), (100, 10_000)] {
            let sizes = sizes((least, most));
            assert!(sizes.len() <= SIZES_MAX && sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
            assert_eq!((sizes[0], *sizes.last().expect("one")), (least, most), "{sizes:?}");
        }
    }
}
