//! The command line: what each command is called, takes and explains, and what it exits with.

#![warn(clippy::print_stderr, reason = "what goes to people is made printable by `tell!`")]

mod bench;
mod bulk;
mod configure;
mod connect;
mod doctor;
mod encryption;
mod events;
mod executions;
mod files;
mod follow;
mod ndjson;
mod open_files;
mod operate;
mod output;
pub(crate) mod printable;
mod scaling;
mod serve;
mod simulate;
mod storage;
mod submit;
mod trace;
mod watching;
mod webhooks;
mod worker;
mod workers;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use configure::ConfigArgs;
use connect::{Connection, DataDir, Said};
use enginehouse_api::Code;
use enginehouse_api::client::ClientError;
use enginehouse_core::execution::Status;
use output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  enginehouse serve --demo                       start here: a service with a demo engine
  enginehouse submit --type demo --workflow hello --params '{\"echo\": \"hi\"}' --wait
  enginehouse list --status failed               what failed, newest first
  enginehouse watch ID                           follow one execution
  enginehouse queue                              what waits, and why
  enginehouse config init > enginehouse.toml     a configuration to begin with

Exit codes:
  0  done                             4  the execution was cancelled
  1  the call failed                  5  it did not end within --wait-for
  2  wrong usage or configuration     6  the service cannot be reached
  3  the execution failed

The service is found by --url, or as the one that works on --data (ENGINEHOUSE_URL and
ENGINEHOUSE_DATA, which flags win over); then by the data directory of ENGINEHOUSE_CONFIG, then of
./data, if there is one. A data directory that was named means its own service and no other. The
API key comes from --key-file or ENGINEHOUSE_API_KEY, else from DIR/admin.key, which only the
service of DIR is sent. Data goes to standard output, everything else to standard error.";

/// Durable execution of AI workflows on n8n, Langflow, LangGraph and others.
#[derive(Debug, Parser)]
#[command(name = "enginehouse", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
    /// Data directory of the service on this machine
    #[arg(long, global = true, env = "ENGINEHOUSE_DATA", value_name = "DIR", help_heading = "Connection")]
    data: Option<PathBuf>,
    /// What was said as a flag, and what by the environment.
    #[arg(skip)]
    said: Sayings,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sayings {
    data: Said,
    config_by_flag: bool,
}

impl Cli {
    fn of(matches: &ArgMatches) -> Result<Cli, clap::Error> {
        let mut cli = Cli::from_arg_matches(matches)?;
        let said = |name: &str| match matches.value_source(name) {
            Some(ValueSource::CommandLine) => Said::Flag,
            Some(ValueSource::EnvVariable) => Said::Environment,
            _ => Said::Nobody,
        };
        cli.connection.url_said = said("url");
        let own = matches.subcommand().map(|(_, own)| own);
        let by_flag = |name: &str| {
            own.is_some_and(|own| {
                own.try_contains_id(name).is_ok() && own.value_source(name) == Some(ValueSource::CommandLine)
            })
        };
        cli.said = Sayings { data: said("data"), config_by_flag: by_flag("config") || by_flag("set") };
        Ok(cli)
    }
}

