//! An adaptive limit that holds work back is told: in the engine's view, to who waits, as a figure and by an alert.

use crate::house::House;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_millis(10);

/// A service that runs what it is sent as long as the connection lasts.
struct Crowded {
    port: u16,
    running: AtomicUsize,
    /// Runs at once above which further ones are answered 429.
    refuses_above: usize,
    /// Runs at once above which all get slower.
    knee: usize,
    /// Nothing ends as long as this is not set.
    ends: AtomicBool,
    work: Duration,
}

impl Crowded {
    fn open(refuses_above: usize, knee: usize, work: Duration, ends: bool) -> Arc<Crowded> {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = door.local_addr().unwrap().port();
        let (running, ends) = (AtomicUsize::new(0), AtomicBool::new(ends));
        let crowded = Arc::new(Crowded { port, running, refuses_above, knee, ends, work });
        let service = crowded.clone();
        std::thread::spawn(move || {
            for stream in door.incoming() {
                let (Ok(stream), service) = (stream, service.clone()) else { return };
                std::thread::spawn(move || service.answer(stream));
            }
        });
        crowded
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut asked = Vec::new();
        let mut piece = [0; 4096];
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut piece) {
                Ok(n) if n > 0 => asked.extend_from_slice(&piece[..n]),
                _ => return,
            }
        }
        let before = self.running.fetch_add(1, Ordering::SeqCst);
        let (status, body) = if before >= self.refuses_above {
            (429, r#"{"message":"too many"}"#)
        } else {
            self.run();
            (200, r#"{"ok":true}"#)
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}");
        let _ = stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n{body}").as_bytes());
    }

    /// Above the knee it does less in all, not only less for each.
    fn run(&self) {
        let mut left = self.work.as_secs_f64();
        while left > 0.0 || !self.ends.load(Ordering::SeqCst) {
            std::thread::sleep(STEP);
            let crowd = self.running.load(Ordering::SeqCst) as f64 / self.knee as f64;
            left -= STEP.as_secs_f64() * crowd.max(1.0).powf(-1.5);
        }
    }

    fn config(&self, slots: usize) -> String {
        format!(
            "[metrics]\ncollection_interval = \"200ms\"\n[alerts.limit_holds_back]\nhold = \"1s\"\nrecovery = \"200ms\"\n\
             [scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = {slots}\n[engines.crowded]\ntype = \"http\"\n\
             endpoints = [{{ url = \"http://127.0.0.1:{}\" }}]\nrequest.path = \"/run\"\nhealth = \"off\"\nidempotent = true\n\
             retry = {{ max_retries = 100, delay = \"50ms\", max_delay = \"100ms\" }}\n",
            self.port
        )
    }
}

fn submit(house: &House, id: &str, ckey: Option<&str>) {
    let body = json!({"id": id, "engine": "crowded", "workflowId": "w", "concurrencyKey": ckey});
    house.must("POST", "/v1/executions", Some(&body));
}

fn limit(house: &House) -> Value {
    house.must("GET", "/v1/engines/crowded", None)["endpoints"][0]["limit"].clone()
}

