//! Engines that need nothing but this machine: a local program, and an HTTP service (another Enginehouse).

use crate::house::House;
use serde_json::json;
use std::time::{Duration, Instant};

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_program_dies_with_a_killed_service_and_runs_again() {
    let notes = tempfile::tempdir().unwrap();
    let file = notes.path().join("pids");
    // Its child ignores what is polite, and outlives its parent unless the whole group is killed.
    let script = format!("(trap '' TERM; sleep 3) & echo $$ $! >> {}; cat; wait", file.display());
    let mut house = House::start(&format!(
        "[engines.local]\ntype = \"command\"\nargv = [\"/bin/sh\", \"-c\", {script:?}]\nenv = {{ PATH = \"/usr/bin:/bin\" }}\nwork_dir = {:?}\n",
        notes.path()
    ));
    let request = json!({"id": "one", "engine": "local", "workflowId": "w", "parameters": {"a": [1.0]}});
    house.must("POST", "/v1/executions", Some(&request));
    let deadline = Instant::now() + Duration::from_secs(30);
    let pids = loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some((line, _)) = text.split_once('\n') {
            break line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        }
        assert!(Instant::now() < deadline, "the program did not begin: {}", house.said());
        std::thread::sleep(Duration::from_millis(10));
    };
    house.kill();
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(&pids[0]) {
        assert!(Instant::now() < deadline, "the program outlived the service");
        std::thread::sleep(Duration::from_millis(10));
    }
    house.launch();
    assert!(!alive(&pids[1]), "what the dead service left running is ended before its work begins again");
    let view = house.ended("one");
    assert_eq!((&view["status"], &view["attempt"]), (&json!("completed"), &json!(2)), "{view}");
    assert_eq!(house.must("GET", "/v1/executions/one/result", None)["result"], json!({"a": [1.0]}));
    let left: Vec<_> =
        std::fs::read_dir(notes.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["pids"], "the directories of both attempts are gone");
    house.stop();
}

#[test]
fn an_http_service_is_started_followed_and_stopped() {
    let behind = House::start("");
    let bearer = behind.dir.path().join("bearer");
    std::fs::write(&bearer, format!("Bearer {}", behind.key)).unwrap();
    let front = House::start(&http_engine(&behind, &bearer));
    let submit = |id: &str, parameters: serde_json::Value| {
        let request = json!({"id": id, "engine": "other", "workflowId": "deep", "parameters": parameters});
        front.must("POST", "/v1/executions", Some(&request));
    };
    submit("good", json!({"sleepMs": 300}));
    assert_eq!(front.ended("good")["status"], "completed");
    assert_eq!(front.must("GET", "/v1/executions/good/result", None)["result"], "deep");
    submit("bad", json!({"failTimes": 9}));
    let failure = front.ended("bad")["failure"].clone();
    assert_eq!(failure["kind"], "engine_error", "{failure}");
    assert!(failure["message"].as_str().unwrap().contains("attempt 1 fails"), "{failure}");
    submit("long", json!({"sleepMs": 600_000}));
    front.until("long", |view| view["engineRunId"].is_string());
    front.must("POST", "/v1/executions/long/cancel", None);
    assert_eq!(front.ended("long")["status"], "cancelled");
    assert_eq!(behind.ended("long.1")["status"], "cancelled", "the service behind was told to stop");
    front.stop();
    behind.stop();
}

/// Another Enginehouse as an HTTP service.
pub(crate) fn http_engine(behind: &House, bearer: &std::path::Path) -> String {
    let template = r#"
[engines.other]
type = "http"
endpoints = [{ url = "http://ADDRESS" }]
headers = { authorization = { file = "BEARER" } }
success = "status == 200 and body.status == 'completed'"
failure = "status == 200 and body.status == 'failed'"
cancelled = "status == 200 and body.status == 'cancelled'"
message = "/failure/message"
result = "/workflowId"
health = "/readyz"
idempotent = true
poll = { first = "50ms", longest = "200ms" }

[engines.other.request]
path = "/v1/executions"
body = '{"id": {{ idempotency_key }}, "engineType": "demo", "workflowId": {{ workflow_id }}, "parameters": {{ parameters }}}'

[engines.other.follow]
path = "/v1/executions/{{ run_id }}"
done = "body.status not in ['pending', 'running']"

[engines.other.cancel]
path = "/v1/executions/{{ run_id }}/cancel"
"#;
    template.replace("ADDRESS", &behind.address.to_string()).replace("BEARER", &bearer.display().to_string())
}
