//! The balancer by tables, by histories, and against endpoints that are modelled.

use super::*;
use crate::time::SECOND;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("http://engine-{at}:5678")).collect()
}

fn balancer(rules: BalanceRules, count: usize) -> Balancer {
    Balancer::new(rules, &names(count))
}

fn idle(count: u32) -> Vec<Candidate> {
    (0..count).map(|at| Candidate { at, used: 0, weight: 1.0 }).collect()
}

/// This many calls of this time, all answered but the given share.
fn teach(balancer: &mut Balancer, at: u32, calls: u32, ms: u64, unwell_each: Option<u32>, now: Time) {
    for call in 1..=calls {
        let unwell = unwell_each.is_some_and(|each| call % each == 0);
        let sign = if unwell { Sign::Unwell } else { Sign::Answered };
        balancer.ended(at, Key(i64::from(call)), sign, Some(ms), now);
    }
}

#[test]
fn the_one_that_should_be_done_first_is_chosen() {
    // per endpoint: calls held, weight, run time in ms (0: unknown), every how many-th call finds it unwell (0: none)
    type Endpoint = (u32, f64, u64, u32);
    let rows: [(&str, Endpoint, Endpoint, Option<u32>); 11] = [
        ("alike: the draw decides", (0, 1.0, 100, 0), (0, 1.0, 100, 0), None),
        ("nearly alike: the draw decides", (0, 1.0, 100, 0), (0, 1.0, 105, 0), None),
        ("fewer calls", (3, 1.0, 100, 0), (1, 1.0, 100, 0), Some(1)),
        ("faster", (0, 1.0, 100, 0), (0, 1.0, 300, 0), Some(0)),
        ("faster, but with more calls than that makes good", (4, 1.0, 100, 0), (0, 1.0, 300, 0), Some(1)),
        ("faster, with fewer calls than that makes good", (1, 1.0, 100, 0), (0, 1.0, 300, 0), Some(0)),
        ("heavier", (1, 2.0, 100, 0), (1, 1.0, 100, 0), Some(0)),
        ("heavier, and twice as full", (3, 2.0, 100, 0), (1, 1.0, 100, 0), None),
        ("one that answers every second call only", (0, 1.0, 100, 2), (0, 1.0, 100, 0), Some(1)),
        ("one that fails at once is not fast", (0, 1.0, 1, 1), (1, 1.0, 100, 0), Some(1)),
        ("nothing is known: like its peer", (1, 1.0, 0, 0), (0, 1.0, 100, 0), Some(1)),
    ];
    for (what, first, second, wanted) in rows {
        let mut balancer = balancer(BalanceRules::default(), 2);
        let now = Time(1_000);
        let mut open = Vec::new();
        for (at, (used, weight, ms, unwell)) in (0u32..).zip([first, second]) {
            if ms > 0 {
                teach(&mut balancer, at, 40, ms, (unwell > 0).then_some(unwell), now);
            }
            open.push(Candidate { at, used, weight });
        }
        let chosen: BTreeSet<u32> =
            (0..64).filter_map(|seed| balancer.choose(&open, None, &mut Draws::new(seed), now)).collect();
        let wanted = wanted.map_or(BTreeSet::from([0, 1]), |at| BTreeSet::from([at]));
        assert_eq!(chosen, wanted, "{what}");
    }
}

#[test]
fn what_is_known_of_an_endpoint_without_calls_fades_until_it_is_tried_again() {
    let mut balancer = balancer(BalanceRules::default(), 2);
    teach(&mut balancer, 0, 40, 100, None, Time(0));
    teach(&mut balancer, 1, 40, 300, None, Time(0));
    let mut draws = Draws::new(7);
    let mut first_try = None;
    for second in 0..600 {
        let now = Time(second * 1_000);
        let chosen = balancer.choose(&idle(2), None, &mut draws, now).expect("both are open");
        if chosen == 1 {
            first_try = Some(second);
            break;
        }
        balancer.ended(0, Key(second), Sign::Answered, Some(100), now);
    }
    assert!(first_try.is_some_and(|second| second > 30), "{first_try:?}");
    // It has recovered: a few calls are enough to know.
    let now = Time(first_try.unwrap_or(0) * 1_000);
    teach(&mut balancer, 1, 3, 100, None, now);
    assert!(balancer.run_ms(1).is_some_and(|ms| ms < 200.0), "{:?}", balancer.run_ms(1));
}

