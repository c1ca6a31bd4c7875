//! The forms in which HTTP services take work, tell of it and answer.

use crate::dialect::{Dialect, Fake, RunState, Step};
use crate::host::{NotingHost, call};
use crate::stub::{Reply, Seen, Stub};
use crate::{settings, within};
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::{
    Engine, EngineFailure, Http as Adapter, HttpConfig, HttpFollow, HttpStep, HttpStream, Outcome, Reached,
};
use serde_json::json;
use std::sync::Arc;

/// Answers each request by its method and path; `n` counts the requests with these, from 0.
type Script = fn(method: &str, path: &str, n: usize) -> Reply;

struct Scripted(Script);

impl Dialect for Scripted {
    fn name(&self) -> &'static str {
        "http (scripted)"
    }

    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine> {
        Arc::new(Adapter::new(HttpConfig::new(settings, "/run")).unwrap())
    }

    fn workflow_id(&self) -> &'static str {
        "w"
    }

    fn result(&self) -> &'static str {
        "null"
    }

    fn step(&self, request: &Seen) -> Step {
        if request.method == "POST" { Step::Submit } else { Step::Status }
    }

    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply {
        let asked = format!("{} {}?{}", request.method, request.path, request.query);
        let asked = asked.trim_end_matches('?').to_owned();
        let n = fake.notes.iter().filter(|note| **note == asked).count();
        let path = asked.split(' ').nth(1).unwrap_or_default().to_owned();
        fake.notes.push(asked);
        (self.0)(&request.method, &path, n)
    }
}

/// Runs one call; answers its outcome and what was asked for.
async fn run(
    script: Script,
    config: impl FnOnce(HttpSettings) -> HttpConfig,
) -> (Outcome, Vec<String>, Stub) {
    let stub = Stub::start(Arc::new(Scripted(script)), Fake::new(RunState::Succeeded), None).await;
    let (_stop, call) =
        call(&Arc::new(NotingHost::default()), "w", r#"{"n":12345678901234567890123,"x":1.50}"#);
    let outcome = within(Adapter::new(config(settings(stub.url()))).unwrap().run(call)).await;
    let asked = stub.fake(|fake| fake.notes.clone());
    (outcome, asked, stub)
}

fn result_of(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Succeeded { result, .. } => Some(std::str::from_utf8(result).unwrap()),
        _ => None,
    }
}

fn failure_of(outcome: Outcome) -> EngineFailure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn follow(change: impl FnOnce(&mut HttpFollow)) -> Option<HttpFollow> {
    let mut follow = HttpFollow {
        run_id: "/id".to_owned(),
        status_url: None,
        polled_id: None,
        result_url: None,
        step: HttpStep::new("GET", "/jobs/{{ run_id }}"),
        done: "body.state not in ['queued', 'running']".to_owned(),
        events: None,
    };
    change(&mut follow);
    Some(follow)
}

/// The example of docs/ENGINES.md.
fn documented(http: HttpSettings) -> HttpConfig {
    HttpConfig {
        follow: follow(|follow| follow.run_id = "/job/id".to_owned()),
        success: Some("body.state == 'done'".to_owned()),
        failure: Some("body.state == 'failed'".to_owned()),
        message: Some("/error/message".to_owned()),
        result: Some("/output".to_owned()),
        ..HttpConfig::new(http, "/jobs")
    }
}

