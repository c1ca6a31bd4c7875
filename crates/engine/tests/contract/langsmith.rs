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

/// A number in a query.
fn number_in(query: &str, name: &str) -> Option<usize> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok())
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
        "metadata": { "run_id": run_id(index), "graph_id": "echo", "assistant_id": run_id(7) } })
}

fn result() -> Value {
    json!({ "message": "hi", "output": { "echo": "hi" } })
}

/// What a run fails with; those of others fail with other words.
fn words(run: &FakeRun) -> &str {
    if run.key.starts_with('e') { "boom" } else { "not ours" }
}

fn submit(request: &Seen, fake: &mut Fake) -> Reply {
    let body = request.json();
    let key = body["metadata"]["idempotency_key"].as_str().unwrap_or_default();
    // The thread is this run's own, so a second run on it meets a busy thread; so does one behind another's.
    let held = |run: &FakeRun| run.key == "not ours" && run.state == RunState::Running;
    if fake.find(key).is_some() || fake.runs.iter().any(held) && body["multitask_strategy"] == "reject" {
        let status = if fake.notes.iter().any(|note| note == "old") { 422 } else { 409 };
        return Reply::json(status, json!({ "detail": "Thread is already running a task. Wait for it." }));
    }
    let index = fake.start(key);
    Reply::json(200, json!({ "run_id": run_id(index), "status": "pending", "kwargs": body }))
}

/// What a thread tells of its runs' states.
fn told(request: &Seen, fake: &mut Fake) -> Reply {
    match (request.method.as_str(), request.segments().as_slice()) {
        // The thread tells of its newest run only.
        ("GET", ["threads", thread]) => {
            let newest = fake.runs.last();
            let failed = newest.filter(|run| run.state == RunState::Failed);
            let error = failed.map(|run| json!({ "error": "RuntimeError", "message": words(run) }));
            let graph = if fake.notes.iter().any(|note| note == "another graph") { "other" } else { "echo" };
            Reply::json(
                200,
                json!({ "thread_id": thread, "status": if error.is_some() { "error" } else { "idle" },
                    "error": error, "values": { "not": "ours" }, "metadata": { "graph_id": graph } }),
            )
        }
        // An older server, or a door in front of one, that knows no states.
        ("GET", ["threads", _, "state"]) if fake.notes.iter().any(|note| note == "no states") => {
            Reply::json(200, json!([]))
        }
        ("GET", ["threads", _, "state"]) => match fake.runs.iter().enumerate().next_back() {
            Some((index, run)) if !fake.notes.iter().any(|n| n == "late" || n == "no checkpoint") => {
                Reply::json(200, checkpoint(index, run, &fake.notes))
            }
            _ => Reply::json(200, json!({ "values": {}, "next": [], "tasks": [], "metadata": null })),
        },
        // Of whichever run came last.
        ("GET", ["threads", _, "runs", _, "join"]) => {
            let newest = fake.runs.last().filter(|run| run.key != "not ours");
            Reply::json(200, newest.map_or(json!({ "not": "ours" }), |_| result()))
        }
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
        ("GET", ["assistants", assistant, "schemas"])
            if fake.notes.iter().any(|note| note == "same state") =>
        {
            let schema = json!({ "title": assistant, "properties": { "message": {} } });
            Reply::json(200, json!({ "graph_id": "g", "state_schema": schema }))
        }
        _ => Reply::json(404, json!({ "detail": "Not Found" })),
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
            ("GET", ["threads", _, "state"]) | ("POST", ["threads", _, "history"]) => Step::Result,
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
            ("POST", ["threads", _, "runs"]) => submit(request, fake),
            ("GET", ["threads", _, "runs"]) => {
                let known = fake.runs.iter().enumerate().filter(|(_, run)| run.state != RunState::Forgotten);
                let rows = known.rev().map(|(index, run)| {
                    json!({ "run_id": run_id(index), "status": status_of(run.state), "assistant_id": run_id(8),
                        "metadata": { "idempotency_key": run.key } })
                });
                let (most, from) = (number_in(&request.query, "limit"), number_in(&request.query, "offset"));
                Reply::json(200, Value::from_iter(rows.skip(from.unwrap_or(0)).take(most.unwrap_or(10))))
            }
            ("GET", ["threads", _, "runs", run]) => match fake.poll(index_of(run)) {
                RunState::Forgotten => Reply::json(404, json!({ "detail": "Run not found" })),
                state if state != RunState::Running && fake.takes_note("another thread") => {
                    let thread = "00000000-0000-0000-0000-000000000009";
                    Reply::json(
                        200,
                        json!({ "run_id": run, "thread_id": thread, "status": status_of(state) }),
                    )
                }
                state => {
                    let thread = request.segments()[1];
                    let status = status_of(state);
                    Reply::json(
                        200,
                        json!({ "run_id": run, "thread_id": thread, "status": status, "kwargs": {} }),
                    )
                }
            },
            ("GET", ["threads", _, "runs", run, "stream"]) => {
                let running = fake.runs.get(index_of(run)).is_some_and(|run| run.state == RunState::Running);
                let events = Reply::events(
                    "event: metadata\ndata: {\"attempt\":1}\nid: 1-0\n\n\
                     event: custom\ndata: {\"progress\":0.5,\"n\":12345678901234567890123,\"x\":0.1000000000000000055}\nid: 2-0\n\n",
                );
                let asked = fake.notes.iter().any(|note| note == "asked") && !running;
                let question = "event: metadata\ndata: {\"attempt\":1}\nid: 1-0\n\n\
                     event: updates\ndata: {\"__interrupt__\":[{\"value\":1}]}\nid: 3-0\n\n";
                if running {
                    events.held()
                } else if asked {
                    Reply::events(question)
                } else {
                    events
                }
            }
            ("POST", ["threads", _, "runs", run, "cancel"]) => match fake.cancel(index_of(run)) {
                true => Reply::json(202, json!({})),
                false => Reply::json(404, json!({ "detail": "No matching runs to cancel" })),
            },
            _ => told(request, fake),
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

    fn skips(&self, step: Step, fault: Fault) -> bool {
        // An empty object is a state like any other.
        step == Step::Result && fault == Fault::Empty
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
    assert_eq!(stub.seen(Step::Result).len(), 4, "the state, and the history three times");
    let (outcome, stub) = ended(noted(RunState::Succeeded, &["no checkpoint"]), None).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::BadResponse, "result_unavailable"));
    assert_eq!(stub.fake(|fake| fake.runs.len()), 1);
}

