//! At rest: nothing a caller or an engine said can be read in any file or log line.

use crate::house::House;
use serde_json::json;
use std::path::Path;

const CANARY: &str = "canary-7f3a9c51";

/// Files below a directory that hold the canary.
fn leaks(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            leaks(&path, found);
        } else if std::fs::read(&path)
            .unwrap()
            .windows(CANARY.len())
            .any(|window| window == CANARY.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
}

#[test]
fn nothing_that_was_said_can_be_read_at_rest() {
    let mut house = House::start(
        "[log]\nlevel = \"trace\"\n\n[engines.shell]\ntype = \"command\"\nargv = [\"/bin/sh\", \"-c\", \"tee /dev/stderr; exit 1\"]\n",
    );
    let request = |id: &str, engine: &str, parameters: serde_json::Value| {
        json!({"id": id, "engine": engine, "workflowId": "w", "parameters": parameters, "metadata": {"note": CANARY},
               "concurrencyKey": CANARY, "sessionId": CANARY})
    };
    // In the parameters, the result, the metadata; then in logs and in the message of a failure.
    house.must("POST", "/v1/executions", Some(&request("ok", "demo", json!({"echo": CANARY}))));
    house.must("POST", "/v1/executions", Some(&request("bad", "shell", json!(CANARY))));
    assert_eq!(house.ended("ok")["status"], "completed");
    assert!(house.ended("bad")["failure"]["message"].as_str().unwrap().contains(CANARY));
    assert_eq!(house.must("GET", "/v1/executions/ok/result", None)["result"]["echo"], CANARY);
    house.signal("TERM");
    house.wait(std::time::Duration::from_secs(60));
    let mut found = Vec::new();
    leaks(house.dir.path(), &mut found);
    assert_eq!(found, Vec::<String>::new());
    // And it is all still there for who may read it.
    house.launch();
    assert_eq!(house.must("GET", "/v1/executions/ok/result", None)["result"]["echo"], CANARY);
    assert!(house.must("GET", "/v1/executions/bad/logs", None)["logs"].as_str().unwrap().contains(CANARY));
    house.stop();
}
