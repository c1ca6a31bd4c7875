//! What each kind of end says to an engine's gate.

use super::*;
use crate::event::EventData;
use crate::time::SECOND;

fn gate(endpoints: &[&str]) -> Gate {
    let names = endpoints.iter().map(|name| (*name).to_owned()).collect();
    let breaker = BreakerRules { failure_threshold: 1, ..BreakerRules::default() };
    let rules = GateRules {
        breaker,
        adaptive: true,
        max_concurrency: Some(40),
        endpoints: names,
        ..GateRules::default()
    };
    Gate::new(rules, Time(0))
}

fn ended(kind: EventType, failure: Option<FailureKind>, reason: Option<&str>, status: Option<i32>) -> Event {
    let failure = failure.map(|kind| Failure {
        kind,
        code: "c".into(),
        message: Vec::new(),
        retryable: true,
        attempt: 1,
        engine_status: status,
    });
    let data = EventData {
        failure,
        reason: reason.map(|word| Reason::from(word.to_owned())),
        ..EventData::default()
    };
    Event { seq: 3, kind, at: Time(0), attempt: 1, data }
}

#[test]
fn only_an_unwell_engine_opens_its_breaker() {
    use EventType::{ExecutionCompleted, ExecutionFailed, ExecutionInterrupted, ExecutionRetrying};
    let rows = [
        // event, kind, reason, opens
        (ExecutionCompleted, None, None, false),
        (ExecutionRetrying, Some(FailureKind::Connection), None, true),
        (ExecutionRetrying, Some(FailureKind::Connection), Some("refused"), true),
        (ExecutionRetrying, Some(FailureKind::Connection), Some("unreachable"), true),
        (ExecutionFailed, Some(FailureKind::Unavailable), None, true),
        (ExecutionFailed, Some(FailureKind::EngineError), None, false),
        (ExecutionFailed, Some(FailureKind::Timeout), None, false),
        (ExecutionFailed, Some(FailureKind::BadResponse), None, false),
        (ExecutionFailed, Some(FailureKind::Auth), None, false),
        (ExecutionRetrying, Some(FailureKind::RateLimited), None, false),
        (ExecutionRetrying, Some(FailureKind::Conflict), Some("refused"), false),
        (ExecutionFailed, Some(FailureKind::UnknownOutcome), Some("connection"), true),
        (ExecutionFailed, Some(FailureKind::UnknownOutcome), None, false),
        (ExecutionFailed, Some(FailureKind::Lost), None, false),
        (ExecutionInterrupted, None, Some("node_stopped"), false),
    ];
    for (event, kind, reason, opens) in rows {
        let mut gate = gate(&["a"]);
        gate.started(0, Key(1), false, Time(0));
        let change = gate.observe(0, Key(1), &ended(event, kind, reason, None), false, Time(1));
        assert_eq!(
            matches!(change, Some(BreakerChange::Opened { .. })),
            opens,
            "{event:?} {kind:?} {reason:?}"
        );
    }
}

#[test]
fn an_engine_that_asks_for_patience_is_left_alone_for_all_its_work() {
    let mut gate = gate(&["a", "b"]);
    for key in 0..20 {
        gate.started(0, Key(key), false, Time(0));
    }
    let mut event = ended(EventType::ExecutionRetrying, Some(FailureKind::RateLimited), None, Some(429));
    event.data.retry_after = Some(20 * SECOND);
    gate.observe(0, Key(1), &event, false, Time(5_000));
    assert_eq!(gate.shut(0, 0, Time(6_000)), Some(Shut::Frozen { until: Time(25_000) }));
    assert_eq!(gate.shut(1, 0, Time(6_000)), None, "the other endpoint did not ask");
    assert_eq!(gate.shut(0, 9, Time(25_000)), None);
    assert_eq!(gate.shut(0, 10, Time(25_000)), Some(Shut::Full), "and it gets half of what was too much");
    assert_eq!((gate.limit(0), gate.limit(1)), (Some(10), Some(40)));
    event.data.retry_after = Some(u64::MAX);
    gate.observe(1, Key(99), &event, false, Time(0));
    assert_eq!(gate.shut(1, 0, Time(1)), Some(Shut::Frozen { until: Time(0).plus(ENGINE_FREEZE_MAX) }));
}

