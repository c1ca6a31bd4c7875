//! What moves an execution: every function here takes a row and says which row follows, or why none does.
//!
//! A [`Transition`] is guarded by the row's `rev`: a driver applies it only while that is still the row's last event,
//! so anyone who decided on an old row decides again. A worker's verbs also carry its fence, compared here.

use crate::event::{Event, EventData, EventType};
use crate::execution::{Execution, Fixed, Priority, Spec, State, Status};
use crate::failure::{Failure, FailureKind};
use crate::id::{Fence, Key, SessionId};
use crate::limits::{LOST_MAX, NODE_CRASHES_BACKOFF_FROM, NODE_CRASHES_MAX};
use crate::rank::HeadStarts;
use crate::reason::Reason;
use crate::retry::RetryPolicy;
use crate::time::{DAY, HOUR, Millis, SECOND, Time};
use std::sync::Arc;

/// The next state of one row, with the event that says so. Applied by compare-and-set on (key, rev).
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub key: Key,
    /// What the row was submitted with, so that a store need not read it to name the row's lane and to tell of the change.
    pub fixed: Arc<Fixed>,
    /// The `rev` the row must still have.
    pub rev: u32,
    /// The status the row had, which its `rev` implies; lets totals be kept without reading the row.
    pub from: Status,
    pub next: State,
    /// Its `seq` is `next.rev`.
    pub event: Event,
    /// Payloads written in the same transaction.
    pub parts: Vec<(Part, Arc<[u8]>)>,
}

impl Transition {
    fn new(from: &Execution, mut next: State, kind: EventType, mut data: EventData, now: Time) -> Transition {
        next.rev = from.state.rev + 1;
        data.callback = kind.is_terminal() && from.fixed.spec.callback;
        let event = Event { seq: next.rev, kind, at: now, attempt: next.attempt, data };
        Transition {
            key: from.key(),
            fixed: from.fixed.clone(),
            rev: from.state.rev,
            from: from.status(),
            next,
            event,
            parts: Vec::new(),
        }
    }

    /// The row as it is once this is applied.
    #[must_use]
    pub fn applied_to(&self, row: &Execution) -> Execution {
        let mut history = row.history.clone();
        history.push(self.event.clone());
        Execution { fixed: row.fixed.clone(), state: self.next.clone(), history }
    }
}

/// A sealed payload stored beside its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The request as it was sent.
    Input,
    /// The result.
    Output,
    Logs,
}

/// How an attempt ended, as its worker reports it.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptEnd {
    Succeeded {
        /// The workflow stopped to ask a human (an Agent Server interrupt).
        needs_input: bool,
        output_bytes: u64,
    },
    Failed {
        failure: Failure,
        retry_after: Option<Millis>,
        /// The request may have left and its end is not known.
        open_end: bool,
        /// A repeated submit of the same run is recognised: what became of a lost answer can be found out.
        recognised: bool,
        /// What a rule of the engine says of this very failure, above what its kind says.
        retry: Option<bool>,
        /// Whether it is retried where neither a rule nor the request says so; `None`: as its kind is.
        by_default: Option<bool>,
    },
    /// The run was stopped; `abandoned`: without the engine's word, so it may still be running.
    Cancelled { abandoned: bool },
    /// Let go: drain, stop, a lease that could not be renewed. Burns nothing.
    Interrupted { reason: Reason },
    /// Provably never reached the engine. Burns nothing; the next try waits a little longer each time.
    Refused { failure: Failure },
}

/// Why a decision changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the lease is no longer the current one")]
    StaleLease,
    #[error("the execution is already finished")]
    AlreadyFinished,
    #[error("the execution is already cancelled, or its cancellation is under way")]
    AlreadyCancelled,
    #[error("the execution is not pending")]
    NotPending,
    #[error("only a failed or cancelled execution can be redriven")]
    NotRedrivable,
    #[error("its time has not come")]
    NotDue,
    #[error("nothing would change")]
    NoChange,
}

/// A submit, resolved: names are known, limits are checked, times are absolute.
#[derive(Debug, Clone)]
pub struct NewExecution {
    pub fixed: Fixed,
    pub priority: Priority,
    pub ready_at: Option<Time>,
    pub by: Option<String>,
}

