//! A stub Agent Server, and what the service makes of busy threads, options and graphs that stop.

use crate::house::House;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const THREAD: &str = "11111111-1111-4111-8111-111111111111";

/// Runs end at once; the thread [`THREAD`] has a run of someone else's for as long as `busy` says.
#[derive(Default)]
struct Graphs {
    busy: bool,
    /// The runs that were started, each with its thread and its body.
    runs: Vec<(String, Value)>,
}

struct Stub {
    port: u16,
    graphs: Arc<Mutex<Graphs>>,
}

impl Stub {
    fn start() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let graphs = Arc::new(Mutex::new(Graphs::default()));
        let shared = graphs.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Stub { port, graphs }
    }

    fn config(&self) -> String {
        format!(
            "[engines.graphs]\ntype = \"langsmith\"\nstream_modes = []\n\
             endpoints = [{{ url = \"http://127.0.0.1:{}\" }}]\n",
            self.port
        )
    }
}

/// Answers one request; each has a connection of its own.
fn serve(stream: TcpStream, graphs: &Mutex<Graphs>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?.split('?').next()?);
    let (status, answer) =
        answer(method, path, serde_json::from_slice(&body).unwrap_or_default(), &mut graphs.lock().unwrap());
    let text = answer.to_string();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
    .ok()
}

fn answer(method: &str, path: &str, body: Value, graphs: &mut Graphs) -> (u16, Value) {
    let run_id = |index: usize| format!("00000000-0000-7000-8000-{index:012}");
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match (method, segments.as_slice()) {
        (_, ["ok"]) => (200, json!({ "ok": true })),
        ("POST", ["threads", thread, "runs"]) => {
            if graphs.busy && *thread == THREAD && body["multitask_strategy"] == "reject" {
                return (409, json!({ "detail": "Thread is already running a task." }));
            }
            graphs.runs.push(((*thread).to_owned(), body));
            (200, json!({ "run_id": run_id(graphs.runs.len() - 1), "status": "pending" }))
        }
        ("GET", ["threads", _, "runs"]) => (200, json!([])),
        ("GET", ["threads", _, "runs", _]) => (200, json!({ "status": "success" })),
        ("GET", ["threads", thread, "state"]) => {
            let newest = graphs.runs.iter().rposition(|(of, _)| of == thread).unwrap_or_default();
            let next =
                if graphs.runs[newest].1["assistant_id"] == "stops" { json!(["two"]) } else { json!([]) };
            (
                200,
                json!({ "values": { "done": true }, "next": next, "metadata": { "run_id": run_id(newest) } }),
            )
        }
        _ => (404, json!({ "detail": "Not Found" })),
    }
}

