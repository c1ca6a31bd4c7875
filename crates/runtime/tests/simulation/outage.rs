//! The whole store is away for a while: what runs goes on, and nothing is run again that can be taken up.

use crate::run::{Kind, Run, on_paused_time};
use enginehouse_api::SubmitRequest;
use enginehouse_runtime::Caller;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const COUNT: usize = 12;

/// What came of one outage: for each execution its attempts, and the runs that the engine has of it.
async fn outage(seed: u64, engine: &str, span: Duration) -> Vec<(u64, usize)> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut run = Run::new(seed, Kind::First, directory.path());
    run.quiet.store(true, Ordering::SeqCst);
    let life = run.live(0).await;
    let service = life.node.service();
    for n in 0..COUNT {
        // The engine has room for some of them at once; the others start when those have ended.
        let request: SubmitRequest = serde_json::from_value(json!({"id": format!("o{n}"), "engine": engine,
            "workflowId": "w", "parameters": {"ms": 20_000}}))
        .expect("valid");
        service.submit(&Caller::local(), request, None).await.expect("accepted");
    }
    sleep(Duration::from_secs(9)).await;
    run.outage.begin(span);
    sleep(span).await;
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut came = Vec::new();
    for n in 0..COUNT {
        let id = format!("o{n}");
        let view = loop {
            let view = service.get(&Caller::local(), &id).await.expect("it is there");
            if view.status.as_str() == "completed" {
                break view;
            }
            assert!(Instant::now() < deadline, "{id} is {}", view.status);
            sleep(Duration::from_millis(500)).await;
        };
        came.push((u64::from(view.attempt), run.world.runs_of(&id)));
    }
    life.node.stop().await;
    came
}

#[test]
fn an_outage_of_the_store_runs_nothing_twice_that_can_be_taken_up() {
    // Seeds of one node with a store of its own, and of several with a shared one.
    let (own, shared) = (3, 4);
    let once = vec![(1, 1); COUNT];
    let rows = [
        // store, engine, seconds away, whether it may interrupt anything
        (own, "attach", 12, false),
        (own, "plain", 12, false),
        (own, "plain", 120, false),
        (shared, "attach", 12, false),
        (shared, "plain", 12, false),
        (shared, "attach", 120, true),
    ];
    for (seed, engine, seconds, may_interrupt) in rows {
        let came = on_paused_time(outage(seed, engine, Duration::from_secs(seconds)));
        let attempts: u64 = came.iter().map(|(attempts, _)| attempts).sum();
        let runs: usize = came.iter().map(|(_, runs)| runs).sum();
        println!(
            "store {seed}, {engine}, away {seconds} s: {COUNT} executions, {attempts} attempts, {runs} runs"
        );
        assert_eq!(runs, COUNT, "{came:?}");
        assert!(may_interrupt || came == once, "{came:?}");
    }
}
