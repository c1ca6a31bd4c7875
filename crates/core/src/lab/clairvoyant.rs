//! What a plan that knows the future would cost: no policy can be expected to reach it, and how far one is from it can be
//! compared between traces.
//!
//! The engines are never pushed past their knee, and every job starts as early as a pool of the most workers could start
//! it (plan A), or waits up to the promise for a slot that is about to be free (plan B). Each plan is priced with the
//! cheapest times at which to switch workers on and off. That price falls apart by layers: the k-th worker is kept through
//! a gap exactly if the gap is shorter than a start-up (Lin, Wierman, Andrew and Thereska, "Dynamic right-sizing for
//! power-proportional data centers", INFOCOM 2011). With several slots a worker the packing is a relaxation, so the price
//! may be a little too low.

use super::engine::LabEngine;
use super::scenario::{Job, Scenario, ScenarioError};
use crate::time::{Millis, SECOND};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A plan that knows every arrival, run time and fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clairvoyant {
    /// Workers that exist, summed over time, in seconds of one worker.
    pub cost_s: f64,
    /// The share of jobs that are late even so.
    pub late: f64,
}

/// The cheaper of the two plans. The scenario's least number of workers is paid throughout.
pub fn clairvoyant(scenario: &Scenario, jobs: &[Job]) -> Result<Clairvoyant, ScenarioError> {
    scenario.check(jobs)?;
    let spans = earliest(scenario, jobs);
    let last = spans.iter().map(|span| span.1).max().unwrap_or(0);
    let end = scenario.horizon.max(last);
    let promise = scenario.slo_wait as f64 / SECOND as f64;
    let late = jobs.iter().zip(&spans).filter(|(job, (_, finish))| {
        finish.saturating_sub(job.arrival) as f64 / SECOND as f64 - job.service_s > promise + 1e-9
    });
    let late = late.count() as f64 / jobs.len().max(1) as f64;
    let cost = price(scenario, &spans, end).min(price(scenario, &waiting(scenario, jobs, &spans), end));
    Ok(Clairvoyant { cost_s: cost as f64 / SECOND as f64, late })
}

/// One engine with what waits for it.
struct Lane {
    engine: LabEngine,
    /// By descending priority, then arrival.
    waiting: BTreeSet<(u8, usize)>,
    running: usize,
    knee: f64,
}

/// Plan A: when each job starts and ends if the most workers are there all the time.
fn earliest(scenario: &Scenario, jobs: &[Job]) -> Vec<(Millis, Millis)> {
    let lane = |shape: &super::EngineShape| Lane {
        engine: LabEngine::new(*shape),
        waiting: BTreeSet::new(),
        running: 0,
        knee: shape.knee,
    };
    let mut lanes: BTreeMap<Arc<str>, Lane> =
        scenario.engines.iter().map(|(name, shape)| (name.clone(), lane(shape))).collect();
    let mut changes: Vec<_> = scenario.changes.iter().collect();
    changes.sort_by_key(|change| change.at);
    let mut changes = changes.into_iter().peekable();
    let mut free = u64::from(scenario.max_workers) * u64::from(scenario.slots);
    let mut spans = vec![(0, 0); jobs.len()];
    let mut next = 0;
    loop {
        let ends = lanes.values().filter_map(|lane| lane.engine.next_end()).min();
        let arrival = jobs.get(next).map(|job| job.arrival);
        // A change without jobs before or after it has no effect.
        let Some(now) = [ends, arrival].into_iter().flatten().min() else { return spans };
        let now = changes.peek().map_or(now, |change| change.at.min(now));
        if let Some(change) = changes.next_if(|change| change.at <= now) {
            if let Some(lane) = lanes.get_mut(&change.engine) {
                lane.engine.change(change, now);
                lane.knee = change.knee.unwrap_or(lane.knee);
            }
        } else if let Some((lane, job)) =
            lanes.values_mut().find_map(|lane| lane.engine.end_one(now).map(|job| (lane, job)))
        {
            lane.running -= 1;
            free += 1;
            spans[job].1 = now;
        } else if let Some(job) = jobs.get(next).filter(|job| job.arrival <= now) {
            if let Some(lane) = lanes.get_mut(&job.engine) {
                lane.waiting.insert((u8::MAX - job.priority as u8, next));
            }
            next += 1;
        }
        while free > 0
            && let Some((at, lane)) = first(&mut lanes)
        {
            lane.waiting.remove(&at);
            lane.running += 1;
            lane.engine.start(at.1, jobs[at.1].service_s, now);
            free -= 1;
            spans[at.1].0 = now;
        }
    }
}

/// What starts next of what its engine has room for.
fn first(lanes: &mut BTreeMap<Arc<str>, Lane>) -> Option<((u8, usize), &mut Lane)> {
    let open = lanes.values_mut().filter(|lane| (lane.running as f64) < lane.knee);
    open.filter_map(|lane| Some((*lane.waiting.first()?, lane))).min_by_key(|(at, _)| *at)
}

/// Plan B: the same runs, each of which may wait up to the promise for the next slot to be free.
fn waiting(scenario: &Scenario, jobs: &[Job], spans: &[(Millis, Millis)]) -> Vec<(Millis, Millis)> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|job| (spans[*job].0, *job));
    // When each slot is free again, and how many are at that instant.
    let mut slots: BTreeMap<Millis, u32> = BTreeMap::new();
    let mut later = Vec::with_capacity(spans.len());
    for job in order {
        let (start, finish) = spans[job];
        let most = start.max(jobs[job].arrival + scenario.slo_wait);
        let soon = slots.range(start + 1..=most.max(start + 1)).next().map(|(at, _)| *at);
        let idle = slots.range(..=start).next_back().map(|(at, _)| *at);
        let taken = soon.filter(|at| *at <= most).or(idle);
        if let Some(at) = taken
            && let Some(count) = slots.get_mut(&at)
        {
            *count -= 1;
            if *count == 0 {
                slots.remove(&at);
            }
        }
        let begins = taken.map_or(start, |at| at.max(start));
        let ends = begins + (finish - start);
        *slots.entry(ends).or_default() += 1;
        later.push((begins, ends));
    }
    later
}

/// The cheapest way to have at least the slots in use at every instant, in milliseconds of one worker.
fn price(scenario: &Scenario, spans: &[(Millis, Millis)], end: Millis) -> u64 {
    let mut events: Vec<(Millis, i64)> =
        spans.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]).collect();
    events.sort_unstable();
    let least = scenario.min_workers as usize;
    let slots = i64::from(scenario.slots.max(1));
    // Of each worker: since when it is on, or since when it is off.
    let mut on: Vec<Millis> = Vec::new();
    let mut off: Vec<Option<Millis>> = Vec::new();
    let mut cost = least as u64 * end;
    let mut busy = 0i64;
    for (at, change) in events {
        busy += change;
        let need = usize::try_from((busy + slots - 1).div_euclid(slots)).unwrap_or(0);
        while on.len() < need {
            let layer = on.len();
            if off.len() <= layer {
                off.push(None);
            }
            if layer >= least {
                cost += off[layer].map_or(scenario.startup, |since| (at - since).min(scenario.startup));
            }
            on.push(at);
        }
        while on.len() > need
            && let Some(since) = on.pop()
        {
            if on.len() >= least {
                cost += at - since;
                off[on.len()] = Some(at);
            }
        }
    }
    cost
}
