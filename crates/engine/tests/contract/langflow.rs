//! The stub as Langflow, by its v2 interface and by v1.

use crate::dialect::{CANARY, Dialect, Expected, Fake, Fault, RunState, Step};
use crate::host::{NotingHost, call};
use crate::stub::{Plan, Reply, Seen, Stub};
use crate::{settings, within};
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::langflow::{Langflow as Adapter, LangflowApi, LangflowConfig};
use enginehouse_engine::{Call, Engine, Outcome, Reached, Workflow};
use serde_json::{Value, json};
use std::sync::Arc;

const FLOW: &str = "6f1d5a0e-0000-4000-8000-000000000001";
const RESULT: &str = r#"{"echo":"hi","n":1.50}"#;

pub(crate) struct Langflow;
pub(crate) struct LangflowV1;

fn job_id(index: usize) -> String {
    format!("00000000-0000-4000-8000-{index:012}")
}

fn index_of(id: &str) -> usize {
    id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX)
}

fn failed(detail: Value) -> Reply {
    let detail = json!({ "error": "Job failed", "code": "JOB_FAILED", "message": "Job has failed execution.",
        "error_detail": detail });
    Reply::json(500, json!({ "detail": detail }))
}

fn status_of(job: &str, state: RunState) -> Reply {
    let going = |status: &str| Reply::json(200, json!({ "job_id": job, "status": status, "errors": [] }));
    match state {
        RunState::Running => going("in_progress"),
        RunState::Asks => going("suspended"),
        RunState::Cancelled => going("cancelled"),
        RunState::Succeeded => Reply::json(
            200,
            json!({ "job_id": job, "status": "completed", "has_errors": false, "errors": [],
                "output": { "reason": "single", "text": RESULT, "source": "ChatOutput-x" },
                "outputs": { "ChatOutput-x": { "content": RESULT } } }),
        ),
        RunState::Failed => failed(json!({ "text": "boom\n", "content_blocks": [{ "contents": [
            { "reason": "**RuntimeError**\n - **Details: boom**\n", "traceback": "Traceback (most recent ...)" }] }] })),
        RunState::Crashed => failed(json!({ "type": "worker_lost" })),
        RunState::TimedOut => {
            Reply::json(408, json!({ "detail": { "code": "EXECUTION_TIMEOUT", "message": "timed out" } }))
        }
        RunState::Forgotten => {
            Reply::json(404, json!({ "detail": { "code": "JOB_NOT_FOUND", "message": "not found" } }))
        }
    }
}

/// What both interfaces share.
fn common(request: &Seen) -> Option<Reply> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["health_check"]) => {
            Some(Reply::json(200, json!({ "status": "ok", "chat": "ok", "db": "ok" })))
        }
        _ if request.header("x-api-key") != Some(CANARY) => {
            Some(Reply::json(403, json!({ "detail": "Invalid or missing API key" })))
        }
        ("PUT", ["api", "v1", "flows", id]) => Some(Reply::json(201, json!({ "id": id }))),
        _ => None,
    }
}

impl Dialect for Langflow {
    fn name(&self) -> &'static str {
        "langflow"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Arc::new(Adapter::new(LangflowConfig::new(settings)).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        FLOW
    }

