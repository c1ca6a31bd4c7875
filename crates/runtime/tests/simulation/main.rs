//! The real service, committer, scheduler, workers and links on a simulated clock, with seeded faults.
//!
//! Each seed chooses a mix of work and of faults: nodes killed and restarted at any moment, commits whose answer is lost
//! before or after they were made, slow commits, failing reads, engines that lose answers, fail, hang or are down. A run
//! has two phases, chaos and quiet; after the quiet one everything must have ended. `SEEDS=n` and `SEED=n` steer it.

mod checker;
mod world;

use checker::{Verdict, judge};
use enginehouse_api::SubmitRequest;
use enginehouse_core::id::{Key, NodeId};
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, Service, Settings, WorkerSettings,
};
use enginehouse_store::{Durability, MemoryStore, Ref, SqliteOptions, SqliteStore, Store, Threads};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use world::{EngineWorld, Faults, Fired, SimClock, SimEngine, SimStore};

/// What one engine may run at once.
const ENGINE_LIMIT: u32 = 6;

struct Run {
    random: StdRng,
    seed: u64,
    store: Arc<dyn Store>,
    quiet: Arc<AtomicBool>,
    fired: Arc<Fired>,
    faults: Faults,
    world: Arc<EngineWorld>,
    lives: u64,
    nodes: u16,
    acknowledged: Vec<String>,
    at_most_once: BTreeSet<String>,
    key_file: std::path::PathBuf,
    kills: u64,
}

struct Life {
    node: Node,
    store: Arc<SimStore>,
}