#[test]
fn round_robin_goes_exactly_by_weight_and_nobody_saves_turns_up() {
    let rules = BalanceRules { balancing: Balancing::RoundRobin, ..BalanceRules::default() };
    let mut balancer = balancer(rules, 3);
    let weights = [5.0, 2.0, 1.0];
    let all: Vec<Candidate> =
        (0u32..).zip(weights).map(|(at, weight)| Candidate { at, used: at * 9, weight }).collect();
    let mut draws = Draws::new(1);
    let mut turns = |balancer: &mut Balancer, open: &[Candidate], count: u32| {
        let mut counts = [0u32; 3];
        for _ in 0..count {
            let at = balancer.choose(open, None, &mut draws, Time(0)).expect("somebody is open");
            counts[at as usize] += 1;
        }
        counts
    };
    teach(&mut balancer, 0, 40, 9_000, None, Time(0));
    assert_eq!(turns(&mut balancer, &all, 80), [50, 20, 10], "speed and load do not count");
    assert_eq!(turns(&mut balancer, &all[1..], 30), [0, 20, 10]);
    let after = turns(&mut balancer, &all, 80);
    assert!((49..=51).contains(&after[0]), "it came back without a crowd: {after:?}");
}

#[test]
fn an_outlier_is_left_alone_and_comes_back_by_a_trial() {
    // what its 20 calls were: ms, every how many-th unwell; its two peers take 100 ms and are always well
    let rows = [
        ("like its peers", 110, None, None),
        ("three times slower is not far", 300, None, None),
        ("far slower", 600, None, Some(Cause::Slow)),
        ("every fifth call fails", 100, Some(5), None),
        ("every second call fails", 100, Some(2), Some(Cause::Unwell)),
    ];
    for (what, ms, unwell, wanted) in rows {
        let mut balancer = balancer(BalanceRules::default(), 3);
        for peer in [0, 1] {
            teach(&mut balancer, peer, 20, 100, None, Time(0));
        }
        teach(&mut balancer, 2, 20, ms, unwell, Time(0));
        let changes = balancer.tick(|_| false, Time(0));
        let until = Time(30 * SECOND as i64);
        let expected: Vec<(u32, BalanceChange)> =
            wanted.map(|cause| (2, BalanceChange::Ejected { until, cause })).into_iter().collect();
        assert_eq!(changes, expected, "{what}");
        if wanted.is_none() {
            continue;
        }
        assert_eq!(balancer.ejected(2, Time(0)), Some(until), "{what}");
        assert_eq!(balancer.tick(|_| false, until), [(2, BalanceChange::Trial)], "{what}");
        let chosen = balancer.choose(&idle(3), None, &mut Draws::new(3), until);
        assert_eq!(chosen, Some(2), "the trial goes first: {what}");
        balancer.started(2, Key(99));
        assert!(balancer.ejected(2, until).is_some(), "one at a time: {what}");
        // The first trial fails, so it is left alone for twice as long; the second finds it well.
        balancer.ended(2, Key(99), Sign::Unwell, Some(5), until);
        let again = until.plus(60 * SECOND);
        let cause = Cause::Unwell;
        assert_eq!(
            balancer.tick(|_| false, until),
            [(2, BalanceChange::Ejected { until: again, cause })],
            "{what}"
        );
        assert_eq!(balancer.tick(|_| false, again), [(2, BalanceChange::Trial)], "{what}");
        balancer.started(2, Key(100));
        balancer.unstarted(2, Key(100));
        balancer.started(2, Key(101));
        balancer.ended(2, Key(101), Sign::Nothing, Some(5), again);
        balancer.started(2, Key(102));
        balancer.retain(|_| false);
        balancer.started(2, Key(103));
        balancer.ended(2, Key(103), Sign::Answered, Some(120), again);
        assert_eq!(balancer.tick(|_| false, again), [(2, BalanceChange::Back)], "{what}");
        assert_eq!((balancer.ejected(2, again), balancer.is_in(2)), (None, true), "{what}");
        assert!(balancer.run_ms(2).is_some_and(|ms| ms < 130.0), "the time before counts no more: {what}");
    }
}

