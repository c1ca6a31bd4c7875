//! What callers were told, and whether the service kept it: a checker over everything that a service holds after a fault.
//!
//! What the service says of itself is compared with what others know: the callers' answers, the programs that were
//! started, the runs of a service behind it.

use crate::house::House;
use enginehouse_store::{Depth, SqliteOptions, SqliteStore, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// What was asked of a service, and what it answered.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Everything that was sent, answered or not; `true` for what must be started at most once.
    pub(crate) sent: BTreeMap<String, bool>,
    /// Submits that were answered with a 2xx.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Ids that went in one request: all are stored, or none.
    pub(crate) groups: Vec<Vec<String>>,
    /// Cancels that were answered with a 2xx.
    pub(crate) cancelled: BTreeSet<String>,
    /// Redrives that were sent, and whether they were answered with a 2xx.
    pub(crate) redriven: BTreeMap<String, bool>,
    /// What a reader saw as completed.
    pub(crate) seen_completed: BTreeSet<String>,
}

/// What others know of the work that was begun.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// How often a program began, by id.
    pub(crate) programs: BTreeMap<String, usize>,
    /// How many runs a service behind has, by id.
    pub(crate) remote: BTreeMap<String, usize>,
}

/// What a check found. Empty lists are what is hoped for.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Something that was acknowledged is not there, or not so.
    pub(crate) lost: Vec<String>,
    /// Something happened twice that may happen once.
    pub(crate) double: Vec<String>,
    /// A history that contradicts itself.
    pub(crate) wrong: Vec<String>,
    /// Attempts that took up a run the engine already had; good news, and no finding.
    pub(crate) reattached: usize,
}

impl Findings {
    pub(crate) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.double.is_empty() && self.wrong.is_empty()
    }
}

/// Waits until nothing is pending or running any more.
pub(crate) fn all_ended(house: &House, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let open = house.must("GET", "/v1/executions?status=pending,running&limit=20", None);
        let open = open["executions"].as_array().unwrap();
        if open.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not ended: {open:?}\n{}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The store's own look at everything it holds.
pub(crate) fn store_findings(dir: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert!(dir.is_dir(), "{} is not there any more", dir.display());
        let store = SqliteStore::open(SqliteOptions::new(dir)).unwrap();
        assert!(store.totals().await.unwrap().accepted > 0, "another store than the one that was used");
        let report = store.check(Depth::Full).await.unwrap();
        store.close().await.unwrap();
        report.findings
    })
}