impl NewExecution {
    /// A submit with nothing special about it: what tests and measurements begin with.
    #[must_use]
    pub fn plain(key: i64) -> NewExecution {
        let spec = Spec {
            timeout: HOUR,
            total_timeout: 7 * DAY,
            expires_in: None,
            idle_timeout: None,
            retry: RetryPolicy::default(),
            at_most_once: false,
            fail_fast: false,
            inline: false,
            input_bytes: 0,
            callback: false,
            trace: None,
        };
        let fixed = Fixed {
            key: Key(key),
            ext_id: None,
            idem_key: None,
            request_hash: [key.to_le_bytes()[0]; 32],
            engine: "e".to_owned(),
            engine_type: "demo".to_owned(),
            workflow: "w".to_owned(),
            user: None,
            ckey: None,
            tags: Vec::new(),
            created_at: Time(0),
            spec,
        };
        NewExecution { fixed, priority: Priority::Normal, ready_at: None, by: None }
    }
}

/// The scheduler's choice for one pending execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub session: SessionId,
    pub worker: String,
    pub endpoint: u32,
}

/// What took the worker from under a running execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The worker died while its node lived.
    Worker,
    /// The whole node died.
    Node,
    /// Someone killed the worker: that says next to nothing of what ran on it, so it weighs as little as a node's death.
    Killed,
}

/// The row of a submit, as it is at the instant of its creation.
#[must_use]
pub fn submit(new: NewExecution, head_starts: &HeadStarts) -> Execution {
    let now = new.fixed.created_at;
    let ready_at = new.ready_at.unwrap_or(now).max(now);
    let state = State {
        rev: 1,
        generation: 1,
        status: Status::Pending,
        priority: new.priority,
        rank: head_starts.rank(new.priority, ready_at),
        due: ready_at <= now,
        retrying: false,
        wake_at: None,
        ready_at,
        clock_from: ready_at,
        started_at: None,
        run_started_at: None,
        ended_at: None,
        endpoint: None,
        worker: None,
        holder: None,
        fence: Fence(0),
        attempt: 0,
        reported: 0,
        lost: 0,
        node_crashes: 0,
        refused: 0,
        run: 1,
        engine_run: None,
        can_reattach: false,
        maybe_started: false,
        cancel_at: None,
        failure: None,
        needs_input: false,
        output_bytes: 0,
        abandoned: false,
    };
    let data =
        EventData { by: new.by, ready_at: (ready_at > now).then_some(ready_at), ..EventData::default() };
    let event = Event { seq: 1, kind: EventType::ExecutionSubmitted, at: now, attempt: 0, data };
    let mut row = Execution { fixed: Arc::new(new.fixed), state, history: vec![event] };
    row.state.wake_at = pending_wake(&row);
    row
}

/// Starts a pending execution: fence and attempt grow by one. A run the engine already has is taken up again.
pub fn grant(row: &Execution, grant: &Grant, now: Time) -> Result<Transition, Refused> {
    if row.status() != Status::Pending {
        return Err(Refused::NotPending);
    }
    if !row.state.due || now >= row.deadline() || row.expiry().is_some_and(|at| now >= at) {
        return Err(Refused::NotDue);
    }
    let reattach = can_reattach(row);
    let mut next = row.state.clone();
    next.status = Status::Running;
    next.due = false;
    next.wake_at = None;
    next.fence = Fence(row.state.fence.0 + 1);
    next.attempt += 1;
    next.started_at.get_or_insert(now);
    next.holder = Some(grant.session);
    next.worker = Some(grant.worker.clone());
    if !reattach {
        next.endpoint = Some(grant.endpoint);
        next.run_started_at = Some(now);
        next.engine_run = None;
        next.can_reattach = false;
    }
    let data = EventData {
        worker: next.worker.clone(),
        endpoint: next.endpoint,
        fence: Some(next.fence.0),
        engine_run: next.engine_run.clone(),
        reattach,
        ..EventData::default()
    };
    Ok(Transition::new(row, next, EventType::ExecutionStarted, data, now))
}

/// The engine's own run id is known; from here on a lost worker need not mean a second run.
pub fn attach(
    row: &Execution,
    fence: Fence,
    engine_run: String,
    can_reattach: bool,
    now: Time,
) -> Result<Transition, Refused> {
    check_lease(row, fence)?;
    if row.state.engine_run.as_deref() == Some(&engine_run) && row.state.can_reattach == can_reattach {
        return Err(Refused::NoChange);
    }
    let mut next = row.state.clone();
    next.engine_run = Some(engine_run);
    next.can_reattach = can_reattach;
    let data = EventData { engine_run: next.engine_run.clone(), ..EventData::default() };
    Ok(Transition::new(row, next, EventType::ExecutionAttached, data, now))
}

