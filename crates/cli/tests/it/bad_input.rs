//! What callers get wrong, as a table: each with its status and code, none a 500, and nothing stored.

use crate::house::House;
use crate::http::{request, send};
use serde_json::json;

/// What is sent.
enum Bad {
    /// A body for `POST /v1/executions`.
    Submit(&'static str),
    /// A method and path without a body.
    Call(&'static str, &'static str),
    /// A method, a path and a JSON body.
    Body(&'static str, &'static str, &'static str),
}

use Bad::{Body, Call, Submit};

/// What is sent, the expected status and code.
const TABLE: &[(Bad, u16, &str)] = &[
    (Submit(""), 400, "invalid_json"),
    (Submit("{"), 400, "invalid_json"),
    (Submit("[]"), 400, "invalid_field"),
    (Submit("\"text\""), 400, "invalid_field"),
    (Submit("{}"), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo"}"#), 400, "invalid_field"),
    (Submit(r#"{"workflowId":"w"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":""}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":7}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","prio":1}"#), 400, "unknown_field"),
    (Submit(r#"{"engineType":"nobody","workflowId":"w"}"#), 400, "unknown_engine"),
    (Submit(r#"{"engine":"nobody","workflowId":"w"}"#), 400, "unknown_engine"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","priority":"URGENT"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","priority":0}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","priority":5}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","timeout":-1}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","timeout":0}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","timeout":"soon"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","timeout":1.5}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","totalTimeout":"999999d"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","expiresIn":-5}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","readyAt":"tomorrow"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","maxRetries":-1}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","maxRetries":100000}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","retry":{"factor":0}}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","retry":{"on":["bad luck"]}}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","retry":[]}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","tags":"a"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","tags":[""]}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","metadata":[]}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":""}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":"../../etc/passwd"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":" a"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":"a\u0007"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":".."}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":"batch"}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflowId":"w","id":"a","id":"b"}"#), 400, "invalid_field"),
    (
        Submit(r#"{"engineType":"demo","workflowId":"w","parameters":{"sleepMs":"long"}}"#),
        400,
        "invalid_field",
    ),
    (Submit(r#"{"engineType":"demo","workflowId":"w","parameters":{"unheard":1}}"#), 400, "invalid_field"),
    (Submit(r#"{"engineType":"demo","workflow":{"definition":{"a":1}}}"#), 403, "inline_not_allowed"),
    (
        Submit(r#"{"engineType":"demo","workflowId":"w","callbackUrl":"http://x.test/"}"#),
        400,
        "not_supported",
    ),
    (Submit(r#"{"id":"taken","engineType":"demo","workflowId":"another"}"#), 409, "id_conflict"),
    (
        Body("POST", "/v1/executions?wait=10h", r#"{"engineType":"demo","workflowId":"w"}"#),
        400,
        "invalid_field",
    ),
    (
        Body("POST", "/v1/executions?wiat=1s", r#"{"engineType":"demo","workflowId":"w"}"#),
        400,
        "unknown_field",
    ),
    (Body("POST", "/v1/executions/batch", r#"{"executions":[]}"#), 400, "invalid_field"),
    (
        Body("POST", "/v1/executions/batch", r#"{"executions":[{"engineType":"demo","workflowId":"w"},{}]}"#),
        400,
        "invalid_field",
    ),
    (
        Body(
            "POST",
            "/v1/executions/batch",
            r#"{"executions":[{"engineType":"demo","workflowId":"w"},{"id":"taken","engineType":"demo","workflowId":"x"}]}"#,
        ),
        409,
        "id_conflict",
    ),
    (Body("POST", "/v1/executions/cancel", "{}"), 400, "invalid_field"),
    (Body("POST", "/v1/executions/cancel", r#"{"filter":{}}"#), 400, "invalid_field"),
    (Body("POST", "/v1/executions/redrive", r#"{"filter":{"status":["lost"]}}"#), 400, "invalid_field"),
    (Body("PATCH", "/v1/executions/taken", r#"{"priority":"HIGH"}"#), 409, "not_pending"),
    (Body("PATCH", "/v1/executions/taken", r#"{"status":"completed"}"#), 400, "unknown_field"),
    (Body("POST", "/v1/keys", r#"{"name":"k","scopes":["everything"]}"#), 400, "invalid_field"),
    (Body("POST", "/v1/keys", r#"{"name":"","scopes":["read"]}"#), 400, "invalid_field"),
    (Call("GET", "/v1/executions/nobody"), 404, "not_found"),
    (Call("GET", "/v1/executions/..%2F..%2Fetc%2Fpasswd"), 404, "not_found"),
    (Call("GET", "/v1/executions/%00"), 404, "not_found"),
    (Call("GET", "/v1/executions/%ff"), 404, "not_found"),
    (Call("GET", "/v1/../admin.key"), 404, "route_not_found"),
    (Call("GET", "/v1/executions?cursor=garbage"), 400, "invalid_cursor"),
    (Call("GET", "/v1/executions?limit=0"), 400, "invalid_field"),
    (Call("GET", "/v1/executions?limit=many"), 400, "invalid_field"),
    (Call("GET", "/v1/executions?status=lost"), 400, "invalid_field"),
    (Call("GET", "/v1/executions?since=yesterday"), 400, "invalid_field"),
    (Call("GET", "/v1/executions?colour=red"), 400, "unknown_field"),
    (Call("POST", "/v1/executions/taken/cancel"), 409, "already_finished"),
    (Call("POST", "/v1/executions/taken/redrive"), 409, "not_redrivable"),
    (Call("POST", "/v1/executions/nobody/replay"), 404, "not_found"),
    (Call("DELETE", "/v1/executions/taken"), 405, "method_not_allowed"),
    (Call("BREW", "/v1/executions"), 405, "method_not_allowed"),
    (Call("GET", "/v2/executions"), 404, "route_not_found"),
    (Call("GET", "/v1/engines/nobody"), 404, "not_found"),
    (Call("POST", "/v1/engines/nobody/pause"), 404, "not_found"),
    (Call("GET", "/v1/workers/nobody"), 404, "not_found"),
    (Call("DELETE", "/v1/keys/nobody"), 404, "not_found"),
];

fn check(house: &House, what: &str, bytes: &[u8], status: u16, code: &str) -> Option<String> {
    let answer = match send(house.address, bytes) {
        Ok(answer) => answer,
        Err(error) => return Some(format!("{what}: no answer: {error}")),
    };
    let problem = answer.json();
    let typed = answer.header("content-type") == Some("application/problem+json");
    let fine = answer.status == status && problem["code"] == code && typed && !problem["detail"].is_null();
    (!fine).then(|| format!("{what}: expected {status} {code}, found {} {}", answer.status, answer.text()))
}

/// What takes more than a line to say.
fn more_requests(key: (&str, &str)) -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let json_type = ("content-type", "application/json");
    let submit = r#"{"engineType":"demo","workflowId":"w"}"#.as_bytes();
    let post = |headers: &[(&str, &str)], body: &[u8]| request("POST", "/v1/executions", headers, body);
    let deep = format!(
        r#"{{"engineType":"demo","workflowId":"w","parameters":{}1{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let large = format!(r#"{{"engineType":"demo","workflowId":"w","parameters":"{}"}}"#, "x".repeat(5 << 20));
    let batch = format!(
        r#"{{"executions":[{}]}}"#,
        vec![r#"{"engineType":"demo","workflowId":"w"}"#; 1_001].join(",")
    );
    let not_utf8 = b"{\"engineType\":\"demo\",\"workflowId\":\"\xff\xfe\"}";
    let long_tag = format!(r#"{{"engineType":"demo","workflowId":"w","tags":["{}"]}}"#, "t".repeat(65));
    let long_id = format!(r#"{{"engineType":"demo","workflowId":"w","id":"{}"}}"#, "i".repeat(257));
    let long_path = format!("/v1/executions?tag={}", "t".repeat(9_000));
    vec![
        ("no key", post(&[json_type], submit), 401, "unauthorized"),
        (
            "a wrong key",
            post(&[("authorization", "Bearer eh_no_such"), json_type], submit),
            401,
            "unauthorized",
        ),
        ("another scheme", post(&[("authorization", "Basic eDp5"), json_type], submit), 401, "unauthorized"),
        ("no content type", post(&[key], submit), 415, "unsupported_media_type"),
        (
            "a form",
            post(&[key, ("content-type", "application/x-www-form-urlencoded")], b"a=b"),
            415,
            "unsupported_media_type",
        ),
        (
            "compressed",
            post(&[key, json_type, ("content-encoding", "gzip")], submit),
            415,
            "unsupported_media_type",
        ),
        ("not UTF-8", post(&[key, json_type], not_utf8), 400, "invalid_json"),
        ("deep", post(&[key, json_type], deep.as_bytes()), 400, "too_deep"),
        ("large", post(&[key, json_type], large.as_bytes()), 413, "body_too_large"),
        ("a long tag", post(&[key, json_type], long_tag.as_bytes()), 400, "invalid_field"),
        ("a long id", post(&[key, json_type], long_id.as_bytes()), 400, "invalid_field"),
        (
            "a long idempotency key",
            post(&[key, json_type, ("idempotency-key", &"k".repeat(1_025))], submit),
            400,
            "invalid_field",
        ),
        (
            "1,001 in a batch",
            request("POST", "/v1/executions/batch", &[key, json_type], batch.as_bytes()),
            400,
            "invalid_field",
        ),
        ("a long target", request("GET", &long_path, &[key], b""), 414, "uri_too_long"),
        (
            "an event that never was",
            request("GET", "/v1/executions/taken/events", &[key, ("last-event-id", "99")], b""),
            410,
            "event_gone",
        ),
        (
            "an event id that is none",
            request("GET", "/v1/executions/taken/events", &[key, ("last-event-id", "x")], b""),
            410,
            "event_gone",
        ),
    ]
}

#[test]
fn every_bad_request_has_its_code_and_changes_nothing() {
    let house = House::start("");
    let taken = json!({"id": "taken", "engineType": "demo", "workflowId": "w"});
    house.must("POST", "/v1/executions", Some(&taken));
    house.ended("taken");
    let bearer = format!("Bearer {}", house.key);
    let key = ("authorization", bearer.as_str());
    let json_type = ("content-type", "application/json");
    let post = |headers: &[(&str, &str)], body: &[u8]| request("POST", "/v1/executions", headers, body);
    let mut wrong = Vec::new();
    for (bad, status, code) in TABLE {
        let (what, bytes) = match bad {
            Submit(body) => (format!("submit {body}"), post(&[key, json_type], body.as_bytes())),
            Call(method, path) => (format!("{method} {path}"), request(method, path, &[key], b"")),
            Body(method, path, body) => {
                (format!("{method} {path} {body}"), request(method, path, &[key, json_type], body.as_bytes()))
            }
        };
        wrong.extend(check(&house, &what, &bytes, *status, code));
    }
    for (what, bytes, status, code) in more_requests(key) {
        wrong.extend(check(&house, what, &bytes, status, code));
    }
    // What is no HTTP at all gets no problem, only the end of its connection.
    for nonsense in [&b"\x16\x03\x01\x00\xff"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let status = send(house.address, nonsense).map(|answer| answer.status).unwrap_or(400);
        assert!((400..500).contains(&status), "{nonsense:?}: {status}");
    }
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let stored = house.must("GET", "/v1/executions", None);
    assert_eq!(stored["executions"].as_array().map(Vec::len), Some(1), "{stored}");
    assert_eq!(house.must("GET", "/v1/keys", None)["keys"].as_array().map(Vec::len), Some(1));
    house.stop();
}
