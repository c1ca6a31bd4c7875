//! What a limit is charged with, as a text table.
//!
//! Engine `e` has 20 calls under way on endpoint `a` when that answers 503, so its limit falls to 10; 10 of them are done. There is a
//! worker with 30 slots, and 5 executions wait. Left: what else is so; right: executions held back by endpoint.

use super::*;
use crate::event::{Event, EventData, EventType};
use crate::execution::{Lane, Priority};
use crate::failure::{Failure, FailureKind};
use crate::gate::GateRules;
use crate::id::{Key, SessionId};
use crate::limits::READY_LANE_WINDOW;
use crate::pace::{Rate, RetryBudgetRules};
use crate::queue::{EndpointRules, EngineRules, Entry, WorkerRules};
use crate::rank::Rank;
use crate::time::HOUR;

const TABLE: &str = "
                             => 0:5
waiting=0                    => -
waiting=1000000              => 0:20
waiting=40 capacity=14       => 0:4
waiting=40 capacity=10       => 0:0
waiting=40 capacity=10 slots=25 => 0:15
waiting=40 max=12            => 0:2
max=10                       => -
paused                       => -
no-worker                    => -
spent                        => -
off                          => -
room                         => -
frozen                       => -
key                          => 0:1
key-running                  => -
retry                        => 0:5
retry budget=2               => 0:2
retry budget=0               => 0:0
two                          => 0:0
two both                     => 0:3 1:2
two both max=11 waiting=9    => 0:1 1:1
two pinned                   => 0:5
two pinned both              => 0:5 1:0
";

const NOW: Time = Time(1_000_000);

struct World {
    queue: Queue,
    gates: Gates,
}

fn number(words: &[&str], name: &str) -> Option<u64> {
    words.iter().find_map(|word| word.strip_prefix(name)?.parse().ok())
}

fn answer(kind: EventType, failure: Option<FailureKind>) -> Event {
    let failure = failure.map(|kind| Failure {
        kind,
        code: "c".into(),
        message: Vec::new(),
        retryable: true,
        attempt: 1,
        engine_status: Some(503),
    });
    Event { seq: 3, kind, at: NOW, attempt: 1, data: EventData { failure, ..EventData::default() } }
}

fn lane(ckey: Option<&str>, retry: bool) -> Lane {
    Lane { engine: "e".into(), user: None, ckey: ckey.map(str::to_owned), retry }
}

fn entry(key: i64, pinned: Option<u32>) -> Entry {
    Entry { key: Key(key), rank: Rank(key), priority: Priority::Normal, pinned, fail_fast: false }
}

impl World {
    fn new(words: &[&str]) -> World {
        let has = |word: &str| words.contains(&word);
        let ends: usize = if has("two") { 2 } else { 1 };
        let mut world = World { queue: Queue::new(1), gates: Gates::default() };
        let endpoints = vec![EndpointRules { weight: 1.0 }; ends];
        world.queue.set_engine("e", EngineRules { engine_type: "demo".into(), paused: false, endpoints });
        let mut rules = GateRules {
            adaptive: true,
            endpoints: (0..ends).map(|at| at.to_string()).collect(),
            retry_budget: RetryBudgetRules {
                ratio: 0.01,
                per_minute: number(words, "budget=").unwrap_or(60) as u32,
            },
            ..GateRules::default()
        };
        world.gates.set("e", rules.clone(), Time(0));
        world.set_worker(60);
        for at in (0u32..).take(ends) {
            world.fill(at, at == 0 || has("both"), has("room"));
        }
        rules.max_concurrency = number(words, "max=").map(|most| most as u32);
        rules.slots_max = number(words, "slots=").map(|most| most as u32);
        rules.adaptive = !has("off");
        if has("spent") {
            rules.rate = Some(Rate { starts: 1, per: HOUR });
        }
        world.gates.set("e", rules, NOW);
        world
    }

    fn set_worker(&mut self, capacity: u32) {
        let rules = WorkerRules { capacity, engine_types: vec!["demo".into()], open: true };
        self.queue.set_worker(SessionId(1), rules);
    }

