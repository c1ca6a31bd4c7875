//! Running the service: configuration, store, node and HTTP server put together, until a signal ends it.

use super::configure::ConfigArgs;
use super::open_files;
use super::printable::{LogLines, tell};
use super::{Exit, Failure};
use clap::Args;
use enginehouse::api::KeyRequest;
use enginehouse::config::{Config, LogFormat};
use enginehouse::{ApiError, Caller, Code, ExecutionService, Files, Scope, StartError, directory};
use enginehouse_server::{Identity, Server, ServerError, ServerSettings};
use serde_json::Value;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What the key of the first start is called.
const FIRST_KEY: &str = "admin (made at the first start)";

/// How long a service that cannot go on gives its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How the service runs.
#[derive(Debug, Args)]
#[command(after_help = "\
The first start makes an admin API key (shown once, and kept in DIR/admin.key for the
commands on this machine) and the key that payloads are sealed with.

SIGTERM or Ctrl-C stops gracefully: nothing new is started, running attempts get stop.grace,
and what is left goes on at the next start; a second signal exits at once. SIGHUP reads the
TLS certificate again.

Examples:
  enginehouse serve --demo
  enginehouse serve --config enginehouse.toml --data /var/lib/enginehouse")]
pub(crate) struct Serve {
    #[command(flatten)]
    from: ConfigArgs,
    /// Address and port to listen on [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Configure an engine `demo` to try things out with
    #[arg(long)]
    demo: bool,
    /// Ask for no API keys; only on an address of this machine
    #[arg(long)]
    no_auth: bool,
}

impl Serve {
    pub(crate) fn run(self, data: Option<PathBuf>) -> Result<Exit, Failure> {
        let mut sources = self.from.sources(data.as_deref())?;
        if let Some(listen) = &self.listen {
            sources = sources.flag("--listen", "server.listen", Value::from(listen.as_str()));
        }
        if self.no_auth {
            sources = sources.flag("--no-auth", "server.auth", Value::from(false));
        }
        if self.demo {
            sources = sources.with_demo();
        }
        let config = sources.load().map_err(|faults| Failure::usage(faults.to_string()))?;
        log(&config.log_level, config.log_format)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::call(error.to_string()))?;
        runtime.block_on(serve(config))
    }
}

/// Log lines go to standard error.
pub(super) fn log(level: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::usage(format!("log.level: {level:?}: {error}")))?;
    let json = format == LogFormat::Json;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || LogLines { json });
    let set = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| Failure::call(error.to_string()))
}

async fn serve(config: Config) -> Result<Exit, Failure> {
    // From the first moment on, so that no signal finds the process unprepared.
    let mut signals = Signals::new().map_err(|error| Failure::call(format!("signals: {error}")))?;
    if config.engines.is_empty() {
        tracing::warn!(
            "no engine is configured, so nothing can run; try --demo, or see enginehouse config init"
        );
    }
    let settings = config.server.clone();
    open_files::allow(settings.connections_max);
    let program = std::env::current_exe().map_err(|error| Failure::call(error.to_string()))?;
    let builder = ExecutionService::builder().config(config).worker_program(program);
    let service = builder.start().await.map_err(|error| match error {
        StartError::Config(_) | StartError::Engine { .. } | StartError::WorkerProcesses(_) => {
            Failure::usage(error.to_string())
        }
        _ => Failure::call(error.to_string()),
    })?;
    let server = match open_door(&service, settings).await {
        Ok(server) => server,
        Err(failure) => {
            service.stop().await;
            return Err(failure);
        }
    };
    let told = wait_for_signal(&mut signals, &service, &server).await;
    let files = service.files().cloned();
    if let Err(why) = told {
        // Nothing can be stored any more, so nothing is gained by waiting: what runs is taken up by the next start. Only the
        // callers that are there hear that their outcome is unknown.
        tracing::error!("the service cannot go on: {why}; start it again");
        let _ = tokio::time::timeout(LAST_ANSWERS, server.stop()).await;
        if let Some(files) = files {
            directory::remove_address(&files.dir);
        }
        std::process::exit(Exit::CallFailed as i32);
    }
    let calm = async {
        service.stop().await;
        server.stop().await;
    };
    tokio::select! {
        () = calm => {}
        () = signals.stop() => {
            tracing::warn!("a second signal: exiting at once; what ran goes on at the next start");
            std::process::exit(Exit::CallFailed as i32);
        }
    }
    if let Some(files) = files {
        directory::remove_address(&files.dir);
    }
    tracing::info!("stopped");
    Ok(Exit::Done)
}

