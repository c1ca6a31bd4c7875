//! The configuration as it is written: every key with its default and meaning. docs/CONFIG.md is printed from here.
//!
//! Which values make sense together is decided in [`resolve`](super::resolve); here each value stands alone.

use super::engines::EngineRaw;
use super::secret::{Private, Secret};
use super::types::{
    Factor, FilePath, Flag, Fraction, Key, Part, Percent, Price, Ratio, Section, Setting, Shape, Span, Text,
    Texts, Weight, choice, section,
};
use enginehouse_core::time::{DAY, HOUR, MINUTE, SECOND};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A duration up to a year.
pub(super) type UpToAYear = Span<1, { 366 * DAY }>;
/// A duration up to a day.
pub(super) type UpToADay = Span<1, DAY>;
/// A duration that may be nothing, up to a day.
pub(super) type MaybeNone = Span<0, DAY>;
type Whole<const MIN: u64, const MAX: u64> = super::types::Whole<MIN, MAX>;

section! {
    /// Everything; each key is a table of its own.
    pub struct Raw {
        /// The workers, and when their number changes.
        scaling: Scaling = Scaling::default();
        /// Where the workers run, and when one of them is replaced.
        workers: Workers = Workers::default();
        /// Retries and circuit breakers.
        fault_tolerance: FaultTolerance = FaultTolerance::default();
        /// Where and how executions are stored.
        storage: Storage = Storage::default();
        /// What is measured, and for how long it is kept.
        metrics: Metrics = Metrics::default();
        /// What people should know of, by the names of docs/ALERTS.md; what is not named here is watched as it says.
        alerts: BTreeMap<String, AlertRaw> = BTreeMap::new();
        /// The HTTP API.
        server: Server = Server::default();
        /// The queue and its order.
        queue: Queue = Queue::default();
        /// What a request that does not say otherwise gets.
        defaults: Defaults = Defaults::default();
        /// How the service stops, and how it cancels.
        stop: Stop = Stop::default();
        /// How engines are watched.
        health: HealthChecks = HealthChecks::default();
        /// What the service tells about itself on standard error.
        log: Log = Log::default();
        /// Who is told of events by HTTP, by a name of yours.
        webhooks: BTreeMap<String, WebhookRaw> = BTreeMap::new();
        /// How an execution's own `callbackUrl` is called. Absent: requests may have none.
        callbacks: Option<CallbacksRaw> = None;
        /// Where the spans of ended executions go, for OpenTelemetry and LangSmith.
        tracing: Tracing = Tracing::default();
        /// The workflow engines by name; a name is yours to choose: 1 to 64 of `a-z A-Z 0-9 . _ -`.
        engines: Engines = Engines::default();
    }

    /// The workers, and when their number changes.
    pub struct Scaling {
        /// The rule that decides: `lead_time` forecasts the slots in use when a worker launched now becomes useful; `threshold` grows above one utilization and shrinks below another.
        policy: PolicyName = PolicyName::LeadTime;
        /// A second policy that is asked at the same instants and shown beside the first; it moves nothing. Absent: none.
        shadow: Option<PolicyName> = None;
        /// The fewest workers ready and starting. 0 lets the pool go to nothing while there is no work.
        min_workers: Whole<0, 1024> = super::types::Whole(2);
        /// The most workers at once, those that are draining included; at least `min_workers`.
        max_workers: Whole<1, 1024> = super::types::Whole(20);
        /// Slots of one worker: how many attempts it runs at once.
        worker_capacity: Whole<1, 1000> = super::types::Whole(10);
        /// The planned utilization of a pool with four busy slots; larger pools run hotter, smaller ones cooler. `threshold` grows toward it.
        target_utilization: Fraction = Fraction(0.7);
        /// Utilization from which a step up does not wait for its cooldown. `threshold` grows above it. At least `target_utilization`.
        scale_up_threshold: Fraction = Fraction(0.8);
        /// Utilization below which any step down is worth taking. `threshold` shrinks below it. Less than `target_utilization`.
        scale_down_threshold: Fraction = Fraction(0.3);
        /// The least time between two steps up.
        scale_up_cooldown: MaybeNone = Span(5 * SECOND);
        /// The least time between two steps down, and from a step up to one down; with the `lead_time` policy the latter only where workers take long to start. A step up never waits for it.
        scale_down_cooldown: MaybeNone = Span(10 * SECOND);
        /// How long a worker takes from its launch until it takes work: the first guess, then it is learned.
        worker_startup_time: MaybeNone = Span(SECOND);
        /// How long an execution may wait for its start; what waits longer is late.
        slo_wait: UpToADay = Span(5 * SECOND);
        /// The share of `slo_wait` that is planned to be used.
        slo_share: Fraction = Fraction(0.8);
        /// What one late execution is worth, in seconds of one worker. More makes the pool larger.
        late_cost: Price = Price(60.0);
        /// What one change of the number of workers is worth, in seconds of one worker. More makes it steadier.
        action_cost: Price = Price(2.0);
        /// What lateness of each priority is worth, as a multiple of `late_cost`.
        late_factors: LateFactors = LateFactors::default();
        /// How often the number of workers is decided; at most `slo_wait`. Work that finds no slot is looked at sooner.
        tick_interval: Span<50, MINUTE> = Span(SECOND);
        /// How long what was needed is kept while work keeps coming; at least `tick_interval`.
        retention: UpToADay = Span(20 * SECOND);
        /// The least relative step down that is worth taking.
        tolerance: Part = Part(0.2);
        /// What is done with demand that comes back after a fixed period.
        predict: PredictMode = PredictMode::On;
        /// How long a draining worker may finish what it runs before it hands it back.
        drain_timeout: UpToADay = Span(10 * MINUTE);
        /// How the machine's memory and processors hold growth back.
        guards: Guards = Guards::default();
        /// Parts of `lead_time` that can be switched off, to find out what each is worth.
        parts: Parts = Parts::default();
    }

    /// What lateness of each priority is worth.
    pub struct LateFactors {
        /// Of LOW.
        low: Price = Price(1.0);
        /// Of NORMAL.
        normal: Price = Price(1.0);
        /// Of HIGH.
        high: Price = Price(1.0);
        /// Of CRITICAL.
        critical: Price = Price(1.0);
    }

    /// How the machine holds growth back. It is never a reason to grow.
    pub struct Guards {
        /// Share of the memory limit (the cgroup's, or the machine's) above which no worker is launched.
        mem_soft: Fraction = Fraction(0.85);
        /// Share of the memory limit above which one worker is drained per `scale_down_cooldown`; at least `mem_soft`.
        mem_hard: Fraction = Fraction(0.92);
        /// Share of the processors that busy workers may use together.
        cpu: Fraction = Fraction(0.85);
        /// Percent of time in which all work stood still for memory (`full avg10` of the kernel's pressure figures) that counts like `mem_hard`.
        psi: Percent = Percent(10.0);
    }

    /// Parts of the lead-time policy.
    pub struct Parts {
        /// Work that an engine would not take in time is no demand, and a slow engine's runs are planned as longer.
        limiter: Flag = Flag(true);
        /// Demand that comes back after a fixed period is learned.
        recurrence: Flag = Flag(true);
        /// Runs are expected to end by their age.
        job_ages: Flag = Flag(true);
        /// Slots beyond the expected demand.
        headroom: Flag = Flag(true);
        /// What was needed a moment ago is kept.
        retention: Flag = Flag(true);
        /// Workers are held for bursts while that costs less than the late jobs it prevents.
        standby: Flag = Flag(true);
        /// Small steps down are not taken, and cooldowns are kept.
        damping: Flag = Flag(true);
        /// The time that workers take to start is learned from launches.
        learned_startup: Flag = Flag(true);
    }

    /// Where the workers run, and when one of them is replaced.
    pub struct Workers {
        /// Where the workers run: `in_process`, inside the service, or `process`, each a process of its own, so that a crash or a leak of memory in one is no other's matter.
        provider: ProviderName = ProviderName::InProcess;
        /// Which of several workers with a free slot gets the next attempt.
        placement: PlacementWord = PlacementWord::Pack;
        /// A worker that is idle for longer is not kept by `scaling.tolerance`, nor by the room between the thresholds. Absent: no idle time counts.
        max_idle_time: Option<UpToAYear> = None;
        /// A worker of this age is replaced: it finishes what it runs and goes. Absent: at no age.
        max_age: Option<UpToAYear> = None;
        /// A worker that ended so many attempts is replaced. Absent: after no number.
        max_executions: Option<Whole<1, 1000000000>> = None;
        /// A worker process that uses so many MiB of memory is replaced. Absent: at no size.
        max_memory_mib: Option<Whole<16, 1048576>> = None;
        /// Workers that serve only some engine types, by a name of yours (1 to 32 of `a-z A-Z 0-9 . _ -`), beside the shared ones that serve all. They count for `scaling.max_workers`.
        pools: BTreeMap<String, WorkerPool> = BTreeMap::new();
    }

    /// Workers that serve only some engine types.
    pub struct WorkerPool {
        /// What they serve; an engine type belongs to one pool at most. Its work goes to them first, then to shared workers.
        engine_types: Texts = Texts::default();
        /// Workers that are there whatever the demand; all pools together less than `scaling.max_workers`.
        min_workers: Whole<0, 1024> = super::types::Whole(0);
        /// The most workers of the pool. Absent: as many as `scaling.max_workers` leaves.
        max_workers: Option<Whole<1, 1024>> = None;
    }

    /// Retries and circuit breakers.
    pub struct FaultTolerance {
        /// Attempts beyond the first.
        max_retries: Whole<0, 1000> = super::types::Whole(3);
        /// Bound of the first back-off; the actual wait is drawn evenly from 0 to the bound.
        retry_delay: MaybeNone = Span(SECOND);
        /// How the bound grows with each retry.
        backoff_factor: Factor = Factor(2.0);
        /// Ceiling of the bound; at least `retry_delay`.
        retry_max_delay: MaybeNone = Span(MINUTE);
        /// When an endpoint that keeps failing is left alone for a while.
        circuit_breaker_config: CircuitBreaker = CircuitBreaker::default();
    }

    /// When an endpoint that keeps failing is left alone for a while.
    pub struct CircuitBreaker {
        /// Failures of the kinds `connection` and `unavailable` within `monitoring_period` that open the breaker.
        failure_threshold: Whole<1, 10000> = super::types::Whole(5);
        /// The least share of the attempts ended in `monitoring_period` that these must be. Twice the threshold without an answer between opens it all the same.
        failure_ratio: Fraction = Fraction(0.5);
        /// How long an open breaker waits before it lets one attempt try. Doubles each time that attempt fails.
        reset_timeout: UpToADay = Span(30 * SECOND);
        /// Ceiling of that doubling; at least `reset_timeout`.
        reset_timeout_max: UpToADay = Span(10 * MINUTE);
        /// The window in which failures are counted.
        monitoring_period: UpToADay = Span(MINUTE);
    }

    /// Where and how executions are stored.
    pub struct Storage {
        /// The data directory; made at the first start. One process at a time.
        data_dir: FilePath = FilePath("data".into());
        /// The file of the seal key, which seals the store's own keys; made at the first start with mode 0600. Without it nothing stored can be read again, so keep a copy of it apart from the backups. A key a line: the first seals, the others only open. Absent: a file of its own for each data directory in `$XDG_CONFIG_HOME/enginehouse` (or `~/.config/enginehouse`).
        seal_key_file: Option<FilePath> = None;
        /// An environment variable that holds the seal key, 64 hexadecimal digits, instead of a file.
        seal_key_env: Option<Text> = None;
        /// A program with its arguments that writes the seal key to its standard output within 30 seconds, instead of a file.
        seal_key_command: Option<Texts> = None;
        /// A data key, with which payloads are sealed, is followed by another at this age.
        data_key_age: UpToAYear = Span(90 * DAY);
        /// A data key is followed by another once it sealed so many records.
        data_key_records: Whole<1, 1000000000000> = super::types::Whole(1_000_000_000);
        /// Days after its end after which an execution is removed, with its request, result, log and events. 0: it is kept for ever.
        result_retention_days: Whole<0, 36500> = super::types::Whole(30);
        /// Other days for the status `completed`, `failed` or `cancelled`.
        retention_days_of_status: BTreeMap<String, Whole<1, 36500>> = BTreeMap::new();
        /// Other days for an engine, by its name; they count more than those of a status.
        retention_days_of_engine: BTreeMap<String, Whole<1, 36500>> = BTreeMap::new();
        /// The most ended executions kept; the oldest go first. Absent: any number.
        ended_max: Option<Whole<1, 1000000000>> = None;
        /// The most MiB that the store and its blobs may use, beside the feed of at most 256 MiB; the oldest ended executions go first. Absent: as the disk has room.
        max_mib: Option<Whole<16, 1073741824>> = None;
        /// KiB above which a result lies outside of the store, sealed in a blob of its own.
        inline_max_kib: Whole<64, 65536> = super::types::Whole(256);
        /// Where such results lie.
        blobs: BlobsRaw = BlobsRaw::default();
        /// MiB of results kept in memory for a minute, for who waits for them or reads them again. 0: none.
        result_cache_mib: Whole<0, 65536> = super::types::Whole(16);
        /// Payloads are compressed (zstd) before they are encrypted. What is stored already stays as it is.
        compression_enabled: Flag = Flag(true);
        /// Payloads are encrypted (AES-256-GCM) at rest. Without it whoever has the files can read and change them. What is stored already stays as it is.
        encryption_enabled: Flag = Flag(true);
    }

    /// Where large results lie.
    pub struct BlobsRaw {
        /// `s3://BUCKET/PREFIX`, for S3 and what speaks like it. Absent: the directory `blobs` in the data directory.
        url: Option<Text> = None;
        /// Options of the client of S3, by the names that the AWS tools have: `region`, `endpoint`, `access_key_id`, `secret_access_key`, `session_token`, `allow_http`, ... What is absent comes from the environment (`AWS_REGION`, ...) or from the machine's own credentials.
        options: BTreeMap<String, Private> = BTreeMap::new();
        /// A blob that no execution tells of, such as one that a crash left, is removed at this age; looked for as often.
        orphan_after: Span<1000, DAY> = Span(HOUR);
    }

    /// What is measured, and for how long it is kept.
    pub struct Metrics {
        /// How often figures are sampled.
        collection_interval: Span<100, HOUR> = Span(SECOND);
        /// The window of throughput and error rate; at least `collection_interval`.
        aggregation_window: Span<1000, DAY> = Span(MINUTE);
        /// How long the history of the figures is kept; at least `aggregation_window`.
        retention_period: UpToAYear = Span(DAY);
    }

    /// What is told when a condition holds: see docs/ALERTS.md for the names and what each of them watches.
    pub struct AlertRaw {
        /// Whether it is watched.
        enabled: Flag = Flag(true);
        /// How bad it is. Absent: as docs/ALERTS.md says.
        severity: Option<SeverityName> = None;
        /// The number it compares with, in the unit of docs/ALERTS.md. Absent: as said there.
        limit: Option<Price> = None;
        /// How long the condition must hold. Absent: as docs/ALERTS.md says.
        hold: Option<MaybeNone> = None;
        /// How long it must be gone before the alert is over. Absent: as docs/ALERTS.md says.
        recovery: Option<MaybeNone> = None;
    }

    /// The queue and its order.
    pub struct Queue {
        /// Pending executions beyond which submits answer `queue_full`.
        depth_max: Whole<1, 1000000000> = super::types::Whole(1_000_000);
        /// Due executions of one engine beyond which submits for it answer `queue_full`. Absent: only `depth_max` counts.
        engine_depth_max: Option<Whole<1, 1000000000>> = None;
        /// Due executions of one `userId` (or of none) beyond which submits of it answer `queue_full`. Absent: only `depth_max` counts.
        user_depth_max: Option<Whole<1, 1000000000>> = None;
        /// Shares of the slots' time by `userId`, such as `{ gold = 2 }`; everybody else has 1.
        user_weights: BTreeMap<String, Weight> = BTreeMap::new();
        /// How many executions of one `concurrencyKey` run at once.
        concurrency_key_limit: Whole<1, 10000> = super::types::Whole(1);
        /// How far ahead of others each priority stands; they may not fall from `low` to `critical`.
        head_start: HeadStart = HeadStart::default();
    }

    /// How far ahead of others each priority stands.
    pub struct HeadStart {
        /// Head start of LOW.
        low: MaybeNone = Span(0);
        /// Head start of NORMAL.
        normal: MaybeNone = Span(5 * MINUTE);
        /// Head start of HIGH.
        high: MaybeNone = Span(15 * MINUTE);
        /// Head start of CRITICAL.
        critical: MaybeNone = Span(60 * MINUTE);
    }

    /// What a request that does not say otherwise gets.
    pub struct Defaults {
        /// The longest one attempt may take, from its grant.
        timeout: UpToAYear = Span(HOUR);
        /// The longest all attempts and waits may take together; at least `timeout`.
        total_timeout: UpToAYear = Span(7 * DAY);
        /// The longest silence of an engine during an attempt. Absent: any.
        idle_timeout: Option<UpToAYear> = None;
    }

    /// How the service stops, and how it cancels.
    pub struct Stop {
        /// How long running attempts may go on after SIGTERM; the rest is handed back and goes on at the next start.
        grace: MaybeNone = Span(30 * SECOND);
        /// How long an engine may take to stop a cancelled run before its call is abandoned.
        cancel_grace: MaybeNone = Span(10 * SECOND);
    }

    /// How engines are watched.
    pub struct HealthChecks {
        /// How often each endpoint is asked for its health.
        interval: Span<1000, DAY> = Span(10 * SECOND);
    }

    /// What the service tells about itself on standard error.
    pub struct Log {
        /// The least severe level that is written, for all or by module: `warn`, or `info,enginehouse_engine=debug`.
        level: Text = Text("info".to_owned());
        /// How lines are written.
        format: LogFormat = LogFormat::Text;
    }

    /// A receiver of webhooks, signed as the Standard Webhooks specification says. Its name: 1 to 32 of `a-z A-Z 0-9 . _ -`.
    pub struct WebhookRaw {
        /// Where events are posted to.
        url: Option<Text> = None;
        /// The types of events it is told, such as `execution_failed` or `alert`; a wrong one is answered with the list. Empty: the ends of executions.
        events: Texts = Texts::default();
        /// Only executions of these engines, by name. Empty: of all.
        engines: Texts = Texts::default();
        /// Signs: `whsec_` and 24 to 64 bytes in Base64.
        secret: Option<Secret> = None;
        /// Signs as well, while receivers change from it to `secret`.
        previous_secret: Option<Secret> = None;
        /// More headers of every request, by name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
        /// Lets it be at an address that is not public, such as one of this machine or of a private network.
        allow_private: Flag = Flag(false);
        /// The longest that it may take for its answer.
        timeout: Span<100, { 5 * MINUTE }> = Span(15 * SECOND);
    }

    /// How an execution's own `callbackUrl` is called at its end, signed as the Standard Webhooks specification says.
    pub struct CallbacksRaw {
        /// Signs: `whsec_` and 24 to 64 bytes in Base64.
        secret: Option<Secret> = None;
        /// Signs as well, while receivers change from it to `secret`.
        previous_secret: Option<Secret> = None;
        /// Lets callers name addresses that are not public. Whoever may submit can then make the service send requests within your network.
        allow_private: Flag = Flag(false);
        /// The longest that a receiver may take for its answer.
        timeout: Span<100, { 5 * MINUTE }> = Span(15 * SECOND);
    }

    /// Where the spans of ended executions go. A caller's `traceparent` is kept and handed on to the engine in any case.
    pub struct Tracing {
        /// Share of the executions that are traced, of those whose caller did not say by a `traceparent`.
        sample_ratio: Ratio = Ratio(1.0);
        /// Receivers of traces, by a name of yours. None: nothing is exported.
        exporters: BTreeMap<String, ExporterRaw> = BTreeMap::new();
    }

    /// A receiver of traces.
    pub struct ExporterRaw {
        /// What it is, and so what it is told.
        r#type: ExporterType = ExporterType::Otlp;
        /// Its base URL; `/v1/traces` is added, for LangSmith `/otel/v1/traces`. Absent: `http://127.0.0.1:4318`, of LangSmith `https://api.smith.langchain.com`.
        url: Option<Text> = None;
        /// Headers of every request, by name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
        /// LangSmith's API key.
        api_key: Option<Secret> = None;
        /// The LangSmith project. Absent: LangSmith's default one.
        project: Option<Text> = None;
    }

    /// The HTTP API.
    pub struct Server {
        /// Address and port; port 0 takes a free one.
        listen: Text = Text("127.0.0.1:7070".to_owned());
        /// Whether API keys are asked for; only an address of this machine may go without.
        auth: Flag = Flag(true);
        /// Certificate and key for HTTPS. Absent: plain HTTP.
        tls: Option<Tls> = None;
        /// Connections at once. Each is an open file: the process raises its limit of these as far as it may.
        connections_max: Whole<1, 100000> = super::types::Whole(16384);
        /// Event streams at once, of one execution or of all.
        event_streams_max: Whole<1, 100000> = super::types::Whole(4096);
        /// The largest body of a request, in MiB. Each one that is larger than 4 is held in memory several times over while it is stored.
        body_max_mib: Whole<1, 64> = super::types::Whole(4);
        /// Origins of web pages that may call the service from a browser, such as `https://app.example`: scheme, host and port, exactly. Empty: none.
        cors_origins: Texts = Texts::default();
        /// The longest a TLS handshake may take.
        handshake_timeout: UpToADay = Span(10 * SECOND);
        /// The longest the head of a request may take.
        header_timeout: UpToADay = Span(10 * SECOND);
        /// The longest the body of a request may take.
        body_timeout: UpToADay = Span(30 * SECOND);
        /// How long a connection may stay open without a request.
        idle_timeout: UpToADay = Span(75 * SECOND);
    }

    /// Certificate and key for HTTPS.
    pub struct Tls {
        /// PEM file with the certificate and those that lead to its root.
        cert_file: FilePath = FilePath("".into());
        /// PEM file with the private key; readable only for the service.
        key_file: FilePath = FilePath("".into());
    }
}

