//! A few read-only connections, each used by one reader at a time.

use super::open::{self, within};
use crate::StoreError;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest a read may take.
const READ_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Pool {
    idle: Arc<Mutex<Vec<Connection>>>,
    /// As many permits as connections; closed when the store is.
    places: Arc<Semaphore>,
    size: u32,
    /// Reads run on the calling thread.
    inline: bool,
}

impl Pool {
    pub(super) fn open(dir: &Path, readers: usize, inline: bool) -> Result<Pool, StoreError> {
        let size = readers.clamp(1, 64);
        let connections = (0..size).map(|_| open::reader(dir)).collect::<Result<Vec<_>, _>>()?;
        Ok(Pool {
            idle: Arc::new(Mutex::new(connections)),
            places: Arc::new(Semaphore::new(size)),
            size: u32::try_from(size).unwrap_or(1),
            inline,
        })
    }

    /// Runs `work` in a read transaction of its own.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let idle = self.idle.clone();
        let task = move || {
            let lost =
                || StoreError::Unavailable("a reading connection was lost to an earlier failure".to_owned());
            let mut db = idle.lock().pop().ok_or_else(lost)?;
            let done = read_in_transaction(&mut db, work);
            idle.lock().push(db);
            drop(place);
            done
        };
        if self.inline {
            return task();
        }
        let gone = |_| StoreError::Unavailable("the reading thread ended early".to_owned());
        tokio::task::spawn_blocking(task).await.map_err(gone)?
    }

    /// Waits for the reads that run, refuses others, and closes the connections.
    pub(super) async fn close(&self) {
        let all = self.places.acquire_many(self.size).await;
        self.places.close();
        self.idle.lock().clear();
        drop(all);
    }
}

fn read_in_transaction<T>(
    db: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    within(db, READ_LIMIT, |db| {
        db.prepare_cached("BEGIN")?.raw_execute()?;
        let done = work(db);
        let ended = db.prepare_cached("COMMIT").and_then(|mut s| s.raw_execute());
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK")?;
        }
        let done = done?;
        match ended {
            // What was read is whole; only the end of the transaction met the time limit.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(done),
            ended => ended.map(|_| done).map_err(StoreError::from),
        }
    })?
}
