//! `command`: a local program, with the parameters on its standard input and its result on its standard output.
//!
//! No shell, a fixed argument list, an environment of its own, a directory per attempt, and a process group of its own that
//! is killed as a whole: at a cancel, at a timeout, when the attempt is let go, and when the service dies. The group is
//! known to the store before the program begins, so that a service that starts again ends what a dead one left running.

mod directory;
mod group;
mod spawn;

use crate::client::without_mark;
use crate::config::ConfigError;
use crate::contract::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Workflow};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use directory::Directory;
use enginehouse_core::failure::FailureKind;
use group::Group;
use secrecy::SecretString;
use spawn::{Program, Running, Spawned};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

/// A line of standard error; a longer one is cut into several.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// What a failure tells of the end of standard error.
const TAIL_BYTES: usize = 2 << 10;
const READ_BYTES: usize = 64 << 10;

/// A configured program.
#[derive(Debug, Clone)]
pub struct CommandConfig {
    /// The program's absolute path, then its arguments.
    pub argv: Vec<String>,
    /// The whole environment of the program; the values are secrets.
    pub env: Vec<(String, SecretString)>,
    pub output: CommandOutput,
    /// Each attempt gets a directory of its own below this one.
    pub work_dir: PathBuf,
    /// From the wish to stop to the kill.
    pub kill_after: Duration,
}

/// What the program writes to its standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CommandOutput {
    /// One JSON value.
    #[default]
    Json,
    /// Text, which becomes a JSON string.
    Text,
}

impl CommandConfig {
    /// JSON in, JSON out, below the system's directory for temporary files.
    #[must_use]
    pub fn new(argv: Vec<String>) -> CommandConfig {
        CommandConfig {
            argv,
            env: Vec::new(),
            output: CommandOutput::default(),
            work_dir: std::env::temp_dir(),
            kill_after: Duration::from_secs(5),
        }
    }
}

/// The adapter.
pub struct Command {
    config: CommandConfig,
}

impl Command {
    /// # Errors
    /// An argument list without an absolute program, or a name of a variable that cannot be one.
    pub fn new(config: CommandConfig) -> Result<Command, ConfigError> {
        let Some(program) = config.argv.first() else {
            return Err(ConfigError::new(
                "argv",
                "is empty; give the program's absolute path, then its arguments",
            ));
        };
        if !Path::new(program).is_absolute() {
            let text =
                format!("must begin with an absolute path, not {program:?}; there is no shell and no PATH");
            return Err(ConfigError::new("argv", text));
        }
        if config.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(ConfigError::new("argv", "an argument holds a zero byte"));
        }
        if let Some((name, _)) =
            config.env.iter().find(|(name, _)| name.is_empty() || name.contains(['=', '\0']))
        {
            return Err(ConfigError::new(format!("env.{name}"), "is not the name of a variable"));
        }
        Ok(Command { config })
    }

    async fn attempt(&self, call: &Call) -> Result<Outcome, EngineFailure> {
        let directory = Directory::make(&self.config.work_dir, call).map_err(|error| {
            let text =
                format!("no directory for the attempt below {}: {error}", self.config.work_dir.display());
            EngineFailure::new(FailureKind::Unavailable, "no_directory", text)
        })?;
        let program = Program::new(&self.config, directory.path(), call.traceparent.as_deref());
        let Spawned { leader, gate } = spawn::spawn(program).await?;
        // From here on the group is killed when this future is dropped.
        let group = Group::new(leader);
        let engine_run = format!("{}/{}", group.id(), directory.name());
        if call.attached(&engine_run, false).await.is_err() {
            return Ok(Outcome::LetGo);
        }
        let running = gate.open().await?;
        let talk = self.talk(call, running, &group);
        tokio::pin!(talk);
        tokio::select! {
            biased;
            outcome = &mut talk => return outcome,
            _ = call.stopped() => group.terminate(),
        }
        match tokio::time::timeout(self.config.kill_after, &mut talk).await {
            Ok(_) => {}
            Err(_) => {
                group.kill();
                let _ = talk.await;
            }
        }
        Ok(Outcome::Cancelled)
    }

    /// Feeds the program, reads what it says and waits for its end.
    async fn talk(&self, call: &Call, running: Running, group: &Group) -> Result<Outcome, EngineFailure> {
        let input = feed(running.stdin, call.parameters.clone());
        let output = read_output(running.stdout, call.result_bytes_max);
        let errors = read_errors(running.stderr, call);
        let ended = async {
            let status = running.ended.status().await;
            // What it left behind has no business any more, and would keep its pipes open.
            group.kill();
            status
        };
        let ((), output, tail, status) = tokio::join!(input, output, errors, ended);
        let status = status?;
        if !status.success() {
            return Err(exit_failure(status, &tail));
        }
        let output = output.ok_or_else(|| {
            let text = format!("the program wrote more than {} bytes", call.result_bytes_max);
            EngineFailure::new(FailureKind::TooLarge, "result_too_large", text)
        })?;
        Ok(Outcome::Succeeded { result: self.result(&output, call.result_bytes_max)?, needs_input: false })
    }

    fn result(&self, output: &Bytes, bytes_max: usize) -> Result<Bytes, EngineFailure> {
        // The program has run.
        let refuse = |text: String| {
            EngineFailure::new(FailureKind::BadResponse, "malformed_output", text).not_repeated()
        };
        let output = &output.slice_ref(without_mark(output));
        let result = match self.config.output {
            CommandOutput::Text => {
                let text =
                    std::str::from_utf8(output).map_err(|_| refuse("the output is not UTF-8".to_owned()))?;
                Bytes::from(serde_json::Value::from(text).to_string())
            }
            CommandOutput::Json if output.trim_ascii().is_empty() => Bytes::from_static(b"null"),
            CommandOutput::Json => {
                let json = output.slice_ref(output.trim_ascii());
                serde_json::from_slice::<serde::de::IgnoredAny>(&json)
                    .map_err(|error| refuse(format!("the output is not JSON: {error}")))?;
                json
            }
        };
        crate::client::check_result(&result, bytes_max)?;
        Ok(result)
    }
}

