//! The rules of one execution as a text table: verbs on the left, the row that must follow on the right.
//!
//! A table begins with `case NAME: OPTIONS`. Each line is `VERB ARGUMENTS @SECONDS => ROW`. Time starts at 0, jitter is 0.5,
//! retries are 3 with a delay of 10 s and factor 2. A row reads `status event aATTEMPT rREPORTED runN` and then what stands
//! out: `due`, `at=SECONDS` (ready then), `lost=N`, `crashes=N`, `gen=N`, `reattach`, `maybe`, `cancel`, `failure=KIND/CODE`,
//! `abandoned`.

use enginehouse_core::execution::{Execution, Priority, Status};
use enginehouse_core::failure::{Failure, FailureKind};
use enginehouse_core::id::{Fence, SessionId};
use enginehouse_core::lifecycle::{self, AttemptEnd, Grant, Loss, NewExecution, Refused, Transition};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::reason::Reason;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{DAY, SECOND, Time};

const TABLE: &str = "
case a plain run
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @1                           => running execution_started a1 r0 run1
  attach @1                          => running execution_attached a1 r0 run1 reattach
  ok @5                              => completed execution_completed a1 r1 run1 reattach

case a delay is kept
  submit readyAt=60 @0               => pending execution_submitted a0 r0 run1 at=60
  grant @1                           => refused: its time has not come
  wake @59                           => refused: its time has not come
  wake @60                           => pending execution_ready a0 r0 run1 due
  grant @60                          => running execution_started a1 r0 run1

case an engine out of service is retried with back-off until the retries are used up
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail unavailable @1                => pending execution_retrying a1 r1 run2 at=6 failure=unavailable/c
  wake @6                            => pending execution_ready a1 r1 run2 due failure=unavailable/c
  grant @6                           => running execution_started a2 r1 run2 failure=unavailable/c
  fail unavailable @7                => pending execution_retrying a2 r2 run3 at=17 failure=unavailable/c
  wake @17                           => pending execution_ready a2 r2 run3 due failure=unavailable/c
  grant @17                          => running execution_started a3 r2 run3 failure=unavailable/c
  fail unavailable @18               => pending execution_retrying a3 r3 run4 at=38 failure=unavailable/c
  wake @38                           => pending execution_ready a3 r3 run4 due failure=unavailable/c
  grant @38                          => running execution_started a4 r3 run4 failure=unavailable/c
  fail unavailable @39               => failed execution_failed a4 r4 run4 failure=unavailable/c

case a Retry-After is the least wait, and the jitter is added to it
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail rate_limited after=120 @1     => pending execution_retrying a1 r1 run2 at=126 failure=rate_limited/c

case no retry begins behind the deadline
  submit total=10 @0                 => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail unavailable @8                => failed execution_failed a1 r1 run1 failure=unavailable/c

case the workflow's own failure is final
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail engine_error @1               => failed execution_failed a1 r1 run1 failure=engine_error/c

case unless the request says otherwise
  submit on=engine_error @0          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail engine_error @1               => pending execution_retrying a1 r1 run2 at=6 failure=engine_error/c

case what never reached the engine burns nothing and waits a little longer each time
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  refuse @1                          => pending execution_retrying a1 r0 run1 at=1.375 failure=connection/c
  wake @2                            => pending execution_ready a1 r0 run1 due failure=connection/c
  grant @2                           => running execution_started a2 r0 run1 failure=connection/c
  refuse @3                          => pending execution_retrying a2 r0 run1 at=3.75 failure=connection/c

case what other work holds is looked at for as long as it takes, ever more rarely
  submit once total=600 @0           => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  refuse conflict @1                 => pending execution_retrying a1 r0 run1 at=1.375 failure=conflict/c
  wake @2                            => pending execution_ready a1 r0 run1 due failure=conflict/c
  grant @2                           => running execution_started a2 r0 run1 failure=conflict/c
  refuse conflict @2                 => pending execution_retrying a2 r0 run1 at=2.75 failure=conflict/c
  wake @3                            => pending execution_ready a2 r0 run1 due failure=conflict/c
  grant @3                           => running execution_started a3 r0 run1 failure=conflict/c
  refuse conflict @3                 => pending execution_retrying a3 r0 run1 at=4.5 failure=conflict/c
  wake @600                          => failed execution_failed a3 r0 run1 failure=timeout/total_timeout

case unless the request forbids that
  submit not=conflict @0             => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  refuse conflict @1                 => failed execution_failed a1 r0 run1 failure=conflict/c

