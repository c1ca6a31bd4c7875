//! The stub as an n8n.

use crate::dialect::{CANARY, Dialect, Expected, Fake, Fault, RunState, Step};
use crate::host::{NotingHost, call};
use crate::stub::{Plan, Reply, Seen, Stub};
use crate::{settings, within};
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::{EndpointConfig, HttpSettings};
use enginehouse_engine::{Call, Engine, N8n as Adapter, N8nConfig, N8nMode, N8nWebhook, Outcome, Reached};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A workflow whose webhook answers with its execution's id.
pub(crate) struct N8n;

const WORKFLOW: &str = "wf1";
/// A workflow that says nothing about its execution.
const SILENT: &str = "wf2";

fn number(index: usize) -> String {
    (index + 1).to_string()
}

fn index_of(id: &str) -> usize {
    id.parse::<usize>().map_or(usize::MAX, |number| number.wrapping_sub(1))
}

fn status_of(state: RunState) -> &'static str {
    match state {
        RunState::Running | RunState::Asks => "running",
        RunState::Succeeded => "success",
        RunState::Failed => "error",
        RunState::TimedOut | RunState::Cancelled => "canceled",
        RunState::Crashed => "crashed",
        RunState::Forgotten => "gone",
    }
}

/// An execution as the API gives it.
fn execution(index: usize, state: RunState, key: &str, with_data: bool) -> Value {
    let mut said =
        json!({"id": number(index), "status": status_of(state), "finished": state == RunState::Succeeded});
    if with_data {
        let hook =
            json!([{"data": {"main": [[{"json": {"headers": {"x-execution-key": key}, "body": {}}}]]}}]);
        if state == RunState::Running {
            // Nothing has run yet.
            said["data"] =
                json!({"resultData": {"runData": {}}, "executionData": {"nodeExecutionStack": [hook[0]]}});
            return said;
        }
        let last = json!([{"data": {"main": [[{"json": {"echo": "hi"}}]]}}]);
        let error = match state {
            RunState::Failed => json!({"name": "Error", "message": "boom"}),
            RunState::TimedOut => json!({"name": "TimeoutExecutionCancelledError"}),
            RunState::Cancelled => json!({"name": "ManualExecutionCancelledError"}),
            _ => Value::Null,
        };
        said["data"] = json!({"resultData": {
            "runData": {"Hook": hook, "Echo": last}, "lastNodeExecuted": "Echo", "error": error,
        }});
    }
    said
}

fn adapter(settings: HttpSettings, allow_inline: bool) -> Adapter {
    let webhook = |path: &str, mode| N8nWebhook { path: path.to_owned(), mode, headers: Vec::new() };
    let workflows = BTreeMap::from([
        (WORKFLOW.to_owned(), webhook("hook", N8nMode::Track)),
        (SILENT.to_owned(), webhook("silent", N8nMode::Lookup)),
    ]);
    Adapter::new(N8nConfig { workflows, allow_inline, ..N8nConfig::new(settings) }).unwrap()
}

/// Whether the executions of the workflow are over at once, and gone.
fn keeps_none(fake: &Fake) -> bool {
    fake.notes.iter().any(|note| note == "keeps none")
}

/// The part of the API about one execution.
fn one(request: &Seen, id: &str, fake: &mut Fake) -> Reply {
    let index = index_of(id);
    let with_data = request.query.contains("includeData=true");
    let key = fake.runs.get(index).map(|run| run.key.clone()).unwrap_or_default();
    let state = if with_data {
        fake.runs.get(index).map_or(RunState::Forgotten, |run| run.state)
    } else {
        fake.poll(index)
    };
    let about = if with_data { "another's data" } else { "another's status" };
    match state {
        RunState::Forgotten => Reply::json(404, json!({"message": "Not Found"})),
        state if state != RunState::Running && fake.takes_note(about) => {
            Reply::json(200, json!({"id": "77", "status": "error", "finished": false, "data": {}}))
        }
        state => Reply::json(200, execution(index, state, &key, with_data)),
    }
}

