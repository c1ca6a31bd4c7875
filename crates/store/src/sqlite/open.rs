//! From a directory to connections: the lock, the file, who it belongs to, and how each connection is set up.

use super::migrate::{Identity, migrate};
use super::{Durability, SqliteOptions};
use crate::StoreError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) const FILE: &str = "enginehouse.sqlite";
/// A restore writes here first; while it is there, the restore is not finished.
pub(super) const RESTORING: &str = "enginehouse.sqlite.restoring";
const LOCK: &str = "lock";

/// SQLite before this version can lose a commit when a second connection checkpoints.
const SQLITE_MIN: i32 = 3_051_003;
const PAGE_BYTES: i64 = 8_192;
pub(super) const WRITER_CACHE_KIB: i64 = 16 << 10;
const READER_CACHE_KIB: i64 = 4 << 10;
/// How far the log file may stay grown after a checkpoint emptied it.
const LOG_KEPT_BYTES: i64 = 64 << 20;
/// Only a checkpoint in its last step makes a connection wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at the time.
const STEPS_BETWEEN_LOOKS: i32 = 20_000;

/// Proof that no other process uses the directory; given up when dropped.
pub(super) struct DirLock {
    _file: Flock<File>,
}

pub(super) fn unavailable(what: &str, path: &Path, error: &std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Unavailable(format!("cannot {what} {}: {error}", path.display())),
    }
}

/// Makes the directory if it is not there (for its owner only) and locks it.
pub(super) fn lock(dir: &Path) -> Result<DirLock, StoreError> {
    if !dir.is_dir() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| unavailable("create the data directory", dir, &e))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
    }
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|e| unavailable("open the lock file", &path, &e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            // The number is for people who meet the lock; the lock itself does not depend on it.
            let noted = file.set_len(0).and_then(|()| file.rewind());
            let noted = noted.and_then(|()| writeln!(file, "{}", std::process::id()));
            noted.map_err(|e| unavailable("write the lock file", &path, &e))?;
            Ok(DirLock { _file: file })
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                pid => format!("another process (pid {pid})"),
            };
            Err(StoreError::Refused(format!(
                "{holder} uses the data directory {}; stop it first, or choose another directory",
                dir.display()
            )))
        }
        Err((_, error)) => Err(unavailable("lock", &path, &error.into())),
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| unavailable("sync the directory", dir, &e))
}

/// Opens the writer's connection to a directory that is locked: makes, checks and migrates the file as needed.
pub(super) fn writer(options: &SqliteOptions) -> Result<Connection, StoreError> {
    check_library()?;
    let path = options.dir.join(FILE);
    let restoring = options.dir.join(RESTORING);
    if restoring.exists() {
        let why = format!("a restore into {} was cut short; run it again", options.dir.display());
        return Err(StoreError::Refused(why));
    }
    let is_new = !path.exists();
    if is_new {
        // SQLite gives its log the permissions of the file, so the file is made before SQLite sees it.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|e| unavailable("create", &path, &e))?;
    }
    let mut db = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let name = path.display().to_string();
    let identity = Identity::read(&db).map_err(|e| not_a_store(&name, e))?;
    identity.check(&name)?;
    set_up_writer(&db, options.durability)?;
    migrate(&db, &identity)?;
    check_start(&mut db, options.startup_check)?;
    if is_new {
        sync_dir(&options.dir)?;
    }
    Ok(db)
}

fn check_library() -> Result<(), StoreError> {
    if rusqlite::version_number() < SQLITE_MIN {
        let why = format!("SQLite {} is too old: a store needs 3.51.3 or newer", rusqlite::version());
        return Err(StoreError::Refused(why));
    }
    Ok(())
}

fn not_a_store(name: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt(why) => StoreError::Corrupt(format!("{name}: {why}")),
        other => other,
    }
}

pub(super) fn connect(path: &Path, mode: OpenFlags) -> Result<Connection, StoreError> {
    // One thread at a time uses a connection, so SQLite's own locks on it are left out.
    let db = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    // A plan that depended on the values bound to it would be made again at each use.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.execute_batch("PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF; PRAGMA cell_size_check = ON")?;
    Ok(db)
}

fn set_up_writer(db: &Connection, durability: Durability) -> Result<(), StoreError> {
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Relaxed => "NORMAL",
    };
    // The page size and the vacuum mode take effect only while the file is empty.
    db.execute_batch(&format!("PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL"))?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let why = format!("the file system does not carry a write-ahead log (SQLite stays in mode {mode})");
        return Err(StoreError::Refused(why));
    }
    db.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = {LOG_KEPT_BYTES}; PRAGMA cache_size = -{WRITER_CACHE_KIB}"
    ))?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// A connection that cannot write.
pub(super) fn reader(dir: &Path) -> Result<Connection, StoreError> {
    let db = connect(&dir.join(FILE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.execute_batch(&format!("PRAGMA query_only = ON; PRAGMA cache_size = -{READER_CACHE_KIB}"))?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// The connection that only moves the log into the file.
pub(super) fn checkpointer(dir: &Path) -> Result<Connection, StoreError> {
    let db = connect(&dir.join(FILE), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -1024")?;
    Ok(db)
}

/// Runs `work`, which SQLite breaks off once `limit` is over.
pub(super) fn within<T>(
    db: &mut Connection,
    limit: Duration,
    work: impl FnOnce(&Connection) -> T,
) -> Result<T, rusqlite::Error> {
    let until = Instant::now() + limit;
    db.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= until))?;
    let done = work(db);
    db.progress_handler(0, None::<fn() -> bool>)?;
    Ok(done)
}

/// Reads pages for damage for at most `budget`: a small store wholly, a large one in part.
fn check_start(db: &mut Connection, budget: Duration) -> Result<(), StoreError> {
    match quick_check(db, budget)? {
        findings if findings.is_empty() => Ok(()),
        findings => Err(StoreError::Corrupt(findings.join("; "))),
    }
}

/// SQLite's quick check; what it found until the budget was used up.
pub(super) fn quick_check(db: &mut Connection, budget: Duration) -> Result<Vec<String>, StoreError> {
    match within(db, budget, |db| findings(db, "PRAGMA quick_check(8)"))? {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(Vec::new()),
        found => Ok(found?),
    }
}

pub(super) fn findings(db: &Connection, pragma: &str) -> Result<Vec<String>, rusqlite::Error> {
    let mut statement = db.prepare(pragma)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let all: Vec<String> = rows.collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|finding| finding != "ok").collect())
}
