//! Workers and endpoints by tables, and under random histories.

use crate::balance::{BalanceRules, Balancing};
use crate::breaker::{BreakerRules, Forced};
use crate::event::{Event, EventData, EventType};
use crate::execution::{Lane, Priority};
use crate::failure::{Failure, FailureKind};
use crate::gate::{GateRules, Gates, Shut};
use crate::id::{Key, SessionId};
use crate::queue::{EndpointRules, EngineRules, Entry, Pick, Placement, Queue, WorkerRules};
use crate::rank::Rank;
use crate::time::{SECOND, Time};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn lane(engine: &str, ckey: Option<&str>) -> Lane {
    Lane { engine: engine.into(), user: None, ckey: ckey.map(Into::into), retry: false }
}

fn entry(key: i64) -> Entry {
    Entry { key: Key(key), rank: Rank(key), priority: Priority::Normal, pinned: None, fail_fast: false }
}

fn engine(queue: &mut Queue, gates: &mut Gates, name: &str, kind: &str, weights: &[f64], rules: GateRules) {
    let endpoints = weights.iter().map(|weight| EndpointRules { weight: *weight }).collect();
    queue.set_engine(name, EngineRules { engine_type: kind.into(), paused: false, endpoints });
    let endpoints = (0..weights.len()).map(|at| format!("http://{name}-{at}")).collect();
    gates.set(name, GateRules { endpoints, ..rules }, Time(0));
}

fn worker(capacity: u32, types: &str) -> WorkerRules {
    let engine_types = types.split_whitespace().map(str::to_owned).collect();
    WorkerRules { capacity, engine_types, open: true }
}

fn end(gates: &mut Gates, queue: &mut Queue, pick: &Pick, kind: Option<FailureKind>, now: Time) {
    let failure = kind.map(|kind| Failure {
        kind,
        code: "c".into(),
        message: Vec::new(),
        retryable: true,
        attempt: 1,
        engine_status: None,
    });
    let kind = if failure.is_some() { EventType::ExecutionFailed } else { EventType::ExecutionCompleted };
    let data = EventData { failure, ..EventData::default() };
    let event = Event { seq: 1, kind, at: now, attempt: 1, data };
    if let Some(gate) = gates.get_mut("e") {
        gate.observe(pick.endpoint, pick.key, &event, false, now);
    }
    queue.release(pick.key, now, true);
}

#[test]
fn the_next_start_goes_to_the_worker_that_the_placement_says() {
    use Placement::{Pack, Spread};
    // workers: slots in use / slots, and the types they serve (none: all); the engine's type is n8n
    type Row<'a> = (&'a str, Placement, &'a [(u32, u32, &'a str)], Option<i64>);
    let rows: [Row<'_>; 14] = [
        ("nobody is there", Pack, &[], None),
        ("nobody has a free slot", Pack, &[(2, 2, ""), (1, 1, "n8n")], None),
        ("nobody serves it", Pack, &[(0, 2, "http"), (0, 2, "langflow demo")], None),
        ("the fullest with a free slot", Pack, &[(0, 4, ""), (3, 4, ""), (4, 4, ""), (2, 4, "")], Some(1)),
        ("the oldest of several alike", Pack, &[(1, 4, ""), (1, 4, "")], Some(0)),
        ("few free slots, not many used ones", Pack, &[(6, 10, ""), (1, 2, "")], Some(1)),
        ("an idle one only when it must", Pack, &[(4, 4, ""), (0, 4, "")], Some(1)),
        ("the emptiest", Spread, &[(1, 4, ""), (3, 4, ""), (0, 4, ""), (2, 4, "")], Some(2)),
        ("the oldest of several alike", Spread, &[(1, 4, ""), (1, 4, "")], Some(0)),
        ("the largest free share", Spread, &[(5, 10, ""), (1, 4, "")], Some(1)),
        ("of alike shares the most slots", Spread, &[(1, 2, ""), (5, 10, "")], Some(1)),
        ("one that serves only this goes first", Pack, &[(3, 4, ""), (0, 4, "n8n")], Some(1)),
        ("one that serves only this goes first", Spread, &[(0, 4, ""), (3, 4, "http n8n")], Some(1)),
        (
            "what the special ones have no slot for",
            Pack,
            &[(0, 4, ""), (4, 4, "n8n"), (0, 1, "http")],
            Some(0),
        ),
    ];
    for (what, placement, workers, wanted) in rows {
        let (mut queue, mut gates) = (Queue::new(1), Gates::default());
        queue.set_placement(placement);
        engine(&mut queue, &mut gates, "e", "n8n", &[1.0], GateRules::default());
        let mut key = 0;
        for (id, (used, capacity, types)) in (0i64..).zip(workers) {
            // Filled while it is the only one there is.
            queue.set_worker(SessionId(id), worker(*capacity, ""));
            for _ in 0..*used {
                key += 1;
                queue.push(&lane("e", None), entry(key));
                assert_eq!(queue.pick(&mut gates, Time(0)).map(|p| p.worker), Some(SessionId(id)));
            }
            queue.set_worker(SessionId(id), WorkerRules { open: false, ..worker(*capacity, types) });
        }
        for (id, (_, capacity, types)) in (0i64..).zip(workers) {
            queue.set_worker(SessionId(id), worker(*capacity, types));
        }
        queue.push(&lane("e", None), entry(1_000));
        let picked = queue.pick(&mut gates, Time(0)).map(|p| p.worker.0);
        assert_eq!(picked, wanted, "{placement:?}: {what}");
    }
}

