//! Figures for Prometheus: independent counts, both formats, and the check of Prometheus' own tool where that is installed.

use crate::house::{House, skipped};
use crate::http;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

fn scrape(house: &House, accept: &str) -> (String, String) {
    let bearer = format!("Bearer {}", house.key);
    let headers = [("authorization", bearer.as_str()), ("accept", accept)];
    let answer = http::send(house.address, &http::request("GET", "/metrics", &headers, b"")).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.header("content-type").unwrap().to_owned(), answer.text())
}

/// The samples by name with labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

/// The sum of all series of a name whose labels hold these.
fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let of_name = samples.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    of_name
        .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
        .map(|(_, value)| value)
        .sum()
}

fn checked_by_promtool(text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = spawned else {
        skipped("promtool (Debian's package prometheus) is not installed");
        return;
    };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = tool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
    println!("promtool check metrics: clean");
}

#[test]
fn what_prometheus_reads_is_what_happened() {
    let house = House::start("[engines.other]\ntype = \"demo\"\n");
    let submit = |engine: &str, priority: &str, parameters: Value| {
        let body = json!({"engine": engine, "workflowId": "w", "priority": priority, "parameters": parameters,
            "retry": {"maxRetries": 1, "delay": 1}});
        house.must("POST", "/v1/executions", Some(&body))["id"].as_str().unwrap().to_owned()
    };
    let mut ids: Vec<String> = (0..7).map(|_| submit("demo", "HIGH", json!({"sleepMs": 5}))).collect();
    ids.extend((0..3).map(|_| submit("other", "LOW", json!({"failTimes": 9, "failKind": "unavailable"}))));
    ids.push(submit("other", "LOW", json!({"failTimes": 1, "failKind": "unavailable"})));
    for id in &ids {
        house.ended(id);
    }
    house.must("POST", "/v1/engines/demo/pause", None);
    let waiting = [submit("demo", "NORMAL", json!({})), submit("demo", "NORMAL", json!({}))];
    house.must("POST", &format!("/v1/executions/{}/cancel", waiting[1]), None);

    let (content_type, text) = scrape(&house, "text/plain");
    assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
    let seen = samples(&text);
    let ended = |labels: &[&str]| sum(&seen, "enginehouse_executions_ended_total", labels);
    let rows = [
        ("submitted", sum(&seen, "enginehouse_executions_submitted_total", &[]), 13.0),
        ("submitted HIGH", sum(&seen, "enginehouse_executions_submitted_total", &["priority=\"HIGH\""]), 7.0),
        ("completed", ended(&["status=\"completed\""]), 8.0),
        (
            "failed as unavailable",
            ended(&["status=\"failed\"", "failure=\"unavailable\"", "engine=\"other\""]),
            3.0,
        ),
        ("cancelled", ended(&["status=\"cancelled\""]), 1.0),
        ("attempts retried", sum(&seen, "enginehouse_attempts_ended_total", &["outcome=\"retried\""]), 4.0),
        ("of the endpoint", sum(&seen, "enginehouse_attempts_ended_total", &["endpoint=\"demo-1\""]), 15.0),
        ("attempts failed", sum(&seen, "enginehouse_attempts_ended_total", &["outcome=\"failed\""]), 3.0),
        ("waits", sum(&seen, "enginehouse_execution_queue_wait_seconds_count", &[]), 11.0),
        ("runs", sum(&seen, "enginehouse_execution_run_seconds_count", &[]), 11.0),
        ("pending", sum(&seen, "enginehouse_executions_stored", &["status=\"pending\""]), 1.0),
        ("due", sum(&seen, "enginehouse_executions_due", &["priority=\"NORMAL\""]), 1.0),
        ("running", sum(&seen, "enginehouse_executions_running", &[]), 0.0),
        ("audit", sum(&seen, "enginehouse_audit_findings", &[]), 0.0),
    ];
    for (what, found, wanted) in rows {
        assert!((found - wanted).abs() < 1e-9, "{what}: {found}, not {wanted}\n{text}");
    }
    assert!(
        sum(&seen, "process_resident_memory_bytes", &[]) > 1e6 && sum(&seen, "process_open_fds", &[]) > 3.0
    );
    checked_by_promtool(&text);

    let (content_type, open) = scrape(&house, "application/openmetrics-text; version=1.0.0");
    assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
    assert!(
        open.ends_with("# EOF\n") && ids.iter().any(|id| open.contains(&format!("execution_id=\"{id}\""))),
        "{open}"
    );
    let status = crate::house::call(house.address, "wrong", "GET", "/metrics", None).unwrap().status;
    assert_eq!(status, 401, "figures are for those with a key");
}

/// A real Prometheus server that scrapes the service.
struct Prometheus {
    process: std::process::Child,
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(house: &House) -> Option<Prometheus> {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, &house.key).unwrap();
        let config = format!(
            "scrape_configs:\n- job_name: enginehouse\n  scrape_interval: 1s\n  authorization: {{ credentials_file: {:?} }}\n  \
             static_configs: [{{ targets: [\"{}\"] }}]\n",
            key, house.address
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let spawned = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(process) => Some(Prometheus { process, address, _dir: dir }),
            Err(_) => {
                skipped("prometheus (Debian's package of that name) is not installed");
                None
            }
        }
    }

    /// The sum of a metric, `None` while there is no sample of it.
    fn sum(&self, metric: &str) -> Option<f64> {
        let path = format!("/api/v1/query?query=sum({metric})");
        let answer = http::send(self.address, &http::request("GET", &path, &[], b"")).ok()?.json();
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_prometheus_server_scrapes_it_and_answers() {
    let house = House::start("");
    let Some(server) = Prometheus::start(&house) else { return };
    for n in 0..9 {
        let body = json!({"id": format!("p{n}"), "engineType": "demo", "workflowId": "w"});
        house.must("POST", "/v1/executions", Some(&body));
    }
    for n in 0..9 {
        assert_eq!(house.ended(&format!("p{n}"))["status"], "completed");
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    for (metric, wanted) in [
        ("enginehouse_executions_ended_total", 9.0),
        ("enginehouse_execution_run_seconds_count", 9.0),
        ("up", 1.0),
    ] {
        while server.sum(metric) != Some(wanted) {
            assert!(std::time::Instant::now() < deadline, "{metric}: {:?}, not {wanted}", server.sum(metric));
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        println!("Prometheus: sum({metric}) = {wanted}");
    }
    house.stop();
}
