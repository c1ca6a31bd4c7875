//! What a power cut leaves of the embedded store. Its writes and syncs are recorded under strace, and at many moments the files are
//! built as a disk may hold them when the power goes: what was synced for certain, and of what was written since then
//! everything, nothing, or sectors at random. What was acknowledged before that moment must be there.

use super::{FILE, row_of, runtime, submit};
use enginehouse_core::id::Key;
use enginehouse_store::{Depth, Durability, Ref, SqliteOptions, SqliteStore, Store};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the directory to the process that is recorded.
const VICTIM: &str = "ENGINEHOUSE_TEST_POWER_VICTIM";
/// Set for a store that does not sync its commits.
const RELAXED: &str = "ENGINEHOUSE_TEST_POWER_RELAXED";
/// Between two of them the log is moved into the file and starts over.
const SPELLS: i64 = 3;
const SUBMITS: i64 = 12;
/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// Moments between two cuts; a prime, so that they meet all places of a commit.
const BETWEEN_CUTS: usize = 13;

/// One thing that happened, in the order in which it did.
enum Moment {
    Wrote {
        file: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Sized {
        file: String,
        bytes: usize,
    },
    /// At once and for good: what a directory holds is what a file system's own journal keeps in order.
    Removed {
        file: String,
    },
    SyncBegun {
        file: String,
    },
    Synced {
        file: String,
    },
    Acknowledged(i64),
}

/// What a disk does with what it was not told to keep.
#[derive(Debug, Clone, Copy)]
enum Disk {
    KeepsAll,
    LosesAll,
    Tears,
}

/// A file as it was written, and as it certainly is.
#[derive(Default)]
struct Recorded {
    synced: Vec<u8>,
    /// Since then: where and what, or a new size.
    since: Vec<(usize, Option<Vec<u8>>)>,
    /// How many of those the sync under way covers.
    covered: usize,
}

fn change(image: &mut Vec<u8>, at: usize, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            image.resize(image.len().max(at + bytes.len()), 0);
            image[at..at + bytes.len()].copy_from_slice(bytes);
        }
        None => image.resize(at, 0),
    }
}

impl Recorded {
    fn sync(&mut self) {
        for (at, bytes) in self.since.drain(..std::mem::take(&mut self.covered)) {
            change(&mut self.synced, at, bytes.as_deref());
        }
    }

    fn after_a_cut(&self, disk: Disk, cut: usize) -> Vec<u8> {
        let mut image = self.synced.clone();
        for (number, (at, bytes)) in self.since.iter().enumerate() {
            let survives = |sector: usize| match disk {
                Disk::KeepsAll => true,
                Disk::LosesAll => false,
                Disk::Tears => coin((cut, number, sector)),
            };
            match bytes {
                Some(bytes) => {
                    for (sector, part) in bytes.chunks(SECTOR).enumerate().filter(|(s, _)| survives(*s)) {
                        change(&mut image, at + sector * SECTOR, Some(part));
                    }
                }
                None if survives(0) => change(&mut image, *at, None),
                None => {}
            }
        }
        image
    }
}

fn coin(of: impl Hash) -> bool {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish().is_multiple_of(2)
}

/// Submits, and lets the log be moved into the file in between. Does nothing as an ordinary test.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let dir = Path::new(&dir);
    let durability = std::env::var_os(RELAXED).map_or(Durability::Full, |_| Durability::Relaxed);
    runtime().block_on(async {
        let store = SqliteStore::open(SqliteOptions { durability, ..SqliteOptions::new(dir) }).unwrap();
        let moved = || std::fs::metadata(dir.join(FILE)).unwrap().modified().unwrap();
        for spell in 0..SPELLS {
            let before = moved();
            for key in spell * SUBMITS + 1..=(spell + 1) * SUBMITS {
                submit(&store, key).await;
                println!("acknowledged {key}");
            }
            let begun = Instant::now();
            while moved() == before && spell + 1 < SPELLS {
                assert!(begun.elapsed() < Duration::from_secs(30), "the log was not moved");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    // As a cut would: nothing is closed.
    std::process::exit(0);
}

/// Runs the victim in `dir` and tells what it did; `None`, with the reason on standard error, where that cannot be recorded.
fn record(dir: &Path, relaxed: bool) -> Option<Vec<Moment>> {
    let log = dir.with_extension("strace");
    let strace = || {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-xx", "-y", "-s", "65536", "-e", "signal=none"]);
        command.args(["-e", "trace=pwrite64,write,ftruncate,unlink,fsync,fdatasync", "-o"]).arg(&log);
        command
    };
    let tried = strace().arg("true").output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED power cuts: strace: {tried:?}");
        return None;
    }
    let mut command = strace();
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "power::victim", "--nocapture"]);
    command.env(VICTIM, dir).stdout(Stdio::null());
    if relaxed {
        command.env(RELAXED, "1");
    }
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    Some(moments(&std::fs::read_to_string(log).unwrap(), dir))
}

/// Reads strace's lines; a call that another thread's interrupts stands in two of them.
fn moments(text: &str, dir: &Path) -> Vec<Moment> {
    let (mut moments, mut begun) = (Vec::new(), BTreeMap::new());
    for line in text.lines() {
        let (process, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        let whole = if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            moments.extend(sync_of(start, dir).map(|file| Moment::SyncBegun { file }));
            begun.insert(process, start.to_owned());
            continue;
        } else if rest.starts_with("<... ") {
            let Some(start) = begun.remove(process) else { continue };
            start + rest.split_once("resumed>").unwrap().1
        } else {
            moments.extend(sync_of(rest, dir).map(|file| Moment::SyncBegun { file }));
            rest.to_owned()
        };
        moments.extend(moment(&whole, dir));
    }
    moments
}