/// Every execution of the service, by id; `filter` goes into the query.
pub(crate) fn everything(house: &House, filter: &str) -> BTreeMap<String, Value> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = house.must("GET", &format!("/v1/executions?limit=1000{filter}{cursor}"), None);
        for view in page["executions"].as_array().unwrap() {
            all.insert(view["id"].as_str().unwrap().to_owned(), view.clone());
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

impl Ledger {
    /// Compares what the service holds, once everything has ended, with what is known of it.
    pub(crate) fn check(&self, house: &House, outside: &Outside) -> Findings {
        let mut findings = Findings::default();
        let stored = everything(house, "");
        self.check_promises(&stored, &mut findings);
        for (id, view) in &stored {
            let Some(once) = self.sent.get(id) else {
                findings.wrong.push(format!("{id} was never sent"));
                continue;
            };
            if view["status"] == "completed" {
                let (status, answer) = house.call("GET", &format!("/v1/executions/{id}/result"), None);
                if status != 200 {
                    findings.lost.push(format!("the result of {id} cannot be read: {answer}"));
                }
            }
            let history = History::read(house, id, &mut findings);
            let generations = view["generation"].as_u64().unwrap_or(0) as usize;
            if history.generations.len() != generations {
                findings.wrong.push(format!("{id} has {generations} generations: {history:?}"));
            }
            let programs = outside.programs.get(id).copied().unwrap_or(0);
            let started: usize = history.generations.iter().map(|g| g.fresh_starts).sum();
            if *once && (history.generations.iter().any(|g| g.fresh_starts > 1) || programs > generations) {
                findings.double.push(format!("{id} was started {programs} times: {history:?}"));
            }
            if programs > started {
                findings.double.push(format!("{id} began {programs} times in {started} attempts"));
            }
            let remote = outside.remote.get(id).copied().unwrap_or(0);
            if remote > generations {
                findings.double.push(format!("{id} has {remote} runs behind in {generations} generations"));
            }
        }
        findings
    }

    fn check_promises(&self, stored: &BTreeMap<String, Value>, findings: &mut Findings) {
        let status = |id: &String| stored.get(id).and_then(|view| view["status"].as_str());
        for id in self.acknowledged.iter().filter(|id| !stored.contains_key(*id)) {
            findings.lost.push(format!("{id} was acknowledged and is not there"));
        }
        for group in &self.groups {
            let there = group.iter().filter(|id| stored.contains_key(*id)).count();
            if there != 0 && there != group.len() {
                findings.lost.push(format!("only {there} of the group {group:?} are there"));
            }
        }
        for id in self.cancelled.iter().filter(|id| status(id) != Some("cancelled")) {
            findings.lost.push(format!("{id} was cancelled and is {:?}", status(id)));
        }
        for id in self.seen_completed.iter().filter(|id| status(id) != Some("completed")) {
            findings.lost.push(format!("{id} was seen completed and is {:?}", status(id)));
        }
        for (id, answered) in &self.redriven {
            let generation = stored.get(id).map_or(0, |view| view["generation"].as_u64().unwrap_or(0));
            if *answered && generation != 2 {
                findings.lost.push(format!("{id} was redriven and has generation {generation}"));
            }
            if generation > 2 {
                findings.double.push(format!("{id} was redriven once and has generation {generation}"));
            }
        }
    }
}

/// One execution as its events tell it.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) generations: Vec<Generation>,
}

#[derive(Debug, Default)]
pub(crate) struct Generation {
    /// Attempts that did not take up a run the engine already had.
    pub(crate) fresh_starts: usize,
    ends: usize,
}

impl History {
    /// Reads the events of an execution that ended.
    pub(crate) fn read(house: &House, id: &str, findings: &mut Findings) -> History {
        let answer = house.try_call("GET", &format!("/v1/executions/{id}/events"), None).unwrap();
        History::of(id, &answer.text(), findings)
    }

    /// Numbers without gaps, fences and attempts that only grow, and each generation ends once: what is not so goes to the
    /// findings.
    fn of(id: &str, text: &str, findings: &mut Findings) -> History {
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut history = History { generations: vec![Generation::default()] };
        let (mut last, mut fence, mut attempt) = (0, 0, 0);
        for event in events {
            let event: Value = serde_json::from_str(event).unwrap();
            // Progress and its kin are not numbered.
            let Some(seq) = event["seq"].as_u64() else { continue };
            if seq != last + 1 {
                findings.wrong.push(format!("{id}: {seq} follows {last}: {text}"));
            }
            last = seq;
            if event["type"] == "execution_started" {
                let now = (event["data"]["fence"].as_u64().unwrap(), event["attempt"].as_u64().unwrap());
                if now.0 <= fence || now.1 <= attempt {
                    findings.wrong.push(format!("{id}: a fence or an attempt does not grow: {text}"));
                }
                (fence, attempt) = now;
            }
            history.follow(id, &event, findings);
        }
        for (number, generation) in (1..).zip(&history.generations) {
            match generation.ends {
                1 => {}
                0 => findings.wrong.push(format!("{id}: generation {number} has no end: {text}")),
                ends => findings.double.push(format!("{id}: generation {number} ended {ends} times: {text}")),
            }
        }
        history
    }