case a lost answer repeats under the same engine run number
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail connection open @1            => pending execution_retrying a1 r1 run1 at=6 maybe failure=connection/c

case and burns nothing where the run can be taken up again
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail connection open @1            => pending execution_retrying a1 r0 run1 at=1.375 reattach failure=connection/c

case odd answers about a run that is known burn an attempt, and the next one looks at the same run
  submit retries=1 @0                => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail bad_response open @60         => pending execution_retrying a1 r1 run1 at=65 reattach failure=bad_response/c
  wake @65                           => pending execution_ready a1 r1 run1 due reattach failure=bad_response/c
  grant @65                          => running execution_started a2 r1 run1 reattach failure=bad_response/c
  fail bad_response open @130        => failed execution_failed a2 r2 run1 reattach failure=bad_response/c abandoned

case a key that is refused for a run that is known ends it
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail auth open @60                 => failed execution_failed a1 r1 run1 reattach failure=auth/c abandoned

case what the engine took is not repeated, whatever its kind says
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail bad_response taken @1         => failed execution_failed a1 r1 run1 failure=bad_response/c

case unless the request asks for it
  submit on=bad_response @0          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail bad_response taken @1         => pending execution_retrying a1 r1 run2 at=6 failure=bad_response/c

case or a rule of the configuration
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail bad_response taken rule=yes @1 => pending execution_retrying a1 r1 run2 at=6 failure=bad_response/c

case a time limit ends a run that the engine did not stop, too
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail timeout open @60              => failed execution_failed a1 r1 run1 reattach failure=timeout/c abandoned

case and what is retried after it is a run of its own
  submit on=timeout @0               => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail timeout open known @60        => pending execution_retrying a1 r1 run2 at=65 failure=timeout/c

case the death of its node gives it back at its place
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  die @1                             => pending execution_interrupted a1 r0 run1 due crashes=1 maybe
  grant @2                           => running execution_started a2 r0 run1 crashes=1 maybe

case and counts nothing where the run can be taken up again
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  die @1                             => pending execution_interrupted a1 r0 run1 due reattach
  lose @1                            => refused: the lease is no longer the current one

case three lost workers are poison
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  lose @1                            => pending execution_interrupted a1 r0 run1 due lost=1 maybe
  grant @1                           => running execution_started a2 r0 run1 lost=1 maybe
  lose @2                            => pending execution_interrupted a2 r0 run1 due lost=2 maybe
  grant @2                           => running execution_started a3 r0 run1 lost=2 maybe
  lose @3                            => failed execution_failed a3 r0 run1 lost=3 failure=lost/poison abandoned

case a worker that somebody killed weighs as little as a node's death, and from the third on it waits
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  killed @1                          => pending execution_interrupted a1 r0 run1 due crashes=1 maybe
  grant @1                           => running execution_started a2 r0 run1 crashes=1 maybe
  killed @2                          => pending execution_interrupted a2 r0 run1 due crashes=2 maybe
  grant @2                           => running execution_started a3 r0 run1 crashes=2 maybe
  killed @3                          => pending execution_interrupted a3 r0 run1 at=8 crashes=3 maybe

case a stopping node hands back and nothing is burnt
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  handback @1                        => pending execution_interrupted a1 r0 run1 due maybe

case an answer is lost to an engine that can be asked about it: nothing is burnt, but not for ever
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail connection open known @1      => pending execution_retrying a1 r0 run1 at=1.375 lost=1 maybe failure=connection/c
  wake @60                           => pending execution_ready a1 r0 run1 due lost=1 maybe failure=connection/c
  grant @60                          => running execution_started a2 r0 run1 lost=1 maybe failure=connection/c
  fail connection open known @60     => pending execution_retrying a2 r0 run1 at=60.75 lost=2 maybe failure=connection/c
  wake @120                          => pending execution_ready a2 r0 run1 due lost=2 maybe failure=connection/c
  grant @120                         => running execution_started a3 r0 run1 lost=2 maybe failure=connection/c
  fail connection open known @120    => pending execution_retrying a3 r1 run1 at=125 lost=2 maybe failure=connection/c

case and an engine that asked to be left alone is
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail rate_limited open known after=60 @1 => pending execution_retrying a1 r0 run1 at=61.375 lost=1 maybe failure=rate_limited/c

case at most once: a lost worker leaves the outcome open
  submit once @0                     => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  lose @1                            => failed execution_failed a1 r0 run1 failure=unknown_outcome/at_most_once abandoned

case at most once: but a run that can be taken up again is
  submit once @0                     => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  lose @1                            => pending execution_interrupted a1 r0 run1 due reattach

