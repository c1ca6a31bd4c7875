//! Being a worker: of the node that started this process, or of one elsewhere.

use super::configure::ConfigArgs;
use super::connect::Connection;
use super::serve::log;
use super::{Exit, Failure};
use clap::Args;
use enginehouse::api::{Code, WORKER_PROTOCOLS, WorkerBriefing, WorkerRegisterRequest};
use enginehouse::config::{EngineConfig, Format, LogFormat, Sources};
use enginehouse_api::client::{Client, ClientError, ClientOptions};
use enginehouse_core::limits::WORKER_BRIEFING_BYTES_MAX;
use enginehouse_core::pauses::Pauses;
use enginehouse_worker::{Engines, HttpLink, Over, WorkerSettings};
use secrecy::SecretString;
use serde_json::json;
use std::io::{BufRead, Read};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// How long an answer may take; a pull's wait comes on top. Together they stay below the time to let go.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const JOIN_PAUSES: Pauses = Pauses::new(Duration::from_millis(100), Duration::from_secs(5));
/// The longest line with a token.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// Be a worker.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --connect it is a worker of the service that started it, and reads all it needs in one
line of JSON from standard input; it ends when that is closed.

With --connect it joins a service elsewhere. It needs a key with the scope worker, from
--key-file or as the first line of standard input, and the engines as the service calls them, in
a configuration of its own. When the service cannot be reached it lets go of its work in time and
joins again later.

SIGTERM or Ctrl-C lets it finish what it runs and go; a second signal ends it at once.

Example:
  enginehouse worker --connect https://house.example:7070 --key-file worker.key --config engines.toml")]
pub(crate) struct Worker {
    /// Base URL of the service to join
    #[arg(long, value_name = "URL")]
    connect: Option<String>,
    /// What the worker is called; the service chooses a name when absent
    #[arg(long, requires = "connect")]
    name: Option<String>,
    /// Attempts it runs at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000), requires = "connect")]
    capacity: u32,
    #[command(flatten)]
    from: ConfigArgs,
}

/// Everything a worker needs to know.
struct Plan {
    options: ClientOptions,
    name: Option<String>,
    capacity: u32,
    engines: Vec<EngineConfig>,
    /// Its node is the process that holds the other end of standard input.
    child: bool,
}

impl Worker {
    pub(crate) fn run(self, connection: &Connection) -> Result<Exit, Failure> {
        let plan = match &self.connect {
            Some(url) => self.joining(url, connection)?,
            None => from_parent()?,
        };
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = threads.map_err(|error| Failure::call(error.to_string()))?;
        let ended = runtime.block_on(work(plan));
        // What still waits for standard input waits forever.
        runtime.shutdown_background();
        ended
    }

    fn joining(&self, url: &str, connection: &Connection) -> Result<Plan, Failure> {
        let sources = self.from.sources(None)?;
        let config = sources.load().map_err(|faults| Failure::usage(faults.to_string()))?;
        log(&config.log_level, config.log_format)?;
        let mut options = connection.worker_options(url)?;
        if options.api_key.is_none() {
            let mut token = String::new();
            std::io::stdin()
                .lock()
                .take(TOKEN_BYTES_MAX)
                .read_line(&mut token)
                .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
            options.api_key = Some(token.trim().to_owned()).filter(|token| !token.is_empty());
        }
        let (name, capacity) = (self.name.clone(), self.capacity);
        Ok(Plan { options, name, capacity, engines: config.engines, child: false })
    }
}

/// What the parent says in the first line of standard input.
fn from_parent() -> Result<Plan, Failure> {
    let mut line = Vec::new();
    std::io::stdin()
        .lock()
        .take(WORKER_BRIEFING_BYTES_MAX as u64)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    // The error tells where, and never shows what was there: the line holds secrets.
    let briefing: WorkerBriefing = serde_json::from_slice(&line).map_err(|error| {
        Failure::usage(format!(
            "standard input holds no line of JSON for a worker (line {}, column {}); to join a service elsewhere, \
             use --connect",
            error.line(),
            error.column()
        ))
    })?;
    let format = if briefing.log_json { LogFormat::Json } else { LogFormat::Text };
    log(if briefing.log_level.is_empty() { "info" } else { &briefing.log_level }, format)?;
    let secrets =
        briefing.secrets.into_iter().map(|(place, value)| (place, SecretString::from(value))).collect();
    let tables = json!({ "engines": briefing.engines }).to_string();
    let config = Sources::new()
        .text(&tables, Format::Json, "standard input")
        .and_then(|sources| sources.read()?.resolve_given(&secrets))
        .map_err(|faults| Failure::usage(faults.to_string()))?;
    let options = ClientOptions { api_key: Some(briefing.token), ..ClientOptions::new(briefing.url) };
    let (name, capacity) = (Some(briefing.worker), briefing.capacity);
    Ok(Plan { options, name, capacity, engines: config.engines, child: true })
}

