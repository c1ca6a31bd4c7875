//! One contract for both ends a worker's link can have: the node's own, and the protocol over HTTP; and what only the latter
//! can meet: answers that are lost, and a node that says nothing any more.

use async_trait::async_trait;
use enginehouse::api::{Code, DrainRequest, KeyRequest, WORKER_PROTOCOLS, WorkerRegisterRequest};
use enginehouse::{Caller, EngineFailure, ExecutionService, FailureKind, Progress, SubmitRequest};
use enginehouse_api::client::{Client, ClientOptions};
use enginehouse_core::exact::ExactJson;
use enginehouse_core::reason::Reason;
use enginehouse_engine::Demo;
use enginehouse_server::{Server, ServerSettings};
use enginehouse_worker::{
    Assignment, End, Engines, HttpLink, LeaseRef, Link, LinkError, Order, Over, Report, Worker,
    WorkerSettings,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(60);

/// A service whose own workers never come up, so that all work is for the worker that joins; and its door.
struct Stage {
    service: ExecutionService,
    server: Server,
    token: String,
}

impl Stage {
    async fn set() -> Stage {
        let config = "[engines.demo]\ntype = \"demo\"\n[workers]\nprovider = \"process\"\n\
                      [scaling]\nmin_workers = 0\nmax_workers = 1\n[stop]\ngrace = 0\n";
        let builder = ExecutionService::builder().config_toml(config).unwrap();
        let service = builder.store_memory().worker_program("/bin/false").start().await.unwrap();
        let settings = ServerSettings { listen: ([127, 0, 0, 1], 0).into(), ..ServerSettings::default() };
        let server = Server::start(settings, service.service()).await.unwrap();
        let request = KeyRequest {
            name: "workers".to_owned(),
            scopes: vec!["worker".to_owned()],
            user_id: None,
            expires_at: None,
        };
        let token = service.service().create_key(&Caller::local(), request).await.unwrap().secret;
        Stage { service, server, token }
    }

    async fn join(&self, at: SocketAddr) -> HttpLink {
        let options = ClientOptions {
            api_key: Some(self.token.clone()),
            request_timeout: Duration::from_secs(5),
            ..ClientOptions::new(format!("http://{at}"))
        };
        let client = Client::new(options).unwrap();
        let request = register();
        loop {
            match HttpLink::join(client.clone(), &request).await {
                Ok(link) => return link,
                // Its answer may be among those that are lost; the nonce makes it the same session.
                Err(error) => assert_eq!(error.code(), None, "{error}"),
            }
        }
    }

    async fn submit(&self, id: &str, more: Value) {
        let mut request = json!({"id": id, "engineType": "demo", "workflowId": "w", "maxRetries": 0});
        for (key, value) in more.as_object().unwrap() {
            request[key] = value.clone();
        }
        let request: SubmitRequest = serde_json::from_value(request).unwrap();
        self.service.submit(request).await.unwrap();
    }

    async fn ended(&self, id: &str) -> (String, u32) {
        let view = self.service.wait(id, WITHIN).await.unwrap().ended().expect("it ends");
        (view.status.to_string(), view.attempt)
    }

    async fn end(self) {
        self.service.stop().await;
        self.server.stop().await;
    }
}

fn register() -> WorkerRegisterRequest {
    WorkerRegisterRequest {
        protocols: WORKER_PROTOCOLS.to_vec(),
        nonce: "a-nonce-of-the-test".to_owned(),
        name: Some("guest".to_owned()),
        capacity: 2,
        engines: [("demo".to_owned(), "demo".to_owned())].into(),
    }
}

async fn order(link: &dyn Link) -> Option<Order> {
    timeout(WITHIN, link.order()).await.expect("an order in time")
}

async fn run(link: &dyn Link) -> Assignment {
    match order(link).await {
        Some(Order::Run(assignment)) => *assignment,
        other => panic!("{other:?} in the place of a run"),
    }
}

fn succeeded(result: &'static str) -> Report {
    let end = End::Succeeded { result: bytes(result), needs_input: false };
    Report { end, logs: "a line\n".to_owned() }
}

fn bytes(text: &'static str) -> enginehouse_worker::Bytes {
    enginehouse_worker::Bytes::from_static(text.as_bytes())
}

fn ended_by(end: End) -> Report {
    Report { end, logs: String::new() }
}

/// What every link keeps, whatever lies between its ends.
async fn contract(stage: &Stage, link: Arc<dyn Link>) {
    runs_to_their_ends(stage, &*link).await;
    old_leases(stage, &*link).await;
    facts_and_farewell(stage, &*link).await;
}

async fn runs_to_their_ends(stage: &Stage, link: &dyn Link) {
    // A run, with what its worker needs to know, to its result.
    stage.submit("a", json!({"parameters": {"echo": [1.0, null]}, "idleTimeout": 60_000})).await;
    let a = run(link).await;
    assert_eq!((a.execution_id.as_str(), a.attempt, a.engine.as_str()), ("a", 1, "demo"));
    assert_eq!((a.idempotency_key.as_str(), a.workflow_id.as_str()), ("a.1", "w"));
    assert_eq!((a.idle_timeout, a.limit.code), (Some(60_000), "attempt_timeout"));
    let request: Value = serde_json::from_slice(&a.request).unwrap();
    assert_eq!(request["parameters"], json!({"echo": [1.0, null]}));
    assert_eq!(link.attach(a.lease, "run-1", true).await, Ok(()));
    assert_eq!(link.attach(a.lease, "run-1", true).await, Ok(()), "the same again changes nothing");
    assert_eq!(stage.service.status("a").await.unwrap().engine_run_id.as_deref(), Some("run-1"));
    let mut events = stage.service.events("a", None).await.unwrap();
    let exact = r#"{"n":12345678901234567890123,"x":0.1000000000000000055,"f":1.0}"#;
    link.progress(a.lease, Progress { fraction: Some(0.5), data: Some(ExactJson::parse(exact).unwrap()) });
    let seen = async {
        while let Some(item) = events.recv().await {
            if serde_json::to_string(&item.view).unwrap().contains(exact) {
                return true;
            }
        }
        false
    };
    assert!(timeout(WITHIN, seen).await.expect("the progress in time"));
    assert_eq!(link.report(a.lease, succeeded("{\"b\" : 1}")).await, Ok(()));
    assert_eq!(link.report(a.lease, succeeded("2")).await, Err(LinkError::Stale), "it has ended");
    assert_eq!(stage.ended("a").await, ("completed".to_owned(), 1));
    assert_eq!(stage.service.result("a").await.unwrap().result.unwrap().get(), "{\"b\" : 1}");

    // A failure keeps its kind, its code and its text.
    stage.submit("b", json!({})).await;
    let b = run(link).await;
    let failure = EngineFailure::new(FailureKind::EngineError, "workflow_failed", "no luck").with_status(500);
    assert_eq!(link.report(b.lease, ended_by(End::Failed { failure, abandoned: false })).await, Ok(()));
    assert_eq!(stage.ended("b").await.0, "failed");
    let failure = stage.service.result("b").await.unwrap().failure.unwrap();
    assert_eq!((failure.kind.as_str(), failure.code.as_str()), ("engine_error", "workflow_failed"));
    assert_eq!((failure.message.as_str(), failure.engine_status), ("no luck", Some(500)));

    // The wish to cancel comes as an order.
    stage.submit("c", json!({})).await;
    let c = run(link).await;
    stage.service.cancel("c").await.unwrap();
    assert_eq!(order(link).await, Some(Order::Cancel(c.lease)));
    assert_eq!(link.report(c.lease, ended_by(End::Cancelled { abandoned: false })).await, Ok(()));
    assert_eq!(stage.ended("c").await.0, "cancelled");
}

async fn old_leases(stage: &Stage, link: &dyn Link) {
    // What is handed back comes again, with a new fence, and the old lease is worth nothing.
    stage.submit("d", json!({})).await;
    let first = run(link).await;
    let back = ended_by(End::Interrupted { reason: Reason::Other("tired".to_owned()) });
    assert_eq!(link.report(first.lease, back).await, Ok(()));
    let again = run(link).await;
    assert_eq!((again.execution_id.as_str(), again.attempt), ("d", 2));
    assert!(again.lease.fence > first.lease.fence);
    assert_eq!(link.report(first.lease, succeeded("\"old\"")).await, Err(LinkError::Stale));
    let guessed = LeaseRef { fence: enginehouse_worker::Fence(again.lease.fence.0 + 1), ..again.lease };
    assert_eq!(link.report(guessed, succeeded("\"guessed\"")).await, Err(LinkError::Stale));
    assert_eq!(link.attach(guessed, "run-2", true).await, Err(LinkError::Stale));
    assert_eq!(link.report(again.lease, succeeded("\"new\"")).await, Ok(()));
    assert_eq!(stage.ended("d").await, ("completed".to_owned(), 2));
    assert_eq!(stage.service.result("d").await.unwrap().result.unwrap().get(), "\"new\"");
}

async fn facts_and_farewell(stage: &Stage, link: &dyn Link) {
    assert_eq!(link.recall("demo", "where").await, None);
    link.remember("demo", "where", "here").await;
    assert_eq!(link.recall("demo", "where").await.as_deref(), Some("here"));

    // A drained worker finishes what it has, and its link closes.
    stage.submit("e", json!({})).await;
    let e = run(link).await;
    let api = stage.service.service();
    api.drain_worker(&Caller::local(), "guest", &DrainRequest::default()).await.unwrap();
    assert_eq!(link.report(e.lease, succeeded("5")).await, Ok(()));
    assert_eq!(order(link).await, None);
    assert_eq!(api.worker("guest").await.unwrap_err().code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_own_end_keeps_the_contract() {
    let stage = Stage::set().await;
    let link = stage.service.service().own_link("guest", 2);
    contract(&stage, link).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_over_http_keeps_the_contract() {
    let stage = Stage::set().await;
    let link = Arc::new(stage.join(stage.server.local_addr()).await);
    contract(&stage, link.clone()).await;
    assert_eq!(link.over(), Some(Over::Dismissed));
    stage.end().await;
}

/// Stands between a worker and its node: serves one call per connection, and loses the answer of every third.
async fn lossy(to: SocketAddr, lost: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0_usize.. {
            let Ok((from, _)) = listener.accept().await else { return };
            let lost = lost.clone();
            tokio::spawn(async move {
                let Ok(behind) = TcpStream::connect(to).await else { return };
                let (mut from_read, mut from_write) = from.into_split();
                let (mut behind_read, mut behind_write) = behind.into_split();
                let forward = async { tokio::io::copy(&mut from_read, &mut behind_write).await };
                let back = async {
                    let mut answer = vec![0; 64 << 10];
                    let read = behind_read.read(&mut answer).await.unwrap_or(0);
                    if number % 3 == 2 {
                        lost.fetch_add(1, Ordering::SeqCst);
                    } else {
                        let _ = from_write.write_all(&answer[..read]).await;
                    }
                };
                // Both directions end with the answer, whether it arrived or not.
                tokio::select! {
                    _ = forward => {}
                    () = back => {}
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_double_nothing_and_lose_nothing() {
    let stage = Stage::set().await;
    let lost = Arc::new(AtomicUsize::new(0));
    let between = lossy(stage.server.local_addr(), lost.clone()).await;
    let link = Arc::new(stage.join(between).await);
    let engines: Engines = [("demo".to_owned(), Arc::new(Demo::new(1).unwrap()) as _)].into();
    let settings = WorkerSettings { cancel_grace: 1_000 };
    let worker = Worker::new(link.clone(), Arc::new(engines), settings);
    let work = async {
        for number in 0..40 {
            stage.submit(&format!("l-{number}"), json!({"parameters": {"progress": 1}})).await;
        }
        for number in 0..40 {
            assert_eq!(stage.ended(&format!("l-{number}")).await, ("completed".to_owned(), 1));
        }
        link.sign_off(None).await;
    };
    timeout(WITHIN, async { tokio::join!(worker.run(), work) }).await.expect("all ends in time");
    assert_eq!(link.over(), Some(Over::Dismissed));
    assert!(lost.load(Ordering::SeqCst) > 10, "hardly an answer was lost");
    stage.end().await;
}

/// A node that answers a registration and one pull, and then nothing.
async fn mute(let_go_after: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let registered = json!({
            "protocol": 1, "session": "1-a", "worker": "guest", "engineTypes": ["demo"], "leaseTtl": let_go_after * 2,
            "letGoAfter": let_go_after, "renewEvery": let_go_after / 3, "pullWaitMax": 1_000, "cancelGrace": 1_000,
        });
        let run = json!({
            "lease": {"executionId": "a", "fence": 1}, "attempt": 1, "idempotencyKey": "a.1", "engine": "demo",
            "workflowId": "w", "request": {}, "endpoint": 0, "maybeStarted": false, "limit": 60_000,
            "limitCode": "attempt_timeout",
        });
        let pulled = json!({"orders": [{"number": 1, "order": "run", "run": run}], "closed": false});
        for answer in [registered, pulled] {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 16 << 10];
            let _ = socket.read(&mut request).await;
            let text = answer.to_string();
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
            socket.write_all(format!("{head} {}\r\n\r\n{text}", text.len()).as_bytes()).await.unwrap();
        }
        while let Ok((socket, _)) = listener.accept().await {
            kept.push(socket);
        }
    });
    address
}

/// An engine's call that only says when it was let go.
struct Patient(tokio::sync::mpsc::Sender<&'static str>);

#[async_trait]
impl enginehouse::Engine for Patient {
    fn engine_type(&self) -> &str {
        "demo"
    }

    fn capabilities(&self) -> enginehouse::Capabilities {
        Demo::new(1).unwrap().capabilities()
    }

    fn validate(&self, _: &enginehouse::Workflow<'_>) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn run(&self, call: enginehouse::Call) -> enginehouse::Outcome {
        struct Tell(tokio::sync::mpsc::Sender<&'static str>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.try_send("let go");
            }
        }
        let _tell = Tell(self.0.clone());
        let _ = self.0.send("begun").await;
        call.stopped().await;
        let _ = self.0.send("stopped").await;
        enginehouse::Outcome::Cancelled
    }

    async fn cancel(&self, _: usize, _: &str) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn health(&self, _: usize) -> enginehouse::Health {
        enginehouse::Health { healthy: Some(true), detail: String::new(), latency: 0 }
    }
}

#[tokio::test]
async fn a_worker_lets_go_in_time_when_its_node_says_nothing() {
    let address = mute(600).await;
    let client = Client::new(ClientOptions::new(format!("http://{address}"))).unwrap();
    let link = Arc::new(HttpLink::join(client, &register()).await.unwrap());
    let (told, mut hears) = tokio::sync::mpsc::channel(8);
    let engines: Engines = [("demo".to_owned(), Arc::new(Patient(told)) as _)].into();
    let worker = Worker::new(link.clone(), Arc::new(engines), WorkerSettings { cancel_grace: 1_000 });
    timeout(WITHIN, worker.run()).await.expect("it ends in time");
    assert!(matches!(link.over(), Some(Over::Lost(_))), "{:?}", link.over());
    let mut said = Vec::new();
    while let Ok(word) = hears.try_recv() {
        said.push(word);
    }
    // It was not stopped in the engine: anyone who takes the work over may take up the run.
    assert_eq!(said, ["begun", "let go"]);
}
