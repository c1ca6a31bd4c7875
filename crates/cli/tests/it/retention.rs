//! What has ended goes as configured, what was named is remembered, and the room comes back.

use crate::house::House;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const KEPT: u64 = 10;

fn storage(house: &House) -> Value {
    house.must("GET", "/v1/storage", None)
}

fn ended(storage: &Value) -> u64 {
    let count = |status: &str| storage["executions"][status].as_u64().unwrap();
    count("completed") + count("failed") + count("cancelled")
}

fn until(house: &House, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let seen = storage(house);
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:#}: {}", house.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn file_bytes(house: &House) -> u64 {
    std::fs::metadata(house.data().join("enginehouse.sqlite")).unwrap().len()
}

#[test]
fn the_oldest_go_the_named_are_remembered_and_the_room_comes_back() {
    let house = House::start(&format!("[storage]\nended_max = {KEPT}\ncompression_enabled = false\n"));
    let submit = |id: Option<&str>, parameters: Value| {
        let mut request =
            json!({"engineType": "demo", "workflowId": "w", "maxRetries": 0, "parameters": parameters});
        if let Some(id) = id {
            request["id"] = json!(id);
        }
        house.must("POST", "/v1/executions", Some(&request))["id"].as_str().unwrap().to_owned()
    };
    let large = json!({"resultBytes": 700_000});
    submit(Some("mine"), large.clone());
    submit(Some("broken"), json!({"failTimes": 1}));
    assert_eq!(house.ended("mine")["status"], "completed");
    assert_eq!(house.ended("broken")["status"], "failed");
    let others: Vec<String> = (0..40).map(|_| submit(None, large.clone())).collect();
    others.iter().for_each(|id| {
        assert!(matches!(house.call("GET", &format!("/v1/executions/{id}"), None).0, 200 | 404))
    });
    let seen = until(&house, "the oldest go", |seen| {
        let rows = &seen["executions"];
        rows["pending"] == 0 && rows["running"] == 0 && ended(seen) <= KEPT + 2
    });
    assert_eq!(seen["executions"]["removed"], 30, "{seen}");
    // Of those that were named what takes room went; that they were, and how they ended, stays.
    let gone = |method: &str, path: &str| {
        let (status, answer) = house.call(method, path, None);
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(house.must("GET", "/v1/executions/mine", None)["status"], "completed");
    assert_eq!(gone("GET", "/v1/executions/mine/result"), (410, "result_gone".to_owned()));
    assert_eq!(gone("POST", "/v1/executions/broken/redrive"), (410, "result_gone".to_owned()));
    assert_eq!(gone("POST", "/v1/executions/mine/replay"), (410, "result_gone".to_owned()));
    let again =
        json!({"id": "mine", "engineType": "demo", "workflowId": "w", "maxRetries": 0, "parameters": large});
    assert_eq!(house.call("POST", "/v1/executions", Some(&again)).0, 200, "a repeated submit finds it");
    assert_eq!(gone("GET", &format!("/v1/executions/{}", others[0])), (404, "not_found".to_owned()));
    let last = &others[others.len() - 1];
    assert_eq!(house.call("GET", &format!("/v1/executions/{last}/result"), None).0, 200, "the newest stay");
    // 28 MB were stored, 7 MB are left; what is spare stays in the file.
    let most = 20 << 20;
    until(&house, "the file shrinks", |_| file_bytes(&house) < most);
    let said = house.cli(&["storage"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains("at most 10") && text.contains("30 days after"), "{text}");
    let doctor = house.must("GET", "/v1/doctor?depth=full", None);
    assert_eq!(doctor["verdict"], "ok", "{doctor:#}");
    house.stop();
}

#[test]
fn retention_that_makes_no_sense_is_refused() {
    let mut house = House::prepare(
        "[storage]\nretention_days_of_status = { running = 3 }\nretention_days_of_engine = { nobody = 3 }\n",
    );
    let serve = house.serve();
    house.spawn(serve);
    assert!(house.ready().is_some(), "it starts all the same");
    let said = house.said();
    for wanted in ["storage.retention_days_of_status.running", "storage.retention_days_of_engine.nobody"] {
        assert!(said.contains(wanted), "{said}");
    }
}