impl Sayings {
    /// The data directory that is meant: `--data`, else that of the configuration, else the one in the working directory.
    fn data_dir(
        self,
        data: Option<PathBuf>,
        from: &ConfigArgs,
        connection: &Connection,
    ) -> Result<DataDir, Failure> {
        if let Some(path) = data {
            return Ok(DataDir { path, said: self.data });
        }
        let said = if self.config_by_flag { Said::Flag } else { Said::Environment };
        match from.data_dir(said) {
            // Anyone who says a URL as a flag need not have a configuration that can be read.
            Err(_) if connection.url_wins_over(said) => Ok(DataDir::unnamed()),
            configured => Ok(configured?.unwrap_or_else(DataDir::unnamed)),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::Serve),
    /// Submit one execution, or a file of them
    Submit(Box<submit::Submit>),
    /// Show one execution
    Get(executions::One),
    /// Explain in two lines why an execution is not done yet
    Explain(executions::One),
    /// Print the result of an execution
    Result(executions::One),
    /// Print the request of an execution
    Request(executions::One),
    /// Show the attempts of an execution
    Attempts(executions::One),
    /// Print the logs of an execution
    Logs(executions::One),
    /// List executions, newest first
    List(executions::List),
    /// Follow an execution to its end
    Watch(follow::Watch),
    /// Follow the events of the service until Ctrl-C
    Events(events::Events),
    /// Cancel executions, by id or by filter
    Cancel(bulk::Bulk),
    /// Put failed or cancelled executions back, by id or by filter
    Redrive(bulk::Bulk),
    /// Submit a new execution from an old one's request
    Replay(executions::One),
    /// Change the priority of a pending execution
    Priority(executions::Priority),
    /// List, show, pause, resume and test engines
    Engines(operate::Engines),
    /// Show what waits, and why
    Queue,
    /// Let a restored service start work; it starts nothing until then
    Resume,
    /// Show, explain and change the number of workers and its rules
    Scaling(scaling::Scaling),
    /// Export the service's own traffic for the lab
    Trace(trace::Trace),
    /// Try scaling rules on a trace of your traffic, in virtual time
    Simulate(Box<simulate::Simulate>),
    /// List, show and drain workers
    Workers(workers::Workers),
    /// Run as a worker for a remote service
    Worker(worker::Worker),
    /// Measure the throughput and latency of a running service
    Bench(Box<bench::Bench>),
    /// Show totals, throughput and percentiles, now or over time
    Metrics(watching::Metrics),
    /// Show the alerts that fire, with what to do about them
    Alerts(watching::Alerts),
    /// Show the receivers of webhooks and what was not delivered
    Webhooks(webhooks::Webhooks),
    /// Check and rotate the keys that encrypt payloads
    Encryption(encryption::Encryption),
    /// Show what is stored, its size and how long it is kept
    Storage(storage::Storage),
    /// Check the installation and suggest fixes
    Doctor(doctor::Doctor),
    /// List, create and delete API keys
    Keys(operate::Keys),
    /// Back up the store of a data directory while the service runs
    Backup(files::Backup),
    /// Restore a data directory from a backup
    Restore(files::Restore),
    /// Check, show or create a configuration
    Config(configure::Configure),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs what was asked for and tells how to exit.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::of(&Cli::command().get_matches()).unwrap_or_else(|error| error.exit());
    match run(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            if !failure.message.is_empty() {
                printable::tell!("enginehouse: {}", failure.message);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let mut output = Output::new(cli.connection.json);
    let exit = match cli.command {
        Command::Serve(serve) => return serve.run(cli.data),
        Command::Worker(worker) => return worker.run(&cli.connection),
        Command::Config(configure) => configure.run(cli.data, &mut output)?,
        Command::Simulate(simulate) => simulate.run(&mut output)?,
        Command::Backup(backup) => {
            let dir = cli.said.data_dir(cli.data, &ConfigArgs::of_environment(), &cli.connection)?;
            backup.run(&dir.path, &mut output)?
        }
        Command::Restore(restore) => restore.run(cli.data, &mut output)?,
        Command::Doctor(doctor) => {
            let given = cli.data.clone();
            let dir = cli.said.data_dir(cli.data, doctor.from(), &cli.connection);
            doctor.run(&cli.connection, given, dir, &mut output)?
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "enginehouse", &mut script);
            output.text(&String::from_utf8_lossy(&script))?;
            Exit::Done
        }
        command => {
            let dir = cli.said.data_dir(cli.data, &ConfigArgs::of_environment(), &cli.connection)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::call(error.to_string()))?;
            runtime.block_on(async {
                let client = cli.connection.client(&dir).await?;
                call(command, &client, &mut output).await
            })?
        }
    };
    output.flush()?;
    Ok(exit)
}

async fn call(
    command: Command,
    client: &enginehouse_api::client::Client,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        Command::Submit(submit) => submit.run(client, output).await,
        Command::Get(one) => one.get(client, output).await,
        Command::Explain(one) => one.explain(client, output).await,
        Command::Result(one) => one.result(client, output).await,
        Command::Request(one) => one.request(client, output).await,
        Command::Attempts(one) => one.attempts(client, output).await,
        Command::Logs(one) => one.logs(client, output).await,
        Command::List(list) => list.run(client, output).await,
        Command::Watch(watch) => watch.run(client, output).await,
        Command::Events(events) => events.run(client, output).await,
        Command::Cancel(bulk) => bulk.cancel(client, output).await,
        Command::Redrive(bulk) => bulk.redrive(client, output).await,
        Command::Replay(one) => one.replay(client, output).await,
        Command::Priority(priority) => priority.run(client, output).await,
        Command::Engines(engines) => engines.run(client, output).await,
        Command::Queue => operate::queue(client, output).await,
        Command::Resume => operate::resume(client, output).await,
        Command::Scaling(scaling) => scaling.run(client, output).await,
        Command::Trace(trace) => trace.run(client, output).await,
        Command::Workers(workers) => workers.run(client, output).await,
        Command::Bench(bench) => bench.run(client, output).await,
        Command::Metrics(metrics) => metrics.run(client, output).await,
        Command::Alerts(alerts) => alerts.run(client, output).await,
        Command::Webhooks(webhooks) => webhooks.run(client, output).await,
        Command::Encryption(encryption) => encryption.run(client, output).await,
        Command::Storage(storage) => storage.run(client, output).await,
        Command::Keys(keys) => keys.run(client, output).await,
        Command::Serve(_)
        | Command::Worker(_)
        | Command::Config(_)
        | Command::Simulate(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Doctor(_)
        | Command::Completions { .. } => Err(Failure::call("this command needs no service".to_owned())),
    }
}

/// The data directory when none was named.
pub(crate) const DEFAULT_DATA_DIR: &str = "data";

/// What the process exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    CallFailed = 1,
    Usage = 2,
    ExecutionFailed = 3,
    ExecutionCancelled = 4,
    WaitOver = 5,
    Unreachable = 6,
}

