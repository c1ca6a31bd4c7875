//! The embedded store: one SQLite file in one directory, used by one process.
//!
//! One thread owns the one connection that writes. A batch is handed to it whole, becomes one transaction and is
//! answered once that is synced; while one sync runs, the next batch collects itself above. Reads have connections of
//! their own, and so has the checkpoint. [`Threads::Inline`] does the same work on the calling thread, so that a
//! simulation repeats exactly.

mod backup;
mod check;
mod checkpoint;
mod error;
mod feed;
mod lane;
mod list;
mod migrate;
mod open;
mod pool;
mod read;
mod retain;
mod row;
mod submit;
mod writer;

pub use backup::{backup_from_dir, documents, restore};

use crate::{
    Batch, Clock, Committed, Cursor, Depth, Doc, DocKind, EndedRow, Features, FeedPage, LaneCount, ListQuery,
    Payloads, Ready, Ref, Report, Sealed, Started, Starting, Store, StoreError, SystemClock, Totals, Usage,
};
use async_trait::async_trait;
use checkpoint::LogState;
use enginehouse_core::execution::{Execution, Lane};
use enginehouse_core::id::{Key, SessionId};
use enginehouse_core::lifecycle::Part;
use enginehouse_core::rank::Rank;
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use open::DirLock;
use parking_lot::Mutex;
use pool::Pool;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use writer::Writer;

/// Batches handed to the writer and not begun; a further caller waits.
const BATCHES_WAITING_MAX: usize = 8;

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Everything up to a power cut: each commit is synced.
    #[default]
    Full,
    /// The end of the process; a power cut or a crash of the system may take the last commits, never the store.
    Relaxed,
}

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// Threads of the store's own; callers wait without blocking.
    #[default]
    Own,
    /// The calling thread, at once and in order: for simulations.
    Inline,
}

/// How to open a store.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The data directory; made if it is not there.
    pub dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub durability: Durability,
    /// Connections that read; 1 to 64.
    pub readers: usize,
    pub threads: Threads,
    /// How long opening may look for damage.
    pub startup_check: Duration,
}

impl SqliteOptions {
    /// The defaults: system clock, full durability, two readers, own threads, a fifth of a second of checking.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> SqliteOptions {
        SqliteOptions {
            dir: dir.into(),
            clock: Arc::new(SystemClock::new()),
            durability: Durability::Full,
            readers: 2,
            threads: Threads::Own,
            startup_check: Duration::from_millis(200),
        }
    }
}

/// An open store. Dropping it waits for the commit in progress and gives the directory free.
pub struct SqliteStore {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    commits: Commits,
    readers: Pool,
    changed: watch::Sender<Cursor>,
    closing: Arc<AtomicBool>,
    inline: bool,
}

enum Commits {
    Inline(Box<Mutex<Option<Engine>>>),
    Thread { batches: Mutex<Option<mpsc::Sender<Request>>>, thread: Mutex<Option<JoinHandle<()>>> },
}

type Answer = Result<Committed, StoreError>;

enum Request {
    Commit { batch: Batch, answer: oneshot::Sender<Answer> },
    Reclaim { bytes_max: u64, answer: oneshot::Sender<Result<u64, StoreError>> },
}

/// Everything that must end before the directory is free.
struct Engine {
    writer: Writer,
    log: Arc<LogState>,
    checkpoint: Checkpoint,
    changed: watch::Sender<Cursor>,
    /// Dropped last, after the connections.
    _lock: DirLock,
}

enum Checkpoint {
    Inline(Connection),
    Thread(Option<JoinHandle<()>>),
}