fn sync_of(call: &str, dir: &Path) -> Option<String> {
    let syncs = call.starts_with("fsync(") || call.starts_with("fdatasync(");
    syncs.then(|| file_of(call, dir)).flatten()
}

/// The store's file that a call is about.
fn file_of(call: &str, dir: &Path) -> Option<String> {
    let path = match call.strip_prefix("unlink(") {
        Some(arguments) => arguments.split('"').nth(1)?,
        None => call.split_once('<')?.1.split_once('>')?.0,
    };
    let path = String::from_utf8(bytes_of(path)).ok()?;
    let name = Path::new(&path).strip_prefix(dir).ok()?.to_str()?.to_owned();
    // The directory itself has no content, and the index of the log is made again from the log.
    (!name.is_empty() && !name.ends_with("-shm")).then_some(name)
}

/// A call that ended.
fn moment(call: &str, dir: &Path) -> Option<Moment> {
    let (arguments, result) = call.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let data = || arguments.split('"').nth(1).map(bytes_of);
    if call.starts_with("write(1<") {
        let line = String::from_utf8(data()?).ok()?;
        return line.trim().strip_prefix("acknowledged ")?.parse().ok().map(Moment::Acknowledged);
    }
    let file = file_of(call, dir)?;
    if call.starts_with("unlink(") {
        return (result == "0").then_some(Moment::Removed { file });
    }
    assert!(!result.starts_with('-'), "{call}");
    if sync_of(call, dir).is_some() {
        return Some(Moment::Synced { file });
    }
    let last: usize = arguments.rsplit_once(", ")?.1.parse().ok()?;
    match call.split_once('(')?.0 {
        "pwrite64" => Some(Moment::Wrote { file, at: last, bytes: data()? }),
        "ftruncate" => Some(Moment::Sized { file, bytes: last }),
        _ => None,
    }
}

/// `\x61\x62`
fn bytes_of(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// Cuts the power at many moments; how many stores were looked at, and what was wrong with them.
fn cut(moments: Vec<Moment>, recorded: &Path) -> (usize, Vec<String>) {
    let mut files: BTreeMap<String, Recorded> = BTreeMap::new();
    let (mut acknowledged, mut looked, mut wrong) = (0, 0, Vec::new());
    for (number, moment) in moments.into_iter().enumerate() {
        match moment {
            Moment::Wrote { file, at, bytes } => {
                files.entry(file).or_default().since.push((at, Some(bytes)));
            }
            Moment::Sized { file, bytes } => files.entry(file).or_default().since.push((bytes, None)),
            Moment::Removed { file } => drop(files.remove(&file)),
            Moment::SyncBegun { file } => {
                let file = files.entry(file).or_default();
                file.covered = file.since.len();
            }
            Moment::Synced { file } => files.entry(file).or_default().sync(),
            Moment::Acknowledged(key) => acknowledged = key,
        }
        if acknowledged == 0 || number % BETWEEN_CUTS > 0 {
            continue;
        }
        for disk in [Disk::KeepsAll, Disk::LosesAll, Disk::Tears] {
            let dir = tempfile::tempdir().unwrap();
            for (name, file) in &files {
                std::fs::write(dir.path().join(name), file.after_a_cut(disk, number)).unwrap();
            }
            looked += 1;
            wrong.extend(
                finding(dir.path(), acknowledged).map(|what| format!("moment {number}, {disk:?}: {what}")),
            );
        }
    }
    assert_eq!(acknowledged, SPELLS * SUBMITS);
    for (name, file) in files.iter().filter(|(name, _)| name.starts_with(FILE)) {
        let is = std::fs::read(recorded.join(name)).unwrap();
        assert!(
            file.after_a_cut(Disk::KeepsAll, 0) == is,
            "{name} was written in a way that is not recorded"
        );
    }
    (looked, wrong)
}

/// What is wrong with the store in `dir`.
fn finding(dir: &Path, acknowledged: i64) -> Option<String> {
    runtime().block_on(async {
        let store = match SqliteStore::open(SqliteOptions::new(dir)) {
            Ok(store) => store,
            Err(error) => return Some(format!("it does not open: {error}")),
        };
        for key in 1..=acknowledged {
            let found = store.find(&[Ref::Key(Key(key))]).await.unwrap().remove(0);
            if found.is_none_or(|found| found.fixed != row_of(key, found.fixed.created_at).fixed) {
                return Some(format!("{key} of {acknowledged} is lost"));
            }
        }
        let findings = store.check(Depth::Full).await.unwrap().findings;
        store.close().await.unwrap();
        findings.into_iter().next()
    })
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let Some(moments) = record(&data, false) else { return };
    let (looked, wrong) = cut(moments, &data);
    println!("{looked} stores after a power cut");
    assert!(looked > 60, "{looked}");
    assert_eq!(wrong, Vec::<String>::new());
}

/// Without a sync of each commit the last ones go, and nothing else; so the test above can fail.
#[test]
fn a_power_cut_of_a_relaxed_store_loses_the_last_and_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let Some(moments) = record(&data, true) else { return };
    let (_, wrong) = cut(moments, &data);
    assert!(!wrong.is_empty(), "nothing was lost");
    assert!(wrong.iter().all(|what| what.ends_with("is lost")), "{wrong:?}");
}