    fn result(&self) -> &'static str {
        RESULT
    }

    fn step(&self, request: &Seen) -> Step {
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["health_check"]) => Step::Health,
            ("POST", ["api", "v2", "workflows"]) => Step::Submit,
            ("POST", ["api", "v2", "workflows", "stop"]) => Step::Cancel,
            ("GET", ["api", "v2", "workflows"]) => Step::Status,
            _ => Step::Side,
        }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        if let Some(reply) = common(request) {
            return reply;
        }
        let body = request.json();
        match (request.method.as_str(), request.segments().as_slice()) {
            ("POST", ["api", "v2", "workflows"]) => {
                let key = body["idempotency_key"].as_str().unwrap_or_default();
                let index = fake.find(key).unwrap_or_else(|| fake.start(key));
                Reply::json(200, json!({ "job_id": job_id(index), "status": "queued", "errors": [] }))
            }
            ("GET", ["api", "v2", "workflows"]) => {
                let job = request.query.trim_start_matches("job_id=");
                status_of(job, fake.poll(index_of(job)))
            }
            ("GET", ["api", "v2", "workflows", job, "events"]) => {
                let running = fake.runs.get(index_of(job)).is_some_and(|run| run.state == RunState::Running);
                let events = Reply::events(
                    "data: {\"event\":\"vertices_sorted\",\"data\":{\"to_run\":[\"a\",\"b\"]}}\nid: 1\n\n\
                     data: {\"event\":\"end_vertex\",\"data\":{\"build_data\":{\"id\":\"a\"}}}\nid: 2\n\n",
                );
                let said = fake.notes.iter().any(|note| note == "error message") && !running;
                let error = format!(
                    "data: {}\nid: 1\n\ndata: {{\"event\":\"end\"}}\nid: 2\n\n",
                    json!({ "event": "end_vertex", "data": { "build_data": { "id": "ChatOutput-x", "data": { "results": {
                        "message": { "text": "no\n key", "error": true } } } } } })
                );
                if running {
                    events.held()
                } else if said {
                    Reply::events(&error)
                } else {
                    events
                }
            }
            ("POST", ["api", "v2", "workflows", "stop"]) => {
                let index = index_of(body["job_id"].as_str().unwrap_or_default());
                if index >= fake.runs.len() {
                    return status_of("", RunState::Forgotten);
                }
                fake.cancel(index);
                Reply::json(200, json!({ "message": "cancelled" }))
            }
            _ => Reply::json(404, json!({ "detail": "Not Found" })),
        }
    }

    fn ends(&self, state: RunState) -> Option<Expected> {
        use FailureKind::{EngineError, Timeout, Unavailable};
        match state {
            RunState::Succeeded => Some(Expected::Succeeds),
            RunState::Failed | RunState::Asks => Some(Expected::Fails(EngineError, Reached::Yes)),
            RunState::TimedOut => Some(Expected::Fails(Timeout, Reached::Yes)),
            RunState::Cancelled => Some(Expected::Cancelled),
            RunState::Crashed | RunState::Forgotten => Some(Expected::Fails(Unavailable, Reached::Yes)),
            RunState::Running => None,
        }
    }

    fn skips(&self, step: Step, _fault: Fault) -> bool {
        // The last status carries the result.
        step == Step::Result
    }

    fn failure_words(&self) -> &'static str {
        "RuntimeError: boom"
    }
}

impl Dialect for LangflowV1 {
    fn name(&self) -> &'static str {
        "langflow v1"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        let config = LangflowConfig { api: LangflowApi::V1, ..LangflowConfig::new(settings) };
        Arc::new(Adapter::new(config).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        "my flow"
    }

    fn result(&self) -> &'static str {
        RESULT
    }

    fn step(&self, request: &Seen) -> Step {
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["health_check"]) => Step::Health,
            ("POST", ["api", "v1", "run", "my%20flow"]) => Step::Submit,
            _ => Step::Side,
        }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        if let Some(reply) = common(request) {
            return reply;
        }
        match (self.step(request), fake.end) {
            (Step::Submit, RunState::Succeeded) => {
                fake.start("");
                Reply::json(
                    200,
                    json!({ "session_id": "s", "outputs": [{ "inputs": {}, "outputs": [
                        { "results": { "message": { "text": RESULT } } }] }] }),
                )
            }
            (Step::Submit, _) => {
                let inner = json!({ "message": "Error running graph: Error building Component X: \n\nboom" });
                Reply::json(500, json!({ "detail": inner.to_string() }))
            }
            _ => Reply::json(404, json!({ "detail": "Flow identifier x not found" })),
        }
    }

    fn ends(&self, state: RunState) -> Option<Expected> {
        match state {
            RunState::Succeeded => Some(Expected::Succeeds),
            RunState::Failed => Some(Expected::Fails(FailureKind::EngineError, Reached::Yes)),
            _ => None,
        }
    }

    fn skips(&self, step: Step, fault: Fault) -> bool {
        // The one request lasts as long as the run, so nothing but the attempt's own limit ends a silent one.
        step != Step::Submit || matches!(fault, Fault::Stall | Fault::Drip)
    }
}