case at most once: so is one that never left
  submit once @0                     => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  refuse @1                          => pending execution_retrying a1 r0 run1 at=1.375 failure=connection/c

case at most once: a lost answer is an open end
  submit once @0                     => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail connection open @1            => failed execution_failed a1 r0 run1 failure=unknown_outcome/at_most_once abandoned

case an engine that is too busy to be asked about a run says nothing of it: the next attempt asks for the same one
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  lose @1                            => pending execution_interrupted a1 r0 run1 due lost=1 maybe
  grant @1                           => running execution_started a2 r0 run1 lost=1 maybe
  fail rate_limited @2               => pending execution_retrying a2 r1 run1 at=7 lost=1 maybe failure=rate_limited/c
  wake @7                            => pending execution_ready a2 r1 run1 due lost=1 maybe failure=rate_limited/c
  grant @7                           => running execution_started a3 r1 run1 lost=1 maybe failure=rate_limited/c
  fail unavailable @8                => pending execution_retrying a3 r2 run1 at=18 lost=1 maybe failure=unavailable/c
  wake @18                           => pending execution_ready a3 r2 run1 due lost=1 maybe failure=unavailable/c
  grant @18                          => running execution_started a4 r2 run1 lost=1 maybe failure=unavailable/c
  fail auth @19                      => failed execution_failed a4 r3 run1 lost=1 failure=auth/c abandoned

case one that says how it ended does
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  lose @1                            => pending execution_interrupted a1 r0 run1 due lost=1 maybe
  grant @1                           => running execution_started a2 r0 run1 lost=1 maybe
  fail engine_error @2               => failed execution_failed a2 r1 run1 lost=1 failure=engine_error/c

case a cancel that the engine confirmed is the end of its run
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  cancel @1                          => running execution_cancel_requested a1 r0 run1 reattach cancel
  stopped @2                         => cancelled execution_cancelled a1 r0 run1 reattach cancel

case one that it did not confirm says so
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  cancel @1                          => running execution_cancel_requested a1 r0 run1 cancel
  stopped open @2                    => cancelled execution_cancelled a1 r0 run1 cancel abandoned
  redrive @3                         => pending execution_redriven a1 r0 run2 due gen=2

case so does one whose engine could not be reached any more
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  cancel @1                          => running execution_cancel_requested a1 r0 run1 cancel
  fail connection open @2            => cancelled execution_cancelled a1 r0 run1 cancel abandoned

case so does one whose worker went
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  cancel @1                          => running execution_cancel_requested a1 r0 run1 cancel
  handback @2                        => cancelled execution_cancelled a1 r0 run1 cancel abandoned

case cancelling what waits to be taken up again leaves its run to be stopped
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  die @1                             => pending execution_interrupted a1 r0 run1 due reattach
  cancel @2                          => cancelled execution_cancelled a1 r0 run1 reattach cancel abandoned

case cancelling what reported an end is the end
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail unavailable @1                => pending execution_retrying a1 r1 run2 at=6 failure=unavailable/c
  cancel @2                          => cancelled execution_cancelled a1 r1 run2 cancel

case a time limit that the engine did not confirm says so
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail timeout open @2               => failed execution_failed a1 r1 run1 failure=timeout/c abandoned

case one that it confirmed does not
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  fail timeout @2                    => failed execution_failed a1 r1 run1 failure=timeout/c

case at most once: a run that is known is looked at, but not for ever
  submit once @0                     => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail unavailable open @40          => pending execution_retrying a1 r0 run1 at=40.375 reattach failure=unavailable/c
  wake @60                           => pending execution_ready a1 r0 run1 due reattach failure=unavailable/c
  grant @60                          => running execution_started a2 r0 run1 reattach failure=unavailable/c
  fail bad_response open @99         => failed execution_failed a2 r0 run1 reattach failure=unknown_outcome/at_most_once abandoned

case at most once: a time limit that the engine did not confirm leaves the outcome open
  submit once @0                     => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  attach @0                          => running execution_attached a1 r0 run1 reattach
  fail timeout open @60              => failed execution_failed a1 r0 run1 reattach failure=unknown_outcome/at_most_once abandoned

case cancelling what waits ends it
  submit @0                          => pending execution_submitted a0 r0 run1 due
  cancel @1                          => cancelled execution_cancelled a0 r0 run1 cancel
  cancel @2                          => refused: the execution is already cancelled, or its cancellation is under way

case a wish to cancel beats a retry
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  cancel @1                          => running execution_cancel_requested a1 r0 run1 cancel
  fail unavailable @2                => cancelled execution_cancelled a1 r0 run1 cancel