/// What follows from the end of an attempt; `jitter` in `[0, 1)` picks the back-off.
pub fn finish(
    row: &Execution,
    fence: Fence,
    outcome: AttemptEnd,
    head_starts: &HeadStarts,
    jitter: f64,
    now: Time,
) -> Result<Transition, Refused> {
    check_lease(row, fence)?;
    // A stored wish to cancel beats retries, lost leases and a late success alike.
    if row.state.cancel_at.is_some() {
        let cancelled = end(row, Status::Cancelled, None, now);
        return Ok(given_up(cancelled, leaves_open(row, &outcome)));
    }
    Ok(match outcome {
        AttemptEnd::Succeeded { needs_input, output_bytes } => {
            let mut done = end(row, Status::Completed, None, now);
            done.next.reported += 1;
            done.next.needs_input = needs_input;
            done.next.output_bytes = output_bytes;
            done
        }
        AttemptEnd::Cancelled { abandoned } => given_up(end(row, Status::Cancelled, None, now), abandoned),
        AttemptEnd::Interrupted { reason } => interrupt(row, reason, now),
        AttemptEnd::Refused { failure } if row.fixed.spec.retry.not_on.contains(&failure.kind) => {
            end(row, Status::Failed, Some(Failure { retryable: false, ..failure }), now)
        }
        AttemptEnd::Refused { failure } => wait_unburnt(row, failure, Reason::Refused, None, jitter, now),
        AttemptEnd::Failed { failure, retry_after, open_end, recognised, retry, by_default } => {
            let fate = if open_end { Fate::of(row, failure.kind) } else { Fate::Over };
            if fate == Fate::Known && failure.kind.is_out_of_reach() {
                wait_unburnt(row, failure, Reason::Unreachable, retry_after, jitter, now)
            } else if fate == Fate::Open
                && recognised
                && row.state.lost + 1 < LOST_MAX
                && !row.fixed.spec.at_most_once
            {
                // Nothing was reported: the next attempt asks what became of this one. A workflow that takes its engine
                // down each time is poison, so that is not done forever.
                let mut again = wait_unburnt(row, failure, Reason::AnswerLost, retry_after, jitter, now);
                again.next.lost += 1;
                again.next.maybe_started = true;
                again
            } else {
                let end = ReportedEnd { failure, retry_after, fate, open_end, retry, by_default };
                fail_or_retry(row, end, head_starts, jitter, now)
            }
        }
    })
}

/// The worker of a running execution is gone.
pub fn lose(row: &Execution, loss: Loss, jitter: f64, now: Time) -> Result<Transition, Refused> {
    if row.status() != Status::Running {
        return Err(Refused::StaleLease);
    }
    if row.state.cancel_at.is_some() {
        return Ok(given_up(end(row, Status::Cancelled, None, now), true));
    }
    let reattach = can_reattach(row);
    if row.fixed.spec.at_most_once && !reattach {
        return Ok(open_ended(row, now));
    }
    let mut next = waiting_again(row);
    let mut reason = Reason::WorkerLost;
    if loss == Loss::Node {
        reason = Reason::NodeDied;
    }
    if !reattach {
        match loss {
            Loss::Worker => next.lost += 1,
            Loss::Node | Loss::Killed => next.node_crashes += 1,
        }
        // `run` stays: to the engine this is the same run whose answer was lost, so its idempotency key still holds.
        next.engine_run = None;
        next.maybe_started = true;
        if next.lost >= LOST_MAX || next.node_crashes >= NODE_CRASHES_MAX {
            let (lost, node_crashes) = (next.lost, next.node_crashes);
            let mut dead = end(row, Status::Failed, Some(own_failure(row, FailureKind::Lost, "poison")), now);
            (dead.next.lost, dead.next.node_crashes) = (lost, node_crashes);
            return Ok(given_up(dead, true));
        }
        if loss != Loss::Worker && next.node_crashes >= NODE_CRASHES_BACKOFF_FROM {
            let crashes = next.node_crashes - NODE_CRASHES_BACKOFF_FROM + 1;
            let wait = row.fixed.spec.retry.backoff(crashes, jitter.max(0.5), None);
            next.due = false;
            next.ready_at = now.plus(wait);
        }
    }
    Ok(back_to_pending(row, next, EventType::ExecutionInterrupted, Some(reason), None, now))
}

