//! The ten figures against an independent count, their history over a restart, alerts, and a degraded service.

use crate::house::House;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(20);

fn submit(house: &House, engine: &str, parameters: Value) -> String {
    let body = json!({"engine": engine, "workflowId": "w", "parameters": parameters, "maxRetries": 1,
        "retry": {"maxRetries": 1, "delay": 1}});
    house.must("POST", "/v1/executions", Some(&body))["id"].as_str().unwrap().to_owned()
}

/// Asks until what comes is as wanted.
fn until(house: &House, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + WITHIN;
    loop {
        let found = house.must("GET", path, None);
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{path}: {found}\n{}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_ten_figures_are_what_can_be_counted() {
    let mut house = House::start(
        "[metrics]\ncollection_interval = \"200ms\"\n\n[scaling]\nmin_workers = 2\nmax_workers = 2\nworker_capacity = 5\n\n\
         [fault_tolerance.circuit_breaker_config]\nfailure_threshold = 100\n",
    );
    let mut ended: Vec<String> = (0..12).map(|_| submit(&house, "demo", json!({"sleepMs": 20}))).collect();
    ended.extend((0..3).map(|_| submit(&house, "demo", json!({"failTimes": 9, "failKind": "unavailable"}))));
    ended.extend((0..2).map(|_| submit(&house, "demo", json!({"failTimes": 1, "failKind": "unavailable"}))));
    let views: Vec<Value> = ended.iter().map(|id| house.ended(id)).collect();
    let at = |view: &Value, name: &str| {
        view[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
    };
    let runs: Vec<i64> = views.iter().map(|v| at(v, "endedAt") - at(v, "startedAt")).collect();
    let held: Vec<String> = (0..4).map(|_| submit(&house, "demo", json!({"sleepMs": 600_000}))).collect();
    until(&house, "/v1/queue", |queue| queue["activeExecutions"] == 4);
    house.must("POST", "/v1/engines/demo/pause", None);
    let waiting: Vec<String> = (0..3).map(|_| submit(&house, "demo", json!({}))).collect();
    house.must("POST", &format!("/v1/executions/{}/cancel", waiting[0]), None);

    let metrics = house.must("GET", "/v1/metrics", None);
    let mean = runs.iter().sum::<i64>() as f64 / runs.len() as f64;
    let rows = [
        ("totalExecutions", 24.0),
        ("successfulExecutions", 14.0),
        ("failedExecutions", 3.0),
        ("cancelledExecutions", 1.0),
        ("retriedAttempts", 5.0),
        ("averageExecutionTime", mean),
        ("currentQueueSize", 2.0),
        ("activeWorkers", 2.0),
        ("totalWorkers", 2.0),
        ("systemUtilization", 0.4),
        ("errorRate", 3.0 / 17.0),
    ];
    for (name, wanted) in rows {
        let found = metrics[name].as_f64().unwrap();
        assert!((found - wanted).abs() < 0.01, "{name}: {found}, not {wanted}: {metrics}");
    }
    // Over the time the service runs, as long as that is less than the window.
    let throughput = metrics["throughput"].as_f64().unwrap();
    assert!(throughput > 17.0 / 60.0 && throughput <= 17.0, "{metrics}");
    let slowest = *runs.iter().max().unwrap() as f64;
    let p99 = metrics["runTime"]["p99"].as_f64().unwrap();
    assert!((p99 - slowest).abs() <= 1.0 + slowest / 100.0, "{p99} {slowest}");

    let newest = |history: &Value| history["samples"].as_array().unwrap().last().cloned().unwrap_or_default();
    let history = until(&house, "/v1/metrics/history?window=5m", |found| {
        newest(found)["cancelledExecutions"] == 1 && newest(found)["currentQueueSize"] == 2.0
    });
    assert_eq!(newest(&history)["successfulExecutions"], 14, "{history}");
    let first = history["samples"][0]["at"].clone();
    for id in held.iter().chain(&waiting[1..]) {
        house.must("POST", &format!("/v1/executions/{id}/cancel"), None);
        house.ended(id);
    }
    house.halt();
    house.launch();
    let again = until(&house, "/v1/metrics/history?window=5m", |found| {
        newest(found)["at"].as_str() > newest(&history)["at"].as_str()
    });
    assert_eq!(again["samples"][0]["at"], first, "what was sampled before the restart is still told");
    let (status, problem) = house.call("GET", "/v1/metrics/history?window=9999d", None);
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_field")), "{problem}");
    assert!(problem.to_string().contains("retention_period"), "{problem}");
}

#[test]
fn an_alert_fires_degrades_and_is_over() {
    let house = House::start(
        "[metrics]\ncollection_interval = \"100ms\"\n\n[alerts.breaker_open]\nhold = \"200ms\"\nrecovery = \"200ms\"\n\n\
         [alerts.error_rate]\nenabled = false\n\n[engines.other]\ntype = \"demo\"\n",
    );
    let quiet = house.must("GET", "/v1/alerts", None);
    assert_eq!((&quiet["firing"], &quiet["alerts"]), (&json!(0), &json!([])), "{quiet}");
    assert_eq!(house.must("GET", "/readyz", None), json!({"status": "ok"}));
    let force = |state: &str| json!({"state": state, "reason": "a drill"});
    house.must("POST", "/v1/engines/other/breaker", Some(&force("open")));
    submit(&house, "other", json!({}));
    let fired = until(&house, "/v1/alerts", |found| found["firing"] == 1);
    let alert = &fired["alerts"][0];
    assert_eq!((&alert["alert"], &alert["subject"]), (&json!("breaker_open"), &json!("other")), "{fired}");
    assert_eq!(
        house.must("GET", "/readyz", None),
        json!({"status": "degraded", "reasons": ["breaker_open"]}),
        "work for the others is still taken"
    );
    let metrics = house.try_call("GET", "/metrics", None).unwrap().text();
    let series = "enginehouse_alerts_firing{alert=\"breaker_open\",severity=\"critical\"} 1";
    assert!(metrics.contains(series), "{metrics}");
    let shown = String::from_utf8(house.cli(&["alerts"]).stdout).unwrap();
    assert!(
        shown.contains("firing critical breaker_open other") && shown.contains("burns no attempt"),
        "{shown}"
    );
    house.must("POST", "/v1/engines/other/breaker", Some(&force("auto")));
    until(&house, "/v1/alerts", |found| found["firing"] == 0);
    assert!(house.said().contains("an alert is over"), "{}", house.said());
}

#[test]
fn a_wrong_alert_is_refused_by_its_place() {
    for (table, wanted) in [
        ("[alerts.brake_open]\n", "is not an alert; there are queue_wait, error_rate"),
        ("[alerts.audit]\nlimit = 3\n", "compares with no number"),
    ] {
        let house = House::prepare(table);
        let output = house.cli(&["config", "check", "--config", "enginehouse.toml"]);
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(wanted), "{table}: {said}");
    }
}

#[test]
fn the_doctor_looks_at_a_service_and_at_files() {
    let mut house =
        House::start("[engines.gone]\ntype = \"http\"\nendpoints = [{ url = \"http://127.0.0.1:9\" }]\n");
    let submitted = submit(&house, "demo", json!({}));
    house.ended(&submitted);
    let output = house.cli(&["doctor", "--full", "--json", "--config", "enginehouse.toml"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let verdicts = |check: &str, text: &str| -> Vec<String> {
        let findings = answer["findings"].as_array().unwrap().iter();
        let of_check = findings.filter(|f| f["check"] == check && f["text"].as_str().unwrap().contains(text));
        of_check.map(|f| f["verdict"].as_str().unwrap().to_owned()).collect()
    };
    let table = [
        ("configuration", "", "ok"),
        ("store", "all of it was read", "ok"),
        ("leases", "every count agrees", "ok"),
        ("engine", "demo at", "ok"),
        ("engine", "gone at http://127.0.0.1:9 is not well", "failed"),
        ("workers", "", "ok"),
        ("clock", "", "ok"),
        ("disk", "MiB are free", "ok"),
        ("keys", "seal key", "ok"),
        ("roles", "the last round of each went well", "ok"),
    ];
    for (check, text, verdict) in table {
        assert_eq!(verdicts(check, text), [verdict], "{check} {text}: {answer}");
    }
    assert_eq!((output.status.code(), &answer["verdict"]), (Some(1), &json!("failed")), "an engine is away");
    let rounds = |role: &str| -> u64 {
        let roles = answer["roles"].as_array().unwrap();
        let found =
            roles.iter().find(|view| view["name"] == role).unwrap_or_else(|| panic!("{role}: {answer}"));
        found["rounds"].as_u64().unwrap()
    };
    assert!(rounds("committer") > 0 && rounds("timers") > 0 && rounds("health") > 0, "{answer}");
    assert_eq!(rounds("keeper"), 0, "it is there before its first round");
    let metrics = house.try_call("GET", "/metrics", None).unwrap().text();
    assert!(metrics.contains("enginehouse_audit_violations_total 0"), "{metrics}");
    house.halt();
    let said = String::from_utf8(house.cli(&["doctor", "--config", "enginehouse.toml"]).stdout).unwrap();
    assert!(said.contains("ok       store") && said.contains("does not run"), "{said}");
    std::fs::write(
        house.data().join("enginehouse.sqlite"),
        b"not a database at all, but long enough to be looked at",
    )
    .unwrap();
    let output = house.cli(&["doctor", "--config", "enginehouse.toml"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("failed   store") && output.status.code() == Some(1), "{said}");
}

#[test]
fn an_end_that_could_not_be_read_alerts() {
    let house = House::start("[metrics]\ncollection_interval = \"200ms\"\n");
    let id = submit(&house, "demo", json!({"failTimes": 9, "failKind": "engine_error"}));
    assert_eq!(house.ended(&id)["failure"]["kind"], "engine_error");
    let id = submit(&house, "demo", json!({"failTimes": 9, "failKind": "bad_response"}));
    assert_eq!(house.ended(&id)["failure"]["kind"], "bad_response");
    let alerts = until(&house, "/v1/alerts", |found| !found["alerts"].as_array().unwrap().is_empty());
    let names: Vec<&str> =
        alerts["alerts"].as_array().unwrap().iter().map(|a| a["alert"].as_str().unwrap()).collect();
    assert_eq!(names, ["ends_unreadable"], "{alerts}");
    house.stop();
}

/// A service that takes work and then says forever that it is not available.
fn taken_and_gone() -> u16 {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in door.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut asked = Vec::new();
            let mut piece = [0; 4096];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(n) if n > 0 => asked.extend_from_slice(&piece[..n]),
                    _ => break,
                }
            }
            let (status, body) = if asked.starts_with(b"POST") {
                (200, r#"{"id":"r1"}"#)
            } else {
                (503, r#"{"message":"gone"}"#)
            };
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}");
            let _ = stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n{body}").as_bytes());
        }
    });
    port
}

#[test]
fn a_run_that_stays_out_of_reach_alerts_and_its_wait_says_so() {
    let url = format!("http://127.0.0.1:{}", taken_and_gone());
    let house = House::start(&format!(
        "[metrics]\ncollection_interval = \"200ms\"\n[alerts.run_unreachable]\nlimit = 1\n[engines.far]\ntype = \"http\"\n\
         endpoints = [{{ url = \"{url}\" }}]\nrequest.path = \"/run\"\npoll.unreachable_after = \"100ms\"\nhealth = \"off\"\n\
         [engines.far.follow]\npath = \"/run/{{{{ run_id }}}}\"\ndone = \"body.done\"\n",
    ));
    let id = submit(&house, "far", json!({}));
    let fired =
        |found: &Value| found["alerts"].as_array().unwrap().iter().any(|a| a["alert"] == "run_unreachable");
    let alerts = until(&house, "/v1/alerts", fired);
    let alert =
        alerts["alerts"].as_array().unwrap().iter().find(|a| a["alert"] == "run_unreachable").unwrap();
    assert_eq!(alert["subject"], "far", "{alert}");
    assert!(alert["text"].as_str().unwrap().contains("runs of 1 execution at engine far"), "{alert}");
    let path = format!("/v1/executions/{id}");
    let waits =
        |found: &Value| found["wait"]["text"].as_str().is_some_and(|text| text.contains("out of reach"));
    let view = until(&house, &path, waits);
    let text = view["wait"]["text"].as_str().unwrap();
    assert!(
        text.contains("out of reach since 20")
            && text.contains("looks; last: engine_unavailable, status 503: "),
        "{text}"
    );
    assert!(text.contains("gone"), "{text}");
    let said = String::from_utf8(house.cli(&["explain", &id]).stdout).unwrap();
    assert!(
        said.contains("out of reach since") || house.must("GET", &path, None)["status"] != "pending",
        "{said}"
    );
    house.must("POST", &format!("{path}/cancel"), None);
    assert_eq!(house.ended(&id)["status"], "cancelled");
    house.stop();
}