impl SqliteStore {
    /// Opens the store of a directory, making or migrating it as needed. Blocks while it reads and syncs files.
    ///
    /// Refused, with words on what to do: a directory another process uses, a file of another program, a file of a
    /// newer or too old format. A damaged file is [`StoreError::Corrupt`].
    pub fn open(options: SqliteOptions) -> Result<SqliteStore, StoreError> {
        let inline = options.threads == Threads::Inline;
        let lock = open::lock(&options.dir)?;
        let mut db = open::writer(&options)?;
        let log = Arc::new(LogState::default());
        log.watch(&mut db)?;
        let writer = Writer::new(db, options.clock.clone())?;
        options.clock.raise_to(writer.memory.standing.at);
        let changed = watch::channel(writer.cursor()).0;
        let readers = Pool::open(&options.dir, options.readers, inline)?;
        let checkpoint = if inline {
            Checkpoint::Inline(open::checkpointer(&options.dir)?)
        } else {
            Checkpoint::Thread(Some(checkpoint::start(&options.dir, log.clone())?))
        };
        let engine = Engine { writer, log, checkpoint, changed: changed.clone(), _lock: lock };
        let commits = if inline {
            Commits::Inline(Box::new(Mutex::new(Some(engine))))
        } else {
            Commits::start(engine)?
        };
        Ok(SqliteStore {
            dir: options.dir,
            clock: options.clock,
            commits,
            readers,
            changed,
            closing: Arc::new(AtomicBool::new(false)),
            inline,
        })
    }

    /// Runs blocking work that is no part of a request's path.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, &AtomicBool) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if self.inline {
            return work(&self.dir, &self.closing);
        }
        let (dir, closing) = (self.dir.clone(), self.closing.clone());
        let gone = |_| StoreError::Unavailable("the thread ended early".to_owned());
        tokio::task::spawn_blocking(move || work(&dir, &closing)).await.map_err(gone)?
    }
}

impl Engine {
    fn commit(&mut self, batch: Batch) -> Answer {
        let committed = self.writer.commit(batch)?;
        if let Some(cursor) = committed.cursor {
            self.changed.send_replace(cursor);
        }
        self.move_log();
        Ok(committed)
    }

    fn reclaim(&mut self, bytes_max: u64) -> Result<u64, StoreError> {
        if let Some(broken) = &self.writer.broken {
            return Err(broken.clone());
        }
        let left = self.writer.reclaim(bytes_max)?;
        self.move_log();
        Ok(left)
    }

