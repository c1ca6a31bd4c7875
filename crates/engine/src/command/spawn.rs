//! Starting a program that waits at a gate until it may begin.
//!
//! The parent-death signal is sent when the *thread* that forked ends, so each program has a thread that starts it, waits for
//! its end, and lives as long as it does.

use super::CommandConfig;
use super::group::Leader;
use crate::contract::{EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, close, getpid, getppid, pipe2, read, write};
use secrecy::ExposeSecret;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::oneshot;

/// The byte that lets a program begin; any other, and the end of the pipe, sends it away.
const GO: u8 = b'g';
const AWAY: u8 = b'x';

/// Everything that is known of a program before it starts.
pub(super) struct Program(Command);

impl Program {
    pub(super) fn new(config: &CommandConfig, directory: &Path, traceparent: Option<&str>) -> Program {
        let mut command = Command::new(&config.argv[0]);
        command.args(&config.argv[1..]).env_clear().current_dir(directory).process_group(0);
        // Where OpenTelemetry's tools look for a parent when there are no headers.
        command.envs(traceparent.map(|context| ("TRACEPARENT", context)));
        for (name, value) in &config.env {
            command.env(name, value.expose_secret());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Program(command)
    }
}

/// A process that waits at its gate, not yet the program.
pub(super) struct Spawned {
    pub(super) leader: Leader,
    pub(super) gate: Gate,
}

/// Opens once; dropped unopened it sends the process away.
pub(super) struct Gate {
    end: Option<OwnedFd>,
    begun: oneshot::Receiver<Result<Begun, Error>>,
}

/// What the thread gives when the program has begun.
struct Begun {
    streams: (std::process::ChildStdin, std::process::ChildStdout, std::process::ChildStderr),
    ended: oneshot::Receiver<Result<ExitStatus, Error>>,
}

/// A program that has begun.
pub(super) struct Running {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
    pub(super) ended: ProgramEnd,
}

/// The end of a program.
pub(super) struct ProgramEnd(oneshot::Receiver<Result<ExitStatus, Error>>);

impl ProgramEnd {
    pub(super) async fn status(self) -> Result<ExitStatus, EngineFailure> {
        match self.0.await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(broken("the end of the program is not known", &error)),
            Err(_) => Err(broken("the end of the program is not known", &Error::other("its thread ended"))),
        }
    }
}

/// Forks; what comes back waits until its gate is opened.
pub(super) async fn spawn(program: Program) -> Result<Spawned, EngineFailure> {
    let no_pipe = |errno: nix::Error| broken("no pipe", &errno.into());
    let (hello, hello_end) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
    let (gate, gate_end) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
    let (begin, begun) = oneshot::channel();
    let mut command = program.0;
    wait_at_gate(&mut command, hello_end.as_raw_fd(), gate.as_raw_fd(), gate_end.as_raw_fd());
    let thread = std::thread::Builder::new().name("command".to_owned());
    thread
        .spawn(move || {
            let spawned = command.spawn();
            // From here on only the process itself holds these ends.
            drop((hello_end, gate));
            live(spawned, begin);
        })
        .map_err(|error| broken("no thread", &error))?;
    let mut gate = Gate { end: Some(gate_end), begun };
    let pid = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 4];
        std::fs::File::from(hello).read_exact(&mut bytes).map(|()| i32::from_ne_bytes(bytes))
    });
    match pid.await {
        Ok(Ok(pid)) => match Leader::of(pid) {
            Some(leader) => Ok(Spawned { leader, gate }),
            None => Err(broken("the process ended at once", &Error::from(ErrorKind::NotFound))),
        },
        // The process never came to its gate; the thread knows why.
        _ => Err(gate.failure().await),
    }
}

