//! The stub as an Agent Server.

use crate::dialect::{CANARY, Dialect, Expected, Fake, Fault, RunState, Step};
use crate::host::{NotingHost, call};
use crate::stub::{Reply, Seen, Stub};
use crate::{settings, within};
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::langsmith::{Langsmith as Adapter, LangsmithConfig};
use enginehouse_engine::{Call, Engine, Outcome, Reached, Workflow};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) struct Langsmith;

/// Runs are numbered in their ids.
fn run_id(index: usize) -> String {
    format!("00000000-0000-7000-8000-{index:012}")
}

fn index_of(id: &str) -> usize {
    id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX)
}

fn status_of(state: RunState) -> &'static str {
    match state {
        RunState::Running | RunState::Crashed => "running",
        RunState::Succeeded | RunState::Asks => "success",
        RunState::Failed => "error",
        RunState::TimedOut => "timeout",
        RunState::Cancelled => "interrupted",
        RunState::Forgotten => "gone",
    }
}

fn state_of(state: RunState) -> Value {
    match state {
        RunState::Failed => json!({ "__error__": { "error": "RuntimeError", "message": "boom" } }),
        RunState::TimedOut => json!({ "__error__": { "error": "TimeoutError", "message": "" } }),
        RunState::Asks => json!({ "message": "hi", "__interrupt__": [{ "value": { "question": "go?" } }] }),
        RunState::Forgotten => {
            json!({ "__error__": { "error": "HTTPException", "message": "404: Run not found" } })
        }
        _ => json!({ "message": "hi", "output": { "echo": "hi" } }),
    }
}

impl Dialect for Langsmith {
    fn name(&self) -> &'static str {
        "langsmith"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Arc::new(Adapter::new(LangsmithConfig::new(settings)).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        "echo"
    }

    fn result(&self) -> &'static str {
        r#"{"message":"hi","output":{"echo":"hi"}}"#
    }

    fn step(&self, request: &Seen) -> Step {
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["ok"]) => Step::Health,
            ("POST", ["threads", _, "runs"]) => Step::Submit,
            ("POST", ["threads", _, "runs", _, "cancel"]) => Step::Cancel,
            ("GET", ["threads", _, "runs", _]) => Step::Status,
            ("GET", ["threads", _, "runs", _, "join"]) => Step::Result,
            _ => Step::Side,
        }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        if request.path != "/ok" && request.header("x-api-key") != Some(CANARY) {
            return Reply::json(401, json!({ "detail": "invalid or missing x-api-key" }));
        }
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["ok"]) => Reply::json(200, json!({ "ok": fake.healthy, "services": {} })),
            ("POST", ["threads", _, "runs"]) => {
                let body = request.json();
                let key = body["metadata"]["idempotency_key"].as_str().unwrap_or_default();
                // The thread is this run's own, so a second run on it meets a busy thread.
                if fake.find(key).is_some() {
                    return Reply::json(409, json!({ "detail": "Thread is already running a task." }));
                }
                let index = fake.start(key);
                Reply::json(200, json!({ "run_id": run_id(index), "status": "pending", "kwargs": body }))
            }
            ("GET", ["threads", _, "runs"]) => {
                let known = fake.runs.iter().enumerate().filter(|(_, run)| run.state != RunState::Forgotten);
                let rows = known.map(|(index, run)| {
                    json!({ "run_id": run_id(index), "status": status_of(run.state),
                        "metadata": { "idempotency_key": run.key } })
                });
                Reply::json(200, Value::from_iter(rows))
            }
            ("GET", ["threads", _, "runs", run]) => match fake.poll(index_of(run)) {
                RunState::Forgotten => Reply::json(404, json!({ "detail": "Run not found" })),
                state => Reply::json(200, json!({ "run_id": run, "status": status_of(state), "kwargs": {} })),
            },
            ("GET", ["threads", _, "runs", run, "join"]) => {
                let state = fake.runs.get(index_of(run)).map_or(RunState::Forgotten, |run| run.state);
                Reply::json(200, format!("\n\n{}", state_of(state)))
            }
            ("GET", ["threads", _, "runs", run, "stream"]) => {
                let running = fake.runs.get(index_of(run)).is_some_and(|run| run.state == RunState::Running);
                let events = Reply::events(
                    "event: metadata\ndata: {\"attempt\":1}\nid: 1-0\n\n\
                     event: custom\ndata: {\"progress\":0.5,\"step\":1}\nid: 2-0\n\n",
                );
                if running { events.held() } else { events }
            }
            ("POST", ["threads", _, "runs", run, "cancel"]) => match fake.cancel(index_of(run)) {
                true => Reply::json(202, json!({})),
                false => Reply::json(404, json!({ "detail": "No matching runs to cancel" })),
            },
            _ => Reply::json(404, json!({ "detail": "Not Found" })),
        }
    }

    fn ends(&self, state: RunState) -> Option<Expected> {
        match state {
            RunState::Succeeded => Some(Expected::Succeeds),
            RunState::Failed => Some(Expected::Fails(FailureKind::EngineError, Reached::Yes)),
            RunState::TimedOut => Some(Expected::Fails(FailureKind::Timeout, Reached::Yes)),
            RunState::Cancelled => Some(Expected::Cancelled),
            RunState::Forgotten => Some(Expected::Fails(FailureKind::Unavailable, Reached::Yes)),
            // This engine runs the work again by itself after a crash; a question ends with a success of its own kind.
            RunState::Crashed | RunState::Asks | RunState::Running => None,
        }
    }

    fn differs(&self, step: Step, fault: Fault) -> Option<Expected> {
        match (step, fault) {
            // The result is the whole answer, so its depth is the result's.
            (Step::Result, Fault::TooDeep) => Some(Expected::Fails(FailureKind::TooLarge, Reached::Yes)),
            _ => None,
        }
    }

    fn skips(&self, step: Step, fault: Fault) -> bool {
        // An empty object is a state like any other.
        step == Step::Result && fault == Fault::Empty
    }
}

