//! The stub as some HTTP service: once with a poll and a cancel step, once answering at the end.

use crate::dialect::{CANARY, Dialect, Expected, Fake, Fault, RunState, Step};
use crate::host::{NotingHost, call};
use crate::stub::{Reply, Seen, Stub};
use crate::{settings, within};
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::{HealthRoute, HttpSettings};
use enginehouse_engine::{Engine, Http as Adapter, HttpConfig, HttpFollow, HttpStep, Outcome, Reached};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Starts a job, polls it, stops it.
pub(crate) struct Jobs;

/// Answers when it is done.
pub(crate) struct Direct;

fn jobs(settings: HttpSettings) -> HttpConfig {
    HttpConfig {
        follow: Some(HttpFollow {
            run_id: "/job/id".to_owned(),
            status_url: None,
            polled_id: None,
            result_url: None,
            step: HttpStep::new("GET", "/jobs/{{ run_id }}"),
            done: "body.state != 'running'".to_owned(),
            events: Some(HttpStep::new("GET", "/jobs/{{ run_id }}/events")),
        }),
        cancel: Some(HttpStep::new("POST", "/jobs/{{ run_id }}/stop")),
        success: Some("status == 200 and body.state == 'done'".to_owned()),
        failure: Some("status == 200 and body.state == 'failed'".to_owned()),
        cancelled: Some("body.state == 'cancelled'".to_owned()),
        result: Some("/output".to_owned()),
        message: Some("/error".to_owned()),
        idempotent: true,
        ..HttpConfig::new(
            HttpSettings { health: HealthRoute::Path("/health".to_owned()), ..settings },
            "/jobs",
        )
    }
}

fn state_of(state: RunState) -> &'static str {
    match state {
        RunState::Succeeded => "done",
        RunState::Failed => "failed",
        RunState::Running => "running",
        RunState::Cancelled => "cancelled",
        _ => "odd",
    }
}

fn guarded(request: &Seen) -> Option<Reply> {
    let known = request.path == "/health" || request.header("x-api-key") == Some(CANARY);
    (!known).then(|| Reply::json(401, json!({"error": "who are you"})))
}

impl Dialect for Jobs {
    fn name(&self) -> &'static str {
        "http (jobs)"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Arc::new(Adapter::new(jobs(settings)).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        "w"
    }

    fn result(&self) -> &'static str {
        r#"{"echo": 1.0}"#
    }

    fn step(&self, request: &Seen) -> Step {
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["health"]) => Step::Health,
            ("POST", ["jobs"]) => Step::Submit,
            ("POST", ["jobs", _, "stop"]) => Step::Cancel,
            ("GET", ["jobs", _]) => Step::Status,
            _ => Step::Side,
        }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        if let Some(refusal) = guarded(request) {
            return refusal;
        }
        let index = |id: &str| id.trim_start_matches('j').parse().unwrap_or(usize::MAX);
        match (request.method.as_str(), request.segments().as_slice()) {
            ("GET", ["health"]) => Reply::json(if fake.healthy { 200 } else { 503 }, json!({})),
            ("POST", ["jobs"]) => {
                let key = request.header("idempotency-key").unwrap_or_default().to_owned();
                let run = fake.find(&key).unwrap_or_else(|| fake.start(&key));
                Reply::json(202, json!({"job": {"id": format!("j{run}")}}))
            }
            ("GET", ["jobs", id]) => match fake.poll(index(id)) {
                RunState::Forgotten => Reply::json(404, json!({"error": "no such job"})),
                state => Reply::json(
                    200,
                    format!(r#"{{"state":"{}","output":{{"echo": 1.0}},"error":"boom"}}"#, state_of(state)),
                ),
            },
            ("GET", ["jobs", id, "events"]) => {
                let running = fake.runs.get(index(id)).is_some_and(|run| run.state == RunState::Running);
                let events = Reply::events(
                    "id: 1\ndata: {\"progress\":0.5,\ndata: \"n\":12345678901234567890123}\n\nid: 2\ndata: half\n\n",
                );
                if running { events.held() } else { events }
            }
            ("POST", ["jobs", id, "stop"]) => match fake.cancel(index(id)) {
                true => Reply::json(200, json!({})),
                false => Reply::json(404, json!({})),
            },
            _ => Reply::json(404, json!({})),
        }
    }

    fn ends(&self, state: RunState) -> Option<Expected> {
        match state {
            RunState::Succeeded => Some(Expected::Succeeds),
            RunState::Failed => Some(Expected::Fails(FailureKind::EngineError, Reached::Yes)),
            RunState::Forgotten => Some(Expected::Fails(FailureKind::Unavailable, Reached::Yes)),
            RunState::Cancelled => Some(Expected::Cancelled),
            _ => None,
        }
    }

    fn skips(&self, step: Step, fault: Fault) -> bool {
        // The last poll brings the result, and where nothing stands of what `done` asks for, the run goes on.
        step == Step::Result || (step == Step::Status && fault == Fault::Empty)
    }

    fn differs(&self, step: Step, fault: Fault) -> Option<Expected> {
        // Whatever JSON comes with a 404 is the word of the service, once it has been said often enough.
        (step == Step::Status && fault == Fault::Status(404))
            .then_some(Expected::Fails(FailureKind::Unavailable, Reached::Yes))
    }
}

