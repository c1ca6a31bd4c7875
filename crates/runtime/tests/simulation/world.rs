//! The outside world of a simulated run: a clock, a store that fails as the seed says, and an engine that outlives nodes.

use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::event::Event;
use enginehouse_core::execution::{Execution, Lane};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::{Key, SessionId};
use enginehouse_core::lifecycle::Part;
use enginehouse_core::rank::Rank;
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use enginehouse_engine::{
    Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Reached, Workflow,
};
use enginehouse_store::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Any instant will do; this one is in the range of real keys.
const EPOCH: i64 = 1_790_000_000_000;

/// Virtual time: the paused clock of the runtime.
pub(crate) struct SimClock {
    start: Instant,
    least: AtomicI64,
}

impl SimClock {
    pub(crate) fn new() -> Arc<SimClock> {
        Arc::new(SimClock { start: Instant::now(), least: AtomicI64::new(0) })
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let passed = i64::try_from(self.start.elapsed().as_millis()).expect("a short run");
        Time((EPOCH + passed).max(self.least.load(Ordering::SeqCst)))
    }

    fn raise_to(&self, least: Time) {
        self.least.fetch_max(least.0, Ordering::SeqCst);
    }
}

/// How often, in a thousand calls, a store fault happens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) commit_lost_before: u32,
    pub(crate) commit_lost_after: u32,
    pub(crate) commit_slow: u32,
    pub(crate) read_fails: u32,
}

/// What faults really fired; a run in which none did proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Fired {
    pub(crate) lost_before: AtomicU64,
    pub(crate) lost_after: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) reads: AtomicU64,
}

/// One node's handle on the store. Once killed, nothing passes through it any more.
pub(crate) struct SimStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) shared: bool,
    pub(crate) dead: AtomicBool,
    /// A sync failed: nothing can be written through this handle any more.
    pub(crate) broken: AtomicBool,
    pub(crate) quiet: Arc<AtomicBool>,
    pub(crate) faults: Faults,
    pub(crate) fired: Arc<Fired>,
    pub(crate) random: Mutex<StdRng>,
}

impl SimStore {
    pub(crate) fn new(
        inner: Arc<dyn Store>,
        shared: bool,
        quiet: Arc<AtomicBool>,
        faults: Faults,
        fired: Arc<Fired>,
        seed: u64,
    ) -> Arc<SimStore> {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(SimStore {
            inner,
            shared,
            dead: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            quiet,
            faults,
            fired,
            random,
        })
    }

    fn strikes(&self, per_thousand: u32) -> bool {
        let drawn: u32 = self.random.lock().expect("no panics").random_range(0..1000);
        !self.quiet.load(Ordering::SeqCst) && drawn < per_thousand
    }

