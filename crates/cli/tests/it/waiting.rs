//! Why is it still waiting? One case for each reason that can be brought about from outside, in the API and on the command line.

use crate::house::House;
use crate::workers::children;
use serde_json::{Value, json};

const CONFIG: &str = "\
[scaling]
min_workers = 1
max_workers = 1
worker_capacity = 2

[queue]
user_weights = { vip = 100 }

[engines.narrow]
type = \"demo\"
max_concurrency = 1

[engines.paced]
type = \"demo\"
rate_limit = \"1/h\"

[engines.thrifty]
type = \"demo\"
retry_budget = { ratio = 0.01, per_minute = 0 }

[engines.halted]
type = \"demo\"

[engines.broken]
type = \"demo\"
";

fn submit(house: &House, id: &str, engine: &str, more: &Value) {
    let mut body = json!({"id": id, "engine": engine, "workflowId": "w", "parameters": {"sleepMs": 600_000}});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    house.must("POST", "/v1/executions", Some(&body));
}

/// The wait once it has this reason, after its two lines on the command line were looked at.
fn waits(house: &House, id: &str, reason: &str) -> Value {
    let view = house.until(id, |view| view["wait"]["reason"] == reason);
    let said = house.cli(&["explain", id]);
    let text = String::from_utf8(said.stdout).unwrap();
    println!("{id}:\n{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with(&format!("{reason} for ")), "{text}");
    let wait = view["wait"].clone();
    assert!(wait["since"].is_string() && wait["text"].as_str().is_some_and(|t| t.len() > 10), "{wait:#}");
    wait
}

fn blockers<'a>(wait: &'a Value, kind: &str) -> Vec<&'a Value> {
    wait["blockers"].as_array().unwrap().iter().filter(|blocker| blocker["kind"] == kind).collect()
}

/// What waits at the end, with what stands in its way.
const ALL: &str = "
scheduled: pending, attempt 0, waits for scheduled
backoff: pending, attempt 1, waits for backoff, unavailable demo_failure
thrifty: pending, attempt 1, waits for retry_budget, unavailable demo_failure
halted: pending, attempt 0, waits for paused
parked: pending, attempt 0, waits for parked
paced: pending, attempt 0, waits for rate_limit
done: completed, attempt 1
holder: running, attempt 1
keyed: pending, attempt 0, waits for concurrency_key
narrow: pending, attempt 0, waits for engine_limit
taker: running, attempt 1
behind: pending, attempt 0, waits for behind
outshared: pending, attempt 0, waits for fair_share
queue: 10 waiting, 1 backoff, 1 behind, 1 concurrency_key, 1 engine_limit, 1 fair_share, 1 parked, 1 paused, \
1 rate_limit, 1 retry_budget, 1 scheduled
broken[0]: open (forced), 0 running
demo[0]: closed, 1 running
halted[0]: closed, 0 running, paused
narrow[0]: closed, 1 running
paced[0]: closed, 0 running
thrifty[0]: closed, 0 running
slots: 2 in use, 2 leased
workers: 1 overloaded";

