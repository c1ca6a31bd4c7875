//! Since when a row waits for what it waits for, what stands in its way, and when that may be over.
//!
//! Times are estimates from what runs now: `n` runs of mean length `r` give up a slot `n / r` times a second (Little, "A proof
//! for the queuing formula L = λW", 1961), and of `k` of them the time varies by the square root of `k`.

use super::{Wait, WaitReason};
use crate::event::{Event, EventType};
use crate::execution::Execution;
use crate::failure::FailureKind;
use crate::gate::{Gates, Shut};
use crate::id::Key;
use crate::queue::Queue;
use crate::time::{Millis, SECOND, Time};

/// Running executions named as blockers, at most.
const NAMED_MAX: usize = 5;
/// Standard deviations of the estimate's ends: nine of ten starts should lie between.
const SPREAD: f64 = 1.64;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// When it came to wait for this.
    pub since: Time,
    /// Until it starts; `None` where nothing is known, as for a paused engine.
    pub eta: Option<Eta>,
    pub blockers: Vec<Blocker>,
}

/// From now, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eta {
    pub low: Millis,
    /// `None`: it may take any time.
    pub high: Option<Millis>,
}

/// What would have to end or change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// A running execution.
    Execution(Key),
    /// An endpoint of its engine, with what is wrong in words.
    Endpoint { at: u32, detail: String },
    /// Its engine as a whole.
    Engine { detail: String },
    /// The workers' slots.
    Slots { taken: u64, all: u64 },
}

/// What is known beside the reason that [`explain`](super::explain) gave.
#[must_use]
pub fn outlook(row: &Execution, wait: &Wait, queue: &Queue, gates: &Gates, now: Time) -> Outlook {
    let due = row.state.ready_at.max(row.fixed.created_at);
    let since = match wait.reason {
        WaitReason::Scheduled => row.fixed.created_at,
        WaitReason::Backoff => row.history.last().map_or(row.fixed.created_at, |event| event.at),
        WaitReason::Conflict => taken_since(row).unwrap_or(due),
        WaitReason::Parked => parked_since(row, gates).map_or(due, |at| at.max(due)),
        _ => due,
    };
    Outlook {
        since,
        eta: eta(row, wait, queue, now),
        blockers: blockers(row, wait.reason, queue, gates, now),
    }
}

/// Since the first of the tries in a row that met other work.
fn taken_since(row: &Execution) -> Option<Time> {
    let ends = row.history.iter().rev().filter(|event| event.kind == EventType::ExecutionRetrying);
    let taken = |event: &&Event| {
        event.data.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Conflict)
    };
    ends.take_while(taken).last().map(|event| event.at)
}

fn parked_since(row: &Execution, gates: &Gates) -> Option<Time> {
    let endpoints = gates.get(&row.fixed.engine)?.endpoints();
    endpoints.map(|endpoint| endpoint.breaker.since()).max()
}

fn eta(row: &Execution, wait: &Wait, queue: &Queue, now: Time) -> Option<Eta> {
    let engine = row.fixed.engine.as_str();
    let until = wait.until.map(|until| until.since(now));
    match wait.reason {
        WaitReason::Paused | WaitReason::NoCapableWorker => None,
        // Then it stands in line; with free slots and nothing before it, it starts at once.
        WaitReason::Scheduled | WaitReason::Backoff => {
            let low = until.unwrap_or(0);
            let line = queue.depth_of_engine(engine);
            let after = if line == 0 && queue.has_free_slot(&row.fixed.engine_type) {
                Some(0)
            } else {
                turns(line + 1, rate(queue, None, now)).1
            };
            Some(Eta { low, high: after.map(|after| low.saturating_add(after)) })
        }
        WaitReason::Parked | WaitReason::RateLimit | WaitReason::RetryBudget | WaitReason::Conflict => {
            until.filter(|until| *until > 0).map(|low| Eta { low, high: None })
        }
        WaitReason::ConcurrencyKey => {
            let ahead = wait.position.or_else(|| queue.position(row.key()));
            let running =
                f64::from(row.fixed.ckey.as_deref().map_or(0, |key| queue.occupancy().of_ckey(key)));
            turned(ahead, running * 1_000.0 / queue.expected_run(engine).max(1) as f64)
        }
        WaitReason::EngineLimit => {
            turned(queue.ahead(row.key(), Some(engine)), rate(queue, Some(engine), now))
        }
        WaitReason::ScalingUp | WaitReason::Behind | WaitReason::FairShare => {
            let eta = turned(queue.ahead(row.key(), None), rate(queue, None, now));
            let until = until.filter(|_| wait.reason == WaitReason::ScalingUp);
            match (eta, until) {
                // A new worker has room for the first ones at once.
                (Some(eta), Some(until)) => Some(Eta { low: eta.low.min(until), high: eta.high }),
                (None, Some(until)) => Some(Eta { low: until, high: None }),
                (eta, None) => eta,
            }
        }
    }
}

