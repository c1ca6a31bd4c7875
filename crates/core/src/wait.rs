//! Why a pending execution is not running yet: a closed list, answered by the code that decides.
//!
//! Where nothing holds it, nothing is said: it starts as soon as the scheduler looks. [`audit`] compares what is said with what
//! the queue does.

use crate::execution::{Execution, Status};
use crate::failure::FailureKind;
use crate::gate::{Gates, Shut};
use crate::queue::Queue;
use crate::time::Time;

mod audit;
mod outlook;
pub use audit::{Audit, audit};
pub use outlook::{Blocker, Eta, Outlook, outlook};

/// The closed list of wait reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitReason {
    Scheduled,
    Backoff,
    Conflict,
    RetryBudget,
    Parked,
    EngineLimit,
    ConcurrencyKey,
    RateLimit,
    FairShare,
    Paused,
    NoCapableWorker,
    ScalingUp,
    Behind,
}

impl WaitReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::Scheduled => "scheduled",
            WaitReason::Backoff => "backoff",
            WaitReason::Conflict => "conflict",
            WaitReason::RetryBudget => "retry_budget",
            WaitReason::Parked => "parked",
            WaitReason::EngineLimit => "engine_limit",
            WaitReason::ConcurrencyKey => "concurrency_key",
            WaitReason::RateLimit => "rate_limit",
            WaitReason::FairShare => "fair_share",
            WaitReason::Paused => "paused",
            WaitReason::NoCapableWorker => "no_capable_worker",
            WaitReason::ScalingUp => "scaling_up",
            WaitReason::Behind => "behind",
        }
    }
}

/// A reason with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub reason: WaitReason,
    pub until: Option<Time>,
    pub position: Option<u64>,
    pub text: String,
}

/// Why `row` waits; `None` when it is not pending, or nothing holds it and it starts now.
#[must_use]
pub fn explain(row: &Execution, queue: &Queue, gates: &Gates, now: Time) -> Option<Wait> {
    if row.status() != Status::Pending {
        return None;
    }
    if let Some(early) = held_by_time(row, now) {
        return Some(early);
    }
    if queue.occupancy().lease(row.key()).is_some() {
        // Its start is decided and being written.
        return None;
    }
    if row.state.due && !queue.holds(row.key()) && !queue.reaches_behind_memory(&row.lane()) {
        // It was read before it started, and has gone on since then.
        return None;
    }
    held_by_engine(row, queue, gates, now)
        .or_else(|| held_by_key(row, queue))
        .or_else(|| held_by_slots(row, queue, gates, now))
}

/// Why `row` waits, as far as the row itself says so: all that is known where no queue is at hand.
#[must_use]
pub fn held_by_time(row: &Execution, now: Time) -> Option<Wait> {
    let state = &row.state;
    if row.status() != Status::Pending || state.due || state.ready_at <= now {
        return None;
    }
    let again = state.retrying || state.refused > 0 || state.node_crashes > 0;
    let (reason, text) = if let Some(taken) = taken(row) {
        (WaitReason::Conflict, format!("{taken}; it is looked at again then"))
    } else if again {
        (WaitReason::Backoff, format!("waits before attempt {}", state.attempt + 1))
    } else {
        (WaitReason::Scheduled, "its time has not come".to_owned())
    };
    Some(Wait { reason, until: Some(state.ready_at), position: None, text })
}

fn held_by_key(row: &Execution, queue: &Queue) -> Option<Wait> {
    let full = row.fixed.ckey.as_deref().is_some_and(|key| queue.key_is_full(key));
    full.then(|| Wait {
        reason: WaitReason::ConcurrencyKey,
        until: None,
        position: queue.position(row.key()),
        text: "others with its concurrency key are running".to_owned(),
    })
}

/// Whether the slots are taken, or will be by those before it.
fn held_by_slots(row: &Execution, queue: &Queue, gates: &Gates, now: Time) -> Option<Wait> {
    let engine_type = queue.engine(&row.fixed.engine).map_or("", |rules| rules.engine_type.as_str());
    let (_, free) = queue.slots_of(engine_type);
    let position = queue.position(row.key());
    let many = position.is_none() && row.state.due && queue.reaches_behind_memory(&row.lane());
    let behind_window = many && queue.window_is_full(&row.lane());
    if (free > 0 && !behind_window) || (position.is_none() && !many) {
        return None;
    }
    let place = match position {
        Some(0) => "it is the first of its lane",
        Some(1) => "1 stands before it in its lane",
        Some(n) => &format!("{n} stand before it in its lane"),
        None => "many stand before it in its lane",
    };
    let wait = |reason, text: String| Some(Wait { reason, until: None, position, text });
    if free > 0 {
        return wait(WaitReason::Behind, format!("{place}, and it is not looked at before they are gone"));
    }
    if let Some(at) = queue.expected_worker(engine_type) {
        let text = "all worker slots are taken; more workers are starting".to_owned();
        return Some(Wait { reason: WaitReason::ScalingUp, until: Some(at), position, text });
    }
    let text = format!("{place}; all worker slots are taken");
    if queue.is_outshared(&row.fixed.user, engine_type, gates, now) {
        let text = format!("{text}; other users have had less of the slots' time and go first");
        return wait(WaitReason::FairShare, text);
    }
    wait(WaitReason::Behind, text)
}