case and a lost lease
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  cancel @1                          => running execution_cancel_requested a1 r0 run1 cancel
  lose @2                            => cancelled execution_cancelled a1 r0 run1 cancel abandoned

case but not an end that came first
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  ok @1                              => completed execution_completed a1 r1 run1
  cancel @2                          => refused: the execution is already finished

case an old fence changes nothing
  submit @0                          => pending execution_submitted a0 r0 run1 due
  grant @0                           => running execution_started a1 r0 run1
  lose @1                            => pending execution_interrupted a1 r0 run1 due lost=1 maybe
  grant @1                           => running execution_started a2 r0 run1 lost=1 maybe
  ok fence=1 @2                      => refused: the lease is no longer the current one
  late fence=1 @2                    => running late_result a2 r0 run1 lost=1 maybe
  ok @3                              => completed execution_completed a2 r1 run1 lost=1 maybe

case what never starts in time expires
  submit expires=30 @0               => pending execution_submitted a0 r0 run1 due
  wake @29                           => refused: its time has not come
  grant @30                          => refused: its time has not come
  wake @30                           => failed execution_failed a0 r0 run1 failure=expired/expired

case expiry is over with the first start
  submit expires=30 @0               => pending execution_submitted a0 r0 run1 due
  grant @1                           => running execution_started a1 r0 run1
  fail unavailable @40               => pending execution_retrying a1 r1 run2 at=45 failure=unavailable/c
  wake @45                           => pending execution_ready a1 r1 run2 due failure=unavailable/c

case the total time ends what waits
  submit total=100 @0                => pending execution_submitted a0 r0 run1 due
  wake @100                          => failed execution_failed a0 r0 run1 failure=timeout/total_timeout

case a redrive begins a new generation with a new budget
  submit @0                          => pending execution_submitted a0 r0 run1 due
  redrive @0                         => refused: only a failed or cancelled execution can be redriven
  grant @0                           => running execution_started a1 r0 run1
  fail auth @1                       => failed execution_failed a1 r1 run1 failure=auth/c
  redrive @50                        => pending execution_redriven a1 r0 run2 due gen=2
  grant @50                          => running execution_started a2 r0 run2 gen=2

case a new priority moves only what waits
  submit @0                          => pending execution_submitted a0 r0 run1 due
  priority CRITICAL @1               => pending operator_action a0 r0 run1 due
  priority CRITICAL @1               => refused: nothing would change
  grant @2                           => running execution_started a1 r0 run1
  priority LOW @3                    => refused: the execution is not pending
";

fn seconds(text: &str) -> u64 {
    text.parse::<u64>().expect("whole seconds") * SECOND
}

fn submit(arguments: &[&str], now: Time) -> Execution {
    let option = |name: &str| arguments.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('='));
    let on = option("on").map(|kind| FailureKind::parse(kind).expect("a kind"));
    let once = arguments.contains(&"once");
    let mut new = NewExecution::plain(1);
    new.ready_at = option("readyAt").map(|at| Time(0).plus(seconds(at)));
    new.fixed.created_at = now;
    let spec = &mut new.fixed.spec;
    spec.total_timeout = option("total").map_or(7 * DAY, seconds);
    spec.expires_in = option("expires").map(seconds);
    spec.at_most_once = once;
    spec.retry = RetryPolicy {
        max_retries: if once { 0 } else { option("retries").map_or(3, |n| n.parse().expect("a number")) },
        delay: 10 * SECOND,
        on: on.into_iter().collect(),
        not_on: option("not").and_then(FailureKind::parse).into_iter().collect(),
        ..RetryPolicy::default()
    };
    lifecycle::submit(new, &HeadStarts::default())
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, code: "c".into(), message: Vec::new(), retryable: false, attempt: 0, engine_status: None }
}

