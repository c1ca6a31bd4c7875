//! [`ExecutionService`]: Enginehouse inside a program of your own.

use crate::config::{Config, ConfigFaults, Format, LogFormat, Sources};
use crate::directory;
use enginehouse_api::{
    ApiError, BatchAnswer, BatchRequest, EngineView, EnginesAnswer, ExecutionView, FilterRequest, ListAnswer,
    MetricsView, QueueView, ResultView, ScalingRequest, ScalingView, SubmitRequest, WorkersAnswer,
};
use enginehouse_engine::Engine;
use enginehouse_runtime::{
    Caller, EndpointSettings, EngineSettings, EventStream, Node, RegisteredEngine, SealKeySource,
    SealSettings, Service, Settings, WorkerProcesses,
};
use enginehouse_server::Server;
use enginehouse_store::{MemoryStore, SqliteOptions, SqliteStore, Store, StoreError, SystemClock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has faults, each with its place.
    #[error("{0}")]
    Config(#[from] ConfigFaults),
    /// A setting of one engine that its adapter cannot work with.
    #[error("engines.{name}.{error}")]
    Engine {
        /// The engine's name.
        name: String,
        /// The setting and what is wrong with it.
        error: enginehouse_engine::config::ConfigError,
    },
    /// Two engines have this name.
    #[error("the engine {0} is registered twice")]
    DuplicateEngine(String),
    /// The data directory cannot be used, for instance because another process has it.
    #[error("the data directory {dir}: {why}", dir = dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why it cannot be used.
        why: String,
    },
    /// The object store of large results is configured wrongly.
    #[error("the place of large results: {0}")]
    Blobs(String),
    /// The store cannot be opened or read.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store is there and cannot be worked on, for instance because its seal key is missing.
    #[error("{0}")]
    Node(ApiError),
    /// Worker processes cannot be started.
    #[error("workers.provider: {0}")]
    WorkerProcesses(String),
}

/// What a wait came to.
#[derive(Debug, Clone)]
pub enum Waited {
    /// The execution has ended: completed (its result is in the view), failed or cancelled.
    Ended(ExecutionView),
    /// The time was up first; the execution goes on.
    TimedOut(ExecutionView),
}

impl Waited {
    /// The execution as it stood when the wait was over.
    #[must_use]
    pub fn execution(&self) -> &ExecutionView {
        match self {
            Waited::Ended(execution) | Waited::TimedOut(execution) => execution,
        }
    }

    /// The execution if it has ended.
    #[must_use]
    pub fn ended(self) -> Option<ExecutionView> {
        match self {
            Waited::Ended(execution) => Some(execution),
            Waited::TimedOut(_) => None,
        }
    }
}

/// Where executions are kept.
#[derive(Debug, Clone, Default)]
enum Place {
    /// The configuration's data directory.
    #[default]
    Configured,
    Directory(PathBuf),
    Memory,
}

/// Puts a service together; see [`ExecutionService::builder`].
#[derive(Default)]
pub struct Builder {
    sources: Sources,
    config: Option<Config>,
    engines: Vec<RegisteredEngine>,
    place: Place,
    worker_program: Option<PathBuf>,
}

impl Builder {
    /// A configuration as JSON text.
    pub fn config_json(mut self, text: &str) -> Result<Builder, ConfigFaults> {
        self.sources = self.sources.text(text, Format::Json, "configuration")?;
        Ok(self)
    }

    /// A configuration as TOML text.
    pub fn config_toml(mut self, text: &str) -> Result<Builder, ConfigFaults> {
        self.sources = self.sources.text(text, Format::Toml, "configuration")?;
        Ok(self)
    }

