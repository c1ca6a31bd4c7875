//! How often a run is started in the engine, whatever goes wrong on the way: adapter by step by fault.
//!
//! The attempts follow the rules of the service itself (`enginehouse_core::lifecycle`), retries and all, with what each adapter
//! makes of the fault. A fault lasts, or happens once in the middle of a run.

use crate::dialect::{Dialect, Expected, Fake, Fault, RunState, Step};
use crate::host::{NotingHost, call};
use crate::rows;
use crate::settings_for;
use crate::stub::{Plan, Stub};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::failure::{Failure, FailureKind};
use enginehouse_core::id::SessionId;
use enginehouse_core::lifecycle::{self, AttemptEnd, Grant, NewExecution};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::reason::Reason;
use enginehouse_engine::{Call, Engine, Outcome, Reached};
use std::sync::Arc;

/// Attempts after which a case is over although its execution is not: an engine out of reach is asked forever.
const ATTEMPTS_MAX: u32 = 3;

fn submitted() -> Execution {
    lifecycle::submit(NewExecution::plain(1), &HeadStarts::default())
}

/// The end of an attempt as the node tells it to the lifecycle.
fn end_of(outcome: Outcome, recognised: bool) -> AttemptEnd {
    match outcome {
        Outcome::Succeeded { result, needs_input } => {
            AttemptEnd::Succeeded { needs_input, output_bytes: result.len() as u64 }
        }
        Outcome::Cancelled => AttemptEnd::Cancelled { abandoned: false },
        Outcome::LetGo => AttemptEnd::Interrupted { reason: Reason::LetGo },
        Outcome::Failed(told) => {
            let failure = Failure {
                kind: told.kind,
                code: told.code,
                message: Vec::new(),
                retryable: false,
                attempt: 0,
                engine_status: told.engine_status,
            };
            match told.reached {
                Reached::No => AttemptEnd::Refused { failure },
                reached => AttemptEnd::Failed {
                    failure,
                    retry_after: told.retry_after,
                    open_end: reached == Reached::Maybe,
                    recognised,
                    retry: None,
                    by_default: told.retried,
                },
            }
        }
    }
}

/// Takes an execution through its attempts; answers the row it ends with.
async fn attempts(dialect: &dyn Dialect, engine: &dyn Engine) -> Execution {
    let mut row = submitted();
    let heads = HeadStarts::default();
    while !row.status().is_terminal() && row.state.attempt < ATTEMPTS_MAX {
        let mut now = row.state.ready_at;
        if !row.state.due {
            row = lifecycle::wake(&row, now).unwrap().applied_to(&row);
        }
        let grant = Grant { session: SessionId(1), worker: "w".into(), endpoint: 0 };
        row = lifecycle::grant(&row, &grant, now).unwrap().applied_to(&row);
        let host = Arc::new(NotingHost::default());
        let (_stop, call) = call(&host, dialect.workflow_id(), dialect.parameters());
        let call = Call {
            attempt: row.state.attempt,
            idempotency_key: format!("e1.{}", row.state.run),
            engine_run: row.state.engine_run.clone(),
            maybe_started: row.state.maybe_started,
            ..call
        };
        let outcome = engine.run(call).await;
        now = now.plus(1);
        let attached = host.attached.lock().unwrap().last().cloned();
        if let Some((run, can_reattach)) = attached {
            row = lifecycle::attach(&row, row.state.fence, run, can_reattach, now).unwrap().applied_to(&row);
        }
        let end = end_of(outcome, engine.capabilities().idempotent_submit);
        row = lifecycle::finish(&row, row.state.fence, end, &heads, 0.5, now).unwrap().applied_to(&row);
    }
    row
}

/// Runs started and the status at the end, for one fault.
async fn case(dialect: Arc<dyn Dialect>, step: Step, fault: Fault, times: usize) -> (usize, Status) {
    let plan = Plan { step, fault, times };
    let mut fake = Fake::new(RunState::Succeeded);
    // The fault meets a run in its middle.
    fake.polls_to_end = 4;
    let stub = Stub::start(dialect.clone(), fake, Some(plan)).await;
    let engine = dialect.engine(settings_for(stub.url(), fault));
    let row = attempts(&*dialect, &*engine).await;
    (stub.fake(|fake| fake.runs.len()), row.status())
}

fn judge(
    step: Step,
    (started, status): (usize, Status),
    least: usize,
    must_end: Option<Status>,
) -> Result<(), String> {
    if started < least || started > 1 {
        return Err(format!("{step:?}: started {started} times"));
    }
    match must_end {
        Some(wanted) if wanted != status => Err(format!("{step:?}: ends {}", status.as_str())),
        _ => Ok(()),
    }
}

/// Whatever is answered about a run that is known, forever: it is not started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lasting_fault_starts_no_second_run() {
    rows(|dialect, fault| async move {
        for step in [Step::Status, Step::Result] {
            // A service that keeps saying that it knows no such run has lost it, and only then it is started again.
            let lost = dialect.differs(step, fault).is_some_and(|end| end == crate::LOST);
            if !dialect.skips(step, fault) && !lost {
                let seen = case(dialect.clone(), step, fault, usize::MAX).await;
                judge(step, seen, 1, None)?;
            }
        }
        Ok(())
    })
    .await;
}

/// One odd answer in the middle of a run changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_starts_no_second_run_and_loses_no_result() {
    rows(|dialect, fault| async move {
        for step in [Step::Status, Step::Result] {
            // A result that is too large, or too deep, is believed.
            let expected = dialect.differs(step, fault).unwrap_or_else(|| crate::common_follow(fault));
            let large = matches!(expected, Expected::Fails(FailureKind::TooLarge, Reached::Yes));
            if !dialect.skips(step, fault) && !large {
                let seen = case(dialect.clone(), step, fault, 1).await;
                judge(step, seen, 1, Some(Status::Completed))?;
            }
        }
        Ok(())
    })
    .await;
}

/// A start whose answer is lost or cannot be used: what may have been taken is not started a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_taken_is_not_repeated() {
    rows(|dialect, fault| async move {
        if dialect.skips(Step::Submit, fault) || !fault.comes_of_work() {
            return Ok(());
        }
        let recognised =
            dialect.engine(crate::settings("http://127.0.0.1:1")).capabilities().idempotent_submit;
        let once = if recognised { Status::Completed } else { Status::Failed };
        judge(Step::Submit, case(dialect.clone(), Step::Submit, fault, 1).await, 1, Some(once))?;
        judge(Step::Submit, case(dialect.clone(), Step::Submit, fault, usize::MAX).await, 1, None)?;
        Ok(())
    })
    .await;
}
