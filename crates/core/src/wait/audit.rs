//! Whether what is said of waiting executions is true: each reason against what the queue would do, tried out on copies of it, and
//! against its leases, counted again.

use super::{Blocker, Wait, WaitReason, explain, outlook};
use crate::execution::Execution;
use crate::gate::{Gate, Gates};
use crate::queue::{Entry, Queue};
use crate::time::Time;
use std::collections::BTreeMap;

/// What came of a look.
#[derive(Debug, Default)]
pub struct Audit {
    /// Rows by what was said of them; `nothing` where nothing holds them.
    pub said: BTreeMap<&'static str, u64>,
    /// What is wrong with it.
    pub findings: Vec<String>,
}

/// Looks at the reasons of `pending`. `whole`: the queue is to know every row, as where no other node can have changed one that
/// this one has not heard of. For tests.
#[must_use]
pub fn audit(pending: &[Execution], whole: bool, queue: &Queue, gates: &Gates, now: Time) -> Audit {
    let starting = queue.would_start(gates, now);
    let Audit { mut said, mut findings } = Audit::default();
    for row in pending {
        let held = queue.held(row.key());
        let known = held.is_some_and(|(lane, entry)| *lane == row.lane() && entry == entry_of(row));
        let mut wrong = |what: String| findings.push(format!("execution {}: {what}", row.key().0));
        if row.state.due && !known {
            let elsewhere = queue.occupancy().lease(row.key()).is_some()
                || queue.reaches_behind_memory(&row.lane())
                || now >= row.deadline()
                || row.expiry().is_some_and(|at| now >= at);
            if whole && !elsewhere {
                wrong("it is due, and the queue does not know it".to_owned());
            }
            continue;
        }
        let starts = starting.contains(&row.key());
        let wait = explain(row, queue, gates, now);
        *said.entry(wait.as_ref().map_or("nothing", |wait| wait.reason.as_str())).or_default() += 1;
        match wait {
            // While anything starts, the scheduler is yet to look, and who comes after it is decided then.
            None if row.state.due && starting.is_empty() => {
                wrong("nothing is said to hold it, and it does not start".to_owned());
            }
            None => {}
            Some(wait) => {
                let reason = wait.reason.as_str();
                if starts {
                    wrong(format!("it is said to wait for {reason}, and it starts now"));
                }
                if let Some(why) = untrue(row, &wait, queue, gates, now) {
                    wrong(format!("it is said to wait for {reason}: {why}"));
                }
                let blockers = outlook(row, &wait, queue, gates, now).blockers;
                if blockers.contains(&Blocker::Execution(row.key())) {
                    wrong(format!("it waits for {reason}, and is named as what is in its own way"));
                }
            }
        }
    }
    Audit { said, findings }
}

fn entry_of(row: &Execution) -> Entry {
    Entry {
        key: row.key(),
        rank: row.state.rank,
        priority: row.state.priority,
        pinned: row.state.pinned(),
        fail_fast: row.fixed.spec.fail_fast,
    }
}

/// Why the reason is not true.
fn untrue(row: &Execution, wait: &Wait, queue: &Queue, gates: &Gates, now: Time) -> Option<String> {
    let engine_type = &row.fixed.engine_type;
    let alone = || queue.would_start_alone(&row.lane(), entry_of(row), gates, now);
    let if_not = |truth: bool, why: &str| (!truth).then(|| why.to_owned());
    match wait.reason {
        WaitReason::Scheduled | WaitReason::Backoff | WaitReason::Conflict => {
            let begun = row.state.attempt > 0;
            if_not(!row.state.due && row.state.ready_at > now, "its time has come")
                .or_else(|| if_not(wait.reason == WaitReason::Scheduled || begun, "no attempt was made yet"))
        }
        WaitReason::NoCapableWorker => {
            if_not(free_slots(engine_type, queue).is_none(), "a worker serves its engine type")
        }
        WaitReason::ScalingUp | WaitReason::Behind | WaitReason::FairShare => {
            let Some(free) = free_slots(engine_type, queue) else {
                return if_not(wait.reason == WaitReason::ScalingUp, "no worker serves its engine type");
            };
            let outshared =
                || queue.next_with_room(engine_type, gates, now).is_some_and(|user| user != row.fixed.user);
            if_not(free == 0, "slots are free")
                .or_else(|| if_not(alone(), "a free slot would not start it"))
                .or_else(|| {
                    let shared = wait.reason == WaitReason::FairShare;
                    if_not(!shared || outshared(), "the next slot goes to its own user")
                })
        }
        WaitReason::ConcurrencyKey => {
            let mut leases = queue.occupancy().leases();
            let other = leases.any(|(key, lease)| key != row.key() && lease.ckey == row.fixed.ckey);
            if_not(row.fixed.ckey.is_some() && other, "no other of its key runs")
        }
        WaitReason::Paused => {
            let rules = queue.engine(&row.fixed.engine);
            if_not(rules.is_none_or(|rules| rules.paused), "its engine is not paused")
        }
        WaitReason::Parked | WaitReason::EngineLimit | WaitReason::RateLimit | WaitReason::RetryBudget => {
            let Some(gate) = gates.get(&row.fixed.engine) else {
                return Some("its engine has no gate".to_owned());
            };
            if_not(!alone(), "its engine would take it").or_else(|| {
                if_not(holds(row, wait.reason, gate, queue, now), "its engine does not hold it for that")
            })
        }
    }
}

/// Free slots of the workers that serve the engine type, counted from the leases; `None`: no worker does.
fn free_slots(engine_type: &str, queue: &Queue) -> Option<u64> {
    let capable = queue.workers().iter().filter(|(_, worker)| {
        worker.open
            && (worker.engine_types.is_empty() || worker.engine_types.iter().any(|t| t == engine_type))
    });
    let free = capable.map(|(session, worker)| {
        let taken = queue.occupancy().leases().filter(|(_, lease)| lease.worker == *session).count() as u64;
        u64::from(worker.capacity).saturating_sub(taken)
    });
    free.reduce(|a, b| a + b)
}

/// Whether the engine has this very thing against the row.
fn holds(row: &Execution, reason: WaitReason, gate: &Gate, queue: &Queue, now: Time) -> bool {
    let engine = row.fixed.engine.as_str();
    let pinned = row.state.pinned();
    let mut places = (0u32..).zip(gate.endpoints()).filter(|(at, _)| pinned.is_none_or(|p| p == *at));
    match reason {
        WaitReason::Parked => places.all(|(_, place)| place.breaker.parks(now)),
        WaitReason::EngineLimit => places.any(|(at, _)| {
            let used = queue.occupancy().of_endpoint(engine, at);
            gate.limit(at).is_some_and(|limit| used >= limit) || gate.balancer().ejected(at, now).is_some()
        }),
        WaitReason::RateLimit => {
            !gate.has_token(now)
                || places.any(|(_, place)| place.frozen_until.is_some_and(|until| now < until))
        }
        WaitReason::RetryBudget => row.state.retrying && !gate.may_retry(now),
        _ => false,
    }
}
