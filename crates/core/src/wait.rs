//! Why a pending execution is not running yet: a closed list, answered by the code that decides.

use crate::execution::{Execution, Status};
use crate::queue::Queue;
use crate::time::Time;

/// The closed list of wait reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitReason {
    Scheduled,
    Backoff,
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

/// Why `row` waits; `None` when it is not pending.
#[must_use]
pub fn explain(row: &Execution, queue: &Queue, now: Time) -> Option<Wait> {
    if row.status() != Status::Pending {
        return None;
    }
    let state = &row.state;
    let engine = row.fixed.engine.as_str();
    let wait = |reason, text: String| Wait { reason, until: None, position: None, text };
    if !state.due && state.ready_at > now {
        let until = Some(state.ready_at);
        let again = state.retrying || state.refused > 0 || state.node_crashes > 0;
        let (reason, text) = if again {
            (WaitReason::Backoff, format!("waits before attempt {}", state.attempt + 1))
        } else {
            (WaitReason::Scheduled, "its time has not come".to_owned())
        };
        return Some(Wait { until, ..wait(reason, text) });
    }
    let Some(rules) = queue.engine(engine) else {
        return Some(wait(WaitReason::Paused, format!("engine {engine} is not configured any more")));
    };
    if rules.paused {
        return Some(wait(WaitReason::Paused, format!("engine {engine} is paused")));
    }
    if !queue.has_capable_worker(&rules.engine_type) {
        return Some(wait(WaitReason::NoCapableWorker, format!("no worker serves {}", rules.engine_type)));
    }
    if row.fixed.ckey.as_deref().is_some_and(|k| queue.key_is_full(k)) {
        return Some(wait(
            WaitReason::ConcurrencyKey,
            "others with its concurrency key are running".to_owned(),
        ));
    }
    if !queue.engine_has_room(engine) {
        return Some(wait(WaitReason::EngineLimit, format!("engine {engine} runs as many as it may")));
    }
    let position = queue.position(row.key());
    let text = match position {
        Some(n) => format!("{n} stand before it in its lane; all worker slots are taken"),
        None => "many stand before it; all worker slots are taken".to_owned(),
    };
    Some(Wait { position, ..wait(WaitReason::Behind, text) })
}