#[test]
fn what_cannot_be_compared_ejects_nobody() {
    let slow_one = |rules: BalanceRules, count: usize, parked: Option<u32>| {
        let mut balancer = balancer(rules, count);
        for at in 0..u32::try_from(count).unwrap_or(0) {
            teach(&mut balancer, at, 20, if at == 0 { 9_000 } else { 100 }, None, Time(0));
        }
        balancer.tick(|at| Some(at) == parked, Time(0)).len()
    };
    let rules = BalanceRules::default();
    let rows = [
        ("with a peer", rules, 2, None, 1),
        ("without a peer", rules, 1, None, 0),
        ("the only peer is parked", rules, 2, Some(1), 0),
        ("one of three is parked already", rules, 3, Some(1), 0),
        ("one of four is parked", rules, 4, Some(1), 1),
        ("switched off", BalanceRules { eject: false, ..rules }, 3, None, 0),
        ("sticky work differs by endpoint", BalanceRules { sticky: true, ..rules }, 3, None, 0),
    ];
    for (what, rules, count, parked, ejected) in rows {
        assert_eq!(slow_one(rules, count, parked), ejected, "{what}");
    }
}

#[test]
fn what_is_stored_is_taken_up_and_nonsense_is_not() {
    let mut before = balancer(BalanceRules::default(), 2);
    teach(&mut before, 0, 20, 100, None, Time(0));
    teach(&mut before, 1, 20, 900, None, Time(0));
    before.tick(|_| false, Time(0));
    let stored = serde_json::to_string(&before.docs().collect::<Vec<_>>()).expect("it can be written");
    let mut after = balancer(BalanceRules::default(), 2);
    let docs: Vec<BalanceDoc> = serde_json::from_str(&stored).expect("it can be read");
    (0u32..).zip(docs).for_each(|(at, doc)| after.restore(at, doc));
    assert_eq!(after.records, before.records);
    assert!(after.ejected(1, Time(0)).is_some());
    let nonsense = Record::default();
    let doc: BalanceDoc =
        serde_json::from_str(r#"{"runs":-3.0,"log_ms":1e300,"standing":"in"}"#).expect("it parses");
    after.restore(1, doc);
    assert_eq!(after.records[1], nonsense);
}

/// Endpoints that share their speed among their calls, each call one unit of work; calls arrive at random.
struct Model {
    speeds: Vec<f64>,
    /// Work left of each call, and when it began.
    calls: Vec<Vec<(f64, i64)>>,
    finished: Vec<u32>,
    waits_ms: u64,
}

impl Model {
    /// `load`: arrivals per second over the sum of the speeds.
    fn run(speeds: &[f64], load: f64, balancer: &mut Balancer, seconds: i64, seed: u64) -> Model {
        let mut model = Model {
            speeds: speeds.to_vec(),
            calls: vec![Vec::new(); speeds.len()],
            finished: vec![0; speeds.len()],
            waits_ms: 0,
        };
        let (mut draws, mut chance) = (Draws::new(seed), Draws::new(seed ^ 77));
        let rate = load * speeds.iter().sum::<f64>();
        let mut next_arrival = 0.0;
        for now in (0..seconds * 1_000).step_by(5) {
            while next_arrival <= now as f64 / 1e3 {
                next_arrival += -chance.part().ln() / rate;
                let used = |at: usize| u32::try_from(model.calls[at].len()).unwrap_or(u32::MAX);
                let open: Vec<Candidate> = (0u32..)
                    .take(speeds.len())
                    .map(|at| Candidate { at, used: used(at as usize), weight: 1.0 })
                    .collect();
                let at = balancer.choose(&open, None, &mut draws, Time(now)).expect("all are open");
                model.calls[at as usize].push((1.0, now));
            }
            model.work(0.005, now, balancer);
        }
        model
    }

    fn work(&mut self, span: f64, now: i64, balancer: &mut Balancer) {
        for (at, calls) in self.calls.iter_mut().enumerate() {
            let each = self.speeds[at] * span / calls.len().max(1) as f64;
            calls.iter_mut().for_each(|(left, _)| *left -= each);
            for (_, since) in calls.iter().filter(|(left, _)| *left <= 0.0) {
                let took = u64::try_from(now - since).unwrap_or(0) + 5;
                self.finished[at] += 1;
                self.waits_ms += took;
                let at = u32::try_from(at).unwrap_or(0);
                balancer.ended(at, Key(0), Sign::Answered, Some(took), Time(now));
            }
            calls.retain(|(left, _)| *left > 0.0);
        }
    }

    fn shares(&self) -> Vec<f64> {
        let total = f64::from(self.finished.iter().sum::<u32>());
        self.finished.iter().map(|n| f64::from(*n) / total).collect()
    }

    fn mean_ms(&self) -> f64 {
        self.waits_ms as f64 / f64::from(self.finished.iter().sum::<u32>().max(1))
    }
}

#[test]
fn work_goes_by_what_each_endpoint_can_do() {
    for speeds in
        [vec![40.0, 20.0, 10.0], vec![30.0, 30.0, 30.0], vec![50.0, 10.0], vec![20.0, 20.0, 20.0, 5.0]]
    {
        let total: f64 = speeds.iter().sum();
        let learned = Model::run(&speeds, 0.9, &mut balancer(BalanceRules::default(), speeds.len()), 120, 5);
        let rules =
            BalanceRules { balancing: Balancing::RoundRobin, eject: false, ..BalanceRules::default() };
        let in_turn = Model::run(&speeds, 0.9, &mut balancer(rules, speeds.len()), 120, 5);
        println!(
            "speeds {speeds:?}: shares {:.2?}, {:.0} ms a call; in turn {:.2?}, {:.0} ms",
            learned.shares(),
            learned.mean_ms(),
            in_turn.shares(),
            in_turn.mean_ms()
        );
        for (share, speed) in learned.shares().iter().zip(&speeds) {
            assert!((share - speed / total).abs() < 0.08, "{speeds:?}: {:?}", learned.shares());
        }
        let open: usize = learned.calls.iter().map(Vec::len).sum();
        assert!(open < 150, "nothing piles up: {open} calls are open");
    }
}

#[test]
fn the_same_draws_give_the_same_choices() {
    let run = |seed| {
        let mut balancer = balancer(BalanceRules::default(), 3);
        let model = Model::run(&[9.0, 5.0, 3.0], 0.8, &mut balancer, 20, seed);
        (model.finished, model.waits_ms)
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5), "another seed draws otherwise");
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("customer-{n}")).collect()
}