#[test]
fn packing_leaves_workers_idle_and_spreading_leaves_none() {
    let idle = |placement| {
        let (mut queue, mut gates) = (Queue::new(1), Gates::default());
        queue.set_placement(placement);
        engine(&mut queue, &mut gates, "e", "n8n", &[1.0], GateRules::default());
        (0..5).for_each(|id| queue.set_worker(SessionId(id), worker(4, "")));
        (0..8).for_each(|key| queue.push(&lane("e", None), entry(key)));
        while queue.pick(&mut gates, Time(0)).is_some() {}
        (0..5).filter(|id| queue.occupancy().of_worker(SessionId(*id)) == 0).count()
    };
    assert_eq!((idle(Placement::Pack), idle(Placement::Spread)), (3, 0));
}

/// An engine with three endpoints of which the last one is ejected, and room for all.
fn with_an_outlier(limit: Option<u32>) -> (Queue, Gates, Time) {
    let (mut queue, mut gates) = (Queue::new(1), Gates::default());
    let rules = GateRules { max_concurrency: limit, ..GateRules::default() };
    engine(&mut queue, &mut gates, "e", "n8n", &[1.0; 3], rules);
    queue.set_worker(SessionId(1), worker(1_000, ""));
    let mut now = Time(0);
    for key in 0..400 {
        queue.push(&lane("e", None), Entry { pinned: Some((key % 3) as u32), ..entry(key) });
        let pick = queue.pick(&mut gates, now).expect("all is open");
        let ms = if pick.endpoint == 2 { 900 } else { 10 };
        now = now.plus(ms);
        end(&mut gates, &mut queue, &pick, None, now);
    }
    assert_eq!(gates.compare(now).len(), 1, "it is far slower than its peers");
    (queue, gates, now)
}

#[test]
fn an_outlier_gets_no_new_work_but_what_is_bound_to_it() {
    let (mut queue, mut gates, now) = with_an_outlier(Some(4));
    for key in 1_000..1_050 {
        queue.push(&lane("e", None), entry(key));
    }
    let picks: Vec<u32> = std::iter::from_fn(|| queue.pick(&mut gates, now)).map(|p| p.endpoint).collect();
    assert_eq!(picks.len(), 8, "the other two are full: {picks:?}");
    assert!(!picks.contains(&2));
    assert_eq!(queue.shut(&gates, "e", None, now), Some(Shut::Full), "the mildest reason");
    queue.push(&lane("e", None), Entry { pinned: Some(2), ..entry(2_000) });
    assert_eq!(
        queue.pick(&mut gates, now).map(|p| (p.key.0, p.endpoint)),
        Some((2_000, 2)),
        "its run is there"
    );
}

#[test]
fn an_outlier_is_used_while_its_peers_are_parked() {
    let (mut queue, mut gates, now) = with_an_outlier(None);
    let word = Forced { open: true, reason: "test".into(), by: None, since: now, until: None };
    gates.force("e", Some(0), Some(&word), now);
    queue.push(&lane("e", None), entry(1_000));
    assert_eq!(queue.pick(&mut gates, now).map(|p| p.endpoint), Some(1));
    gates.force("e", Some(1), Some(&word), now);
    queue.push(&lane("e", None), entry(1_001));
    assert_eq!(queue.shut(&gates, "e", None, now), None);
    assert_eq!(queue.pick(&mut gates, now).map(|p| p.endpoint), Some(2), "better than to wait");
}

