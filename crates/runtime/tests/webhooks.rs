//! A receiver whose name leads to an address that may not be asked: paused, not a heap of dead letters.

use enginehouse_api::WebhookReceiverView;
use enginehouse_engine::Demo;
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, Service, Settings, WebhookEndpoint,
    WebhookPolicy, WebhookSecrets, WebhookSettings,
};
use enginehouse_store::MemoryStore;
use enginehouse_store::clock::SystemClock;
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);
const ENDS: u64 = 30;

/// Answers every request with 204.
async fn takes_all() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut chunk) = (Vec::new(), [0; 4_096]);
                while !read.ends_with(b"}") {
                    match stream.read(&mut chunk).await {
                        Ok(count @ 1..) => read.extend_from_slice(&chunk[..count]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            });
        }
    });
    port
}

fn endpoint(name: &str, url: String, allow_private: bool) -> WebhookEndpoint {
    let secret = SecretString::from("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    let secrets = WebhookSecrets::new(&[secret]).expect("it is one");
    WebhookEndpoint {
        name: name.to_owned(),
        url,
        events: Vec::new(),
        engines: Vec::new(),
        headers: Vec::new(),
        policy: WebhookPolicy { secrets, allow_private, timeout: 5_000 },
    }
}

async fn node(store: &MemoryStore, port: u16, allow_private: bool) -> Node {
    let endpoints = vec![
        endpoint("by-name", format!("http://localhost:{port}/x"), allow_private),
        endpoint("good", format!("http://127.0.0.1:{port}/x"), true),
    ];
    let settings = Settings {
        webhooks: WebhookSettings { endpoints, callbacks: None },
        collection_interval: 100,
        ..Settings::default()
    };
    let engine = EngineSettings {
        name: "demo".to_owned(),
        engine_type: "demo".to_owned(),
        endpoints: vec![EndpointSettings { name: "demo".to_owned(), weight: 1.0 }],
        ..EngineSettings::default()
    };
    let engine = RegisteredEngine { settings: engine, adapter: Arc::new(Demo::default()) };
    Node::start(settings, Arc::new(store.clone()), vec![engine]).await.expect("it starts")
}

async fn receiver(service: &Service, name: &str) -> WebhookReceiverView {
    let known = service.webhook_receivers().await.expect("they are known").receivers;
    known.into_iter().find(|receiver| receiver.name == name).expect("it is configured")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_at_a_refused_address_is_paused_and_goes_on_when_it_is_allowed() {
    let port = takes_all().await;
    let store = MemoryStore::new(Arc::new(SystemClock::new()));
    let first = node(&store, port, false).await;
    let service = first.service();
    let caller = Caller::local();
    for n in 0..ENDS {
        let request = json!({"id": format!("e{n}"), "engine": "demo", "workflowId": "w"});
        let request = serde_json::from_value(request).expect("it is a request");
        service.submit(&caller, request, None).await.expect("it is accepted");
    }
    until("the other receiver is told all", async || receiver(&service, "good").await.delivered == ENDS)
        .await;
    until("all wait", async || receiver(&service, "by-name").await.waiting == ENDS).await;
    let paused = receiver(&service, "by-name").await;
    assert!(paused.paused_since.is_some() && paused.dead == 0 && paused.delivered == 0, "{paused:?}");
    assert!(paused.paused_because.is_some_and(|why| why.contains("allow_private")));
    let waiting = service.webhook_deliveries(Some(false)).await.expect("they are known");
    assert!(waiting.deliveries.iter().all(|delivery| delivery.attempts == 0), "{waiting:?}");
    let tried = waiting.deliveries.iter().filter(|delivery| delivery.last.is_some()).count();
    assert!(tried <= 8, "those that were under way when it was paused, not {tried}");
    until("an alert", async || {
        let fires = |alert: &enginehouse_api::AlertView| alert.alert == "webhook_paused";
        service.alerts().alerts.iter().any(|alert| fires(alert) && alert.subject == "by-name")
    })
    .await;
    let tested = service.test_webhook("by-name").await.expect("it is configured");
    assert!(!tested.delivered && tested.text.contains("no public address"), "{tested:?}");
    first.stop().await;

    let second = node(&store, port, true).await;
    let service = second.service();
    until("it is told all", async || receiver(&service, "by-name").await.delivered == ENDS).await;
    let ready = receiver(&service, "by-name").await;
    assert!(ready.paused_since.is_none() && ready.waiting == 0 && ready.passed_over == 0, "{ready:?}");
    assert_eq!(receiver(&service, "good").await.delivered, ENDS, "nothing is told twice");
    second.stop().await;
}