    /// A configuration file in TOML, JSON or YAML.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Result<Builder, ConfigFaults> {
        self.sources = self.sources.file(path.as_ref())?;
        Ok(self)
    }

    /// A resolved configuration; wins over every text and file.
    #[must_use]
    pub fn config(mut self, config: Config) -> Builder {
        self.config = Some(config);
        self
    }

    /// Registers your own engine under a name, with one endpoint. It is the engine for requests that name only its
    /// type.
    #[must_use]
    pub fn engine_adapter(self, name: impl Into<String>, adapter: Arc<dyn Engine>) -> Builder {
        let settings = EngineSettings {
            name: name.into(),
            engine_type: adapter.engine_type().to_owned(),
            default: true,
            allow_inline: adapter.capabilities().inline,
            endpoints: vec![EndpointSettings { name: "local".to_owned(), weight: 1.0 }],
            ..EngineSettings::default()
        };
        self.engine(RegisteredEngine { settings, adapter })
    }

    /// Registers your own engine with all its settings.
    #[must_use]
    pub fn engine(mut self, engine: RegisteredEngine) -> Builder {
        self.engines.push(engine);
        self
    }

    /// Keeps executions in memory: nothing survives the process.
    #[must_use]
    pub fn store_memory(mut self) -> Builder {
        self.place = Place::Memory;
        self
    }

    /// Keeps executions in this directory instead of the configured one.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Builder {
        self.place = Place::Directory(dir.into());
        self
    }

    /// The program whose `worker` command worker processes run (`workers.provider = "process"`): an `enginehouse` of the
    /// same version.
    #[must_use]
    pub fn worker_program(mut self, path: impl Into<PathBuf>) -> Builder {
        self.worker_program = Some(path.into());
        self
    }

    /// Opens the store, takes up what an earlier process left, and starts to work.
    ///
    /// # Errors
    /// Whatever keeps the service from working, in words for anyone who configured it.
    pub async fn start(self) -> Result<ExecutionService, StartError> {
        let config = match self.config {
            Some(config) => config,
            None => self.sources.load()?,
        };
        let processes = worker_processes(&config, self.worker_program, &self.engines)?;
        let Config { settings, engines: configured, data_dir, seal_key, blobs, .. } = config;
        let mut engines = self.engines;
        for engine in configured {
            let name = engine.settings.name.clone();
            engines.push(engine.build().map_err(|error| StartError::Engine { name, error })?);
        }
        for (index, engine) in engines.iter().enumerate() {
            let name = &engine.settings.name;
            if engines[..index].iter().any(|other| other.settings.name == *name) {
                return Err(StartError::DuplicateEngine(name.clone()));
            }
        }
        let dir = match self.place {
            Place::Memory => None,
            Place::Configured => Some(data_dir),
            Place::Directory(dir) => Some(dir),
        };
        let opened = match dir {
            None => Opened { store: Arc::new(MemoryStore::new(Arc::new(SystemClock::new()))), files: None },
            Some(dir) => Opened::open(&dir, seal_key.as_ref()).await?,
        };
        let data_dir = opened.files.as_ref().map(|files| files.dir.clone());
        let source = opened.files.as_ref().map(|files| files.seal_key.source.clone()).unwrap_or_default();
        let seal = SealSettings { source, ..settings.seal };
        let blobs = blobs.settings(data_dir.as_deref()).map_err(StartError::Blobs)?;
        let settings = Settings { seal, data_dir, blobs, processes, ..settings };
        let by_processes = settings.processes.is_some();
        let node = Node::start(settings, opened.store, engines).await.map_err(StartError::Node)?;
        if let Some(files) = &opened.files {
            directory::remember_seal_key(&files.dir, &files.seal_key.source)
                .map_err(|error| StartError::Directory { dir: files.dir.clone(), why: error.to_string() })?;
        }
        let mut service = ExecutionService { service: node.service(), node, files: opened.files, door: None };
        if by_processes {
            match Server::start_worker_door(service.service()).await {
                Ok(door) => {
                    service.service.open_worker_door(format!("http://{}", door.local_addr()));
                    service.door = Some(door);
                }
                Err(error) => {
                    service.stop().await;
                    return Err(StartError::WorkerProcesses(error.to_string()));
                }
            }
        }
        Ok(service)
    }
}

