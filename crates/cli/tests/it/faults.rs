//! What an operator and a machine do to a service under load: a stop that is not waited for, a process that stands still,
//! a disk that is full, a disk that fails. What was acknowledged is kept through all of it.

use crate::house::{House, skipped};
use crate::ledger::{Outside, all_ended, everything, store_findings};
use crate::load::{Kind, Load, program, programs_begun};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const STEPS_MAX: u64 = 100_000;

const MIX: &[Kind] = &[
    Kind::Plain,
    Kind::Once,
    Kind::Group,
    Kind::Failing,
    Kind::Program,
    Kind::Scheduled,
    Kind::Cancelled,
    Kind::ProgramOnce,
    Kind::BackOff,
    Kind::CancelledEarly,
];
/// What ends well at its first attempt.
const CALM: &[Kind] =
    &[Kind::Plain, Kind::Long, Kind::Program, Kind::Once, Kind::Group, Kind::ProgramOnce, Kind::Scheduled];

fn wait_for(what: &str, house: &House, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}: {}", house.said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets everything end and holds it against what was told; stops the service.
fn settle(name: &str, mut house: House, load: &Load, notes: &Path) {
    all_ended(&house, PATIENCE);
    let outside = Outside { programs: programs_begun(notes), ..Outside::default() };
    let findings = load.ledger().check(&house, &outside);
    assert!(findings.is_empty(), "{name}: {findings:#?}");
    house.halt();
    assert_eq!(store_findings(&house.data()), Vec::<String>::new(), "{name}");
    println!("{name}: acknowledged {}, lost 0, double 0", load.acknowledged());
}

#[test]
fn a_second_signal_under_load_loses_nothing() {
    let notes = tempfile::tempdir().unwrap();
    let mut house = House::start(&program(notes.path()));
    let load = Load::new("stop", MIX, STEPS_MAX);
    // It would use up the whole grace.
    load.ledger().sent.insert("endless".to_owned(), false);
    let endless =
        json!({"id": "endless", "engine": "demo", "workflowId": "w", "parameters": {"sleepMs": 600_000}});
    house.must("POST", "/v1/executions", Some(&endless));
    let callers = load.begin(&house);
    wait_for("submits", &house, || load.acknowledged() >= 40);
    house.signal("TERM");
    wait_for("refusals", &house, || load.answers(503) >= 3);
    house.signal("TERM");
    let status = house.wait(Duration::from_secs(10));
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {}", house.said());
    assert!(house.said().contains("a second signal"), "{}", house.said());
    let before = load.acknowledged();
    house.launch();
    wait_for("submits after the start", &house, || load.acknowledged() >= before + 20);
    callers.stop();
    house.must("POST", "/v1/executions/endless/cancel", None);
    settle("a second signal", house, &load, notes.path());
}

/// The state letter of a process, such as `S` or `T`.
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.get(..1)).unwrap_or_default().to_owned()
}

#[test]
fn a_process_that_stood_still_goes_on_where_it_was() {
    // Longer than any interval at which the service looks at itself on the work path; `STILL=35` for longer than a lease.
    let seconds = std::env::var("STILL").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let notes = tempfile::tempdir().unwrap();
    let house = House::start(&program(notes.path()));
    let load = Load::new("still", CALM, STEPS_MAX);
    let callers = load.begin(&house);
    wait_for("submits", &house, || load.acknowledged() >= 40);
    let running = house.must("GET", "/v1/executions?status=running", None);
    assert_ne!(running["executions"], json!([]), "nothing runs that could be lost");
    house.signal("STOP");
    wait_for("standing still", &house, || state(house.pid()) == "T");
    std::thread::sleep(Duration::from_secs(seconds));
    house.signal("CONT");
    let before = load.acknowledged();
    wait_for("submits afterwards", &house, || load.acknowledged() >= before + 40);
    callers.stop();
    all_ended(&house, PATIENCE);
    for (id, view) in everything(&house, "") {
        assert_eq!((&view["status"], &view["attempt"]), (&json!("completed"), &json!(1)), "{id}: {view}");
    }
    settle("a process that stood still", house, &load, notes.path());
}