#[test]
fn a_refusal_does_not_make_an_endpoint_look_fast() {
    let mut gate = gate(&["a"]);
    let mut ends = |key: i64, event: &Event, at: Time| {
        gate.started(0, Key(key), false, at);
        gate.observe(
            0,
            Key(key),
            event,
            false,
            at.plus(if event.kind == EventType::ExecutionCompleted { 1_000 } else { 5 }),
        );
        gate.balancer.run_ms(0)
    };
    let ran = ends(1, &ended(EventType::ExecutionCompleted, None, None, None), Time(0));
    let refused = ended(EventType::ExecutionRetrying, Some(FailureKind::RateLimited), None, Some(429));
    assert!(ran.is_some_and(|ms| (990.0..1_010.0).contains(&ms)), "{ran:?}");
    assert_eq!(ends(2, &refused, Time(2_000)), ran);
}

/// What an answer does to the pace of its endpoint, of which 20 calls are under way: `STATUS KIND RETRY-AFTER => ` until
/// when nothing starts there (in milliseconds after the answer), and the calls at once from then on.
const PATIENCE: &str = "
  429 rate_limited  none     => 1000    10
  429 rate_limited  20 s     => 20000   10
  408 rate_limited  none     => 1000    10
  409 conflict      none     => -       40
  422 conflict      7 s      => -       40
  503 unavailable   none     => -       10
  503 unavailable   20 s     => 20000   10
  503 unavailable   0 s      => -       10
  503 unavailable   86400 s  => 300000  10
  502 unavailable   none     => -       40
  504 unavailable   7 s      => 7000    40
  500 bad_response  7 s      => -       40
  500 engine_error  7 s      => -       40
";

#[test]
fn what_an_answer_says_of_the_pace() {
    for row in PATIENCE.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (answer, expected) = row.split_once("=>").expect("an arrow");
        let words: Vec<&str> = answer.split_whitespace().collect();
        let kind = FailureKind::parse(words[1]).expect("a kind");
        let mut event =
            ended(EventType::ExecutionRetrying, Some(kind), None, Some(words[0].parse().expect("a status")));
        event.data.retry_after = words[2].parse::<u64>().ok().map(|seconds| seconds * SECOND);
        let mut rules = gate(&["a", "b"]).rules;
        rules.breaker.failure_threshold = 100;
        let mut gate = Gate::new(rules, Time(0));
        (0..20).for_each(|key| gate.started(0, Key(key), false, Time(0)));
        gate.observe(0, Key(0), &event, false, Time(5_000));
        let frozen = match gate.shut(0, 0, Time(5_000)) {
            Some(Shut::Frozen { until }) => until.since(Time(5_000)).to_string(),
            None => "-".to_owned(),
            other => panic!("{row}: {other:?}"),
        };
        let limit = gate.limit(0).expect("a limit is configured");
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert_eq!([frozen, limit.to_string()], *expected, "{row}");
        assert_eq!(
            (gate.shut(1, 0, Time(5_000)), gate.limit(1)),
            (None, Some(40)),
            "{row}: the other endpoint"
        );
    }
}

#[test]
fn what_is_stored_is_found_again_by_the_endpoint_s_name() {
    let mut gates = Gates::default();
    gates.set("e", gate(&["a", "b"]).rules, Time(0));
    let forced = Forced { open: true, reason: "r".into(), by: None, since: Time(0), until: None };
    gates.force("e", Some(1), Some(&forced), Time(0));
    let text = serde_json::to_string(&gates.docs()["e"]).expect("it is stored");
    let mut later = Gates::default();
    later.set("e", gate(&["b", "c"]).rules, Time(9));
    later.restore("e", serde_json::from_str(&text).expect("and read"));
    let parked = |at| matches!(later.get("e").expect("set").shut(at, 0, Time(9)), Some(Shut::Parked { .. }));
    assert_eq!((parked(0), parked(1)), (true, false));
    later.set("e", gate(&["c", "b"]).rules, Time(10));
    assert!(later.get("e").expect("set").shut(1, 0, Time(10)).is_some(), "also when the order changes");
}

#[test]
fn a_refused_retry_gives_its_part_of_the_budget_back() {
    let mut gate = gate(&["a"]);
    let before = gate.retries_left(Time(0)).0;
    gate.started(0, Key(1), true, Time(0));
    assert!(gate.retries_left(Time(0)).0 < before);
    let refused = ended(EventType::ExecutionRetrying, Some(FailureKind::Connection), Some("refused"), None);
    gate.observe(0, Key(1), &refused, true, Time(1));
    assert_eq!(gate.retries_left(Time(1)).0, before);
}
