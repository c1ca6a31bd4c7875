//! The store as a simulated node sees it, and the clock: both fail as the seed says.

use crate::faults::{Faults, Fired};
use async_trait::async_trait;
use enginehouse_core::event::Event;
use enginehouse_core::execution::{Execution, Lane};
use enginehouse_core::id::{Key, SessionId};
use enginehouse_core::lifecycle::Part;
use enginehouse_core::rank::Rank;
use enginehouse_core::reason::Reason;
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use enginehouse_store::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Any instant will do; this one is in the range of real keys.
const EPOCH: i64 = 1_790_000_000_000;

/// Virtual time: the paused clock of the runtime, with jumps of the wall clock. A jump forward is followed at once; after
/// one back the clock goes at half its pace until the wall clock has caught up, for a store's clock never goes back.
pub(crate) struct SimClock {
    start: Instant,
    offset: AtomicI64,
    reading: Mutex<Reading>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    half_ms: i64,
}

impl SimClock {
    pub(crate) fn new() -> Arc<SimClock> {
        let start = Instant::now();
        let reading = Mutex::new(Reading { at: start, half_ms: EPOCH * 2 });
        Arc::new(SimClock { start, offset: AtomicI64::new(0), reading })
    }

    pub(crate) fn jump(&self, ms: i64) {
        self.offset.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let now = Instant::now();
        let ms = |span: Duration| i64::try_from(span.as_millis()).expect("a short run");
        let wall = 2 * (EPOCH + ms(now - self.start) + self.offset.load(Ordering::SeqCst));
        let mut reading = self.reading.lock().expect("no panics");
        let slow = reading.half_ms + ms(now - reading.at);
        *reading = Reading { at: now, half_ms: slow.max(wall) };
        Time(reading.half_ms / 2)
    }

    fn raise_to(&self, least: Time) {
        let mut reading = self.reading.lock().expect("no panics");
        reading.half_ms = reading.half_ms.max(2 * least.0);
    }
}

/// The store behind all handles. Who watches it is told of a commit one after the other, in the order of their coming: tokio
/// wakes those who watch one channel in a random order, by which a seed would not repeat.
pub(crate) struct Reference {
    store: Arc<dyn Store>,
    watchers: Mutex<Vec<watch::Sender<Cursor>>>,
}

impl Reference {
    pub(crate) fn new(store: Arc<dyn Store>) -> Arc<Reference> {
        Arc::new(Reference { store, watchers: Mutex::default() })
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let committed = self.store.commit(batch).await;
        let newest = *self.store.changed().borrow();
        let mut watchers = self.watchers.lock().expect("no panics");
        watchers.retain(|watcher| watcher.receiver_count() > 0);
        for watcher in watchers.iter() {
            watcher.send_replace(newest);
        }
        committed
    }

    fn changed(&self) -> watch::Receiver<Cursor> {
        let (watcher, watching) = watch::channel(*self.store.changed().borrow());
        self.watchers.lock().expect("no panics").push(watcher);
        watching
    }
}

impl std::ops::Deref for Reference {
    type Target = dyn Store;
    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

/// The store itself is away, for all nodes alike.
#[derive(Default)]
pub(crate) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    pub(crate) fn begin(&self, span: Duration) {
        *self.0.lock().expect("no panics") = Some(Instant::now() + span);
    }

    pub(crate) fn end(&self) {
        *self.0.lock().expect("no panics") = None;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.lock().expect("no panics").is_some_and(|until| Instant::now() < until)
    }
}

/// One node's handle on the store. Once killed, nothing passes through it any more.
pub(crate) struct SimStore {
    inner: Arc<Reference>,
    shared: bool,
    pub(crate) dead: Arc<AtomicBool>,
    /// A sync failed: nothing can be written through this handle any more.
    pub(crate) broken: AtomicBool,
    outage: Arc<Outage>,
    quiet: Arc<AtomicBool>,
    faults: Faults,
    fired: Arc<Fired>,
    random: Mutex<StdRng>,
    /// The last renewal that was sent, which may arrive once more.
    renewal: Mutex<Option<Batch>>,
}

impl SimStore {
    pub(crate) fn new(
        inner: Arc<Reference>,
        shared: bool,
        outage: Arc<Outage>,
        quiet: Arc<AtomicBool>,
        faults: Faults,
        fired: Arc<Fired>,
        dead: Arc<AtomicBool>,
        seed: u64,
    ) -> Arc<SimStore> {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(SimStore {
            inner,
            shared,
            dead,
            broken: AtomicBool::new(false),
            outage,
            quiet,
            faults,
            fired,
            random,
            renewal: Mutex::new(None),
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

    async fn reach(&self) -> Result<(), StoreError> {
        self.alive().await;
        if self.outage.is_on() { Err(StoreError::Unavailable("simulated, away".into())) } else { Ok(()) }
    }

    /// A renewal that was sent before arrives a second time, behind what came after it.
    async fn repeat_renewal(&self, batch: &Batch) -> Result<(), StoreError> {
        let renews = |write: &Write| matches!(write, Write::Session(SessionWrite::Renew { .. }));
        let earlier = self.renewal.lock().expect("no panics").take();
        if let Some(earlier) = earlier.filter(|_| self.strikes(self.faults.renewal_repeated)) {
            self.fired.count("renewal_repeated");
            self.inner.commit(earlier).await?;
        }
        if batch.writes.iter().any(renews) {
            let writes = batch.writes.iter().filter(|w| renews(w)).cloned().collect();
            let again = Batch { node: batch.node, scheduler_epoch: batch.scheduler_epoch, writes };
            *self.renewal.lock().expect("no panics") = Some(again);
        }
        Ok(())
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.reach().await?;
        if self.strikes(self.faults.read_failed) {
            self.fired.count("read_failed");
            return Err(StoreError::Unavailable("simulated".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for SimStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.reach().await?;
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Broken("simulated".into()));
        }
        if self.strikes(self.faults.commit_slow) {
            self.fired.count("commit_slow");
            sleep(Duration::from_millis(700)).await;
            self.alive().await;
        }
        if self.strikes(self.faults.commit_lost_before) {
            self.fired.count("commit_lost_before");
            return Err(StoreError::Unavailable("simulated, before".into()));
        }
        self.repeat_renewal(&batch).await?;
        let committed = self.inner.commit(batch).await?;
        if self.strikes(self.faults.commit_lost_after) {
            self.fired.count("commit_lost_after");
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

    async fn starting(&self, wanted: &[Starting]) -> Result<Vec<Option<Started>>, StoreError> {
        self.read().await?;
        self.inner.starting(wanted).await
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

    // Retention finds nothing to do in the time of a run, so no fault is spent on its looks.

    async fn ended(&self, after: Option<Key>, max: usize) -> Result<Vec<EndedRow>, StoreError> {
        self.inner.ended(after, max).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage().await
    }

    async fn heads(&self, of: Payloads, bytes: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        self.inner.heads(of, bytes).await
    }

    async fn reclaim(&self, bytes_max: u64) -> Result<u64, StoreError> {
        self.inner.reclaim(bytes_max).await
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        self.read().await?;
        self.inner.sessions().await
    }

    async fn docs(&self, kind: DocKind) -> Result<Vec<Doc>, StoreError> {
        self.reach().await?;
        self.inner.docs(kind).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.reach().await?;
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
        data.reason.as_ref().map(Reason::as_str),
        data.failure.as_ref().map(|f| f.kind),
    )
}