/// Cancels pending work at once; for running work it stores the wish, which beats retry and lost lease.
pub fn cancel(row: &Execution, by: Option<String>, now: Time) -> Result<Transition, Refused> {
    match row.status() {
        Status::Completed | Status::Failed => Err(Refused::AlreadyFinished),
        Status::Cancelled => Err(Refused::AlreadyCancelled),
        Status::Running if row.state.cancel_at.is_some() => Err(Refused::AlreadyCancelled),
        Status::Running => {
            let mut next = row.state.clone();
            next.cancel_at = Some(now);
            let data = EventData { by, ..EventData::default() };
            Ok(Transition::new(row, next, EventType::ExecutionCancelRequested, data, now))
        }
        Status::Pending => {
            let mut done = given_up(end(row, Status::Cancelled, None, now), may_run(row));
            done.next.cancel_at = Some(now);
            done.event.data.by = by;
            Ok(done)
        }
    }
}

/// A timer looked at a pending row: it expires, runs out of its total time, or becomes due.
pub fn wake(row: &Execution, now: Time) -> Result<Transition, Refused> {
    if row.status() != Status::Pending {
        return Err(Refused::NotPending);
    }
    if now >= row.deadline() {
        let failure = own_failure(row, FailureKind::Timeout, "total_timeout");
        return Ok(given_up(end(row, Status::Failed, Some(failure), now), may_run(row)));
    }
    if row.expiry().is_some_and(|at| now >= at) {
        let failure = own_failure(row, FailureKind::Expired, "expired");
        return Ok(end(row, Status::Failed, Some(failure), now));
    }
    if row.state.due || now < row.state.ready_at {
        return Err(Refused::NotDue);
    }
    let mut next = row.state.clone();
    next.due = true;
    Ok(back_to_pending(row, next, EventType::ExecutionReady, None, None, now))
}

/// Every endpoint of its engine has its breaker open, and its caller asked not to wait for that. `message`: the sealed text that
/// says why they are open.
pub fn fail_fast(row: &Execution, message: Vec<u8>, now: Time) -> Result<Transition, Refused> {
    if row.status() != Status::Pending || !row.state.due {
        return Err(Refused::NotPending);
    }
    if !row.fixed.spec.fail_fast {
        return Err(Refused::NoChange);
    }
    let failure = own_failure(row, FailureKind::Unavailable, "breaker_open");
    let failure = Failure { message, retryable: true, ..failure };
    Ok(given_up(end(row, Status::Failed, Some(failure), now), may_run(row)))
}

/// Puts a failed or cancelled execution back: generation + 1, the retry budget starts over, fences and attempts go on.
pub fn redrive(
    row: &Execution,
    head_starts: &HeadStarts,
    by: Option<String>,
    now: Time,
) -> Result<Transition, Refused> {
    if !matches!(row.status(), Status::Failed | Status::Cancelled) {
        return Err(Refused::NotRedrivable);
    }
    let mut next = waiting_again(row);
    next.generation += 1;
    next.rank = head_starts.rank(next.priority, now);
    next.ready_at = now;
    next.clock_from = now;
    next.retrying = false;
    next.started_at = None;
    next.run_started_at = None;
    next.ended_at = None;
    (next.reported, next.lost, next.node_crashes, next.refused) = (0, 0, 0, 0);
    next.run += 1;
    next.engine_run = None;
    next.can_reattach = false;
    next.maybe_started = false;
    next.cancel_at = None;
    next.failure = None;
    next.abandoned = false;
    Ok(back_to_pending(row, next, EventType::ExecutionRedriven, None, by, now))
}

pub fn reprioritize(
    row: &Execution,
    priority: Priority,
    head_starts: &HeadStarts,
    by: Option<String>,
    now: Time,
) -> Result<Transition, Refused> {
    if row.status() != Status::Pending {
        return Err(Refused::NotPending);
    }
    if row.state.priority == priority {
        return Err(Refused::NoChange);
    }
    let mut next = row.state.clone();
    next.priority = priority;
    next.rank = head_starts.rank(priority, row.state.ready_at);
    Ok(back_to_pending(row, next, EventType::OperatorAction, Some(Reason::Priority), by, now))
}

