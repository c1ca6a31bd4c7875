//! The API's verbs and what they promise, one after the other, on the real process.

use crate::house::{House, call};
use crate::http::{Answer, request, send};
use serde_json::{Value, json};

fn demo(id: &str, parameters: Value) -> Value {
    json!({"id": id, "engineType": "demo", "workflowId": "w", "parameters": parameters})
}

fn submit(house: &House, request: &Value) -> Answer {
    house.try_call("POST", "/v1/executions", Some(request)).unwrap()
}

#[test]
fn the_same_request_is_submitted_once() {
    let house = House::start("");
    let one = demo("one", json!({"echo": 1}));
    let first = submit(&house, &one);
    assert_eq!((first.status, first.header("location")), (201, Some("/v1/executions/one")));
    let again = submit(
        &house,
        &json!({"parameters": {"echo": 1}, "workflowId": "w", "engineType": "demo", "id": "one"}),
    );
    assert_eq!(
        (again.status, again.header("idempotency-replayed")),
        (200, Some("true")),
        "the order of fields is nothing"
    );
    assert_eq!(submit(&house, &demo("one", json!({"echo": 2}))).status, 409);
    // The header, scoped to the key that sent it.
    let body = json!({"engineType": "demo", "workflowId": "w"}).to_string();
    let with_key = |secret: &str| {
        let bearer = format!("Bearer {secret}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", "k-1"),
        ];
        send(house.address, &request("POST", "/v1/executions", &headers, body.as_bytes())).unwrap()
    };
    let (first, again) = (with_key(&house.key), with_key(&house.key));
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let other = house.must("POST", "/v1/keys", Some(&json!({"name": "other", "scopes": ["submit", "read"]})));
    let elsewhere = with_key(other["secret"].as_str().unwrap());
    assert_eq!(elsewhere.status, 201, "another key's idempotency key is another one");
    house.stop();
}

#[test]
fn a_submit_may_wait_for_the_end() {
    let house = House::start("");
    let wait = |id: &str, ms: u64, wait: &str| {
        let path = format!("/v1/executions?wait={wait}");
        house.try_call("POST", &path, Some(&demo(id, json!({"sleepMs": ms, "echo": "x"})))).unwrap()
    };
    let ended = wait("quick", 100, "20s");
    assert_eq!((ended.status, &ended.json()["result"]["echo"]), (201, &json!("x")), "{}", ended.text());
    let waiting = wait("slow", 60_000, "200ms");
    assert_eq!((waiting.status, &waiting.json()["status"]), (202, &json!("running")), "{}", waiting.text());
    house.must("POST", "/v1/executions/slow/cancel", None);
    house.stop();
}

#[test]
fn lists_are_filtered_and_paged() {
    let house = House::start("");
    let mut batch = Vec::new();
    for n in 0..23 {
        let mut one = demo(&format!("b{n}"), json!({"failTimes": n % 2}));
        one["tags"] = json!([if n % 3 == 0 { "third" } else { "other" }]);
        one["userId"] = json!(format!("u{}", n % 2));
        batch.push(one);
    }
    house.must("POST", "/v1/executions/batch", Some(&json!({"executions": batch})));
    (0..23).for_each(|n| drop(house.ended(&format!("b{n}"))));
    let all = |filter: &str| {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = house.must("GET", &format!("/v1/executions?limit=5{filter}{cursor}"), None);
            let found = page["executions"].as_array().unwrap();
            ids.extend(found.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return ids,
            }
        }
    };
    let newest_first: Vec<String> = (0..23).rev().map(|n| format!("b{n}")).collect();
    assert_eq!(all(""), newest_first);
    assert_eq!(all("&status=failed").len(), 11);
    assert_eq!(all("&status=failed,completed&tag=third").len(), 8);
    assert_eq!(all("&userId=u1&engine=demo&engineType=demo&workflowId=w").len(), 11);
    assert_eq!(all("&failureKind=engine_error,lost&failureCode=demo_failure&tag=third").len(), 4);
    assert_eq!(all("&failureKind=rate_limited"), Vec::<String>::new());
    let (status, problem) = house.call("GET", "/v1/executions?failureKind=rate-limited", None);
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("?failureKind")), "{problem}");
    // A failure selects what a bulk verb changes, too.
    let dry = house.cli(&["redrive", "--failure", "engine_error", "--code", "demo_failure", "--dry-run"]);
    let said = String::from_utf8([dry.stdout, dry.stderr].concat()).unwrap();
    assert!(dry.status.success() && said.contains("11"), "{said}");
    let listed = house.cli(&["list", "--failure", "engine_error", "--limit", "1"]);
    let said = String::from_utf8(listed.stdout).unwrap();
    assert!(said.contains("REASON") && said.contains("engine_error (demo_failure): "), "{said}");
    assert_eq!(all("&until=2001-01-01T00:00:00Z"), Vec::<String>::new());
    // A cursor belongs to its filters.
    let page = house.must("GET", "/v1/executions?limit=5&status=failed", None);
    let other = format!("/v1/executions?limit=5&cursor={}", page["nextCursor"].as_str().unwrap());
    assert_eq!(house.call("GET", &other, None).1["code"], "invalid_cursor");
    house.stop();
}

