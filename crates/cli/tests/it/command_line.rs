//! The first start, and every command against a running service.

use crate::house::{House, mode, program};
use serde_json::Value;
use std::process::Output;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must exit so.
fn run(house: &House, args: &[&str], exit: i32) -> Output {
    let output = house.cli(args);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {} {}", out(&output), err(&output));
    output
}

fn json(house: &House, args: &[&str]) -> Value {
    let output = run(house, args, 0);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", out(&output)))
}

#[test]
fn the_first_start_makes_keys_and_shows_one_once() {
    let mut house = House::start("");
    assert_eq!(mode(&house.data()), 0o700);
    assert_eq!(mode(&house.data().join("admin.key")), 0o600);
    let said = house.said();
    assert_eq!(said.matches(&house.key).count(), 1, "{said}");
    let seal = std::fs::read_to_string(house.data().join("seal-key.path")).unwrap();
    let seal = std::path::Path::new(seal.trim());
    assert!(!seal.starts_with(house.data()) && said.contains("without it no request"), "{said}");
    assert_eq!(mode(seal), 0o600);
    house.kill();
    house.launch();
    assert_eq!(house.said().matches(&house.key).count(), 1, "a second start shows no key");
    house.kill();
    let kept = std::fs::read(seal).unwrap();
    std::fs::remove_file(seal).unwrap();
    let refused = house.serve().output().unwrap();
    assert!(!refused.status.success());
    std::fs::write(seal, kept).unwrap();
    house.launch();
    house.stop();
}

#[test]
fn one_process_works_on_a_directory() {
    let house = House::start("");
    let second = house.serve().output().unwrap();
    assert!(!second.status.success());
    let said = err(&second);
    assert!(said.contains(&house.pid().to_string()), "the message names the other process: {said}");
    house.stop();
}