impl Dialect for Direct {
    fn name(&self) -> &'static str {
        "http (direct)"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        let http = HttpSettings { health: HealthRoute::Path("/health".to_owned()), ..settings };
        Arc::new(Adapter::new(HttpConfig::new(http, "/run")).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        "w"
    }

    fn result(&self) -> &'static str {
        r#"{"echo": "hi"}"#
    }

    fn step(&self, request: &Seen) -> Step {
        match request.segments().as_slice() {
            ["health"] => Step::Health,
            ["run"] => Step::Submit,
            _ => Step::Side,
        }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        if let Some(refusal) = guarded(request) {
            return refusal;
        }
        match request.segments().as_slice() {
            ["health"] => Reply::json(if fake.healthy { 200 } else { 503 }, json!({})),
            ["run"] => {
                fake.start("k");
                Reply::json(200, r#"{"echo": "hi"}"#)
            }
            _ => Reply::json(404, json!({})),
        }
    }

    fn skips(&self, step: Step, fault: Fault) -> bool {
        // There is no second request, an empty object is a result, and only the attempt's own time limit ends an answer that
        // does not come.
        step != Step::Submit || matches!(fault, Fault::Stall | Fault::Drip | Fault::Empty)
    }

    fn differs(&self, step: Step, fault: Fault) -> Option<Expected> {
        match (step, fault) {
            (Step::Submit, Fault::TooDeep) => Some(Expected::Fails(FailureKind::TooLarge, Reached::Yes)),
            _ => None,
        }
    }

    fn ends(&self, state: RunState) -> Option<Expected> {
        (state == RunState::Succeeded).then_some(Expected::Succeeds)
    }
}

