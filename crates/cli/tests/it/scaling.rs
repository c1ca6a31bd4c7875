//! The pool follows the demand, says why, and can be steered while it runs.

use crate::house::{House, skipped};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Small workers, quick decisions: everything that takes 20 s in production takes a second.
fn quick(more: &str) -> String {
    format!(
        "[scaling]\nworker_capacity = 2\ntick_interval = \"100ms\"\nslo_wait = \"500ms\"\nretention = \"500ms\"\n\
         scale_up_cooldown = \"100ms\"\nscale_down_cooldown = \"200ms\"\nworker_startup_time = \"100ms\"\n{more}"
    )
}

fn submit(house: &House, count: usize, sleep_ms: u64) -> Vec<String> {
    let one = json!({"engineType": "demo", "workflowId": "w", "parameters": {"sleepMs": sleep_ms}});
    let answer = house.must("POST", "/v1/executions/batch", Some(&json!({"executions": vec![one; count]})));
    answer["executions"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().to_owned()).collect()
}

fn until(house: &House, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let scaling = house.must("GET", "/v1/scaling", None);
        if holds(&scaling) {
            return scaling;
        }
        assert!(Instant::now() < deadline, "{what}: {scaling:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn decisions(house: &House) -> Vec<Value> {
    house.must("GET", "/v1/scaling/decisions?limit=1000", None)["decisions"].as_array().unwrap().clone()
}

fn workers(scaling: &Value) -> u64 {
    scaling["ready"].as_u64().unwrap() + scaling["starting"].as_u64().unwrap()
}

#[test]
fn two_hundred_grow_the_pool_and_it_shrinks_again() {
    let house = House::start(&quick("min_workers = 2\nmax_workers = 12\nshadow = \"threshold\"\n"));
    let ids = submit(&house, 200, 200);
    until(&house, "the pool grows", |scaling| workers(scaling) > 2);
    let mut most = 0;
    for id in &ids {
        let ended = house.ended(id);
        assert_eq!(ended["status"], "completed");
        assert_eq!(ended["attempt"], 1, "a busy worker was stopped: {ended}");
        most = most.max(workers(&house.must("GET", "/v1/scaling", None)));
    }
    until(&house, "the pool shrinks", |scaling| workers(scaling) == 2 && scaling["draining"] == 0);
    let decisions = decisions(&house);
    assert!(most <= 12, "{most} workers");
    let of = |action: &str| decisions.iter().filter(|d| d["action"] == action).count();
    assert!(of("scale_up") >= 1 && of("scale_down") >= 1, "{decisions:#?}");
    for decision in &decisions {
        assert!(decision["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{decision:#}");
        assert!(decision["rule"].is_string() && decision["inputs"]["engines"].is_array(), "{decision:#}");
        assert!((2..=12).contains(&decision["targetWorkerCount"].as_u64().unwrap()), "{decision:#}");
        assert_eq!(decision["shadow"]["policy"], "threshold", "{decision:#}");
    }
    let differs = |d: &&Value| d["shadow"]["targetWorkerCount"] != d["targetWorkerCount"];
    assert!(decisions.iter().any(|d| differs(&d)), "the shadow says the same each time: {decisions:#?}");
    let reached = decisions.iter().find(|d| d["outcome"]["reachedAfterMs"].is_u64());
    let reached = reached.unwrap_or_else(|| panic!("no decision came true: {decisions:#?}"));
    let said = house.cli(&["scaling", "explain", reached["id"].as_str().unwrap()]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.starts_with(&format!("Why {}?", reached["targetWorkerCount"])), "{text}");
    println!("{} decisions; at most {most} workers of 2 slots for 200 executions of 200 ms", decisions.len());
    house.stop();
}

#[test]
fn without_work_there_need_be_no_worker_and_work_brings_one_back() {
    let house = House::start(&quick("min_workers = 0\nmax_workers = 4\n"));
    let first = submit(&house, 1, 10);
    assert_eq!(house.ended(&first[0])["status"], "completed");
    until(&house, "the last worker goes", |scaling| workers(scaling) == 0 && scaling["draining"] == 0);
    let second = submit(&house, 3, 10);
    for id in &second {
        assert_eq!(house.ended(id)["status"], "completed");
    }
    house.stop();
}

#[test]
fn an_operator_changes_the_rules_for_a_time_and_a_restart_keeps_them() {
    let mut house = House::start(&quick("min_workers = 1\nmax_workers = 6\n"));
    until(&house, "one worker", |scaling| workers(scaling) == 1);
    let (status, answer) =
        house.call("PUT", "/v1/scaling", Some(&json!({"minWorkers": 7, "reason": "more than the most"})));
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_field")), "{answer}");
    assert_eq!(answer["errors"][0]["pointer"], "/minWorkers", "{answer}");
    let (status, _) = house.call("PUT", "/v1/scaling", Some(&json!({"workers": 7})));
    assert_eq!(status, 400, "a field that does not exist");

    let change = json!({"minWorkers": 4, "policy": "threshold", "reason": "a launch is announced"});
    let changed = house.must("PUT", "/v1/scaling", Some(&change));
    assert_eq!(changed["rules"]["minWorkers"], 4);
    assert!(changed["changed"]["by"].is_string() && changed["changed"]["until"].is_null(), "{changed:#}");
    until(&house, "four workers", |scaling| scaling["ready"] == 4);
    house.kill();
    house.launch();
    let after = until(&house, "four workers after the restart", |scaling| scaling["ready"] == 4);
    assert_eq!(after["rules"]["policy"], "threshold");
    assert_eq!(after["changed"]["rules"]["reason"], "a launch is announced");

    house.must("PUT", "/v1/scaling", Some(&json!({"minWorkers": 3, "for": "500ms"})));
    let over = until(&house, "the change runs out", |scaling| scaling["changed"].is_null());
    assert_eq!((&over["rules"]["minWorkers"], &over["rules"]["policy"]), (&json!(1), &json!("lead_time")));
    until(&house, "one worker again", |scaling| workers(scaling) == 1);
    house.stop();
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_the_reason() {
    let house = House::prepare(&quick("min_workers = 3\nmax_workers = 2\nscale_up_threshold = 0.2\n"));
    let said = house.serve().output().unwrap();
    assert!(!said.status.success());
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("scaling.min_workers") && text.contains("3 > 2"), "{text}");
}

#[test]
fn the_own_traffic_comes_out_as_a_trace() {
    let house = House::start(&quick("min_workers = 1\nmax_workers = 3\n"));
    let failing = json!({"engineType": "demo", "workflowId": "w", "priority": "CRITICAL", "retry": {"delay": 50},
        "parameters": {"sleepMs": 30, "failTimes": 1, "failKind": "unavailable"}});
    let failing = house.must("POST", "/v1/executions", Some(&failing));
    house.ended(failing["id"].as_str().unwrap());
    for id in submit(&house, 20, 40) {
        house.ended(&id);
    }
    let in_an_hour = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let later = json!({"engineType": "demo", "workflowId": "w", "readyAt": in_an_hour.to_string()});
    house.must("POST", "/v1/executions", Some(&later));
    let dir = house.dir.path();
    let said = house.cli(&["trace", "export", "--out", "t.csv", "--scenario", "t.json"]);
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("1 execution left out"), "{said:?}");
    let trace = std::fs::read_to_string(dir.join("t.csv")).unwrap();
    let mut lines = trace.lines();
    assert_eq!(lines.next(), Some("arrival_s,service_s,engine,priority"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 22, "{trace}");
    assert_eq!(rows.iter().filter(|row| row[3] == "3").count(), 2, "both attempts: {trace}");
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert!(rows.is_sorted_by_key(|row| number(row[0])) && number(rows[0][0]) == 0.0, "{trace}");
    let ran = rows.iter().filter(|row| row[3] == "1").all(|row| (0.04..20.0).contains(&number(row[1])));
    assert!(ran && rows.iter().all(|row| row[2] == "demo"), "{trace}");
    let scenario: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("t.json")).unwrap()).unwrap();
    assert_eq!((&scenario["max_workers"], &scenario["slots"]), (&json!(3), &json!(2)));
    assert_eq!((&scenario["slo_wait_s"], &scenario["tick_s"]), (&json!(0.5), &json!(0.1)));
    let said = house.cli(&[
        "simulate",
        "--json",
        "--trace",
        "t.csv",
        "--scenario",
        "t.json",
        "--whatif",
        "maxWorkers=6",
    ]);
    let tried: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let names: Vec<&str> =
        tried.as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lead_time", "lead_time maxWorkers=6"]);
    assert!(tried.as_array().unwrap().iter().all(|run| run["jobs"] == 22), "{tried}");
    house.stop();
}