fn act(row: &Execution, verb: &str, arguments: &[&str], now: Time) -> Result<Transition, Refused> {
    let option = |name: &str| arguments.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('='));
    let fence = option("fence").map_or(row.state.fence, |n| Fence(n.parse().expect("a number")));
    let heads = HeadStarts::default();
    let finish = |outcome| lifecycle::finish(row, fence, outcome, &heads, 0.5, now);
    match verb {
        "grant" => {
            let grant = Grant { session: SessionId(7), worker: "w1".into(), endpoint: 0 };
            lifecycle::grant(row, &grant, now)
        }
        "attach" => lifecycle::attach(row, fence, "run-1".into(), true, now),
        "ok" => finish(AttemptEnd::Succeeded { needs_input: false, output_bytes: 2 }),
        "fail" => finish(AttemptEnd::Failed {
            failure: failure(FailureKind::parse(arguments[0]).expect("a kind")),
            retry_after: option("after").map(seconds),
            retry: option("rule").map(|rule| rule == "yes"),
            open_end: arguments.contains(&"open"),
            recognised: arguments.contains(&"known"),
            by_default: arguments.contains(&"taken").then_some(false),
        }),
        "refuse" => {
            let kind = arguments.first().and_then(|word| FailureKind::parse(word));
            finish(AttemptEnd::Refused { failure: failure(kind.unwrap_or(FailureKind::Connection)) })
        }
        "stopped" => finish(AttemptEnd::Cancelled { abandoned: arguments.contains(&"open") }),
        "handback" => finish(AttemptEnd::Interrupted { reason: Reason::NodeStopped }),
        "lose" => lifecycle::lose(row, Loss::Worker, 0.5, now),
        "die" => lifecycle::lose(row, Loss::Node, 0.5, now),
        "killed" => lifecycle::lose(row, Loss::Killed, 0.5, now),
        "cancel" => lifecycle::cancel(row, None, now),
        "wake" => lifecycle::wake(row, now),
        "redrive" => lifecycle::redrive(row, &heads, None, now),
        "priority" => {
            let priority = Priority::parse(arguments[0]).expect("a priority");
            lifecycle::reprioritize(row, priority, &heads, None, now)
        }
        "late" => Ok(lifecycle::late_result(row, fence, now)),
        other => panic!("no verb {other}"),
    }
}

fn shown(row: &Execution) -> String {
    let s = &row.state;
    let event = row.history.last().expect("an event").kind.as_str();
    let mut text = format!("{} {event} a{} r{} run{}", s.status.as_str(), s.attempt, s.reported, s.run);
    let mut add = |part: String| text.push_str(&format!(" {part}"));
    if s.due {
        add("due".into());
    }
    if s.status == Status::Pending && !s.due {
        add(format!("at={}", s.ready_at.0 as f64 / SECOND as f64));
    }
    for (name, count) in [("lost", s.lost), ("crashes", s.node_crashes)] {
        if count > 0 {
            add(format!("{name}={count}"));
        }
    }
    if s.generation > 1 {
        add(format!("gen={}", s.generation));
    }
    if s.can_reattach {
        add("reattach".into());
    }
    if s.maybe_started && s.status != Status::Failed {
        add("maybe".into());
    }
    if s.cancel_at.is_some() {
        add("cancel".into());
    }
    if let Some(failure) = &s.failure {
        add(format!("failure={}/{}", failure.kind.as_str(), failure.code));
    }
    if s.abandoned {
        add("abandoned".into());
    }
    text
}

/// What every row must be, whatever led to it.
fn check(row: &Execution, name: &str) {
    let s = &row.state;
    assert_eq!(s.rev as usize, row.history.len(), "{name}: the rev is the number of its last event");
    assert_eq!(s.status == Status::Running, s.holder.is_some(), "{name}: who runs has a holder");
    assert_eq!(s.status == Status::Pending, s.wake_at.is_some(), "{name}: what waits has a timer");
    assert_eq!(s.status.is_terminal(), s.ended_at.is_some(), "{name}: what ended has a time");
}

#[test]
fn every_case_of_the_table_holds() {
    let mut row: Option<Execution> = None;
    let mut name = "";
    let (mut cases, mut wrong) = (0, Vec::new());
    for line in TABLE.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(title) = line.strip_prefix("case ") {
            (name, row) = (title, None);
            cases += 1;
            continue;
        }
        let (left, expected) = line.split_once("=>").expect("an arrow");
        let (call, at) = left.split_once('@').expect("a time");
        let now = Time(0).plus(seconds(at.trim()));
        let mut words = call.split_whitespace();
        let verb = words.next().expect("a verb");
        let arguments: Vec<&str> = words.collect();
        let found = match (verb, &row) {
            ("submit", _) => Ok(submit(&arguments, now)),
            (verb, Some(before)) => act(before, verb, &arguments, now).map(|t| t.applied_to(before)),
            (verb, None) => panic!("{name}: {verb} before submit"),
        };
        let text = match found {
            Ok(next) => {
                check(&next, name);
                let text = shown(&next);
                row = Some(next);
                text
            }
            Err(refused) => format!("refused: {refused}"),
        };
        if text != expected.trim() {
            wrong.push(format!(
                "{name}\n  {}\n  expected {}\n  found    {text}",
                left.trim(),
                expected.trim()
            ));
        }
    }
    assert!(cases > 20, "the table was read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