#[test]
fn executions_from_the_command_line() {
    let house = House::start("");
    let submit = ["submit", "--type", "demo", "--workflow", "hello", "--params"];
    let with = |params: &'static str, more: &[&'static str]| [&submit[..], &[params], more].concat();
    let done = run(&house, &with(r#"{"echo":"hi"}"#, &["--wait", "--id", "one"]), 0);
    assert_eq!(out(&done).trim(), r#"{"echo":"hi","attempt":1,"data":""}"#);
    run(&house, &with(r#"{"failTimes":1}"#, &["--wait", "--id", "two"]), 3);
    run(&house, &with(r#"{"sleepMs":60000}"#, &["--wait", "--wait-for", "200ms", "--id", "three"]), 5);
    run(&house, &["cancel", "three"], 0);
    assert_eq!(house.ended("three")["status"], "cancelled");
    run(&house, &["watch", "three"], 4);
    assert_eq!(json(&house, &["get", "one", "--json"])["status"], "completed");
    assert_eq!(json(&house, &["result", "one"])["echo"], "hi");
    assert_eq!(json(&house, &["request", "one", "--json"])["workflowId"], "hello");
    assert_eq!(json(&house, &["redrive", "two", "--json"])["generation"], 2);
    assert_eq!(house.ended("two")["status"], "completed", "the second attempt does not fail");
    let replayed = json(&house, &["replay", "one", "--json"]);
    assert_ne!(replayed["id"], "one");
    let listed = out(&run(&house, &["list", "--status", "completed"], 0));
    assert!(listed.contains("one") && !listed.contains("three"), "{listed}");
    run(&house, &["get", "nobody"], 1);
    run(&house, &["get"], 2);
    house.stop();
}

#[test]
fn a_file_of_requests_is_submitted_line_by_line() {
    let house = House::start("");
    let file = house.dir.path().join("requests.ndjson");
    let lines: String = (0..250)
        .map(|n| format!("{{\"id\":\"f{n}\",\"engineType\":\"demo\",\"workflowId\":\"w\"}}\n"))
        .collect();
    std::fs::write(&file, lines + "{\"engineType\":\"nobody\",\"workflowId\":\"w\"}\n").unwrap();
    let output = house.cli(&["submit", "--file", file.to_str().unwrap()]);
    assert!(err(&output).contains("250 new, 1 refused"), "{} {}", out(&output), err(&output));
    assert_eq!(house.ended("f249")["status"], "completed");
    house.stop();
}

#[test]
fn the_service_is_seen_and_steered() {
    let house = House::start("");
    for args in [
        &["queue"][..],
        &["workers"],
        &["metrics"],
        &["engines"],
        &["engines", "show", "demo"],
        &["engines", "test", "demo"],
    ] {
        assert!(!out(&run(&house, args, 0)).is_empty(), "{args:?}");
        let json = json(&house, &[args, &["--json"]].concat());
        assert!(json.is_object(), "{args:?}: {json}");
    }
    let state = |wanted: &str| {
        let (list, one) =
            (out(&run(&house, &["engines"], 0)), out(&run(&house, &["engines", "show", "demo"], 0)));
        let row = list.lines().find(|line| line.starts_with("demo")).unwrap().to_owned();
        assert_eq!(row.split_whitespace().nth(2), Some(wanted), "{list}");
        let field = one.lines().find(|line| line.starts_with("state")).unwrap();
        assert_eq!(field.split_whitespace().nth(1), Some(wanted), "{one}");
    };
    state("ready");
    assert_eq!(json(&house, &["engines", "pause", "demo", "--json"])["paused"], true);
    state("paused");
    assert_eq!(json(&house, &["engines", "resume", "demo", "--json"])["paused"], false);
    run(&house, &["engines", "breaker", "demo", "open", "--reason", "a test"], 0);
    state("parked");
    run(&house, &["engines", "breaker", "demo", "auto", "--reason", "a test"], 0);
    state("ready");
    let key = json(&house, &["keys", "create", "reader", "--scopes", "read", "--json"]);
    let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    let (status, _) = {
        let answer =
            crate::house::call(house.address, secret, "POST", "/v1/engines/demo/pause", None).unwrap();
        (answer.status, answer)
    };
    assert_eq!(status, 403, "a reader steers nothing");
    run(&house, &["keys", "delete", id], 0);
    let gone = crate::house::call(house.address, secret, "GET", "/v1/queue", None).unwrap();
    assert_eq!(gone.status, 401);
    house.stop();
}

#[test]
fn a_backup_is_taken_while_it_works_and_restored_elsewhere() {
    let mut house = House::start("");
    run(
        &house,
        &[
            "submit",
            "--type",
            "demo",
            "--workflow",
            "w",
            "--params",
            r#"{"echo":7}"#,
            "--id",
            "kept",
            "--wait",
        ],
        0,
    );
    let file = house.dir.path().join("backup.sqlite");
    run(&house, &["backup", file.to_str().unwrap()], 0);
    run(&house, &["submit", "--type", "demo", "--workflow", "w", "--id", "later", "--wait"], 0);
    let seal = std::fs::read_to_string(house.data().join("seal-key.path")).unwrap();
    house.kill();
    std::fs::remove_dir_all(house.data()).unwrap();
    run(&house, &["restore", file.to_str().unwrap(), "--seal-key-file", seal.trim()], 0);
    house.launch();
    // The keys of the API came back with the store, the file with the admin key did not.
    assert_eq!(house.must("GET", "/v1/executions/kept/result", None)["result"]["echo"], 7);
    assert_eq!(house.call("GET", "/v1/executions/later", None).0, 404);
    house.stop();
}

#[test]
fn wrong_use_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        let output = program().args(["config", "check", "--config"]).arg(&file).output().unwrap();
        (output.status.code(), err(&output))
    };
    for (name, text, part) in [
        (
            "a.toml",
            "[scaling]\nmin_wokers = 2\n",
            "scaling.min_wokers: unknown key; did you mean min_workers?",
        ),
        ("b.json", "{\"scaling\": {\"minWorkers\": \"two\"}}", "scaling.minWorkers"),
        ("c.yaml", "engines:\n  x:\n    type: n8m\n", "did you mean n8n?"),
        (
            "d.toml",
            "[engines.x]\ntype = \"n8n\"\nendpoints = [{ url = \"http://h\" }]\napi_key = \"literal\"\n",
            "api_key",
        ),
        ("e.toml", "[scaling]\nmin_workers = 9\nmax_workers = 3\n", "max_workers"),
        ("f.txt", "", "must end in"),
    ] {
        let (exit, said) = check(name, text);
        assert_eq!(exit, Some(2), "{name}: {said}");
        assert!(said.contains(part) && !said.contains("literal\""), "{name}: {said}");
    }
    let unreachable =
        program().args(["queue", "--url", "http://127.0.0.1:9"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(unreachable.status.code(), Some(6), "{}", err(&unreachable));
    assert!(err(&unreachable).contains("enginehouse serve --demo"));
}

#[test]
fn every_command_explains_itself() {
    let help = out(&program().arg("--help").output().unwrap());
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names.iter().filter(|name| **name != "help") {
        let output = program().args([name, "--help"]).output().unwrap();
        assert!(output.status.success() && out(&output).len() > 100, "{name}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(out(&program().args(["completions", shell]).output().unwrap()).contains("enginehouse"));
    }
}
