//! What a waiting execution is told, as a text table: what the queue is like on the left, the reason on the right.
//!
//! One worker has two slots; the execution that is asked about is due, of the user `me`, on the engine `e`. `-`: nothing holds it.

use super::*;
use crate::breaker::Forced;
use crate::event::{Event, EventData, EventType};
use crate::failure::Failure;
use crate::gate::GateRules;
use crate::id::{Key, SessionId};
use crate::lifecycle::{self, NewExecution};
use crate::pace::Rate;
use crate::queue::{EndpointRules, EngineRules, Entry, WorkerRules};
use crate::rank::HeadStarts;
use crate::time::HOUR;

const TABLE: &str = "
queued                              => -
queued running=1                    => -
queued running=2                    => behind: it is the first of its lane; all worker slots are taken
queued before=1 running=2           => behind: 1 stands before it in its lane; all worker slots are taken
queued before=3 running=2           => behind: 3 stand before it in its lane; all worker slots are taken
queued before=3                     => -
leased                              => -
leased running=2                    => -
gone                                => -
gone running=2                      => -
queued running=2 rival              => fair_share: it is the first of its lane; all worker slots are taken; other users have had less of the slots' time and go first
queued running=2 rival rival-parked => behind: it is the first of its lane; all worker slots are taken
queued running=2 rival poor         => behind: it is the first of its lane; all worker slots are taken
queued running=2 starting           => scaling_up: all worker slots are taken; more workers are starting
queued running=1 starting           => -
queued no-worker starting           => scaling_up: the first worker for it is starting
queued no-worker                    => no_capable_worker: no worker that takes new work serves demo
queued key-running                  => concurrency_key: others with its concurrency key are running
leased key                          => -
queued limit=1 running=1            => engine_limit: engine e runs as many as it may: its `max_concurrency` of 1 is used up
queued running=2 refused            => engine_limit: the adaptive limit holds it back: Enginehouse lowered the limit of engine e from none to 1 at 00:16:40 UTC, because the engine answered that it is too much (429 or 503); it is raised again as the engine's answers allow; work has waited 0 s for it in all; `adaptive = false` in [engines.e] switches it off
queued running=2 refused limit=2    => engine_limit: the adaptive limit holds it back: Enginehouse lowered the limit of engine e from its `max_concurrency` of 2 to 1 at 00:16:40 UTC, because the engine answered that it is too much (429 or 503); it is raised again as the engine's answers allow; work has waited 0 s for it in all; `adaptive = false` in [engines.e] switches it off
queued limit=1                      => -
queued parked                       => parked: the circuit breaker of every endpoint of engine e holds it back; it burns no attempt
queued parked running=2             => parked: the circuit breaker of every endpoint of engine e holds it back; it burns no attempt
queued spent                        => rate_limit: engine e starts no more per time than its rate limit says
queued paused                       => paused: engine e is paused
early                               => scheduled: its time has not come
early running=2                     => scheduled: its time has not come
timed                               => -
timed running=2                     => -
timed paused                        => paused: engine e is paused
";

const NOW: Time = Time(1_000_000);

struct World {
    queue: Queue,
    gates: Gates,
}

impl World {
    fn new(words: &[&str]) -> World {
        let has = |word: &str| words.contains(&word);
        let mut world = World { queue: Queue::new(1), gates: Gates::default() };
        if !has("no-worker") {
            let rules = WorkerRules { capacity: 2, engine_types: vec!["demo".into()], open: true };
            world.queue.set_worker(SessionId(1), rules);
        }
        world.set_engine("e", number(words, "limit="), false);
        world.set_engine("f", None, has("rival-parked"));
        let runner = if has("poor") { "rival" } else { "me" };
        for key in 0..number(words, "running=").unwrap_or(0) {
            world.start(&row(i64::from(key), runner, "e", None, None));
        }
        if has("key-running") {
            world.start(&row(90, "other", "e", Some("k"), None));
        }
        for key in 0..number(words, "before=").unwrap_or(0) {
            world.push(&row(100 + i64::from(key), "me", "e", None, None));
        }
        if has("rival") {
            world.push(&row(200, "rival", "f", None, None));
        }
        world
    }