/// The part of the API about workflows; it knows one copy.
fn workflows(request: &Seen, fake: &mut Fake) -> Reply {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["api", "v1", "workflows"]) => {
            let body = request.json();
            fake.notes.push(format!("create {}", body["nodes"][0]["parameters"]["path"]));
            fake.names.push(body["name"].as_str().unwrap_or_default().to_owned());
            Reply::json(200, json!({"id": "copy1", "active": false}))
        }
        ("GET", ["api", "v1", "workflows"]) => {
            let rows = fake.names.iter().map(|name| json!({"id": "copy1", "name": name, "nodes": []}));
            Reply::json(200, json!({"data": Value::from_iter(rows), "nextCursor": null}))
        }
        ("DELETE", ["api", "v1", "workflows", id]) => {
            fake.notes.push(format!("delete {id}"));
            Reply::json(200, json!({"id": id}))
        }
        ("POST", ["api", "v1", "workflows", id, "activate"]) => {
            fake.notes.push(format!("activate {id}"));
            Reply::json(200, json!({"id": id, "active": true}))
        }
        ("GET", ["api", "v1", "workflows", WORKFLOW]) => {
            let settings = json!({"saveDataSuccessExecution": if keeps_none(fake) { "none" } else { "all" }});
            Reply::json(200, json!({"active": true, "nodes": [], "settings": settings}))
        }
        ("GET", ["api", "v1", "workflows", "copy1"]) => {
            Reply::json(200, json!({"active": true, "nodes": []}))
        }
        _ => Reply::json(404, json!({"message": "Not Found"})),
    }
}

