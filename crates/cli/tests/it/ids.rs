//! Ids that callers choose: any printable text, on every way an id travels, and safe wherever it is shown.

use crate::engines::http_engine;
use crate::house::{House, call};
use crate::http;
use serde_json::{Value, json};

/// Ids, each with its segment of a path.
const IDS: &[(&str, &str)] = &[
    ("throughput-Low Load-0", "throughput-Low%20Load-0"),
    ("-a", "-a"),
    ("a/b//c", "a%2Fb%2F%2Fc"),
    ("?x=1&y#z%2e", "%3Fx%3D1%26y%23z%252e"),
    ("it's \"quoted\" \\ <b>", "it%27s%20%22quoted%22%20%5C%20%3Cb%3E"),
    ("größe 漢字 🧪", "gr%C3%B6%C3%9Fe%20%E6%BC%A2%E5%AD%97%20%F0%9F%A7%AA"),
    // The same to a reader, and another id: bytes are compared.
    ("caf\u{e9}", "caf%C3%A9"),
    ("cafe\u{301}", "cafe%CC%81"),
    ("safe\u{202e}gnp.exe", "safe%E2%80%AEgnp.exe"),
    ("zero\u{200b}width", "zero%E2%80%8Bwidth"),
];

fn request(id: &str) -> Value {
    json!({"id": id, "engine": "demo", "workflowId": "w\u{202e}", "userId": "u\u{200b}ser", "tags": ["t\u{2066}ag"],
           "parameters": {"echo": id}})
}

/// Submits and gives the path that the answer names.
fn submit(house: &House, id: &str) -> String {
    let answer = house.try_call("POST", "/v1/executions?wait=30s", Some(&request(id))).unwrap();
    assert!(matches!(answer.status, 200 | 201), "{id:?}: {}", answer.text());
    answer.header("location").unwrap().to_owned()
}