#[test]
fn a_sticky_key_moves_only_when_its_endpoint_leaves_or_is_full() {
    let rules = BalanceRules { sticky: true, ..BalanceRules::default() };
    let mut balancer = balancer(rules, 5);
    let mut draws = Draws::new(1);
    let open = idle(5);
    let mut place = |open: &[Candidate], key: &str| {
        balancer.choose(open, Some(key), &mut draws, Time(0)).expect("somebody is open")
    };
    let keys = keys(2_000);
    let before: BTreeMap<&str, u32> = keys.iter().map(|k| (k.as_str(), place(&open, k))).collect();
    let mut counts = [0u32; 5];
    before.values().for_each(|at| counts[*at as usize] += 1);
    assert!(counts.iter().all(|n| (300..=500).contains(n)), "{counts:?}");
    let without: Vec<Candidate> = open.iter().filter(|c| c.at != 2).copied().collect();
    let mut new_homes = BTreeSet::new();
    for key in &keys {
        let now = place(&without, key);
        match before[key.as_str()] {
            2 => _ = new_homes.insert(now),
            home => assert_eq!(now, home, "{key} had no need to move"),
        }
    }
    assert_eq!(new_homes, BTreeSet::from([0, 1, 3, 4]), "what had to move spreads over all");
    // Its endpoint has more than its share: the key goes elsewhere until that is over.
    let home = before["customer-0"];
    let full: Vec<Candidate> =
        open.iter().map(|c| Candidate { used: if c.at == home { 30 } else { 1 }, ..*c }).collect();
    assert_ne!(place(&full, "customer-0"), home);
    let few: Vec<Candidate> =
        open.iter().map(|c| Candidate { used: if c.at == home { 3 } else { 0 }, ..*c }).collect();
    assert_eq!(place(&few, "customer-0"), home, "a few calls are never too many");
}