/// Keeps the fact that a stale worker reported; changes nothing else.
#[must_use]
pub fn late_result(row: &Execution, fence: Fence, now: Time) -> Transition {
    let data = EventData { fence: Some(fence.0), ..EventData::default() };
    Transition::new(row, row.state.clone(), EventType::LateResult, data, now)
}

/// The lease proves itself: the row runs under exactly this fence.
pub fn check_lease(row: &Execution, fence: Fence) -> Result<(), Refused> {
    let current = row.status() == Status::Running && row.state.fence == fence;
    if current { Ok(()) } else { Err(Refused::StaleLease) }
}

fn can_reattach(row: &Execution) -> bool {
    row.state.can_reattach && row.state.engine_run.is_some()
}

/// Whether the engine may be running the execution although no attempt follows it.
fn may_run(row: &Execution) -> bool {
    row.state.pinned().is_some()
}

/// Whether a failure tells nothing of a run that an earlier attempt may have started: this one was to look for it, and did not
/// come to that.
fn is_unsettled(row: &Execution, kind: FailureKind) -> bool {
    let tells = matches!(kind, FailureKind::EngineError | FailureKind::Timeout);
    row.state.maybe_started && row.state.engine_run.is_none() && !tells
}

/// Whether the engine may go on with the run after an attempt that ended so.
fn leaves_open(row: &Execution, outcome: &AttemptEnd) -> bool {
    match outcome {
        AttemptEnd::Succeeded { .. } => false,
        AttemptEnd::Failed { failure, open_end, .. } => *open_end || is_unsettled(row, failure.kind),
        AttemptEnd::Cancelled { abandoned } => *abandoned,
        AttemptEnd::Interrupted { .. } => true,
        AttemptEnd::Refused { .. } => may_run(row),
    }
}

/// Says of an end whether it came without the engine's word that its run is over.
fn given_up(mut ended: Transition, abandoned: bool) -> Transition {
    ended.next.abandoned = abandoned;
    ended.event.data.abandoned = abandoned;
    ended
}

/// When a timer must look at a pending row: at its time if that is still to come, and at its limits.
fn pending_wake(row: &Execution) -> Option<Time> {
    let ready = (!row.state.due).then_some(row.state.ready_at);
    [ready, Some(row.deadline()), row.expiry()].into_iter().flatten().min()
}

/// The state of a row that no worker holds any more and that goes back to the queue at its old place.
fn waiting_again(row: &Execution) -> State {
    let mut next = row.state.clone();
    next.status = Status::Pending;
    next.due = true;
    next.holder = None;
    next.worker = None;
    next
}

fn back_to_pending(
    row: &Execution,
    next: State,
    kind: EventType,
    reason: Option<Reason>,
    by: Option<String>,
    now: Time,
) -> Transition {
    let waits_until = (!next.due).then_some(next.ready_at);
    let data = EventData { ready_at: waits_until, reason, by, ..EventData::default() };
    let mut transition = Transition::new(row, next, kind, data, now);
    let after = Execution { fixed: row.fixed.clone(), state: transition.next.clone(), history: Vec::new() };
    transition.next.wake_at = pending_wake(&after);
    transition
}

fn end(row: &Execution, status: Status, failure: Option<Failure>, now: Time) -> Transition {
    let kind = match status {
        Status::Completed => EventType::ExecutionCompleted,
        Status::Cancelled => EventType::ExecutionCancelled,
        _ => EventType::ExecutionFailed,
    };
    let mut next = row.state.clone();
    next.status = status;
    next.due = false;
    next.retrying = false;
    next.wake_at = None;
    next.holder = None;
    next.ended_at = Some(now);
    next.failure.clone_from(&failure);
    let data = EventData { failure, ..EventData::default() };
    Transition::new(row, next, kind, data, now)
}

fn interrupt(row: &Execution, reason: Reason, now: Time) -> Transition {
    let reattach = can_reattach(row);
    if row.fixed.spec.at_most_once && !reattach {
        return open_ended(row, now);
    }
    let mut next = waiting_again(row);
    next.maybe_started |= !reattach;
    back_to_pending(row, next, EventType::ExecutionInterrupted, Some(reason), None, now)
}

