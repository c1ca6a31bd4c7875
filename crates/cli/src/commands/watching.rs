//! `enginehouse metrics` and `enginehouse alerts`.

use super::output::{Output, age, millis, printable};
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::client::Client;
use enginehouse_api::{MetricsView, Percentiles, Span};

/// Show totals, throughput and percentiles, now or over time
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Show how they went over the last DURATION, such as 15m or 24h, in place of how they are
    #[arg(long, value_name = "DURATION")]
    history: Option<Span>,
}

/// Lines of a history; more samples than these are for programs (--json).
const LINES_MAX: usize = 30;

impl Metrics {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.history {
            None => now(&client.metrics().await?, output),
            Some(window) => history(client, window.0, output).await,
        }
    }
}

fn now(metrics: &MetricsView, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(metrics)?;
        return Ok(Exit::Done);
    }
    let three = |p: Percentiles| format!("{}, {}, {}", millis(p.p50), millis(p.p95), millis(p.p99));
    output.fields(&[
        ("accepted", Some(metrics.total_executions.to_string())),
        ("completed", Some(metrics.successful_executions.to_string())),
        ("failed", Some(metrics.failed_executions.to_string())),
        ("cancelled", Some(metrics.cancelled_executions.to_string())),
        ("retried attempts", Some(metrics.retried_attempts.to_string())),
        ("pending", Some(metrics.current_queue_size.to_string())),
        ("workers", Some(format!("{} of {}", metrics.active_workers, metrics.total_workers))),
        ("utilization", Some(format!("{:.0} %", metrics.system_utilization * 100.0))),
        ("finished per second", Some(format!("{:.2}", metrics.throughput))),
        ("error rate", Some(format!("{:.1} %", metrics.error_rate * 100.0))),
        ("average run", Some(millis(metrics.average_execution_time))),
        ("wait p50, p95, p99", Some(three(metrics.queue_wait))),
        ("run p50, p95, p99", Some(three(metrics.run_time))),
        ("both p50, p95, p99", Some(three(metrics.end_to_end))),
    ])?;
    Ok(Exit::Done)
}

async fn history(client: &Client, window: u64, output: &mut Output) -> Result<Exit, Failure> {
    let history = client.metrics_history(window).await?;
    if output.is_json() {
        output.document(&history)?;
        return Ok(Exit::Done);
    }
    let every = history.samples.len().div_ceil(LINES_MAX).max(1);
    let shown = history.samples.iter().rev().step_by(every).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = shown
        .into_iter()
        .rev()
        .map(|sample| {
            vec![
                sample.at.to_string(),
                format!("{:.1}", sample.throughput),
                format!("{:.1} %", sample.error_rate * 100.0),
                format!("{:.0}", sample.current_queue_size),
                format!("{:.1}", sample.active_workers),
                format!("{:.0} %", sample.system_utilization * 100.0),
                millis(sample.queue_wait.p95),
                millis(sample.run_time.p95),
            ]
        })
        .collect();
    output.table(
        &["AT", "PER SECOND", "FAILED", "PENDING", "WORKERS", "IN USE", "WAIT P95", "RUN P95"],
        &rows,
    )?;
    Ok(Exit::Done)
}

/// Show the alerts that fire, with what to do about them
#[derive(Debug, Args)]
pub(crate) struct Alerts {
    /// Show every rule that is watched
    #[arg(long)]
    rules: bool,
}

impl Alerts {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let answer = client.alerts().await?;
        if output.is_json() {
            output.document(&answer)?;
            return Ok(Exit::Done);
        }
        if self.rules {
            let rows: Vec<Vec<String>> = answer
                .rules
                .iter()
                .map(|rule| {
                    let word = if rule.enabled { rule.severity.clone() } else { "off".to_owned() };
                    let hold = millis(rule.for_ms as f64);
                    vec![rule.alert.clone(), word, hold, rule.condition.clone()]
                })
                .collect();
            output.table(&["ALERT", "SEVERITY", "FOR", "FIRES WHEN"], &rows)?;
            return Ok(Exit::Done);
        }
        if answer.alerts.is_empty() {
            output.line(&format!("nothing is wrong; {} rules are watched", answer.rules.len()))?;
            return Ok(Exit::Done);
        }
        let now = jiff::Timestamp::now();
        for alert in &answer.alerts {
            let subject =
                if alert.subject.is_empty() { String::new() } else { format!(" {}", alert.subject) };
            output.line(&printable(&format!(
                "{} {} {}{subject}, for {}: {}",
                alert.state,
                alert.severity,
                alert.alert,
                age(alert.since, now),
                alert.text
            )))?;
            output.line(&printable(&format!("  {}", alert.remedy)))?;
        }
        Ok(Exit::Done)
    }
}