choice! {
    /// How bad an alert is.
    pub enum SeverityName {
        /// Somebody should look at it now.
        Critical "critical",
        /// Somebody should look at it soon.
        Warning "warning",
    }

    /// How the number of workers is decided.
    pub enum PolicyName {
        /// By the slots expected to be in use when a worker launched now becomes useful.
        LeadTime "lead_time",
        /// By utilization alone.
        Threshold "threshold",
    }

    /// Where workers run.
    pub enum ProviderName {
        /// Inside the service.
        InProcess "in_process",
        /// Each is a child process of the service.
        Process "process",
    }

    /// What is done with demand that comes back after a fixed period.
    pub enum PredictMode {
        /// Workers are launched for it once its announcements came true.
        On "on",
        /// It is learned and shown, and nothing is launched for it.
        Shadow "shadow",
        /// It is not learned.
        Off "off",
    }

    /// Which worker gets the next attempt.
    pub enum PlacementWord {
        /// The fullest, so that the others run empty and can go.
        Pack "pack",
        /// The emptiest, so that as little as possible is lost with one worker.
        Spread "spread",
    }

    /// What a receiver of traces is.
    pub enum ExporterType {
        /// Any that takes OpenTelemetry's OTLP over HTTP: a collector, Jaeger, Tempo and others.
        Otlp "otlp",
        /// LangSmith: one root for each execution and one child for each attempt.
        Langsmith "langsmith",
    }

    /// How log lines are written.
    pub enum LogFormat {
        /// For people.
        Text "text",
        /// One JSON object a line.
        Json "json",
    }
}

/// The engines by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Engines(pub BTreeMap<String, EngineRaw>);

impl Setting for Engines {
    fn shape() -> Shape {
        Shape::Engines
    }
}

/// The keys of the whole configuration.
#[must_use]
pub(super) fn keys() -> Vec<Key> {
    Raw::keys()
}
