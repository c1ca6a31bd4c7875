//! Dedicated pools in the running service: who is there, who takes what, and what those who wait are told.

use enginehouse_api::{ExecutionView, WorkerView};
use enginehouse_core::autoscaler::ScalingRules;
use enginehouse_core::pools::PoolRules;
use enginehouse_engine::Demo;
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, ScalingSettings, Service, Settings,
};
use enginehouse_store::clock::SystemClock;
use enginehouse_store::{MemoryStore, Store};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(240);

/// An engine that runs inside the service, under the name of its type.
fn engine(engine_type: &str) -> RegisteredEngine {
    let settings = EngineSettings {
        name: engine_type.to_owned(),
        engine_type: engine_type.to_owned(),
        endpoints: vec![EndpointSettings { name: "one".to_owned(), weight: 1.0 }],
        adaptive: false,
        ..EngineSettings::default()
    };
    RegisteredEngine { settings, adapter: Arc::new(Demo::new(1).expect("one endpoint")) }
}

async fn start(min_workers: u32, max_workers: u32, pool: PoolRules) -> Node {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let rules = ScalingRules { min_workers, max_workers, worker_capacity: 2, ..ScalingRules::default() };
    let settings = Settings {
        scaling: ScalingSettings { rules, ..ScalingSettings::default() },
        pools: vec![pool],
        stop_grace: 0,
        seed: Some(5),
        ..Settings::default()
    };
    Node::start(settings, store, vec![engine("langflow"), engine("http")]).await.expect("it starts")
}

fn flows(min: u32, max: u32) -> PoolRules {
    PoolRules { name: "flows".to_owned(), engine_types: vec!["langflow".to_owned()], min, max }
}

/// Executions that take longer than the test.
async fn submit(service: &Service, engine: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let request = json!({"engine": engine, "workflowId": "w", "parameters": {"sleepMs": 3_600_000}});
        let request = serde_json::from_value(request).expect("it is a request");
        let submitted = service.submit(&Caller::local(), request, None).await.expect("it is accepted");
        ids.push(submitted.execution.id);
    }
    ids
}

async fn get(service: &Service, id: &str) -> ExecutionView {
    service.get(&Caller::local(), id).await.expect("it is known")
}

/// The workers that run these, once all of them run.
async fn places(service: &Service, ids: &[String]) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut places = Vec::new();
    for id in ids {
        loop {
            let view = get(service, id).await;
            if view.status.as_str() == "running" {
                places.extend(view.worker);
                break;
            }
            assert!(Instant::now() < deadline, "{id} does not start: {:?}", view.wait);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    places
}

async fn workers(service: &Service, what: &str, fits: impl Fn(&[WorkerView]) -> bool) -> Vec<WorkerView> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let workers = service.workers().await.expect("they are known").workers;
        if fits(&workers) {
            return workers;
        }
        let seen: Vec<String> =
            workers.iter().map(|w| format!("{} {} {:?}", w.id, w.status, w.engine_types)).collect();
        assert!(Instant::now() < deadline, "{what}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn of_flows(workers: &[WorkerView]) -> usize {
    workers.iter().filter(|w| w.engine_types == ["langflow"] && w.id.contains("-flows-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_keeps_its_minimum_takes_only_its_own_and_the_rest_is_shared() {
    let node = start(2, 5, flows(1, 2)).await;
    let service = node.service();
    workers(&service, "one of each", |w| w.len() == 2 && of_flows(w) == 1).await;
    // Other work never runs on the pool's worker, and its being idle does not keep the others from coming.
    let others = submit(&service, "http", 6).await;
    for place in places(&service, &others).await {
        assert!(!place.contains("-flows-"), "{place} serves langflow only");
    }
    let view = workers(&service, "three shared", |w| w.len() - of_flows(w) == 3).await;
    assert_eq!(of_flows(&view), 1, "the minimum stays");
    // Its own work goes to the pool, which grows to its maximum, within the maximum of all.
    let own = submit(&service, "langflow", 4).await;
    let own_places = places(&service, &own).await;
    let in_pool = own_places.iter().filter(|place| place.contains("-flows-")).count();
    assert!(in_pool >= 2, "{own_places:?}");
    let decision = service.scaling().decision.expect("it was decided");
    assert!(decision.target_worker_count <= 5, "{}", decision.target_worker_count);
    assert_eq!(service.audit(), Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_worker_that_cannot_come_is_told_so() {
    // All workers that may exist are the pool's.
    let node = start(1, 1, flows(1, 1)).await;
    let service = node.service();
    workers(&service, "the pool's worker", |w| w.len() == 1 && of_flows(w) == 1).await;
    let other = submit(&service, "http", 1).await;
    let own = submit(&service, "langflow", 3).await;
    places(&service, &own[..2]).await;
    let reason = |view: ExecutionView| view.wait.map(|wait| (wait.reason, wait.text));
    let (told, text) = reason(get(&service, &other[0]).await).expect("it waits");
    assert_eq!(told, "no_capable_worker", "{text}");
    let (told, text) = reason(get(&service, &own[2]).await).expect("it waits");
    assert_eq!(told, "behind", "{text}");
    node.stop().await;
}
