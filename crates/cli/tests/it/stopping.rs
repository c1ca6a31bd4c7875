//! Signals: a graceful stop loses nothing, a second one does not wait.

use crate::house::House;
use serde_json::json;
use std::time::Duration;

fn sleeper(house: &House, id: &str, sleep_ms: u64) {
    let request =
        json!({"id": id, "engineType": "demo", "workflowId": "w", "parameters": {"sleepMs": sleep_ms}});
    house.must("POST", "/v1/executions", Some(&request));
    house.until(id, |view| view["status"] == "running");
}

#[test]
fn what_runs_may_end_and_nothing_new_begins() {
    let mut house = House::start("");
    sleeper(&house, "short", 4_000);
    house.signal("TERM");
    // From the signal on submits are refused, while reads are still answered.
    let another = json!({"engineType": "demo", "workflowId": "w"});
    // What is accepted before the service hears of it is done like any other.
    let mut accepted = String::new();
    let mut before = 0;
    let refused = loop {
        match house.try_call("POST", "/v1/executions", Some(&another)) {
            Ok(answer) if answer.status == 503 => break answer,
            Ok(answer) => {
                assert_eq!(answer.status, 201, "{}", answer.text());
                before += 1;
                accepted += &format!("#{before}: completed, attempt 1\n");
            }
            Err(error) => panic!("{error}: {}", house.said()),
        }
    };
    assert_eq!(refused.json()["code"], "stopping", "{}", refused.text());
    assert_eq!(house.call("GET", "/v1/executions/short", None).0, 200);
    assert_eq!(house.call("GET", "/readyz", None).0, 503);
    assert!(house.wait(Duration::from_secs(30)).success());
    house.launch();
    house.becomes(&format!(
        "
        short: completed, attempt 1
        {accepted}
        queue: 0 waiting
        demo[0]: closed, 0 running
        slots: 0 in use, 0 leased
        workers: 2 idle",
    ));
    house.stop();
}

#[test]
fn what_outlasts_the_grace_is_handed_back_and_burns_no_retry() {
    let mut house = House::start("[stop]\ngrace = \"100ms\"\n");
    let request = json!({"id": "long", "engineType": "demo", "workflowId": "w", "maxRetries": 0,
                         "parameters": {"sleepMs": 3_000}});
    house.must("POST", "/v1/executions", Some(&request));
    house.until("long", |view| view["status"] == "running");
    house.signal("TERM");
    assert!(house.wait(Duration::from_secs(30)).success());
    house.launch();
    house.becomes(
        "
        long: completed, attempt 2
        queue: 0 waiting
        demo[0]: closed, 0 running
        slots: 0 in use, 0 leased
        workers: 2 idle",
    );
    let attempts = house.must("GET", "/v1/executions/long/attempts", None);
    assert_eq!(attempts["attempts"][0]["outcome"], "interrupted", "{attempts}");
    house.stop();
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut house = House::start("");
    sleeper(&house, "endless", 600_000);
    house.signal("TERM");
    loop {
        if house.call("GET", "/readyz", None).0 == 503 {
            break;
        }
    }
    house.signal("TERM");
    assert!(!house.wait(Duration::from_secs(10)).success());
    house.launch();
    // Its first attempt is over, and the work is under way again.
    house.becomes(
        "
        endless: running, attempt 2
        queue: 0 waiting
        demo[0]: closed, 1 running
        slots: 1 in use, 1 leased
        workers: 1 busy, 1 idle",
    );
    house.must("POST", "/v1/executions/endless/cancel", None);
    assert_eq!(house.ended("endless")["status"], "cancelled");
    house.stop();
}
