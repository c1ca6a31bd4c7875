//! Workers as processes: killed at random under load, orphaned, looked into, recycled; and workers that join from elsewhere.

use crate::house::{House, call, program};
use crate::ledger::{Findings, History};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(60);
const CLIENTS: u64 = 6;
const WORKERS: usize = 3;

fn processes(more: &str) -> String {
    format!(
        "[workers]\nprovider = \"process\"\n{more}\n\
         [scaling]\nmin_workers = {WORKERS}\nmax_workers = {WORKERS}\nworker_capacity = 4\n"
    )
}

/// The worker processes of a service.
pub(crate) fn children(of: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // Behind the name in parentheses: the state, then the parent.
        let mut rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let alive = rest.next() != Some("Z");
        let parent: u32 = rest.next().and_then(|ppid| ppid.parse().ok()).unwrap_or(0);
        let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if alive && parent == of && args.split(|byte| *byte == 0).nth(1) == Some(b"worker") {
            found.insert(pid);
        }
    }
    found
}

/// Looks until it likes what it sees.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WITHIN;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", WITHIN.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The workers; slots in use are the live leases whenever one looks.
fn workers(house: &House) -> Vec<Value> {
    let answer = house.must("GET", "/v1/workers", None);
    assert_eq!(answer["slots"]["inUse"], answer["slots"]["leases"], "{answer}");
    answer["workers"].as_array().unwrap().clone()
}

fn takes_work(worker: &Value) -> bool {
    matches!(worker["status"].as_str(), Some("idle" | "busy" | "overloaded"))
}

fn all_there(house: &House) -> BTreeSet<u32> {
    until("all workers take work", || {
        let pids = children(house.pid());
        let ready = workers(house).iter().filter(|w| takes_work(w)).count();
        (ready == WORKERS && pids.len() == WORKERS).then_some(pids)
    })
}

struct Load {
    stop: AtomicBool,
    serial: AtomicU64,
    acknowledged: Mutex<Vec<String>>,
}

impl Load {
    fn start(house: &House) -> (Arc<Load>, Vec<std::thread::JoinHandle<()>>) {
        let load = Arc::new(Load {
            stop: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            acknowledged: Mutex::default(),
        });
        let client = |_| {
            let (load, to, key) = (load.clone(), house.address, house.key.clone());
            std::thread::spawn(move || load.client(to, &key))
        };
        let clients = (0..CLIENTS).map(client).collect();
        (load, clients)
    }

    fn client(&self, to: SocketAddr, key: &str) {
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.serial.fetch_add(1, Ordering::SeqCst);
            let request = json!({
                "id": format!("w-{number}"), "engineType": "demo", "workflowId": "w",
                "parameters": {"sleepMs": (number * 37) % 25, "resultBytes": (number % 5) * 700},
            });
            let answer = call(to, key, "POST", "/v1/executions?wait=10s", Some(&request)).unwrap();
            assert!((200..300).contains(&answer.status), "{}", answer.text());
            self.acknowledged.lock().unwrap().push(format!("w-{number}"));
        }
    }
}

