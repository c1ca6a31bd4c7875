//! The stub as an Agent Server.

use crate::dialect::{CANARY, Dialect, Expected, Fake, FakeRun, Fault, RunState, Step};
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

/// The newest checkpoint of a run.
fn checkpoint(index: usize, run: &FakeRun, notes: &[String]) -> Value {
    let noted = |word: &str| notes.iter().any(|note| note == word);
    let (values, next, task) = match run.state {
        RunState::Failed => {
            (json!({}), json!(["fail"]), json!({ "error": format!("RuntimeError('{}')", words(run)) }))
        }
        RunState::Asks => {
            let asked = json!({ "value": { "question": "go?" } });
            (json!({ "message": "hi" }), json!(["ask"]), json!({ "error": null, "interrupts": [asked] }))
        }
        _ if noted("breakpoint") => (result(), json!(["two"]), json!({ "error": null, "interrupts": [] })),
        _ => (result(), json!([]), Value::Null),
    };
    let tasks = if task.is_null() { json!([]) } else { json!([task]) };
    json!({ "values": values, "next": next, "tasks": tasks,
        "metadata": { "run_id": run_id(index), "graph_id": "echo", "step": 1 } })
}

fn result() -> Value {
    json!({ "message": "hi", "output": { "echo": "hi" } })
}

/// What a run fails with; those of others fail with other words.
fn words(run: &FakeRun) -> &str {
    if run.key.starts_with('e') { "boom" } else { "not ours" }
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
            ("POST", ["threads", _, "history"]) => Step::Result,
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
                let rows = known.rev().map(|(index, run)| {
                    json!({ "run_id": run_id(index), "status": status_of(run.state),
                        "metadata": { "idempotency_key": run.key } })
                });
                let most = if request.query.contains("limit=1&") { 1 } else { 10 };
                Reply::json(200, Value::from_iter(rows.take(most)))
            }
            // The thread tells of its newest run only.
            ("GET", ["threads", thread]) => {
                let newest = fake.runs.last();
                let failed = newest.filter(|run| run.state == RunState::Failed);
                let error = failed.map(|run| json!({ "error": "RuntimeError", "message": words(run) }));
                let graph =
                    if fake.notes.iter().any(|note| note == "another graph") { "other" } else { "echo" };
                Reply::json(
                    200,
                    json!({ "thread_id": thread, "status": if error.is_some() { "error" } else { "idle" },
                        "error": error, "values": { "not": "ours" }, "metadata": { "graph_id": graph } }),
                )
            }
            ("GET", ["threads", _, "runs", run]) => match fake.poll(index_of(run)) {
                RunState::Forgotten => Reply::json(404, json!({ "detail": "Run not found" })),
                state => Reply::json(200, json!({ "run_id": run, "status": status_of(state), "kwargs": {} })),
            },
            ("POST", ["threads", _, "history"]) => {
                let body = request.json();
                let index = index_of(body["metadata"]["run_id"].as_str().unwrap_or_default());
                let late = fake.notes.iter().position(|note| note == "late");
                if let Some(late) = late {
                    fake.notes.remove(late);
                }
                let lost = late.is_some() || fake.notes.iter().any(|note| note == "no checkpoint");
                let run = fake.runs.get(index).filter(|_| !lost);
                let found = run.map(|run| checkpoint(index, run, &fake.notes));
                Reply::json(200, Value::from_iter(found))
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
            // The run succeeded, and is known: only what it gave is not there.
            (Step::Result, Fault::Status(404)) => {
                Some(Expected::Fails(FailureKind::BadResponse, Reached::Yes))
            }
            _ => None,
        }
    }
}