#[test]
fn one_execution_is_read_in_all_its_parts() {
    let house = House::start("");
    let mut one =
        demo("one", json!({"failTimes": 1, "failKind": "unavailable", "resultBytes": 3, "echo": [1.0]}));
    one["retry"] = json!({"delay": 10});
    one["metadata"] = json!({"order": 17});
    submit(&house, &one);
    let view = house.ended("one");
    assert_eq!((&view["status"], &view["metadata"]["order"]), (&json!("completed"), &json!(17)));
    let get = |part: &str| house.must("GET", &format!("/v1/executions/one/{part}"), None);
    assert_eq!(get("request"), one);
    assert_eq!(get("result")["result"], json!({"echo": [1.0], "attempt": 2, "data": "xxx"}));
    let attempts = get("attempts")["attempts"].clone();
    assert_eq!(
        (&attempts[0]["outcome"], &attempts[1]["outcome"]),
        (&json!("failed"), &json!("succeeded")),
        "{attempts}"
    );
    assert_eq!(attempts[0]["failure"]["kind"], "unavailable");
    assert!(get("logs")["logs"].as_str().unwrap().contains("attempt 1 fails"));
    house.stop();
}

/// The ids and types of the events of a stream that ended.
fn events(house: &House, id: &str, after: Option<&str>) -> Vec<(String, String)> {
    let bearer = format!("Bearer {}", house.key);
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(after.map(|after| ("last-event-id", after)));
    let answer =
        send(house.address, &request("GET", &format!("/v1/executions/{id}/events"), &headers, b"")).unwrap();
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    let field =
        |block: &str, name: &str| block.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
    text.split("\n\n").filter_map(|block| Some((field(block, "id: ")?, field(block, "event: ")?))).collect()
}

#[test]
fn events_are_followed_live_and_resumed() {
    let house = House::start("");
    submit(&house, &demo("one", json!({"sleepMs": 2_000, "progress": 7})));
    let live = events(&house, "one", None);
    let types: Vec<&str> = live.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(
        (types[0], types[1], *types.last().unwrap()),
        ("execution_submitted", "execution_started", "execution_completed")
    );
    let progress: Vec<&str> =
        live.iter().filter(|(_, kind)| kind == "progress").map(|(id, _)| id.as_str()).collect();
    assert!(!progress.is_empty() && progress.iter().all(|id| id.starts_with("2.")), "{live:?}");
    // Live items are not stored: what is read later has the durable events, from wherever the reader was.
    let stored: Vec<String> = events(&house, "one", None).into_iter().map(|(id, _)| id).collect();
    assert_eq!(stored, ["1", "2", "3"]);
    assert_eq!(events(&house, "one", Some("2")), [("3".to_owned(), "execution_completed".to_owned())]);
    assert_eq!(events(&house, "one", Some("2.3")).len(), 1);
    assert_eq!(events(&house, "one", Some("3")), []);
    house.stop();
}