impl Run {
    fn new(seed: u64, nodes: u16, directory: &Path) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rate = |most: u32| {
            if random.random_bool(0.5) { random.random_range(0..most) } else { 0 }
        };
        let faults = Faults {
            commit_lost_before: rate(60),
            commit_lost_after: rate(60),
            commit_slow: rate(30),
            read_fails: rate(60),
        };
        Run {
            random,
            seed,
            store: open_store(seed, directory),
            quiet: Arc::new(AtomicBool::new(false)),
            fired: Arc::new(Fired::default()),
            faults,
            world: Arc::new(EngineWorld::default()),
            lives: 0,
            nodes,
            acknowledged: Vec::new(),
            at_most_once: BTreeSet::new(),
            key_file: key_file(directory),
            kills: 0,
        }
    }

    fn engines(&self) -> Vec<RegisteredEngine> {
        [("attach", true), ("plain", false)]
            .into_iter()
            .map(|(name, reattach)| RegisteredEngine {
                settings: EngineSettings {
                    name: name.into(),
                    engine_type: "sim".into(),
                    default: reattach,
                    allow_inline: false,
                    max_concurrency: Some(ENGINE_LIMIT),
                    endpoints: vec![EndpointSettings { name: "sim".into(), weight: 1.0 }],
                    ..EngineSettings::default()
                },
                adapter: Arc::new(SimEngine { world: self.world.clone(), reattach }),
            })
            .collect()
    }

    /// Starts a node; a start that meets a store fault is tried again, as a supervisor would.
    async fn live(&mut self, node: u16) -> Life {
        loop {
            self.lives += 1;
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.lives);
            let shared = self.nodes > 1;
            let store = SimStore::new(
                self.store.clone(),
                shared,
                self.quiet.clone(),
                self.faults,
                self.fired.clone(),
                seed,
            );
            let settings = Settings {
                node: NodeId(node),
                workers: WorkerSettings { count: 2, capacity: 4 },
                seed: Some(seed),
                seal_key_file: Some(self.key_file.clone()),
                ..Settings::default()
            };
            match Node::start(settings, store.clone(), self.engines()).await {
                Ok(node) => return Life { node, store },
                Err(_) => {
                    store.dead.store(true, Ordering::SeqCst);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn request(&mut self, number: usize) -> SubmitRequest {
        let random = &mut self.random;
        let id = format!("x{number}");
        let at_most_once = random.random_bool(0.1);
        if at_most_once {
            self.at_most_once.insert(id.clone());
        }
        let mut body = json!({
            "id": id,
            "engine": if random.random_bool(0.7) { "attach" } else { "plain" },
            "workflowId": "w",
            "priority": random.random_range(1..=4),
            "parameters": {
                "ms": random.random_range(0..3_000),
                "failures": if random.random_bool(0.2) { random.random_range(1..6) } else { 0 },
                "kind": if random.random_bool(0.5) { "unavailable" } else { "engine_error" },
                "lost_answers": u32::from(random.random_bool(0.1)),
                "hangs": random.random_bool(0.03),
            },
            "timeout": "20s",
            "totalTimeout": "10m",
            "atMostOnce": at_most_once,
            "retry": { "on": ["engine_error"], "maxRetries": random.random_range(0..4) },
        });
        if random.random_bool(0.3) {
            body["userId"] = json!(format!("u{}", random.random_range(0..3)));
        }
        if random.random_bool(0.2) {
            body["concurrencyKey"] = json!(format!("k{}", random.random_range(0..3)));
        }
        if random.random_bool(0.1) {
            body["expiresIn"] = json!(random.random_range(1..5_000));
        }
        serde_json::from_value(body).expect("a valid request")
    }

    /// One client call, given up after a while: its node may be dead.
    async fn act(&mut self, service: &Service, number: &mut usize) {
        let caller = Caller::local();
        let choice = self.random.random_range(0..10);
        let some = (!self.acknowledged.is_empty()).then(|| {
            let at = self.random.random_range(0..self.acknowledged.len());
            self.acknowledged[at].clone()
        });
        let patience = Duration::from_secs(5);
        match (choice, some) {
            (0, Some(id)) => drop(timeout(patience, service.cancel(&caller, &id)).await),
            (1, Some(id)) => drop(timeout(patience, service.redrive(&caller, &id)).await),
            (2, Some(id)) => {
                let change = serde_json::from_value(json!({"priority": "CRITICAL"})).expect("valid");
                drop(timeout(patience, service.set_priority(&caller, &id, change)).await);
            }
            _ => {
                *number += 1;
                let request = self.request(*number);
                let id = request.id.clone().expect("named");
                if let Ok(Ok(_)) = timeout(patience, service.submit(&caller, request, None)).await {
                    self.acknowledged.push(id);
                }
            }
        }
    }

    async fn chaos(&mut self, lives: &mut Vec<Life>) {
        let mut number = 0;
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            let at = self.random.random_range(0..lives.len());
            let service = lives[at].node.service();
            self.act(&service, &mut number).await;
            self.audit(lives);
            if self.random.random_bool(0.03) {
                self.kills += 1;
                let life = lives.remove(at);
                life.store.dead.store(true, Ordering::SeqCst);
                drop(life);
                let pause = self.random.random_range(0..2_000);
                sleep(Duration::from_millis(pause)).await;
                let reborn = self.live(u16::try_from(at).expect("few")).await;
                lives.insert(at, reborn);
            }
            if self.random.random_bool(0.05) {
                let down = !self.world.down.load(Ordering::SeqCst);
                self.world.down.store(down, Ordering::SeqCst);
            }
            let pause = self.random.random_range(0..400);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    fn audit(&self, lives: &[Life]) {
        for life in lives {
            let findings = life.node.service().audit();
            assert_eq!(findings, Vec::<String>::new(), "seed {}", self.seed);
        }
    }

    /// Chaos, then quiet, then judgement.
    async fn go(mut self) -> (Verdict, Arc<Fired>, u64) {
        let mut lives = Vec::new();
        for node in 0..self.nodes {
            lives.push(self.live(node).await);
        }
        self.chaos(&mut lives).await;
        self.quiet.store(true, Ordering::SeqCst);
        self.world.down.store(false, Ordering::SeqCst);
        // Longer than any total timeout, so that liveness is a matter of the service alone.
        sleep(Duration::from_secs(12 * 60)).await;
        self.audit(&lives);
        let refs: Vec<Ref> =
            self.acknowledged.iter().map(|id| Ref::Id(id.clone().try_into().expect("a valid id"))).collect();
        let found = self.store.find(&refs).await.expect("the reference store answers");
        let lost = found.iter().filter(|row| row.is_none()).count();
        let keys: Vec<Key> = found.iter().flatten().map(|row| row.key()).collect();
        let mut verdict = judge(&*self.store, &keys, &self.at_most_once, &self.world).await;
        if lost > 0 {
            verdict.violations.push(format!("I1 {lost} acknowledged ids are not stored"));
        }
        let leaders = self.world.followed.load(Ordering::SeqCst);
        if leaders != 0 {
            verdict.violations.push(format!("{leaders} calls are still followed though everything ended"));
        }
        for life in lives {
            life.node.stop().await;
        }
        (verdict, self.fired, self.kills)
    }
}

/// The same key in every run: the order of hashed concurrency keys depends on it.
fn key_file(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("key");
    std::fs::write(&path, format!("enginehouse-seal-key-v1 {}\n", "5a".repeat(32)))
        .expect("a fresh directory");
    path
}

/// The reference in memory; for one seed in twenty the embedded store itself, with its writer on the calling thread.
fn open_store(seed: u64, directory: &Path) -> Arc<dyn Store> {
    if !seed.is_multiple_of(20) {
        return Arc::new(MemoryStore::new(SimClock::new()));
    }
    let mut options = SqliteOptions::new(directory.join("data"));
    options.clock = SimClock::new();
    options.threads = Threads::Inline;
    // The disk is not what is simulated here: kills come between awaits, never inside a commit.
    options.durability = Durability::Relaxed;
    Arc::new(SqliteStore::open(options).expect("a fresh directory"))
}

fn simulate(seed: u64) -> (Verdict, Arc<Fired>, u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let nodes = 1 + u16::try_from(seed % 3).expect("small") / 2;
    runtime.block_on(async { Run::new(seed, nodes, directory.path()).go().await })
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SEEDS").unwrap_or(30)).collect(),
    }
}

#[test]
fn every_seed_keeps_every_invariant() {
    let (mut kills, mut faults, mut events) = (0, [0; 4], 0);
    for seed in seeds() {
        let (verdict, fired, killed) = simulate(seed);
        if std::env::var("SEED").is_ok() {
            println!("{}", verdict.trace.join("\n"));
        }
        assert_eq!(verdict.violations, Vec::<String>::new(), "replay with SEED={seed}");
        kills += killed;
        events += verdict.trace.len();
        for (sum, count) in
            faults.iter_mut().zip([&fired.lost_before, &fired.lost_after, &fired.slow, &fired.reads])
        {
            *sum += count.load(Ordering::SeqCst);
        }
    }
    println!(
        "seeds {} events {events} kills {kills} commits lost before {} after {} slow {} reads failed {}",
        seeds().len(),
        faults[0],
        faults[1],
        faults[2],
        faults[3]
    );
    if seeds().len() >= 20 {
        assert!(kills > 0 && faults.iter().all(|n| *n > 0), "a fault that never fires proves nothing");
    }
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in [3, 5, 20] {
        let (first, second) = (simulate(seed).0.trace, simulate(seed).0.trace);
        assert!(!first.is_empty());
        for (at, (a, b)) in first.iter().zip(&second).enumerate() {
            assert_eq!(a, b, "seed {seed}, line {at}");
        }
        assert_eq!(first.len(), second.len());
    }
}

/// After a failed sync nobody in this process knows what the disk holds, so the node says that it cannot go on.
#[test]
fn a_store_that_cannot_go_on_fails_its_node() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut run = Run::new(1, 1, directory.path());
        run.quiet.store(true, Ordering::SeqCst);
        let life = run.live(0).await;
        let failed = timeout(Duration::from_secs(60), life.node.failed()).await;
        assert!(failed.is_err(), "it goes on while all is well");
        life.store.broken.store(true, Ordering::SeqCst);
        let request = run.request(1);
        let answer = life.node.service().submit(&Caller::local(), request, None).await;
        assert_eq!(answer.map(|_| ()).expect_err("not stored").code.as_str(), "store_unavailable");
        let why = timeout(Duration::from_secs(60), life.node.failed()).await.expect("it says so");
        assert!(why.contains("cannot go on"), "{why}");
    });
}