impl Dialect for N8n {
    fn name(&self) -> &'static str {
        "n8n"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Arc::new(adapter(settings, true))
    }

    fn workflow_id(&self) -> &'static str {
        WORKFLOW
    }

    fn result(&self) -> &'static str {
        r#"[{"echo":"hi"}]"#
    }

    fn step(&self, request: &Seen) -> Step {
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["healthz", "readiness"]) => Step::Health,
            ("POST", ["webhook", ..]) => Step::Submit,
            ("POST", ["api", "v1", "executions", _, "stop"]) => Step::Cancel,
            ("GET", ["api", "v1", "executions", _]) if request.query.contains("includeData=true") => {
                Step::Result
            }
            ("GET", ["api", "v1", "executions", _]) => Step::Status,
            _ => Step::Side,
        }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        let segments = request.segments();
        let open = matches!(segments.first(), Some(&"healthz" | &"webhook"));
        if !open && request.header("x-n8n-api-key") != Some(CANARY) {
            return Reply::json(401, json!({"message": "Unauthorized"}));
        }
        let not_found = || Reply::json(404, json!({"message": "Not Found"}));
        match (request.method.as_str(), segments.as_slice()) {
            ("GET", ["healthz", "readiness"]) if fake.healthy => Reply::json(200, json!({"status": "ok"})),
            ("GET", ["healthz", "readiness"]) => Reply::json(503, json!({"status": "error"})),
            ("POST", ["webhook", path]) => {
                assert!(request.header("x-n8n-api-key").is_none(), "the API key is not for a webhook");
                let index = fake.start(request.header("x-execution-key").unwrap_or_default());
                match *path {
                    // It answers when its workflow has ended, and that does not.
                    "silent" if fake.notes.contains(&"hold".to_owned()) => Reply::of(200, "", "").held(),
                    // It speaks of another's execution.
                    "silent" if fake.notes.contains(&"foreign".to_owned()) => {
                        Reply::json(200, json!({"executionId": "1"})).with_header("x-execution-id", "1")
                    }
                    "silent" => Reply::json(200, json!([{"echo": "hi"}])),
                    _ => Reply::json(200, json!({"executionId": number(index)})),
                }
            }
            ("GET", ["webhook", _]) => {
                let text =
                    "This webhook is not registered for GET requests. Did you mean to make a POST request?";
                Reply::json(404, json!({"code": 404, "message": text}))
            }
            ("GET", ["api", "v1", "executions"]) if keeps_none(fake) => {
                Reply::json(200, json!({"data": [], "nextCursor": null}))
            }
            ("GET", ["api", "v1", "executions"]) => {
                let running = request.query.contains("status=running");
                let rows = fake
                    .runs
                    .iter()
                    .enumerate()
                    .rev()
                    .filter(|(_, run)| (run.state == RunState::Running) == running);
                let rows: Vec<Value> =
                    rows.map(|(index, run)| execution(index, run.state, &run.key, false)).collect();
                let rows = if request.query.contains("status=waiting") { Vec::new() } else { rows };
                Reply::json(200, json!({"data": rows, "nextCursor": null}))
            }
            ("GET", ["api", "v1", "executions", id]) => one(request, id, fake),
            ("POST", ["api", "v1", "executions", id, "stop"]) => match fake.cancel(index_of(id)) {
                true => Reply::json(200, json!({"status": "canceled"})),
                false => {
                    Reply::json(409, json!({"message": "Only running or waiting executions can be stopped"}))
                }
            },
            (_, ["api", "v1", "workflows", ..]) => workflows(request, fake),
            _ => not_found(),
        }
    }

    fn differs(&self, step: Step, fault: Fault) -> Option<Expected> {
        use FailureKind::{EngineError, InvalidRequest, RateLimited, Unavailable};
        match (step, fault) {
            // The workflow may have been started all the same: the next attempt looks for it.
            (Step::Submit, Fault::Busy | Fault::Status(408)) => {
                Some(Expected::Fails(RateLimited, Reached::Maybe))
            }
            (Step::Submit, Fault::Status(503)) => Some(Expected::Fails(Unavailable, Reached::Maybe)),
            // A gateway gave up, and n8n did not.
            (Step::Submit, Fault::Status(504)) => Some(Expected::Succeeds),
            // A webhook may answer anything; what counts is whether its execution is found, and here there is none.
            (
                Step::Submit,
                Fault::Malformed | Fault::Empty | Fault::TooDeep | Fault::Huge | Fault::Endless,
            ) => Some(Expected::Fails(InvalidRequest, Reached::Yes)),
            (Step::Submit, Fault::Status(500)) => Some(Expected::Fails(EngineError, Reached::Yes)),
            _ => None,
        }
    }

    fn ends(&self, state: RunState) -> Option<Expected> {
        match state {
            // n8n loses no execution: what it does not keep has ended.
            RunState::Forgotten => Some(Expected::Fails(FailureKind::BadResponse, Reached::Yes)),
            state => crate::dialect::usual_end(state),
        }
    }
}

/// What is said of another execution is not taken for this one's end.
#[tokio::test]
async fn an_answer_about_another_execution_is_looked_at_again() {
    for (note, expected) in [
        ("once another's status", Ok(())),
        ("once another's data", Ok(())),
        ("another's data", Err((FailureKind::BadResponse, "contradictory_answer"))),
    ] {
        let fake = Fake { notes: vec![note.to_owned()], ..Fake::new(RunState::Succeeded) };
        let stub = Stub::start(Arc::new(N8n), fake, None).await;
        let (_stop, call) = call(&Arc::default(), WORKFLOW, "{}");
        let ended = match within(adapter(settings(stub.url()), false).run(call)).await {
            Outcome::Succeeded { .. } => Ok(()),
            Outcome::Failed(failure) => Err((failure.kind, failure.code)),
            outcome => panic!("{outcome:?}"),
        };
        assert_eq!(ended, expected.map_err(|(kind, code)| (kind, code.to_owned())), "{note}");
    }
}