#[test]
fn sticky_work_stays_on_one_endpoint() {
    let (mut queue, mut gates) = (Queue::new(3), Gates::default());
    let balance = BalanceRules { sticky: true, ..BalanceRules::default() };
    let rules = GateRules { balance, max_concurrency: Some(4), ..GateRules::default() };
    engine(&mut queue, &mut gates, "e", "n8n", &[1.0; 4], rules);
    queue.set_worker(SessionId(1), worker(1_000, ""));
    let mut homes: BTreeMap<String, u32> = BTreeMap::new();
    let mut now = Time(0);
    for key in 0..200 {
        let ckey = format!("customer-{}", key % 20);
        queue.push(&lane("e", Some(&ckey)), entry(key));
        let pick = queue.pick(&mut gates, now).expect("there is room");
        let home = *homes.entry(ckey.clone()).or_insert(pick.endpoint);
        assert_eq!(pick.endpoint, home, "{ckey}");
        now = now.plus(50);
        end(&mut gates, &mut queue, &pick, None, now);
    }
    assert!(homes.values().collect::<BTreeSet<_>>().len() > 1, "{homes:?}");
}

/// What happens next in a random history.
#[derive(Debug, Clone)]
enum Step {
    Push {
        ckey: Option<u8>,
        pinned: Option<u32>,
    },
    /// The oldest running call ends: answered, unwell, overloaded.
    End(u8),
    Pass(u64),
    Force {
        at: u32,
        open: bool,
    },
    Relax(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::option::of(0u8..6), proptest::option::weighted(0.1, 0u32..3))
            .prop_map(|(ckey, pinned)| Step::Push { ckey, pinned }),
        6 => (0u8..8).prop_map(Step::End),
        3 => (1u64..40_000).prop_map(Step::Pass),
        1 => (0u32..3, any::<bool>()).prop_map(|(at, open)| Step::Force { at, open }),
        1 => (0u32..3).prop_map(Step::Relax),
    ]
}

proptest! {
    #[test]
    fn no_start_goes_to_an_endpoint_that_is_full_or_parked(
        steps in proptest::collection::vec(step(), 1..250),
        sticky: bool, round_robin: bool, limit in 1u32..4,
    ) {
        let (mut queue, mut gates) = (Queue::new(2), Gates::default());
        let balancing = if round_robin { Balancing::RoundRobin } else { Balancing::LeastExpected };
        let balance = BalanceRules { balancing, sticky, eject: true };
        let breaker = BreakerRules { failure_threshold: 3, ..BreakerRules::default() };
        let rules = GateRules { balance, breaker, max_concurrency: Some(limit), adaptive: true, ..GateRules::default() };
        engine(&mut queue, &mut gates, "e", "n8n", &[1.0, 2.0, 1.0], rules);
        queue.set_worker(SessionId(1), worker(100, ""));
        let (mut now, mut key, mut running) = (Time(0), 0, Vec::new());
        let (mut bound, mut free) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Push { ckey, pinned } => {
                    key += 1;
                    let ckey = ckey.map(|k| k.to_string());
                    if pinned.is_some() {
                        bound.insert(Key(key));
                    } else if ckey.is_none() {
                        free.insert(Key(key));
                    }
                    queue.push(&lane("e", ckey.as_deref()), Entry { pinned, ..entry(key) });
                }
                Step::End(how) if !running.is_empty() => {
                    let pick: Pick = running.remove(0);
                    let kind = match how {
                        0 | 1 => Some(FailureKind::Connection),
                        2 => Some(FailureKind::RateLimited),
                        _ => None,
                    };
                    end(&mut gates, &mut queue, &pick, kind, now);
                }
                Step::End(_) => {}
                Step::Pass(span) => now = now.plus(span),
                Step::Force { at, open } => {
                    let until = Some(now.plus(20 * SECOND));
                    let word = Forced { open, reason: "test".into(), by: None, since: now, until };
                    gates.force("e", Some(at), Some(&word), now);
                }
                Step::Relax(at) => _ = gates.force("e", Some(at), None, now),
            }
            gates.tick(now);
            gates.compare(now);
            loop {
                let shut = |bound: bool| -> Vec<Option<Shut>> {
                    let used = |at| queue.occupancy().of_endpoint("e", at);
                    (0u32..3).map(|at| gates.get("e")?.shut_to(bound, at, used(at), now)).collect()
                };
                let (to_all, to_bound) = (shut(false), shut(true));
                let Some(pick) = queue.pick(&mut gates, now) else {
                    prop_assert!(!free.iter().any(|key| queue.holds(*key)) || to_all.iter().all(Option::is_some), "{:?}", to_all);
                    break;
                };
                let shut = if bound.contains(&pick.key) { to_bound } else { to_all };
                prop_assert_eq!(shut[pick.endpoint as usize], None, "{:?} took {:?}", shut, pick);
                prop_assert!(queue.occupancy().of_endpoint("e", pick.endpoint) <= limit);
                running.push(pick);
            }
            prop_assert_eq!(queue.audit(), Vec::<String>::new());
        }
    }
}