    /// 20 calls on the endpoint, of which 10 end; `cut`: after an answer that lowers its limit to 10.
    fn fill(&mut self, at: u32, cut: bool, room: bool) {
        let first = 100 + 100 * i64::from(at);
        for key in first..first + 20 {
            self.queue.push(&lane(None, false), entry(key, Some(at)));
            assert!(self.queue.pick(&mut self.gates, NOW).is_some());
        }
        let ends = if room { 11 } else { 10 };
        for key in first..first + ends {
            let gate = self.gates.get_mut("e").expect("it is set");
            let said = if cut && key == first {
                answer(EventType::ExecutionRetrying, Some(FailureKind::Unavailable))
            } else {
                answer(EventType::ExecutionCompleted, None)
            };
            gate.observe(at, Key(key), &said, false, if key == first { NOW } else { NOW.plus(2_000) });
            self.queue.release(Key(key), NOW, true);
        }
        assert_eq!(self.gates.get("e").and_then(|gate| gate.limit(at)), cut.then_some(10));
    }

    /// What else is so, after the limit was lowered.
    fn befall(&mut self, words: &[&str]) {
        let has = |word: &str| words.contains(&word);
        let ckey = (has("key") || has("key-running")).then_some("k");
        let pinned = has("pinned").then_some(0);
        if has("key-running") {
            let held = self.queue.occupancy().leases().next().map(|(_, lease)| lease.clone());
            let lease = super::super::Lease { ckey: Some("k".to_owned()), ..held.expect("some run") };
            let key = self.queue.occupancy().leases().next().map(|(key, _)| key).expect("some run");
            self.queue.release(key, NOW, false);
            self.queue.lease(key, lease);
        }
        let waiting = number(words, "waiting=").unwrap_or(5);
        let row = lane(ckey, has("retry"));
        for key in 0..waiting.min(2 * READY_LANE_WINDOW as u64) {
            self.queue.push(&row, entry(1_000 + key as i64, pinned));
        }
        if has("spent") {
            self.gates.get_mut("e").expect("it is set").started(0, Key(99), false, NOW);
        }
        if has("frozen") {
            let gate = self.gates.get_mut("e").expect("it is set");
            let mut said = answer(EventType::ExecutionRetrying, Some(FailureKind::RateLimited));
            said.data.retry_after = Some(60_000);
            gate.observe(0, Key(115), &said, false, NOW);
        }
        if has("paused") {
            let rules = self.queue.engine("e").cloned().expect("it is set");
            self.queue.set_engine("e", EngineRules { paused: true, ..rules });
        }
        if has("no-worker") {
            self.queue.remove_worker(SessionId(1));
        } else {
            self.set_worker(number(words, "capacity=").unwrap_or(30) as u32);
        }
    }
}

#[test]
fn only_what_the_limit_alone_holds_is_counted() {
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let (words, expected) = line.split_once("=>").expect("an arrow");
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut world = World::new(&words);
        world.befall(&words);
        let held = world.queue.held_back(&world.gates, "e", NOW);
        let said: Vec<String> = held.iter().map(|(at, count)| format!("{at}:{count}")).collect();
        let said = if said.is_empty() { "-".to_owned() } else { said.join(" ") };
        assert_eq!(said, expected.trim(), "{line}");
    }
}

#[test]
fn each_is_charged_with_the_time_between_two_looks_while_there_is_a_limit() {
    let mut world = World::new(&[]);
    world.befall(&[]);
    let mut look = |at: Time| {
        let charged = world.queue.charge_limits(&mut world.gates, at);
        charged.iter().map(|charge| charge.seconds).sum::<f64>()
    };
    // (milliseconds after the limit was lowered, seconds charged)
    let table =
        [(0, 0.0), (1_000, 5.0), (1_500, 2.5), (1_500, 0.0), (2_500, 5.0), (60_000, 50.0), (59_000, 0.0)];
    for (at, seconds) in table {
        assert_eq!(look(NOW.plus(at)), seconds, "at {at}");
    }
    let holding = *world.gates.get("e").and_then(|gate| gate.holding(0)).expect("it is in force");
    assert_eq!((holding.since, holding.lowered.from, holding.lowered.to), (NOW, None, 10));
    assert_eq!((holding.waited_s, holding.held), (62.5, 5));

    // What is stored goes on; the time in which no one looked is not charged.
    let text = serde_json::to_string(&world.gates.docs()["e"]).expect("it is stored");
    let mut later = Gates::default();
    later.set("e", world.gates.get("e").expect("it is set").rules().clone(), Time(0));
    later.restore("e", serde_json::from_str(&text).expect("and read"));
    let look = |later: &mut Gates, at: u64| -> f64 {
        world.queue.charge_limits(later, NOW.plus(at)).iter().map(|charge| charge.seconds).sum()
    };
    assert_eq!((look(&mut later, 90_000), look(&mut later, 91_000)), (0.0, 5.0));
    let kept = *later.get("e").and_then(|gate| gate.holding(0)).expect("it is in force");
    assert_eq!((kept.since, kept.waited_s), (NOW, 67.5));
}
