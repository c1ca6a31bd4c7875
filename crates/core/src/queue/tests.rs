//! The queue by examples and under random histories.

use super::*;
use crate::breaker::{Forced, Sign};
use crate::gate::{GateRules, Shut};
use crate::limits::{READY_LANE_WINDOW, READY_REFILL};
use crate::pace::Rate;
use proptest::prelude::*;

fn lane(engine: &str, user: Option<&str>, ckey: Option<&str>) -> Lane {
    Lane { engine: engine.into(), user: user.map(Into::into), ckey: ckey.map(Into::into), retry: false }
}

fn entry(key: i64, rank: i64) -> Entry {
    Entry { key: Key(key), rank: Rank(rank), priority: Priority::Normal, pinned: None, fail_fast: false }
}

/// A queue with its gates: engine `e` with two endpoints of `limit` calls each, and one worker.
struct Queued {
    queue: Queue,
    gates: Gates,
}

impl std::ops::Deref for Queued {
    type Target = Queue;
    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl std::ops::DerefMut for Queued {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}

impl Queued {
    fn add_engine(&mut self, name: &str, limit: Option<u32>, endpoints: usize) {
        let rules = EngineRules {
            engine_type: "demo".into(),
            paused: false,
            endpoints: vec![EndpointRules { weight: 1.0 }; endpoints],
        };
        self.queue.set_engine(name, rules);
        let names = (0..endpoints).map(|at| at.to_string()).collect();
        let rules = GateRules { max_concurrency: limit, endpoints: names, ..GateRules::default() };
        self.gates.set(name, rules, Time(0));
    }