/// How worker processes are made, if workers are to be processes.
fn worker_processes(
    config: &Config,
    program: Option<PathBuf>,
    own: &[RegisteredEngine],
) -> Result<Option<WorkerProcesses>, StartError> {
    if !config.worker_processes {
        return Ok(None);
    }
    if let Some(engine) = own.first() {
        let name = &engine.settings.name;
        let why =
            format!("the engine {name} is of the program's own making, and other processes do not have it");
        return Err(StartError::WorkerProcesses(why));
    }
    let why = "the program to run is not known; name it with Builder::worker_program";
    let program = program.ok_or_else(|| StartError::WorkerProcesses(why.to_owned()))?;
    Ok(Some(WorkerProcesses {
        program,
        engines: config.engine_tables.clone(),
        secrets: config.secrets.clone(),
        log_level: config.log_level.clone(),
        log_json: config.log_format == LogFormat::Json,
    }))
}

/// An open store and what belongs to it.
struct Opened {
    store: Arc<dyn Store>,
    files: Option<Files>,
}

/// The files of a running service.
#[derive(Debug, Clone)]
pub struct Files {
    /// The data directory, absolute.
    pub dir: PathBuf,
    /// Where the key comes from that seals the data keys.
    pub seal_key: directory::SealKey,
}

impl Opened {
    async fn open(dir: &Path, configured_key: Option<&SealKeySource>) -> Result<Opened, StartError> {
        let wrong = |why: String| StartError::Directory { dir: dir.to_owned(), why };
        let dir = directory::prepare(dir).map_err(|error| wrong(error.to_string()))?;
        let options = SqliteOptions::new(&dir);
        let opening = tokio::task::spawn_blocking(move || SqliteStore::open(options));
        let store = opening.await.map_err(|error| wrong(error.to_string()))??;
        let holds_executions = store.totals().await?.accepted > 0;
        let seal_key = directory::seal_key(&dir, configured_key, holds_executions).map_err(wrong)?;
        Ok(Opened { store: Arc::new(store), files: Some(Files { dir, seal_key }) })
    }
}

/// A running service. It works until [`stop`](ExecutionService::stop) is called; what is dropped without it is taken up
/// by the next start, as after a crash.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use enginehouse::{ExecutionService, SubmitRequest};
///
/// let service = ExecutionService::builder()
///     .config_toml("[engines.demo]\ntype = \"demo\"")?
///     .data_dir("data")
///     .start()
///     .await?;
/// let request = SubmitRequest::new("demo", "hello").parameters(&serde_json::json!({"echo": "hi"}))?;
/// let execution = service.submit(request).await?;
/// let waited = service.wait(&execution.id, std::time::Duration::from_secs(10)).await?;
/// if let Some(ended) = waited.ended() {
///     println!("{}: {:?}", ended.status, ended.result);
/// }
/// service.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct ExecutionService {
    node: Node,
    service: Service,
    files: Option<Files>,
    /// Where its worker processes find it.
    door: Option<Server>,
}

impl ExecutionService {
    /// Begins with the default configuration, no engine and a store in the configured directory.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Stores an execution; once this returns, it survives the end of the process (unless kept in memory).
    pub async fn submit(&self, request: SubmitRequest) -> Result<ExecutionView, ApiError> {
        Ok(self.service.submit(&Caller::local(), request, None).await?.execution)
    }

    /// Stores 1 to 1,000 executions, all or none.
    pub async fn submit_batch(&self, requests: Vec<SubmitRequest>) -> Result<BatchAnswer, ApiError> {
        self.service.submit_batch(&Caller::local(), BatchRequest { executions: requests }).await
    }

    /// How an execution stands.
    pub async fn status(&self, id: &str) -> Result<ExecutionView, ApiError> {
        self.service.get(&Caller::local(), id).await
    }

    /// Waits for the end of an execution, at most `at_most`, and says whether it came. A completed one has its result with it.
    ///
    /// # Errors
    /// `not_found`, or `store_unavailable` when the store cannot be read.
    pub async fn wait(&self, id: &str, at_most: Duration) -> Result<Waited, ApiError> {
        let execution = self.service.wait(&Caller::local(), id, at_most).await?;
        let ended = execution.status.is_terminal();
        Ok(if ended { Waited::Ended(execution) } else { Waited::TimedOut(execution) })
    }