async fn work(plan: Plan) -> Result<Exit, Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::call(format!("signals: {error}")))?;
    let orphaned = orphaned(plan.child);
    let mut orphaned = pin!(orphaned);
    let options = ClientOptions { request_timeout: ANSWER_WITHIN, ..plan.options };
    let client = Client::new(options)?;
    let mut request = WorkerRegisterRequest {
        protocols: WORKER_PROTOCOLS.to_vec(),
        nonce: String::new(),
        name: plan.name,
        capacity: plan.capacity,
        engines: plan.engines.iter().map(named).collect(),
    };
    let engines = Arc::new(adapters(plan.engines)?);
    loop {
        request.nonce = format!("{:032x}", rand::random::<u128>());
        let link = tokio::select! {
            biased;
            () = &mut orphaned => return Ok(Exit::Done),
            () = signals.next() => return Ok(Exit::Done),
            link = join(&client, &request, plan.child) => Arc::new(link?),
        };
        tracing::info!(worker = link.joined().worker, url = client.url(), "joined");
        let left = live(&link, &engines, &mut signals, orphaned.as_mut()).await;
        match (left, link.over()) {
            (Left::AtOnce, _) => return Ok(Exit::CallFailed),
            (Left::Asked, _) | (Left::Over, Some(Over::Dismissed)) => return Ok(Exit::Done),
            (Left::Over, over) => {
                let Some(Over::Lost(why)) = over else { return Ok(Exit::Done) };
                if plan.child {
                    return Err(Failure::call(format!("the session is lost: {why}")));
                }
                tracing::warn!("the session is lost: {why}; joining again");
            }
        }
    }
}

/// How a worker left its session.
enum Left {
    /// The link is over.
    Over,
    /// Its node is dead, or it was told twice to go: everything was let go.
    AtOnce,
    /// It was asked to go, and finished what it had.
    Asked,
}

/// Works through a link until it is over. Returning before that lets go of everything.
async fn live(
    link: &Arc<HttpLink>,
    engines: &Arc<Engines>,
    signals: &mut Signals,
    mut orphaned: Pin<&mut impl Future<Output = ()>>,
) -> Left {
    let settings = WorkerSettings { cancel_grace: link.joined().cancel_grace };
    let worker = enginehouse_worker::Worker::new(link.clone(), engines.clone(), settings);
    let mut worker = pin!(worker.run());
    tokio::select! {
        biased;
        () = orphaned.as_mut() => return Left::AtOnce,
        () = worker.as_mut() => return Left::Over,
        () = signals.next() => tracing::info!("asked to go: finishing what runs"),
    }
    let finish = async { tokio::join!(worker.as_mut(), link.sign_off(None)) };
    tokio::select! {
        biased;
        () = orphaned.as_mut() => Left::AtOnce,
        () = signals.next() => Left::AtOnce,
        _ = finish => Left::Asked,
    }
}

/// Joins, and tries again while that may help.
async fn join(client: &Client, request: &WorkerRegisterRequest, child: bool) -> Result<HttpLink, Failure> {
    let mut pauses = JOIN_PAUSES;
    loop {
        let error = match HttpLink::join(client.clone(), request).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let passing = match &error {
            ClientError::Unreachable { .. } | ClientError::Lost { .. } => true,
            _ => !child && error.code().is_some_and(|code| code.status() >= 429 || code == Code::NameTaken),
        };
        if !passing {
            return Err(Failure::from(error));
        }
        tracing::warn!(%error, "cannot join; trying again");
        sleep(pauses.after_failure()).await;
    }
}

fn adapters(engines: Vec<EngineConfig>) -> Result<Engines, Failure> {
    let mut adapters = Engines::new();
    for engine in engines {
        let name = engine.settings.name.clone();
        let built = engine.build().map_err(|error| Failure::usage(format!("engines.{name}.{error}")))?;
        adapters.insert(name, built.adapter);
    }
    Ok(adapters)
}

fn named(engine: &EngineConfig) -> (String, String) {
    (engine.settings.name.clone(), engine.settings.engine_type.clone())
}

/// Resolves when the process at the other end of standard input is gone; never for a worker that has no such parent.
async fn orphaned(child: bool) {
    let (gone, hears) = oneshot::channel::<()>();
    if child {
        // A thread of its own: a read from standard input cannot be taken back.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            drop(gone);
        });
        let _ = hears.await;
    } else {
        std::future::pending::<()>().await;
    }
}

/// The signals that ask a worker to go.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
