//! Workers as processes of their own: children of this node that join it over loopback HTTP.
//!
//! A child is told everything, its token and the engines' secrets included, in one line on its standard input, and nothing
//! by its arguments or its environment. The pipe stays open while the node lives, so a child whose node died hears it at
//! once; the node waits on the child, so it hears of a child's death as soon as the system does.

use super::link::NodeLink;
use super::provider::{Life, Provider, WorkerEnd};
use crate::state::context::Context;
use crate::state::joined::{Owner, fresh_token};
use crate::state::port::Origin;
use crate::state::settings::WorkerProcesses;
use enginehouse_api::WorkerBriefing;
use enginehouse_core::id::SessionId;
use nix::sys::signal::Signal;
use secrecy::ExposeSecret;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// What a child keeps of this process's environment: where things are, how to speak to the outside, nothing that could be a
/// secret.
const KEPT_VARIABLES: [&str; 17] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "TZ",
    "LANG",
    "LC_ALL",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "no_proxy",
    "RUST_BACKTRACE",
];
const SIGHUP: i32 = Signal::SIGHUP as i32;
const SIGINT: i32 = Signal::SIGINT as i32;
const SIGKILL: i32 = Signal::SIGKILL as i32;
const SIGTERM: i32 = Signal::SIGTERM as i32;
/// Between two looks at what a worker uses, and at one that has not shown it yet: growth may wait for that.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const FIRST_SAMPLE_WITHIN: Duration = Duration::from_millis(100);
/// In what parts of a second Linux tells programs of processor time.
const TICKS_A_SECOND: f64 = 100.0;

/// Launches worker processes.
pub(crate) struct Processes(pub(crate) WorkerProcesses);

impl Provider for Processes {
    fn origin(&self) -> Origin {
        Origin::Process
    }

    fn launch(&self, name: &str, link: NodeLink) -> Life {
        let NodeLink { cx, session, inbox } = link;
        let token = fresh_token(session);
        let owner = Owner::Token { hash: cx.payloads.token_hash(&token) };
        {
            let mut joined = cx.workers.joined.lock();
            let is_over = |session| !cx.workers.ports.lock().contains_key(&session);
            joined.seat(session, owner, inbox, is_over);
        }
        let (processes, worker) = (self.0.clone(), name.to_owned());
        let before = out_of_memory_kills();
        Box::pin(async move {
            match follow(&cx, session, &processes, worker, token).await {
                Ok(status) => ended(status, before.is_some() && before == out_of_memory_kills()),
                Err(error) => WorkerEnd::Failed(error.to_string()),
            }
        })
    }
}

/// Classifies the end of a worker by the exit status of its process. `memory_held`: the OOM killer did not fire, so a SIGKILL
/// came from an operator.
fn ended(status: ExitStatus, memory_held: bool) -> WorkerEnd {
    let text = format!("its process ended: {status}");
    match status.signal() {
        None if status.success() => WorkerEnd::Dismissed,
        Some(SIGKILL | SIGTERM | SIGINT | SIGHUP) if memory_held => WorkerEnd::Killed(text),
        _ => WorkerEnd::Failed(text),
    }
}