fn with(settings: HttpSettings, change: fn(&mut LangflowConfig)) -> Adapter {
    let mut config = LangflowConfig::new(settings);
    change(&mut config);
    Adapter::new(config).unwrap()
}

#[tokio::test]
async fn a_flow_is_asked_for_as_the_engine_wants_it() {
    let stub = Stub::start(Arc::new(Langflow), Fake::new(RunState::Succeeded), None).await;
    stub.fake(|fake| fake.polls_to_end = 20);
    let engine =
        with(settings(stub.url()), |config| (config.allow_tweaks, config.allow_globals) = (true, true));
    let host = Arc::new(NotingHost::default());
    let parameters = r#"{"input":{"n":1.50},"tweaks":{"C-1":{"f":"v"}},"globals":{"G":"1"}}"#;
    let (_stop, first) = call(&host, FLOW, parameters);
    let second = Call { idempotency_key: "e1.2".to_owned(), ..first.clone() };
    let third =
        Call { idempotency_key: "e1.3".to_owned(), session_id: Some("chat".to_owned()), ..first.clone() };
    for call in [first, second, third] {
        assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    }
    let asked: Vec<Value> = stub.seen(Step::Submit).iter().map(Seen::json).collect();
    assert_eq!(
        asked[0],
        json!({ "flow_id": FLOW, "input_value": "{\"n\":1.50}", "mode": "background", "session_id": "e1",
            "idempotency_key": "e1.1", "tweaks": { "C-1": { "f": "v" } }, "globals": { "G": "1" } })
    );
    assert_eq!(asked[1]["session_id"], "e1.2", "a fresh run has a memory of its own");
    assert_eq!(asked[2]["session_id"], "chat");
    let progress = host.progress.lock().unwrap();
    assert!(progress.iter().any(|item| item.fraction == Some(0.5)), "{progress:?}");
}

/// The answer about a background job keeps the text of a message, but not that it was an error.
#[tokio::test]
async fn a_flow_that_ends_with_an_error_message_has_failed() {
    for (progress, notes) in [(true, true), (false, true), (true, false)] {
        let mut fake = Fake::new(RunState::Succeeded);
        fake.notes.extend(notes.then(|| "error message".to_owned()));
        let stub = Stub::start(Arc::new(Langflow), fake, None).await;
        let mut config = LangflowConfig::new(settings(stub.url()));
        config.progress = progress;
        let (_stop, call) = call(&Arc::default(), FLOW, "{}");
        match within(Adapter::new(config).unwrap().run(call)).await {
            Outcome::Failed(failure) if notes => {
                assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::EngineError, "no key"));
            }
            Outcome::Succeeded { .. } if !notes => {}
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(stub.fake(|fake| fake.runs.len()), 1);
    }
}

#[tokio::test]
async fn a_langflow_without_v2_is_told_how_it_is_spoken_to() {
    let plan = |status| Plan { step: Step::Submit, fault: Fault::Status(status), times: usize::MAX };
    let stub = Stub::start(Arc::new(Langflow), Fake::new(RunState::Succeeded), Some(plan(405))).await;
    let (_stop, call) = call(&Arc::default(), FLOW, "{}");
    let outcome = within(Langflow.engine(settings(stub.url())).run(call)).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.code.as_str(), failure.engine_status), ("no_v2_interface", Some(405)));
    assert!(failure.message.contains("api = \"v1\""), "{failure:?}");
    assert!(!failure.kind.retried_by_default(), "{failure:?}");
}

