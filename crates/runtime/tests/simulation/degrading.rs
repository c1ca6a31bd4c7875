//! An engine that gets slower with every call at once, then answers 503: what the service completes there with each fixed
//! limit, with the adaptive one, and with none. `FULL=1` sweeps more limits over more engines (`cargo xtask bench limiter`).

use crate::run::on_paused_time;
use crate::store::SimClock;
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_api::BatchRequest;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::lab::EngineShape;
use enginehouse_engine::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Workflow};
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, ScalingSettings, Service, Settings,
};
use enginehouse_store::{DocKind, MemoryStore, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Slots of all workers: more than any of the engines can bear.
const SLOTS: u32 = 200;
/// The median run of an engine with nothing else to do, in seconds, and the spread of the logarithm around it.
const RUN_S: f64 = 1.0;
const RUN_SIGMA: f64 = 0.4;
/// At most this long between two looks at how fast the engine is now.
const LOOK: Duration = Duration::from_millis(250);

/// How an engine behaves under load.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    speed: Speed,
    /// Calls at once beyond which it answers 503.
    refuses_above: usize,
}

#[derive(Debug, Clone, Copy)]
enum Speed {
    /// Full up to a knee, and less in all beyond it, or just no more.
    Knee(EngineShape),
    /// Each call at once makes every other one slower: 1 / (1 + (calls / half)^2).
    Gradual { half: f64 },
}

impl Speed {
    fn of(self, calls: usize) -> f64 {
        match self {
            Speed::Knee(shape) => shape.speed_of(calls),
            Speed::Gradual { half } => 1.0 / (1.0 + (calls as f64 / half).powi(2)),
        }
    }
}

const THRASHES: Shape = Shape {
    name: "beyond 16 calls the whole engine gets slower",
    speed: Speed::Knee(EngineShape { knee: 16.0, gamma: 0.5, speed: 1.0 }),
    refuses_above: 96,
};
const SHAPES: [Shape; 3] = [
    THRASHES,
    Shape {
        name: "beyond 16 calls it does no more than before",
        speed: Speed::Knee(EngineShape { knee: 16.0, gamma: 0.0, speed: 1.0 }),
        refuses_above: 48,
    },
    Shape {
        name: "slower with each call from the first one on",
        speed: Speed::Gradual { half: 24.0 },
        refuses_above: 96,
    },
];

/// What is asked of it: from a fraction of what it can do to a multiple, growing, and then so much for a while.
#[derive(Debug, Clone, Copy)]
struct Load {
    grows_s: u64,
    stays_s: u64,
    /// Submits per second at the beginning and in the end.
    from: f64,
    to: f64,
}

impl Load {
    fn per_second(self, second: u64) -> f64 {
        let part = (second as f64 / self.grows_s as f64).min(1.0);
        self.from + part * (self.to - self.from)
    }
}

struct Inside {
    random: StdRng,
    calls: usize,
    /// Seconds of undisturbed work that each call has received since the beginning.
    work: f64,
    last: Instant,
    refused: u64,
}

struct Degrading {
    shape: Shape,
    inside: Mutex<Inside>,
}

/// One call inside the engine, which makes room when it ends in whatever way.
struct Room<'a>(&'a Degrading);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.inside().calls -= 1;
    }
}

impl Degrading {
    fn new(shape: Shape) -> Arc<Degrading> {
        let random = StdRng::seed_from_u64(7);
        let inside = Inside { random, calls: 0, work: 0.0, last: Instant::now(), refused: 0 };
        Arc::new(Degrading { shape, inside: Mutex::new(inside) })
    }

