//! An engine that answers and does not take its key is not well, and where the key came from is told.

use crate::house::House;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Plays every engine: anyone who asks for its health is answered, anything else needs the key.
fn engines(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || answer(connection));
        }
    });
    address
}

fn answer(mut connection: TcpStream) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let path = head.split(' ').nth(1)?;
    let health = ["/healthz/readiness", "/health_check", "/ok"].contains(&path);
    let (status, body) = if health {
        ("200 OK", r#"{"status":"ok","ok":true,"chat":"ok","db":"ok"}"#)
    } else if head.contains("api-key: good-key\r\n") && path.starts_with("/api/v2/workflows?") {
        ("404 Not Found", r#"{"detail":{"code":"JOB_NOT_FOUND"}}"#)
    } else if head.contains("api-key: good-key\r\n") {
        ("200 OK", "[]")
    } else if path.starts_with("/api/v1/executions") {
        ("401 Unauthorized", r#"{"message":"unauthorized"}"#)
    } else {
        ("403 Forbidden", r#"{"detail":"Invalid or missing API key"}"#)
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all((head + body).as_bytes()).ok()
}

const NAMES: [&str; 6] = ["n8n", "langflow", "langflow-v1", "langsmith", "langgraph", "service"];

fn house(address: SocketAddr, key: &str, of: &str) -> House {
    let table = |name: &str, more: &str| {
        format!("[engines.{name}]\nendpoints = [{{ url = \"http://{address}\" }}]\n{key}\n{more}\n")
    };
    let service = "type = \"http\"\nhealth = \"/status\"\n[engines.service.request]\npath = \"/run\"";
    let mut house = House::prepare(
        &[
            "[health]\ninterval = \"1s\"\n".to_owned(),
            table("n8n", "type = \"n8n\""),
            table("langflow", "type = \"langflow\""),
            table("langflow-v1", "type = \"langflow\"\napi = \"v1\""),
            table("langsmith", "type = \"langsmith\"\ndefault = true"),
            table("langgraph", "type = \"langgraph\""),
            table("service", service),
        ]
        .concat(),
    );
    let mut serve = house.serve();
    serve.env("KEY_OF_THE_TEST", of);
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    house
}

fn until(house: &House, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: {}", house.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What each engine but the service says of a good key: whether its path needs one is not known.
const TAKEN: &str = "it takes the API key from the environment variable KEY_OF_THE_TEST";

#[test]
fn a_wrong_key_is_told_with_its_place_and_so_is_a_good_one() {
    let address = engines(TcpListener::bind("127.0.0.1:0").unwrap());
    let named = "api_key = { env = \"KEY_OF_THE_TEST\" }";
    for (key, of, place) in [
        (named, "bad-key", "from the environment variable KEY_OF_THE_TEST"),
        ("", "", "api_key names none"),
        (named, "good-key", ""),
    ] {
        let house = house(address, key, of);
        for name in NAMES {
            let tested = house.cli(&["engines", "test", name]);
            let said = String::from_utf8_lossy(&tested.stdout).into_owned();
            // Whether a service wants a key is known only where one is configured.
            let good = place.is_empty() || (name == "service" && key.is_empty());
            assert_eq!(tested.status.code(), Some(i32::from(!good)), "{name}: {said}");
            assert!(good || said.contains(place), "{name}: {said}");
            assert!(!said.contains("bad-key"), "{name}: {said}");
            assert_eq!(said.contains(TAKEN), of == "good-key" && name != "service", "{name}: {said}");
        }
        let doctor = house.cli(&["doctor", "--json"]);
        let told: Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let of_engines = told["findings"].as_array().unwrap().iter();
        let of_engines: Vec<&Value> = of_engines.filter(|finding| finding["check"] == "engine").collect();
        let taken = of_engines.iter().filter(|finding| finding["text"].to_string().contains(TAKEN)).count();
        let takers = if of == "good-key" { NAMES.len() - 1 } else { 0 };
        assert_eq!(taken, takers, "{told}");
        let failed: Vec<&&Value> =
            of_engines.iter().filter(|finding| finding["verdict"] == "failed").collect();
        let refused = [NAMES.len() - 1, NAMES.len()][usize::from(!key.is_empty())];
        assert_eq!(failed.len(), if place.is_empty() { 0 } else { refused }, "{told}");
        for finding in failed {
            assert!(finding["text"].to_string().contains(place), "{finding}");
            assert!(finding["remedy"].to_string().contains("key"), "{finding}");
        }
        let alias = house.must("GET", "/v1/engines/langgraph", None);
        assert_eq!(alias["engineType"], "langsmith", "{alias}");
        // The start looked, too, before anybody asked.
        let told = |words: &str| house.said().matches(words).count();
        let warned = told("refuses the API key from") + told("names none");
        assert!(place.is_empty() == (warned == 0), "{}", house.said());
        assert_eq!(told(TAKEN) > 0, takers > 0, "{}", house.said());
        house.stop();
    }
}

#[test]
fn an_engine_that_comes_up_later_is_asked_for_its_key_then() {
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let house = house(address, "api_key = { env = \"KEY_OF_THE_TEST\" }", "bad-key");
    let away = || {
        let engine = house.must("GET", "/v1/engines/n8n", None);
        engine["endpoints"][0]["health"]["healthy"] == false
    };
    until(&house, "it is seen that nobody answers", away);
    assert!(!house.said().contains("API key from"), "{}", house.said());
    assert_eq!(engines(TcpListener::bind(address).unwrap()), address);
    let told = || house.said().matches("it refuses the API key from").count() == NAMES.len();
    until(&house, "each wrong key is told", told);
    house.stop();
}