#[tokio::test]
async fn a_flow_that_asks_is_stopped_unless_it_is_waited_for() {
    let stub = Stub::start(Arc::new(Langflow), Fake::new(RunState::Asks), None).await;
    let (_stop, asking) = call(&Arc::default(), FLOW, "{}");
    let outcome = within(Langflow.engine(settings(stub.url())).run(asking)).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::EngineError, "needs_input"));
    assert_eq!(stub.fake(|fake| fake.runs[0].cancels), 1);

    let stub = Stub::start(Arc::new(Langflow), Fake::new(RunState::Asks), None).await;
    let engine = with(settings(stub.url()), |config| config.wait_for_input = true);
    let (_stop, asking) = call(&Arc::default(), FLOW, "{}");
    let running = tokio::spawn(async move { engine.run(asking).await });
    crate::until(|| stub.seen(Step::Status).len() > 5).await;
    stub.fake(|fake| fake.runs[0].state = RunState::Succeeded);
    assert!(matches!(within(running).await.unwrap(), Outcome::Succeeded { .. }));
}

#[tokio::test]
async fn an_inline_flow_is_uploaded_once_per_content() {
    let stub = Stub::start(Arc::new(Langflow), Fake::new(RunState::Succeeded), None).await;
    let host = Arc::new(NotingHost::default());
    let (_stop, first) = call(&host, "label", "{}");
    let inline = |text: &'static str, key: &str| Call {
        definition: Some(text.as_bytes().into()),
        workflow_name: Some("mine".to_owned()),
        idempotency_key: key.to_owned(),
        ..first.clone()
    };
    let refused = within(Langflow.engine(settings(stub.url())).run(inline("{}", "k"))).await;
    let Outcome::Failed(failure) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.code, "inline_not_allowed");

    let engine = with(settings(stub.url()), |config| config.allow_inline = true);
    let (a, b) = (r#"{"data":{"nodes":[],"edges":[]}}"#, r#"{"nodes":[1],"edges":[]}"#);
    for call in [inline(a, "k1"), inline(a, "k2"), inline(b, "k3")] {
        assert!(matches!(within(engine.run(call)).await, Outcome::Succeeded { .. }));
    }
    let puts: Vec<Seen> = stub.seen(Step::Side).into_iter().filter(|seen| seen.method == "PUT").collect();
    assert_eq!(puts.len(), 2, "one upload per content");
    assert_eq!(puts[0].json()["data"], json!({ "nodes": [], "edges": [] }));
    let flows: Vec<Value> =
        stub.seen(Step::Submit).iter().map(|seen| seen.json()["flow_id"].clone()).collect();
    assert_eq!(flows[0], flows[1]);
    assert_ne!(flows[0], flows[2]);
    assert_eq!(puts[0].segments()[3], flows[0]);
}

/// A Langflow that does not know any flow until it was uploaded.
struct Forgetful;

impl Dialect for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }
    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Arc::new(with(settings, |config| config.allow_inline = true))
    }
    fn workflow_id(&self) -> &'static str {
        FLOW
    }
    fn result(&self) -> &'static str {
        RESULT
    }
    fn step(&self, request: &Seen) -> Step {
        Langflow.step(request)
    }
    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        if request.method == "PUT" {
            fake.start("uploaded");
        }
        if self.step(request) == Step::Submit && fake.find("uploaded").is_none() {
            let detail = json!({ "code": "FLOW_NOT_FOUND", "message": "does not exist" });
            return Reply::json(404, json!({ "detail": detail }));
        }
        Langflow.answer(request, fake)
    }
}

#[tokio::test]
async fn a_flow_the_engine_lost_is_uploaded_again() {
    let stub = Stub::start(Arc::new(Forgetful), Fake::new(RunState::Succeeded), None).await;
    let host = Arc::new(NotingHost::default());
    let engine = Forgetful.engine(settings(stub.url()));
    let (_stop, mut inline) = call(&host, "label", "{}");
    inline.definition = Some(r#"{"nodes":[]}"#.as_bytes().into());
    assert!(matches!(within(engine.run(inline.clone())).await, Outcome::Succeeded { .. }));
    stub.fake(|fake| fake.runs.clear());
    inline.idempotency_key = "e1.2".to_owned();
    assert!(matches!(within(engine.run(inline)).await, Outcome::Succeeded { .. }));
    assert_eq!(stub.seen(Step::Side).iter().filter(|seen| seen.method == "PUT").count(), 2);

    let (_stop, unknown) = call(&host, FLOW, "{}");
    stub.fake(|fake| fake.runs.clear());
    let outcome = within(engine.run(unknown)).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::NotFound, "workflow_not_found"));
}

