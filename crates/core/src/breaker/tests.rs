//! The breaker by text tables and under random histories.

use super::*;
use proptest::prelude::*;

fn rules() -> BreakerRules {
    BreakerRules { failure_threshold: 3, ..BreakerRules::default() }
}

/// Plays a script of `second verb` steps and tells the state after each: what an operator would see.
fn play(script: &str) -> String {
    let rules = rules();
    let mut breaker = Breaker::default();
    let mut told = String::new();
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        let now = Time(words.next().expect("a second").parse::<i64>().expect("a number") * 1_000);
        let verb = words.next().expect("a verb");
        let key = Key(words.next().map_or(0, |k| k.parse().expect("a key")));
        let change = match verb {
            "ok" => breaker.ended(&rules, key, Sign::Answered, now),
            "bad" => breaker.ended(&rules, key, Sign::Unwell, now),
            "gone" => breaker.ended(&rules, key, Sign::Nothing, now),
            "took" => breaker.accepted(key, now),
            "well" => breaker.checked(&rules, Some(true), now),
            "ill" => breaker.checked(&rules, Some(false), now),
            "unasked" => breaker.checked(&rules, None, now),
            "tick" => breaker.tick(&rules, now),
            "try" => {
                let may = breaker.may_start(now);
                if may {
                    breaker.started(key);
                }
                told.push_str(if may { "starts " } else { "waits " });
                None
            }
            other => panic!("no such verb: {other}"),
        };
        let state = match breaker.state() {
            State::Closed { release: None } => "closed".to_owned(),
            State::Closed { release: Some(r) } => format!("releasing {}/{}", r.started, r.size),
            State::Open { until } => format!("open until {}", until.0 / 1_000),
            State::HalfOpen { canary, .. } => format!("half_open {:?}", canary.map(|k| k.0)),
        };
        told.push_str(&format!("{line} -> {state}{}\n", change.map_or(String::new(), |_| " !".to_owned())));
    }
    told
}

