//! `enginehouse bench`: what a running service takes, and how soon it answers.
//!
//! A closed loop sends the next call when the last one was answered, and so finds what goes through. An open loop sends at a rate
//! whatever happens, and counts the time of a call from when it was due: a service that stalls is charged for everyone who
//! would have come meanwhile (what is called coordinated omission when it is left out).

mod noted;
mod plan;
mod report;

use super::output::Output;
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::Span;
use enginehouse_api::client::{Client, EventQuery, EventReader};
use indicatif::{ProgressBar, ProgressStyle};
use noted::Shared;
use plan::Plan;
use report::Report;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
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

/// Measure the throughput and latency of a running service
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
    /// How long to submit [default: 10s, or until all --executions are submitted]
    #[arg(long, value_name = "DURATION")]
    duration: Option<Span>,
    /// Number of executions to submit
    #[arg(long, value_name = "N")]
    executions: Option<u64>,
    /// Measure submits only: do not follow what was submitted to its end
    #[arg(long, conflicts_with = "wait")]
    submits_only: bool,
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

/// How long to submit when neither a time nor a number was given.
const USUAL_DURATION: Duration = Duration::from_secs(10);
/// How long a drain may go without an end before it is given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

impl Bench {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let plan = Arc::new(self.plan()?);
        let before = self.compare.as_deref().map(Report::read).transpose()?;
        let shared = Arc::new(Shared::new()?);
        // Ends that no one reads need no stream, and a key that may submit need not be allowed to read.
        let follower = if plan.wait || self.submits_only {
            client.ready().await?;
            None
        } else {
            let types = ["execution_completed", "execution_failed", "execution_cancelled"];
            let types = types.map(str::to_owned).to_vec();
            let query = EventQuery { types, engine: plan.engine.clone(), after: None };
            let reader = client.all_events(&query).await?;
            Some(tokio::spawn(follow(client.clone(), query, reader, shared.clone())))
        };
        let progress = bar(&plan);
        let (begun, submitted_in) = (Instant::now(), OnceLock::new());
        let measuring = async {
            submit_all(client, &plan, &shared, &progress, begun).await?;
            let _ = submitted_in.set(begun.elapsed());
            if follower.is_some() {
                drain(&shared, &progress).await;
            }
            Ok::<_, Failure>(())
        };
        let interrupted = tokio::select! {
            done = measuring => { done?; false }
            _ = tokio::signal::ctrl_c() => true,
        };
        progress.finish_and_clear();
        let submitted_in = submitted_in.get().copied().unwrap_or_else(|| begun.elapsed());
        let report = shared.lock().report(&plan, begun, submitted_in, interrupted);
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
            submits_only: self.submits_only,
            lasts: match (self.duration, self.executions) {
                (Some(duration), _) => Some(Duration::from_millis(duration.0)),
                (None, Some(_)) => None,
                (None, None) => Some(USUAL_DURATION),
            },
            executions: self.executions.unwrap_or(u64::MAX),
        })
    }

    fn parameters(&self) -> Result<Box<serde_json::value::RawValue>, Failure> {
        let text = match &self.params {
            Some(text) => text.clone(),
            None => {
                let filling: String = "x7Kq".chars().cycle().take(self.payload_bytes as usize).collect();
                let (result, work) = (self.result_bytes, self.work.map_or(0, |work| work.0));
                serde_json::json!({"echo": filling, "resultBytes": result, "sleepMs": work}).to_string()
            }
        };
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("--params is not valid JSON: {error}")))
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
    let next = Arc::new(AtomicU64::new(0));
    let mut connections = JoinSet::new();
    for _ in 0..plan.connections {
        let (client, plan, shared, next) = (client.clone(), plan.clone(), shared.clone(), next.clone());
        let progress = progress.clone();
        connections.spawn(async move {
            while !shared.lock().is_hopeless() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(due) = plan.due(number, begun) else { return };
                // Who is free in time sends when the timer rings, which is not the service's delay; who is not is charged for
                // the whole of it.
                let in_time = due > Instant::now();
                if in_time {
                    sleep_until(due).await;
                }
                let sent = Instant::now();
                let since = if in_time { sent } else { due };
                match plan.call(&client, number).await {
                    Ok(executions) => {
                        let mut noted = shared.lock();
                        noted.answered(since.elapsed(), sent - since, executions);
                        progress.set_position(noted.submitted);
                    }
                    Err(error) => {
                        shared.lock().refused(&error);
                        // A service that refuses everything is not asked as fast as it can say so.
                        sleep(REFUSED_PAUSE).await;
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

/// Notes the ends of executions as their events come, and goes on where it was when the stream ends.
async fn follow(client: Client, mut query: EventQuery, first: EventReader, shared: Arc<Shared>) {
    let mut reader = Some(first);
    loop {
        if let Some(mut open) = reader.take() {
            while let Ok(Some(event)) = open.next().await {
                if let Ok(view) = event.view() {
                    shared.lock().end_seen(view.id, view.status.as_deref() == Some("completed"));
                    shared.ended.notify_one();
                }
                query.after = event.id.or(query.after);
            }
        }
        sleep(REOPEN_PAUSE).await;
        reader = client.all_events(&query).await.ok();
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
    let bar = match (plan.rate, plan.lasts) {
        (Some(rate), Some(lasts)) => {
            ProgressBar::new(((rate * lasts.as_secs_f64()) as u64).min(plan.executions))
        }
        _ if plan.executions < u64::MAX => ProgressBar::new(plan.executions),
        _ => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos} executions, {per_sec} {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
