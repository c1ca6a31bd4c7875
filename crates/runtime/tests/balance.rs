//! The service on three real HTTP endpoints of which one is slow and one flaps: where the attempts go.

#![allow(clippy::print_stdout, reason = "figures are printed for whoever looks")]

use enginehouse_core::balance::{BalanceRules, Balancing};
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::pace::RetryBudgetRules;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_engine::config::{EndpointConfig, HttpSettings};
use enginehouse_engine::{Http, HttpConfig, HttpStep};
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, ScalingSettings, Service, Settings,
};
use enginehouse_store::clock::SystemClock;
use enginehouse_store::{MemoryStore, Store};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Executions that are under way at any time.
const CALLERS: usize = 4;
/// Attempts that one endpoint takes at once.
const AT_ONCE: u32 = 4;
/// How often the flapping endpoint goes down and comes back.
const FLAPS: u64 = 3;
/// The least number of executions that a run is judged by.
const CALLS_MIN: u64 = 400;
const FAILURES_TO_OPEN: u32 = 3;
/// What an outage may cost: the breaker opens after twice the threshold in a row at the latest, what is under way when it
/// goes down and when the breaker opens may fail too, and a probe or two may come before it is back.
const LOST_PER_FLAP: u64 = 2 * FAILURES_TO_OPEN as u64 + 2 * AT_ONCE as u64 + 2;
const PATIENCE: Duration = Duration::from_secs(240);
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// An HTTP service that takes a while for each call.
struct Stub {
    url: String,
    takes: Duration,
    down: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Stub {
    async fn start(takes_ms: u64) -> Arc<Stub> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let stub = Arc::new(Stub {
            url: format!("http://{}", listener.local_addr().expect("it is bound")),
            takes: Duration::from_millis(takes_ms),
            down: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let served = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve(stream));
            }
        });
        stub
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut read = Vec::new();
        while let Some(is_call) = next_request(&mut stream, &mut read).await {
            let (status, body) = if !is_call {
                ("200 OK", "{}")
            } else if self.down.load(Ordering::SeqCst) {
                self.refused.fetch_add(1, Ordering::SeqCst);
                ("502 Bad Gateway", "{\"error\":\"down\"}")
            } else {
                tokio::time::sleep(self.takes).await;
                self.answered.fetch_add(1, Ordering::SeqCst);
                ("200 OK", "{\"done\":true}")
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn calls(&self) -> u64 {
        self.answered.load(Ordering::SeqCst) + self.refused.load(Ordering::SeqCst)
    }
}

/// Reads one request; whether it is a call (a health check is none). `None`: the connection is over.
async fn next_request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<bool> {
    loop {
        if let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
            if read.len() >= head + 4 + length {
                read.drain(..head + 4 + length);
                return Some(text.starts_with("post"));
            }
        }
        let mut chunk = [0; 4_096];
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 && read.len() < REQUEST_BYTES_MAX => {
                read.extend_from_slice(&chunk[..count])
            }
            _ => return None,
        }
    }
}

fn engine(stubs: &[Arc<Stub>], balance: BalanceRules) -> RegisteredEngine {
    let endpoints = stubs.iter().map(|stub| EndpointConfig { url: stub.url.clone(), weight: 1 }).collect();
    let request =
        HttpStep { method: "POST".to_owned(), path: "/run".to_owned(), headers: BTreeMap::new(), body: None };
    let config = HttpConfig {
        http: HttpSettings { endpoints, ..HttpSettings::default() },
        request,
        follow: None,
        cancel: None,
        success: None,
        failure: None,
        cancelled: None,
        result: None,
        result_template: None,
        message: None,
        stream: enginehouse_engine::HttpStream::default(),
        idempotent: true,
    };
    let settings = EngineSettings {
        name: "three".to_owned(),
        engine_type: "http".to_owned(),
        max_concurrency: Some(AT_ONCE),
        endpoints: stubs.iter().map(|s| EndpointSettings { name: s.url.clone(), weight: 1.0 }).collect(),
        retry: Some(RetryPolicy { max_retries: 50, delay: 1, max_delay: 5, ..RetryPolicy::default() }),
        retry_budget: RetryBudgetRules { per_minute: 100_000, ..RetryBudgetRules::default() },
        breaker: BreakerRules {
            failure_threshold: FAILURES_TO_OPEN,
            reset_timeout: 200,
            reset_timeout_max: 400,
            ..BreakerRules::default()
        },
        adaptive: false,
        balance,
        ..EngineSettings::default()
    };
    RegisteredEngine { settings, adapter: Arc::new(Http::new(config).expect("it makes sense")) }
}

/// What a run came to.
struct Seen {
    answered: Vec<u64>,
    refused: u64,
    attempts: u64,
    /// From the submit to the end, in milliseconds, in order.
    waits: Vec<u64>,
    per_second: f64,
}

impl Seen {
    fn wait(&self, share: f64) -> u64 {
        self.waits[((self.waits.len() - 1) as f64 * share) as usize]
    }