/// A small file system of its own; gone when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, with the reason on standard error, where the test may not mount.
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(dir)),
            Ok(output) => {
                skipped(&format!("no small disk: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skipped(&format!("no small disk: mount: {error}"));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes this many bytes away, or all that are left.
    fn fill(&self, bytes: usize) -> PathBuf {
        let path = self.path().join("filling");
        let mut file = File::create(&path).unwrap();
        let piece = [0xA5; 4_096];
        for _ in 0..bytes / piece.len() {
            if file.write_all(&piece).is_err() {
                break;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A start without any room works, or says why it does not; it does no harm.
fn start_on_full(disk: &SmallDisk, house: &mut House) {
    let filling = disk.fill(6 << 20);
    house.spawn(house.serve());
    match house.ready() {
        None => house.kill(),
        Some(status) => {
            assert!(status.code().is_some_and(|code| code != 0), "{status}: {}", house.said());
            assert!(house.said().ends_with("disk is full\n"), "{}", house.said());
        }
    }
    std::fs::remove_file(filling).unwrap();
}

#[test]
fn a_full_disk_refuses_submits_until_there_is_room_again() {
    let Some(disk) = SmallDisk::mount("6m") else { return };
    let notes = tempfile::tempdir().unwrap();
    let mut house = House::prepare(&program(notes.path()));
    std::os::unix::fs::symlink(disk.path(), house.data()).unwrap();
    house.launch();
    house.read_key();
    let load = Load::new("full", MIX, STEPS_MAX);
    let callers = load.begin(&house);
    wait_for("submits", &house, || load.acknowledged() >= 10);
    let filling = disk.fill(6 << 20);
    wait_for("refusals", &house, || load.answers(507) >= 10);
    let refused = json!({"engine": "demo", "workflowId": "w"});
    let (status, answer) = house.call("POST", "/v1/executions", Some(&refused));
    assert_eq!((status, &answer["code"]), (507, &json!("store_full")), "{answer}");
    let known = load.ledger().acknowledged.first().unwrap().clone();
    for path in ["", "/request", "/attempts"] {
        house.must("GET", &format!("/v1/executions/{known}{path}"), None);
    }
    house.must("GET", "/v1/executions", None);
    let before = load.acknowledged();
    std::fs::remove_file(filling).unwrap();
    wait_for("submits once there is room", &house, || load.acknowledged() > before + 5);
    callers.stop();
    house.kill();
    start_on_full(&disk, &mut house);
    house.launch();
    settle("a full disk", house, &load, notes.path());
}

/// A command that lets every sync of a thread of what follows fail, from its `from`-th on.
fn strace(from: u32) -> Command {
    let mut command = Command::new("strace");
    // What follows stays the child of this test, and strace becomes a grandchild.
    command.args(["-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"]);
    command.args(["-e", "trace=fsync,fdatasync", "-e", "signal=none"]);
    command.arg("-e").arg(format!("inject=fsync,fdatasync:error=EIO:when={from}+"));
    command
}

/// The command of the service under strace; `None`, with the reason on standard error, where syncs cannot be made to fail.
fn with_failing_syncs(house: &House, from: u32) -> Option<Command> {
    let mut trial = strace(1);
    let tried = trial.arg("sync").arg(house.dir.path()).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let fails = |output: &std::process::Output| {
        String::from_utf8_lossy(&output.stderr).contains("Input/output error")
    };
    if !tried.as_ref().is_ok_and(fails) {
        skipped(&format!("no failing syncs: strace: {tried:?}"));
        return None;
    }
    let serve = house.serve();
    let mut command = strace(from);
    command.arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(house.dir.path());
    Some(command)
}

#[test]
fn a_disk_that_fails_to_sync_ends_the_service_and_loses_nothing() {
    // The sync that fails may be one that no caller waits for, such as that of a decision of the auto-scaler; so several do.
    let mut heard = 0;
    for from in [60, 75, 90, 105, 120] {
        let Some(of_this) = syncs_fail(from) else { return };
        heard += of_this;
    }
    println!("{heard} callers heard that the outcome is unknown");
    assert!(heard > 0, "no caller that waited for a failing sync was answered");
}

/// The service ends at the sync of this number and goes on at the next start; how many callers were told that it is unknown
/// what became of their submits. `None` where syncs cannot be made to fail.
fn syncs_fail(from: u32) -> Option<u64> {
    let notes = tempfile::tempdir().unwrap();
    let mut house = House::start(&program(notes.path()));
    let command = with_failing_syncs(&house, from)?;
    house.kill();
    house.spawn(command);
    assert_eq!(house.ready(), None, "{}", house.said());
    let load = Load::new("sync", MIX, STEPS_MAX);
    let callers = load.begin(&house);
    let status = house.wait(PATIENCE);
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {}", house.said());
    assert!(house.said().contains("could not be synced"), "{}", house.said());
    let heard = load.answers(503);
    let before = load.acknowledged();
    assert!(before > 0, "nothing was acknowledged before the disk failed");
    house.launch();
    wait_for("submits after the start", &house, || load.acknowledged() >= before + 20);
    callers.stop();
    settle("a disk that fails to sync", house, &load, notes.path());
    Some(heard)
}
