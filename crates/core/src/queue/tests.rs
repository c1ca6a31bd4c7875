//! The queue by examples and under random histories.

use super::*;
use proptest::prelude::*;

fn lane(engine: &str, user: Option<&str>, ckey: Option<&str>) -> Lane {
    Lane { engine: engine.into(), user: user.map(Into::into), ckey: ckey.map(Into::into), retry: false }
}

fn entry(key: i64, rank: i64) -> Entry {
    Entry { key: Key(key), rank: Rank(rank), priority: Priority::Normal, pinned: None }
}

fn queue(limits: &[Option<u32>], capacity: u32) -> Queue {
    let mut queue = Queue::new(1);
    let endpoints = limits.iter().map(|limit| EndpointRules { limit: *limit, weight: 1.0 }).collect();
    queue.set_engine("e", EngineRules { engine_type: "demo".into(), paused: false, endpoints });
    queue.set_worker(SessionId(1), WorkerRules { capacity, engine_types: vec![], open: true });
    queue
}

fn picks(queue: &mut Queue) -> Vec<i64> {
    std::iter::from_fn(|| queue.pick(Time(0))).map(|p| p.key.0).collect()
}

#[test]
fn one_user_goes_by_rank_then_key() {
    let mut q = queue(&[None], 10);
    for (key, rank) in [(1, 50), (2, 10), (3, 50), (4, -7)] {
        q.push(&lane("e", None, None), entry(key, rank));
    }
    assert_eq!(picks(&mut q), [4, 2, 1, 3]);
    assert_eq!(q.audit(), Vec::<String>::new());
}

#[test]
fn users_take_turns_whatever_their_backlog() {
    let mut q = queue(&[None], 6);
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
    let mut q = queue(&[Some(2), Some(1)], 10);
    for key in 0..5 {
        q.push(&lane("e", None, None), entry(key, key));
    }
    assert_eq!(picks(&mut q), [0, 1, 2]);
    assert_eq!((q.occupancy().of_endpoint("e", 0), q.occupancy().of_endpoint("e", 1)), (2, 1));
    q.release(Key(1), Time(5), true);
    assert_eq!(picks(&mut q), [3]);
    q.abandon(Key(0), Time(100), Time(6));
    assert_eq!(picks(&mut q), Vec::<i64>::new(), "an abandoned call keeps its engine room");
    q.expire_ghosts(Time(100));
    assert_eq!(picks(&mut q), [4]);
}

#[test]
fn a_concurrency_key_runs_one_at_a_time_and_others_flow_past() {
    let mut q = queue(&[None], 10);
    q.push(&lane("e", None, Some("k")), entry(1, 1));
    q.push(&lane("e", None, Some("k")), entry(2, 2));
    q.push(&lane("e", Some("other"), Some("k")), entry(3, 3));
    q.push(&lane("e", None, None), entry(4, 4));
    assert_eq!(picks(&mut q), [1, 4]);
    q.release(Key(1), Time(1), true);
    assert_eq!(picks(&mut q).len(), 1);
}

#[test]
fn paused_engines_and_busy_or_unfit_workers_get_nothing() {
    let mut q = queue(&[None], 1);
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
    let mut q = queue(&[None], 2);
    q.set_worker(SessionId(2), WorkerRules { capacity: 2, engine_types: vec![], open: true });
    for key in 0..4 {
        q.push(&lane("e", None, None), entry(key, key));
    }
    let workers: Vec<i64> = std::iter::from_fn(|| q.pick(Time(0))).map(|p| p.worker.0).collect();
    assert_eq!(workers, [1, 1, 2, 2]);
}

#[test]
fn a_row_to_reattach_goes_to_its_own_endpoint() {
    let mut q = queue(&[Some(5), Some(5)], 10);
    q.push(&lane("e", None, None), Entry { pinned: Some(1), ..entry(1, 1) });
    assert_eq!(q.pick(Time(0)).map(|p| p.endpoint), Some(1));
}

#[test]
fn a_long_lane_is_read_in_windows_and_keeps_its_order() {
    let all = READY_LANE_WINDOW as i64 + 3_000;
    let mut q = queue(&[None], 1);
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
        let mut q = queue(&[Some(3), Some(2)], 4);
        let rules = q.engine("e").expect("set").clone();
        q.set_engine("f", rules);
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
            prop_assert!(q.occupancy().of_endpoint("e", 0) <= 3 && q.occupancy().of_endpoint("e", 1) <= 2);
            prop_assert!(q.occupancy().of_ckey("k") <= 1);
        }
    }

    #[test]
    fn no_user_gets_ahead_of_another_by_more_than_one_grant(backlog in prop::collection::vec(5usize..60, 2..6)) {
        let mut q = queue(&[None], 1_000);
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
