//! A cancel really stops, wherever it meets the execution; and silence of an engine is noticed before its time is over.

use crate::engines::http_engine;
use crate::house::House;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn submit(house: &House, id: &str, engine: &str, parameters: Value, more: Value) {
    let mut request = json!({"id": id, "engine": engine, "workflowId": "w", "parameters": parameters});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    house.must("POST", "/v1/executions", Some(&request));
}

fn cancel(house: &House, id: &str) -> (u16, Value) {
    house.call("POST", &format!("/v1/executions/{id}/cancel"), None)
}

#[test]
fn work_in_its_back_off_is_cancelled_at_once() {
    let house = House::start("");
    let retry = json!({"retry": {"maxRetries": 5, "delay": 3_000_000, "maxDelay": 3_000_000}});
    submit(&house, "b", "demo", json!({"failTimes": 9, "failKind": "unavailable"}), retry);
    house.becomes(
        "
        b: pending, attempt 1, waits for backoff, unavailable demo_failure
        queue: 1 waiting, 1 backoff
        demo[0]: closed, 0 running
        slots: 0 in use, 0 leased
        workers: 2 idle",
    );
    assert_eq!(cancel(&house, "b").0, 200);
    house.becomes(
        "
        b: cancelled, attempt 1
        queue: 0 waiting
        demo[0]: closed, 0 running
        slots: 0 in use, 0 leased
        workers: 2 idle",
    );
    house.stop();
}

#[test]
fn a_run_that_is_being_taken_up_again_is_cancelled_in_its_engine() {
    let behind = House::start("");
    let bearer = behind.dir.path().join("bearer");
    std::fs::write(&bearer, format!("Bearer {}", behind.key)).unwrap();
    let mut front = House::start(&http_engine(&behind, &bearer));
    submit(&front, "r", "other", json!({"sleepMs": 600_000}), json!({}));
    front.until("r", |view| view["engineRunId"].is_string());
    front.kill();
    front.launch();
    let (status, view) = cancel(&front, "r");
    assert!(matches!(status, 200 | 202), "{status} {view}");
    assert!(matches!(cancel(&front, "r").0, 200 | 202), "once more is no error");
    assert_eq!(front.ended("r")["status"], "cancelled");
    assert_eq!(behind.ended("r.1")["status"], "cancelled", "nobody pays for a run that nobody follows");
    front.stop();
    behind.stop();
}

#[test]
fn an_engine_that_does_not_answer_is_abandoned_and_its_slot_is_free() {
    let behind = House::start("");
    let bearer = behind.dir.path().join("bearer");
    std::fs::write(&bearer, format!("Bearer {}", behind.key)).unwrap();
    let settings =
        "[scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 1\n\n[stop]\ncancel_grace = \"1s\"\n";
    let front = House::start(&format!("{settings}{}", http_engine(&behind, &bearer)));
    submit(&front, "stuck", "other", json!({"sleepMs": 600_000}), json!({}));
    front.until("stuck", |view| view["engineRunId"].is_string());
    behind.signal("STOP");
    let (status, view) = cancel(&front, "stuck");
    assert_eq!(status, 202, "{view}");
    let ended = front.ended("stuck");
    assert_eq!((&ended["status"], &ended["attempt"]), (&json!("cancelled"), &json!(1)), "{ended}");
    says_that_it_may_go_on(&front, "stuck");
    submit(&front, "next", "demo", json!({}), json!({}));
    assert_eq!(front.ended("next")["status"], "completed", "the only slot is free");
    let limited = json!({"timeout": 200, "maxRetries": 0});
    behind.signal("CONT");
    submit(&front, "late", "other", json!({"sleepMs": 600_000}), limited);
    // What the engine may still be running counts there, and holds no slot.
    front.becomes(
        "
        stuck: cancelled, attempt 1, abandoned
        next: completed, attempt 1
        late: failed, attempt 1, timeout attempt_timeout
        queue: 0 waiting
        demo[0]: closed, 0 running
        other[0]: closed, 1 running
        slots: 0 in use, 0 leased
        workers: 1 idle",
    );
    front.stop();
    behind.stop();
}

/// Cancelled means stopped, or says everywhere that it may not be.
fn says_that_it_may_go_on(house: &House, id: &str) {
    const WORDS: &str = "abandoned: the engine may still be running it";
    let view = house.must("GET", &format!("/v1/executions/{id}"), None);
    assert_eq!(view["abandoned"], true, "{view:#}");
    let (status, again) = cancel(house, id);
    assert_eq!((status, &again["abandoned"]), (200, &json!(true)), "{again:#}");
    assert_eq!(house.must("GET", &format!("/v1/executions/{id}/result"), None)["abandoned"], true);
    let attempts = house.must("GET", &format!("/v1/executions/{id}/attempts"), None);
    assert_eq!(attempts["attempts"][0]["abandoned"], true, "{attempts:#}");
    let said = |arguments: &[&str]| {
        let output = house.cli(arguments);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    for command in ["explain", "cancel", "attempts", "result"] {
        let text = said(&[command, id]);
        assert!(text.contains(WORDS), "{command}: {text}");
    }
    let shown = said(&["get", id]);
    assert!(shown.contains("abandoned") && shown.contains("the engine may still be running it"), "{shown}");
    let events = said(&["watch", id]);
    assert!(events.contains("abandoned true"), "{events}");
}

#[test]
fn what_was_stopped_does_not_say_that_it_may_go_on() {
    let house = House::start("");
    submit(&house, "stopped", "demo", json!({"sleepMs": 600_000}), json!({}));
    house.becomes(
        "
        stopped: running, attempt 1
        queue: 0 waiting
        demo[0]: closed, 1 running
        slots: 1 in use, 1 leased
        workers: 1 busy, 1 idle",
    );
    cancel(&house, "stopped");
    house.becomes(
        "
        stopped: cancelled, attempt 1
        queue: 0 waiting
        demo[0]: closed, 0 running
        slots: 0 in use, 0 leased
        workers: 2 idle",
    );
    house.stop();
}

#[test]
fn a_race_with_the_end_has_one_winner_and_the_answer_names_it() {
    let house = House::start("");
    let mut told = Vec::new();
    for n in 0..40 {
        let id = format!("race{n}");
        submit(&house, &id, "demo", json!({"sleepMs": 10}), json!({}));
        let until = Instant::now() + Duration::from_millis(n / 2);
        while Instant::now() < until {
            std::thread::yield_now();
        }
        told.push((id.clone(), cancel(&house, &id)));
    }
    for (id, (status, answer)) in told {
        let ended = house.ended(&id);
        let expected = match status {
            200 | 202 => "cancelled",
            409 => "completed",
            other => panic!("{other} {answer}"),
        };
        assert_eq!(ended["status"], expected, "{id}: {status} {answer}");
        let events = house.must("GET", &format!("/v1/executions/{id}/attempts"), None);
        assert!(events["attempts"].as_array().unwrap().len() <= 1, "{events}");
    }
    house.stop();
}

#[test]
fn silence_ends_an_attempt_and_progress_keeps_it_alive() {
    let house = House::start("");
    let idle = json!({"idleTimeout": 400});
    submit(&house, "silent", "demo", json!({"sleepMs": 600_000}), idle.clone());
    submit(&house, "talking", "demo", json!({"sleepMs": 1_600, "progress": 40}), idle);
    house.becomes(
        "
        silent: failed, attempt 1, timeout idle_timeout
        talking: completed, attempt 1
        queue: 0 waiting
        demo[0]: closed, 0 running
        slots: 0 in use, 0 leased
        workers: 2 idle",
    );
    house.stop();
}