    /// The state as of now.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside.lock().expect("no panics");
        let now = Instant::now();
        inside.work += self.shape.speed.of(inside.calls) * (now - inside.last).as_secs_f64();
        inside.last = now;
        inside
    }

    /// Takes a call in; gives where the clock of work will stand when it ends.
    fn enter(&self) -> Option<(f64, Room<'_>)> {
        let mut inside = self.inside();
        if inside.calls >= self.shape.refuses_above {
            inside.refused += 1;
            return None;
        }
        let normal = (0..12).map(|_| inside.random.random::<f64>()).sum::<f64>() - 6.0;
        let end = inside.work + RUN_S * (RUN_SIGMA * normal).exp();
        inside.calls += 1;
        Some((end, Room(self)))
    }

    async fn work_until(&self, end: f64) {
        loop {
            let (left, speed) = {
                let inside = self.inside();
                (end - inside.work, self.shape.speed.of(inside.calls))
            };
            if left <= 1e-6 {
                return;
            }
            sleep(Duration::from_secs_f64(left / speed).clamp(Duration::from_millis(1), LOOK)).await;
        }
    }
}

struct Adapter(Arc<Degrading>);

#[async_trait]
impl Engine for Adapter {
    fn engine_type(&self) -> &str {
        "sim"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: true,
            reattach: false,
            idempotent_submit: false,
            inline: false,
            progress: false,
        }
    }

    fn validate(&self, _workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn run(&self, call: Call) -> Outcome {
        sleep(Duration::from_millis(2)).await;
        let Some((end, _room)) = self.0.enter() else {
            let busy = EngineFailure::new(FailureKind::Unavailable, "engine_unavailable", "too many calls");
            return Outcome::Failed(busy.with_status(503));
        };
        tokio::select! {
            biased;
            () = self.0.work_until(end) => {
                Outcome::Succeeded { result: Bytes::from_static(b"1"), needs_input: false }
            }
            _ = call.stopped() => Outcome::Cancelled,
        }
    }

    async fn cancel(&self, _endpoint: usize, _engine_run: &str) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn health(&self, _endpoint: usize) -> Health {
        Health { healthy: Some(true), detail: "simulated".into(), latency: 0 }
    }
}

/// What bounds the calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Fixed(u32),
    Adaptive,
    None,
}

/// What came of it, counted from when more was asked than the engine can do.
#[derive(Debug, Clone, Copy)]
struct Came {
    completed_per_s: f64,
    failed: u64,
    refused: u64,
}

async fn submit(service: &Service, serial: &mut u64, count: u64) {
    let one = |n| json!({"id": format!("d{n}"), "engine": "sim", "workflowId": "w", "timeout": "30s"});
    let executions: Vec<_> = (*serial..*serial + count).map(one).collect();
    *serial += count;
    if !executions.is_empty() {
        let batch: BatchRequest = serde_json::from_value(json!({"executions": executions})).expect("valid");
        service.submit_batch(&Caller::local(), batch).await.expect("accepted");
    }
}

fn measure(shape: Shape, load: Load, bound: Bound) -> Came {
    on_paused_time(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(SimClock::new()));
        let world = Degrading::new(shape);
        let engine = RegisteredEngine {
            settings: EngineSettings {
                name: "sim".into(),
                engine_type: "sim".into(),
                default: true,
                endpoints: vec![EndpointSettings { name: "sim".into(), weight: 1.0 }],
                max_concurrency: if let Bound::Fixed(limit) = bound { Some(limit) } else { None },
                adaptive: bound == Bound::Adaptive,
                ..EngineSettings::default()
            },
            adapter: Arc::new(Adapter(world.clone())),
        };
        let scaling = ScalingSettings::fixed(SLOTS / 20, 20);
        let settings = Settings { scaling, seed: Some(1), ..Settings::default() };
        let node = Node::start(settings, store.clone(), vec![engine]).await.expect("it starts");
        let service = node.service();
        let (mut serial, mut due, mut before) = (0, 0.0, None);
        let can = best_possible(shape);
        for second in 0..load.grows_s + load.stays_s {
            if before.is_none() && load.per_second(second) > can {
                let totals = store.totals().await.expect("it answers");
                before = Some((second, totals, world.inside().refused));
            }
            due += load.per_second(second);
            let count = due as u64;
            due -= count as f64;
            submit(&service, &mut serial, count).await;
            sleep(Duration::from_secs(1)).await;
            if std::env::var_os("TRACE").is_some() && second.is_multiple_of(10) {
                trace(second, &*store, &world).await;
            }
        }
        let (since, before, refused) = before.expect("more was asked than it can do");
        let after = store.totals().await.expect("it answers");
        let seconds = (load.grows_s + load.stays_s - since) as f64;
        let came = Came {
            completed_per_s: (after.completed - before.completed) as f64 / seconds,
            failed: after.failed - before.failed,
            refused: world.inside().refused - refused,
        };
        node.stop().await;
        came
    })
}

