//! The embedded store and its directory: who may open it, what is refused, and what a kill leaves.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "what a test cannot go on without may end it")]

use enginehouse_core::execution::Execution;
use enginehouse_core::id::{Key, NodeId};
use enginehouse_core::lifecycle::{self, NewExecution};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::time::Time;
use enginehouse_store::{
    Batch, Depth, Doc, DocKind, New, Ref, SqliteOptions, SqliteStore, Store, Write, WriteOutcome, sqlite,
};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

mod power;

const FILE: &str = "enginehouse.sqlite";
/// Names the directory to the process that is going to be killed.
const VICTIM: &str = "ENGINEHOUSE_TEST_VICTIM";

fn open(dir: &Path) -> Result<SqliteStore, String> {
    SqliteStore::open(SqliteOptions::new(dir)).map_err(|error| error.to_string())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn row_of(key: i64, now: Time) -> Execution {
    let mut new = NewExecution::plain(key);
    new.fixed.created_at = now;
    lifecycle::submit(new, &HeadStarts::default())
}

async fn submit(store: &SqliteStore, key: i64) {
    let new = New { row: row_of(key, store.now()), input: Arc::from(vec![7; 2_000]), grant: None };
    let batch = Batch { node: NodeId(0), scheduler_epoch: None, writes: vec![Write::Submit(vec![new])] };
    let outcome = store.commit(batch).await.unwrap().outcomes.pop().unwrap();
    assert!(matches!(outcome, WriteOutcome::Submitted(_)), "{outcome:?}");
}

#[test]
fn one_opener_at_a_time_and_its_file_as_measured() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let refused = open(dir.path()).err().unwrap();
    assert!(refused.contains(&std::process::id().to_string()), "{refused}");
    runtime().block_on(store.close()).unwrap();
    drop(store);
    drop(open(dir.path()).unwrap());
    let db = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("PRAGMA page_size"), 8_192);
    assert_eq!(db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)).unwrap(), "wal");
}

#[test]
fn files_of_others_and_of_newer_programs_are_left_alone() {
    for (change, part) in
        [("PRAGMA user_version = 99", "newer program"), ("PRAGMA application_id = 7", "another program")]
    {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        rusqlite::Connection::open(dir.path().join(FILE)).unwrap().execute_batch(change).unwrap();
        let before = std::fs::read(dir.path().join(FILE)).unwrap();
        let refused = open(dir.path()).err().unwrap();
        assert!(refused.contains(part), "{refused}");
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
    }
}

#[test]
fn damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path()).unwrap();
        for key in 1..200 {
            submit(&store, key).await;
        }
        store.close().await.unwrap();
    });
    let mut file = std::fs::File::options().write(true).open(dir.path().join(FILE)).unwrap();
    let middle = file.metadata().unwrap().len() / 2 / 8_192 * 8_192;
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[0xa5; 8_192]).unwrap();
    drop(file);
    let noticed = match open(dir.path()) {
        Err(refused) => refused,
        Ok(store) => match runtime().block_on(store.check(Depth::Full)) {
            Ok(report) => report.findings.join("; "),
            Err(error) => error.to_string(),
        },
    };
    assert!(!noticed.is_empty());
}

#[test]
fn a_backup_taken_during_commits_is_whole() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let to = other.path().join("backup.sqlite");
    runtime().block_on(async {
        let store = open(dir.path()).unwrap();
        for key in 1..50 {
            submit(&store, key).await;
        }
        let writes = async {
            for key in 50..150 {
                submit(&store, key).await;
            }
        };
        let (copied, ()) = tokio::join!(store.backup(&to), writes);
        copied.unwrap();
        assert!(store.backup(&to).await.is_err(), "a backup writes a new file");
        let fresh = other.path().join("data");
        std::fs::create_dir(&fresh).unwrap();
        let body = serde_json::json!({"said": 1});
        let mark = Doc { kind: DocKind::Setting, id: "mark".to_owned(), rev: 7, body };
        // What a restore that was cut short left must not meet the new file.
        for left in ["", "-journal", "-wal", "-shm"] {
            std::fs::write(fresh.join(format!("enginehouse.sqlite.restoring{left}")), "left over").unwrap();
        }
        sqlite::restore(&to, &fresh, false, std::slice::from_ref(&mark)).unwrap();
        let restored = open(&fresh).unwrap();
        let marks = restored.docs(DocKind::Setting).await.unwrap();
        assert_eq!(marks, [Doc { rev: 1, ..mark }], "it is there from the first moment on");
        assert!(sqlite::documents(&to, DocKind::Setting).unwrap().is_empty(), "the backup stays as it is");
        assert_eq!(std::fs::read_dir(&fresh).unwrap().count(), 4, "the store, its log, and the lock");
        let accepted = restored.totals().await.unwrap().accepted;
        assert!((49..150).contains(&accepted), "{accepted}");
        assert!(restored.check(Depth::Full).await.unwrap().findings.is_empty());
    });
}

/// Submits without end and says what was acknowledged, until it is killed. Does nothing as an ordinary test.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    runtime().block_on(async {
        let store = open(Path::new(&dir)).unwrap();
        let first = i64::try_from(store.totals().await.unwrap().accepted).unwrap() + 1;
        for key in first.. {
            submit(&store, key).await;
            println!("acknowledged {key}");
        }
    });
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let keys = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<i64>().ok());
        acknowledged = keys.take(round * 7).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        runtime().block_on(async {
            let store = open(dir.path()).unwrap();
            let refs: Vec<Ref> = (1..=acknowledged).map(|key| Ref::Key(Key(key))).collect();
            let found = store.find(&refs).await.unwrap();
            assert!(found.iter().all(Option::is_some), "round {round}: something of {acknowledged} is lost");
            assert!(store.check(Depth::Full).await.unwrap().findings.is_empty());
            store.close().await.unwrap();
        });
    }
    assert!(acknowledged > 100, "{acknowledged}");
}