#[tokio::test]
async fn templates_make_the_request_and_the_result() {
    let stub = Stub::start(Arc::new(Jobs), Fake::new(RunState::Succeeded), None).await;
    let config = HttpConfig {
        request: HttpStep {
            method: "PUT".to_owned(),
            path: "/flows/{{ workflow_id }}/{{ parameters.name }}?attempt={{ attempt }}".to_owned(),
            headers: BTreeMap::from([("x-session".to_owned(), "s-{{ session_id }}".to_owned())]),
            body: Some(r#"{"input": {{ parameters }}, "quoted": {{ parameters.name }}}"#.to_owned()),
        },
        success: Some("status == 404".to_owned()),
        result_template: Some(r#"{"was": {{ status }}}"#.to_owned()),
        ..HttpConfig::new(settings(stub.url()), "/")
    };
    let (_stop, call) = call(&Arc::default(), "a/b", r#"{"name":"x y\"z"}"#);
    let outcome = within(Adapter::new(config).unwrap().run(call)).await;
    assert!(
        matches!(&outcome, Outcome::Succeeded { result, .. } if &result[..] == br#"{"was": 404}"#),
        "{outcome:?}"
    );
    let seen = stub.seen(Step::Side).pop().unwrap();
    assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/flows/a%2Fb/x%20y%22z", "attempt=1"));
    assert_eq!(seen.json(), json!({"input": {"name": "x y\"z"}, "quoted": "x y\"z"}));
    assert_eq!(seen.header("x-session"), Some("s-e1"));
    assert_eq!(seen.header("idempotency-key"), Some("e1.1"));
}

#[tokio::test]
async fn values_that_do_not_fit_a_path_are_refused() {
    let stub = Stub::start(Arc::new(Jobs), Fake::new(RunState::Succeeded), None).await;
    for parameters in [r#"{"name":".."}"#, r#"{"name":""}"#, "{}"] {
        let config = HttpConfig::new(settings(stub.url()), "/x/{{ parameters.name }}");
        let (_stop, call) = call(&Arc::default(), "w", parameters);
        let Outcome::Failed(failure) = within(Adapter::new(config).unwrap().run(call)).await else {
            panic!("{parameters}")
        };
        assert_eq!(
            (failure.kind, failure.code.as_str()),
            (FailureKind::InvalidRequest, "template"),
            "{parameters}"
        );
    }
    assert!(stub.seen(Step::Side).is_empty());
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let http = || HttpSettings::new("http://127.0.0.1:1");
    let refused =
        |config: HttpConfig| Adapter::new(config).err().map(|error| error.field).unwrap_or_default();
    assert_eq!(refused(HttpConfig::new(http(), "no-slash")), "request.path");
    assert_eq!(refused(HttpConfig::new(http(), "/{{ open")), "request.path");
    let request = HttpStep { method: "BREW".to_owned(), ..HttpStep::new("GET", "/") };
    assert_eq!(refused(HttpConfig { request, ..HttpConfig::new(http(), "/") }), "request.method");
    let follow = HttpFollow {
        run_id: "/id".to_owned(),
        status_url: None,
        polled_id: None,
        result_url: None,
        step: HttpStep::new("GET", "/{{ run_id }}"),
        done: "true".to_owned(),
        events: Some(HttpStep::new("GET", "/{{ open")),
    };
    let follow = Some(follow);
    assert_eq!(refused(HttpConfig { follow, ..HttpConfig::new(http(), "/") }), "follow.events.path");
    assert_eq!(
        refused(HttpConfig { success: Some("status ==".to_owned()), ..HttpConfig::new(http(), "/") }),
        "success"
    );
    assert_eq!(
        refused(HttpConfig { result: Some("a.b".to_owned()), ..HttpConfig::new(http(), "/") }),
        "result"
    );
    assert_eq!(
        refused(HttpConfig { cancel: Some(HttpStep::new("POST", "/")), ..HttpConfig::new(http(), "/") }),
        "cancel"
    );
}

#[tokio::test]
async fn the_events_of_a_run_are_told_as_progress_while_it_is_polled() {
    let stub = Stub::start(Arc::new(Jobs), Fake::new(RunState::Succeeded), None).await;
    stub.fake(|fake| fake.polls_to_end = 20);
    let host = Arc::new(NotingHost::default());
    let (_stop, call) = call(&host, "w", "{}");
    let adapter = Adapter::new(jobs(settings(stub.url()))).unwrap();
    assert!(adapter.capabilities().progress);
    let outcome = within(adapter.run(call)).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    let told: Vec<_> = host
        .progress
        .lock()
        .unwrap()
        .iter()
        .map(|p| (p.fraction, p.data.as_ref().map(|data| data.get().to_owned())))
        .collect();
    let exact = r#"{"progress":0.5,"n":12345678901234567890123}"#;
    assert!(
        told.starts_with(&[(Some(0.5), Some(exact.to_owned())), (None, Some("\"half\"".to_owned()))]),
        "{told:?}"
    );
}

/// Answers at once, with events.
struct Streams(Reply);

impl Dialect for Streams {
    fn name(&self) -> &'static str {
        "http (streams)"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        let config = HttpConfig { result: Some("/out".to_owned()), ..HttpConfig::new(settings, "/run") };
        Arc::new(Adapter::new(config).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        "w"
    }

    fn result(&self) -> &'static str {
        "null"
    }

    fn step(&self, _request: &Seen) -> Step {
        Step::Submit
    }

    fn answer(&self, _request: &Seen, _fake: &mut Fake) -> Reply {
        self.0.clone()
    }
}

async fn streamed(reply: Reply) -> (Outcome, Arc<NotingHost>) {
    let streams = Arc::new(Streams(reply));
    let stub = Stub::start(streams.clone(), Fake::new(RunState::Succeeded), None).await;
    let host = Arc::new(NotingHost::default());
    let (_stop, call) = call(&host, "w", "{}");
    (within(streams.engine(settings(stub.url())).run(call)).await, host)
}

#[tokio::test]
async fn a_stream_that_breaks_off_or_ends_with_too_much_has_no_result() {
    let first = "data: {\"out\":1}\n\n";
    // Twice what a result may have is read, and no more.
    let large = format!("{first}data: {{\"out\":\"{}\"}}\n\n", "y".repeat(3 << 20));
    let table = [
        (Reply::events(first).cut(), FailureKind::BadResponse, "truncated_answer"),
        (Reply::events(&large), FailureKind::TooLarge, "answer_too_large"),
    ];
    for (reply, kind, code) in table {
        match streamed(reply).await.0 {
            Outcome::Failed(failure) => assert_eq!((failure.kind, failure.code.as_ref()), (kind, code)),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_a_stream_is_progress_and_its_last_event_the_answer() {
    let table = [
        (
            "data: {\"progress\":0.5}\n\ndata: {\"out\":{\"n\":1.0}}\n\ndata: [DONE]\n\n",
            Some(r#"{"n":1.0}"#),
            2,
        ),
        ("data: {\"out\":\"a\"}\n\n", Some("\"a\""), 1),
        // Without an event there is no answer to take a result from.
        (": nothing\n\n", None, 0),
    ];
    for (text, expected, told) in table {
        let (outcome, host) = streamed(Reply::events(text)).await;
        let result = match &outcome {
            Outcome::Succeeded { result, .. } => Some(std::str::from_utf8(result).unwrap()),
            _ => None,
        };
        assert_eq!(result, expected, "{outcome:?}");
        assert_eq!(host.progress.lock().unwrap().len(), told, "{text}");
    }
}
