//! Copies out, while the store works, and back in, while it does not.

use super::migrate::Identity;
use super::open::{self, FILE, RESTORING, findings, sync_dir, unavailable};
use super::{read, row};
use crate::{Doc, DocKind, StoreError};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Pages (8 KiB each) copied between two looks whether the store is closing.
const PAGES_AT_ONCE: i32 = 1_024;
/// The file a restore puts aside.
const REPLACED: &str = "enginehouse.sqlite.replaced";

/// Copies one state of the store in `dir` to the new file `to`, synced.
pub(super) fn backup(dir: &Path, to: &Path, closing: &AtomicBool) -> Result<(), StoreError> {
    if to.exists() {
        return Err(StoreError::Refused(format!(
            "{} exists already; a backup writes a new file",
            to.display()
        )));
    }
    let partial = with_suffix(to, ".partial");
    let copied = copy(dir, &partial, closing).and_then(|()| put_in_place(&partial, to));
    // After success the name is a second one of the finished file, after a failure it is waste.
    let removed = fs::remove_file(&partial);
    copied?;
    removed.map_err(|e| unavailable("remove", &partial, &e))?;
    sync_dir(parent(to))
}

/// Copies one state of the store in `dir`, which another process may be working on, to the new file `to`.
///
/// # Errors
/// When `dir` has no store, `to` exists, or one of them cannot be read or written.
pub fn backup_from_dir(dir: &Path, to: &Path) -> Result<(), StoreError> {
    if !dir.join(FILE).is_file() {
        return Err(StoreError::Refused(format!(
            "{} has no store; name a service's data directory",
            dir.display()
        )));
    }
    backup(dir, to, &AtomicBool::new(false))
}

fn copy(dir: &Path, partial: &Path, closing: &AtomicBool) -> Result<(), StoreError> {
    make_new(partial)?;
    let from = open::reader(dir)?;
    // An open read transaction holds the state that is copied; without it each commit would begin the copy again.
    from.execute_batch("BEGIN")?;
    from.query_row("SELECT count(*) FROM store", [], |_| Ok(()))?;
    let mut target = open::connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    target.execute_batch("PRAGMA synchronous = FULL")?;
    let copying = Backup::new(&from, &mut target)?;
    loop {
        if closing.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        match copying.step(PAGES_AT_ONCE)? {
            StepResult::Done => break,
            StepResult::More => {}
            _ => return Err(StoreError::Unavailable("the copy was held up by a lock".to_owned())),
        }
    }
    drop(copying);
    drop(target);
    sync_file(partial)
}

/// Gives the finished copy its name, unless that was taken meanwhile.
fn put_in_place(partial: &Path, to: &Path) -> Result<(), StoreError> {
    fs::hard_link(partial, to).map_err(|e| unavailable("put the finished backup in place as", to, &e))
}

/// Puts the backup `from` into the data directory `dir` as its store.
///
/// The documents `with` are in it from the first moment on. Refuses a directory that a process uses, and one that has a store unless `replace` is set; then the old file is kept
/// beside the new one with `.replaced` at its name. `from` is read through first: it must be whole and of a format this
/// program knows. If it is cut short, the store does not open until a restore is run again.
pub fn restore(from: &Path, dir: &Path, replace: bool, with: &[Doc]) -> Result<(), StoreError> {
    check_source(from)?;
    let _lock = open::lock(dir)?;
    let (target, restoring) = (dir.join(FILE), dir.join(RESTORING));
    if target.exists() && !replace && !restoring.exists() {
        let why = format!("{} has a store already; say that it is to be replaced", dir.display());
        return Err(StoreError::Refused(why));
    }
    // What SQLite keeps beside a file must not meet another file of the same name.
    for suffix in ["-journal", "-wal", "-shm", ""] {
        let left = with_suffix(&restoring, suffix);
        if left.exists() {
            fs::remove_file(&left).map_err(|e| unavailable("remove", &left, &e))?;
        }
    }
    let mut source = fs::File::open(from).map_err(|e| unavailable("read", from, &e))?;
    let copied = make_new(&restoring).and_then(|mut file| {
        let copied = std::io::copy(&mut source, &mut file).and_then(|_| file.sync_all());
        copied.map_err(|e| unavailable("copy the backup to", &restoring, &e))
    });
    let copied = copied.and_then(|()| put_in(&restoring, with));
    if let Err(error) = copied {
        let _ = fs::remove_file(&restoring);
        return Err(error);
    }
    sync_dir(dir)?;
    put_aside(dir)?;
    fs::rename(&restoring, &target).map_err(|e| unavailable("put the backup in place as", &target, &e))?;
    sync_dir(dir)
}