/// Differs from round to round without a clock's help.
fn mixed(round: u64) -> u64 {
    (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
}

/// `ROUNDS=500` for a long run.
#[test]
fn workers_killed_at_random_lose_nothing_and_are_replaced() {
    let rounds: u64 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let house = House::start(&processes(""));
    let mut pids: Vec<u32> = all_there(&house).into_iter().collect();
    let (load, clients) = Load::start(&house);
    let mut replaced = Vec::new();
    for round in 0..rounds {
        // The moment of the kill is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_millis(mixed(round) % 60));
        let victim = pids[usize::try_from(mixed(round + rounds)).unwrap() % pids.len()];
        kill(Pid::from_raw(i32::try_from(victim).unwrap()), Signal::SIGKILL).unwrap();
        let killed = Instant::now();
        let now = until("replaced", || {
            // In this order: once its successor is there, the dead one counts for nothing.
            let now = children(house.pid());
            let ready = workers(&house).iter().filter(|w| takes_work(w)).count();
            (ready == WORKERS && now.len() == WORKERS && !now.contains(&victim)).then_some(now)
        });
        replaced.push(killed.elapsed());
        pids = now.into_iter().collect();
    }
    load.stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let acknowledged = load.acknowledged.lock().unwrap().clone();
    let mut findings = Findings::default();
    let mut hit = 0;
    for id in &acknowledged {
        let view = house.ended(id);
        assert_eq!(view["status"], "completed", "{view}");
        hit += usize::from(view["attempt"].as_u64().unwrap() > 1);
        History::read(&house, id, &mut findings);
    }
    assert!(findings.is_empty(), "{findings:#?}");
    assert!(hit > 0, "no kill met any work");
    let metrics = house.must("GET", "/v1/metrics", None);
    assert_eq!(metrics["retriedAttempts"], 0, "a kill burnt a retry: {metrics}");
    replaced.sort();
    println!(
        "{rounds} kills, {} executions, {hit} of them met by a kill; replaced after {} ms (median), {} ms (longest)",
        acknowledged.len(),
        replaced[replaced.len() / 2].as_millis(),
        replaced[replaced.len() - 1].as_millis()
    );
    house.stop();
}

#[test]
fn workers_of_a_killed_service_end_by_themselves() {
    let mut house = House::start(&processes(""));
    let pids = all_there(&house);
    house.kill();
    until("the orphans end", || {
        pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    // The next process takes up where the first was killed.
    house.launch();
    let request = json!({"id": "after", "engineType": "demo", "workflowId": "w"});
    house.must("POST", "/v1/executions", Some(&request));
    assert_eq!(house.ended("after")["status"], "completed");
    house.stop();
}

#[test]
fn a_worker_process_shows_no_secret_and_has_them_all() {
    const SECRET: &str = "ratherVerySecretValue";
    let more = "[engines.other]\ntype = \"http\"\nendpoints = [{ url = \"http://127.0.0.1:9\" }]\n\
                api_key = { env = \"SECRET_OF_THE_TEST\" }\n";
    let mut house = House::prepare(&format!("{more}\n{}", processes("")));
    let mut serve = house.serve();
    serve.env("SECRET_OF_THE_TEST", SECRET).env("ENGINEHOUSE_API_KEY", "eh_other_secret");
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    for pid in all_there(&house) {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            let text = String::from_utf8_lossy(&text).into_owned();
            for secret in [SECRET, "ehw_", "eh_other", &house.key] {
                assert!(!text.contains(secret), "{file} of a worker holds {secret}: {text}");
            }
        }
    }
    // A worker that has not all engines of its node, with their secrets, would not be there.
    let request =
        json!({"id": "a", "engineType": "demo", "workflowId": "w", "parameters": {"echo": [1, null]}});
    house.must("POST", "/v1/executions", Some(&request));
    assert_eq!(house.ended("a")["status"], "completed");
    assert_eq!(house.must("GET", "/v1/executions/a/result", None)["result"]["echo"], json!([1, null]));
    assert!(!house.said().contains(SECRET));
    house.stop();
}

#[test]
fn a_worker_that_grows_too_large_is_replaced_and_nothing_is_lost() {
    // Less than any process has, so each is replaced as soon as its size is known.
    let house = House::start(&processes("max_memory_mib = 16\n"));
    let (load, clients) = Load::start(&house);
    let mut seen = BTreeSet::new();
    until("workers come and go", || {
        for worker in workers(&house) {
            assert_eq!(worker["provider"], "process");
            if worker["memoryBytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20) {
                seen.insert(worker["id"].as_str().unwrap().to_owned());
            }
        }
        (seen.len() > 2 * WORKERS).then_some(())
    });
    load.stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    for id in load.acknowledged.lock().unwrap().iter() {
        let view = house.ended(id);
        assert_eq!((&view["status"], &view["attempt"]), (&json!("completed"), &json!(1)), "{view}");
    }
    house.stop();
}

#[test]
fn a_pool_of_processes_serves_its_own_and_keeps_its_minimum() {
    let house = House::start(
        "[workers]\nprovider = \"process\"\n\
         [workers.pools.flows]\nengine_types = [\"command\"]\nmin_workers = 1\nmax_workers = 2\n\
         [scaling]\nmin_workers = 1\nmax_workers = 4\nworker_capacity = 2\n\
         [engines.shell]\ntype = \"command\"\nargv = [\"/bin/sh\", \"-c\", \"sleep 0.2; echo null\"]\n",
    );
    let of_pool = |worker: &Value| worker["id"].as_str().unwrap().contains("-flows-");
    until("the pool has its minimum", || {
        workers(&house).iter().any(|w| of_pool(w) && takes_work(w)).then_some(())
    });
    for at in 0..20 {
        submit(&house, &format!("other-{at}"), json!({"sleepMs": 100}));
        let own = json!({"id": format!("own-{at}"), "engine": "shell", "workflowId": "w"});
        house.must("POST", "/v1/executions", Some(&own));
    }
    let mut in_pool = 0;
    for at in 0..20 {
        let (own, other) = (format!("own-{at}"), format!("other-{at}"));
        assert_eq!(house.ended(&own)["status"], "completed");
        assert_eq!(house.ended(&other)["status"], "completed");
        let place = of_worker(&house, &other);
        assert!(!place.contains("-flows-"), "{place}, a dedicated worker, ran {other}");
        in_pool += usize::from(of_worker(&house, &own).contains("-flows-"));
    }
    assert!(in_pool > 0, "the pool's processes ran nothing");
    // When all processes are killed, one of the pool comes back as well.
    let before: BTreeSet<String> = workers(&house).iter().map(|w| w["id"].to_string()).collect();
    for pid in children(house.pid()) {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }
    until("the pool has its minimum again", || {
        let fresh = |w: &Value| of_pool(w) && takes_work(w) && !before.contains(&w["id"].to_string());
        workers(&house).iter().any(fresh).then_some(())
    });
    house.stop();
}

/// The worker that ran the last attempt.
fn of_worker(house: &House, id: &str) -> String {
    let answer = house.must("GET", &format!("/v1/executions/{id}/attempts"), None);
    let last = answer["attempts"].as_array().and_then(|attempts| attempts.last());
    last.and_then(|attempt| attempt["worker"].as_str()).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// A house whose only worker of its own is busy for good, so that other work goes to anyone who joins.
fn occupied() -> House {
    let house = House::start(
        "[scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 1\n\n[stop]\ngrace = 0\ncancel_grace = 0\n",
    );
    let request = json!({
        "id": "occupant", "engineType": "demo", "workflowId": "w", "parameters": {"sleepMs": 600_000},
    });
    house.must("POST", "/v1/executions", Some(&request));
    house.until("occupant", |view| view["status"] == "running");
    house
}

fn worker_key(house: &House) -> String {
    let request = json!({"name": "workers", "scopes": ["worker"]});
    house.must("POST", "/v1/keys", Some(&request))["secret"].as_str().unwrap().to_owned()
}

fn submit(house: &House, id: &str, parameters: Value) {
    let request = json!({"id": id, "engineType": "demo", "workflowId": "w", "parameters": parameters});
    house.must("POST", "/v1/executions", Some(&request));
}

/// One call of the protocol.
fn say(house: &House, token: &str, verb: &str, body: &Value) -> (u16, Value) {
    let answer = call(house.address, token, "POST", &format!("/v1/worker/{verb}"), Some(body)).unwrap();
    (answer.status, answer.json())
}

fn join(house: &House, token: &str, nonce: &str) -> String {
    let request = json!({"protocols": [1, 7], "nonce": nonce, "capacity": 1, "engines": {"demo": "demo"}});
    let (status, answer) = say(house, token, "register", &request);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["protocol"], 1);
    assert_eq!(answer["engineTypes"], json!(["demo"]));
    answer["session"].as_str().unwrap().to_owned()
}

/// The lease of the next order, which is to be a run.
fn next_run(house: &House, token: &str, session: &str, after: u64) -> Value {
    until("an order", || {
        let request = json!({"session": session, "after": after, "wait": 1_000});
        let (status, answer) = say(house, token, "pull", &request);
        assert_eq!(status, 200, "{answer}");
        let order = answer["orders"].get(0)?.clone();
        assert_eq!((&order["order"], &order["number"]), (&json!("run"), &json!(after + 1)), "{order}");
        Some(order["run"]["lease"].clone())
    })
}

fn refused(answer: (u16, Value), status: u16, code: &str) {
    assert_eq!((answer.0, answer.1["code"].as_str()), (status, Some(code)), "{}", answer.1);
}

#[test]
fn the_protocol_takes_nothing_from_the_wrong_worker() {
    let house = occupied();
    let token = worker_key(&house);
    let nonces = ["a-nonce-of-16-or-more", "b-nonce-of-16-or-more"];
    let register = |protocols: Value, engines: Value| {
        let body = json!({"protocols": protocols, "nonce": nonces[0], "capacity": 1, "engines": engines});
        say(&house, &token, "register", &body)
    };
    refused(register(json!([2]), json!({"demo": "demo"})), 409, "protocol_unsupported");
    refused(register(json!([1]), json!({"demo": "http"})), 400, "unknown_engine");
    let (a, b) = (join(&house, &token, nonces[0]), join(&house, &token, nonces[1]));
    // The answer to a registration may be lost; the session is the same.
    assert_eq!(join(&house, &token, nonces[0]), a);
    let pull = |token: &str, session: &str, after: u64| {
        say(&house, token, "pull", &json!({"session": session, "after": after, "wait": 0}))
    };
    refused(pull("eh_no_such_key", &a, 0), 401, "unauthorized");
    refused(pull("ehw_1_0", &a, 0), 401, "unauthorized");
    let read = json!({"name": "reader", "scopes": ["read"]});
    let reader = house.must("POST", "/v1/keys", Some(&read))["secret"].as_str().unwrap().to_owned();
    refused(pull(&reader, &a, 0), 403, "forbidden");
    // Another holder of the same scope is another holder.
    let other = worker_key(&house);
    refused(pull(&other, &a, 0), 409, "session_unknown");
    for session in ["", "nonsense", "1-2", a.split('-').next().unwrap(), &a[..a.len() - 1]] {
        refused(pull(&token, session, 0), 409, "session_unknown");
    }
    refused(pull(&token, &a, 5), 400, "invalid_field");
    assert_eq!(pull(&token, &b, 0).0, 200);

    submit(&house, "mine", json!({"sleepMs": 1}));
    submit(&house, "yours", json!({"sleepMs": 1}));
    let first = next_run(&house, &token, &b, 0);
    // An order that was not confirmed is sent again, as it was.
    assert_eq!(next_run(&house, &token, &b, 0), first);
    let second = next_run(&house, &token, &a, 0);
    assert_ne!(first["executionId"], second["executionId"]);
    let report = |session: &str, lease: &Value| {
        let end = json!({"outcome": "succeeded", "result": {"by": "hand"}});
        say(&house, &token, "report", &json!({"session": session, "lease": lease, "end": end}))
    };
    // The lease of another worker of the same key, and a fence that is not the current one.
    refused(report(&a, &first), 409, "stale_lease");
    let mut stale = first.clone();
    stale["fence"] = json!(first["fence"].as_u64().unwrap() + 1);
    refused(report(&b, &stale), 409, "stale_lease");
    let attach = json!({"session": a, "lease": first, "engineRun": "r", "canReattach": true});
    refused(say(&house, &token, "attach", &attach), 409, "stale_lease");
    let renewed = say(&house, &token, "renew", &json!({"session": a, "leases": [first, second]})).1;
    assert_eq!((&renewed["lost"], &renewed["cancel"]), (&json!([first]), &json!([])));
    let id = first["executionId"].as_str().unwrap();
    let view = house.must("GET", &format!("/v1/executions/{id}"), None);
    assert_eq!((&view["status"], &view["attempt"]), (&json!("running"), &json!(1)));
    // Its own worker's word is taken, and taken again when the answer was lost.
    assert_eq!(report(&b, &first), (200, json!({})));
    assert_eq!(report(&b, &first), (200, json!({})));
    let result = house.must("GET", &format!("/v1/executions/{id}/result"), None);
    assert_eq!(result["result"], json!({"by": "hand"}));
    assert_eq!(report(&a, &second), (200, json!({})));

    // It goes, and its session with it.
    assert_eq!(say(&house, &token, "signoff", &json!({"session": a})).0, 200);
    until("dismissed", || (pull(&token, &a, 1).1["closed"] == true).then_some(()));
    refused(report(&a, &first), 409, "stale_lease");
    house.stop();
}

struct Joined(Child);

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_worker_joins_from_elsewhere_and_leaves_when_it_is_done() {
    let mut house = occupied();
    let (token, config) = (worker_key(&house), house.dir.path().join("engines.toml"));
    std::fs::write(&config, "[engines.demo]\ntype = \"demo\"\n").unwrap();
    let mut command = program();
    command.args(["worker", "--connect", &format!("http://{}", house.address), "--name", "far"]);
    command.args(["--capacity", "2", "--config"]).arg(&config).stdin(Stdio::piped());
    let mut worker = Joined(command.spawn().unwrap());
    let mut pipe = worker.0.stdin.take().unwrap();
    writeln!(pipe, "{token}").unwrap();
    // That its standard input ends says nothing to a worker that was not started by its node.
    drop(pipe);
    let view = until("it joins", || workers(&house).into_iter().find(|w| w["id"] == "far" && takes_work(w)));
    assert_eq!((&view["provider"], &view["capacity"]), (&json!("remote"), &json!(2)));

    submit(&house, "short", json!({"echo": "there"}));
    let ended = house.ended("short");
    assert_eq!((&ended["status"], &ended["worker"]), (&json!("completed"), &json!("far")));
    submit(&house, "cancelled", json!({"sleepMs": 600_000}));
    house.until("cancelled", |view| view["status"] == "running");
    house.must("POST", "/v1/executions/cancelled/cancel", None);
    assert_eq!(house.ended("cancelled")["status"], "cancelled");

    // A service that stops sends no one away for good: its next start is joined again.
    house.halt();
    house.launch();
    house.until("occupant", |view| view["status"] == "running");
    until("it joins again", || workers(&house).into_iter().find(|w| w["id"] == "far" && takes_work(w)));

    submit(&house, "last", json!({"sleepMs": 1_500}));
    house.until("last", |view| view["status"] == "running");
    kill(Pid::from_raw(i32::try_from(worker.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = until("it goes", || worker.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    let view = house.ended("last");
    assert_eq!(
        (&view["status"], &view["attempt"]),
        (&json!("completed"), &json!(1)),
        "it finished what it had"
    );
    until("it is gone", || workers(&house).iter().all(|w| w["id"] != "far").then_some(()));
    house.stop();
}