fn table(script_and_states: &str) {
    let script: Vec<&str> =
        script_and_states.lines().filter_map(|l| l.split("->").next()).map(str::trim).collect();
    let expected: String = script_and_states
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(|l| format!("{}\n", l.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    let script: Vec<String> = script
        .iter()
        .map(|l| l.trim_start_matches("starts ").trim_start_matches("waits ").to_owned())
        .collect();
    let told: String = play(&script.join("\n"))
        .lines()
        .map(|l| format!("{}\n", l.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn it_opens_on_enough_failures_that_are_half_of_all() {
    table(
        "0 ok 1        -> closed
         0 ok 2        -> closed
         0 bad 3       -> closed
         1 bad 4       -> closed
         2 gone 5      -> closed
         2 ok 6        -> closed
         3 ok 7        -> closed
         3 bad 8       -> closed
         3 bad 9       -> open until 33 !
         waits 4 try 9 -> open until 33",
    );
}

#[test]
fn a_busy_engine_that_dies_is_noticed_before_half_of_its_calls_failed() {
    let rules = rules();
    let mut breaker = Breaker::default();
    for key in 0..500 {
        breaker.ended(&rules, Key(key), Sign::Answered, Time(key));
    }
    let opened = (1..100).find(|n| breaker.ended(&rules, Key(*n), Sign::Unwell, Time(1_000)).is_some());
    assert_eq!(opened, Some(6), "twice the threshold in a row");
}

#[test]
fn failures_out_of_the_period_do_not_count() {
    table(
        "0 bad 1   -> closed
         1 bad 2   -> closed
         90 bad 3  -> closed
         91 bad 4  -> closed
         92 bad 5  -> open until 122 !",
    );
}

#[test]
fn one_canary_then_growing_groups() {
    table(
        "0 ill           -> closed
         1 ill           -> closed
         2 ill           -> open until 32 !
         31 tick         -> open until 32
         40 ill          -> open until 32
         42 tick         -> half_open None !
         starts 43 try 1 -> half_open Some(1)
         waits 43 try 2  -> half_open Some(1)
         43 ok 7         -> half_open Some(1)
         44 ok 1         -> releasing 0/2 !
         starts 44 try 2 -> releasing 1/2
         starts 44 try 3 -> releasing 2/2
         waits 44 try 4  -> releasing 2/2
         45 ok 2         -> releasing 2/2
         45 took 3       -> releasing 2/2
         45 tick         -> releasing 0/4
         starts 45 try 4 -> releasing 1/4
         46 tick         -> releasing 1/4
         50 tick         -> releasing 0/8
         55 tick         -> releasing 0/16
         60 tick         -> releasing 0/32
         65 tick         -> releasing 0/64
         70 tick         -> releasing 0/128
         75 tick         -> closed !",
    );
}

#[test]
fn a_health_check_that_work_disproves_counts_for_nothing_until_it_is_well() {
    table(
        "0 ill           -> closed
         1 ill           -> closed
         2 ill           -> open until 32 !
         32 tick         -> half_open None !
         starts 33 try 1 -> half_open Some(1)
         34 took 1       -> releasing 0/2 !
         35 ill          -> releasing 0/2
         36 ill          -> releasing 0/2
         39 tick         -> releasing 0/4
         40 well         -> releasing 0/4
         41 ill          -> open until 101 !",
    );
}

#[test]
fn an_endpoint_that_cannot_be_asked_is_judged_by_its_work() {
    table(
        "0 unasked -> closed
         1 unasked -> closed
         2 unasked -> closed
         3 bad 1   -> closed
         3 bad 2   -> closed
         4 unasked -> closed
         4 bad 3   -> open until 34 !",
    );
}

#[test]
fn a_failed_canary_opens_it_for_longer_up_to_the_ceiling() {
    let rules = rules();
    let mut breaker = Breaker::default();
    let mut now = Time(0);
    for _ in 0..3 {
        breaker.ended(&rules, Key(1), Sign::Unwell, now);
    }
    let mut waits = Vec::new();
    for _ in 0..8 {
        let until = breaker.next_probe().expect("open");
        waits.push(until.since(now) / SECOND);
        now = until;
        assert_eq!(breaker.tick(&rules, now), Some(BreakerChange::HalfOpened));
        breaker.started(Key(2));
        assert!(matches!(
            breaker.ended(&rules, Key(2), Sign::Unwell, now),
            Some(BreakerChange::Opened { .. })
        ));
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600, 600]);
}

#[test]
fn a_canary_that_ends_neither_way_makes_room_for_another() {
    table(
        "0 bad 1         -> closed
         0 bad 1         -> closed
         0 bad 1         -> open until 30 !
         30 tick         -> half_open None !
         starts 30 try 2 -> half_open Some(2)
         31 gone 2       -> half_open None
         starts 31 try 3 -> half_open Some(3)
         40 tick         -> half_open Some(3)
         60 tick         -> releasing 0/2 !",
    );
}

#[test]
fn a_relapse_during_the_release_opens_it_again() {
    table(
        "0 bad 1         -> closed
         0 bad 1         -> closed
         0 bad 1         -> open until 30 !
         30 tick         -> half_open None !
         starts 30 try 2 -> half_open Some(2)
         31 took 2       -> releasing 0/2 !
         starts 31 try 3 -> releasing 1/2
         starts 31 try 4 -> releasing 2/2
         32 bad 3        -> releasing 2/2
         32 bad 4        -> open until 92 !",
    );
}

#[test]
fn an_operators_word_stands_above_what_is_measured() {
    let rules = rules();
    let mut breaker = Breaker::default();
    let word = |open, until| Forced { open, reason: "deploy".into(), by: None, since: Time(0), until };
    breaker.force(Some(word(true, Some(Time(5_000)))), Time(0));
    assert!(!breaker.may_start(Time(4_999)));
    assert_eq!((breaker.word(), breaker.next_probe()), ("open", Some(Time(5_000))));
    assert_eq!(breaker.tick(&rules, Time(5_000)), Some(BreakerChange::Forced { open: None }));
    assert_eq!(breaker.word(), "half_open", "nobody knows how the engine is now");
    breaker.force(Some(word(false, None)), Time(6_000));
    for _ in 0..10 {
        breaker.ended(&rules, Key(1), Sign::Unwell, Time(7_000));
    }
    assert!(breaker.may_start(Time(7_000)), "forced closed it starts work whatever fails");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    End(i64, u8),
    Check(Option<bool>),
    Try(i64),
    Accept(i64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0i64..20, 0u8..3).prop_map(|(k, s)| Step::End(k, s)),
        any::<Option<bool>>().prop_map(Step::Check),
        (0i64..20).prop_map(Step::Try),
        (0i64..20).prop_map(Step::Accept),
        (0u64..40_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn open_starts_nothing_half_open_one_and_time_alone_leads_out(steps in prop::collection::vec(step(), 1..300)) {
        let rules = rules();
        let mut breaker = Breaker::default();
        let mut now = Time(1_000_000);
        for step in steps {
            match step {
                Step::End(key, sign) => {
                    let sign = [Sign::Answered, Sign::Unwell, Sign::Nothing][usize::from(sign)];
                    breaker.ended(&rules, Key(key), sign, now);
                }
                Step::Check(healthy) => drop(breaker.checked(&rules, healthy, now)),
                Step::Accept(key) => drop(breaker.accepted(Key(key), now)),
                Step::Wait(span) => {
                    now = now.plus(span);
                    breaker.tick(&rules, now);
                }
                Step::Try(key) => {
                    if breaker.may_start(now) {
                        prop_assert!(!matches!(breaker.state(), State::Open { .. }), "open starts nothing");
                        breaker.started(Key(key));
                        if matches!(breaker.state(), State::HalfOpen { .. }) {
                            prop_assert!(!breaker.may_start(now), "one canary");
                        }
                    }
                }
            }
            let text = serde_json::to_string(&breaker).expect("it is stored");
            prop_assert_eq!(&serde_json::from_str::<Breaker>(&text).expect("and read"), &breaker);
        }
        // Nothing more is heard of any call, and its health check fails forever: it lets a call through within a bounded time.
        let bound = now.plus(rules.reset_timeout_max + 2 * rules.reset_timeout);
        while now < bound && !breaker.may_start(now) {
            now = now.plus(SECOND);
            breaker.checked(&rules, Some(false), now);
            breaker.tick(&rules, now);
        }
        prop_assert!(breaker.may_start(now), "stuck in {:?}", breaker);
    }
}