    fn follow(&mut self, id: &str, event: &Value, findings: &mut Findings) {
        let kind = event["type"].as_str().unwrap();
        if kind == "execution_redriven" {
            self.generations.push(Generation::default());
            return;
        }
        let generation = self.generations.last_mut().expect("there is one from the start");
        if generation.ends > 0 && !matches!(kind, "late_result" | "operator_action") {
            findings.wrong.push(format!("{id}: {kind} after the end"));
        }
        match kind {
            "execution_started" if event["data"]["reattached"] == true => findings.reattached += 1,
            "execution_started" => generation.fresh_starts += 1,
            "execution_completed" | "execution_failed" | "execution_cancelled" => generation.ends += 1,
            _ => {}
        }
    }
}

#[test]
fn planted_faults_of_a_history_are_found() {
    let start = |fence: u64| format!("execution_started {fence}");
    let findings = |kinds: &[&str]| {
        let mut text = String::new();
        for (seq, kind) in (1..).zip(kinds) {
            // A number behind the type is the fence and the attempt; a gap is a number that is missing.
            let (kind, number) = kind.split_once(' ').unwrap_or((kind, "0"));
            let number: u64 = number.parse().unwrap();
            if kind != "gap" {
                let event = serde_json::json!({"seq": seq, "type": kind, "attempt": number, "data": {"fence": number}});
                text.push_str(&format!("data: {event}\n\n"));
            }
        }
        let mut findings = Findings::default();
        History::of("x", &text, &mut findings);
        (findings.wrong.len(), findings.double.len())
    };
    let (submitted, completed, failed) = ("execution_submitted", "execution_completed", "execution_failed");
    let (one, two) = (start(1), start(2));
    for (kinds, wrong, double) in [
        (vec![submitted, &one, completed], 0, 0),
        (vec![submitted, &one, failed, "execution_redriven", &two, completed, "late_result"], 0, 0),
        (vec![submitted, &one], 1, 0),
        (vec![submitted, &one, failed, "execution_redriven"], 1, 0),
        (vec![submitted, "gap", &one, completed], 1, 0),
        (vec![submitted, &two, "execution_interrupted", &one, completed], 1, 0),
        (vec![submitted, &one, failed, &two], 1, 0),
        (vec![submitted, &one, completed, completed], 1, 1),
    ] {
        assert_eq!(findings(&kinds), (wrong, double), "{kinds:?}");
    }
}

#[test]
fn planted_faults_of_a_ledger_are_found() {
    let view =
        |status: &str, generation: u64| serde_json::json!({"status": status, "generation": generation});
    let stored: BTreeMap<String, Value> = [
        ("a".to_owned(), view("completed", 1)),
        ("b".to_owned(), view("cancelled", 1)),
        ("c".to_owned(), view("failed", 3)),
    ]
    .into();
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<String>>();
    let findings = |ledger: Ledger| {
        let mut findings = Findings::default();
        ledger.check_promises(&stored, &mut findings);
        (findings.lost.len(), findings.double.len())
    };
    let ledger = Ledger::default;
    for (ledger, expected) in [
        (Ledger { acknowledged: set(&["a", "b", "c"]), cancelled: set(&["b"]), ..ledger() }, (0, 0)),
        (
            Ledger {
                seen_completed: set(&["a"]),
                groups: vec![vec!["x".to_owned(), "y".to_owned()]],
                ..ledger()
            },
            (0, 0),
        ),
        (Ledger { acknowledged: set(&["a", "x"]), ..ledger() }, (1, 0)),
        (Ledger { cancelled: set(&["a"]), ..ledger() }, (1, 0)),
        (Ledger { seen_completed: set(&["b"]), ..ledger() }, (1, 0)),
        (Ledger { groups: vec![vec!["a".to_owned(), "x".to_owned()]], ..ledger() }, (1, 0)),
        (Ledger { redriven: [("a".to_owned(), true)].into(), ..ledger() }, (1, 0)),
        (Ledger { redriven: [("c".to_owned(), false)].into(), ..ledger() }, (0, 1)),
    ] {
        let told = format!("{ledger:?}");
        assert_eq!(findings(ledger), expected, "{told}");
    }
}