/// What a server joins a run with is the newest run's, so it counts only on a thread that no other run can be on.
#[tokio::test]
async fn a_server_that_tells_no_states_is_joined_on_a_thread_of_the_runs_own_only() {
    let (outcome, stub) = ended(noted(RunState::Succeeded, &["no states"]), None).await;
    let Outcome::Succeeded { result, needs_input: false } = outcome else { panic!("{outcome:?}") };
    assert_eq!(result, Langsmith.result().as_bytes());
    assert_eq!(stub.seen(Step::Submit).len(), 1);
    let (outcome, _) =
        ended(noted(RunState::Succeeded, &["no states", "no checkpoint"]), Some("shared")).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.code, "result_unavailable");
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

/// The engine reads a thread's states through its newest graph: that is enough only where both graphs have one form of
/// state, and then the run's own stream says whether the graph had stopped.
#[tokio::test]
async fn a_state_that_is_seen_through_another_graph_is_taken_only_in_full() {
    for (came_after, notes, expected) in [
        (false, &["another graph"][..], Ok(false)),
        (true, &["another graph"][..], Err("result_unavailable")),
        (true, &["another graph", "same state"][..], Ok(false)),
        (true, &["another graph", "same state", "asked"][..], Ok(true)),
    ] {
        let stub = Stub::start(Arc::new(Langsmith), noted(RunState::Running, notes), None).await;
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
        let ended = match &outcome {
            Outcome::Succeeded { result, needs_input } => {
                assert_eq!(String::from_utf8_lossy(result).contains("__interrupt__"), *needs_input);
                Ok(*needs_input)
            }
            Outcome::Failed(failure) => Err(failure.code.as_str()),
            _ => panic!("{outcome:?}"),
        };
        assert_eq!(ended, expected, "{notes:?}: {outcome:?}");
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
    let told = progress.iter().find(|item| item.fraction == Some(0.5)).and_then(|item| item.data.clone());
    let exact = r#"{"progress":0.5,"n":12345678901234567890123,"x":0.1000000000000000055}"#;
    assert_eq!(told.unwrap().get(), format!(r#"{{"event":"custom","data":{exact}}}"#));
}

#[tokio::test]
async fn a_busy_thread_is_a_conflict_of_this_execution_alone() {
    for (notes, status) in [(&[][..], 409), (&["old"][..], 422)] {
        let stub = Stub::start(Arc::new(Langsmith), noted(RunState::Succeeded, notes), None).await;
        let engine = Langsmith.engine(settings(stub.url()));
        let (_stop, call) = call(&Arc::default(), "echo", "{}");
        let call = Call { session_id: Some("shared".to_owned()), ..call };
        let other = stub.fake(|fake| fake.start("not ours"));
        let outcome = within(engine.run(call.clone())).await;
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!(
            (failure.kind, failure.code.as_str(), failure.reached, failure.engine_status),
            (FailureKind::Conflict, "thread_busy", Reached::No, Some(status)),
            "{failure:?}"
        );
        stub.fake(|fake| fake.runs[other].state = RunState::Succeeded);
        assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    }
}

#[tokio::test]
async fn a_busy_thread_with_a_run_of_ours_is_that_run() {
    let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Succeeded), None).await;
    let engine = Langsmith.engine(settings(stub.url()));
    let (_stop, call) = call(&Arc::default(), "echo", "{}");
    stub.fake(|fake| fake.start("e1.1"));
    for call in [Call { maybe_started: true, ..call.clone() }, call] {
        assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    }
    assert_eq!(stub.fake(|fake| fake.runs.len()), 1);
}

/// What is said of a run of another thread is not taken for this one's end.
#[tokio::test]
async fn an_answer_about_another_thread_is_looked_at_again() {
    for (note, ends_well) in [("once another thread", true), ("another thread", false)] {
        let stub = Stub::start(Arc::new(Langsmith), noted(RunState::Succeeded, &[note]), None).await;
        let (_stop, call) = call(&Arc::default(), "echo", "{}");
        match within(Langsmith.engine(settings(stub.url())).run(call)).await {
            Outcome::Succeeded { .. } => assert!(ends_well, "{note}"),
            Outcome::Failed(failure) => {
                assert!(!ends_well, "{note}: {failure:?}");
                assert_eq!(failure.code, "contradictory_answer");
            }
            outcome => panic!("{outcome:?}"),
        }
    }
}

/// A run whose start was lost is found among those that came after it on its thread, or it is not started again.
#[tokio::test]
async fn a_lost_start_is_found_on_a_busy_thread_or_not_repeated() {
    for (others, ours, expected) in [
        (250, true, Ok(251)),
        (999, true, Ok(1_000)),
        (1_000, true, Err("start_unknown")),
        (250, false, Ok(251)),
    ] {
        let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Succeeded), None).await;
        stub.fake(|fake| {
            if ours {
                fake.start("e1.1");
            }
            for _ in 0..others {
                let other = fake.start("not ours");
                fake.runs[other].state = RunState::Succeeded;
            }
        });
        let engine = Langsmith.engine(settings(stub.url()));
        let (_stop, call) = call(&Arc::default(), "echo", "{}");
        let call = Call { maybe_started: true, session_id: Some("shared".to_owned()), ..call };
        let ended = match within(engine.run(call)).await {
            Outcome::Succeeded { .. } => Ok(stub.fake(|fake| fake.runs.len())),
            Outcome::Failed(failure) => Err(failure.code),
            outcome => panic!("{outcome:?}"),
        };
        assert_eq!(ended, expected.map_err(str::to_owned), "{others} others");
        assert_eq!(stub.seen(Step::Submit).len(), usize::from(!ours));
    }
}

