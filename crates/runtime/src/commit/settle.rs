//! What follows from the outcome of each write: in the queue, in what this node remembers, and for the caller.

use super::ahead::ReadAhead;
use super::round::{Granted, Origin, Round};
use crate::state::context::Context;
use crate::state::planned::{Planned, Settled};
use crate::state::scheduler::{Scheduler, rules_of};
use enginehouse_core::execution::{Execution, State, Status};
use enginehouse_core::id::Key;
use enginehouse_core::time::Time;
use enginehouse_store::{Committed, New, SessionWrite, SubmitOutcome, Write, WriteOutcome};

impl Round {
    /// Takes in the outcomes, in the order of the writes, and answers the requests.
    pub(super) fn settle(self, committed: Committed, ahead: &mut ReadAhead) {
        let Round { cx, now, requests, origins } = self;
        let mut answers: Vec<Heard> =
            requests.iter().map(|request| Heard::of(request.writes.len())).collect();
        {
            let mut scheduler = cx.scheduling.scheduler.lock();
            for (origin, outcome) in origins.into_iter().zip(committed.outcomes) {
                match origin {
                    Origin::Grant(granted) => settle_grant(&cx, &mut scheduler, *granted, Some(outcome), now),
                    Origin::Asked { request, write, grants } => {
                        let planned = &requests[request].writes[write];
                        if let Planned::Transition { row, .. } = planned {
                            ahead.forget(row.key());
                        }
                        settle_asked(&cx, &mut scheduler, planned, &outcome, now);
                        for (item, granted) in grants {
                            let of_grant = of_item(&outcome, item);
                            if matches!(of_grant, Some(WriteOutcome::Applied)) {
                                let next = granted.transition.next.clone();
                                answers[request].started.push((granted.row.key(), next));
                            }
                            settle_grant(&cx, &mut scheduler, granted, of_grant, now);
                        }
                        answers[request].outcomes[write] = Some(outcome);
                    }
                }
            }
        }
        cx.writes.made(committed.cursor);
        for (request, answer) in requests.into_iter().zip(answers) {
            let outcomes = answer.outcomes.into_iter().flatten().collect();
            let _ = request.reply.send(Ok(Settled { at: committed.at, outcomes, started: answer.started }));
        }
    }
}

/// What a request hears.
struct Heard {
    /// By the places of its writes.
    outcomes: Vec<Option<WriteOutcome>>,
    /// What it submitted and what started in the same batch.
    started: Vec<(Key, State)>,
}

impl Heard {
    fn of(writes: usize) -> Heard {
        Heard { outcomes: (0..writes).map(|_| None).collect(), started: Vec::new() }
    }
}

fn settle_asked(
    cx: &Context,
    scheduler: &mut Scheduler,
    planned: &Planned,
    outcome: &WriteOutcome,
    now: Time,
) {
    match (planned, outcome) {
        (Planned::Submit(group), WriteOutcome::Submitted(items)) => {
            for (new, item) in group.iter().zip(items) {
                settle_submit(cx, scheduler, new, item, now);
            }
        }
        (Planned::Submit(group), _) => group.iter().for_each(|new| scheduler.forget(&new.row, now)),
        (Planned::Transition { row, transition, .. }, WriteOutcome::Applied) => {
            if row.status() == Status::Running {
                scheduler.observe(row, &transition.event, now);
            }
            scheduler.traffic.moved(row, &transition.next, transition.event.kind);
            cx.moved(row, transition);
        }
        (Planned::Transition { .. }, WriteOutcome::Stale(Some(truth))) => {
            cx.scheduling.rows.lock().remove(&truth.key());
            scheduler.resync(truth, now);
        }
        (Planned::Transition { .. }, WriteOutcome::WrongEpoch) => scheduler.elect(None),
        (Planned::Other(Write::Session(SessionWrite::Open(session))), WriteOutcome::Applied) => {
            scheduler.queue.set_worker(session.id, rules_of(session));
        }
        _ => {}
    }
}

fn settle_submit(cx: &Context, scheduler: &mut Scheduler, new: &New, outcome: &SubmitOutcome, now: Time) {
    match outcome {
        SubmitOutcome::Stored { .. } => {
            cx.submitted(&new.row);
            if new.row.state.due {
                scheduler.traffic.arrived(&new.row.fixed.engine, new.row.state.priority);
            }
        }
        SubmitOutcome::Existing(_) => scheduler.forget(&new.row, now),
    }
}

fn settle_grant(
    cx: &Context,
    scheduler: &mut Scheduler,
    granted: Granted,
    outcome: Option<WriteOutcome>,
    now: Time,
) {
    match outcome {
        Some(WriteOutcome::Applied) => {
            cx.moved(&granted.row, &granted.transition);
            let row = granted.transition.applied_to(&granted.row);
            let row = Execution { history: Vec::new(), ..row };
            if scheduler.queue.occupancy().lease(row.key()).is_none() {
                scheduler.resync(&row, now);
            }
            cx.deliver(granted.session, row, granted.request);
        }
        Some(WriteOutcome::Stale(Some(truth))) => {
            scheduler.unpick(granted.row.key(), now);
            scheduler.resync(&truth, now);
        }
        Some(WriteOutcome::WrongEpoch) => {
            scheduler.unpick(granted.row.key(), now);
            scheduler.elect(None);
        }
        Some(WriteOutcome::Held) => {
            scheduler.unpick(granted.row.key(), now);
            scheduler.resync(&granted.row, now);
            cx.scheduling.grant_nudge.notify_one();
        }
        // A replayed or refused submit was forgotten with its write.
        _ => scheduler.unpick(granted.row.key(), now),
    }
}

/// What became of the grant of one row of a submit; `None`: the row was not stored by it.
fn of_item(submit: &WriteOutcome, item: usize) -> Option<WriteOutcome> {
    let WriteOutcome::Submitted(items) = submit else { return None };
    match items.get(item)? {
        SubmitOutcome::Stored { granted: true } => Some(WriteOutcome::Applied),
        SubmitOutcome::Stored { granted: false } => Some(WriteOutcome::Held),
        SubmitOutcome::Existing(_) => None,
    }
}