/// Makes what a caller needs, then lets callers in: who hears that the service is ready finds its files there.
async fn open_door(service: &ExecutionService, settings: ServerSettings) -> Result<Server, Failure> {
    let made = Identity::new().ok_or_else(|| Failure::call("the system gives no random bytes".to_owned()))?;
    let (identity, secret) = made;
    let settings = ServerSettings { identity: Some(identity), ..settings };
    if let Some(files) = service.files() {
        print_seal_key_notice(files);
        if !settings.no_auth {
            first_key(service, files).await?;
        }
    }
    let (tls, auth) = (settings.tls.is_some(), !settings.no_auth);
    let bound = Server::bind(settings, service.service()).await;
    let bound = bound.map_err(|error| {
        let advice = match &error {
            ServerError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "; another program has it: stop that, or choose another address with --listen or server.listen"
            }
            _ => "",
        };
        Failure::call(format!("{}{advice}", with_sources(&error)))
    })?;
    announce(service, bound.local_addr(), secret, tls, auth)?;
    Ok(bound.open())
}

/// Says where the service is, to people and to the other commands on this machine.
fn announce(
    service: &ExecutionService,
    address: SocketAddr,
    secret: String,
    tls: bool,
    auth: bool,
) -> Result<(), Failure> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    if let Some(files) = service.files() {
        let here = directory::Address { url: format!("{scheme}://{}", from_here(address)), secret };
        directory::write_address(&files.dir, &here)
            .map_err(|error| Failure::call(format!("{}: {error}", files.dir.display())))?;
    }
    if !auth {
        tracing::warn!("no API keys are asked for: every program on this machine may do everything");
    }
    let data = service.files().map(|files| files.dir.display().to_string()).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, data, "listening on {url}, API reference at {url}/docs");
    Ok(())
}

/// Where who listens on every address of this machine is reached from this machine.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn print_seal_key_notice(files: &Files) {
    let (key, dir) = (&files.seal_key.source, files.dir.display());
    if files.seal_key.new {
        tell!(
            "A new key seals the payloads in {dir}:\n  {key}\nKeep a copy of it in a safe place, apart from the data: \
             without it no request, result or log can be read again.\n"
        );
    } else {
        tracing::info!(
            "payloads are sealed with the key in {key}; without it no request, result or log can be read"
        );
    }
    if files.seal_key.inside {
        tracing::warn!(
            "the seal key lies beside the data it protects; name another place with storage.seal_key_file"
        );
    }
}

async fn first_key(service: &ExecutionService, files: &Files) -> Result<(), Failure> {
    let failed = |error: ApiError| Failure::call(error.to_string());
    let api = service.service();
    if !api.keys().await.map_err(failed)?.keys.is_empty() {
        return Ok(());
    }
    let request = KeyRequest {
        name: FIRST_KEY.to_owned(),
        scopes: vec![Scope::Admin.as_str().to_owned()],
        user_id: None,
        expires_at: None,
    };
    let path = files.dir.join(directory::ADMIN_KEY);
    let keep = |secret: &str| {
        let written = directory::write_admin_key(&files.dir, secret);
        written.map_err(|error| ApiError::new(Code::Internal, format!("{}: {error}", path.display())))
    };
    let made = api.create_kept_key(&Caller::local(), request, keep).await.map_err(failed)?;
    tell!(
        "The admin API key, shown this once:\n  {}\nIt is also in {} (mode 0600), where the commands on this machine \
         find it.\n",
        made.secret,
        path.display()
    );
    Ok(())
}

/// Until a signal, or until the service cannot go on, with the reason.
async fn wait_for_signal(
    signals: &mut Signals,
    service: &ExecutionService,
    server: &Server,
) -> Result<(), String> {
    let failed = service.failed();
    tokio::pin!(failed);
    loop {
        let told = tokio::select! {
            told = signals.next() => told,
            why = &mut failed => {
                return Err(why);
            }
        };
        if told == SignalRequest::Stop {
            tracing::info!("stopping: nothing new is started, running attempts get their grace");
            return Ok(());
        }
        match server.reload_tls() {
            Ok(()) => tracing::info!("the TLS certificate was read again; other settings need a restart"),
            Err(error) => tracing::error!("the old certificate stays in force: {}", with_sources(&error)),
        }
    }
}

/// An error with what lies beneath it.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    text
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalRequest {
    Stop,
    Reload,
}

/// The signals the service listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop,
            _ = self.interrupt.recv() => SignalRequest::Stop,
            _ = self.hang_up.recv() => SignalRequest::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != SignalRequest::Stop {}
    }
}