/// Puts documents into a store's file that no one has open.
fn put_in(file: &Path, docs: &[Doc]) -> Result<(), StoreError> {
    if docs.is_empty() {
        return Ok(());
    }
    let db = open::connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Without a log there is one file to put in place; the next opening brings the log back.
    db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; BEGIN IMMEDIATE")?;
    for doc in docs {
        let rev = read::doc(&db, doc.kind, &doc.id)?.map_or(0, |there| there.rev) + 1;
        let sql = "INSERT OR REPLACE INTO doc (kind, id, rev, body) VALUES (?, ?, ?, ?)";
        let (kind, body) = (read::kind_name(doc.kind)?, row::to_json(&doc.body)?);
        db.execute(sql, params![kind, doc.id, row::signed(rev), body])?;
    }
    db.execute_batch("COMMIT")?;
    drop(db);
    sync_file(file)
}

/// The documents of one kind in a backup.
///
/// # Errors
/// When it is no backup that this program knows.
pub fn documents(backup: &Path, kind: DocKind) -> Result<Vec<Doc>, StoreError> {
    check_file(backup)?;
    read::docs(&open_unchanging(backup)?, kind)
}

/// A log must never meet a file it does not belong to, so it leaves before the file does.
fn put_aside(dir: &Path) -> Result<(), StoreError> {
    let (old, aside) = (dir.join(FILE), dir.join(REPLACED));
    let move_away = |suffix: &str| -> Result<(), StoreError> {
        let (from, to) = (with_suffix(&old, suffix), with_suffix(&aside, suffix));
        if from.exists() {
            return fs::rename(&from, &to).map_err(|e| unavailable("put aside", &from, &e));
        }
        // What an earlier restore put aside does not belong to the file put aside now.
        if to.exists() { fs::remove_file(&to).map_err(|e| unavailable("remove", &to, &e)) } else { Ok(()) }
    };
    if !old.exists() {
        return Ok(());
    }
    move_away("-wal")?;
    move_away("-shm")?;
    move_away("")?;
    sync_dir(dir)
}

fn check_source(from: &Path) -> Result<(), StoreError> {
    check_file(from)?;
    match findings(&open_unchanging(from)?, "PRAGMA integrity_check(8)")? {
        found if found.is_empty() => Ok(()),
        found => Err(StoreError::Corrupt(format!("{}: {}", from.display(), found.join("; ")))),
    }
}

/// Whether it is a whole file of a format that is known, by what it says of itself.
fn check_file(from: &Path) -> Result<(), StoreError> {
    let log = with_suffix(from, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let why = format!(
            "{} is in use or was not closed (it has a log beside it); take a backup of it",
            from.display()
        );
        return Err(StoreError::Refused(why));
    }
    if !from.is_file() {
        return Err(StoreError::Refused(format!("{} is no file", from.display())));
    }
    let db = open_unchanging(from)?;
    let name = from.display().to_string();
    let identity = Identity::read(&db)?;
    identity.check(&name)?;
    if identity.is_empty() {
        return Err(StoreError::Refused(format!("{name} is empty, not a backup of a store")));
    }
    Ok(())
}

/// A backup may lie where nothing can be written, so SQLite must not look for a log there.
fn open_unchanging(path: &Path) -> Result<Connection, StoreError> {
    let path = path.canonicalize().map_err(|e| unavailable("read", path, &e))?;
    let mut uri = OsString::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte).to_string());
            }
            other => uri.push(format!("%{other:02X}")),
        }
    }
    uri.push("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    open::connect(&PathBuf::from(uri), flags)
}

fn make_new(path: &Path) -> Result<fs::File, StoreError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|e| unavailable("create", path, &e))
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    let synced = fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|e| unavailable("sync", path, &e))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
