//! Callers at work on a service: submits with ids of their own, repeated with the same id until they are answered;
//! groups, cancels, and an operator who looks at what ended and redrives what failed.

use crate::house::{House, call};
use crate::http::Answer;
use crate::ledger::Ledger;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

const CALLERS: usize = 3;
/// The file in which programs note their starts.
const BEGAN: &str = "began";

/// Configuration of the engine `local`: a program that notes each of its starts in `notes`, by the name of the directory it
/// is started in, and gives back what it gets.
pub(crate) fn program(notes: &Path) -> String {
    let began = notes.join(BEGAN);
    let script =
        format!("printf '%s\\n' \"${{PWD##*/}}\" >> {}; /bin/sleep 0.05; exec /bin/cat", began.display());
    let table = "[engines.local]\ntype = \"command\"";
    format!("{table}\nargv = [\"/bin/sh\", \"-c\", {script:?}]\nwork_dir = {notes:?}\n")
}

/// How often each execution's program began.
pub(crate) fn programs_begun(notes: &Path) -> BTreeMap<String, usize> {
    let mut begun = BTreeMap::new();
    for name in std::fs::read_to_string(notes.join(BEGAN)).unwrap_or_default().lines() {
        // The id stands between the product's name and the attempt's number with a random one.
        let id = name.strip_prefix("enginehouse-").and_then(|rest| rest.rsplitn(3, '-').nth(2));
        *begun.entry(id.expect("an attempt's directory").to_owned()).or_default() += 1;
    }
    begun
}

/// What one step of a caller is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Its result lies in a blob.
    Large,
    /// Runs long enough to be met by a fault.
    Long,
    /// Started at most once.
    Once,
    /// Three in one request.
    Group,
    /// Due a little later.
    Scheduled,
    /// Fails once and is tried again after a while.
    BackOff,
    /// Fails for good, so that the operator redrives it.
    Failing,
    /// Cancelled while it runs.
    Cancelled,
    /// Cancelled before its time has come.
    CancelledEarly,
    /// A local program (`engines.local`).
    Program,
    ProgramOnce,
    /// A service behind this one (`engines.other`).
    #[cfg(debug_assertions)]
    Remote,
}

pub(crate) struct Load {
    /// Begins every id, so that loads do not meet.
    name: String,
    kinds: &'static [Kind],
    steps_max: u64,
    steps: AtomicU64,
    stop: AtomicBool,
    ledger: Mutex<Ledger>,
    /// How many answers had which status.
    answers: Mutex<BTreeMap<u16, u64>>,
}

