//! Results over HTTP: not sent again to who has them, and in parts.

use crate::house::House;
use crate::http;
use serde_json::json;

#[test]
fn a_result_is_sent_once_and_in_parts_if_wanted() {
    let house = House::start("");
    let request =
        json!({"id": "a", "engineType": "demo", "workflowId": "w", "parameters": {"resultBytes": 100_000}});
    house.must("POST", "/v1/executions", Some(&request));
    assert_eq!(house.ended("a")["status"], "completed");
    let bearer = format!("Bearer {}", house.key);
    let get = |more: &[(&str, &str)]| {
        let headers = [&[("authorization", bearer.as_str())], more].concat();
        http::send(house.address, &http::request("GET", "/v1/executions/a/result", &headers, b"")).unwrap()
    };
    let whole = get(&[]);
    let tag = whole.header("etag").unwrap().to_owned();
    assert_eq!((whole.status, whole.header("accept-ranges")), (200, Some("bytes")));
    let again = get(&[("if-none-match", &tag)]);
    assert_eq!((again.status, again.body.len()), (304, 0), "{}", again.head);
    let mut parts = Vec::new();
    for from in (0..whole.body.len()).step_by(30_000) {
        let part = get(&[("range", &format!("bytes={from}-{}", from + 29_999)), ("if-range", &tag)]);
        assert_eq!(part.status, 206, "{}", part.head);
        parts.extend(part.body);
    }
    assert!(parts == whole.body, "the parts make another whole");
    let beyond = get(&[("range", "bytes=99999999-")]);
    assert_eq!((beyond.status, &beyond.json()["code"]), (416, &json!("range_not_satisfiable")));
    house.stop();
}