    fn move_log(&self) {
        match &self.checkpoint {
            Checkpoint::Thread(_) => self.log.nudge(),
            Checkpoint::Inline(db) if self.log.is_due() => {
                // The commit stands whatever becomes of this.
                if let Err(error) = checkpoint::move_log(db) {
                    tracing::warn!(%error, "the store's log could not be moved into its file; trying again");
                }
            }
            Checkpoint::Inline(_) => {}
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.log.stop();
        if let Checkpoint::Thread(thread) = &mut self.checkpoint
            && let Some(thread) = thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Commits {
    fn start(mut engine: Engine) -> Result<Commits, StoreError> {
        let (sender, mut batches) = mpsc::channel::<Request>(BATCHES_WAITING_MAX);
        let run = move || {
            while let Some(request) = batches.blocking_recv() {
                // A caller that no longer waits will ask again with the same ids.
                match request {
                    Request::Commit { batch, answer } => drop(answer.send(engine.commit(batch))),
                    Request::Reclaim { bytes_max, answer } => drop(answer.send(engine.reclaim(bytes_max))),
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(run);
        let thread =
            thread.map_err(|e| StoreError::Unavailable(format!("cannot start the writer thread: {e}")))?;
        Ok(Commits::Thread { batches: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    async fn commit(&self, batch: Batch) -> Answer {
        match self {
            Commits::Inline(engine) => engine.lock().as_mut().ok_or(StoreError::Closed)?.commit(batch),
            Commits::Thread { .. } => self.ask(|answer| Request::Commit { batch, answer }).await,
        }
    }

    async fn reclaim(&self, bytes_max: u64) -> Result<u64, StoreError> {
        match self {
            Commits::Inline(engine) => engine.lock().as_mut().ok_or(StoreError::Closed)?.reclaim(bytes_max),
            Commits::Thread { .. } => self.ask(|answer| Request::Reclaim { bytes_max, answer }).await,
        }
    }

    /// Hands a request to the writer's thread and waits for its answer.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let sender = match self {
            Commits::Thread { batches, .. } => batches.lock().clone(),
            Commits::Inline(_) => None,
        };
        let sender = sender.ok_or(StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unavailable("the writer thread ended".to_owned());
        sender.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Lets the batches that wait finish; the thread to wait for, if there is one.
    fn stop(&self) -> Option<JoinHandle<()>> {
        match self {
            Commits::Inline(engine) => {
                engine.lock().take();
                None
            }
            Commits::Thread { batches, thread } => {
                batches.lock().take();
                thread.lock().take()
            }
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        if let Some(thread) = self.commits.stop() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.commits.commit(batch).await
    }

    fn changed(&self) -> watch::Receiver<Cursor> {
        self.changed.subscribe()
    }

    async fn feed(&self, after: Cursor, max: usize) -> Result<FeedPage, StoreError> {
        self.readers.read(move |db| feed::read(db, after, max)).await
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    async fn find(&self, refs: &[Ref]) -> Result<Vec<Option<Execution>>, StoreError> {
        let refs = refs.to_vec();
        self.readers.read(move |db| refs.iter().map(|by| read::find(db, by)).collect()).await
    }

    async fn starting(&self, wanted: &[Starting]) -> Result<Vec<Option<Started>>, StoreError> {
        let wanted = wanted.to_vec();
        self.readers.read(move |db| wanted.iter().map(|one| read::starting(db, one)).collect()).await
    }

    async fn payload(&self, key: Key, part: Part) -> Result<Option<Sealed>, StoreError> {
        self.readers.read(move |db| read::payload(db, key, part)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Execution>, StoreError> {
        let query = query.clone();
        self.readers.read(move |db| list::list(db, &query)).await
    }

    async fn lanes(&self) -> Result<Vec<LaneCount>, StoreError> {
        self.readers.read(read::lanes).await
    }

    async fn ready(
        &self,
        lane: &Lane,
        after: Option<(Rank, Key)>,
        max: usize,
    ) -> Result<Vec<Ready>, StoreError> {
        let lane = lane.clone();
        self.readers.read(move |db| read::ready(db, &lane, after, max)).await
    }

    async fn due(&self, until: Time, max: usize) -> Result<Vec<Execution>, StoreError> {
        self.readers.read(move |db| read::due(db, until, max)).await
    }

    async fn next_wake(&self) -> Result<Option<Time>, StoreError> {
        self.readers.read(read::next_wake).await
    }

    async fn running(
        &self,
        holder: Option<SessionId>,
        after: Option<Key>,
        max: usize,
    ) -> Result<Vec<Execution>, StoreError> {
        self.readers.read(move |db| read::running(db, holder, after, max)).await
    }

    async fn ended(&self, after: Option<Key>, max: usize) -> Result<Vec<EndedRow>, StoreError> {
        self.readers.read(move |db| retain::ended(db, after, max)).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let dir = self.dir.clone();
        self.readers.read(move |db| retain::usage(db, &dir)).await
    }

    async fn heads(&self, of: Payloads, bytes: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        self.aside(move |dir, _| retain::heads(&open::reader(dir)?, of, bytes)).await
    }

    async fn reclaim(&self, bytes_max: u64) -> Result<u64, StoreError> {
        self.commits.reclaim(bytes_max).await
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        self.readers.read(read::sessions).await
    }

    async fn docs(&self, kind: DocKind) -> Result<Vec<Doc>, StoreError> {
        self.readers.read(move |db| read::docs(db, kind)).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.readers.read(|db| Ok(read::standing(db)?.totals)).await
    }

    async fn check(&self, depth: Depth) -> Result<Report, StoreError> {
        self.aside(move |dir, _| {
            let mut db = open::reader(dir)?;
            match depth {
                Depth::Quick => check::quick(&mut db),
                Depth::Full => check::full(&db),
            }
        })
        .await
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let to = to.to_owned();
        self.aside(move |dir, closing| backup::backup(dir, &to, closing)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closing.store(true, Ordering::Release);
        self.readers.close().await;
        if let Some(thread) = self.commits.stop() {
            let gone = |_| StoreError::Unavailable("the closing thread ended early".to_owned());
            let joined = tokio::task::spawn_blocking(move || thread.join()).await.map_err(gone)?;
            joined.map_err(|_| StoreError::Unavailable("the writer thread failed".to_owned()))?;
        }
        Ok(())
    }

    fn features(&self) -> Features {
        Features { shared: false, durable: true }
    }
}