/// Callers that work until they are told to stop.
pub(crate) struct Callers {
    load: Arc<Load>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    pub(crate) fn stop(self) {
        self.load.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Load {
    /// Steps of these kinds in turn, at most this many of them.
    pub(crate) fn new(name: &str, kinds: &'static [Kind], steps_max: u64) -> Arc<Load> {
        Arc::new(Load {
            name: name.to_owned(),
            kinds,
            steps_max,
            steps: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ledger: Mutex::default(),
            answers: Mutex::default(),
        })
    }

    pub(crate) fn begin(self: &Arc<Load>, house: &House) -> Callers {
        self.stop.store(false, Ordering::SeqCst);
        let (to, key) = (house.address, house.key.clone());
        let start = |work: fn(&Load, &Door)| {
            let (load, door) = (self.clone(), Door { to, key: key.clone() });
            std::thread::spawn(move || work(&load, &door))
        };
        let mut threads: Vec<_> = (0..CALLERS).map(|_| start(Load::caller)).collect();
        threads.push(start(Load::operator));
        Callers { load: self.clone(), threads }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.ledger().acknowledged.len()
    }

    /// How many answers had this status.
    pub(crate) fn answers(&self, status: u16) -> u64 {
        self.answers.lock().unwrap().get(&status).copied().unwrap_or(0)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn caller(&self, door: &Door) {
        while !self.stopped() {
            let number = self.steps.fetch_add(1, Ordering::SeqCst);
            if number >= self.steps_max {
                return;
            }
            self.step(door, number, self.kinds[number as usize % self.kinds.len()]);
        }
    }

    /// One request, repeated until it is accepted, and what belongs to it.
    pub(crate) fn step(&self, door: &Door, number: u64, kind: Kind) {
        let id = format!("{}-{number}", self.name);
        if kind == Kind::Group {
            let group: Vec<Value> = ["a", "b", "c"]
                .iter()
                .map(|part| self.request(&format!("{id}{part}"), Kind::Plain))
                .collect();
            let ids: Vec<String> = group.iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
            {
                let mut ledger = self.ledger();
                ledger.sent.extend(ids.iter().map(|id| (id.clone(), false)));
                ledger.groups.push(ids.clone());
            }
            if self.insist(door, "/v1/executions/batch", &json!({"executions": group})) {
                self.ledger().acknowledged.extend(ids);
            }
            return;
        }
        self.ledger().sent.insert(id.clone(), matches!(kind, Kind::Once | Kind::ProgramOnce));
        if !self.insist(door, "/v1/executions", &self.request(&id, kind)) {
            return;
        }
        self.ledger().acknowledged.insert(id.clone());
        if matches!(kind, Kind::Cancelled | Kind::CancelledEarly)
            && self
                .ask(door, "POST", &format!("/v1/executions/{id}/cancel"), None)
                .is_some_and(|a| a.status < 300)
        {
            self.ledger().cancelled.insert(id);
        }
    }

    fn request(&self, id: &str, kind: Kind) -> Value {
        let mut request =
            json!({"id": id, "engine": "demo", "workflowId": self.name, "parameters": {"sleepMs": 60}});
        let soon = |ms: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_millis(ms)).to_string();
        match kind {
            Kind::Plain | Kind::Group => request["parameters"]["resultBytes"] = json!(600),
            Kind::Large => request["parameters"]["resultBytes"] = json!(300_000),
            Kind::Long => request["parameters"]["sleepMs"] = json!(400),
            Kind::Once => request["atMostOnce"] = json!(true),
            Kind::Scheduled => request["readyAt"] = json!(soon(150)),
            Kind::BackOff => {
                request["parameters"] = json!({"failTimes": 1, "failKind": "bad_response", "sleepMs": 10});
                request["retry"] = json!({"delay": 50, "maxRetries": 5});
            }
            Kind::Failing => request["parameters"]["failTimes"] = json!(99),
            Kind::Cancelled => request["parameters"]["sleepMs"] = json!(1_500),
            Kind::CancelledEarly => request["readyAt"] = json!(soon(1_500)),
            Kind::Program | Kind::ProgramOnce => {
                request["engine"] = json!("local");
                request["parameters"] = json!({"id": id});
                request["atMostOnce"] = json!(kind == Kind::ProgramOnce);
            }
            #[cfg(debug_assertions)]
            Kind::Remote => request["engine"] = json!("other"),
        }
        request
    }

    /// Looks at what ended, and redrives once what failed.
    fn operator(&self, door: &Door) {
        let mut after_failed = Vec::new();
        while !self.stopped() {
            for id in self.list(door, "completed") {
                self.ledger().seen_completed.insert(id);
            }
            after_failed.extend(self.list(door, "failed"));
            for id in after_failed.drain(..) {
                if self.stopped() || self.ledger().redriven.contains_key(&id) {
                    continue;
                }
                self.ledger().redriven.insert(id.clone(), false);
                let answer = self.ask(door, "POST", &format!("/v1/executions/{id}/redrive"), None);
                if answer.is_some_and(|answer| answer.status < 300) {
                    self.ledger().redriven.insert(id, true);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn list(&self, door: &Door, status: &str) -> Vec<String> {
        let path = format!("/v1/executions?limit=50&status={status}&workflowId={}", self.name);
        let Some(answer) = self.ask(door, "GET", &path, None).filter(|answer| answer.status == 200) else {
            return Vec::new();
        };
        let rows = answer.json()["executions"].as_array().cloned().unwrap_or_default();
        rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect()
    }

    /// Sends until it is accepted; `false` when the load was stopped before.
    fn insist(&self, door: &Door, path: &str, body: &Value) -> bool {
        loop {
            match self.ask(door, "POST", path, Some(body)) {
                Some(answer) if answer.status < 300 => return true,
                Some(answer) if answer.status < 500 => panic!("{body}: {}", answer.text()),
                _ if self.stopped() => return false,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn ask(&self, door: &Door, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let answer = call(door.to, &door.key, method, path, body).ok()?;
        *self.answers.lock().unwrap().entry(answer.status).or_default() += 1;
        Some(answer)
    }
}

/// Where a service is, and the key to it.
pub(crate) struct Door {
    pub(crate) to: SocketAddr,
    pub(crate) key: String,
}
