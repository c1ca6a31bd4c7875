//! The rules of [`lifecycle`](crate::lifecycle) with a fault in front of or behind them, for the simulation to find.
//!
//! It takes their place where the feature `planted-bugs` is on. The rules themselves know nothing of it: a fault changes what
//! they are given, or what they gave.

pub use crate::sound_lifecycle::*;

use crate::execution::{Execution, Status};
use crate::id::Fence;
use crate::planted::{Bug, has};
use crate::rank::HeadStarts;
use crate::sound_lifecycle as sound;
use crate::time::Time;
use std::sync::Arc;

/// The row with something changed, if the fault is in.
fn seen(row: &Execution, bug: Bug, change: impl FnOnce(&mut Execution)) -> Execution {
    let mut row = row.clone();
    if has(bug) {
        change(&mut row);
    }
    row
}

/// What was decided on a changed row, as the transition of the row itself.
fn of(row: &Execution, mut decided: Transition) -> Transition {
    (decided.fixed, decided.from) = (row.fixed.clone(), row.status());
    let next = &mut decided.next;
    if next.status == Status::Pending && !next.due {
        if has(Bug::BackoffSkipped) {
            next.wake_at = Some(next.clock_from);
        } else if has(Bug::TimerLost) && next.retrying {
            next.wake_at = Some(next.clock_from.plus(row.fixed.spec.total_timeout));
        }
    }
    decided
}

fn trusted(row: &Execution, fence: Fence) -> Fence {
    if has(Bug::FenceIgnored) { row.state.fence } else { fence }
}

pub fn check_lease(row: &Execution, fence: Fence) -> Result<(), Refused> {
    sound::check_lease(row, trusted(row, fence))
}

pub fn attach(
    row: &Execution,
    fence: Fence,
    engine_run: String,
    can_reattach: bool,
    now: Time,
) -> Result<Transition, Refused> {
    sound::attach(row, trusted(row, fence), engine_run, can_reattach, now)
}

pub fn finish(
    row: &Execution,
    fence: Fence,
    outcome: AttemptEnd,
    head_starts: &HeadStarts,
    jitter: f64,
    now: Time,
) -> Result<Transition, Refused> {
    let outcome = match outcome {
        AttemptEnd::Refused { failure } if has(Bug::RefusalBurnt) => AttemptEnd::Failed {
            failure,
            retry_after: None,
            open_end: false,
            recognised: false,
            retry: None,
            by_default: None,
        },
        outcome => outcome,
    };
    let told = seen(row, Bug::CancelForgotten, |row| row.state.cancel_at = None);
    let told = seen(&told, Bug::RetriesEndless, |row| {
        Arc::make_mut(&mut row.fixed).spec.retry.max_retries = u32::MAX
    });
    let decided = sound::finish(&told, trusted(row, fence), outcome, head_starts, jitter, now)?;
    let mut decided = of(row, decided);
    decided.next.cancel_at = row.state.cancel_at;
    Ok(decided)
}

pub fn lose(row: &Execution, loss: Loss, jitter: f64, now: Time) -> Result<Transition, Refused> {
    let told = seen(row, Bug::OnceTwice, |row| Arc::make_mut(&mut row.fixed).spec.at_most_once = false);
    let mut decided = of(row, sound::lose(&told, loss, jitter, now)?);
    if has(Bug::RunRepeated) && decided.next.status == Status::Pending {
        decided.next.run += 1;
        (decided.next.engine_run, decided.next.can_reattach) = (None, false);
    }
    Ok(decided)
}

pub fn cancel(row: &Execution, by: Option<String>, now: Time) -> Result<Transition, Refused> {
    let told = seen(row, Bug::EndedTwice, |row| {
        if matches!(row.status(), Status::Completed | Status::Failed) {
            row.state.status = Status::Pending;
        }
    });
    sound::cancel(&told, by, now).map(|decided| of(row, decided))
}

pub fn wake(row: &Execution, now: Time) -> Result<Transition, Refused> {
    let told = seen(row, Bug::BackoffSkipped, |row| row.state.ready_at = row.state.ready_at.min(now));
    let mut decided = of(row, sound::wake(&told, now)?);
    decided.next.ready_at = row.state.ready_at;
    Ok(decided)
}

#[must_use]
pub fn late_result(row: &Execution, fence: Fence, now: Time) -> Transition {
    let mut late = sound::late_result(row, fence, now);
    late.event.seq -= u32::from(has(Bug::EventUnnumbered));
    late
}