#[tokio::test]
async fn the_status_counts_before_the_conditions() {
    use FailureKind::{Auth, RateLimited, Unavailable};
    let rows: [(Script, FailureKind); 5] = [
        (
            |_, _, _| Reply::of(503, "text/html", "<html>503</html>").with_header("retry-after", "30"),
            Unavailable,
        ),
        (
            |_, _, _| Reply::json(503, json!({"error": "overloaded"})).with_header("retry-after", "30"),
            Unavailable,
        ),
        (
            |_, _, _| Reply::json(429, json!({"state": "failed"})).with_header("retry-after", "30"),
            RateLimited,
        ),
        (|_, _, _| Reply::of(502, "", "").with_header("retry-after", "30"), Unavailable),
        (|_, _, _| Reply::json(401, json!({"detail": "no"})).with_header("retry-after", "30"), Auth),
    ];
    for (script, kind) in rows {
        for config in [documented, |http| HttpConfig { follow: None, ..documented(http) }] {
            let failure = failure_of(run(script, config).await.0);
            assert_eq!((failure.kind, failure.retry_after), (kind, Some(30_000)), "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_run_is_known_by_an_id_or_a_url_from_the_header_or_the_body() {
    fn service(method: &str, path: &str, n: usize) -> Reply {
        match (method, path) {
            ("POST", _) => {
                let links = r#"{"self":"https://inside:9/jobs/7?v=2"}"#;
                let body = format!(r#"{{"id":123456789012345678901234567890,"links":{links}}}"#);
                Reply::json(202, body).with_header("location", "/jobs/a%20b")
            }
            ("GET", "/results/7") => Reply::json(200, r#"{"value": 1.0}"#),
            _ if n == 0 => Reply::json(200, json!({"state": "running"})),
            ("GET", "/see") => Reply::of(303, "", "").with_header("location", "/results/7"),
            _ => Reply::json(200, json!({"state": "done", "at": path, "links": {"result": "/results/7"}})),
        }
    }
    type Row = (fn(&mut HttpFollow), &'static str, Option<&'static str>);
    let rows: [Row; 6] = [
        (|_| (), "GET /jobs/123456789012345678901234567890", None),
        (|f| f.run_id = "location".to_owned(), "GET /jobs/a%20b", None),
        (|f| f.status_url = Some("location".to_owned()), "GET /jobs/a%20b", None),
        // The host comes from the configuration, whatever the service calls itself.
        (|f| f.status_url = Some("/links/self".to_owned()), "GET /jobs/7?v=2", None),
        (
            |f| f.result_url = Some("/links/result".to_owned()),
            "GET /jobs/123456789012345678901234567890",
            Some(r#"{"value": 1.0}"#),
        ),
        (|f| f.step = HttpStep::new("GET", "/see"), "GET /see", Some(r#"{"value": 1.0}"#)),
    ];
    for (change, asked_for, result) in rows {
        let (outcome, asked, _stub) =
            run(service, |http| HttpConfig { follow: follow(change), ..HttpConfig::new(http, "/jobs") })
                .await;
        assert!(result_of(&outcome).is_some(), "{asked_for}: {outcome:?}");
        assert_eq!(asked[1], asked_for);
        if let Some(result) = result {
            assert_eq!(
                (result_of(&outcome), asked.last().unwrap().as_str()),
                (Some(result), "GET /results/7")
            );
        }
    }
}

/// Where it is configured how an answer names its run, one that names another is not taken for this one's end.
#[tokio::test]
async fn an_answer_about_another_run_is_looked_at_again() {
    fn once(method: &str, _: &str, n: usize) -> Reply {
        match (method, n) {
            ("POST", _) => Reply::json(202, r#"{"id":7}"#),
            (_, 0) => Reply::json(200, json!({"id": 8, "state": "done", "of": "another"})),
            _ => Reply::json(200, json!({"id": "7", "state": "done"})),
        }
    }
    fn always(method: &str, _: &str, _: usize) -> Reply {
        let id = if method == "POST" { 7 } else { 8 };
        Reply::json(200, json!({"id": id, "state": "done", "of": "another"}))
    }
    let names = |http| HttpConfig {
        follow: follow(|follow| follow.polled_id = Some("/id".to_owned())),
        ..HttpConfig::new(http, "/jobs")
    };
    assert_eq!(result_of(&run(once, names).await.0), Some(r#"{"id":"7","state":"done"}"#));
    let failure = failure_of(run(always, names).await.0);
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::BadResponse, "contradictory_answer"));
    // What says nothing about any run keeps its meaning, though it has an id: that of the request.
    fn away(method: &str, _: &str, _: usize) -> Reply {
        let (status, id) = if method == "POST" { (202, "7") } else { (503, "request-8") };
        Reply::json(status, json!({ "id": id }))
    }
    let failure = failure_of(run(away, names).await.0);
    assert_eq!((failure.kind, failure.engine_status), (FailureKind::Unavailable, Some(503)));
    // Not even that a run is lost is believed of an answer about another one.
    fn unknown(method: &str, _: &str, _: usize) -> Reply {
        if method == "POST" { Reply::json(202, r#"{"id":7}"#) } else { Reply::json(404, r#"{"id":8}"#) }
    }
    assert_eq!(failure_of(run(unknown, names).await.0).code, "contradictory_answer");
    let unnamed = |http| HttpConfig { follow: follow(|_| ()), ..HttpConfig::new(http, "/jobs") };
    assert!(result_of(&run(always, unnamed).await.0).is_some_and(|result| result.contains("another")));
}

/// A redirect to another host in the middle of a run leads nowhere, and the run is looked at again.
#[tokio::test]
async fn a_redirect_to_a_sign_in_page_is_no_result() {
    fn service(method: &str, _path: &str, n: usize) -> Reply {
        match (method, n) {
            ("POST", _) => Reply::json(200, json!({"id": 1})),
            (_, 0) => Reply::of(303, "", "").with_header("location", "https://login.example/start?next=1"),
            (_, 1) => Reply::of(200, "text/html", "<html>Sign in</html>"),
            _ => Reply::json(200, json!({"state": "done"})),
        }
    }
    let (outcome, asked, _stub) =
        run(service, |http| HttpConfig { follow: follow(|_| ()), ..HttpConfig::new(http, "/jobs") }).await;
    assert_eq!((result_of(&outcome), asked.len()), (Some(r#"{"state":"done"}"#), 4), "{outcome:?}");
}

/// What a 303 leads to is judged like any other end, and a page on the way is no end.
#[tokio::test]
async fn what_a_redirect_leads_to_is_judged() {
    fn judged(http: HttpSettings) -> HttpConfig {
        HttpConfig {
            follow: follow(|f| f.step = HttpStep::new("GET", "/status")),
            success: Some("body.state == 'done'".to_owned()),
            failure: Some("body.state == 'failed'".to_owned()),
            cancelled: Some("body.state == 'cancelled'".to_owned()),
            ..HttpConfig::new(http, "/jobs")
        }
    }
    let rows: [(Script, Option<&str>); 4] = [
        (|m, p, _| at_the_end(m, p, r#"{"state":"done"}"#), Some(r#"{"state":"done"}"#)),
        (|m, p, _| at_the_end(m, p, r#"{"state":"failed"}"#), None),
        (|m, p, _| at_the_end(m, p, r#"{"state":"cancelled"}"#), None),
        (
            |m, p, n| match (p, n) {
                ("/end", 0) => Reply::json(200, json!({"error": "sign in first"})),
                _ => at_the_end(m, p, r#"{"state":"done"}"#),
            },
            Some(r#"{"state":"done"}"#),
        ),
    ];
    for (script, result) in rows {
        let (outcome, ..) = run(script, judged).await;
        assert_eq!(result_of(&outcome), result, "{outcome:?}");
    }
    // A poll that says that the run failed ends it, whatever `done` waits for.
    let script: Script = |m, _, n| match (m, n) {
        ("POST", _) => Reply::json(200, json!({"id": 1})),
        (_, 0) => Reply::json(401, json!({"state": "failed"})),
        _ => Reply::json(200, json!({"state": "failed"})),
    };
    let waits =
        |http| HttpConfig { follow: follow(|f| f.done = "body.state == 'done'".to_owned()), ..judged(http) };
    let (outcome, asked, _stub) = run(script, waits).await;
    assert_eq!((failure_of(outcome).code.as_str(), asked.len()), ("workflow_failed", 3));
}

fn at_the_end(method: &str, path: &str, end: &str) -> Reply {
    match (method, path) {
        ("POST", _) => Reply::json(200, json!({"id": 1})),
        (_, "/end") => Reply::json(200, end),
        _ => Reply::of(303, "", "").with_header("location", "/end"),
    }
}

#[tokio::test]
async fn an_accepted_request_with_a_useless_answer_is_not_repeated() {
    let rows: [(Script, &str); 5] = [
        (|_, _, _| Reply::of(202, "", ""), "it is empty"),
        (|_, _, _| Reply::json(202, json!({"job": 7})), r#"it begins with "{\"job\":7}""#),
        (|_, _, _| Reply::of(200, "text/plain", "queued"), r#"it begins with "queued""#),
        (
            |_, _, _| Reply::of(200, "application/json; charset=iso-8859-1", b"{\"id\":\"\xe9\"}".to_vec()),
            "no id of the run",
        ),
        (|_, _, _| Reply::of(200, "text/html", "<html>hi</html>"), "no id of the run"),
    ];
    for (script, words) in rows {
        let (outcome, ..) =
            run(script, |http| HttpConfig { follow: follow(|_| ()), ..HttpConfig::new(http, "/jobs") }).await;
        let failure = failure_of(outcome);
        assert_eq!(
            (failure.kind, failure.code.as_str()),
            (FailureKind::BadResponse, "no_run_id"),
            "{failure:?}"
        );
        assert_eq!((failure.reached, failure.retried), (Reached::Yes, Some(false)), "{failure:?}");
        assert!(
            failure.message.contains("the request was taken") && failure.message.contains(words),
            "{failure:?}"
        );
    }
}

/// What calls itself JSON and is none is no result; what does not is a text.
#[tokio::test]
async fn an_answer_that_calls_itself_json_is_json() {
    const JSON: &str = "application/json";
    let rows: [(Script, Result<&str, &str>); 11] = [
        (|_, _, _| Reply::of(200, JSON, r#" {"n": 1.50} "#), Ok(r#"{"n": 1.50}"#)),
        (|_, _, _| Reply::of(200, JSON, b"\xef\xbb\xbf{\"n\":1}".to_vec()), Ok(r#"{"n":1}"#)),
        (|_, _, _| Reply::of(200, JSON, ""), Ok("null")),
        (|_, _, _| Reply::of(200, JSON, r#"{"n":4"#).open_ended(), Err("malformed_answer")),
        (|_, _, _| Reply::of(200, JSON, r#"{"n":NaN}"#), Err("malformed_answer")),
        (|_, _, _| Reply::of(200, "application/problem+json", "oops"), Err("malformed_answer")),
        (|_, _, _| Reply::of(200, "", r#"{"n":4"#).open_ended(), Err("malformed_answer")),
        (|_, _, _| Reply::of(200, JSON, b"\"\xe9\"".to_vec()), Err("malformed_answer")),
        (|_, _, _| Reply::of(200, "text/plain", "plain words"), Ok("\"plain words\"")),
        (|_, _, _| Reply::of(200, "text/plain", "{not json"), Ok("\"{not json\"")),
        (|_, _, _| Reply::of(200, "", "words"), Ok("\"words\"")),
    ];
    for (script, expected) in rows {
        let (outcome, ..) = run(script, |http| HttpConfig::new(http, "/run")).await;
        match expected {
            Ok(result) => assert_eq!(result_of(&outcome), Some(result), "{outcome:?}"),
            Err(code) => {
                let failure = failure_of(outcome);
                assert_eq!((failure.code.as_str(), failure.retried), (code, Some(false)), "{failure:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_end_of_a_stream_is_told_from_a_lost_connection() {
    const EVENTS: &str = "text/event-stream";
    let rows: [(Script, Result<&str, &str>); 6] = [
        (
            |_, _, _| Reply::events("data: {\"progress\":0.5}\n\ndata: {\"answer\":42}\n"),
            Ok(r#"{"answer":42}"#),
        ),
        (
            |_, _, _| Reply::events("data: {\"progress\":0.5}\n\ndata: {\"answer\":42}"),
            Ok(r#"{"answer":42}"#),
        ),
        (
            |_, _, _| Reply::of(200, EVENTS, "data: 1\n\ndata: {\"answer\":4").open_ended(),
            Err("truncated_answer"),
        ),
        (|_, _, _| Reply::of(200, EVENTS, "data: 1\n\ndata: 2\n\n").open_ended(), Ok("2")),
        (|_, _, _| Reply::events("event: result\ndata: 42\n\nevent: end\n\n"), Ok("42")),
        (
            |_, _, _| Reply::events("data: 1\n\nevent: error\ndata: {\"message\":\"away\"}\n\n"),
            Err("workflow_failed"),
        ),
    ];
    for (script, expected) in rows {
        let (outcome, ..) = run(script, |http| HttpConfig::new(http, "/run")).await;
        match expected {
            Ok(result) => assert_eq!(result_of(&outcome), Some(result), "{outcome:?}"),
            Err(code) => assert_eq!(failure_of(outcome).code, code),
        }
    }
    let stream = HttpStream { answer: Some("final".to_owned()), ..HttpStream::default() };
    let script: Script =
        |_, _, _| Reply::events("data: {\"type\":\"final\",\"out\":7}\n\ndata: {\"usage\":1}\n\n");
    let (outcome, ..) = run(script, |http| HttpConfig { stream, ..HttpConfig::new(http, "/run") }).await;
    assert_eq!(result_of(&outcome), Some(r#"{"type":"final","out":7}"#), "{outcome:?}");
}

/// A service of which nothing says what its success looks like was told to stop, and then its run was over.
#[tokio::test]
async fn an_end_after_an_accepted_stop_is_no_success_where_nothing_tells_them_apart() {
    fn service(method: &str, path: &str, n: usize) -> Reply {
        match (method, path) {
            ("POST", "/jobs") => Reply::json(202, json!({"id": 1})),
            ("POST", _) => Reply::json(200, json!({})),
            _ if n < 5 => Reply::json(200, json!({"state": "running"})),
            _ => Reply::json(200, json!({"state": "cancelled"})),
        }
    }
    let rows = [
        (None, Outcome::Cancelled),
        // It says what success is, so what is none failed.
        (Some("body.state != 'cancelled'".to_owned()), Outcome::Cancelled),
    ];
    for (cancelled, expected) in rows {
        let stub = Stub::start(Arc::new(Scripted(service)), Fake::new(RunState::Succeeded), None).await;
        let (stop, call) = call(&Arc::new(NotingHost::default()), "w", "{}");
        let cancelled = cancelled.map(|_| "body.state == 'cancelled'".to_owned());
        let config = HttpConfig {
            follow: follow(|_| ()),
            cancel: Some(HttpStep::new("POST", "/jobs/{{ run_id }}/stop")),
            cancelled,
            ..HttpConfig::new(settings(stub.url()), "/jobs")
        };
        let engine = Adapter::new(config).unwrap();
        let task = tokio::spawn(async move { engine.run(call).await });
        crate::until(|| !stub.seen(Step::Status).is_empty()).await;
        stop.send_replace(Some(enginehouse_engine::Stop::Timeout));
        assert_eq!(within(task).await.unwrap(), expected);
    }
}

/// With a proxy the request goes there, and names the endpoint.
#[tokio::test]
async fn a_configured_proxy_is_used() {
    let script: Script = |_, path, _| Reply::json(200, json!({ "asked": path }));
    let stub = Stub::start(Arc::new(Scripted(script)), Fake::new(RunState::Succeeded), None).await;
    let http = HttpSettings { proxy: Some(stub.url().into()), ..settings("http://engine.invalid:81/base") };
    let (_stop, call) = call(&Arc::new(NotingHost::default()), "w", "{}");
    let outcome = within(Adapter::new(HttpConfig::new(http, "/run")).unwrap().run(call)).await;
    assert_eq!(result_of(&outcome), Some(r#"{"asked":"http://engine.invalid:81/base/run"}"#), "{outcome:?}");
    let refused = HttpSettings { proxy: Some("ftp ://x".into()), ..settings("http://engine.invalid") };
    let refused = Adapter::new(HttpConfig::new(refused, "/run")).err().unwrap();
    assert_eq!(refused.field, "proxy");
}

#[tokio::test]
async fn numbers_stay_exact_in_templates() {
    let script: Script = |_, _, _| Reply::json(200, r#"{"id":98765432109876543210987,"price":2.10}"#);
    let (outcome, _, stub) = run(script, |http| HttpConfig {
        request: HttpStep {
            body: Some(r#"{"all":{{ parameters }},"n":{{ parameters.n }}}"#.to_owned()),
            ..HttpStep::new("POST", "/{{ parameters.n }}")
        },
        result_template: Some(r#"{"id":{{ body.id }},"price":{{ body.price }}}"#.to_owned()),
        ..HttpConfig::new(http, "/")
    })
    .await;
    assert_eq!(result_of(&outcome), Some(r#"{"id":98765432109876543210987,"price":2.10}"#), "{outcome:?}");
    let seen = stub.seen(Step::Submit).pop().unwrap();
    let body = String::from_utf8(seen.body).unwrap();
    assert_eq!(body, r#"{"all":{"n":12345678901234567890123,"x":1.50},"n":12345678901234567890123}"#);
    assert_eq!(seen.path, "/12345678901234567890123");
}