/// Back to the queue with nothing burnt, a little later each time in a row.
fn wait_unburnt(
    row: &Execution,
    failure: Failure,
    reason: Reason,
    retry_after: Option<Millis>,
    jitter: f64,
    now: Time,
) -> Transition {
    let mut next = waiting_again(row);
    next.refused += 1;
    next.due = false;
    // No breaker ends the wait for what other work holds, so its looks become rarer.
    let longest = if failure.kind == FailureKind::Conflict { 30 * SECOND } else { 10 * SECOND };
    let pace = RetryPolicy { delay: SECOND / 2, max_delay: longest, ..Default::default() };
    next.ready_at = now.plus(pace.backoff(next.refused, 0.5 + jitter / 2.0, retry_after));
    let mut again = back_to_pending(row, next, EventType::ExecutionRetrying, Some(reason), None, now);
    again.next.failure = Some(failure.clone());
    again.event.data.failure = Some(failure);
    again.event.data.retry_after = retry_after;
    again
}

fn open_ended(row: &Execution, now: Time) -> Transition {
    let failure = own_failure(row, FailureKind::UnknownOutcome, "at_most_once");
    given_up(end(row, Status::Failed, Some(failure), now), true)
}

/// What became of the engine's run when its attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It ended, it never began, or its time is up.
    Over,
    /// Its end is not known, and neither is the run.
    Open,
    /// Its end is not known, but the run is: it can be taken up again.
    Known,
}

impl Fate {
    /// Of an attempt that ended without the end of its run. Its time limit ends a run for good: taken up again it would be
    /// over its time at once, forever.
    fn of(row: &Execution, kind: FailureKind) -> Fate {
        match kind {
            FailureKind::Timeout if !row.fixed.spec.at_most_once => Fate::Over,
            FailureKind::Timeout => Fate::Open,
            _ if can_reattach(row) => Fate::Known,
            _ => Fate::Open,
        }
    }
}

struct ReportedEnd {
    failure: Failure,
    retry_after: Option<Millis>,
    fate: Fate,
    /// The engine did not say that its run is over.
    open_end: bool,
    retry: Option<bool>,
    by_default: Option<bool>,
}

fn fail_or_retry(
    row: &Execution,
    ReportedEnd { mut failure, retry_after, fate, open_end, retry: rule, by_default }: ReportedEnd,
    head_starts: &HeadStarts,
    jitter: f64,
    now: Time,
) -> Transition {
    let unsettled = is_unsettled(row, failure.kind);
    let fate = if unsettled && fate == Fate::Over { Fate::Open } else { fate };
    let retry = &row.fixed.spec.retry;
    let reported = row.state.reported + 1;
    failure.retryable = retry.retries_by(failure.kind, rule, by_default);
    failure.attempt = row.state.attempt;
    let again_at = now.plus(retry.backoff(reported, jitter, retry_after));
    let used_up = reported > retry.max_retries;
    if !failure.retryable || used_up || again_at >= row.deadline() {
        if fate != Fate::Over && row.fixed.spec.at_most_once {
            let mut ended = open_ended(row, now);
            ended.event.data.reason = Some(Reason::Attempt(failure.kind));
            return ended;
        }
        let mut dead = end(row, Status::Failed, Some(failure), now);
        dead.next.reported = reported;
        dead.event.data.retry_after = retry_after;
        return given_up(dead, open_end || unsettled);
    }
    let mut next = waiting_again(row);
    next.reported = reported;
    next.refused = 0;
    next.retrying = true;
    next.due = again_at <= now;
    next.ready_at = again_at;
    next.rank = head_starts.rank(next.priority, again_at);
    match fate {
        // The next attempt looks at the same run again.
        Fate::Known => {}
        // The answer was lost, not the run: to the engine the next try is the same run.
        Fate::Open => {
            next.maybe_started = true;
            (next.engine_run, next.can_reattach) = (None, false);
        }
        Fate::Over => {
            next.run += 1;
            next.maybe_started = false;
            (next.engine_run, next.can_reattach) = (None, false);
        }
    }
    next.failure = Some(failure.clone());
    let mut again = back_to_pending(row, next, EventType::ExecutionRetrying, None, None, now);
    again.event.data.failure = Some(failure);
    again.event.data.retry_after = retry_after;
    again
}

/// A failure the service itself declares; its code says all, so it needs no text.
fn own_failure(row: &Execution, kind: FailureKind, code: &str) -> Failure {
    Failure {
        kind,
        code: code.to_owned(),
        message: Vec::new(),
        retryable: false,
        attempt: row.state.attempt,
        engine_status: None,
    }
}