/// Starts nothing itself: the rest of a program's life on its thread.
fn live(spawned: Result<Child, Error>, begin: oneshot::Sender<Result<Begun, Error>>) {
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return drop(begin.send(Err(error))),
    };
    let (end, ended) = oneshot::channel();
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let begun = match streams {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok(Begun { streams: (stdin, stdout, stderr), ended }),
        _ => Err(Error::other("a stream is missing")),
    };
    // No one may be listening any more; the process is waited for in any case, or it would stay as a zombie.
    let _ = begin.send(begun);
    let _ = end.send(child.wait());
}

/// Makes the forked process die with its parent's thread, say its number, and wait for permission.
#[allow(unsafe_code, reason = "between fork and exec there is no other way to run anything")]
fn wait_at_gate(command: &mut Command, hello: RawFd, gate: RawFd, gate_end: RawFd) {
    let parent = getpid();
    // SAFETY: the closure runs in the forked process, where only async-signal-safe calls are allowed: it makes plain
    // system calls (prctl, getppid, getpid, write, close, read) and builds errors from numbers, and never allocates.
    // The descriptors are open then: their owners are dropped by the forking thread after `spawn` has returned, and by
    // the gate, which is a copy of the parent's.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The allocator of this process does without huge pages, which a program would inherit. A kernel may not know of
            // them, which is as good.
            let _ = nix::sys::prctl::set_thp_disable(false);
            // The parent may have died before that was set.
            if getppid() != parent {
                return Err(Error::from_raw_os_error(nix::libc::ESRCH));
            }
            close(gate_end)?;
            write(std::os::fd::BorrowedFd::borrow_raw(hello), &Pid::as_raw(getpid()).to_ne_bytes())?;
            let mut byte = [0];
            loop {
                match read(std::os::fd::BorrowedFd::borrow_raw(gate), &mut byte) {
                    Err(nix::Error::EINTR) => {}
                    Ok(1) if byte == [GO] => return Ok(()),
                    _ => return Err(Error::from_raw_os_error(nix::libc::ECANCELED)),
                }
            }
        });
    }
}

impl Gate {
    /// Lets the program begin.
    pub(super) async fn open(mut self) -> Result<Running, EngineFailure> {
        if let Some(end) = self.end.take() {
            let told = std::fs::File::from(end).write_all(&[GO]);
            told.map_err(|error| broken("the process is gone", &error))?;
        }
        let begun = match (&mut self.begun).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(not_started(&error)),
            Err(_) => return Err(not_started(&Error::other("its thread ended"))),
        };
        let (stdin, stdout, stderr) = begun.streams;
        let no_stream = |error: Error| broken("a stream cannot be read", &error);
        Ok(Running {
            stdin: ChildStdin::from_std(stdin).map_err(no_stream)?,
            stdout: ChildStdout::from_std(stdout).map_err(no_stream)?,
            stderr: ChildStderr::from_std(stderr).map_err(no_stream)?,
            ended: ProgramEnd(begun.ended),
        })
    }

    /// Why the process never came to its gate.
    async fn failure(&mut self) -> EngineFailure {
        match (&mut self.begun).await {
            Ok(Err(error)) => not_started(&error),
            _ => not_started(&Error::other("it ended before it began")),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // A process that is gone needs no telling.
            let _ = std::fs::File::from(end).write_all(&[AWAY]);
        }
    }
}

/// The program cannot be started; trying again changes nothing.
fn not_started(error: &Error) -> EngineFailure {
    let (kind, code) = match error.kind() {
        ErrorKind::NotFound => (FailureKind::NotFound, "program_not_found"),
        ErrorKind::PermissionDenied => (FailureKind::Auth, "program_not_allowed"),
        _ => (FailureKind::Unavailable, "not_started"),
    };
    EngineFailure::new(kind, code, format!("the program could not be started: {error}"))
}

/// Something of this machine is missing, so that nothing was started.
fn broken(what: &str, error: &Error) -> EngineFailure {
    EngineFailure::new(FailureKind::Unavailable, "no_process", format!("{what}: {error}"))
        .with_reached(Reached::Yes)
}
