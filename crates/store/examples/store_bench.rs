//! Measures the embedded store as the committer uses it: batches of 64, each commit synced.
//!
//! `cargo run --release -p enginehouse-store --example store_bench [-- DIR [EXECUTIONS]]`

#![allow(clippy::print_stdout, reason = "a program for people at a terminal")]

use enginehouse_core::execution::Execution;
use enginehouse_core::id::{Key, KeyMaker, NodeId, SessionId};
use enginehouse_core::lifecycle::{self, AttemptEnd, Grant, NewExecution, Part};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::time::Time;
use enginehouse_store::{
    Batch, Depth, Filter, ListQuery, New, Ref, RoleWrite, SqliteOptions, SqliteStore, Store, StoreError,
    Write, WriteOutcome,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BATCH: usize = 64;
const PAYLOAD_BYTES: usize = 1_024;
const NODE: NodeId = NodeId(0);

struct Bench {
    store: SqliteStore,
    keys: KeyMaker,
    epoch: u64,
    payload: Arc<[u8]>,
}

impl Bench {
    async fn open(dir: PathBuf) -> Result<Bench, StoreError> {
        let store = SqliteStore::open(SqliteOptions::new(dir))?;
        let role = RoleWrite { node: NODE, known_epoch: None, exclusive: true };
        let batch = Batch { node: NODE, scheduler_epoch: None, writes: vec![Write::Role(role)] };
        let epoch = match store.commit(batch).await?.outcomes.first() {
            Some(WriteOutcome::Role(grant)) => grant.epoch,
            other => return Err(StoreError::Unavailable(format!("no role: {other:?}"))),
        };
        let payload = (0..PAYLOAD_BYTES).map(|i| (i * 31 % 251) as u8).collect();
        Ok(Bench { store, keys: KeyMaker::new(NODE), epoch, payload })
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let batch = Batch { node: NODE, scheduler_epoch: Some(self.epoch), writes };
        for outcome in self.store.commit(batch).await?.outcomes {
            if !matches!(outcome, WriteOutcome::Applied | WriteOutcome::Submitted(_)) {
                return Err(StoreError::Unavailable(format!("refused: {outcome:?}")));
            }
        }
        Ok(())
    }

    fn row(&mut self, now: Time) -> Execution {
        let mut new = NewExecution { by: Some("key-1".to_owned()), ..NewExecution::plain(0) };
        new.fixed.key = self.keys.next(now);
        new.fixed.engine = "n8n-prod".to_owned();
        new.fixed.engine_type = "n8n".to_owned();
        new.fixed.workflow = "orders".to_owned();
        new.fixed.created_at = now;
        new.fixed.spec.input_bytes = PAYLOAD_BYTES as u64;
        lifecycle::submit(new, &HeadStarts::default())
    }

    async fn submit(&mut self, granted: bool) -> Result<Vec<Execution>, StoreError> {
        let (rows, writes) = self.submits(granted);
        self.commit(writes).await?;
        Ok(rows)
    }

    async fn submit_and_complete(&mut self, finished: Vec<Execution>) -> Result<Vec<Execution>, StoreError> {
        let (rows, mut writes) = self.submits(true);
        writes.extend(self.completions(finished));
        self.commit(writes).await?;
        Ok(rows)
    }

    fn submits(&mut self, granted: bool) -> (Vec<Execution>, Vec<Write>) {
        let now = self.store.now();
        let (mut rows, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let row = self.row(now);
            let session = Grant { session: SessionId(1), worker: "worker-1".to_owned(), endpoint: 0 };
            let grant = if granted { lifecycle::grant(&row, &session, now).ok() } else { None };
            rows.push(grant.as_ref().map_or_else(|| row.clone(), |grant| grant.applied_to(&row)));
            writes.push(Write::Submit(vec![New { row, input: self.payload.clone(), grant }]));
        }
        (rows, writes)
    }

    async fn grant(&mut self, rows: Vec<Execution>) -> Result<Vec<Execution>, StoreError> {
        let now = self.store.now();
        let session = Grant { session: SessionId(1), worker: "worker-1".to_owned(), endpoint: 0 };
        let grants: Vec<_> =
            rows.iter().filter_map(|row| lifecycle::grant(row, &session, now).ok()).collect();
        let granted = rows.iter().zip(&grants).map(|(row, grant)| grant.applied_to(row)).collect();
        self.commit(grants.into_iter().map(Write::Schedule).collect()).await?;
        Ok(granted)
    }

    async fn complete(&mut self, rows: Vec<Execution>) -> Result<(), StoreError> {
        let writes = self.completions(rows);
        self.commit(writes).await
    }

    fn completions(&self, rows: Vec<Execution>) -> Vec<Write> {
        let now = self.store.now();
        let mut writes = Vec::new();
        for row in rows {
            let end = AttemptEnd::Succeeded { needs_input: false, output_bytes: PAYLOAD_BYTES as u64 };
            if let Ok(mut done) =
                lifecycle::finish(&row, row.state.fence, end, &HeadStarts::default(), 0.5, now)
            {
                done.parts.push((Part::Output, self.payload.clone()));
                writes.push(Write::Apply(done));
            }
        }
        writes
    }
}

/// Wall and processor time of one measurement; the latter says more on a machine that others use too.
struct Meter {
    begun: Instant,
    processor: Duration,
}

impl Meter {
    fn start() -> Meter {
        Meter { begun: Instant::now(), processor: processor_time() }
    }

    fn report(&self, what: &str, executions: usize) {
        let (took, used) = (self.begun.elapsed(), processor_time() - self.processor);
        let each = |span: Duration| span.as_secs_f64() * 1e6 / executions as f64;
        let rate = executions as f64 / took.as_secs_f64();
        println!(
            "{what:<52} {rate:>9.0} /s   {:>6.1} us each, {:>6.1} us of processor",
            each(took),
            each(used)
        );
    }
}

fn processor_time() -> Duration {
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64)
    };
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| of(usage.user_time()) + of(usage.system_time()))
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{what:<52} p50 {:>9.1?}   p99 {:>9.1?}", at(0.5), at(0.99));
}

