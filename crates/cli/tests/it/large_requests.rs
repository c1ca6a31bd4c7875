//! Requests above 4 MiB, where they are allowed: whole from the caller to the engine, and bounded.

use crate::house::House;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn request(id: &str, bytes: usize) -> Value {
    json!({"id": id, "engine": "demo", "workflowId": "w", "parameters": {"echo": "x".repeat(bytes)}})
}

#[test]
fn a_large_request_is_taken_whole_where_it_is_allowed() {
    let mut house = House::start("[server]\nbody_max_mib = 64\n");
    for (id, bytes) in [("six", 6 * MIB), ("forty", 40 * MIB), ("most", 64 * MIB - 4_096)] {
        house.must("POST", "/v1/executions", Some(&request(id, bytes)));
        let ended = house.ended(id);
        assert_eq!(ended["status"], "completed", "{ended}");
        assert_eq!(
            house.must("GET", &format!("/v1/executions/{id}/request"), None)["parameters"]["echo"]
                .as_str()
                .unwrap()
                .len(),
            bytes
        );
        let result = house.must("GET", &format!("/v1/executions/{id}/result"), None);
        assert_eq!(result["result"]["echo"].as_str().map(str::len), Some(bytes), "{id}");
    }
    let (status, answer) = house.call("POST", "/v1/executions", Some(&request("more", 64 * MIB)));
    assert_eq!((status, &answer["code"]), (413, &json!("body_too_large")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("server.body_max_mib"), "{answer}");
    // What was taken is not lost when less is taken from now on.
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let mut waits = request("waits", 5 * MIB);
    waits["readyAt"] = json!(later.to_string());
    house.must("POST", "/v1/executions", Some(&waits));
    house.halt();
    let file = house.dir.path().join("enginehouse.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("body_max_mib = 64", "body_max_mib = 1")).unwrap();
    house.launch();
    let replayed = house.must("POST", "/v1/executions/waits/replay", None);
    assert!(replayed["id"].is_string(), "{replayed}");
    assert_eq!(
        house.must("GET", "/v1/executions/waits/request", None)["parameters"]["echo"].as_str().unwrap().len(),
        5 * MIB
    );
    assert_eq!(house.call("POST", "/v1/executions", Some(&request("small", MIB))).0, 413);
    house.stop();
}

#[test]
fn a_worker_process_is_given_a_large_request_and_reports_a_large_result() {
    let house = House::start("[server]\nbody_max_mib = 64\n\n[workers]\nprovider = \"process\"\n");
    house.must("POST", "/v1/executions", Some(&request("forty", 40 * MIB)));
    let ended = house.ended("forty");
    assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(1)), "{ended}");
    let result = house.must("GET", "/v1/executions/forty/result", None);
    assert_eq!(result["result"]["echo"].as_str().map(str::len), Some(40 * MIB));
    house.stop();
}

#[test]
fn a_file_with_large_lines_is_sent_in_what_the_service_takes() {
    for (mib, taken) in [(1, 3), (16, 5)] {
        let house = House::start(&format!("[server]\nbody_max_mib = {mib}\n"));
        let file = house.dir.path().join("requests.ndjson");
        let sizes = [600_000, 600_000, 600_000, 3 * MIB, 6 * MIB];
        let lines: String = sizes
            .iter()
            .enumerate()
            .map(|(n, size)| format!("{}\n", request(&format!("l{n}"), *size)))
            .collect();
        std::fs::write(&file, lines).unwrap();
        let done = house.cli(&["submit", "--file", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let told =
            if taken == 5 { "5 new\n".to_owned() } else { format!("{taken} new, {} refused", 5 - taken) };
        assert!(said.contains(&told), "{mib}: {said}");
        (0..taken).for_each(|n| assert_eq!(house.ended(&format!("l{n}"))["status"], "completed"));
        house.stop();
    }
}
