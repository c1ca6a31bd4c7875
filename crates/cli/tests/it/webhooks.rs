//! Webhooks, received and checked by an independent implementation of the Standard Webhooks specification.

use crate::house::{House, skipped};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER: &str = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

struct Receiver {
    process: Child,
    port: u16,
    received: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// `None` where the package was not installed. Port 0 takes a free one.
    fn start(port: u16) -> Option<Receiver> {
        let Some(python) = std::env::var_os("ENGINEHOUSE_WITNESS") else {
            skipped("there is no receiver of webhooks: `cargo xtask ci witnesses` installs it");
            return None;
        };
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/webhook_receiver.py");
        let mut command = Command::new(python);
        command.args([program, SECRET, &port.to_string()]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = received.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Some(Receiver { process, port, received })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }

    /// What was received, once it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = self.received();
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what}: {seen:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A service with these receivers; the secrets are in its environment.
fn start(config: &str) -> House {
    let mut house = House::prepare(config);
    launch(&mut house);
    house.read_key();
    house
}

fn launch(house: &mut House) {
    let mut serve = house.serve();
    serve.env("HOOK_SECRET", SECRET).env("HOOK_OTHER", OTHER);
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
}

fn hook(name: &str, url: &str, more: &str) -> String {
    format!(
        "[webhooks.{name}]\nurl = \"{url}\"\nsecret = {{ env = \"HOOK_SECRET\" }}\nallow_private = true\n{more}\n"
    )
}

const CALLBACKS: &str = "[callbacks]\nsecret = { env = \"HOOK_SECRET\" }\nallow_private = true\n";

fn submit(house: &House, id: &str, more: Value) {
    let mut request = json!({"id": id, "engineType": "demo", "workflowId": "w", "maxRetries": 0});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    house.must("POST", "/v1/executions", Some(&request));
}

fn deliveries(house: &House, state: &str) -> Vec<Value> {
    let answer = house.must("GET", &format!("/v1/webhooks/deliveries?state={state}"), None);
    answer["deliveries"].as_array().unwrap().clone()
}

fn until_dead(house: &House, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let dead = deliveries(house, "dead");
        if dead.len() >= count {
            return dead;
        }
        assert!(Instant::now() < deadline, "{} of {count} dead: {}", dead.len(), house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ends_and_wanted_events_are_told_signed_and_without_payload() {
    let Some(receiver) = Receiver::start(0) else { return };
    let rotated =
        "previous_secret = { env = \"HOOK_OTHER\" }\nheaders = { x-token = { env = \"HOOK_OTHER\" } }\n";
    let starts = "events = [\"execution_started\", \"worker_started\"]\n";
    let house = start(&format!(
        "{}{}{CALLBACKS}",
        hook("ends", &receiver.url("200/ends"), rotated),
        hook("starts", &receiver.url("200/starts"), starts)
    ));
    submit(
        &house,
        "good",
        json!({"parameters": {"echo": "what-nobody-may-read"}, "callbackUrl": receiver.url("200/own")}),
    );
    submit(&house, "bad", json!({"parameters": {"failTimes": 1}}));
    let of = |seen: &[Value], path: &str| {
        seen.iter().filter(|one| one["path"] == path).cloned().collect::<Vec<_>>()
    };
    let seen = receiver.until("all are told", |seen| {
        of(seen, "/200/ends").len() == 2
            && of(seen, "/200/own").len() == 1
            && of(seen, "/200/starts").len() >= 2
    });
    assert!(seen.iter().all(|one| one["verified"] == true), "{seen:#?}");
    assert!(!serde_json::to_string(&seen).unwrap().contains("what-nobody-may-read"), "{seen:#?}");
    let ends = of(&seen, "/200/ends");
    let told: BTreeMap<&str, &str> = ends
        .iter()
        .map(|one| (one["body"]["data"]["id"].as_str().unwrap(), one["body"]["type"].as_str().unwrap()))
        .collect();
    assert_eq!(told, BTreeMap::from([("bad", "execution_failed"), ("good", "execution_completed")]));
    assert!(ends.iter().all(|one| one["signatures"] == 2 && one["token"] == OTHER), "{ends:#?}");
    let failed = ends.iter().find(|one| one["body"]["data"]["id"] == "bad").unwrap();
    assert_eq!(failed["body"]["data"]["data"]["failure"]["kind"], "engine_error", "{failed}");
    // What the engine said is payload.
    assert_eq!(failed["body"]["data"]["data"]["failure"]["message"], "", "{failed}");
    let own = &of(&seen, "/200/own")[0]["body"];
    assert_eq!((&own["data"]["id"], &own["data"]["status"]), (&json!("good"), &json!("completed")), "{own}");
    let ids: BTreeSet<&str> = seen.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), seen.len(), "each is told once: {seen:#?}");
    // What was received is marked a moment later.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !deliveries(&house, "waiting").is_empty() {
        assert!(Instant::now() < deadline, "some are still waiting");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = String::from_utf8(house.cli(&["webhooks"]).stdout).unwrap();
    assert!(said.contains("everything was delivered"), "{said}");
    house.stop();
}

#[test]
fn a_kill_between_sending_and_marking_repeats_under_the_same_id_and_loses_nothing() {
    let Some(receiver) = Receiver::start(0) else { return };
    let port = receiver.port;
    let mut house = start(&hook("ends", &receiver.url("hang"), ""));
    (0..20).for_each(|n| submit(&house, &format!("e{n}"), json!({})));
    (0..20).for_each(|n| drop(house.ended(&format!("e{n}"))));
    // Some were sent, and not answered: they are not marked when the service dies.
    let first = receiver.until("some are sent", |seen| seen.len() >= 5);
    house.kill();
    drop(receiver);
    // The receiver is down for a while after the start, and answers then.
    let text = std::fs::read_to_string(house.dir.path().join("enginehouse.toml")).unwrap_or_default();
    assert!(text.contains("/hang"), "{text}");
    std::fs::write(house.dir.path().join("enginehouse.toml"), text.replace("/hang", "/200")).unwrap();
    launch(&mut house);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !deliveries(&house, "waiting").iter().any(|one| one["attempts"].as_u64() > Some(0)) {
        assert!(Instant::now() < deadline, "nothing is tried: {}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    let Some(again) = Receiver::start(port) else { return };
    for delivery in deliveries(&house, "waiting") {
        let id = delivery["id"].as_str().unwrap();
        // Delivered meanwhile, if it is not there any more.
        let _ = house.call("POST", &format!("/v1/webhooks/deliveries/{id}/replay"), None);
    }
    let told = |seen: &[Value]| -> BTreeMap<String, String> {
        let one = |one: &Value| {
            (one["body"]["data"]["id"].as_str().unwrap().to_owned(), one["id"].as_str().unwrap().to_owned())
        };
        seen.iter().map(one).collect()
    };
    let second = again.until("all are told", |seen| told(seen).len() == 20);
    assert!(second.iter().all(|one| one["verified"] == true));
    let (before, after) = (told(&first), told(&second));
    for (execution, id) in &before {
        assert_eq!(after.get(execution), Some(id), "{execution} was told under another id");
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !deliveries(&house, "waiting").is_empty() {
        assert!(Instant::now() < deadline, "some are still waiting");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("20 ends, {} sent before the kill, {} requests after it", first.len(), second.len());
    house.stop();
}

#[test]
#[cfg(debug_assertions)]
fn the_very_first_end_is_told_though_the_process_died_with_it() {
    let Some(receiver) = Receiver::start(0) else { return };
    let mut house = House::prepare(&hook("ends", &receiver.url("200"), ""));
    let mut serve = house.serve();
    serve.env("HOOK_SECRET", SECRET).env("ENGINEHOUSE_BREAKPOINT", "commit.finish.after:1");
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    // The process may die before this is answered.
    let request = json!({"id": "first", "engineType": "demo", "workflowId": "w"});
    let _ = house.try_call("POST", "/v1/executions", Some(&request));
    house.wait(Duration::from_secs(60));
    assert_eq!(receiver.received(), Vec::<Value>::new(), "it died before anything was told");
    launch(&mut house);
    let seen = receiver.until("the end is told", |seen| !seen.is_empty());
    assert_eq!(seen[0]["body"]["data"]["id"], "first", "{seen:#?}");
    house.stop();
}

#[test]
fn what_is_gone_or_forbidden_dies_and_can_be_replayed_or_discarded() {
    let Some(receiver) = Receiver::start(0) else { return };
    let house = start(&format!(
        "{}[callbacks]\nsecret = {{ env = \"HOOK_SECRET\" }}\n",
        hook("gone", &receiver.url("410"), "")
    ));
    // Callbacks may not lead to this machine: not by address, and not by name.
    submit(&house, "a", json!({"callbackUrl": receiver.url("200")}));
    submit(&house, "b", json!({"callbackUrl": format!("http://localhost:{}/200", receiver.port)}));
    let dead = until_dead(&house, 3);
    let last: BTreeSet<String> = dead.iter().map(|one| one["last"].as_str().unwrap().to_owned()).collect();
    assert!(last.contains("answered 410") && last.iter().any(|text| text.contains("not public")), "{last:?}");
    let deadline = Instant::now() + Duration::from_secs(30);
    let name = loop {
        let waiting = deliveries(&house, "waiting");
        let by_name =
            waiting.iter().find(|one| one["executionId"] == "b" && one["attempts"].as_u64() > Some(0));
        if let Some(found) = by_name {
            break found["last"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "{waiting:#?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(name.contains("no public address"), "{name}");
    assert!(receiver.received().iter().all(|one| one["path"] == "/410"), "{:#?}", receiver.received());
    // Replayed, it is sent at once, and dies again; discarded, it is gone.
    let gone: Vec<&Value> = dead.iter().filter(|one| one["receiver"] == "gone").collect();
    let id = gone[0]["id"].as_str().unwrap();
    let count = receiver.received().len();
    assert!(house.cli(&["webhooks", "replay", id]).status.success());
    receiver.until("it is sent again", |seen| seen.len() > count);
    until_dead(&house, 3);
    for one in deliveries(&house, "dead") {
        assert!(house.cli(&["webhooks", "discard", one["id"].as_str().unwrap()]).status.success());
    }
    assert_eq!(deliveries(&house, "dead"), Vec::<Value>::new());
    assert_eq!(house.call("DELETE", &format!("/v1/webhooks/deliveries/{id}"), None).0, 404);
    house.stop();
}

#[test]
fn a_slow_receiver_and_a_redirecting_one_hold_up_nobody() {
    let Some(receiver) = Receiver::start(0) else { return };
    let house = start(&format!(
        "{}{}{}",
        hook("slow", &receiver.url("hang"), "timeout = \"1s\"\n"),
        hook("elsewhere", &receiver.url("302"), ""),
        hook("good", &receiver.url("200/good"), "")
    ));
    (0..100).for_each(|n| submit(&house, &format!("e{n}"), json!({})));
    let seen = receiver.until("the good one is told all", |seen| {
        seen.iter().filter(|one| one["path"] == "/200/good").count() >= 100
    });
    assert!(seen.iter().all(|one| one["path"] != "/200/redirected"), "a redirect was followed");
    let hanging = seen.iter().filter(|one| one["path"] == "/hang").count();
    assert!(hanging < 100, "{hanging} requests to a receiver that never answers");
    let waiting = deliveries(&house, "waiting");
    assert!(
        waiting.iter().any(|one| one["receiver"] == "elsewhere" && one["last"] == "answered 302"),
        "{waiting:#?}"
    );
    house.stop();
}

fn receiver(house: &House, name: &str) -> Value {
    let answer = house.must("GET", "/v1/webhooks/receivers", None);
    let found = answer["receivers"].as_array().unwrap().iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {answer}")).clone()
}

fn until_receiver(house: &House, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = receiver(house, name);
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found}: {}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `config check` says.
fn checked(house: &House) -> (bool, String) {
    let file = house.dir.path().join("enginehouse.toml");
    let mut check = crate::house::program();
    check.args(["config", "check", "--config"]).arg(file).env("HOOK_SECRET", SECRET);
    let done = check.output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn what_would_match_nothing_or_may_not_be_asked_is_refused_at_the_check() {
    for (url, more, wanted) in [
        ("https://hooks.example", "", None),
        ("https://hooks.example", "events = [\"alert\", \"late_result\"]\n", None),
        (
            "https://hooks.example",
            "events = [\"completed\"]\n",
            Some("execution_completed, execution_failed"),
        ),
        ("https://hooks.example", "events = [\"metrics_updated\"]\n", Some("not an event type")),
        (
            "https://hooks.example",
            "events = [\"exection_failed\"]\n",
            Some("\"exection_failed\" is not an event type; did you mean execution_failed?"),
        ),
        ("http://127.0.0.1:9/x", "allow_private = false\n", Some("webhooks.x.allow_private = true")),
        ("http://localhost:9/x", "allow_private = false\n", Some("webhooks.x.allow_private = true")),
        ("http://192.168.1.1/x", "allow_private = false\n", Some("webhooks.x.allow_private = true")),
        ("http://[::1]/x", "allow_private = false\n", Some("webhooks.x.allow_private = true")),
        ("http://127.0.0.1:9/x", "allow_private = true\n", None),
    ] {
        let house = House::prepare(&format!(
            "[webhooks.x]\nurl = \"{url}\"\nsecret = {{ env = \"HOOK_SECRET\" }}\n{more}"
        ));
        let (good, said) = checked(&house);
        assert_eq!(good, wanted.is_none(), "{url} {more}: {said}");
        assert!(wanted.is_none_or(|wanted| said.contains(wanted)), "{url} {more}: {said}");
    }
    let house = House::start("");
    let (status, answer) = house.call("GET", "/v1/events?type=completed", None);
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_field")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("execution_completed"), "{answer}");
    house.stop();
}

#[test]
fn a_filter_that_was_corrected_brings_nothing_old() {
    let Some(receiver) = Receiver::start(0) else { return };
    let wrong = hook("ends", &receiver.url("200"), "events = [\"late_result\"]\n");
    let mut house = start(&wrong);
    (0..200).for_each(|n| submit(&house, &format!("old{n}"), json!({})));
    house.ended("old199");
    // A kill leaves no time to note anything.
    house.kill();
    let file = house.dir.path().join("enginehouse.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let late = hook("late", &receiver.url("200/late"), "events = [\"execution_submitted\"]\n");
    std::fs::write(&file, text.replace("late_result", "execution_completed") + &late).unwrap();
    launch(&mut house);
    submit(&house, "new", json!({}));
    let told = until_receiver(&house, "ends", |one| one["delivered"].as_u64() > Some(0));
    assert_eq!(
        (&told["last"]["executionId"], &told["last"]["delivered"]),
        (&json!("new"), &json!(true)),
        "{told}"
    );
    until_receiver(&house, "late", |one| one["delivered"].as_u64() > Some(0));
    let seen = receiver.until("both are told", |seen| seen.len() >= 2);
    assert!(seen.iter().all(|one| one["body"]["data"]["id"] == "new"), "{seen:#?}");
    // After a stop nothing is read again.
    house.halt();
    launch(&mut house);
    submit(&house, "last", json!({}));
    until_receiver(&house, "ends", |one| one["last"]["executionId"] == "last");
    until_receiver(&house, "late", |one| one["last"]["executionId"] == "last");
    assert_eq!(receiver.received().len(), 4, "{:#?}", receiver.received());
    house.stop();
}

#[test]
fn receivers_are_listed_and_tested() {
    let Some(receiver) = Receiver::start(0) else { return };
    let house = start(&format!(
        "{}{}",
        hook("good", &receiver.url("200/good"), ""),
        hook("bad", &receiver.url("500"), "events = [\"alert\"]\n")
    ));
    let said = String::from_utf8(house.cli(&["webhooks"]).stdout).unwrap();
    assert!(said.contains("good") && said.contains("never") && said.contains("alert"), "{said}");
    let good = house.cli(&["webhooks", "test", "good"]);
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success() && said.contains("good took the test event msg_test_"), "{said}");
    let seen = receiver.until("the test arrives", |seen| !seen.is_empty());
    assert_eq!(
        (&seen[0]["verified"], &seen[0]["body"]["type"]),
        (&json!(true), &json!("webhook_test")),
        "{seen:#?}"
    );
    let bad = house.cli(&["webhooks", "test", "bad"]);
    let said = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert!(bad.status.code() == Some(1) && said.contains("answered 500"), "{said}");
    let tested = house.must("POST", "/v1/webhooks/receivers/bad/test", None);
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(false), &json!(500)), "{tested}");
    let (status, answer) = house.call("POST", "/v1/webhooks/receivers/nobody/test", None);
    assert!(status == 404 && answer["detail"].as_str().unwrap().contains("bad, good"), "{answer}");
    submit(&house, "one", json!({}));
    let listed = until_receiver(&house, "good", |one| one["delivered"] == 1);
    assert_eq!(listed["last"]["text"], "answered 200", "{listed}");
    assert_eq!(listed["origin"], receiver.url("").trim_end_matches('/'), "{listed}");
    let said = String::from_utf8(house.cli(&["webhooks"]).stdout).unwrap();
    assert!(said.contains("execution_completed: answered 200"), "{said}");
    house.stop();
}
