//! Many at once: nothing is lost, memory stays small, priorities are kept.

use crate::house::House;
use serde_json::{Value, json};

const TWO_WORKERS: &str = "[scaling]\nmin_workers = 2\nmax_workers = 2\nworker_capacity = 10\n";

fn demo(priority: &str, sleep_ms: u64) -> Value {
    json!({"engineType": "demo", "workflowId": "w", "priority": priority, "parameters": {"sleepMs": sleep_ms}})
}

fn submit(house: &House, executions: &[Value]) -> Vec<String> {
    let answer = house.must("POST", "/v1/executions/batch", Some(&json!({"executions": executions})));
    let items = answer["executions"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_thousand_at_once_all_complete_in_little_memory() {
    let house = House::start(TWO_WORKERS);
    let begun = std::time::Instant::now();
    let ids = submit(&house, &vec![demo("NORMAL", 10); 1_000]);
    for id in &ids {
        assert_eq!(house.ended(id)["status"], "completed");
    }
    let took = begun.elapsed();
    let queue = house.must("GET", "/v1/queue", None);
    assert_eq!(
        (&queue["totalQueued"], &queue["totalProcessed"], &queue["totalFailed"]),
        (&json!(1_000), &json!(1_000), &json!(0))
    );
    assert_eq!(queue["activeExecutions"], 0);
    let peak = house.peak_memory();
    println!(
        "1,000 executions of 10 ms on 2 workers of 10 slots: {took:?} (ideal 0.5 s), {peak} KiB at most"
    );
    assert!(peak < 100 << 10, "{peak} KiB");
    house.stop();
}

#[test]
fn a_burst_of_mixed_priority_is_granted_in_order() {
    let house = House::start(TWO_WORKERS);
    house.must("POST", "/v1/engines/demo/pause", None);
    let mut batch = Vec::new();
    for (priority, count) in [("LOW", 50), ("NORMAL", 100), ("HIGH", 30), ("CRITICAL", 10)] {
        batch.extend(vec![demo(priority, 5); count]);
    }
    let ids = submit(&house, &batch);
    let waiting = house.must("GET", &format!("/v1/executions/{}", ids[0]), None);
    assert_eq!(waiting["wait"]["reason"], "paused", "{waiting}");
    house.must("POST", "/v1/engines/demo/resume", None);
    let rank =
        |priority: &str| ["CRITICAL", "HIGH", "NORMAL", "LOW"].iter().position(|p| *p == priority).unwrap();
    let mut grants: Vec<(String, usize, usize)> = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        let view = house.ended(id);
        assert_eq!(view["status"], "completed");
        let attempts = house.must("GET", &format!("/v1/executions/{id}/attempts"), None);
        let started = attempts["attempts"][0]["startedAt"].as_str().unwrap().to_owned();
        grants.push((started, rank(view["priority"].as_str().unwrap()), number));
    }
    // Grants of one commit have one time, so the order within a time is not seen.
    grants.sort();
    for pair in grants.windows(2) {
        let ((earlier, first, _), (later, second, _)) = (&pair[0], &pair[1]);
        assert!(earlier == later || first <= second, "{pair:?}");
    }
    house.stop();
}