    fn print(&self, name: &str) {
        println!(
            "{name:15} answered: fast {:5}, slow {:5}, flapping {:5}; lost on the flapping one {:3}; {:6.1}/s; \
             p50 {:3} ms, p95 {:3} ms, p99 {:3} ms",
            self.answered[0],
            self.answered[1],
            self.answered[2],
            self.refused,
            self.per_second,
            self.wait(0.5),
            self.wait(0.95),
            self.wait(0.99)
        );
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One execution to its end: how many attempts it took, and how long, in milliseconds.
async fn one(service: &Service) -> (u64, u64) {
    let begun = Instant::now();
    let request = json!({"engine": "three", "workflowId": "w", "parameters": {"n": 1}});
    let request = serde_json::from_value(request).expect("it is a request");
    let caller = Caller::local();
    let submitted = service.submit(&caller, request, None).await.expect("it is accepted");
    let ended = service.wait(&caller, &submitted.execution.id, PATIENCE).await.expect("it is known");
    assert_eq!(ended.status.as_str(), "completed", "{:?}", ended.failure);
    (u64::from(ended.attempt), u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Takes the endpoint down until nothing new goes to it, which its breaker or the comparison with its peers sees first, and
/// brings it back.
async fn flap(service: &Service, stub: &Stub) {
    let flapping = async || {
        let view = service.engine("three").await.expect("it is there").endpoints[2].clone();
        (view.breaker.state, view.balance.ejected_until.is_some())
    };
    for _ in 0..FLAPS {
        stub.down.store(true, Ordering::SeqCst);
        until("it is kept away from", async || {
            let (breaker, ejected) = flapping().await;
            breaker == "open" || ejected
        })
        .await;
        stub.down.store(false, Ordering::SeqCst);
        until("its breaker closes", async || flapping().await.0 == "closed").await;
    }
}

async fn run(balance: BalanceRules) -> Seen {
    let stubs = [Stub::start(20).await, Stub::start(100).await, Stub::start(20).await];
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let settings = Settings { scaling: ScalingSettings::fixed(2, 8), seed: Some(3), ..Settings::default() };
    let node = Node::start(settings, store, vec![engine(&stubs, balance)]).await.expect("it starts");
    let service = node.service();
    let (enough, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (service, enough, done) = (service.clone(), enough.clone(), done.clone());
            tokio::spawn(async move {
                let mut ended = Vec::new();
                while !enough.load(Ordering::SeqCst) {
                    ended.push(one(&service).await);
                    done.fetch_add(1, Ordering::SeqCst);
                }
                ended
            })
        })
        .collect();
    until("it is warm", async || stubs.iter().all(|stub| stub.calls() >= 12)).await;
    flap(&service, &stubs[2]).await;
    until("enough was seen", async || done.load(Ordering::SeqCst) >= CALLS_MIN).await;
    enough.store(true, Ordering::SeqCst);
    let mut ended = Vec::new();
    for caller in callers {
        ended.extend(caller.await.expect("no caller panics"));
    }
    let per_second = ended.len() as f64 / begun.elapsed().as_secs_f64();
    assert_eq!(service.audit(), Vec::<String>::new());
    node.stop().await;
    let mut waits: Vec<u64> = ended.iter().map(|(_, ms)| *ms).collect();
    waits.sort_unstable();
    Seen {
        answered: stubs.iter().map(|stub| stub.answered.load(Ordering::SeqCst)).collect(),
        refused: stubs.iter().map(|stub| stub.refused.load(Ordering::SeqCst)).sum(),
        attempts: ended.iter().map(|(attempts, _)| attempts).sum(),
        waits,
        per_second,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_endpoint_gets_less_and_a_flapping_one_costs_what_its_breaker_takes() {
    let in_turn = BalanceRules { balancing: Balancing::RoundRobin, eject: false, sticky: false };
    let in_turn = run(in_turn).await;
    let learned = run(BalanceRules::default()).await;
    in_turn.print("round_robin");
    learned.print("least_expected");
    println!(
        "least_expected does {:.2} times as much as round_robin",
        learned.per_second / in_turn.per_second
    );
    for seen in [&in_turn, &learned] {
        let calls = seen.answered.iter().sum::<u64>() + seen.refused;
        assert_eq!(seen.attempts, calls, "every attempt reached an endpoint once");
        assert_eq!(seen.attempts - seen.waits.len() as u64, seen.refused, "only the outages cost attempts");
        assert!(seen.refused <= FLAPS * LOST_PER_FLAP, "{} attempts were lost", seen.refused);
    }
    let (fast, slow) = (learned.answered[0], learned.answered[1]);
    assert!(slow * 3 < fast, "five times slower, it gets less than a third: {slow} of {fast}");
    let (fast, slow) = (in_turn.answered[0], in_turn.answered[1]);
    assert!(slow * 10 > fast * 7, "in turn it gets about as much: {slow} of {fast}");
}