/// Runs one call against a stub whose fake has these notes.
async fn ended(fake: Fake, session: Option<&str>) -> (Outcome, Stub) {
    let stub = Stub::start(Arc::new(Langsmith), fake, None).await;
    let (_stop, call) = call(&Arc::default(), "echo", r#"{"message":"hi"}"#);
    let call = Call { session_id: session.map(str::to_owned), ..call };
    (within(Langsmith.engine(settings(stub.url())).run(call)).await, stub)
}

fn noted(state: RunState, notes: &[&str]) -> Fake {
    Fake { notes: notes.iter().map(|&note| note.to_owned()).collect(), ..Fake::new(state) }
}

#[tokio::test]
async fn a_graph_that_asks_succeeds_and_needs_input() {
    let (outcome, _) = ended(Fake::new(RunState::Asks), None).await;
    let Outcome::Succeeded { result, needs_input: true } = outcome else { panic!("{outcome:?}") };
    let asked = json!({ "message": "hi", "__interrupt__": [{ "value": { "question": "go?" } }] });
    assert_eq!(serde_json::from_slice::<Value>(&result).unwrap(), asked);
}

#[tokio::test]
async fn a_graph_that_stopped_at_a_breakpoint_needs_input() {
    let (outcome, _) = ended(noted(RunState::Succeeded, &["breakpoint"]), None).await;
    let Outcome::Succeeded { result, needs_input: true } = outcome else { panic!("{outcome:?}") };
    assert_eq!(result, Langsmith.result().as_bytes());
}

#[tokio::test]
async fn a_checkpoint_that_comes_late_is_waited_for_and_one_that_never_comes_is_told() {
    let (outcome, stub) = ended(noted(RunState::Succeeded, &["late", "late"]), None).await;
    assert!(matches!(outcome, Outcome::Succeeded { needs_input: false, .. }), "{outcome:?}");
    assert_eq!(stub.seen(Step::Result).len(), 3);
    let (outcome, stub) = ended(noted(RunState::Succeeded, &["no checkpoint"]), None).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::BadResponse, "result_unavailable"));
    assert_eq!(stub.fake(|fake| fake.runs.len()), 1);
}

/// Two runs of one thread: whatever the thread says of the newer one, the older one ends as itself.
#[tokio::test]
async fn a_run_ends_as_itself_whatever_came_after_it_on_its_thread() {
    let states =
        [RunState::Succeeded, RunState::Failed, RunState::Asks, RunState::Cancelled, RunState::Running];
    for ours in [RunState::Succeeded, RunState::Failed, RunState::Asks] {
        for theirs in states {
            let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Running), None).await;
            let engine = Langsmith.engine(settings(stub.url()));
            let (_stop, call) = call(&Arc::default(), "echo", "{}");
            let call = Call { session_id: Some("shared".to_owned()), ..call };
            let running = tokio::spawn(async move { engine.run(call).await });
            crate::until(|| !stub.seen(Step::Status).is_empty()).await;
            stub.fake(|fake| {
                let other = fake.start("not ours");
                fake.runs[other].state = theirs;
                fake.runs[0].state = ours;
            });
            let outcome = within(running).await.unwrap();
            let told = format!("{ours:?} before {theirs:?}: {outcome:?}");
            match (ours, outcome) {
                (RunState::Succeeded, Outcome::Succeeded { result, needs_input: false }) => {
                    assert_eq!(result, Langsmith.result().as_bytes(), "{told}");
                }
                (RunState::Asks, Outcome::Succeeded { needs_input: true, .. }) => {}
                (RunState::Failed, Outcome::Failed(failure)) => {
                    assert_eq!(failure.kind, FailureKind::EngineError, "{told}");
                    assert!(failure.message.contains("boom"), "{told}");
                }
                _ => panic!("{told}"),
            }
        }
    }
}

#[tokio::test]
async fn a_state_that_the_engine_reads_with_another_graph_is_no_result() {
    for (came_after, code) in [(false, None), (true, Some("result_unavailable"))] {
        let stub = Stub::start(Arc::new(Langsmith), noted(RunState::Running, &["another graph"]), None).await;
        let engine = Langsmith.engine(settings(stub.url()));
        let (_stop, call) = call(&Arc::default(), "echo", "{}");
        let call = Call { session_id: Some("shared".to_owned()), ..call };
        let running = tokio::spawn(async move { engine.run(call).await });
        crate::until(|| !stub.seen(Step::Status).is_empty()).await;
        stub.fake(|fake| {
            if came_after {
                fake.start("not ours");
            }
            fake.runs[0].state = RunState::Succeeded;
        });
        let outcome = within(running).await.unwrap();
        let failed = if let Outcome::Failed(failure) = &outcome { Some(failure.code.as_str()) } else { None };
        assert_eq!(failed, code, "{outcome:?}");
    }
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