#[async_trait]
impl Engine for Command {
    fn engine_type(&self) -> &str {
        "command"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: true,
            reattach: false,
            idempotent_submit: false,
            inline: false,
            progress: true,
        }
    }

    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        workflow.without_options("command")?;
        if workflow.definition.is_some() {
            let text = "a command takes no workflow definitions: what runs stands in the configuration";
            return Err(EngineFailure::new(FailureKind::InvalidRequest, "inline_not_supported", text));
        }
        Ok(())
    }

    async fn run(&self, call: Call) -> Outcome {
        self.attempt(&call).await.unwrap_or_else(Outcome::Failed)
    }

    async fn cancel(&self, _endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        self.reap(engine_run).await;
        Ok(())
    }

    async fn health(&self, _endpoint: usize) -> Health {
        use std::os::unix::fs::PermissionsExt;
        let program = &self.config.argv[0];
        let (healthy, detail) = match tokio::fs::metadata(program).await {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => (true, "ok".to_owned()),
            Ok(_) => (false, format!("{program} is not a program")),
            Err(error) => (false, format!("{program}: {error}")),
        };
        Health { healthy: Some(healthy), detail, latency: 0 }
    }

    async fn reap(&self, engine_run: &str) {
        if group::end_leftover(engine_run) {
            tracing::warn!(run = engine_run, "a program that a dead service left running was killed");
        }
        // Behind the group, which has three parts, stands the attempt's directory.
        if let Some(name) = engine_run.splitn(4, '/').nth(3) {
            directory::remove_leftover(&self.config.work_dir, name);
        }
    }
}

/// Writes the parameters and closes; a program that does not read them loses nothing.
async fn feed(mut stdin: ChildStdin, parameters: Bytes) {
    let _ = stdin.write_all(&parameters).await;
    let _ = stdin.shutdown().await;
}

/// The whole output; `None` when it is too large, in which case the rest is read and thrown away.
async fn read_output(mut stdout: ChildStdout, bytes_max: usize) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    let mut piece = vec![0; READ_BYTES];
    let mut fits = true;
    while let Ok(count @ 1..) = stdout.read(&mut piece).await {
        fits &= whole.len() + count <= bytes_max;
        if fits {
            whole.extend_from_slice(&piece[..count]);
        }
    }
    fits.then(|| whole.freeze())
}

/// Passes standard error on to the logs, and keeps its end for a failure.
async fn read_errors(stderr: ChildStderr, call: &Call) -> String {
    let mut reader = BufReader::new(stderr);
    let mut tail = String::new();
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            _ => return tail,
        }
        let line = String::from_utf8_lossy(&line);
        let text = line.trim_end_matches('\n');
        call.host.log(text);
        call.host.progress(Progress::of_text(text));
        tail.push_str(&line);
        if tail.len() > 2 * TAIL_BYTES {
            tail.drain(..tail.ceil_char_boundary(tail.len() - TAIL_BYTES));
        }
    }
}

fn exit_failure(status: ExitStatus, tail: &str) -> EngineFailure {
    use std::os::unix::process::ExitStatusExt;
    let said = tail.trim();
    let colon = if said.is_empty() { "" } else { ": " };
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            let text = format!("the program ended with status {code}{colon}{said}");
            EngineFailure::new(FailureKind::EngineError, "exit_status", text).with_status(code)
        }
        (None, signal) => {
            let text =
                format!("the program was killed by signal {}{colon}{said}", signal.unwrap_or_default());
            EngineFailure::new(FailureKind::EngineError, "killed", text)
        }
    }
}