proptest! {
    #[test]
    fn heavier_endpoints_get_more_of_the_sticky_keys(weights in proptest::collection::vec(1u32..8, 2..6)) {
        let rules = BalanceRules { sticky: true, ..BalanceRules::default() };
        let mut balancer = balancer(rules, weights.len());
        let open: Vec<Candidate> =
            (0u32..).zip(&weights).map(|(at, w)| Candidate { at, used: 0, weight: f64::from(*w) }).collect();
        let mut counts = vec![0u32; weights.len()];
        for key in keys(3_000) {
            let at = balancer.choose(&open, Some(&key), &mut Draws::new(0), Time(0)).expect("open");
            counts[at as usize] += 1;
        }
        let total = f64::from(weights.iter().sum::<u32>());
        for (count, weight) in counts.iter().zip(&weights) {
            let (share, wanted) = (f64::from(*count) / 3_000.0, f64::from(*weight) / total);
            prop_assert!((share - wanted).abs() < 0.05, "{weights:?}: {counts:?}");
        }
    }

    #[test]
    fn a_candidate_is_chosen_whenever_there_is_one(
        loads in proptest::collection::vec((0u32..2_000, 0u32..1_000), 0..8),
        sticky: bool, round_robin: bool, seed: u64, key in "[a-z]{0,8}",
    ) {
        let balancing = if round_robin { Balancing::RoundRobin } else { Balancing::LeastExpected };
        let mut balancer = balancer(BalanceRules { balancing, sticky, eject: true }, 8);
        let open: Vec<Candidate> = (0u32..)
            .zip(&loads)
            .map(|(at, (used, weight))| Candidate { at, used: *used, weight: f64::from(*weight) })
            .collect();
        let mut draws = Draws::new(seed);
        for ckey in [None, Some(key.as_str())] {
            let chosen = balancer.choose(&open, ckey, &mut draws, Time(5));
            prop_assert_eq!(chosen.is_some(), !open.is_empty());
            prop_assert!(chosen.is_none_or(|at| open.iter().any(|c| c.at == at)));
        }
    }

    #[test]
    fn at_most_half_of_the_endpoints_are_left_alone(
        count in 1usize..8,
        // which endpoints are bad, in which way, how long it stays so in seconds, and which ones their breakers park
        spells in proptest::collection::vec((any::<u8>(), any::<bool>(), 1i64..90, any::<u8>(), any::<u8>()), 1..12),
    ) {
        let mut balancer = balancer(BalanceRules::default(), count);
        let (mut now, mut key) = (Time(0), 0);
        let all = || (0u32..).take(count);
        for (bad, slow, seconds, some, others) in spells {
            let parked = |at: u32| some & others & (1 << at) != 0;
            for _ in 0..seconds {
                let open = |at: &u32| balancer.ejected(*at, now).is_none() && !parked(*at);
                for at in all().filter(open).collect::<Vec<u32>>() {
                    for _ in 0..4 {
                        key += 1;
                        balancer.started(at, Key(key));
                        let is_bad = bad & (1 << at) != 0;
                        let sign = if is_bad && !slow { Sign::Unwell } else { Sign::Answered };
                        let ms = if is_bad && slow { 5_000 } else { 20 };
                        balancer.ended(at, Key(key), sign, Some(ms), now);
                    }
                }
                now = now.plus(SECOND);
                let before: Vec<bool> = all().map(|at| balancer.is_in(at)).collect();
                for (at, change) in balancer.tick(parked, now) {
                    if matches!(change, BalanceChange::Ejected { .. }) && before[at as usize] {
                        let out = all().filter(|at| !balancer.is_in(*at) || parked(*at)).count();
                        prop_assert!(out * 2 <= count, "{} of {} get nothing", out, count);
                    }
                }
                let out = all().filter(|at| !balancer.is_in(*at)).count();
                prop_assert!(out * 2 <= count, "{} of {} are left alone", out, count);
            }
            for record in &balancer.records {
                let cost = record.cost(0, 3.0, now);
                prop_assert!(cost.is_finite() && cost > 0.0, "{:?}", record);
            }
        }
    }
}