/// What a workflow keeps no record of cannot be looked up: a call of which nothing came back is not made again by itself.
#[tokio::test]
async fn a_call_without_an_answer_is_not_repeated_where_nothing_is_kept() {
    for (note, retried) in [("keeps none", Some(false)), ("", None)] {
        for fault in [Fault::Status(504), Fault::NotHttp, Fault::LostAnswer, Fault::Status(503)] {
            let fake = Fake { notes: vec![note.to_owned()], ..Fake::new(RunState::Succeeded) };
            let plan = Plan { step: Step::Submit, fault, times: 1 };
            let stub = Stub::start(Arc::new(N8n), fake, Some(plan)).await;
            let (_stop, call) = call(&Arc::default(), WORKFLOW, "{}");
            let outcome = within(adapter(settings(stub.url()), false).run(call)).await;
            let retried = retried.filter(|_| fault != Fault::Status(503));
            match outcome {
                Outcome::Failed(failure) => {
                    assert_eq!(failure.retried, retried, "{note} {fault:?}");
                    assert_eq!(failure.message.contains("saveDataSuccess"), retried.is_some(), "{failure:?}");
                }
                outcome => {
                    let found = note.is_empty() && fault == Fault::Status(504);
                    assert!(found && matches!(outcome, Outcome::Succeeded { .. }), "{fault:?} {outcome:?}");
                }
            }
        }
    }
}

/// A workflow that tells no id is found by the header it was called with, and not confused with others.
#[tokio::test]
async fn a_silent_workflow_is_found_by_its_header() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    stub.fake(|fake| fake.start("somebody.1"));
    let (_stop, call) = call(&Arc::default(), SILENT, "{}");
    let outcome = within(adapter(settings(stub.url()), false).run(call)).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(stub.fake(|fake| fake.runs.len()), 2);
}

/// What a workflow answers that is not made for it is its own business, an id in it as well.
#[tokio::test]
async fn an_id_in_the_answer_of_a_silent_workflow_is_not_believed() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    stub.fake(|fake| fake.start("somebody.1"));
    stub.fake(|fake| fake.notes.push("foreign".to_owned()));
    let host = Arc::new(NotingHost::default());
    let (_stop, call) = call(&host, SILENT, "{}");
    let outcome = within(adapter(settings(stub.url()), false).run(call)).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(host.engine_run().as_deref(), Some("2"));
}

/// Webhooks may be called elsewhere than the API, below another prefix.
#[tokio::test]
async fn webhooks_are_called_where_they_are() {
    let api = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    let hooks = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    let webhook = N8nWebhook { path: "a/b".to_owned(), mode: N8nMode::Track, headers: Vec::new() };
    let config = |urls: &[&str]| {
        let mut http = settings(api.url());
        http.endpoints.extend(urls.iter().map(|url| EndpointConfig { url: (*url).to_owned(), weight: 1 }));
        N8nConfig {
            workflows: BTreeMap::from([(WORKFLOW.to_owned(), webhook.clone())]),
            webhook_url: Some(format!("{}/n8n/", hooks.url())),
            webhook_prefix: "hooks/v2".to_owned(),
            ..N8nConfig::new(http)
        }
    };
    let (_stop, call) = call(&Arc::default(), WORKFLOW, "{}");
    let _ = within(Adapter::new(config(&[])).unwrap().run(call)).await;
    let asked = hooks.seen(Step::Side).pop().expect("the webhook was called");
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/n8n/hooks/v2/a/b"));
    assert!(asked.header("x-n8n-api-key").is_none());
    let several = Adapter::new(config(&["http://127.0.0.1:9"])).err().unwrap();
    assert_eq!(several.field, "webhook_url");
    let prefix = N8nConfig { webhook_prefix: "../x".to_owned(), ..config(&[]) };
    assert_eq!(Adapter::new(prefix).err().unwrap().field, "webhook_prefix");
}