impl Exit {
    /// By the status of an execution.
    pub(crate) fn of_status(status: Status) -> Exit {
        match status {
            Status::Failed => Exit::ExecutionFailed,
            Status::Cancelled => Exit::ExecutionCancelled,
            Status::Pending | Status::Running | Status::Completed => Exit::Done,
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// What the service refused it with.
    pub(crate) code: Option<Code>,
}

impl Failure {
    pub(crate) fn call(message: String) -> Failure {
        Failure { exit: Exit::CallFailed, message, code: None }
    }

    pub(crate) fn usage(message: String) -> Failure {
        Failure { exit: Exit::Usage, message, code: None }
    }

    /// A reader that went away has what it wanted.
    pub(crate) fn from_output(error: std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Failure { exit: Exit::Done, message: String::new(), code: None }
        } else {
            Failure::call(format!("standard output: {error}"))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let hint = match error.code() {
            Some(Code::Unauthorized) => {
                "\nSet ENGINEHOUSE_API_KEY, name a --key-file, or point --data at the service's data directory."
            }
            _ => "",
        };
        let exit = match &error {
            ClientError::Invalid(_) => Exit::Usage,
            ClientError::Unreachable { .. } | ClientError::Lost { .. } => Exit::Unreachable,
            ClientError::Problem { .. } | ClientError::BadAnswer { .. } => Exit::CallFailed,
        };
        let start = match &error {
            ClientError::Unreachable { .. } => "\nIs it running? Start one with: enginehouse serve --demo",
            _ => "",
        };
        Failure { exit, message: format!("{error}{hint}{start}"), code: error.code() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
