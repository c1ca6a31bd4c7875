//! The core path and nothing else: submit, grant, run, complete, and the caller who waits for it, this many times, on one thread and in
//! virtual time. `cargo xtask bench instructions` counts what it executes.

#![allow(clippy::print_stdout, reason = "what was done is printed for anyone who looks")]

use enginehouse_api::SubmitRequest;
use enginehouse_core::time::Time;
use enginehouse_engine::Demo;
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, ScalingSettings, Service, Settings,
};
use enginehouse_store::{Clock, Durability, MemoryStore, SqliteOptions, SqliteStore, Store, Threads};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const USAGE: &str = "core_path memory|sqlite EXECUTIONS";
const CALLERS: u32 = 64;
const PAYLOAD_BYTES: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(600);
/// What the clock shows at the start, in milliseconds since 1970.
const BEGUN: i64 = 1_767_225_600_000;

/// The runtime's own time, which moves only while there is nothing to do.
struct VirtualClock {
    start: Instant,
    least: AtomicI64,
}

impl Clock for VirtualClock {
    fn now(&self) -> Time {
        let passed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Time((BEGUN + passed).max(self.least.load(Ordering::Relaxed)))
    }

    fn raise_to(&self, least: Time) {
        self.least.fetch_max(least.0, Ordering::Relaxed);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, count] = &args[..] else { return Err(USAGE.into()) };
    let count: u32 = count.parse().map_err(|_| USAGE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let dir = tempfile::tempdir()?;
    runtime.block_on(async {
        let clock = Arc::new(VirtualClock { start: Instant::now(), least: AtomicI64::new(0) });
        let store: Arc<dyn Store> = match store.as_str() {
            "memory" => Arc::new(MemoryStore::new(clock)),
            "sqlite" => {
                let mut options = SqliteOptions::new(dir.path().join("data"));
                (options.clock, options.durability) = (clock, Durability::Relaxed);
                options.threads = Threads::Inline;
                Arc::new(SqliteStore::open(options)?)
            }
            _ => return Err(USAGE.into()),
        };
        let settings =
            Settings { scaling: ScalingSettings::fixed(4, 16), seed: Some(1), ..Settings::default() };
        let node = Node::start(settings, store, vec![engine()]).await?;
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let share = count / CALLERS + u32::from(caller < count % CALLERS);
            callers.spawn(call(node.service(), share));
        }
        while let Some(called) = callers.join_next().await {
            called??;
        }
        println!("{count} executions were submitted and completed");
        node.stop().await;
        Ok(())
    })
}

fn engine() -> RegisteredEngine {
    let settings = EngineSettings {
        name: "demo".to_owned(),
        engine_type: "demo".to_owned(),
        default: true,
        endpoints: vec![EndpointSettings { name: "demo".to_owned(), weight: 1.0 }],
        ..EngineSettings::default()
    };
    RegisteredEngine { settings, adapter: Arc::new(Demo::default()) }
}

/// One caller in a closed loop.
async fn call(service: Service, count: u32) -> Result<(), String> {
    let caller = Caller::local();
    let text = format!(
        r#"{{"engineType":"demo","workflowId":"w","parameters":{{"echo":"{}"}}}}"#,
        "x7Kq".repeat(PAYLOAD_BYTES / 4)
    );
    for _ in 0..count {
        let request: SubmitRequest = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let submitted = service.submit_awaited(&caller, request, None).await;
        let (_, awaited) = submitted.map_err(|error| error.detail)?;
        let view = service.wait_on(&caller, awaited, PATIENCE).await.map_err(|error| error.detail)?;
        if view.result.is_none() {
            return Err(format!("{} is {} and has no result", view.id, view.status));
        }
    }
    Ok(())
}