    /// The result or the failure of an execution that ended.
    pub async fn result(&self, id: &str) -> Result<ResultView, ApiError> {
        self.service.result(&Caller::local(), id).await
    }

    /// Executions that match, newest first.
    pub async fn list(
        &self,
        filter: FilterRequest,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<ListAnswer, ApiError> {
        self.service.list(&Caller::local(), filter, cursor, limit).await
    }

    /// Cancels pending work at once; of running work the wish is stored and the engine is told.
    pub async fn cancel(&self, id: &str) -> Result<ExecutionView, ApiError> {
        self.service.cancel(&Caller::local(), id).await
    }

    /// Puts a failed or cancelled execution back.
    pub async fn redrive(&self, id: &str) -> Result<ExecutionView, ApiError> {
        self.service.redrive(&Caller::local(), id).await
    }

    /// A new execution from an old one's request.
    pub async fn replay(&self, id: &str) -> Result<ExecutionView, ApiError> {
        self.service.replay(&Caller::local(), id).await
    }

    /// The events of one execution: stored ones after `last_event_id`, then live ones to its end.
    pub async fn events(&self, id: &str, last_event_id: Option<&str>) -> Result<EventStream, ApiError> {
        self.service.events(&Caller::local(), id, last_event_id).await
    }

    /// The figures of the service: totals, rates and waiting times.
    pub async fn metrics(&self) -> Result<MetricsView, ApiError> {
        self.service.metrics().await
    }

    /// What waits, by priority and engine.
    pub async fn queue(&self) -> Result<QueueView, ApiError> {
        self.service.queue().await
    }

    /// The workers, with what each of them runs.
    pub async fn workers(&self) -> Result<WorkersAnswer, ApiError> {
        self.service.workers().await
    }

    /// How many workers there are, by which rules, and the newest decision.
    #[must_use]
    pub fn scaling(&self) -> ScalingView {
        self.service.scaling()
    }

    /// This many workers, 1 to 1,024, until the next call or [`scale_by_rules`](Self::scale_by_rules). Busy workers that are too
    /// many drain, so nothing that runs is stopped.
    pub async fn scale_to(&self, workers: u32) -> Result<ScalingView, ApiError> {
        let request = ScalingRequest {
            min_workers: Some(workers),
            max_workers: Some(workers),
            ..ScalingRequest::default()
        };
        self.service.set_scaling(&Caller::local(), request).await
    }

    /// Goes back to the configured rules.
    pub async fn scale_by_rules(&self) -> Result<ScalingView, ApiError> {
        self.service.set_scaling(&Caller::local(), ScalingRequest::default()).await
    }

    /// The engines with their endpoints, breakers and limits.
    pub async fn engines(&self) -> Result<EnginesAnswer, ApiError> {
        self.service.engines().await
    }

    /// Starts nothing more on an engine; what runs goes on.
    pub async fn pause_engine(&self, name: &str) -> Result<EngineView, ApiError> {
        self.service.pause_engine(&Caller::local(), name).await
    }

    /// Starts work on an engine again that was paused.
    pub async fn resume_engine(&self, name: &str) -> Result<EngineView, ApiError> {
        self.service.resume_engine(&Caller::local(), name).await
    }

    /// Lets a store work that was restored from a backup, which starts nothing until then; false: it was not paused.
    pub async fn resume(&self) -> Result<bool, ApiError> {
        Ok(self.service.resume(&Caller::local()).await?.resumed)
    }

    /// The whole application API, as the HTTP server uses it.
    #[must_use]
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// The files it works on; `None` for a service in memory.
    #[must_use]
    pub fn files(&self) -> Option<&Files> {
        self.files.as_ref()
    }

    /// Resolves when the service cannot go on; the text says why.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Takes no more work, lets attempts go on for the stop grace, hands the rest back and closes the store.
    pub async fn stop(self) {
        self.node.stop().await;
        if let Some(door) = self.door {
            door.stop().await;
        }
    }
}