/// One line about the engine's gate as it was stored last.
async fn trace(second: u64, store: &dyn Store, world: &Degrading) {
    let (calls, refused) = {
        let inside = world.inside();
        (inside.calls, inside.refused)
    };
    let docs = store.docs(DocKind::Gate).await.expect("it answers");
    let gate = docs.first().map(|doc| &doc.body["endpoints"]["sim"]).cloned().unwrap_or_default();
    let limiter = &gate["limiter"];
    println!(
        "{second:>4} s: {calls} calls, {refused} refused, {} limit {} speed {} wall {} breaker {}",
        limiter["mode"], limiter["limit"], limiter["speed"], limiter["wall"], gate["breaker"]["state"]
    );
}

/// Runs per second that the engine can do at its best, by its own figures.
fn best_possible(shape: Shape) -> f64 {
    let mean = RUN_S * (RUN_SIGMA * RUN_SIGMA / 2.0).exp();
    let all = 1..=shape.refuses_above;
    all.map(|calls| calls as f64 * shape.speed.of(calls) / mean).fold(0.0, f64::max)
}

fn line(what: &str, came: Came, best: f64) {
    let share = 100.0 * came.completed_per_s / best;
    println!(
        "{what:<20} {:>12.2} {share:>9.0} % {:>10} {:>10}",
        came.completed_per_s, came.failed, came.refused
    );
}

/// Prints one engine's table; gives the share of the best fixed limit with the adaptive one, and without any.
fn table(shape: Shape, load: Load, limits: &[u32]) -> (f64, f64) {
    println!("\n{}, and 503 beyond {}", shape.name, shape.refuses_above);
    println!("{:<20} {:>12} {:>11} {:>10} {:>10}", "limit", "completed/s", "of the best", "failed", "503s");
    let fixed: Vec<(u32, Came)> =
        limits.iter().map(|limit| (*limit, measure(shape, load, Bound::Fixed(*limit)))).collect();
    let best = fixed.iter().map(|(_, came)| came.completed_per_s).fold(0.0, f64::max);
    fixed.iter().for_each(|(limit, came)| line(&format!("fixed at {limit}"), *came, best));
    let (adaptive, none) = (measure(shape, load, Bound::Adaptive), measure(shape, load, Bound::None));
    line("adaptive", adaptive, best);
    line("none", none, best);
    (adaptive.completed_per_s / best, none.completed_per_s / best)
}

#[test]
fn the_adaptive_limit_keeps_what_the_best_fixed_one_does() {
    let full = std::env::var_os("FULL").is_some();
    let (shapes, limits, load): (&[Shape], &[u32], Load) = if full {
        let load = Load { grows_s: 300, stays_s: 600, from: 3.0, to: 30.0 };
        (&SHAPES, &[4, 8, 12, 16, 20, 24, 32, 48, 64, 96], load)
    } else {
        (&[THRASHES], &[12, 16, 24], Load { grows_s: 120, stays_s: 180, from: 3.0, to: 30.0 })
    };
    println!(
        "asked: {} to {} runs per second within {} s, then {} s of that; {SLOTS} slots; runs of {RUN_S} s",
        load.from, load.to, load.grows_s, load.stays_s
    );
    for shape in shapes {
        let (adaptive, none) = table(*shape, load, limits);
        // In the short run the time in which the limit settles weighs a third.
        let least = if full { 0.9 } else { 0.8 };
        assert!(adaptive >= least, "{}: {adaptive:.2} of the best", shape.name);
        assert!(none < adaptive - 0.1, "{}: it does not collapse: {none:.2} of the best", shape.name);
    }
}