/// A workflow that tells no id is found while it runs, so it can be stopped.
#[tokio::test]
async fn a_running_execution_shows_what_it_was_called_with_before_its_first_node() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Running), None).await;
    let engine = Arc::new(adapter(settings(stub.url()), false));
    let host = Arc::new(NotingHost::default());
    let (stop, call) = call(&host, SILENT, "{}");
    stub.fake(|fake| fake.notes.push("hold".to_owned()));
    let task = tokio::spawn(async move { engine.run(call).await });
    crate::until(|| host.engine_run().is_some()).await;
    stop.send_replace(Some(enginehouse_engine::Stop::Cancel));
    assert_eq!(within(task).await.unwrap(), Outcome::Cancelled);
    assert_eq!(stub.fake(|fake| fake.runs[0].cancels), 1);
}

/// What may have been started by an earlier attempt is looked up before anything is repeated.
#[tokio::test]
async fn a_run_of_an_earlier_attempt_is_taken_up() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    let host = Arc::new(NotingHost::default());
    let (_stop, first) = call(&host, WORKFLOW, "{}");
    stub.fake(|fake| fake.start(&first.idempotency_key));
    let again = Call { maybe_started: true, attempt: 2, ..first };
    let outcome = within(adapter(settings(stub.url()), false).run(again)).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!((stub.fake(|fake| fake.runs.len()), host.engine_run()), (1, Some("1".to_owned())));
}

#[tokio::test]
async fn a_definition_is_copied_and_activated_once() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    let engine = adapter(settings(stub.url()), true);
    let host = Arc::new(NotingHost::default());
    let definition = json!({"connections": {}, "nodes": [{"type": "n8n-nodes-base.webhook", "parameters": {"path": "guessed"}}]});
    for _ in 0..2 {
        let (_stop, call) = call(&host, "label", "{}");
        let call = Call { definition: Some(Bytes::from(definition.to_string())), ..call };
        let outcome = within(engine.run(call)).await;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    }
    let notes = stub.fake(|fake| fake.notes.clone());
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("create \"enginehouse-") && notes[1] == "activate copy1", "{notes:?}");
}

/// Only what this service copied itself and no one used for a week is deleted, when the next copy is made.
#[tokio::test]
async fn a_copy_nobody_uses_is_deleted() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    stub.fake(|fake| fake.names.push(format!("another's (enginehouse {})", "0".repeat(32))));
    let engine = adapter(settings(stub.url()), true);
    let host = Arc::new(NotingHost::default());
    let run = async |label: &str| {
        let hook = json!({"type": "n8n-nodes-base.webhook", "name": label, "parameters": {}});
        let definition = json!({"connections": {}, "nodes": [hook]});
        let (_stop, call) = call(&host, "label", "{}");
        let call = Call { definition: Some(Bytes::from(definition.to_string())), ..call };
        assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    };
    run("old").await;
    for fact in host.facts.lock().unwrap().values_mut() {
        let (rest, day) = fact.rsplit_once(' ').unwrap();
        *fact = format!("{rest} {}", day.parse::<u64>().unwrap() - 7);
    }
    run("new").await;
    let deleted = stub.fake(|fake| fake.notes.iter().filter(|note| note.starts_with("delete")).count());
    assert_eq!(deleted, 1);
}

#[tokio::test]
async fn a_wrong_key_starts_nothing() {
    let stub = Stub::start(Arc::new(N8n), Fake::new(RunState::Succeeded), None).await;
    let http = HttpSettings { api_key: Some("another".into()), ..settings(stub.url()) };
    let (_stop, call) = call(&Arc::default(), WORKFLOW, "{}");
    let Outcome::Failed(failure) = within(adapter(http, false).run(call)).await else {
        panic!("not refused")
    };
    assert_eq!((failure.kind, stub.fake(|fake| fake.runs.len())), (FailureKind::Auth, 0));
}