    fn set_engine(&mut self, name: &str, limit: Option<u32>, parked: bool) {
        let endpoints = vec![EndpointRules { weight: 1.0 }];
        let rules = EngineRules { engine_type: "demo".into(), paused: false, endpoints };
        self.queue.set_engine(name, rules);
        let endpoints = vec!["0".into()];
        let rules = GateRules { max_concurrency: limit, adaptive: true, endpoints, ..GateRules::default() };
        self.gates.set(name, rules, Time(0));
        if parked {
            let forced = Forced { open: true, reason: "to see it".into(), by: None, since: NOW, until: None };
            self.gates.force(name, None, Some(&forced), NOW);
        }
    }

    fn push(&mut self, row: &Execution) {
        let (key, rank, priority) = (row.key(), row.state.rank, row.state.priority);
        self.queue.push(&row.lane(), Entry { key, rank, priority, pinned: None, fail_fast: false });
    }

    fn start(&mut self, row: &Execution) {
        self.push(row);
        assert_eq!(self.queue.pick(&mut self.gates, NOW).map(|pick| pick.key), Some(row.key()));
    }

    /// What befalls the engine after others have started on it.
    fn befall(&mut self, words: &[&str]) {
        let has = |word: &str| words.contains(&word);
        if has("parked") {
            self.set_engine("e", None, true);
        }
        if has("refused") {
            let failure = Failure {
                kind: FailureKind::Unavailable,
                code: "c".into(),
                message: Vec::new(),
                retryable: true,
                attempt: 1,
                engine_status: Some(503),
            };
            let data = EventData { failure: Some(failure), ..EventData::default() };
            let event = Event { seq: 3, kind: EventType::ExecutionRetrying, at: NOW, attempt: 1, data };
            self.gates.get_mut("e").unwrap().observe(0, Key(0), &event, false, NOW);
            self.queue.release(Key(0), NOW, true);
        }
        if has("paused") {
            let rules = self.queue.engine("e").cloned().unwrap();
            self.queue.set_engine("e", EngineRules { paused: true, ..rules });
        }
        if has("spent") {
            let rate = Some(Rate { starts: 1, per: HOUR });
            let rules = GateRules { rate, endpoints: vec!["0".into()], ..GateRules::default() };
            self.gates = Gates::default();
            self.gates.set("e", rules, NOW);
            self.gates.get_mut("e").unwrap().started(0, Key(300), false, NOW);
        }
        if has("starting") {
            self.queue.expect_workers(vec![(Time(NOW.0 + 1_000), Vec::new())]);
        }
    }
}

/// The execution that is asked about, and where it stands.
fn asked(words: &[&str], world: &mut World) -> Execution {
    let ckey = words.iter().any(|word| word.starts_with("key")).then_some("k");
    let later = match words[0] {
        "early" => Some(Time(NOW.0 + 1)),
        "timed" => Some(NOW),
        _ => None,
    };
    let asked = row(500, "me", "e", ckey, later);
    match words[0] {
        "queued" => world.push(&asked),
        "leased" => {
            // It starts on a slot of its own, before the others take theirs.
            let mut early = World::new(&[]);
            early.start(&asked);
            let lease = early.queue.occupancy().lease(asked.key()).cloned().unwrap();
            world.queue.lease(asked.key(), lease);
        }
        _ => {}
    }
    asked
}

fn number(words: &[&str], name: &str) -> Option<u32> {
    words.iter().find_map(|word| word.strip_prefix(name)?.parse().ok())
}

fn row(key: i64, user: &str, engine: &str, ckey: Option<&str>, ready_at: Option<Time>) -> Execution {
    let mut new = NewExecution { ready_at, ..NewExecution::plain(key) };
    new.fixed.engine = engine.to_owned();
    new.fixed.user = Some(user.to_owned());
    new.fixed.ckey = ckey.map(str::to_owned);
    new.fixed.created_at = Time(NOW.0 - 1_000);
    lifecycle::submit(new, &HeadStarts::default())
}

#[test]
fn what_is_said_is_what_holds_it() {
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let (words, expected) = line.split_once("=>").unwrap();
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut world = World::new(&words);
        let row = asked(&words, &mut world);
        world.befall(&words);
        let wait = explain(&row, &world.queue, &world.gates, NOW);
        let said = wait.map_or("-".to_owned(), |wait| format!("{}: {}", wait.reason.as_str(), wait.text));
        assert_eq!(said, expected.trim(), "{line}");
        let audit = audit(&[row], false, &world.queue, &world.gates, NOW);
        assert_eq!(audit.findings, Vec::<String>::new(), "{line}");
    }
}
