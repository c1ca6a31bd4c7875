//! Submitting from the command line: with keys that may do little, the same thing twice, and files as people have them.

use crate::house::{House, call};
use serde_json::{Value, json};
use std::process::Output;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn key(house: &House, scopes: &str) -> String {
    let made = house.cli(&["keys", "create", scopes, "--scopes", scopes]);
    assert!(made.status.success(), "{}", err(&made));
    out(&made).trim().to_owned()
}

fn submit(house: &House, key: &str, params: &str, more: &[&str]) -> Output {
    let args = ["submit", "--type", "demo", "--workflow", "w", "--params", params, "--wait"];
    let mut command = house.bare_cli(&[&args[..], more].concat());
    command.env("ENGINEHOUSE_API_KEY", key).output().unwrap()
}

/// The id that was told before anything could fail.
fn told_id(output: &Output) -> String {
    let said = err(output);
    let id = said.lines().find_map(|line| line.strip_prefix("submitted "));
    id.unwrap_or_else(|| panic!("no id: {said}")).to_owned()
}

#[test]
fn who_may_only_submit_waits_for_it_and_makes_one() {
    let house = House::start("");
    for scopes in ["submit", "submit,read"] {
        let key = key(&house, scopes);
        let done = submit(&house, &key, r#"{"echo":"secret","sleepMs":300}"#, &[]);
        assert_eq!(done.status.code(), Some(0), "{scopes}: {}", err(&done));
        let id = told_id(&done);
        assert_eq!(house.ended(&id)["status"], "completed");
        assert_eq!(out(&done), "", "a result is for who may read payloads");
        assert!(err(&done).contains("read:payload"), "{}", err(&done));
        let failed = submit(&house, &key, r#"{"failTimes":1}"#, &["--json"]);
        assert_eq!(failed.status.code(), Some(3), "{scopes}: {}", err(&failed));
        let view: Value = serde_json::from_slice(&failed.stdout).unwrap();
        assert_eq!((&view["status"], &view["id"]), (&json!("failed"), &json!(told_id(&failed))));
        let over = submit(&house, &key, r#"{"sleepMs":60000}"#, &["--wait-for", "300ms"]);
        assert_eq!(over.status.code(), Some(5), "{scopes}: {}", err(&over));
        let cancelled = house.cli(&["cancel", &told_id(&over)]);
        assert!(cancelled.status.success(), "{}", err(&cancelled));
    }
    let listed = house.must("GET", "/v1/executions?limit=100", None);
    assert_eq!(listed["executions"].as_array().unwrap().len(), 6, "each was made once: {listed}");
    let (only, body) = (key(&house, "submit"), json!({"engine": "demo", "workflowId": "w"}));
    let waited = call(house.address, &only, "POST", "/v1/executions?wait=20s", Some(&body)).unwrap();
    let view = waited.json();
    assert_eq!((waited.status, &view["status"], view.get("result")), (201, &json!("completed"), None));
    house.stop();
}

#[test]
fn a_file_that_was_submitted_is_said_to_be_there() {
    let house = House::start("");
    let file = house.dir.path().join("requests.ndjson");
    let lines = |n: usize| "{\"engine\":\"demo\",\"workflowId\":\"w\"}\n".repeat(n);
    std::fs::write(&file, lines(500)).unwrap();
    let file = file.to_str().unwrap();
    let send = |more: &[&str], words: &str| {
        let output = house.cli(&[&["submit", "--file", file][..], more].concat());
        assert!(output.status.success() && err(&output).ends_with(words), "{words}: {}", err(&output));
        out(&output)
    };
    let first = send(&[], "500 new\n");
    assert_eq!(send(&[], "0 new, 500 were there already\n"), first);
    std::fs::write(house.dir.path().join("requests.ndjson"), lines(502)).unwrap();
    let told = send(&["--json"], "2 new, 500 were there already\n");
    let replayed: Vec<bool> = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["replayed"].as_bool().unwrap())
        .collect();
    assert_eq!(replayed.iter().filter(|replayed| **replayed).count(), 500);
    assert_eq!(replayed.len(), 502);
    let batch = json!({"executions": [{"id": "a", "engine": "demo", "workflowId": "w"}]});
    for replayed in [false, true] {
        let answer = house.must("POST", "/v1/executions/batch", Some(&batch));
        assert_eq!(answer["executions"][0]["replayed"], replayed, "{answer}");
    }
    house.stop();
}

#[test]
fn files_are_taken_as_editors_save_them() {
    const MARK: &str = "\u{feff}";
    let house = House::start("");
    let write = |name: &str, bytes: &[u8]| std::fs::write(house.dir.path().join(name), bytes).unwrap();
    let run = |args: &[&str], exit: i32, words: &str| {
        let output = house.cli(args);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(words), "{args:?}: {}", err(&output));
        out(&output)
    };
    let submit = ["submit", "--type", "demo", "--workflow", "w", "--wait", "--params"];
    write("p.json", format!("{MARK}{{\"echo\":\"marked\"}}\r\n").as_bytes());
    assert!(run(&[&submit[..], &["@p.json"]].concat(), 0, "").contains("marked"));
    write("q.json", format!("{MARK}{{\"engine\":\"demo\",\"workflowId\":\"w\"}}").as_bytes());
    run(&["submit", "--request", "@q.json"], 0, "");
    write("r.ndjson", format!("{MARK}{{\"engine\":\"demo\",\"workflowId\":\"w\"}}\r\n").as_bytes());
    run(&["submit", "--file", "r.ndjson"], 0, "1 new");
    write("r.ndjson", b"{\"engine\":\"demo\",\"workflowId\":\"w\"}\r\n");
    run(&["submit", "--file", "r.ndjson"], 0, "0 new, 1 was there already");
    for (name, text) in [
        ("c.json", "{\"engines\":{\"demo\":{\"type\":\"demo\"}}}"),
        ("c.toml", "[engines.demo]\ntype = \"demo\"\n"),
        ("c.yaml", "engines:\n  demo:\n    type: demo\n"),
    ] {
        write(name, format!("{MARK}{text}").as_bytes());
        run(&["config", "check", "--config", name], 0, "");
    }
    write("key", format!("{MARK}{}\r\n", house.key).as_bytes());
    run(&["queue", "--key-file", "key"], 0, "");
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    write("wide.json", &utf16);
    run(&[&submit[..], &["@wide.json"]].concat(), 2, "wide.json is UTF-16; save it as UTF-8");
    run(&["submit", "--file", "wide.json"], 2, "wide.json is UTF-16");
    run(&["config", "check", "--config", "wide.json"], 2, "is UTF-16");
    for array in
        ["[{\"engine\":\"demo\",\"workflowId\":\"w\"}]", "\n [\n{\"engine\":\"demo\"}\n]\n", "\u{feff}[]"]
    {
        write("a.json", array.as_bytes());
        run(&["submit", "--file", "a.json"], 2, "one request a line");
    }
    write("b.json", b"{\n  \"engine\": \"demo\",\n  \"workflowId\": \"w\"\n}\n");
    run(&["submit", "--file", "b.json"], 1, "each line must hold one whole request");
    house.stop();
}

#[test]
fn half_a_surrogate_pair_is_refused_in_words() {
    let house = House::start("");
    let half = r#"{"engine":"demo","workflowId":"w","parameters":{"echo":"\ud800"}}"#;
    let halves = [
        half.to_owned(),
        half.replace(r"\ud800", r"\udc00\ud800"),
        r#"{"engine":"demo","workflowId":"\ud800"}"#.to_owned(),
        r#"{"engine":"demo","workflowId":"w","metadata":{"\ud800":1}}"#.to_owned(),
    ];
    let headers =
        [("authorization", format!("Bearer {}", house.key)), ("content-type", "application/json".into())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for body in &halves {
        let request = crate::http::request("POST", "/v1/executions", &headers, body.as_bytes());
        let answer = crate::http::send(house.address, &request).unwrap();
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (400, &json!("invalid_json")), "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("half of a surrogate pair"), "{problem}");
    }
    let file = house.dir.path().join("half.ndjson");
    std::fs::write(&file, halves.join("\n") + "\n{\"engine\":\"demo\",\"workflowId\":\"w\"}\n").unwrap();
    let mixed = house.cli(&["submit", "--file", file.to_str().unwrap()]);
    assert!(err(&mixed).contains("1 new, 4 refused"), "{}", err(&mixed));
    assert_eq!(err(&mixed).matches("half of a surrogate pair").count(), 4, "{}", err(&mixed));
    let wrong = house.cli(&["submit", "--request", half]);
    assert_eq!(wrong.status.code(), Some(2), "{}", err(&wrong));
    assert!(err(&wrong).contains("(invalid_json)"), "{}", err(&wrong));
    let whole = half.replace(r"\ud800", r"\ud83d\ude00");
    let done = house.cli(&["submit", "--request", &whole, "--wait"]);
    assert!(done.status.success(), "{}", err(&done));
    house.stop();
}
