//! The split by tables, and its invariants.

use super::*;
use crate::execution::{Lane, Priority};
use crate::gate::GateRules;
use crate::id::{Key, SessionId};
use crate::queue::{EndpointRules, EngineRules, Entry, WorkerRules};
use crate::rank::Rank;
use crate::time::SECOND;
use proptest::prelude::*;

fn pool(name: &str, min: u32, max: u32) -> PoolRules {
    PoolRules { name: name.into(), engine_types: vec![name.into()], min, max }
}

#[test]
fn the_total_is_split_by_minimum_and_need() {
    // pools as (minimum, maximum, need), the shared need, total, most -> the pools' parts, the shared part last
    type Row<'a> = (&'a str, &'a [(u32, u32, u32)], u32, u32, u32, &'a [u32]);
    let rows: [Row<'_>; 15] = [
        ("no pools: all is shared", &[], 3, 7, 20, &[7]),
        ("nothing is needed: the minimum, the rest is shared", &[(1, 5, 0)], 0, 4, 20, &[1, 3]),
        ("a minimum holds whatever the total", &[(3, 5, 0)], 0, 1, 20, &[3, 0]),
        ("what is needed", &[(1, 5, 3)], 1, 6, 20, &[3, 3]),
        ("what is needed and no more", &[(0, 5, 1)], 0, 4, 20, &[1, 3]),
        ("no more than its maximum", &[(0, 2, 9)], 1, 6, 20, &[2, 4]),
        ("other work waits: one is shared though none is left", &[(2, 5, 2)], 1, 2, 20, &[2, 1]),
        ("other work waits, and there may be no more", &[(2, 5, 2)], 1, 2, 2, &[2, 0]),
        ("too few: the largest unmet need first", &[(0, 9, 5), (0, 9, 2)], 1, 4, 20, &[3, 0, 1]),
        ("too few: equal needs share", &[(0, 9, 2), (0, 9, 2)], 2, 3, 20, &[1, 1, 1]),
        ("a minimum counts toward the need", &[(2, 9, 3), (0, 9, 2)], 0, 4, 20, &[2, 2, 0]),
        ("a busy pool takes nothing of another's minimum", &[(2, 9, 0), (0, 9, 9)], 1, 6, 6, &[2, 3, 1]),
        ("nothing at all", &[(0, 5, 0)], 0, 0, 20, &[0, 0]),
        ("minimums beyond what may exist", &[(3, 3, 0), (2, 2, 0)], 1, 4, 4, &[3, 2, 0]),
        ("a total beyond what may exist", &[(1, 9, 2)], 1, 30, 10, &[2, 8]),
    ];
    for (what, pools, shared, total, most, wanted) in rows {
        let rules: Vec<PoolRules> = pools.iter().map(|(min, max, _)| pool("p", *min, *max)).collect();
        let needs = Needs { pools: pools.iter().map(|p| p.2).collect(), shared, pooled: 0 };
        assert_eq!(split(total, most, &rules, &needs), wanted, "{what}");
    }
}

#[test]
fn what_stands_apart_is_what_the_separation_costs() {
    // pools as (minimum, need), the shared need, workers if each served all -> apart
    type Row<'a> = (&'a str, &'a [(u32, u32)], u32, u32, u32);
    let rows: [Row<'_>; 7] = [
        ("no pools", &[], 4, 4, 0),
        ("an idle minimum", &[(2, 0)], 3, 3, 2),
        ("a minimum in use", &[(2, 2)], 3, 5, 0),
        ("half of a minimum in use", &[(2, 1)], 3, 4, 1),
        ("each has a piece of a worker's work", &[(0, 1), (0, 1)], 1, 1, 2),
        ("all full", &[(1, 3), (0, 2)], 2, 7, 0),
        ("nothing", &[(0, 0)], 0, 0, 0),
    ];
    for (what, pools, shared, pooled, wanted) in rows {
        let rules: Vec<PoolRules> = pools.iter().map(|(min, _)| pool("p", *min, 99)).collect();
        let needs = Needs { pools: pools.iter().map(|p| p.1).collect(), shared, pooled };
        assert_eq!(needs.apart(&rules), wanted, "{what}");
    }
}

