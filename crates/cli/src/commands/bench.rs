//! `enginehouse bench`: what a running service takes, and how soon it answers.
//!
//! A closed loop sends the next call when the last one was answered, and so finds what goes through. An open loop sends at a rate
//! whatever happens, and counts the time of a call from when it was due: a service that stalls is charged for everyone who
//! would have come meanwhile (what is called coordinated omission when it is left out).

mod plan;
mod report;

use super::output::Output;
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::Span;
use enginehouse_api::client::{Client, ClientError, EventQuery};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use plan::Plan;
use report::Report;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const EXAMPLES: &str = "\
Examples:
  enginehouse bench --type demo                                  how many go through, 64 at a time, for 10 s
  enginehouse bench --type demo --rate 200 --wait                how soon a caller has its result at 200 a second
  enginehouse bench --type demo --batch 100                      a hundred in each call
  enginehouse bench --type demo --work 50ms --priority HIGH:1 --priority NORMAL:9
  enginehouse bench --engine n8n-test --workflow noop --params '{\"n\": 1}' --executions 500
  enginehouse bench --type demo --save before.json               and after a change: --compare before.json

The executions are real ones: they are stored, run by the engine and kept as long as any other.";

/// Measure what a running service takes, and how soon it answers
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// Engine type, such as demo, which makes its result and its work as told below
    #[arg(long = "type", value_name = "TYPE")]
    engine_type: Option<String>,
    /// Name of a configured engine; wins over --type
    #[arg(long)]
    engine: Option<String>,
    /// The engine's id of the workflow
    #[arg(long, value_name = "ID", default_value = "bench")]
    workflow: String,
    /// What the workflow gets (JSON), in place of --payload-bytes, --result-bytes and --work
    #[arg(long, value_name = "JSON", conflicts_with_all = ["payload_bytes", "result_bytes", "work"])]
    params: Option<String>,
    /// Bytes of each request's parameters; the demo engine gives them back in its result
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(..=1_048_576))]
    payload_bytes: u32,
    /// More bytes in each result (demo engine)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=16_777_216))]
    result_bytes: u32,
    /// How long each execution works (demo engine)
    #[arg(long, value_name = "DURATION")]
    work: Option<Span>,
    /// Calls at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Executions a second, whatever happens; absent: each connection as fast as it is answered
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Executions in one call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// A call is answered when its execution has ended, so its time is that of the whole way
    #[arg(long, conflicts_with = "batch")]
    wait: bool,
    /// LOW, NORMAL, HIGH or CRITICAL, with a share such as HIGH:2; may be repeated
    #[arg(long = "priority", value_name = "PRIORITY[:SHARE]")]
    priorities: Vec<String>,
    /// How long to submit
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    duration: Span,
    /// Stop after so many executions
    #[arg(long, value_name = "N")]
    executions: Option<u64>,
    /// Do not wait until what was submitted has ended
    #[arg(long)]
    no_drain: bool,
    /// Print the distribution of times, as HdrHistogram does
    #[arg(long)]
    percentiles: bool,
    /// Write the figures to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Show the figures of FILE, too, and how these compare
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

/// A drain in which nothing ends for so long is given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// Ends whose submits were not answered yet; more than these are of someone else's executions.
const EARLY_MAX: usize = 100_000;
/// The longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

