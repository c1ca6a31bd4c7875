//! What waits for the committer: writes with what they were decided on, and how their outcomes reach the caller.

use enginehouse_core::execution::{Execution, State};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Transition;
use enginehouse_core::time::Time;
use enginehouse_store::{New, StoreError, SubmitOutcome, Write, WriteOutcome};
use tokio::sync::oneshot;

/// One write with the row it was decided on, so that the queue can follow it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "most are changes, and each is moved once")]
pub(crate) enum Planned {
    Submit(Vec<New>),
    Transition {
        row: Execution,
        transition: Transition,
        /// Only the scheduler may make it.
        scheduled: bool,
    },
    Other(Write),
}

/// What waits for the committer.
pub(crate) struct Request {
    pub(crate) writes: Vec<Planned>,
    pub(crate) bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Settled, StoreError>>,
}

impl Request {
    /// What must never happen; see [`Bug::AnsweredUnstored`](enginehouse_core::planted::Bug::AnsweredUnstored).
    pub(crate) fn answer_as_if_stored(self, at: Time) {
        let stored = |planned: &Planned| match planned {
            Planned::Submit(group) => WriteOutcome::Submitted(
                group.iter().map(|_| SubmitOutcome::Stored { granted: false }).collect(),
            ),
            _ => WriteOutcome::Applied,
        };
        let outcomes = self.writes.iter().map(stored).collect();
        let _ = self.reply.send(Ok(Settled { at, outcomes, started: Vec::new() }));
    }
}

/// What became of a request's writes, one outcome each.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) at: Time,
    pub(crate) outcomes: Vec<WriteOutcome>,
    /// What it submitted and what started in the same commit, as it is since then.
    pub(crate) started: Vec<(Key, State)>,
}
