//! The service's stream of events: nothing is missed, in order, also over a kill and a new start.

use crate::house::House;
use crate::http;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn submit(house: &House, id: &str, parameters: Value) {
    let request =
        json!({"id": id, "engine": "demo", "workflowId": "w", "maxRetries": 0, "parameters": parameters});
    house.must("POST", "/v1/executions", Some(&request));
}

/// What the command prints, by line.
fn events(house: &House, args: &[&str]) -> Vec<Value> {
    let said = house.cli(&[&["events", "--json"], args].concat());
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events of each execution, by its id, in the order in which they came.
fn by_execution(events: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["id"] != "") {
        found
            .entry(event["id"].as_str().unwrap().to_owned())
            .or_default()
            .push(event["seq"].as_u64().unwrap());
    }
    found
}

#[test]
fn every_event_is_told_once_and_in_order_whatever_happens_between() {
    let mut house = House::start("[engines.other]\ntype = \"demo\"\n");
    for n in 0..20 {
        submit(&house, &format!("a{n}"), json!({}));
    }
    (0..20).for_each(|n| drop(house.ended(&format!("a{n}"))));
    // Submitted, started, ended.
    let executions = "execution_submitted,execution_started,execution_completed,execution_failed";
    let first = events(&house, &["--after", "oldest", "--type", executions, "--count", "31"]);
    let last = first[first.len() - 1]["eventId"].as_str().unwrap().to_owned();
    house.kill();
    house.launch();
    submit(&house, "failing", json!({"failTimes": 1}));
    house.ended("failing");
    let rest = events(&house, &["--after", &last, "--type", executions, "--count", "32"]);
    let all = [first.clone(), rest].concat();
    let found = by_execution(&all);
    assert_eq!(found.len(), 21, "{found:?}");
    for (id, seqs) in &found {
        assert_eq!(seqs, &[1, 2, 3], "{id}");
    }
    let ended = all.iter().find(|event| event["type"] == "execution_failed").unwrap();
    assert_eq!(
        (&ended["id"], &ended["engine"], &ended["status"]),
        (&json!("failing"), &json!("demo"), &json!("failed"))
    );
    // What belongs to no execution is there too, unless an engine is asked for.
    let kinds: Vec<Value> =
        events(&house, &["--after", "oldest", "--type", "worker_started", "--count", "1"]);
    assert_eq!((&kinds[0]["type"], &kinds[0]["id"]), (&json!("worker_started"), &json!("")));
    let request = json!({"id": "elsewhere", "engine": "other", "workflowId": "w"});
    house.must("POST", "/v1/executions", Some(&request));
    let of_other = events(&house, &["--after", "oldest", "--engine", "other", "--count", "1"]);
    assert_eq!(of_other[0]["id"], "elsewhere");
    let text = house.cli(&["events", "--after", &last, "--engine", "demo", "--count", "1"]);
    let line = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(line.contains("execution_") && line.contains("demo"), "{line}");
    house.stop();
}

#[test]
fn the_figures_come_to_who_names_them_and_nobody_resumes_after_them() {
    let house = House::start("[metrics]\ncollection_interval = \"100ms\"\n");
    submit(&house, "a", json!({}));
    house.ended("a");
    let told = events(&house, &["--type", "metrics_updated", "--count", "2"]);
    for event in &told {
        assert_eq!((&event["type"], &event["eventId"]), (&json!("metrics_updated"), &Value::Null), "{event}");
        assert_eq!(event["data"]["totalExecutions"], 1, "{event}");
    }
    assert!(told[0]["at"].as_str() < told[1]["at"].as_str(), "{told:?}");
    // A durable event read before them is still what a reader goes on after.
    let both = "metrics_updated,execution_submitted";
    let mixed = events(&house, &["--after", "oldest", "--type", both, "--count", "2"]);
    let kinds: Vec<&Value> = mixed.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, [&json!("execution_submitted"), &json!("metrics_updated")]);
    house.stop();
}

#[test]
fn an_event_that_is_not_kept_is_said_to_be_gone() {
    let house = House::start("");
    let bearer = format!("Bearer {}", house.key);
    for id in ["0-0", "999999999-0", "nonsense", "1"] {
        let headers = [("authorization", bearer.as_str()), ("last-event-id", id)];
        let answer = http::send(house.address, &http::request("GET", "/v1/events", &headers, b"")).unwrap();
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (410, &json!("event_gone")),
            "{id}: {}",
            answer.text()
        );
    }
    let said = house.cli(&["events", "--after", "999999999-0"]);
    assert!(
        !said.status.success() && String::from_utf8_lossy(&said.stderr).contains("--after oldest"),
        "{said:?}"
    );
    house.stop();
}

#[test]
fn the_guide_names_every_type_of_event() {
    let guide = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPERATIONS.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let rows: String = guide.lines().filter(|line| line.starts_with("| `")).collect();
    for name in enginehouse_core::event::event_names() {
        assert!(rows.contains(&format!("`{name}`")), "{name} is in no table of docs/OPERATIONS.md");
    }
}