    /// A dead node's calls never come back.
    async fn alive(&self) {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let pause: u64 = self.random.lock().expect("no panics").random_range(0..3);
        sleep(Duration::from_millis(pause)).await;
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.alive().await;
        if self.strikes(self.faults.read_fails) {
            self.fired.reads.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Unavailable("simulated".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for SimStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.alive().await;
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Broken("simulated".into()));
        }
        if self.strikes(self.faults.commit_slow) {
            self.fired.slow.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(700)).await;
            self.alive().await;
        }
        if self.strikes(self.faults.commit_lost_before) {
            self.fired.lost_before.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Unavailable("simulated, before".into()));
        }
        let committed = self.inner.commit(batch).await?;
        if self.strikes(self.faults.commit_lost_after) {
            self.fired.lost_after.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Unavailable("simulated, after".into()));
        }
        self.alive().await;
        Ok(committed)
    }

    fn changed(&self) -> watch::Receiver<Cursor> {
        self.inner.changed()
    }

    async fn feed(&self, after: Cursor, max: usize) -> Result<FeedPage, StoreError> {
        self.read().await?;
        self.inner.feed(after, max).await
    }

    fn now(&self) -> Time {
        self.inner.now()
    }

    async fn find(&self, refs: &[Ref]) -> Result<Vec<Option<Execution>>, StoreError> {
        self.read().await?;
        self.inner.find(refs).await
    }

    async fn payload(&self, key: Key, part: Part) -> Result<Option<Sealed>, StoreError> {
        self.read().await?;
        self.inner.payload(key, part).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Execution>, StoreError> {
        self.read().await?;
        self.inner.list(query).await
    }

    async fn lanes(&self) -> Result<Vec<LaneCount>, StoreError> {
        self.read().await?;
        self.inner.lanes().await
    }

    async fn ready(
        &self,
        lane: &Lane,
        after: Option<(Rank, Key)>,
        max: usize,
    ) -> Result<Vec<Ready>, StoreError> {
        self.read().await?;
        self.inner.ready(lane, after, max).await
    }

    async fn due(&self, until: Time, max: usize) -> Result<Vec<Execution>, StoreError> {
        self.read().await?;
        self.inner.due(until, max).await
    }

    async fn next_wake(&self) -> Result<Option<Time>, StoreError> {
        self.read().await?;
        self.inner.next_wake().await
    }

    async fn running(
        &self,
        holder: Option<SessionId>,
        after: Option<Key>,
        max: usize,
    ) -> Result<Vec<Execution>, StoreError> {
        self.read().await?;
        self.inner.running(holder, after, max).await
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        self.read().await?;
        self.inner.sessions().await
    }

    async fn docs(&self, kind: DocKind) -> Result<Vec<Doc>, StoreError> {
        self.alive().await;
        self.inner.docs(kind).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.alive().await;
        self.inner.totals().await
    }

    async fn check(&self, depth: Depth) -> Result<Report, StoreError> {
        self.inner.check(depth).await
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.inner.backup(to).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn features(&self) -> Features {
        Features { shared: self.shared, durable: true }
    }
}

/// What a simulated workflow does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Script {
    /// How long the run takes.
    pub(crate) ms: u64,
    /// Runs that fail before one succeeds.
    pub(crate) failures: u32,
    /// The kind they fail with.
    pub(crate) kind: String,
    /// The answer to every submit but the last so many is lost.
    pub(crate) lost_answers: u32,
    /// Never ends by itself.
    pub(crate) hangs: bool,
}

/// One run inside the simulated engine; it goes on whatever becomes of its caller.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) execution: String,
    pub(crate) idempotency_key: String,
    pub(crate) ends: Instant,
    pub(crate) fails: Option<FailureKind>,
    pub(crate) hangs: bool,
    pub(crate) cancelled: bool,
}

/// The engine's own state, shared by all nodes and restarts.
#[derive(Default)]
pub(crate) struct EngineWorld {
    pub(crate) runs: Mutex<Vec<Run>>,
    pub(crate) submits: Mutex<BTreeMap<String, u32>>,
    pub(crate) followed: AtomicI64,
    pub(crate) followed_max: AtomicI64,
    pub(crate) down: AtomicBool,
}

/// An adapter to the simulated engine, which recognises a repeated submit by its key and lets a run be taken up again.
pub(crate) struct SimEngine {
    pub(crate) world: Arc<EngineWorld>,
    /// Its runs can be taken up again; otherwise they die with their call.
    pub(crate) reattach: bool,
}

struct Following<'a>(&'a EngineWorld);