impl Bench {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let plan = Arc::new(self.plan()?);
        let before = self.compare.as_deref().map(Report::read).transpose()?;
        client.ready().await?;
        let shared = Arc::new(Shared::new()?);
        let follower =
            (!plan.wait).then(|| tokio::spawn(follow(client.clone(), plan.engine.clone(), shared.clone())));
        if follower.is_some() {
            shared.followed.notified().await;
        }
        let progress = bar(&plan);
        let begun = Instant::now();
        let submitting = submit_all(client, &plan, &shared, &progress, begun);
        let interrupted = tokio::select! {
            done = submitting => { done?; false }
            _ = tokio::signal::ctrl_c() => true,
        };
        let submitted = begun.elapsed();
        if !plan.wait && !self.no_drain && !interrupted {
            drain(&shared, &progress).await;
        }
        progress.finish_and_clear();
        if let Some(follower) = follower {
            follower.abort();
        }
        let report = shared.lock().report(&plan, begun, submitted, interrupted);
        if let Some(path) = &self.save {
            report.write(path)?;
        }
        report.print(before.as_ref(), self.percentiles, output)?;
        Ok(if report.submitted == 0 { Exit::CallFailed } else { Exit::Done })
    }

    fn plan(&self) -> Result<Plan, Failure> {
        if self.engine.is_none() && self.engine_type.is_none() {
            return Err(Failure::usage("name an engine: --type demo, or --engine NAME".to_owned()));
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
            return Err(Failure::usage("--rate is more than 0 and at most 1000000 a second".to_owned()));
        }
        Ok(Plan {
            engine_type: self.engine_type.clone(),
            engine: self.engine.clone(),
            workflow: self.workflow.clone(),
            parameters: self.parameters()?,
            priorities: plan::priorities(&self.priorities)?,
            connections: self.connections,
            rate: self.rate,
            batch: self.batch,
            wait: self.wait,
            lasts: Duration::from_millis(self.duration.0),
            executions: self.executions.unwrap_or(u64::MAX),
        })
    }

    fn parameters(&self) -> Result<Box<serde_json::value::RawValue>, Failure> {
        let text = match &self.params {
            Some(text) => text.clone(),
            None => {
                let filling = "x7Kq".repeat(self.payload_bytes as usize / 4);
                let (result, work) = (self.result_bytes, self.work.map_or(0, |work| work.0));
                serde_json::json!({"echo": filling, "resultBytes": result, "sleepMs": work}).to_string()
            }
        };
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("--params is no JSON: {error}")))
    }
}

/// What the connections and the follower of events note.
struct Shared {
    noted: Mutex<Noted>,
    /// The stream of events is open.
    followed: Notify,
    /// Something ended.
    ended: Notify,
}

struct Noted {
    calls: Histogram<u64>,
    submitted: u64,
    ended: u64,
    failed: u64,
    last_end: Option<Instant>,
    errors: BTreeMap<String, u64>,
    /// Submitted and not known to have ended.
    open: HashSet<String>,
    /// Ended before their submit was answered.
    early: HashSet<String>,
    /// The furthest that an open loop was behind its own clock.
    behind: Duration,
}