#[test]
fn a_trace_of_others_is_mapped_by_flags_whatever_its_format() {
    let house = House::prepare("");
    let dir = house.dir.path();
    let (mut csv, mut lines) = ("TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned(), String::new());
    for second in 0..60 {
        csv.push_str(&format!("2023-11-16 18:15:{second:02}.6805900,5000,{}\n", second * 4));
        let row = json!({"timestamp": second * 1_000, "input_length": 5000, "output_length": second * 4});
        lines.push_str(&format!("{row}\n"));
    }
    std::fs::write(dir.join("azure.csv"), &csv).unwrap();
    std::fs::write(dir.join("mooncake.jsonl"), &lines).unwrap();
    let simulated = |more: &[&str]| {
        let said = house.cli(&[&["simulate", "--json", "--startup-s", "1", "--trace"], more].concat());
        assert!(said.status.success(), "{said:?}");
        serde_json::from_slice::<Value>(&said.stdout).unwrap()
    };
    let formula = "0.2 + ContextTokens/5000 + GeneratedTokens/40";
    let one = simulated(&["azure.csv", "--time", "TIMESTAMP", "--duration-expr", formula]);
    let formula = "0.2 + input_length/5000 + output_length/40";
    let flags = ["--time", "timestamp", "--time-unit", "ms", "--duration-expr", formula];
    let other = simulated(&[&["mooncake.jsonl"], &flags[..]].concat());
    assert_eq!(one[0]["jobs"], 60, "{one}");
    assert_eq!(one, other, "the same jobs in two formats");

    let refused = |more: &[&str]| {
        let said = house.cli(&[&["simulate", "--trace"], more].concat());
        assert_eq!(said.status.code(), Some(2), "{said:?}");
        String::from_utf8(said.stderr).unwrap()
    };
    let text = refused(&["azure.csv"]);
    let wanted = "--trace azure.csv --time TIMESTAMP --duration-expr \"0.2 + ContextTokens/5000 + GeneratedTokens/40\"";
    assert!(text.contains(wanted), "{text}");
    assert!(refused(&["mooncake.jsonl"]).contains("--time timestamp --time-unit ms"));
    let text = refused(&["azure.csv", "--time", "TIMESTAMP", "--duration", "TIMESTAMP"]);
    assert!(text.contains("azure.csv:2: TIMESTAMP must be a number of seconds"), "{text}");
}

/// A group of the kernel's memory controller (version 1) with a limit; `None` where this process may not make one.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn new(mib: u64) -> Option<MemoryGroup> {
        let dir =
            std::path::PathBuf::from(format!("/sys/fs/cgroup/memory/enginehouse-{}", std::process::id()));
        std::fs::create_dir(&dir).ok()?;
        let group = MemoryGroup(dir);
        std::fs::write(group.0.join("memory.limit_in_bytes"), format!("{mib}M")).ok()?;
        Some(group)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// Processes of the group that the kernel ended because memory had run out.
    fn killed(&self) -> u64 {
        let control = self.read("memory.oom_control");
        let line = control.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// The command, run inside of the group.
    fn within(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        inside
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The processes that were in it have ended; the kernel may need a moment to see that.
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_pool_does_not_grow_into_a_memory_limit() {
    let Some(group) = MemoryGroup::new(400) else {
        skipped("this process may not make a memory control group");
        return;
    };
    let mut house = House::prepare(&quick("min_workers = 1\nmax_workers = 30\n"));
    house.spawn(group.within(&house.serve()));
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    // A neighbour under the same limit takes most of it.
    let hog = "import sys; x = bytearray(320 << 20); print(len(x), flush=True); sys.stdin.read()";
    let mut python = Command::new("python3");
    python.args(["-c", hog]);
    let mut neighbour = group.within(&python).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(neighbour.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let ids = submit(&house, 60, 100);
    let held = until(&house, "the guard holds", |scaling| {
        scaling["decision"]["rule"].as_str().is_some_and(|rule| rule.starts_with("guard_memory"))
    });
    let reason = held["decision"]["reason"].as_str().unwrap();
    assert!(reason.contains("memory"), "{reason}");
    println!("1 of 30 workers under a limit of 400 MiB, {} KiB at most: {reason}", house.peak_memory());
    for id in &ids {
        assert_eq!(house.ended(id)["status"], "completed");
        assert!(workers(&house.must("GET", "/v1/scaling", None)) <= 1);
    }
    drop(neighbour.stdin.take());
    neighbour.wait().unwrap();
    let more = submit(&house, 60, 100);
    until(&house, "the pool grows once there is room", |scaling| workers(scaling) > 1);
    for id in &more {
        assert_eq!(house.ended(id)["status"], "completed");
    }
    house.stop();
}

#[test]
fn worker_processes_stay_inside_a_memory_limit() {
    const LIMIT_MIB: u64 = 256;
    let Some(group) = MemoryGroup::new(LIMIT_MIB) else {
        skipped("this process may not make a memory control group");
        return;
    };
    let processes = "[workers]\nprovider = \"process\"\n";
    let mut house = House::prepare(&format!("{processes}{}", quick("min_workers = 1\nmax_workers = 60\n")));
    house.spawn(group.within(&house.serve()));
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    // More work than the workers that fit can do at once, so that only the guard ends the growth.
    let ids = submit(&house, 600, 500);
    let held = until(&house, "the guard holds", |scaling| {
        scaling["decision"]["rule"].as_str().is_some_and(|rule| rule.starts_with("guard_memory"))
    });
    let reason = held["decision"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("memory"), "{reason}");
    let mut most = workers(&held);
    for id in &ids {
        let ended = house.ended(id);
        assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(1)), "{ended}");
        most = most.max(workers(&house.must("GET", "/v1/scaling", None)));
    }
    let peak: u64 = group.read("memory.max_usage_in_bytes").trim().parse().unwrap();
    println!(
        "{most} of 60 worker processes under a limit of {LIMIT_MIB} MiB, {} MiB at most with cached files: {reason}",
        peak >> 20
    );
    assert!((2..60).contains(&most), "{most} workers");
    assert_eq!(group.killed(), 0, "the kernel had to end a process");
    house.stop();
}
