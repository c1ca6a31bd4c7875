//! Web pages of other origins: only those that are named may call, and a browser is told so.

use crate::house::House;
use crate::http::{Answer, request, send};

const PAGE: &str = "https://app.example";

fn sent(house: &House, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let bearer = format!("Bearer {}", house.key);
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    send(house.address, &request(method, path, &all, body)).unwrap()
}

fn preflight(house: &House, origin: &str) -> Answer {
    let asks = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    send(house.address, &request("OPTIONS", "/v1/executions", &asks, b"")).unwrap()
}

#[test]
fn a_named_page_may_call_and_read_and_no_other() {
    let house =
        House::start("[server]\ncors_origins = [\"https://app.example\", \"http://localhost:3000\"]\n");
    for origin in [PAGE, "http://localhost:3000"] {
        let answer = preflight(&house, origin);
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (204, Some(origin)),
            "{}",
            answer.head
        );
        assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"), "{}", answer.head);
        let headers = answer.header("access-control-allow-headers").unwrap();
        assert!(headers.contains("authorization") && headers.contains("idempotency-key"), "{headers}");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    let body = br#"{"engine":"demo","workflowId":"w"}"#;
    let json = ("content-type", "application/json");
    let answer = sent(&house, "POST", "/v1/executions", &[("origin", PAGE), json], body);
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (201, Some(PAGE)),
        "{}",
        answer.head
    );
    assert!(answer.header("access-control-expose-headers").unwrap().contains("location"), "{}", answer.head);
    // A refusal can be read, too.
    for path in ["/v1/executions/nobody", "/v1/nowhere"] {
        let answer = sent(&house, "GET", path, &[("origin", PAGE)], b"");
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (404, Some(PAGE)),
            "{}",
            answer.head
        );
    }
    for origin in ["https://evil.example", "https://app.example.evil", "http://app.example", "null", "*"] {
        let answer = preflight(&house, origin);
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (405, None),
            "{}",
            answer.head
        );
        let answer = sent(&house, "GET", "/v1/queue", &[("origin", origin)], b"");
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (200, None),
            "{}",
            answer.head
        );
        assert_eq!(answer.header("vary"), Some("Origin"), "a cache keeps the two apart");
    }
    let unkeyed = send(house.address, &request("GET", "/v1/queue", &[("origin", PAGE)], b"")).unwrap();
    assert_eq!(unkeyed.status, 401, "a page needs a key like everybody");
    house.stop();
}

#[test]
fn no_page_may_call_unless_it_is_named() {
    let house = House::start("");
    let answer = preflight(&house, PAGE);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, None), "{}", answer.head);
    assert_eq!(answer.header("vary"), None);
    house.stop();
}

#[test]
fn without_keys_a_named_page_is_answered_too() {
    let house = House::start("[server]\nauth = false\ncors_origins = [\"https://app.example\"]\n");
    let from = |origin: &str| {
        let headers = [("origin", origin), ("sec-fetch-site", "cross-site")];
        send(house.address, &request("GET", "/v1/queue", &headers, b"")).unwrap().status
    };
    assert_eq!((from(PAGE), from("https://evil.example")), (200, 403));
    house.stop();
}

#[test]
fn what_no_browser_names_is_refused_at_the_check() {
    for (origins, wanted) in [
        ("[\"*\"]", "name each origin"),
        ("[\"https://app.example/\"]", "\"https://app.example\""),
        ("[\"https://app.example:443\"]", "\"https://app.example\""),
        ("[\"HTTPS://App.example\"]", "\"https://app.example\""),
        ("[\"https://app.example/page\"]", "\"https://app.example\""),
        ("[\"app.example\"]", "is no origin"),
        ("[\"null\"]", "is no origin"),
    ] {
        let house = House::prepare(&format!("[server]\ncors_origins = {origins}\n"));
        let mut check = crate::house::program();
        check.args(["config", "check", "--config"]).arg(house.dir.path().join("enginehouse.toml"));
        let done = check.output().unwrap();
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(!done.status.success() && said.contains(wanted), "{origins}: {said}");
    }
}