#[test]
fn an_id_is_any_printable_text_on_every_route() {
    let house = House::start("");
    for (id, segment) in IDS {
        let path = submit(&house, id);
        assert_eq!(path, format!("/v1/executions/{segment}"), "{id:?}");
        assert_eq!(submit(&house, id), path, "the same request is the same execution");
        let view = house.must("GET", &path, None);
        assert_eq!((&view["id"], &view["status"]), (&json!(id), &json!("completed")));
        for link in view["links"].as_object().unwrap().values() {
            let link = link.as_str().unwrap();
            let answer = house.try_call("GET", link, None).unwrap();
            assert_eq!(answer.status, 200, "{link}");
        }
        assert_eq!(house.must("GET", &format!("{path}/result"), None)["result"]["echo"], *id);
        let (status, answer) = house.call("POST", &format!("{path}/cancel"), None);
        assert_eq!((status, &answer["code"]), (409, &json!("already_finished")), "{answer}");
    }
    let listed = house.must("GET", "/v1/executions?limit=100", None);
    assert_eq!(listed["executions"].as_array().unwrap().len(), IDS.len(), "no two ids are one");
    let items: Vec<Value> = IDS.iter().map(|(id, _)| request(id)).collect();
    let batch = house.must("POST", "/v1/executions/batch", Some(&json!({"executions": items})));
    let ids: Vec<&str> =
        batch["executions"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, IDS.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for dots in [".", "..", "%2e", "%2E%2e", "a%2F..%2Fb", "%0A", "%FF"] {
        let (status, answer) = house.call("GET", &format!("/v1/executions/{dots}"), None);
        assert_eq!(status, 404, "{dots}: {answer}");
    }
    house.stop();
}

#[test]
fn what_is_shown_hides_nothing() {
    let house = House::start("");
    for (id, _) in IDS {
        submit(&house, id);
    }
    let hidden = |text: &str| text.chars().any(|c| "\u{202e}\u{200b}\u{2066}".contains(c) || c == '\u{1b}');
    let check = |args: &[&str], expected: &str| {
        let done = house.cli(args);
        let said = String::from_utf8([done.stdout.clone(), done.stderr].concat()).unwrap();
        assert!(!hidden(&said), "{args:?}: {said:?}");
        assert!(said.contains(expected), "{args:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    };
    check(&["list"], r"safe\u{202e}gnp.exe");
    let json = check(&["list", "--json"], r"safe\u202egnp.exe");
    let listed: Value = serde_json::from_str(&json).unwrap();
    assert!(listed["executions"].as_array().unwrap().iter().any(|one| one["id"] == "zero\u{200b}width"));
    check(&["events", "--after", "oldest", "--count", "30"], r"zero\u{200b}width");
    for (id, _) in IDS {
        let shown = id.replace('\u{202e}', r"\u{202e}").replace('\u{200b}', r"\u{200b}");
        check(&["get", "--", id], &shown);
        check(&["get", "--", id], r"t\u{2066}ag");
        check(&["explain", "--", id], "completed");
        check(&["watch", "--", id], "execution_completed");
        check(&["attempts", "--", id], "succeeded");
        let result: Value = serde_json::from_str(&check(&["result", "--", id], "echo")).unwrap();
        assert_eq!(result["echo"], *id);
        check(&["cancel", "--", id], "already_finished");
        check(&["cancel", "--", id, "nobody\u{202e}"], &format!("{shown}: "));
        check(&["redrive", "--", id], "not_redrivable");
    }
    check(&["get", "nobody\u{202e}"], "not_found");
    let waiting = ["submit", "--type", "demo", "--workflow", "w", "--params", r#"{"sleepMs":60000}"#];
    let more = ["--id", "it's \u{202e}slow", "--wait", "--wait-for", "100ms"];
    check(&[&waiting[..], &more].concat(), r"enginehouse watch 'it'\''s \u{202e}slow'");
    check(&["explain", "it's \u{202e}slow"], "running");
    check(&["cancel", "it's \u{202e}slow"], r"slow  ");
    assert!(!hidden(&house.said()), "{}", house.said());
    house.stop();
}

#[test]
fn a_service_behind_is_told_a_key_that_a_header_can_carry() {
    let behind = House::start("");
    let bearer = behind.dir.path().join("bearer");
    std::fs::write(&bearer, format!("Bearer {}", behind.key)).unwrap();
    let told = format!("{}\n", http_engine(&behind, &bearer)).replace(
        "[engines.other.request]\n",
        "[engines.other.request]\nheaders = { x-request-id = \"x\", x-of = \"{{ execution_id }}\" }\n",
    );
    let front = House::start(&told);
    for (id, segment) in IDS {
        let request = json!({"id": id, "engine": "other", "workflowId": "deep", "parameters": {"echo": "x"}});
        let answer = front.try_call("POST", "/v1/executions?wait=60s", Some(&request)).unwrap();
        assert_eq!(answer.json()["status"], "completed", "{id:?}: {}", answer.text());
        assert_eq!(
            front.must("GET", &format!("/v1/executions/{segment}/attempts"), None)["attempts"][0]["attempt"],
            1
        );
    }
    // What is ASCII is the key as it is; the rest is percent-encoded.
    let keys = behind.must("GET", "/v1/executions?limit=100", None);
    let keys: Vec<&str> =
        keys["executions"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    for key in ["throughput-Low Load-0.1", "a/b//c.1", "caf%C3%A9.1", "cafe%CC%81.1", "?x=1&y#z%252e.1"] {
        assert!(keys.contains(&key), "{key}: {keys:?}");
    }
    let answer = call(front.address, &front.key, "GET", "/v1/executions/caf%C3%A9", None).unwrap();
    assert_eq!(answer.json()["engineRunId"], "caf%C3%A9.1");
    let raw = http::request(
        "GET",
        "/v1/executions/caf\u{e9}",
        &[("authorization", &format!("Bearer {}", front.key))],
        b"",
    );
    let answer = http::send(front.address, &raw).unwrap();
    assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    front.stop();
    behind.stop();
}