#[tokio::test]
async fn options_become_fields_of_the_run_and_never_take_the_place_of_ours() {
    let stub = Stub::start(Arc::new(Langsmith), Fake::new(RunState::Succeeded), None).await;
    let engine = Langsmith.engine(settings(stub.url()));
    let (_stop, call) = call(&Arc::default(), "echo", "{}");
    let options =
        br#"{"config":{"tags":["a"]},"context":{"n":1.50,"big":12345678901234567890},"recursionLimit":7,
        "metadata":{"team":"x","cost":0.10},"multitaskStrategy":"enqueue","durability":"exit"}"#;
    stub.fake(|fake| fake.start("not ours"));
    let call =
        Call { options: Some(options.as_slice().into()), session_id: Some("shared".to_owned()), ..call };
    assert!(
        matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }),
        "it queues behind the other"
    );
    let asked = &stub.seen(Step::Submit)[0];
    let sent = String::from_utf8(asked.body.clone()).unwrap();
    for exact in [
        r#""config":{"recursion_limit":7,"tags":["a"]}"#,
        r#""context":{"n":1.50,"big":12345678901234567890}"#,
        r#""metadata":{"cost":0.10,"team":"x","execution_id":"e1","idempotency_key":"e1.1"}"#,
        r#""multitask_strategy":"enqueue""#,
        r#""durability":"exit""#,
    ] {
        assert!(sent.contains(exact), "{exact}: {sent}");
    }
}

#[test]
fn what_an_agent_server_cannot_run_is_refused_at_submit() {
    let engine = Langsmith.engine(settings("http://127.0.0.1:1"));
    let validate = |id, definition, parameters| {
        engine
            .validate(&Workflow { id, definition, parameters, options: None })
            .map_err(|failure| failure.code)
    };
    let with = |options: &'static str| {
        let asked =
            Workflow { id: "g", definition: None, parameters: b"{}", options: Some(options.as_bytes()) };
        engine.validate(&asked).map_err(|failure| failure.code)
    };
    assert_eq!(with(r#"{"recursionLimit":9}"#), Ok(()));
    assert_eq!(with(r#"{"metadata":{"execution_id":"mine"}}"#), Err("invalid_engine_options".to_owned()));
    assert_eq!(validate("g", None, b"{}"), Ok(()));
    assert_eq!(validate("g", Some(b"{}"), b"{}"), Err("inline_not_supported".to_owned()));
    assert_eq!(validate(" ", None, b"{}"), Err("invalid_workflow_id".to_owned()));
    assert_eq!(
        validate("g", None, br#"{"command":{"resume":1},"x":1}"#),
        Err("invalid_parameters".to_owned())
    );
}