impl<'a> Following<'a> {
    fn new(world: &'a EngineWorld) -> Following<'a> {
        let now = world.followed.fetch_add(1, Ordering::SeqCst) + 1;
        world.followed_max.fetch_max(now, Ordering::SeqCst);
        Following(world)
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.followed.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SimEngine {
    /// Starts a run, or finds the one that the same key started before.
    fn start(&self, call: &Call, script: &Script) -> Result<usize, EngineFailure> {
        let mut submits = self.world.submits.lock().expect("no panics");
        let submitted = submits.entry(call.execution_id.clone()).or_default();
        *submitted += 1;
        let mut runs = self.world.runs.lock().expect("no panics");
        let known = runs.iter().position(|r| r.idempotency_key == call.idempotency_key);
        let number = known.filter(|_| self.reattach).unwrap_or_else(|| {
            let earlier = runs.iter().filter(|r| r.execution == call.execution_id).count();
            let fails = (u32::try_from(earlier).expect("few") < script.failures)
                .then(|| FailureKind::parse(&script.kind).unwrap_or(FailureKind::Unavailable));
            runs.push(Run {
                execution: call.execution_id.clone(),
                idempotency_key: call.idempotency_key.clone(),
                ends: Instant::now() + Duration::from_millis(script.ms),
                fails,
                hangs: script.hangs,
                cancelled: false,
            });
            runs.len() - 1
        });
        if *submitted <= script.lost_answers {
            let lost = EngineFailure::new(FailureKind::Connection, "reset", "the answer was lost");
            return Err(lost.with_reached(Reached::Maybe));
        }
        Ok(number)
    }

    fn run_at(&self, number: usize) -> Run {
        self.world.runs.lock().expect("no panics")[number].clone()
    }

    async fn follow(&self, call: &Call, number: usize) -> Outcome {
        let run = self.run_at(number);
        if run.hangs {
            std::future::pending::<()>().await;
        }
        if run.ends > Instant::now() {
            sleep_until(run.ends).await;
        }
        call.host.progress(Progress { fraction: Some(1.0), data: None });
        match (self.run_at(number).cancelled, run.fails) {
            (true, _) => Outcome::Cancelled,
            (false, Some(kind)) => {
                Outcome::Failed(EngineFailure::new(kind, "scripted", "as the script says"))
            }
            (false, None) => Outcome::Succeeded {
                result: Bytes::from(format!("{{\"run\":{number}}}")),
                needs_input: false,
            },
        }
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn engine_type(&self) -> &str {
        "sim"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: true,
            reattach: self.reattach,
            idempotent_submit: self.reattach,
            inline: false,
            progress: true,
        }
    }

    fn validate(&self, _workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn run(&self, call: Call) -> Outcome {
        let _following = Following::new(&self.world);
        sleep(Duration::from_millis(1)).await;
        if self.world.down.load(Ordering::SeqCst) {
            let refused = EngineFailure::new(FailureKind::Connection, "refused", "nobody listens");
            return Outcome::Failed(refused.with_reached(Reached::No));
        }
        let script: Script = serde_json::from_slice(&call.parameters).unwrap_or_default();
        let number = match &call.engine_run {
            Some(known) => known.parse().expect("our own run id"),
            None => match self.start(&call, &script) {
                Ok(number) => {
                    if call.attached(&number.to_string(), self.reattach).await.is_err() {
                        return Outcome::LetGo;
                    }
                    number
                }
                Err(failure) => return Outcome::Failed(failure),
            },
        };
        tokio::select! {
            biased;
            outcome = self.follow(&call, number) => outcome,
            _ = call.stopped() => {
                sleep(Duration::from_millis(5)).await;
                self.world.runs.lock().expect("no panics")[number].cancelled = true;
                Outcome::Cancelled
            }
        }
    }

    async fn cancel(&self, _endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let number: usize = engine_run.parse().expect("our own run id");
        self.world.runs.lock().expect("no panics")[number].cancelled = true;
        Ok(())
    }

    async fn health(&self, _endpoint: usize) -> Health {
        Health { healthy: true, detail: "simulated".into(), latency: 0 }
    }
}

/// A line of the trace, by which two runs of one seed are compared.
pub(crate) fn line(key: Key, event: &Event) -> String {
    let data = &event.data;
    format!(
        "{} {} {}@{} a{} w={:?} f={:?} r={:?} k={:?}",
        key.0,
        event.seq,
        event.kind.as_str(),
        event.at.0 - EPOCH,
        event.attempt,
        data.worker,
        data.fence,
        data.reason,
        data.failure.as_ref().map(|f| f.kind),
    )
}