async fn measure(bench: &mut Bench, executions: usize) -> Result<(), StoreError> {
    let rounds = executions / BATCH;
    let (mut waiting, start) = (Vec::new(), Meter::start());
    let mut commits = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        waiting.push(bench.submit(false).await?);
        commits.push(begun.elapsed());
    }
    start.report("submit (64 a commit)", rounds * BATCH);
    percentiles("  commit of 64 submits", commits);
    let start = Meter::start();
    let mut running = Vec::new();
    for rows in waiting {
        running.push(bench.grant(rows).await?);
    }
    start.report("grant", rounds * BATCH);
    let start = Meter::start();
    for rows in running {
        bench.complete(rows).await?;
    }
    start.report("complete", rounds * BATCH);
    let start = Meter::start();
    let mut finished = Vec::new();
    for _ in 0..rounds {
        // One commit carries new work and the ends of the work before it, as the committer's do.
        finished = bench.submit_and_complete(finished).await?;
    }
    bench.complete(finished).await?;
    start.report("cycle: submit and grant folded, complete", rounds * BATCH);
    Ok(())
}

async fn reads(bench: &mut Bench) -> Result<(), StoreError> {
    let page = ListQuery { limit: 50, ..ListQuery::default() };
    let newest: Vec<Key> = bench.store.list(&page).await?.iter().map(Execution::key).collect();
    let mut times = Vec::new();
    for round in 0..2_000 {
        let begun = Instant::now();
        bench.store.find(&[Ref::Key(newest[round % newest.len()])]).await?;
        times.push(begun.elapsed());
    }
    percentiles("find by key", times);
    let completed = vec![enginehouse_core::execution::Status::Completed];
    let engine = Some("n8n-prod".to_owned());
    let filters = [
        ("list newest 50", Filter::default()),
        ("list newest 50 of a status", Filter { statuses: completed.clone(), ..Filter::default() }),
        (
            "list newest 50 of an engine and a status",
            Filter { statuses: completed, engine, ..Filter::default() },
        ),
    ];
    for (what, filter) in filters {
        let (query, mut times) = (ListQuery { filter, after: None, limit: 50 }, Vec::new());
        for _ in 0..1_000 {
            let begun = Instant::now();
            bench.store.list(&query).await?;
            times.push(begun.elapsed());
        }
        percentiles(what, times);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), StoreError> {
    let mut arguments = std::env::args().skip(1);
    let kept = arguments.next().map(PathBuf::from);
    let executions = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(64_000);
    let temporary = tempfile::tempdir().map_err(|e| StoreError::Unavailable(e.to_string()))?;
    let mut bench = Bench::open(kept.unwrap_or_else(|| temporary.path().join("store"))).await?;
    measure(&mut bench, executions).await?;
    reads(&mut bench).await?;
    let lanes = Instant::now();
    bench.store.lanes().await?;
    println!("{:<52} {:>9.1?}", "lanes", lanes.elapsed());
    let check = Instant::now();
    println!("full check: {:?} in {:.1?}", bench.store.check(Depth::Full).await?.findings, check.elapsed());
    println!("{:?}", bench.store.totals().await?);
    bench.store.close().await
}