    fn pick(&mut self, now: Time) -> Option<Pick> {
        self.queue.pick(&mut self.gates, now)
    }
}

fn queue(limit: Option<u32>, endpoints: usize, capacity: u32) -> Queued {
    let mut queued = Queued { queue: Queue::new(1), gates: Gates::default() };
    queued.add_engine("e", limit, endpoints);
    queued.set_worker(SessionId(1), WorkerRules { capacity, engine_types: vec![], open: true });
    queued
}

fn picks(queue: &mut Queued) -> Vec<i64> {
    std::iter::from_fn(|| queue.pick(Time(0))).map(|p| p.key.0).collect()
}

#[test]
fn one_user_goes_by_rank_then_key() {
    let mut q = queue(None, 1, 10);
    for (key, rank) in [(1, 50), (2, 10), (3, 50), (4, -7)] {
        q.push(&lane("e", None, None), entry(key, rank));
    }
    assert_eq!(picks(&mut q), [4, 2, 1, 3]);
    assert_eq!(q.audit(), Vec::<String>::new());
}

#[test]
fn users_take_turns_whatever_their_backlog() {
    let mut q = queue(None, 1, 6);
    for key in 0..100 {
        q.push(&lane("e", Some("noisy"), None), entry(key, key));
    }
    for key in 100..103 {
        q.push(&lane("e", Some("quiet"), None), entry(key, key));
    }
    assert_eq!(picks(&mut q), [0, 100, 1, 101, 2, 102]);
}

#[test]
fn limits_hold_and_a_release_opens_them() {
    let mut q = queue(Some(2), 2, 10);
    for key in 0..6 {
        q.push(&lane("e", None, None), entry(key, key));
    }
    assert_eq!(picks(&mut q), [0, 1, 2, 3]);
    assert_eq!((q.occupancy().of_endpoint("e", 0), q.occupancy().of_endpoint("e", 1)), (2, 2));
    q.release(Key(1), Time(5), true);
    assert_eq!(picks(&mut q), [4]);
    q.abandon(Key(0), Time(100), Time(6));
    assert_eq!(picks(&mut q), Vec::<i64>::new(), "an abandoned call keeps its engine room");
    q.expire_ghosts(Time(100));
    assert_eq!(picks(&mut q), [5]);
}

#[test]
fn a_concurrency_key_runs_one_at_a_time_and_others_flow_past() {
    let mut q = queue(None, 1, 10);
    q.push(&lane("e", None, Some("k")), entry(1, 1));
    q.push(&lane("e", None, Some("k")), entry(2, 2));
    q.push(&lane("e", Some("other"), Some("k")), entry(3, 3));
    q.push(&lane("e", None, None), entry(4, 4));
    assert_eq!(picks(&mut q), [1, 4]);
    q.release(Key(1), Time(1), true);
    assert_eq!(picks(&mut q).len(), 1);
}

fn likely(q: &Queue, most: usize) -> Vec<i64> {
    q.likely_next(most).into_iter().map(|key| key.0).collect()
}

#[test]
fn what_is_likely_next_is_what_one_user_gets_next() {
    let mut q = queue(None, 1, 3);
    for (key, rank) in [(1, 50), (2, 10), (3, 50), (4, -7), (5, 90)] {
        q.push(&lane("e", None, None), entry(key, rank));
    }
    let guess = likely(&q, 3);
    assert_eq!(guess, picks(&mut q));
    assert_eq!(likely(&q, 10), [3, 5]);
    assert_eq!(likely(&q, 0), Vec::<i64>::new());
}

#[test]
fn what_is_likely_next_is_shared_between_engines_and_users_and_leaves_out_what_cannot_start() {
    let mut q = queue(None, 1, 1);
    for (engine, first) in [("e", 0), ("f", 100), ("paused", 200)] {
        q.add_engine(engine, None, 1);
        (first..first + 10).for_each(|key| q.push(&lane(engine, None, None), entry(key, key)));
    }
    (300..310).for_each(|key| q.push(&lane("e", Some("other"), None), entry(key, key)));
    (400..410).for_each(|key| q.push(&lane("e", Some("keyed"), Some("k")), entry(key, key)));
    q.lease(Key(900), lease_of("k"));
    let paused = EngineRules { paused: true, ..q.engine("paused").expect("set").clone() };
    q.set_engine("paused", paused);
    assert_eq!(likely(&q, 8), [0, 1, 300, 301, 100, 101, 102, 103]);
}

fn lease_of(ckey: &str) -> Lease {
    Lease {
        engine: "e".into(),
        endpoint: 0,
        ckey: Some(ckey.into()),
        user: None,
        worker: SessionId(1),
        since: Time(0),
        charged: 0,
        retry: false,
    }
}

#[test]
fn paused_engines_and_busy_or_unfit_workers_get_nothing() {
    let mut q = queue(None, 1, 1);
    q.push(&lane("e", None, None), entry(1, 1));
    let rules = q.engine("e").expect("set").clone();
    q.set_engine("e", EngineRules { paused: true, ..rules.clone() });
    assert_eq!(q.pick(Time(0)), None);
    q.set_engine("e", rules);
    q.set_worker(SessionId(1), WorkerRules { capacity: 1, engine_types: vec!["n8n".into()], open: true });
    assert_eq!(q.pick(Time(0)), None);
    q.set_worker(SessionId(1), WorkerRules { capacity: 1, engine_types: vec!["demo".into()], open: true });
    assert!(q.pick(Time(0)).is_some());
    q.push(&lane("e", None, None), entry(2, 2));
    assert_eq!(q.pick(Time(0)), None, "no slot is free");
}

#[test]
fn work_goes_to_the_fullest_worker_with_a_free_slot() {
    let mut q = queue(None, 1, 2);
    q.set_worker(SessionId(2), WorkerRules { capacity: 2, engine_types: vec![], open: true });
    for key in 0..4 {
        q.push(&lane("e", None, None), entry(key, key));
    }
    let workers: Vec<i64> = std::iter::from_fn(|| q.pick(Time(0))).map(|p| p.worker.0).collect();
    assert_eq!(workers, [1, 1, 2, 2]);
}

#[test]
fn a_row_to_reattach_goes_to_its_own_endpoint() {
    let mut q = queue(Some(5), 2, 10);
    q.push(&lane("e", None, None), Entry { pinned: Some(1), ..entry(1, 1) });
    assert_eq!(q.pick(Time(0)).map(|p| p.endpoint), Some(1));
}

#[test]
fn what_is_bound_to_a_closed_endpoint_stands_before_nothing() {
    let mut q = queue(Some(5), 2, 10);
    q.push(&lane("e", None, None), Entry { pinned: Some(1), ..entry(1, 1) });
    q.push(&lane("e", Some("u"), None), Entry { pinned: Some(1), ..entry(2, 2) });
    q.push(&lane("e", None, None), entry(3, 3));
    q.push(&lane("e", Some("u"), None), entry(4, 4));
    let shut = Forced { open: true, reason: "test".into(), by: None, since: Time(0), until: None };
    q.gates.force("e", Some(1), Some(&shut), Time(0));
    assert_eq!(picks(&mut q), [3, 4]);
    assert_eq!(q.shut(&q.gates, "e", Some(1), Time(0)), Some(Shut::Parked { until: None }));
    assert_eq!(q.shut(&q.gates, "e", None, Time(0)), None);
    q.gates.force("e", Some(1), None, Time(1));
    assert_eq!(picks(&mut q), [1], "one canary, though two are bound there");
}

#[test]
fn an_open_breaker_parks_its_engine_and_others_flow_past() {
    let mut q = queue(None, 1, 100);
    q.add_engine("f", None, 1);
    for key in 0..20 {
        q.push(&lane(if key < 10 { "e" } else { "f" }, None, None), entry(key, key));
    }
    let gate = q.gates.get_mut("e").expect("set");
    let rules = gate.rules().breaker;
    for _ in 0..rules.failure_threshold {
        gate.breaker_mut(0).expect("there").ended(&rules, Key(99), Sign::Unwell, Time(0));
    }
    assert_eq!(picks(&mut q), (10..20).collect::<Vec<_>>());
    let later = Time(0).plus(rules.reset_timeout);
    assert_eq!(q.pick(later), None, "time alone starts nothing; the tick does");
    q.gates.tick(later);
    assert_eq!(q.pick(later).map(|p| p.key.0), Some(0));
    assert_eq!(q.pick(later), None, "one canary");
}

#[test]
fn a_rate_limit_paces_starts_and_other_engines_do_not_notice() {
    let mut q = queue(None, 1, 1_000);
    q.add_engine("f", None, 1);
    let rate = Some(Rate { starts: 10, per: SECOND });
    let rules = GateRules { rate, endpoints: vec!["0".into()], ..GateRules::default() };
    q.gates.set("e", rules, Time(0));
    for key in 0..400 {
        q.push(&lane(if key % 2 == 0 { "e" } else { "f" }, None, None), entry(key, key));
    }
    let mut started = BTreeMap::new();
    for ms in 0..=3_000 {
        while let Some(pick) = q.pick(Time(ms)) {
            *started.entry(pick.key.0 % 2).or_insert(0) += 1;
        }
    }
    assert_eq!((started[&0], started[&1]), (30, 200));
}

#[test]
fn retries_over_their_budget_wait_and_first_attempts_go_past() {
    let mut q = queue(None, 1, 1_000);
    let retries = Lane { retry: true, ..lane("e", None, None) };
    for key in 0..100 {
        q.push(&retries, entry(key, key));
        q.push(&lane("e", None, None), entry(1_000 + key, 1_000 + key));
    }
    let picked = picks(&mut q);
    assert_eq!(picked.iter().filter(|k| **k < 1_000).count(), 60, "the floor of a minute");
    assert_eq!(picked.iter().filter(|k| **k >= 1_000).count(), 100);
    assert!(q.pick(Time(0).plus(61 * SECOND)).is_some(), "and later they go on");
}

#[test]
fn a_user_with_twice_the_weight_gets_twice_the_time() {
    let mut q = queue(None, 1, 30);
    q.set_weights(BTreeMap::from([("gold".to_owned(), 2.0)]));
    for key in 0..200 {
        q.push(&lane("e", Some(if key % 2 == 0 { "gold" } else { "tin" }), None), entry(key, key));
    }
    let gold = picks(&mut q).iter().filter(|k| *k % 2 == 0).count();
    assert_eq!(gold, 20);
}

#[test]
fn long_runs_are_paid_for_while_they_run() {
    let mut q = queue(None, 1, 4);
    for key in 0..4 {
        q.push(&lane("e", Some("long"), None), entry(key, key));
    }
    assert_eq!(picks(&mut q).len(), 4);
    for key in 4..8 {
        q.push(&lane("e", Some("long"), None), entry(key, key));
        q.push(&lane("e", Some("short"), None), entry(100 + key, 100 + key));
    }
    for second in 1..=60 {
        q.charge_running(Time(0).plus(second * SECOND));
    }
    assert_eq!(q.audit(), Vec::<String>::new());
    let mut order = Vec::new();
    for key in 0..4 {
        let now = Time(0).plus(61 * SECOND);
        q.release(Key(key), now, true);
        order.extend(q.pick(now).map(|p| p.key.0));
    }
    assert_eq!(order, [104, 105, 106, 107], "four minutes of slots are owed first");
}

#[test]
fn a_long_lane_is_read_in_windows_and_keeps_its_order() {
    let all = READY_LANE_WINDOW as i64 + 3_000;
    let mut q = queue(None, 1, 1);
    let l = lane("e", None, None);
    for key in 0..all {
        q.push(&l, entry(key, key));
    }
    assert_eq!(q.due_by_engine()["e"], all as u64);
    let mut seen = Vec::new();
    loop {
        while let Some((lane, after)) = q.wants_refill() {
            let from = after.map_or(0, |(_, key)| key.0 + 1);
            let rows: Vec<Entry> = (from..all.min(from + READY_REFILL as i64)).map(|k| entry(k, k)).collect();
            let more = rows.len() == READY_REFILL;
            q.refill(&lane, rows, more);
        }
        let Some(pick) = q.pick(Time(0)) else { break };
        q.release(pick.key, Time(0), true);
        seen.push(pick.key.0);
    }
    assert_eq!(seen, (0..all).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn counts_and_limits_hold_under_any_history(steps in prop::collection::vec((0u8..6, 0i64..40, 0i64..5, 0usize..3), 1..300)) {
        let mut q = queue(Some(2), 2, 4);
        q.add_engine("f", Some(2), 2);
        let users = [None, Some("a"), Some("b")];
        let mut at = 0;
        for (what, key, rank, user) in steps {
            at += 1;
            let l = lane(if key % 3 == 0 { "f" } else { "e" }, users[user], (key % 4 == 0).then_some("k"));
            match what {
                0..=2 => q.push(&l, entry(key, rank)),
                3 => q.remove(Key(key), &l),
                4 => q.release(Key(key), Time(at), true),
                _ => { q.pick(Time(at)); }
            }
            prop_assert_eq!(q.audit(), Vec::<String>::new());
            prop_assert!(q.occupancy().of_worker(SessionId(1)) <= 4);
            prop_assert!(q.occupancy().of_endpoint("e", 0) <= 2 && q.occupancy().of_endpoint("e", 1) <= 2);
            prop_assert!(q.occupancy().of_ckey("k") <= 1);
            let guess = q.likely_next(7);
            prop_assert!(guess.len() <= 7 && guess.iter().all(|key| q.holds(*key)));
            prop_assert_eq!(guess.iter().collect::<BTreeSet<_>>().len(), guess.len());
        }
    }

    #[test]
    fn no_user_gets_ahead_of_another_by_more_than_one_grant(backlog in prop::collection::vec(5usize..60, 2..6)) {
        let mut q = queue(None, 1, 1_000);
        let mut key = 0;
        for (user, rows) in backlog.iter().enumerate() {
            for _ in 0..*rows {
                q.push(&lane("e", Some(&format!("u{user}")), None), entry(key, key));
                key += 1;
            }
        }
        let rounds = backlog.iter().min().copied().unwrap_or(0);
        let mut served = vec![0usize; backlog.len()];
        let mut bounds = vec![0usize];
        for rows in &backlog { bounds.push(bounds[bounds.len() - 1] + rows); }
        for _ in 0..rounds * backlog.len() {
            let pick = q.pick(Time(0)).expect("all have work");
            let user = bounds.iter().rposition(|b| *b <= pick.key.0 as usize).expect("known");
            served[user] += 1;
            let (least, most) = (served.iter().min().expect("some"), served.iter().max().expect("some"));
            prop_assert!(most - least <= 1, "{:?}", served);
        }
    }
}
