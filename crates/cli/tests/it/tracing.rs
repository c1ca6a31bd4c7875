//! Traces, read by OpenTelemetry's own messages: the spans nest, also across services, and a receiver in trouble is no one's
//! concern but the traces'.

use crate::engines::http_engine;
use crate::house::{House, skipped};
use crate::http;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A receiver of OTLP and the spans it was sent.
struct Receiver {
    process: Child,
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// `None` where the Python with OpenTelemetry's messages was not installed.
    fn start() -> Option<Receiver> {
        let Some(python) = std::env::var_os("ENGINEHOUSE_WITNESS") else {
            skipped("there is no receiver of traces: `cargo xtask ci witnesses` installs it");
            return None;
        };
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/otlp_receiver.py");
        let mut command = Command::new(python);
        let mut process = command.arg(program).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let seen = spans.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Some(Receiver { process, port, spans })
    }

    /// The spans once there are so many.
    fn spans(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = self.spans.lock().unwrap().clone();
            if seen.len() >= count {
                return seen;
            }
            assert!(Instant::now() < deadline, "{} of {count} spans: {seen:#?}", seen.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn of<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let mut found = spans.iter().filter(|span| span["name"] == name);
    let span = found.next().unwrap_or_else(|| panic!("no span {name:?}: {spans:#?}"));
    assert!(found.next().is_none(), "two spans {name:?}: {spans:#?}");
    span
}

fn nested(inner: &Value, outer: &Value) {
    assert_eq!((&inner["trace"], &inner["parent"]), (&outer["trace"], &outer["span"]), "{inner} in {outer}");
    let time = |span: &Value, end: &str| span[end].as_u64().unwrap();
    assert!(time(inner, "from") >= time(outer, "from"), "{inner} begins before {outer}");
    assert!(
        time(inner, "to") <= time(outer, "to") && time(inner, "from") <= time(inner, "to"),
        "{inner} {outer}"
    );
}

#[test]
fn spans_nest_from_the_caller_to_the_engine_behind_the_engine() {
    let Some(receiver) = Receiver::start() else { return };
    let export = format!("[tracing.exporters.all]\nurl = \"http://127.0.0.1:{}\"\n", receiver.port);
    let behind = House::start(&export);
    let bearer = behind.dir.path().join("bearer");
    std::fs::write(&bearer, format!("Bearer {}", behind.key)).unwrap();
    let front = House::start(&format!("{export}{}", http_engine(&behind, &bearer)));
    let secret = "what-nobody-else-may-read";
    let request = json!({"id": "a", "engine": "other", "workflowId": "deep", "parameters": {"echo": secret, "sleepMs": 30}});
    let body = serde_json::to_vec(&request).unwrap();
    let bearer = format!("Bearer {}", front.key);
    let context = format!("00-{TRACE}-{PARENT}-01");
    let headers =
        [("authorization", bearer.as_str()), ("content-type", "application/json"), ("traceparent", &context)];
    let answer =
        http::send(front.address, &http::request("POST", "/v1/executions", &headers, &body)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(front.ended("a")["status"], "completed");
    // Execution, queue, attempt and call, in front and behind.
    let spans = receiver.spans(8);
    assert!(!serde_json::to_string(&spans).unwrap().contains(secret), "{spans:#?}");
    assert!(spans.iter().all(|span| span["path"] == "/v1/traces" && span["service"] == "enginehouse"));
    let roots: Vec<&Value> = spans.iter().filter(|span| span["kind"] == "SPAN_KIND_CONSUMER").collect();
    let (first, second): (Vec<&Value>, Vec<&Value>) = roots.iter().partition(|span| span["parent"] == PARENT);
    let (first, second) = (first[0], second[0]);
    assert_eq!((&first["name"], &first["trace"]), (&json!("execution deep"), &json!(TRACE)));
    let of_first: Vec<Value> =
        spans.iter().filter(|s| s["attributes"]["enginehouse.execution.id"] == "a").cloned().collect();
    nested(of(&of_first, "queue"), first);
    nested(of(&of_first, "attempt 1"), first);
    let call = of(&of_first, "other deep");
    nested(call, of(&of_first, "attempt 1"));
    assert_eq!((&call["kind"], &call["status"]), (&json!("SPAN_KIND_CLIENT"), &json!("STATUS_CODE_OK")));
    // What the engine did hangs under the very call.
    nested(second, call);
    assert_eq!(first["attributes"]["enginehouse.outcome"], "completed");
    front.stop();
    behind.stop();
}

#[test]
fn each_attempt_is_told_and_what_is_not_sampled_is_not() {
    let Some(receiver) = Receiver::start() else { return };
    let mut house = House::prepare(&format!(
        "[tracing]\nsample_ratio = 0.0\n\
         [tracing.exporters.smith]\ntype = \"langsmith\"\nurl = \"http://127.0.0.1:{}/\"\n\
         api_key = {{ env = \"SMITH_KEY\" }}\nproject = \"mine\"\n",
        receiver.port
    ));
    let mut serve = house.serve();
    serve.env("SMITH_KEY", "lsv2_not_a_key");
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    let submit = |id: &str, traceparent: Option<&str>| {
        let mut request = json!({"id": id, "engineType": "demo", "workflowId": "w", "parameters": {"failTimes": 1, "failKind": "unavailable"},
            "retry": {"maxRetries": 2, "delay": 1}});
        if let Some(text) = traceparent {
            request["traceparent"] = json!(text);
        }
        house.must("POST", "/v1/executions", Some(&request));
        assert_eq!(house.ended(id)["status"], "completed");
    };
    submit("unsampled", None);
    submit("declined", Some(&format!("00-{TRACE}-{PARENT}-00")));
    submit("wanted", Some(&format!("00-{TRACE}-{PARENT}-01")));
    let spans = receiver.spans(3);
    house.stop();
    // LangSmith gets one root, and one child for each attempt.
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["execution w", "attempt 1", "attempt 2"], "{spans:#?}");
    nested(&spans[1], &spans[0]);
    nested(&spans[2], &spans[0]);
    assert_eq!(
        (&spans[1]["status"], &spans[1]["attributes"]["error.type"]),
        (&json!("STATUS_CODE_ERROR"), &json!("unavailable"))
    );
    for span in &spans {
        let told =
            (&span["path"], &span["key"], &span["project"], &span["attributes"]["langsmith.span.kind"]);
        assert_eq!(
            told,
            (&json!("/otel/v1/traces"), &json!("lsv2_not_a_key"), &json!("mine"), &json!("chain"))
        );
        assert_eq!(span["attributes"]["enginehouse.execution.id"], "wanted");
    }
}

#[test]
fn a_receiver_that_hangs_holds_up_nothing() {
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let house = House::start(&format!("[tracing.exporters.silent]\nurl = \"{url}\"\n"));
    let begun = Instant::now();
    for n in 0..50 {
        let request = json!({"id": format!("e{n}"), "engineType": "demo", "workflowId": "w"});
        house.must("POST", "/v1/executions", Some(&request));
    }
    for n in 0..50 {
        assert_eq!(house.ended(&format!("e{n}"))["status"], "completed");
    }
    // What is not delivered is counted, once the patience with the receiver is over.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let text =
            http::send(house.address, &http::request("GET", "/metrics", &headers, b"")).unwrap().text();
        if text.contains("enginehouse_trace_spans_total{exporter=\"silent\",outcome=\"dropped\"}") {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "no span was given up after {:?}: {}",
            begun.elapsed(),
            house.said()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    house.stop();
}

#[test]
fn a_traceparent_that_is_none_is_refused_in_a_body_and_passed_over_in_a_header() {
    let house = House::start("");
    let request = json!({"engineType": "demo", "workflowId": "w", "traceparent": "00-1-2-01"});
    let (status, answer) = house.call("POST", "/v1/executions", Some(&request));
    assert_eq!((status, &answer["errors"][0]["pointer"]), (400, &json!("/traceparent")), "{answer}");
    let body = serde_json::to_vec(&json!({"id": "b", "engineType": "demo", "workflowId": "w"})).unwrap();
    let bearer = format!("Bearer {}", house.key);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("traceparent", "nonsense"),
    ];
    let answer =
        http::send(house.address, &http::request("POST", "/v1/executions", &headers, &body)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    house.stop();
}

#[test]
fn every_line_of_an_attempt_names_it_and_none_its_payload() {
    let house = House::start("[log]\nlevel = \"debug\"\nformat = \"json\"\n");
    let request = json!({"id": "logged", "engine": "demo", "workflowId": "w", "maxRetries": 1,
        "parameters": {"failTimes": 1, "failKind": "unavailable", "echo": "canary-6d1c"}});
    house.must("POST", "/v1/executions", Some(&request));
    house.ended("logged");
    let log = house.said();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_attempt = |attempt: u64| -> Vec<&Value> {
        let of = |span: &Value| span["execution"] == "logged" && span["attempt"] == attempt;
        lines.iter().filter(|line| of(&line["span"])).map(|line| &line["message"]).collect()
    };
    assert_eq!(of_attempt(1), ["the attempt begins", "the attempt failed"], "{log}");
    assert_eq!(of_attempt(2), ["the attempt begins", "the attempt succeeded"], "{log}");
    assert!(!log.contains("canary-6d1c"), "{log}");
    house.stop();
}