/// What of the row's own is taken at its engine, if its last try met that.
fn taken(row: &Execution) -> Option<&'static str> {
    let failure = row.state.failure.as_ref().filter(|_| row.state.refused > 0)?;
    (failure.kind == FailureKind::Conflict).then_some(match failure.code.as_str() {
        "thread_busy" => "its thread is busy with another run",
        _ => "other work at the engine holds what it needs",
    })
}

/// What the row's engine has against starting it.
fn held_by_engine(row: &Execution, queue: &Queue, gates: &Gates, now: Time) -> Option<Wait> {
    let engine = row.fixed.engine.as_str();
    let wait = |reason, until, text: String| Some(Wait { reason, until, position: None, text });
    let Some(rules) = queue.engine(engine) else {
        return wait(WaitReason::Paused, None, format!("engine {engine} is not configured any more"));
    };
    if rules.paused {
        return wait(WaitReason::Paused, None, format!("engine {engine} is paused"));
    }
    let pinned = row.state.pinned();
    let place = if pinned.is_some() { "the endpoint that has its run" } else { "every endpoint" };
    let shut = queue.shut(gates, engine, pinned, now);
    if let Some(Shut::Parked { until }) = shut {
        let text =
            format!("the circuit breaker of {place} of engine {engine} holds it back; it burns no attempt");
        return wait(WaitReason::Parked, until, text);
    }
    if !queue.has_capable_worker(&rules.engine_type) {
        if let Some(at) = queue.expected_worker(&rules.engine_type) {
            return wait(WaitReason::ScalingUp, Some(at), "the first worker for it is starting".to_owned());
        }
        let text = format!("no worker that takes new work serves {}", rules.engine_type);
        return wait(WaitReason::NoCapableWorker, None, text);
    }
    match shut {
        Some(Shut::Frozen { until }) => {
            let text = format!("engine {engine} asked to be left alone for a while");
            return wait(WaitReason::RateLimit, Some(until), text);
        }
        Some(Shut::Ejected { until }) => {
            let text = format!("the only endpoint of engine {engine} with room is far worse than the others");
            return wait(WaitReason::EngineLimit, Some(until), text);
        }
        Some(_) => {
            let text = full_told(engine, queue, gates, pinned, now);
            return wait(WaitReason::EngineLimit, None, text);
        }
        None => {}
    }
    let gate = gates.get(engine)?;
    if !gate.has_token(now) {
        let text = format!("engine {engine} starts no more per time than its rate limit says");
        return wait(WaitReason::RateLimit, Some(gate.next_token(now)), text);
    }
    if row.state.retrying && !gate.may_retry(now) {
        let text = format!("retries on engine {engine} have used up their share of its successes");
        let until = gate.retries_left(now).1;
        return wait(WaitReason::RetryBudget, Some(until).filter(|until| *until > now), text);
    }
    None
}

/// Which limit of which endpoint holds back what may go to `pinned`, or to any. Of several the first that was learned: what is
/// configured is known to the operator.
fn full_told(engine: &str, queue: &Queue, gates: &Gates, pinned: Option<u32>, now: Time) -> String {
    let place = gates.get(engine).and_then(|gate| {
        let ends = gate.endpoints().count();
        let pinned = pinned.filter(|at| (*at as usize) < ends);
        let full = |at: &u32| {
            let used = queue.occupancy().of_endpoint(engine, *at);
            pinned.is_none_or(|pinned| pinned == *at) && gate.shut(*at, used, now) == Some(Shut::Full)
        };
        let full = (0u32..).take(ends).filter(full);
        full.min_by_key(|at| gate.holding(*at).is_none()).map(|at| gate.full_told(engine, at, now))
    });
    place.unwrap_or_else(|| format!("engine {engine} runs as many as it may"))
}

#[cfg(test)]
mod tests;