#[test]
fn what_a_run_tells_keeps_each_digit_on_its_way_to_the_reader() {
    let exact = r#"{"n":12345678901234567890123,"x":0.1000000000000000055,"f":1.0,"progress":0.50}"#;
    let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; echo '{exact}' >&2; done; echo 1");
    let argv = json!(["/bin/sh", "-c", script]);
    let house = House::start(&format!("[engines.say]\ntype = \"command\"\nargv = {argv}\n"));
    submit(&house, &json!({"id": "one", "engine": "say", "workflowId": "w"}));
    let bearer = format!("Bearer {}", house.key);
    let ask = request("GET", "/v1/executions/one/events", &[("authorization", &bearer)], b"");
    let told = send(house.address, &ask).unwrap().text();
    assert!(told.contains(&format!("\"data\":{{\"fraction\":0.5,\"data\":{exact}}}")), "{told}");
    // It may be the result, piece by piece, so who may not read that reads only how far the run is.
    let key = house.must("POST", "/v1/keys", Some(&json!({"name": "eyes", "scopes": ["read"]})));
    submit(&house, &json!({"id": "two", "engine": "say", "workflowId": "w"}));
    let bearer = format!("Bearer {}", key["secret"].as_str().unwrap());
    let ask = request("GET", "/v1/executions/two/events", &[("authorization", &bearer)], b"");
    let told = send(house.address, &ask).unwrap().text();
    assert!(told.contains("event: progress\n") && told.contains("\"fraction\":0.5"), "{told}");
    assert!(!told.contains("123456789"), "{told}");
    house.stop();
}

#[test]
fn waiting_work_is_explained_moved_and_cancelled() {
    let house = House::start("");
    house.must("POST", "/v1/engines/demo/pause", None);
    for id in ["a", "b", "c"] {
        submit(&house, &demo(id, json!({})));
    }
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let later =
        json!({"id": "later", "engineType": "demo", "workflowId": "w", "readyAt": tomorrow.to_string()});
    assert_eq!(submit(&house, &later).status, 201);
    let reason =
        |id: &str| house.must("GET", &format!("/v1/executions/{id}"), None)["wait"]["reason"].clone();
    assert_eq!((reason("a"), reason("later")), (json!("paused"), json!("scheduled")));
    let queue = house.must("GET", "/v1/queue", None);
    assert_eq!(
        (&queue["currentQueueSize"], &queue["byWaitReason"]["paused"]),
        (&json!(4), &json!(3)),
        "{queue}"
    );
    let raised = house.must("PATCH", "/v1/executions/b", Some(&json!({"priority": "CRITICAL"})));
    assert_eq!(raised["priority"], "CRITICAL");
    let bulk = |verb: &str, body: Value| house.must("POST", &format!("/v1/executions/{verb}"), Some(&body));
    let dry = bulk("cancel", json!({"filter": {"status": ["pending"]}, "dryRun": true}));
    assert_eq!((&dry["matched"], &dry["changed"]), (&json!(4), &json!(0)), "{dry}");
    assert_eq!(house.must("POST", "/v1/executions/a/cancel", None)["status"], "cancelled");
    assert_eq!(house.call("POST", "/v1/executions/a/cancel", None).0, 200, "once more is no error");
    let done = bulk("cancel", json!({"filter": {"status": ["pending"]}}));
    assert_eq!((&done["matched"], &done["changed"]), (&json!(3), &json!(3)), "{done}");
    let back = bulk("redrive", json!({"all": true}));
    assert_eq!(back["changed"], 4, "{back}");
    house.must("POST", "/v1/engines/demo/resume", None);
    for id in ["a", "b", "c", "later"] {
        assert_eq!(house.ended(id)["status"], "completed", "a redriven execution is due at once");
    }
    house.stop();
}