#[test]
fn needs_come_from_slots_and_stay_for_a_while() {
    let mut pools = Pools::new(vec![pool("n8n", 0, 2), pool("langflow", 1, 5)]);
    let slots = |rows: &[(&str, u32)]| rows.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    let mut look = |rows: &[(&str, u32)], at: i64| {
        let needs = pools.look(&slots(rows), 10, 20 * SECOND, Time(at * 1_000));
        (needs.pools, needs.shared, needs.pooled)
    };
    assert_eq!(look(&[], 0), (vec![0, 0], 0, 0));
    assert_eq!(look(&[("n8n", 11), ("http", 1)], 1), (vec![2, 0], 1, 2));
    assert_eq!(look(&[("n8n", 45), ("http", 1)], 2), (vec![2, 0], 3, 5), "what is too much for it is shared");
    assert_eq!(look(&[("langflow", 5)], 3), (vec![2, 1], 3, 5), "what was needed a moment ago is kept");
    assert_eq!(look(&[("langflow", 5)], 22), (vec![0, 1], 0, 1));
    assert_eq!(look(&[], 30), (vec![0, 1], 0, 1));
    assert_eq!(look(&[], 60), (vec![0, 0], 0, 0));
}

#[test]
fn a_worker_belongs_to_the_pool_whose_types_it_serves() {
    let pools = Pools::new(vec![pool("n8n", 0, 2), pool("langflow", 1, 5)]);
    assert_eq!(pools.pool_of(&["langflow".to_owned()]), Some(1));
    assert_eq!((pools.pool_of(&[]), pools.pool_of(&["http".to_owned()])), (None, None));
}

#[test]
fn what_an_engine_would_not_take_is_no_demand() {
    let (mut queue, mut gates) = (Queue::new(1), Gates::default());
    let engines = [
        // name, type, limit, paused, due -> of these one runs
        ("a", "n8n", None, false, 8),
        ("b", "n8n", Some(3), false, 8),
        ("c", "http", Some(3), true, 8),
    ];
    for (name, engine_type, limit, paused, due) in engines {
        let endpoints = vec![EndpointRules { weight: 1.0 }];
        queue.set_engine(name, EngineRules { engine_type: engine_type.into(), paused, endpoints });
        let rules =
            GateRules { max_concurrency: limit, endpoints: vec!["one".into()], ..GateRules::default() };
        gates.set(name, rules, Time(0));
        for n in 0..due {
            let key = Key(i64::from(name.as_bytes()[0]) * 100 + n);
            let lane = Lane { engine: name.into(), user: None, ckey: None, retry: false };
            let entry =
                Entry { key, rank: Rank(n), priority: Priority::Normal, pinned: None, fail_fast: false };
            queue.push(&lane, entry);
        }
    }
    let serves = |open| WorkerRules { capacity: 2, engine_types: vec!["n8n".into()], open };
    queue.set_worker(SessionId(1), serves(true));
    while queue.pick(&mut gates, Time(0)).is_some() {}
    let wanted = slots_wanted(&queue, &gates, Time(0));
    assert_eq!(wanted, BTreeMap::from([("n8n".to_owned(), 11), ("http".to_owned(), 0)]));
}

proptest! {
    #[test]
    fn parts_keep_their_bounds_and_sum_up(
        pools in proptest::collection::vec((0u32..6, 0u32..10, 0u32..20), 0..6),
        shared in 0u32..20, total in 0u32..60, most in 0u32..60,
    ) {
        let rules: Vec<PoolRules> = pools.iter().map(|(min, more, _)| pool("p", *min, min + more)).collect();
        let needs = Needs { pools: pools.iter().map(|p| p.2).collect(), shared, pooled: 0 };
        let parts = split(total, most, &rules, &needs);
        let minimums: u32 = rules.iter().map(|pool| pool.min).sum();
        prop_assert_eq!(parts.len(), rules.len() + 1);
        for (rules, part) in rules.iter().zip(&parts) {
            prop_assert!((rules.min..=rules.max).contains(part), "{parts:?}");
        }
        let sum: u32 = parts.iter().sum();
        prop_assert!(sum <= most.max(minimums), "{parts:?}");
        prop_assert!(sum >= total.min(most), "{parts:?}");
        prop_assert!(shared == 0 || most <= minimums || parts[rules.len()] >= 1, "{parts:?}");
        // With enough for all, every need is met as far as its pool may grow.
        if total.min(most) >= minimums + 120 {
            for ((rules, need), part) in rules.iter().zip(&needs.pools).zip(&parts) {
                prop_assert!(*part >= (*need).min(rules.max));
            }
        }
        let more = split(total + 1, most, &rules, &needs);
        prop_assert!(more.iter().zip(&parts).all(|(more, part)| more >= part), "{parts:?} then {more:?}");
    }
}
