//! What a run cost, and how long its jobs waited.

use super::run::LabRun;
use super::scenario::{Job, Scenario};
use crate::time::{HOUR, MINUTE, Millis, SECOND};
use serde::{Deserialize, Serialize};

/// Waits for a start, in seconds; nearest-rank percentiles.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// The numbers to compare policies by.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measures {
    pub jobs: usize,
    /// Workers that existed, summed over time, in seconds of one worker.
    pub cost_s: f64,
    /// That cost over the slots' time that jobs really used; 1 cannot be undercut.
    pub cost_per_work: f64,
    /// The share of jobs that ended later than their own run time and the promised wait after their arrival.
    pub late: f64,
    /// The share that waited longer than promised for their start.
    pub over_promise: f64,
    pub waits: Waits,
    pub workers_mean: f64,
    pub workers_max: u32,
    /// Changes of the target per hour, and those that turned round within a minute.
    pub actions_per_hour: f64,
    pub reversals_per_hour: f64,
    /// The longest time in which some job had waited longer than promised, in seconds; gaps below 10 s count in.
    pub recovery_s: f64,
}

fn seconds(span: Millis) -> f64 {
    span as f64 / SECOND as f64
}

/// Measures a run of `jobs` under `scenario`.
#[must_use]
pub fn measure(scenario: &Scenario, jobs: &[Job], run: &LabRun) -> Measures {
    let n = jobs.len().max(1) as f64;
    let promise = seconds(scenario.slo_wait);
    let mut waits: Vec<Millis> =
        jobs.iter().zip(&run.jobs).map(|(job, times)| times.start.saturating_sub(job.arrival)).collect();
    waits.sort_unstable();
    let delay = |(job, times): (&Job, &super::JobTimes)| {
        seconds(times.finish.saturating_sub(job.arrival)) - job.service_s
    };
    let late = jobs.iter().zip(&run.jobs).map(delay).filter(|delay| *delay > promise + 1e-9).count();
    let work: Millis = run.jobs.iter().map(|times| times.finish.saturating_sub(times.start)).sum();
    let cost_s = cost(run);
    let hours = (scenario.horizon.max(SECOND)) as f64 / HOUR as f64;
    let (actions, reversals) = changes(run);
    let at = |share: f64| {
        let rank = (share * waits.len() as f64).ceil() as usize;
        waits
            .get(rank.max(1).min(waits.len()) - usize::from(!waits.is_empty()))
            .map_or(0.0, |wait| seconds(*wait))
    };
    let least = f64::from(scenario.min_workers) * seconds(run.end);
    let work_s = (seconds(work) / f64::from(scenario.slots.max(1))).max(least).max(1e-9);
    Measures {
        jobs: jobs.len(),
        cost_s,
        cost_per_work: cost_s / work_s,
        late: late as f64 / n,
        over_promise: waits.iter().filter(|wait| **wait > scenario.slo_wait).count() as f64 / n,
        waits: Waits {
            mean: waits.iter().map(|wait| seconds(*wait)).sum::<f64>() / n,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
        },
        workers_mean: cost_s / seconds(run.end).max(1e-9),
        workers_max: run.ticks.iter().map(|t| t.ready + t.starting + t.draining).max().unwrap_or(0),
        actions_per_hour: f64::from(actions) / hours,
        reversals_per_hour: f64::from(reversals) / hours,
        recovery_s: recovery(scenario, jobs, run),
    }
}

/// Workers that exist after each tick, until the next one.
fn cost(run: &LabRun) -> f64 {
    let until = run.ticks.iter().skip(1).map(|tick| tick.at).chain([run.end]);
    let spans = run.ticks.iter().zip(until);
    spans
        .map(|(tick, until)| {
            f64::from(tick.ready + tick.starting + tick.draining) * seconds(until.saturating_sub(tick.at))
        })
        .sum()
}

/// Changes of the target, and those that turned round within a minute.
fn changes(run: &LabRun) -> (u32, u32) {
    let (mut actions, mut reversals) = (0, 0);
    let mut last: Option<(bool, Millis)> = None;
    for pair in run.ticks.windows(2).filter(|pair| pair[0].target != pair[1].target) {
        let (up, at) = (pair[1].target > pair[0].target, pair[1].at);
        actions += 1;
        reversals += u32::from(last.is_some_and(|(was, then)| was != up && at - then < MINUTE));
        last = Some((up, at));
    }
    (actions, reversals)
}

fn recovery(scenario: &Scenario, jobs: &[Job], run: &LabRun) -> f64 {
    let mut over: Vec<(Millis, Millis)> = jobs
        .iter()
        .zip(&run.jobs)
        .map(|(job, times)| (job.arrival + scenario.slo_wait, times.start))
        .filter(|(from, to)| to > from)
        .collect();
    over.sort_unstable();
    let mut longest = 0;
    let mut open: Option<(Millis, Millis)> = None;
    for (from, to) in over {
        open = match open {
            Some((begin, end)) if from <= end + 10 * SECOND => Some((begin, end.max(to))),
            _ => Some((from, to)),
        };
        longest = longest.max(open.map_or(0, |(begin, end)| end - begin));
    }
    seconds(longest)
}