#[test]
fn work_expires_times_out_and_keeps_its_limits() {
    let house = House::start("");
    let with = |id: &str, parameters: Value, more: Value| {
        let mut request = demo(id, parameters);
        more.as_object().unwrap().iter().for_each(|(name, value)| request[name] = value.clone());
        submit(&house, &request);
    };
    with("attempt", json!({"sleepMs": 60_000}), json!({"timeout": 200}));
    with(
        "total",
        json!({"failTimes": 9, "failKind": "unavailable"}),
        json!({"totalTimeout": "1s", "retry": {"delay": "1m"}}),
    );
    house.must("POST", "/v1/engines/demo/pause", None);
    with("expired", json!({}), json!({"expiresIn": 200}));
    let failure = |id: &str| {
        let failure = house.ended(id)["failure"].clone();
        (failure["kind"].as_str().unwrap().to_owned(), failure["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(failure("attempt"), ("timeout".to_owned(), "attempt_timeout".to_owned()));
    assert_eq!(failure("expired").0, "expired");
    house.must("POST", "/v1/engines/demo/resume", None);
    assert_eq!(house.ended("total")["status"], "failed");
    // One key runs one at a time.
    for id in ["k1", "k2"] {
        with(id, json!({"sleepMs": 2_000}), json!({"concurrencyKey": "customer-1"}));
    }
    house.until("k1", |view| view["status"] == "running");
    let second = house.must("GET", "/v1/executions/k2", None);
    assert_eq!(second["wait"]["reason"], "concurrency_key", "{second}");
    assert_eq!(house.ended("k2")["status"], "completed");
    house.stop();
}

#[test]
fn a_key_can_do_what_its_scopes_say_and_no_more() {
    let house = House::start("");
    submit(&house, &demo("one", json!({})));
    house.ended("one");
    let calls = [
        ("submit", "POST", "/v1/executions", Some(json!({"engineType": "demo", "workflowId": "w"}))),
        ("read", "GET", "/v1/executions/one", None),
        ("read:payload", "GET", "/v1/executions/one/result", None),
        ("cancel", "POST", "/v1/executions/cancel", Some(json!({"filter": {"status": ["pending"]}}))),
        ("metrics", "GET", "/v1/metrics", None),
        ("admin", "GET", "/v1/keys", None),
    ];
    for (scope, ..) in &calls {
        let key = house.must("POST", "/v1/keys", Some(&json!({"name": scope, "scopes": [scope]})));
        let secret = key["secret"].as_str().unwrap();
        for (needed, method, path, body) in &calls {
            let status = call(house.address, secret, method, path, body.as_ref()).unwrap().status;
            let may = scope == needed || *scope == "admin";
            assert_eq!(status < 300, may, "{scope}: {method} {path}: {status}");
            assert!(may || status == 403, "{scope}: {method} {path}: {status}");
        }
    }
    house.stop();
}

#[test]
fn pages_for_people_work_offline() {
    let house = House::start("");
    for (path, kind, part) in [
        ("/openapi.json", "application/json", "\"openapi\": \"3.1.0\""),
        ("/docs/", "text/html", "swagger"),
        ("/docs/errors", "text/html", "queue_full"),
        ("/livez", "application/json", "ok"),
    ] {
        let answer = send(house.address, &request("GET", path, &[], b"")).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}: {}", answer.head);
        assert!(answer.text().contains(part), "{path}");
        assert!(!answer.text().contains("https://cdn"), "{path} loads nothing from elsewhere");
    }
    house.stop();
}

#[test]
fn work_waits_for_an_engine_that_is_away_and_burns_nothing() {
    let house = House::start("");
    let switch = |id: &str, down: bool| {
        assert_eq!(submit(&house, &demo(id, json!({"endpoint": {"down": down}}))).status, 201);
        assert_eq!(house.ended(id)["status"], "completed");
    };
    switch("away", true);
    let mut patient = demo("patient", json!({"echo": 1}));
    patient["maxRetries"] = json!(0);
    submit(&house, &patient);
    let waiting = house.until("patient", |view| view["attempt"] == 2);
    assert!(matches!(waiting["status"].as_str(), Some("pending" | "running")), "{waiting}");
    assert_eq!(waiting["attemptsCounted"], 0, "{waiting}");
    let shown = String::from_utf8(house.cli(&["get", "patient"]).stdout).unwrap();
    assert!(
        shown.contains("(0 of 1 counted; the others were taken up again, interrupted or never"),
        "{shown}"
    );
    let test = house.must("POST", "/v1/engines/demo/test", None);
    assert_eq!(test["healthy"], false, "{test}");
    switch("back", false);
    let ended = house.ended("patient");
    assert_eq!(ended["status"], "completed", "without a retry to spare");
    assert_eq!(ended["attemptsCounted"], 1, "{ended}");
    house.stop();
}
