//! One user submits ten thousand executions, then another submits ten: what the second one waits, in numbers.

use crate::engine::{EngineWorld, SimEngine};
use crate::faults::Faults;
use crate::run::on_paused_time;
use crate::store::SimClock;
use enginehouse_api::BatchRequest;
use enginehouse_core::execution::Execution;
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, ScalingSettings, Service, Settings,
};
use enginehouse_store::{Filter, ListQuery, MemoryStore, Store};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const MANY: usize = 10_000;
const FEW: usize = 10;
const SLOTS: u32 = 20;
/// What each execution takes.
const RUN_MS: u64 = 1_000;

async fn submit(service: &Service, user: &str, name: &str, count: usize) {
    for from in (0..count).step_by(1_000) {
        let one = |n: usize| {
            json!({"id": format!("{name}{n}"), "engine": "sim", "workflowId": "w", "userId": user,
                "parameters": {"ms": RUN_MS}})
        };
        let executions: Vec<_> = (from..count.min(from + 1_000)).map(one).collect();
        let batch: BatchRequest = serde_json::from_value(json!({"executions": executions})).expect("valid");
        service.submit_batch(&Caller::local(), batch).await.expect("accepted");
    }
}

/// Waits of the few in milliseconds, and how long all took, in seconds.
fn waits(first: &'static str, second: &'static str) -> (Vec<u64>, u64) {
    on_paused_time(async {
        let clock = SimClock::new();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock));
        let world = Arc::new(EngineWorld::new(1, Faults::default(), Arc::default(), Arc::default()));
        let engine = RegisteredEngine {
            settings: EngineSettings {
                name: "sim".into(),
                engine_type: "sim".into(),
                default: true,
                endpoints: vec![EndpointSettings { name: "sim".into(), weight: 1.0 }],
                adaptive: false,
                ..EngineSettings::default()
            },
            adapter: Arc::new(SimEngine { world, name: "attach", reattach: false }),
        };
        let scaling = ScalingSettings::fixed(2, SLOTS / 2);
        let settings = Settings { scaling, seed: Some(1), ..Settings::default() };
        let node = Node::start(settings, store.clone(), vec![engine]).await.expect("it starts");
        let service = node.service();
        submit(&service, first, "many", MANY).await;
        submit(&service, second, "few", FEW).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3_600);
        while store.totals().await.expect("it answers").completed < (MANY + FEW) as u64 {
            assert!(tokio::time::Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let query = ListQuery { filter: Filter::default(), after: None, limit: FEW };
        let few = store.list(&query).await.expect("it answers");
        let wait = |row: &Execution| row.state.started_at.expect("it ran").since(row.fixed.created_at);
        let mut waits: Vec<u64> = few.iter().map(wait).collect();
        waits.sort_unstable();
        let ended = few.iter().filter_map(|row| row.state.ended_at).max().expect("ended");
        let took = ended.since(few[0].fixed.created_at) / 1_000;
        node.stop().await;
        (waits, took)
    })
}

#[test]
fn ten_behind_ten_thousand_wait_for_their_share_only() {
    let (fair, fair_took) = waits("a", "b");
    let (plain, plain_took) = waits("a", "a");
    println!("{MANY} of one user, then {FEW} of another; {SLOTS} slots, {RUN_MS} ms each");
    println!("{:<24} {:>12} {:>12} {:>12}", "order", "p50 wait", "most", "all ended");
    for (order, waits, took) in
        [("shared between users", &fair, fair_took), ("first in, first out", &plain, plain_took)]
    {
        println!("{order:<24} {:>9} ms {:>9} ms {took:>10} s", waits[FEW / 2], waits[FEW - 1]);
    }
    // Half of the slots are the second user's until its ten are done: they start within the runs that were under way.
    assert!(fair[FEW - 1] <= 2 * RUN_MS + 500, "{fair:?}");
    assert!(plain[0] > 100 * RUN_MS, "{plain:?}");
}