/// How many processes of this machine the OOM killer has killed.
fn out_of_memory_kills() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Starts the process and follows it to its end. Dropped, it kills the process.
async fn follow(
    cx: &Arc<Context>,
    session: SessionId,
    processes: &WorkerProcesses,
    worker: String,
    token: String,
) -> std::io::Result<ExitStatus> {
    let mut door = cx.workers.worker_door.subscribe();
    let url = match door.wait_for(Option::is_some).await {
        Ok(url) => url.clone().unwrap_or_default(),
        Err(_) => return Err(std::io::Error::other("the node stopped")),
    };
    let capacity = cx.workers.ports.lock().get(&session).map_or(1, |port| port.seat.capacity);
    let secrets = processes.secrets.iter();
    let briefing = WorkerBriefing {
        url,
        token,
        worker,
        capacity,
        engines: processes.engines.clone(),
        secrets: secrets.map(|(place, value)| (place.clone(), value.expose_secret().to_owned())).collect(),
        log_level: processes.log_level.clone(),
        log_json: processes.log_json,
    };
    let mut line = serde_json::to_vec(&briefing)?;
    line.push(b'\n');
    let mut child = command(&processes.program).spawn()?;
    // Held to the end: its closing is what tells the child that the node is gone.
    let mut pipe = child.stdin.take();
    if let Some(pipe) = &mut pipe {
        // A child that does not read is met by its end, or by its launch taking too long.
        let _ = pipe.write_all(&line).await;
    }
    drop(line);
    let status = watch(cx, session, &mut child).await;
    drop(pipe);
    status
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("worker").env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    for name in KEPT_VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // A signal from the terminal is for the node, which lets its workers finish first.
    command.process_group(0);
    command
}

/// Waits for the child's end, and takes note of what it uses meanwhile.
async fn watch(cx: &Context, session: SessionId, child: &mut Child) -> std::io::Result<ExitStatus> {
    let Some(pid) = child.id() else { return child.wait().await };
    let mut pause = FIRST_SAMPLE_WITHIN;
    let mut last: Option<(Instant, f64)> = None;
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            () = sleep(pause) => {}
        }
        let (now, used) = (Instant::now(), processor_seconds(pid));
        let cores = last.zip(used).map(|((at, before), used)| {
            (used - before).max(0.0) / now.duration_since(at).as_secs_f64().max(0.001)
        });
        last = used.map(|used| (now, used));
        if let Some(port) = cx.workers.ports.lock().get_mut(&session) {
            let memory = memory_of(pid);
            port.memory_bytes = memory.map(|(resident, _)| resident);
            // A process that still starts is smaller than any worker at work, and would make room for too many.
            port.private_bytes = port.ready_at.and(memory).map(|(_, private)| private);
            pause = if port.private_bytes.is_some() { SAMPLE_EVERY } else { FIRST_SAMPLE_WITHIN };
            port.busy_cores = cores.filter(|_| !port.held.is_empty());
        }
    }
}

/// Bytes of a process that are in memory, and those of them that are not pages of files, which processes share.
fn memory_of(pid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some((bytes("VmRSS:")?, bytes("RssAnon:")? + bytes("RssShmem:")?))
}

/// Processor time that a process used since it began.
fn processor_seconds(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; behind it stand the third field and those that follow.
    let rest = text.rsplit_once(')')?.1;
    let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    (ticks.len() == 2).then(|| ticks.iter().sum::<u64>() as f64 / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_by_somebody_is_told_from_a_crash() {
        let by = |signal: i32| ExitStatus::from_raw(signal);
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        let rows = [
            (code(0), true, "dismissed"),
            (code(1), true, "failed"),
            (by(SIGKILL), true, "killed"),
            (by(SIGTERM), true, "killed"),
            // It may have been the system, because what ran there took all memory.
            (by(SIGKILL), false, "failed"),
            (by(Signal::SIGSEGV as i32), true, "failed"),
            (by(Signal::SIGABRT as i32), true, "failed"),
        ];
        for (status, memory_held, expected) in rows {
            let found = match ended(status, memory_held) {
                WorkerEnd::Dismissed => "dismissed",
                WorkerEnd::Failed(_) => "failed",
                WorkerEnd::Killed(_) => "killed",
            };
            assert_eq!(found, expected, "{status}");
        }
    }

    #[test]
    fn what_a_process_uses_is_known() {
        let me = std::process::id();
        assert!(memory_of(me).is_some_and(|(resident, private)| private > 256 << 10 && resident > private));
        assert!(processor_seconds(me).is_some());
        assert_eq!((memory_of(u32::MAX), processor_seconds(u32::MAX)), (None, None));
    }
}
