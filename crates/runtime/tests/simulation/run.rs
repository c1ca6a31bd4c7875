//! One simulated run: nodes, clients and faults in a chaotic phase, then quiet, then judgement.

use crate::callers::Callers;
use crate::checker::{Checked, Outside, judge};
use crate::engine::{EngineWorld, SimEngine};
use crate::fate::{Fate, NODE, RENEWAL, WORKERS};
use crate::faults::{Faults, Fired};
use crate::store::{Outage, Reference, SimClock, SimStore};
use enginehouse_api::SubmitRequest;
use enginehouse_core::autoscaler::ScalingRules;
use enginehouse_core::breaker::BreakerRules;
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::{Key, NodeId};
use enginehouse_core::time::SECOND;
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, Node, RegisteredEngine, ScalingSettings, SealKeySource,
    SealSettings, Service, Settings,
};
use enginehouse_store::{
    Durability, Filter, ListQuery, MemoryStore, Ref, SqliteOptions, SqliteStore, Store, Threads,
};
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What one endpoint may run at once, and one worker.
pub(crate) const ENGINE_LIMIT: usize = 6;
pub(crate) const WORKER_CAPACITY: usize = 4;
/// The engines with their endpoints; the runs of the first can be taken up again.
const PLACES: [(&str, usize); 3] = [("attach", 0), ("attach", 1), ("plain", 0)];
/// Calls that may meet an endpoint while it is down: those under way, those that open the breaker, and probes.
const REFUSED_MAX: u32 = 45;
/// Longer than any total timeout, so that liveness is a matter of the service alone.
const QUIET: Duration = Duration::from_secs(12 * 60);

/// Longer than a lease and than what any attempt takes, so that anyone who still follows a run that ended has time to say so.
const LATECOMERS: Duration = Duration::from_secs(90);

/// What kind of run a seed makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any faults, one to three nodes.
    Any,
    /// The same without the faults that came later: what the first seeds of the corpus were found with.
    First,
    /// Two nodes whose workers stand still past their leases.
    Zombies,
}

impl Kind {
    fn chaos(self) -> Duration {
        Duration::from_secs(if self == Kind::Zombies { 180 } else { 60 })
    }

    /// How many seconds what stands still does so: any, or longer than a lease.
    fn stalls(self) -> std::ops::Range<u64> {
        if self == Kind::Zombies { 32..45 } else { 1..50 }
    }
}

pub(crate) struct Life {
    pub(crate) node: Node,
    pub(crate) store: Arc<SimStore>,
    pub(crate) fate: Arc<Fate>,
    /// When it moves again, while it stands still.
    until: Option<Instant>,
}

pub(crate) struct Run {
    random: StdRng,
    /// For the faults that came later.
    more: StdRng,
    seed: u64,
    store: Arc<Reference>,
    clock: Arc<SimClock>,
    pub(crate) quiet: Arc<AtomicBool>,
    fired: Arc<Fired>,
    faults: Faults,
    pub(crate) world: Arc<EngineWorld>,
    pub(crate) outage: Arc<Outage>,
    callers: Callers,
    lives: u64,
    nodes: u16,
    kind: Kind,
    acknowledged: Vec<String>,
    at_most_once: BTreeSet<String>,
    key_file: std::path::PathBuf,
    audits: Vec<String>,
    /// What pending executions were told, by reason.
    said: BTreeMap<&'static str, u64>,
}

/// What came of a run.
pub(crate) struct Came {
    pub(crate) verdict: Checked,
    pub(crate) fired: BTreeMap<&'static str, u64>,
    pub(crate) said: BTreeMap<&'static str, u64>,
}

pub(crate) fn simulate(seed: u64, kind: Kind) -> Came {
    let directory = tempfile::tempdir().expect("a temporary directory");
    on_paused_time(async { Run::new(seed, kind, directory.path()).go().await })
}

pub(crate) fn on_paused_time<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(run)
}