#[test]
fn each_reason_is_told_with_what_is_in_the_way() {
    let house = House::start(CONFIG);
    let none = json!({});
    let in_an_hour = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
    submit(&house, "scheduled", "demo", &json!({"readyAt": in_an_hour}));
    let wait = waits(&house, "scheduled", "scheduled");
    let low = wait["etaMs"]["low"].as_u64().unwrap();
    assert!(
        (3_500_000..=3_600_000).contains(&low) && wait["etaMs"]["high"].as_u64() >= Some(low),
        "{wait:#}"
    );

    let fails = json!({"failTimes": 9, "failKind": "unavailable"});
    submit(
        &house,
        "backoff",
        "demo",
        &json!({"parameters": fails, "retry": {"delay": 3_000_000, "maxDelay": 3_000_000}}),
    );
    assert!(waits(&house, "backoff", "backoff")["until"].is_string());

    submit(&house, "thrifty", "thrifty", &json!({"parameters": fails, "retry": {"delay": 1}}));
    let wait = waits(&house, "thrifty", "retry_budget");
    assert_eq!(blockers(&wait, "engine")[0]["id"], "thrifty", "{wait:#}");

    house.must("POST", "/v1/engines/halted/pause", None);
    submit(&house, "halted", "halted", &none);
    assert!(waits(&house, "halted", "paused")["etaMs"].is_null());

    let open = json!({"state": "open", "reason": "to see it"});
    house.must("POST", "/v1/engines/broken/breaker", Some(&open));
    submit(&house, "parked", "broken", &none);
    let wait = waits(&house, "parked", "parked");
    assert!(blockers(&wait, "endpoint")[0]["text"].as_str().unwrap().contains("breaker"), "{wait:#}");
    assert!(wait["etaMs"].is_null(), "as long as the operator says: {wait:#}");

    submit(&house, "paced", "paced", &none);
    assert!(waits(&house, "paced", "rate_limit")["until"].is_string());

    submit(&house, "done", "demo", &json!({"parameters": {"sleepMs": 0}}));
    assert_eq!(house.ended("done")["status"], "completed");
    let said = house.cli(&["explain", "done"]);
    assert!(String::from_utf8(said.stdout).unwrap().starts_with("completed "));

    submit(&house, "holder", "narrow", &json!({"concurrencyKey": "k"}));
    house.until("holder", |view| view["status"] == "running");
    submit(&house, "keyed", "demo", &json!({"concurrencyKey": "k"}));
    let wait = waits(&house, "keyed", "concurrency_key");
    assert_eq!(blockers(&wait, "execution")[0]["id"], "holder", "{wait:#}");

    submit(&house, "narrow", "narrow", &none);
    let wait = waits(&house, "narrow", "engine_limit");
    assert!(blockers(&wait, "endpoint")[0]["text"].as_str().unwrap().contains("1 of 1"), "{wait:#}");

    submit(&house, "taker", "demo", &json!({"userId": "busy"}));
    house.until("taker", |view| view["status"] == "running");
    submit(&house, "behind", "demo", &json!({"userId": "vip"}));
    let wait = waits(&house, "behind", "behind");
    assert_eq!(blockers(&wait, "slots")[0]["text"], "2 of 2 worker slots are taken", "{wait:#}");
    submit(&house, "outshared", "demo", &json!({"userId": "busy"}));
    waits(&house, "outshared", "fair_share");

    house.becomes(ALL);
    drop(house);
}

/// What starts in the commit that stores it is told as running, and nothing that nothing holds is told to wait.
#[test]
fn a_start_on_an_idle_service_is_not_told_to_wait() {
    let house = House::start("[scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 30\n");
    submit(&house, "first", "demo", &json!({"parameters": {"sleepMs": 0}}));
    house.ended("first");
    for n in 0..20 {
        let request = json!({"engine": "demo", "workflowId": "w", "parameters": {"sleepMs": 600_000}});
        let view = house.must("POST", "/v1/executions", Some(&request));
        assert_eq!((&view["status"], &view["wait"]), (&json!("running"), &Value::Null), "{n}: {view:#}");
        assert!(view["startedAt"].is_string() && view["worker"].is_string(), "{view:#}");
    }
    let batch: Vec<Value> =
        (0..3).map(|n| json!({"id": format!("b{n}"), "engine": "demo", "workflowId": "w"})).collect();
    let answer = house.must("POST", "/v1/executions/batch", Some(&json!({"executions": batch})));
    for item in answer["executions"].as_array().unwrap() {
        assert_eq!(item["status"], "running", "{answer:#}");
    }
    let told = house.must("GET", "/v1/queue", None)["byWaitReason"].clone();
    assert_eq!(told, json!({}), "nobody waits");
    drop(house);
}

#[test]
fn who_has_no_worker_is_told_whether_one_comes() {
    // The only worker that may exist drains, and what it runs takes forever.
    let house = House::start("[scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 2\n");
    let none = json!({});
    submit(&house, "holder", "demo", &none);
    let worker = house.until("holder", |view| view["status"] == "running")["worker"].clone();
    house.must("POST", &format!("/v1/workers/{}/drain", worker.as_str().unwrap()), None);
    submit(&house, "alone", "demo", &none);
    let wait = waits(&house, "alone", "no_capable_worker");
    assert!(wait["text"].as_str().unwrap().contains("no worker that takes new work"), "{wait:#}");
    drop(house);

    // The first worker starts, and is stopped in the middle of that.
    let house =
        House::start("[workers]\nprovider = \"process\"\n[scaling]\nmin_workers = 0\nmax_workers = 1\n");
    submit(&house, "early", "demo", &json!({"parameters": {"sleepMs": 1}}));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let starting = loop {
        if let Some(pid) = children(house.pid()).into_iter().next() {
            break nix::unistd::Pid::from_raw(pid as i32);
        }
        assert!(std::time::Instant::now() < deadline, "no worker is launched: {}", house.said());
    };
    nix::sys::signal::kill(starting, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let wait = waits(&house, "early", "scaling_up");
    assert!(wait["text"].as_str().unwrap().contains("starting"), "{wait:#}");
    nix::sys::signal::kill(starting, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(house.ended("early")["status"], "completed");
    house.stop();
}