fn request(id: &str, more: &Value) -> Value {
    let mut body = json!({"id": id, "engine": "graphs", "workflowId": "g", "maxRetries": 0});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn a_busy_thread_holds_up_its_own_execution_and_nobody_else() {
    let stub = Stub::start();
    let house = House::start(&stub.config());
    stub.graphs.lock().unwrap().busy = true;
    house.must("POST", "/v1/executions", Some(&request("waits", &json!({"sessionId": THREAD}))));
    let refused =
        json!({"sessionId": THREAD, "concurrencyKey": "of its own", "retry": {"notOn": ["conflict"]}});
    house.must("POST", "/v1/executions", Some(&request("refuses", &refused)));

    let view = house.until("waits", |view| view["wait"]["reason"] == "conflict");
    let wait = &view["wait"];
    assert!(wait["text"].as_str().unwrap().contains("its thread is busy with another run"), "{view:#}");
    assert!(wait["until"].is_string() && wait["since"].is_string(), "{view:#}");
    assert_eq!(
        (&view["failure"]["kind"], &view["failure"]["code"]),
        (&json!("conflict"), &json!("thread_busy"))
    );
    // Between two looks it is under way for a moment, and then says something else.
    let said = (0..100).find_map(|_| {
        let said = String::from_utf8(house.cli(&["explain", "waits"]).stdout).unwrap();
        said.starts_with("conflict for ").then_some(said)
    });
    assert!(said.is_some_and(|said| said.contains("in its way: engine graphs (its thread is busy")));

    let ended = house.ended("refuses");
    assert_eq!(
        (&ended["status"], &ended["failure"]["kind"]),
        (&json!("failed"), &json!("conflict")),
        "{ended:#}"
    );
    for n in 0..5 {
        house.must("POST", "/v1/executions", Some(&request(&format!("free{n}"), &json!({}))));
    }
    for n in 0..5 {
        let ended = house.ended(&format!("free{n}"));
        assert_eq!(ended["status"], "completed", "{ended:#}");
    }
    let engine = house.must("GET", "/v1/engines/graphs", None);
    assert_eq!(engine["endpoints"][0]["limit"]["frozenUntil"], Value::Null, "{engine:#}");

    stub.graphs.lock().unwrap().busy = false;
    let ended = house.ended("waits");
    assert_eq!(ended["status"], "completed", "its one attempt was not burnt: {ended:#}");
    assert!(ended["attempt"].as_u64().unwrap() > 1, "{ended:#}");
    house.stop();
}

#[test]
fn options_are_checked_at_submit_and_belong_to_the_request() {
    let stub = Stub::start();
    let house = House::start(&stub.config());
    for (engine, options, words) in [
        ("graphs", json!({"recursion_limit": 1}), "there are config, context, metadata, recursionLimit"),
        ("graphs", json!({"metadata": {"idempotency_key": "x"}}), "metadata.idempotency_key"),
        ("graphs", json!([1]), "a JSON object"),
        ("demo", json!({"recursionLimit": 1}), "type demo take no options"),
    ] {
        let body = request("refused", &json!({"engine": engine, "engineOptions": options}));
        let (status, problem) = house.call("POST", "/v1/executions", Some(&body));
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (400, &json!("/engineOptions")),
            "{problem:#}"
        );
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem:#}");
    }

    let options = json!({"recursionLimit": 7, "metadata": {"team": "x"}, "durability": "exit"});
    let asked = request("with", &json!({"engineOptions": options}));
    house.must("POST", "/v1/executions", Some(&asked));
    assert_eq!(house.ended("with")["status"], "completed");
    let (status, _) = house.call("POST", "/v1/executions", Some(&asked));
    assert_eq!(status, 200, "the same request is the same execution");
    let other = request("with", &json!({"engineOptions": {"recursionLimit": 8}}));
    let (status, problem) = house.call("POST", "/v1/executions", Some(&other));
    assert_eq!((status, &problem["code"]), (409, &json!("id_conflict")), "{problem:#}");
    let sent = stub.graphs.lock().unwrap().runs[0].1.clone();
    assert_eq!(sent["config"], json!({"recursion_limit": 7}));
    assert_eq!(sent["metadata"]["team"], "x");
    assert_eq!(sent["metadata"]["execution_id"], "with");
    assert_eq!(sent["durability"], "exit");

    std::fs::write(house.dir.path().join("options.json"), r#"{"context": {"n": 1.50}}"#).unwrap();
    let command = ["submit", "--engine", "graphs", "--workflow", "g", "--id", "cli", "--wait"];
    let said = house.cli(&[&command[..], &["--engine-options", "@options.json"]].concat());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let kept = house.must("GET", "/v1/executions/cli/request", None);
    assert_eq!(kept["engineOptions"], json!({"context": {"n": 1.5}}), "{kept:#}");
    house.stop();
}

#[test]
fn a_graph_at_a_breakpoint_is_told_to_need_input() {
    let stub = Stub::start();
    let house = House::start(&stub.config());
    let command = ["submit", "--engine", "graphs", "--workflow", "stops", "--id", "stops", "--wait"];
    let said = house.cli(&command);
    let told = String::from_utf8(said.stderr).unwrap();
    assert!(said.status.success() && told.contains("stopped to ask or at a breakpoint"), "{told}");
    let told = String::from_utf8(house.cli(&["result", "stops"]).stderr).unwrap();
    assert!(told.contains("stopped to ask or at a breakpoint"), "{told}");
    assert_eq!(house.must("GET", "/v1/executions/stops", None)["needsInput"], true);
    assert_eq!(house.must("GET", "/v1/executions/stops/result", None)["needsInput"], true);
    house.must("POST", "/v1/executions", Some(&request("through", &json!({}))));
    assert_eq!(house.ended("through")["status"], "completed");
    assert_eq!(house.must("GET", "/v1/executions/through/result", None).get("needsInput"), None);
    house.stop();
}