/// Attempts that end a second, by what runs and how long it takes: of one engine, or of all. One that runs for longer than
/// usual is expected to run for as long again.
fn rate(queue: &Queue, engine: Option<&str>, now: Time) -> f64 {
    let of_them =
        queue.occupancy().leases().filter(|(_, lease)| engine.is_none_or(|name| name == lease.engine));
    of_them.map(|(_, lease)| pace(queue, &lease.engine, lease.since, now)).sum()
}

fn pace(queue: &Queue, engine: &str, since: Time, now: Time) -> f64 {
    SECOND as f64 / queue.expected_run(engine).max(now.since(since)).max(1) as f64
}

fn turned(ahead: Option<u64>, rate: f64) -> Option<Eta> {
    let (low, high) = turns(ahead?.saturating_add(1), rate);
    Some(Eta { low: low?, high })
}

/// Until this many attempts have ended, at the least and at the most.
fn turns(count: u64, rate: f64) -> (Option<Millis>, Option<Millis>) {
    if rate <= 0.0 {
        return (None, None);
    }
    let count = count as f64;
    let spread = SPREAD * count.sqrt();
    let ms = |turns: f64| (turns.max(0.0) / rate * SECOND as f64) as Millis;
    (Some(ms(count - spread)), Some(ms(count + spread)))
}

fn blockers(row: &Execution, reason: WaitReason, queue: &Queue, gates: &Gates, now: Time) -> Vec<Blocker> {
    let engine = row.fixed.engine.as_str();
    let word = |detail: &str| vec![Blocker::Engine { detail: detail.to_owned() }];
    match reason {
        WaitReason::Scheduled | WaitReason::Backoff => Vec::new(),
        WaitReason::Conflict => super::taken(row).map(word).unwrap_or_default(),
        WaitReason::Paused => word("paused, or not configured any more"),
        WaitReason::NoCapableWorker => word("no worker serves its type"),
        WaitReason::RetryBudget => word("retries have used up their share of its successes"),
        WaitReason::ConcurrencyKey => {
            let holders = queue.occupancy().leases().filter(|(_, lease)| lease.ckey == row.fixed.ckey);
            holders.take(NAMED_MAX).map(|(key, _)| Blocker::Execution(key)).collect()
        }
        WaitReason::Parked | WaitReason::EngineLimit | WaitReason::RateLimit => {
            let found = endpoints(row, queue, gates, now);
            if found.is_empty() { word("its rate limit") } else { found }
        }
        WaitReason::ScalingUp | WaitReason::Behind | WaitReason::FairShare => {
            let (taken, free) = queue.slots_of(&row.fixed.engine_type);
            let mut found = vec![Blocker::Slots { taken, all: taken + free }];
            let mut longest: Vec<(Time, Key)> = queue
                .occupancy()
                .leases()
                .filter(|(_, lease)| lease.engine == engine)
                .map(|(key, l)| (l.since, key))
                .collect();
            longest.sort_unstable();
            found.extend(longest.into_iter().take(NAMED_MAX).map(|(_, key)| Blocker::Execution(key)));
            found
        }
    }
}

/// The endpoints that take nothing, each with why.
fn endpoints(row: &Execution, queue: &Queue, gates: &Gates, now: Time) -> Vec<Blocker> {
    let engine = row.fixed.engine.as_str();
    let Some(gate) = gates.get(engine) else { return Vec::new() };
    let pinned = row.state.pinned();
    let shut = (0u32..).zip(gate.endpoints()).filter_map(|(at, endpoint)| {
        if pinned.is_some_and(|pinned| pinned != at) {
            return None;
        }
        let used = queue.occupancy().of_endpoint(engine, at);
        let shut = gate.shut_to(pinned.is_some(), at, used, now)?;
        let detail = if matches!(shut, Shut::Ejected { .. }) {
            "it is far worse than the others and left alone for a while".to_owned()
        } else if endpoint.breaker.parks(now) {
            format!("its circuit breaker is {}", endpoint.breaker.word())
        } else if endpoint.frozen_until.is_some_and(|until| until > now) {
            "it asked to be left alone for a while".to_owned()
        } else {
            let most = gate.limit(at).unwrap_or(used);
            match queue.occupancy().abandoned(engine, at) {
                None => format!("{used} of {most} attempts run on it"),
                Some((abandoned, until)) => format!(
                    "{used} of {most} attempts run on it, {abandoned} of them abandoned: the engine may still be at work on \
                     what was cancelled or out of time, and its room is kept for {} s at most",
                    until.since(now).div_ceil(SECOND)
                ),
            }
        };
        Some(Blocker::Endpoint { at, detail })
    });
    shut.collect()
}
