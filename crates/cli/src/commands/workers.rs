//! The workers: who they are, and sending one away.

use super::output::{Output, age, millis, printable};
use super::{Exit, Failure};
use clap::{Args, Subcommand};
use enginehouse_api::client::Client;
use enginehouse_api::{DrainRequest, Span, WorkerView};

/// What to do with workers.
#[derive(Debug, Args)]
pub(crate) struct Workers {
    #[command(subcommand)]
    command: Option<WorkersCommand>,
}

#[derive(Debug, Subcommand)]
enum WorkersCommand {
    /// List all workers with their load
    List,
    /// Show one worker and what it runs
    Show { id: String },
    /// Drain a worker: it takes no new work, finishes what it runs, and stops
    ///
    /// What still runs after the timeout is handed back to the queue; that burns no attempt, and a run that its engine can
    /// be asked about is taken up again and not started a second time. The worker is replaced if it is still needed.
    Drain {
        id: String,
        /// How long it may finish what it runs, such as 5m; 0s hands back at once [default: scaling.drain_timeout]
        #[arg(long, value_name = "DURATION")]
        timeout: Option<Span>,
        /// Reason, recorded with the change
        #[arg(long)]
        reason: Option<String>,
    },
}

impl Workers {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.command.unwrap_or(WorkersCommand::List) {
            WorkersCommand::List => list(client, output).await,
            WorkersCommand::Show { id } => show(&client.worker(&id).await?, output),
            WorkersCommand::Drain { id, timeout, reason } => {
                show(&client.drain_worker(&id, &DrainRequest { timeout, reason }).await?, output)
            }
        }
    }
}

async fn list(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let answer = client.workers().await?;
    let now = jiff::Timestamp::now();
    let head = ["ID", "STATUS", "PROVIDER", "SLOTS", "SERVES", "RUN", "FAILED", "AVERAGE", "NODE", "AGE"];
    output.list(&answer, &head, &answer.workers, |worker| {
        let types =
            if worker.engine_types.is_empty() { "all".to_owned() } else { worker.engine_types.join(",") };
        vec![
            worker.id.clone(),
            worker.status.clone(),
            worker.provider.clone(),
            format!("{}/{}", worker.active_executions.len(), worker.capacity),
            types,
            worker.total_executions.to_string(),
            worker.failed_executions.to_string(),
            millis(worker.average_execution_time),
            worker.node.to_string(),
            age(worker.started_at, now),
        ]
    })
}

fn show(worker: &WorkerView, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(worker)?;
        return Ok(Exit::Done);
    }
    let now = jiff::Timestamp::now();
    let types =
        if worker.engine_types.is_empty() { "all".to_owned() } else { worker.engine_types.join(", ") };
    let drain = worker.drain.as_ref().map(|drain| {
        let left = (drain.until.0.0 - now.as_millisecond()).max(0);
        format!("{}; what still runs in {} is handed back", printable(&drain.reason), millis(left as f64))
    });
    output.fields(&[
        ("id", Some(worker.id.clone())),
        ("status", Some(worker.status.clone())),
        ("provider", Some(worker.provider.clone())),
        ("node", Some(worker.node.to_string())),
        ("serves", Some(types)),
        ("slots", Some(format!("{} of {} in use", worker.active_executions.len(), worker.capacity))),
        ("draining", drain),
        ("age", Some(age(worker.started_at, now))),
        ("last heard of", Some(age(worker.last_heartbeat, now))),
        ("attempts ended", Some(worker.total_executions.to_string())),
        ("of them failed", Some(worker.failed_executions.to_string())),
        ("average attempt", Some(millis(worker.average_execution_time))),
        ("memory", worker.memory_bytes.map(|bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0))),
    ])?;
    if !worker.active_executions.is_empty() {
        output.line("")?;
        let rows: Vec<Vec<String>> = worker.active_executions.iter().map(|id| vec![id.clone()]).collect();
        output.table(&["RUNS"], &rows)?;
    }
    Ok(Exit::Done)
}