#[tokio::test]
async fn a_graph_that_asks_succeeds_and_needs_input() {
    let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Asks), None).await;
    let host = Arc::new(NotingHost::default());
    let (_stop, call) = call(&host, "ask", r#"{"question":"go?"}"#);
    let outcome = within(Langsmith.engine(settings(stub.url())).run(call)).await;
    let Outcome::Succeeded { result, needs_input: true } = outcome else { panic!("{outcome:?}") };
    assert_eq!(serde_json::from_slice::<Value>(&result).unwrap(), state_of(RunState::Asks));
}

#[tokio::test]
async fn a_run_is_asked_for_as_the_engine_wants_it() {
    let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Succeeded), None).await;
    // Long enough for the stream of each run to be read beside the polls.
    stub.fake(|fake| fake.polls_to_end = 20);
    let engine = Langsmith.engine(settings(stub.url()));
    let host = Arc::new(NotingHost::default());
    let (_stop, first) = call(&host, "my graph/1", r#"{"n":1.50,"big":12345678901234567890}"#);
    let resume = r#"{"command":{"resume":{"yes":true}}}"#;
    let session =
        Call { session_id: Some("chat 7".to_owned()), idempotency_key: "e2.1".to_owned(), ..first.clone() };
    let same = Call {
        idempotency_key: "e3.1".to_owned(),
        parameters: resume.as_bytes().to_vec().into(),
        ..session.clone()
    };
    let own = "6b1f6f2e-5e0b-4c52-9d8a-1a3f4b5c6d7e";
    let given =
        Call { session_id: Some(own.to_owned()), idempotency_key: "e4.1".to_owned(), ..first.clone() };
    for call in [first, session, same, given] {
        assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    }
    let asked = stub.seen(Step::Submit);
    let body: Value = asked[0].json();
    let sent = String::from_utf8(asked[0].body.clone()).unwrap();
    assert!(sent.contains(r#""input":{"n":1.50,"big":12345678901234567890}"#), "{sent}");
    assert_eq!(body["assistant_id"], "my graph/1");
    assert_eq!(body["metadata"], json!({ "execution_id": "e1", "idempotency_key": "e1.1" }));
    assert_eq!(
        (body["multitask_strategy"].as_str(), body["if_not_exists"].as_str()),
        (Some("reject"), Some("create"))
    );
    assert_eq!(asked[2].json()["command"], json!({ "resume": { "yes": true } }));
    assert_eq!(asked[2].json().get("input"), None);
    let threads: Vec<&str> = asked.iter().map(|request| request.segments()[1]).collect();
    assert_ne!(threads[0], threads[1], "each run has its own thread");
    assert_eq!(threads[1], threads[2], "a session is one thread");
    assert_eq!(threads[3], own, "a thread of the caller's is taken as it is");
    let progress = host.progress.lock().unwrap();
    assert!(progress.iter().any(|item| item.fraction == Some(0.5)), "{progress:?}");
}

#[tokio::test]
async fn a_thread_busy_with_something_else_is_tried_later() {
    let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Running), None).await;
    let engine = Langsmith.engine(settings(stub.url()));
    let (_stop, call) = call(&Arc::default(), "echo", "{}");
    stub.fake(|fake| {
        fake.start("e1.1");
        // The stub refuses by the key; to us the run on the thread is somebody else's.
        fake.runs[0].key = "e1.1".to_owned();
    });
    let adopted = Call { maybe_started: true, ..call.clone() };
    stub.fake(|fake| fake.end = RunState::Succeeded);
    assert!(matches!(within(engine.run(adopted)).await, Outcome::Succeeded { .. }));
    assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    assert_eq!(stub.fake(|fake| fake.runs.len()), 1);
}

#[test]
fn what_an_agent_server_cannot_run_is_refused_at_submit() {
    let engine = Langsmith.engine(settings("http://127.0.0.1:1"));
    let validate = |id, definition, parameters| {
        engine.validate(&Workflow { id, definition, parameters }).map_err(|failure| failure.code)
    };
    assert_eq!(validate("g", None, b"{}"), Ok(()));
    assert_eq!(validate("g", Some(b"{}"), b"{}"), Err("inline_not_supported".to_owned()));
    assert_eq!(validate(" ", None, b"{}"), Err("invalid_workflow_id".to_owned()));
    assert_eq!(
        validate("g", None, br#"{"command":{"resume":1},"x":1}"#),
        Err("invalid_parameters".to_owned())
    );
}