impl Shared {
    fn new() -> Result<Shared, Failure> {
        let calls = Histogram::new_with_bounds(1, LONGEST_US, 3)
            .map_err(|error| Failure::call(format!("no histogram: {error}")))?;
        let noted = Noted {
            calls,
            submitted: 0,
            ended: 0,
            failed: 0,
            last_end: None,
            errors: BTreeMap::new(),
            open: HashSet::new(),
            early: HashSet::new(),
            behind: Duration::ZERO,
        };
        Ok(Shared { noted: Mutex::new(noted), followed: Notify::new(), ended: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn answered(&mut self, took: Duration, ids: Vec<(String, Option<String>)>) {
        self.calls.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).max(1));
        for (id, ended_as) in ids {
            self.submitted += 1;
            match ended_as {
                Some(status) => self.ends(&status),
                None if self.early.remove(&id) => {}
                None => drop(self.open.insert(id)),
            }
        }
    }

    fn ends(&mut self, status: &str) {
        self.ended += 1;
        self.failed += u64::from(status != "completed");
        self.last_end = Some(Instant::now());
    }

    /// By its event; nothing of it when it is someone else's.
    fn end_seen(&mut self, id: String, status: &str) {
        if self.open.remove(&id) || (self.early.len() < EARLY_MAX && self.early.insert(id)) {
            self.ends(status);
        }
    }

    fn refused(&mut self, error: &ClientError) {
        let name = match (error.code(), error) {
            (Some(code), _) => code.as_str().to_owned(),
            (None, ClientError::Unreachable { .. }) => "unreachable".to_owned(),
            (None, ClientError::Lost { .. }) => "answer lost".to_owned(),
            (None, _) => "unexpected answer".to_owned(),
        };
        *self.errors.entry(name).or_default() += 1;
    }

    fn report(&self, plan: &Plan, begun: Instant, submitted_in: Duration, interrupted: bool) -> Report {
        // Ends that match no submit of ours were of someone else's executions.
        let strangers = self.early.len() as u64;
        let until = self.last_end.map_or(submitted_in, |end| end - begun);
        Report::new(
            plan,
            report::Counts {
                submitted: self.submitted,
                ended: self.ended.saturating_sub(strangers),
                failed: self.failed,
                submitted_in,
                ended_in: until,
                behind: self.behind,
                interrupted,
            },
            &self.errors,
            &self.calls,
        )
    }
}

/// Each connection is a task of its own; together they take one number after the other.
async fn submit_all(
    client: &Client,
    plan: &Arc<Plan>,
    shared: &Arc<Shared>,
    progress: &ProgressBar,
    begun: Instant,
) -> Result<(), Failure> {
    let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut connections = JoinSet::new();
    for _ in 0..plan.connections {
        let (client, plan, shared, next) = (client.clone(), plan.clone(), shared.clone(), next.clone());
        let progress = progress.clone();
        connections.spawn(async move {
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(due) = plan.due(number, begun) else { return };
                if due > Instant::now() {
                    sleep_until(due).await;
                }
                let sent = Instant::now();
                let since = if plan.rate.is_some() { due } else { sent };
                match plan.call(&client, number).await {
                    Ok(ids) => {
                        let mut noted = shared.lock();
                        noted.behind = noted.behind.max(sent.saturating_duration_since(due));
                        noted.answered(since.elapsed(), ids);
                        progress.set_position(noted.submitted);
                    }
                    Err(error) => {
                        shared.lock().refused(&error);
                        // A service that refuses everything is not asked as fast as it can say so.
                        sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    while let Some(ended) = connections.join_next().await {
        ended.map_err(|error| Failure::call(format!("a connection ended early: {error}")))?;
    }
    Ok(())
}

/// Notes the ends of executions as their events come.
async fn follow(client: Client, engine: Option<String>, shared: Arc<Shared>) {
    let types = ["execution_completed", "execution_failed", "execution_cancelled"];
    let mut query = EventQuery { types: types.map(str::to_owned).to_vec(), engine, after: None };
    loop {
        if let Ok(mut reader) = client.all_events(&query).await {
            shared.followed.notify_one();
            while let Ok(Some(event)) = reader.next().await {
                if let Ok(view) = event.view() {
                    shared.lock().end_seen(view.id, view.status.as_deref().unwrap_or_default());
                    shared.ended.notify_one();
                }
                query.after = event.id.or(query.after);
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until all that was submitted has ended, or nothing ends any more.
async fn drain(shared: &Shared, progress: &ProgressBar) {
    progress.set_message("waiting for the ends");
    loop {
        let (open, ended) = {
            let noted = shared.lock();
            (noted.open.len(), noted.ended)
        };
        progress.set_position(ended);
        if open == 0 || timeout(DRAIN_PATIENCE, shared.ended.notified()).await.is_err() {
            return;
        }
    }
}

fn bar(plan: &Plan) -> ProgressBar {
    let bar = match plan.rate.map(|rate| rate * plan.lasts.as_secs_f64()) {
        Some(total) => ProgressBar::new((total as u64).min(plan.executions)),
        None if plan.executions < u64::MAX => ProgressBar::new(plan.executions),
        None => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos} executions, {per_sec} {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