impl Run {
    pub(crate) fn new(seed: u64, kind: Kind, directory: &Path) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let mut more = StdRng::seed_from_u64(seed ^ 0x0030_12e5);
        let nodes = 1 + u16::try_from(seed % 3).expect("small");
        let (faults, nodes) = match kind {
            Kind::Any => (Faults::choose(&mut random).choose_more(&mut more), nodes),
            Kind::First => (Faults::choose(&mut random), nodes),
            Kind::Zombies => (Faults::zombies(), 2),
        };
        let (clock, fired, quiet) = (SimClock::new(), Arc::new(Fired::default()), Arc::default());
        Run {
            random,
            more,
            seed,
            store: Reference::new(open_store(seed, kind, clock.clone(), directory)),
            clock,
            world: Arc::new(EngineWorld::new(seed, faults, fired.clone(), Arc::clone(&quiet))),
            quiet,
            outage: Arc::default(),
            callers: Callers::default(),
            fired,
            faults,
            lives: 0,
            nodes,
            kind,
            acknowledged: Vec::new(),
            at_most_once: BTreeSet::new(),
            key_file: key_file(directory),
            audits: Vec::new(),
            said: BTreeMap::new(),
        }
    }

    fn engines(&self) -> Vec<RegisteredEngine> {
        let breaker = BreakerRules {
            failure_threshold: 3,
            reset_timeout: 5 * SECOND,
            reset_timeout_max: 20 * SECOND,
            ..BreakerRules::default()
        };
        ["attach", "plain"]
            .into_iter()
            .map(|name| {
                let places = PLACES.iter().filter(|(engine, _)| *engine == name);
                let endpoint = |at: &usize| EndpointSettings { name: format!("sim-{at}"), weight: 1.0 };
                RegisteredEngine {
                    settings: EngineSettings {
                        name: name.into(),
                        engine_type: "sim".into(),
                        default: name == "attach",
                        max_concurrency: Some(u32::try_from(ENGINE_LIMIT).expect("small")),
                        endpoints: places.map(|(_, at)| endpoint(at)).collect(),
                        breaker,
                        ..EngineSettings::default()
                    },
                    adapter: Arc::new(SimEngine {
                        world: self.world.clone(),
                        name,
                        reattach: name == "attach",
                    }),
                }
            })
            .collect()
    }

    /// Every fourth seed has a pool that follows the demand, half of them down to no worker; the others have a fixed one.
    fn scaling(&self) -> ScalingSettings {
        let (most, capacity) = (2 * u32::from(self.nodes), u32::try_from(WORKER_CAPACITY).expect("small"));
        if self.kind == Kind::Zombies || !self.seed.is_multiple_of(4) {
            return ScalingSettings::fixed(most, capacity);
        }
        let rules = ScalingRules {
            min_workers: u32::from(self.seed.is_multiple_of(8)),
            max_workers: most,
            worker_capacity: capacity,
            retention: 2 * SECOND,
            scale_down_cooldown: SECOND,
            ..ScalingRules::default()
        };
        ScalingSettings { rules, ..ScalingSettings::default() }
    }

    /// Starts a node; a start that meets a store fault is tried again, as a supervisor would.
    pub(crate) async fn live(&mut self, node: u16) -> Life {
        loop {
            self.lives += 1;
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.lives);
            let fate = Arc::new(Fate::default());
            let store = SimStore::new(
                self.store.clone(),
                self.nodes > 1,
                self.outage.clone(),
                self.quiet.clone(),
                self.faults,
                self.fired.clone(),
                fate.dead.clone(),
                seed,
            );
            let settings = Settings {
                node: NodeId(node),
                scaling: self.scaling(),
                seed: Some(seed),
                seal: SealSettings {
                    source: SealKeySource::File(self.key_file.clone()),
                    ..SealSettings::default()
                },
                govern: Some(fate.govern()),
                ..Settings::default()
            };
            match Node::start(settings, store.clone(), self.engines()).await {
                Ok(node) => return Life { node, store, fate, until: None },
                Err(_) => {
                    fate.dead.store(true, Ordering::SeqCst);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn per_thousand(&mut self, rate: u32) -> bool {
        self.random.random_range(0..1000) < rate
    }

    fn per_thousand_more(&mut self, rate: u32) -> bool {
        rate > 0 && self.more.random_range(0..1000) < rate
    }

    pub(crate) fn request(&mut self, number: usize) -> SubmitRequest {
        let faults = self.faults;
        let (fails, hangs) =
            (self.per_thousand(faults.workflow_failed), self.per_thousand(faults.engine_hung));
        let (lost, late) = (self.per_thousand(faults.answer_lost), self.per_thousand(faults.answer_late));
        if hangs {
            self.fired.count("engine_hung");
        }
        let silent = hangs && self.per_thousand_more(faults.hung_silent);
        if silent {
            self.fired.count("engine_silent");
        }
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
                "ms": random.random_range(0..if self.kind == Kind::Zombies { 15_000 } else { 3_000 }),
                "failures": if fails { random.random_range(1..6) } else { 0 },
                "kind": if random.random_bool(0.5) { "unavailable" } else { "engine_error" },
                "lost_answers": u32::from(lost),
                "late_ms": if late { random.random_range(1_000..15_000) } else { 0 },
                "hangs": hangs,
                "silent": silent,
            },
            "timeout": "20s",
            "totalTimeout": "10m",
            "atMostOnce": at_most_once,
            "failFast": random.random_bool(0.05),
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
        if random.random_bool(0.05) {
            body["idleTimeout"] = json!("8s");
        }
        serde_json::from_value(body).expect("a valid request")
    }

    /// One client call, given up after a while: its node may be dead.
    async fn act(&mut self, service: &Service, number: &mut usize) {
        let caller = Caller::local();
        if self.per_thousand_more(self.faults.submit_repeated) {
            self.fired.count("submit_repeated");
            self.callers.repeat(service, &mut self.more, &mut self.acknowledged).await;
        }
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
                let mut request = self.request(*number);
                // Some leave the id to the service and repeat with a key.
                let key = (self.faults.submit_repeated > 0 && self.more.random_bool(0.2)).then(|| {
                    let id = request.id.take().expect("named");
                    request.at_most_once = None;
                    self.at_most_once.remove(&id);
                    format!("key-{id}")
                });
                self.callers.submit(service, request, key, &mut self.acknowledged).await;
            }
        }
    }

    async fn chaos(&mut self, lives: &mut Vec<Life>) {
        let mut number = 0;
        let until = Instant::now() + self.kind.chaos();
        while Instant::now() < until {
            let at = self.random.random_range(0..lives.len());
            let service = lives[at].node.service();
            self.act(&service, &mut number).await;
            self.audit(lives);
            self.strike_node(&mut lives[at]);
            self.strike_world();
            for at in 0..lives.len() {
                let life = &mut lives[at];
                if life.until.is_some_and(|until| Instant::now() >= until) {
                    life.until = None;
                    life.fate.resume();
                }
                if life.fate.is_dead() {
                    self.fired.count("node_killed");
                    drop(lives.remove(at));
                    let pause = self.random.random_range(0..2_000);
                    sleep(Duration::from_millis(pause)).await;
                    let reborn = self.live(u16::try_from(at).expect("few")).await;
                    lives.insert(at, reborn);
                }
            }
            let pause = self.random.random_range(0..400);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// What may befall a node between two steps of its clients.
    fn strike_node(&mut self, life: &mut Life) {
        let faults = self.faults;
        if self.per_thousand(faults.node_killed) {
            // Between any two of its steps, not only where nothing happens.
            life.fate.end_after(self.random.random_range(0..200));
        }
        let stalls = [
            (faults.node_stalled, NODE, "node_stalled"),
            (faults.workers_stalled, WORKERS, "workers_stalled"),
            (faults.zombies, WORKERS | RENEWAL, "zombies"),
            (faults.renewal_stalled, RENEWAL, "renewal_stalled"),
        ];
        for (rate, roles, name) in stalls {
            if life.until.is_none() && self.per_thousand(rate) {
                self.fired.count(name);
                life.fate.stall(roles);
                let seconds = self.random.random_range(self.kind.stalls());
                life.until = Some(Instant::now() + Duration::from_secs(seconds));
            }
        }
    }

    /// What may befall the world around the nodes.
    fn strike_world(&mut self) {
        let faults = self.faults;
        if self.per_thousand(faults.clock_jumped) {
            let ms = self.random.random_range(-90_000..90_000);
            self.fired.count(if ms < 0 { "clock_back" } else { "clock_forward" });
            self.clock.jump(ms);
        }
        if self.per_thousand_more(faults.store_away) {
            self.fired.count("store_away");
            self.outage.begin(Duration::from_secs(self.more.random_range(1..60)));
        }
        let (engine, endpoint) = PLACES[self.random.random_range(0..PLACES.len())];
        if self.per_thousand(faults.engine_down) {
            self.fired.count("engine_down");
            self.world.toggle(engine, endpoint);
        }
        if self.per_thousand(faults.engine_crashed) {
            self.fired.count("engine_crashed");
            self.world.crash(engine, endpoint);
        }
    }

    fn audit(&mut self, lives: &[Life]) {
        for life in lives {
            let findings = life.node.service().audit();
            self.audits.extend(findings.into_iter().map(|finding| format!("I14 {finding}")));
            if life.fate.is_dead() {
                // It ended in the middle of a commit, and no one can ask it.
                continue;
            }
            let looked = life.node.service().audit_waits(|| self.pending());
            self.audits.extend(looked.findings.into_iter().map(|finding| format!("I15 {finding}")));
            for (reason, count) in looked.said {
                *self.said.entry(reason).or_default() += count;
            }
        }
    }

    /// What the store holds and does not run, as of now.
    fn pending(&self) -> Vec<Execution> {
        let filter = Filter { statuses: vec![Status::Pending], ..Filter::default() };
        let query = ListQuery { filter, after: None, limit: usize::MAX };
        let read = self.store.list(&query).now_or_never();
        read.expect("nothing to wait for").expect("the reference store answers")
    }

    async fn go(mut self) -> Came {
        let mut lives = Vec::new();
        for node in 0..self.nodes {
            lives.push(self.live(node).await);
        }
        self.chaos(&mut lives).await;
        self.quiet.store(true, Ordering::SeqCst);
        self.world.heal();
        self.outage.end();
        for at in 0..lives.len() {
            lives[at].fate.end_after(u64::MAX / 2);
            lives[at].fate.resume();
            if lives[at].fate.is_dead() {
                drop(lives.remove(at));
                let reborn = self.live(u16::try_from(at).expect("few")).await;
                lives.insert(at, reborn);
            }
        }
        self.rest().await;
        self.audit(&lives);
        let verdict = self.verdict(&lives).await;
        for life in lives {
            life.node.stop().await;
        }
        Came { verdict, fired: self.fired.counts(), said: self.said }
    }

    /// Waits until everything has ended, within the bound, and then for anyone who comes late.
    async fn rest(&self) {
        let bound = Instant::now() + QUIET;
        while Instant::now() < bound {
            sleep(Duration::from_secs(10)).await;
            let totals = self.store.totals().await.expect("the reference store answers");
            if totals.pending + totals.running == 0 {
                return sleep(LATECOMERS).await;
            }
        }
    }

    async fn verdict(&mut self, lives: &[Life]) -> Checked {
        let refs: Vec<Ref> =
            self.acknowledged.iter().map(|id| Ref::Id(id.clone().try_into().expect("a valid id"))).collect();
        let found = self.store.find(&refs).await.expect("the reference store answers");
        let lost = found.iter().filter(|row| row.is_none()).count();
        let acknowledged: Vec<Key> = found.iter().flatten().map(|row| row.key()).collect();
        let service = lives[0].node.service();
        let mut results = BTreeMap::new();
        for row in found.iter().flatten() {
            let id = row.fixed.ext_id.as_ref().expect("named").to_string();
            let Ok(view) = service.result(&Caller::local(), &id).await else { continue };
            let text = view.result.map(|raw| raw.get().to_owned()).unwrap_or_default();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(attempt) = value["attempt"].as_u64() {
                results.insert(row.key(), u32::try_from(attempt).expect("few"));
            }
        }
        let fired = self.fired.counts();
        let outside = Outside {
            acknowledged: &acknowledged,
            at_most_once: &self.at_most_once,
            world: &self.world,
            one_scheduler: self.nodes == 1
                && !fired.contains_key("node_killed")
                && !fired.contains_key("commit_lost_after"),
            results: &results,
        };
        let mut verdict = judge(&**self.store, outside).await;
        if lost > 0 {
            verdict.violations.push(format!("I1 {lost} acknowledged ids are not stored"));
        }
        verdict.violations.extend(self.world.violations(REFUSED_MAX));
        verdict.violations.extend(self.callers.violations(&service).await);
        verdict.violations.append(&mut self.audits);
        let sessions = self.store.sessions().await.expect("the reference store answers");
        verdict.trace.push(format!("at {:?}: {sessions:?}", self.store.now()));
        verdict
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
fn open_store(seed: u64, kind: Kind, clock: Arc<SimClock>, directory: &Path) -> Arc<dyn Store> {
    if kind == Kind::Zombies || !seed.is_multiple_of(20) {
        return Arc::new(MemoryStore::new(clock));
    }
    let mut options = SqliteOptions::new(directory.join("data"));
    options.clock = clock;
    options.threads = Threads::Inline;
    // The disk is not what is simulated here: kills come between awaits, never inside a commit.
    options.durability = Durability::Relaxed;
    Arc::new(SqliteStore::open(options).expect("a fresh directory"))
}
