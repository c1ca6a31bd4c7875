//! Moving the log into the file, on a connection of its own so that commits seldom wait for it.
//!
//! The bulk is moved while commits go on. Only the last few pages are moved under the writer's lock, after which the
//! log starts over; otherwise a busy store's log would never end.

use super::open;
use crate::StoreError;
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pages of log (8 KiB each) that make a checkpoint worth its syncs: 24 MiB.
const PAGES_DUE: u32 = 3_072;
/// A rest this short is moved under the writer's lock.
const PAGES_LEFT: i64 = 256;
/// How often the bulk is moved before the rest is, whatever its length.
const ROUNDS_MAX: usize = 4;
/// How long no commit may come before a log of any length is moved.
const IDLE: Duration = Duration::from_secs(1);
/// How soon a log that could not start over is looked at again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the last step may wait for readers of the log while commits wait for it: not long, as it can be tried again, unless
/// the log has become so long already.
const LAST_STEP_WAIT: Duration = Duration::from_millis(5);
const LAST_STEP_WAIT_LONG: Duration = Duration::from_millis(50);
const PAGES_LONG: i64 = 8 * PAGES_DUE as i64;

/// What the writer and the checkpoint thread tell each other.
#[derive(Default)]
pub(super) struct LogState {
    /// Length of the log after the newest commit, in pages.
    pages: AtomicU32,
    /// Set to end the thread.
    stop: Mutex<bool>,
    wake: Condvar,
}

impl LogState {
    /// Reports the log's length after every commit of this connection.
    pub(super) fn watch(self: &Arc<LogState>, db: &mut Connection) -> Result<(), StoreError> {
        let state = self.clone();
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            state.pages.store(u32::try_from(pages).unwrap_or(0), Ordering::Release);
            Ok(())
        }))?;
        Ok(())
    }

    pub(super) fn is_due(&self) -> bool {
        self.pages.load(Ordering::Acquire) >= PAGES_DUE
    }

    /// Wakes the thread if there is enough to do.
    pub(super) fn nudge(&self) {
        if self.is_due() {
            self.wake.notify_one();
        }
    }

    /// Waits until `until` holds, at most for `span`; true when the thread must end.
    fn wait(&self, span: Duration, until: impl Fn(&LogState) -> bool) -> bool {
        let mut stop = self.stop.lock();
        self.wake.wait_while_for(&mut stop, |stop| !*stop && !until(self), span);
        *stop
    }

    pub(super) fn stop(&self) {
        *self.stop.lock() = true;
        self.wake.notify_one();
    }
}

/// Starts the thread; it ends when told through `state`.
pub(super) fn start(dir: &Path, state: Arc<LogState>) -> Result<JoinHandle<()>, StoreError> {
    let db = open::checkpointer(dir)?;
    let thread = std::thread::Builder::new().name("store-checkpoint".to_owned());
    let spawned = thread.spawn(move || run(&db, &state));
    spawned.map_err(|e| StoreError::Unavailable(format!("cannot start the checkpoint thread: {e}")))
}

fn run(db: &Connection, state: &LogState) {
    let (mut seen, mut moved) = (0, 0);
    while !state.wait(IDLE, |state| state.is_due()) {
        let pages = state.pages.load(Ordering::Acquire);
        let idle = pages == seen && pages != moved;
        seen = pages;
        if pages < PAGES_DUE && !idle {
            continue;
        }
        match move_log(db) {
            Ok(()) => {
                // Unless a commit came meanwhile, the log counts as empty until the next one.
                let emptied =
                    state.pages.compare_exchange(pages, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
                (seen, moved) = if emptied { (0, 0) } else { (pages, pages) };
            }
            Err(error) => {
                tracing::warn!(%error, "the store's log could not be moved into its file; trying again")
            }
        }
        // A reader that holds the log open, or a disk that refuses, is given time instead of a busy loop.
        if state.is_due() && state.wait(AGAIN, |_| false) {
            break;
        }
    }
}

/// Moves the whole log and lets it start over.
pub(super) fn move_log(db: &Connection) -> Result<(), StoreError> {
    let mut pages = 0;
    for _ in 0..ROUNDS_MAX {
        let Progress { length, moved } = checkpoint(db, "PASSIVE")?;
        pages = length;
        if length - moved <= PAGES_LEFT {
            break;
        }
    }
    db.busy_timeout(if pages < PAGES_LONG { LAST_STEP_WAIT } else { LAST_STEP_WAIT_LONG })?;
    let restarted = checkpoint(db, "RESTART");
    // Readers may hold the log open past the wait; then it starts over after a later checkpoint.
    restarted.map(|_| ())
}

struct Progress {
    length: i64,
    moved: i64,
}

fn checkpoint(db: &Connection, mode: &str) -> Result<Progress, StoreError> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let progress = |row: &rusqlite::Row<'_>| Ok(Progress { length: row.get(1)?, moved: row.get(2)? });
    Ok(db.query_row(&sql, [], progress)?)
}