fn limit_until(house: &House, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = limit(house);
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "the limit stays {seen:#}\n{}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn alert_until(house: &House, firing: bool) -> Value {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = house.must("GET", "/v1/alerts", None);
        let alerts = seen["alerts"].as_array().unwrap();
        let found = alerts.iter().find(|a| a["alert"] == "limit_holds_back" && a["state"] == "firing");
        if found.is_some() == firing {
            return found.cloned().unwrap_or_default();
        }
        assert!(Instant::now() < deadline, "firing is not {firing}: {seen:#}\n{:#}", limit(house));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn said(house: &House, args: &[&str]) -> String {
    String::from_utf8(house.cli(args).stdout).unwrap()
}

#[test]
fn a_limit_after_too_many_requests_is_told_alerts_and_survives_a_restart() {
    let crowded = Crowded::open(2, 100, Duration::from_millis(50), false);
    let mut house = House::start(&crowded.config(8));
    let ids: Vec<String> = (0..6).map(|n| format!("r{n}")).collect();
    ids.iter().for_each(|id| submit(&house, id, None));
    let held = limit_until(&house, |limit| limit["adapted"]["waitedS"].as_f64() > Some(2.0));
    assert_eq!((&held["why"], &held["mode"]), (&json!("too_many_requests"), &json!("hold")), "{held:#}");
    let adapted = &held["adapted"];
    assert!(adapted["heldBack"].as_u64().is_some_and(|n| (1..=4).contains(&n)), "{held:#}");
    assert_eq!((&adapted["speed"], &adapted["usualRunMs"]), (&Value::Null, &Value::Null), "{held:#}");
    let text = held["text"].as_str().unwrap();
    assert!(text.starts_with("Enginehouse lowered the limit of engine crowded from none to "), "{text}");
    assert!(text.contains("because the engine answered that it is too much (429 or 503)"), "{text}");
    assert_eq!(held["remedy"], "`adaptive = false` in [engines.crowded] switches it off");

    let alert = alert_until(&house, true);
    assert_eq!((&alert["subject"], &alert["severity"]), (&json!("crowded"), &json!("warning")), "{alert:#}");
    assert!(alert["text"].as_str().unwrap().contains("work waits for the adaptive limit of "), "{alert:#}");
    assert!(alert["remedy"].as_str().unwrap().contains("enginehouse engines show NAME"), "{alert:#}");

    let shown = said(&house, &["engines", "show", "crowded"]);
    println!("{shown}");
    for part in [" (adaptive)", "Enginehouse lowered the limit", "held back by it", "`adaptive = false`"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let document: Value =
        serde_json::from_str(&said(&house, &["engines", "show", "crowded", "--json"])).unwrap();
    assert!(document["endpoints"][0]["limit"]["adapted"]["waitedS"].is_number(), "{document:#}");
    let waits = |view: &Value| view["wait"]["reason"] == "engine_limit";
    let deadline = Instant::now() + WITHIN;
    let waiting = loop {
        let views = ids.iter().map(|id| house.must("GET", &format!("/v1/executions/{id}"), None));
        if let Some(view) = views.into_iter().find(waits) {
            break view;
        }
        assert!(Instant::now() < deadline, "none waits for the limit: {}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = waiting["wait"]["text"].as_str().unwrap();
    assert!(text.starts_with("the adaptive limit holds it back: Enginehouse lowered"), "{text}");
    let explained = said(&house, &["explain", waiting["id"].as_str().unwrap()]);
    println!("{explained}");
    assert!(explained.contains("`adaptive = false` in [engines.crowded] switches it off"), "{explained}");
    let metrics = house.try_call("GET", "/metrics", None).unwrap().text();
    let series = "enginehouse_endpoint_limit_waited_seconds_total{";
    let counted =
        metrics.lines().find(|line| line.starts_with(series)).and_then(|line| line.rsplit(' ').next());
    assert!(counted.and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 2.0), "{metrics}");

    // What was learned is stored every ten seconds.
    let since = limit(&house)["adapted"]["since"].clone();
    let stored = |limit: &Value| {
        limit["adapted"]["since"] == since && limit["adapted"]["waitedS"].as_f64() > Some(60.0)
    };
    limit_until(&house, stored);
    house.kill();
    house.launch();
    let again = limit_until(&house, |limit| limit["adapted"].is_object());
    assert_eq!(again["adapted"]["since"], since, "{again:#}");
    assert!(again["adapted"]["waitedS"].as_f64() > Some(2.0), "{again:#}");

    crowded.ends.store(true, Ordering::SeqCst);
    for id in &ids {
        assert_eq!(house.ended(id)["status"], "completed", "{}", house.said());
    }
    alert_until(&house, false);
    house.stop();
}

#[test]
fn a_limit_of_an_engine_that_slows_with_concurrency_says_so() {
    let crowded = Crowded::open(usize::MAX, 4, Duration::from_millis(150), true);
    let house = House::start(&crowded.config(40));
    // What is well is learned from four at once.
    let warm: Vec<String> = (0..100).map(|n| format!("w{n}")).collect();
    for (n, id) in warm.iter().enumerate() {
        submit(&house, id, Some(["a", "b", "c", "d"][n % 4]));
    }
    warm.iter().for_each(|id| assert_eq!(house.ended(id)["status"], "completed"));
    assert_eq!((limit(&house)["why"].clone(), limit(&house)["text"].clone()), (Value::Null, Value::Null));
    let many = (0..600).map(|n| json!({"id": format!("m{n}"), "engine": "crowded", "workflowId": "w"}));
    let batch = json!({"executions": many.collect::<Vec<_>>()});
    house.must("POST", "/v1/executions/batch", Some(&batch));

    let told = |why: &'static str| move |limit: &Value| limit["why"] == why;
    let tried = limit_until(&house, told("experiment"));
    let text = tried["text"].as_str().unwrap();
    println!("{text}");
    assert_eq!(tried["mode"], "cut", "{tried:#}");
    assert!(text.contains("this is an experiment") && text.contains("where "), "{text}");
    assert!(tried["adapted"]["speed"].as_f64().is_some_and(|speed| speed < 0.65), "{tried:#}");
    let ms = |name: &str| tried["adapted"][name].as_f64().unwrap();
    assert!((150.0..1_500.0).contains(&ms("usualRunMs")), "a run alone takes 150 ms: {tried:#}");
    assert!(tried["adapted"]["runMs"].as_f64().is_none_or(|run| run > 2.0 * ms("usualRunMs")), "{tried:#}");
    let held = limit_until(&house, told("slower_with_more"));
    let text = held["text"].as_str().unwrap();
    println!("{text}");
    assert!(text.contains("fewer at once were faster, so it stays"), "{text}");
    let wait = house.until("m599", |view| view["wait"]["reason"] == "engine_limit");
    let text = wait["wait"]["text"].as_str().unwrap();
    assert!(text.starts_with("the adaptive limit holds it back: Enginehouse lowered"), "{text}");
    assert!(limit(&house)["adapted"]["waitedS"].as_f64() > Some(0.0), "{:#}", limit(&house));
    house.stop();
}