/// A Langflow that keeps ten characters of a text.
struct Cutting {
    /// The flow stores its messages.
    stores: bool,
    text: &'static str,
}

impl Dialect for Cutting {
    fn name(&self) -> &'static str {
        "cutting"
    }
    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Langflow.engine(settings)
    }
    fn workflow_id(&self) -> &'static str {
        FLOW
    }
    fn result(&self) -> &'static str {
        RESULT
    }
    fn step(&self, request: &Seen) -> Step {
        Langflow.step(request)
    }
    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        let kept = |text: &str| match text.char_indices().nth(10) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text.to_owned(),
        };
        match (self.step(request), request.path.as_str()) {
            (Step::Status, _) => {
                let output = json!({ "reason": "single", "text": kept(self.text) });
                Reply::json(200, json!({ "status": "completed", "output": output, "errors": [] }))
            }
            (_, "/api/v1/config") => Reply::json(200, json!({ "serialization_max_text_length": 10 })),
            (_, "/api/v1/monitor/messages") => {
                assert!(request.query.contains("session_id=e1"), "{}", request.query);
                let message = |job: usize, text: &str| json!({ "text": text, "session_metadata": { "graph_run_id": job_id(job) } });
                let other = message(7, "0123456789 of another run");
                let ours = [other.clone(), message(0, "a question"), message(0, self.text)];
                Reply::json(200, if self.stores { json!(ours) } else { json!([other]) })
            }
            _ => Langflow.answer(request, fake),
        }
    }
}

#[tokio::test]
async fn a_result_the_engine_cut_is_never_taken_for_the_whole() {
    let long = "0123456789 and more";
    for (stores, text, whole) in [
        (true, long, Some("\"0123456789 and more\"")),
        (false, long, None),
        (false, "0123456789", Some("\"0123456789\"")),
        (false, "wait...", Some("\"wait...\"")),
    ] {
        let stub =
            Stub::start(Arc::new(Cutting { stores, text }), Fake::new(RunState::Succeeded), None).await;
        let (_stop, call) = call(&Arc::default(), FLOW, "{}");
        match (within(Langflow.engine(settings(stub.url())).run(call)).await, whole) {
            (Outcome::Succeeded { result, .. }, Some(whole)) => assert_eq!(result, whole.as_bytes()),
            (Outcome::Failed(failure), None) => {
                assert_eq!(
                    (failure.kind, failure.code.as_str()),
                    (FailureKind::TooLarge, "result_truncated")
                );
            }
            (outcome, _) => panic!("{stores} {text}: {outcome:?}"),
        }
    }
}

#[test]
fn what_langflow_cannot_run_is_refused_at_submit() {
    let check = |engine: &dyn Engine, id, definition, parameters: &str| {
        let workflow = Workflow { id, definition, parameters: parameters.as_bytes(), options: None };
        engine.validate(&workflow).map_err(|failure| failure.code)
    };
    let url = "http://127.0.0.1:1";
    let v2 = with(settings(url), |_| ());
    let v1 = with(settings(url), |config| config.api = LangflowApi::V1);
    let inline = with(settings(url), |config| config.allow_inline = true);
    let code = |text: &str| Err(text.to_owned());
    assert_eq!(check(&v2, FLOW, None, "{}"), Ok(()));
    assert_eq!(check(&v2, "endpoint-name", None, "{}"), code("invalid_workflow_id"));
    assert_eq!(check(&v1, "endpoint-name", None, "{}"), Ok(()));
    assert_eq!(check(&v1, " ", None, "{}"), code("invalid_workflow_id"));
    assert_eq!(check(&v2, FLOW, Some(b"{}"), "{}"), code("inline_not_allowed"));
    assert_eq!(check(&inline, "any", Some(b"{}"), "{}"), code("invalid_definition"));
    assert_eq!(check(&inline, "any", Some(br#"{"nodes":[]}"#), "{}"), Ok(()));
    assert_eq!(check(&v2, FLOW, None, r#"{"input":"x","tweaks":{}}"#), code("tweaks_not_allowed"));
}
