//! Reading executions and steering one of them.

use super::output::{Output, age, counted, dash, failure_text, lasting, printable};
use super::printable::{shell_word, tell};
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::client::Client;
use enginehouse_api::{
    AttemptView, BlockerView, EtaView, ExecutionView, FilterRequest, PatchRequest, PriorityName, Timestamp,
};
use enginehouse_core::execution::Status;
use enginehouse_core::time::Time;

/// One execution.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The execution's id
    id: String,
}

impl One {
    pub(crate) async fn get(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        show(&client.get(&self.id).await?, output)
    }

    /// Why it is not done yet, in two lines.
    pub(crate) async fn explain(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let view = client.get(&self.id).await?;
        if output.is_json() {
            output.document(&view)?;
        } else {
            let [first, second] = explained(&view, jiff::Timestamp::now());
            output.line(&first)?;
            output.line(&second)?;
        }
        Ok(Exit::Done)
    }

    pub(crate) async fn result(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let view = client.result(&self.id).await?;
        if output.is_json() {
            output.document(&view)?;
        } else if let Some(result) = &view.result {
            output.document(result)?;
        }
        let open = if view.abandoned { format!("; abandoned: {ABANDONED}") } else { String::new() };
        if let Some(failure) = &view.failure {
            tell!("{}: {}{open}", view.status, failure_text(failure));
        } else if view.status == Status::Cancelled {
            tell!("cancelled{open}");
        } else if view.needs_input {
            tell!("{NEEDS_INPUT}");
        }
        Ok(Exit::of_status(view.status))
    }

    pub(crate) async fn request(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        output.document(&client.request_of(&self.id).await?)?;
        Ok(Exit::Done)
    }

    pub(crate) async fn attempts(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let answer = client.attempts(&self.id).await?;
        let head = ["ATTEMPT", "OUTCOME", "STARTED", "TOOK", "WORKER", "ENGINE RUN", "FAILURE"];
        output.list(&answer, &head, &answer.attempts, |attempt| {
            let took =
                attempt.ended_at.map(|end| super::output::millis(end.0.since(attempt.started_at.0) as f64));
            vec![
                attempt.attempt.to_string(),
                attempt.outcome.clone().unwrap_or_else(|| "running".to_owned()),
                attempt.started_at.to_string(),
                dash(took.as_deref()),
                dash(attempt.worker.as_deref()),
                dash(attempt.engine_run_id.as_deref()),
                attempt_end(attempt),
            ]
        })
    }

    pub(crate) async fn logs(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let answer = client.logs(&self.id).await?;
        if output.is_json() {
            output.document(&answer)?;
        } else {
            output.text(&printable(&answer.logs))?;
        }
        Ok(Exit::Done)
    }

    pub(crate) async fn replay(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let view = client.replay(&self.id).await?;
        if output.is_json() {
            output.document(&view)?;
        } else {
            output.id(&view.id)?;
            tell!("submitted as a new execution; follow it with: enginehouse watch {}", shell_word(&view.id));
        }
        Ok(Exit::Done)
    }
}

/// A new priority for pending work.
#[derive(Debug, Args)]
pub(crate) struct Priority {
    /// The execution's id
    id: String,
    /// LOW, NORMAL, HIGH or CRITICAL
    #[arg(value_parser = parse_priority)]
    priority: PriorityName,
}

impl Priority {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let change = PatchRequest { priority: self.priority };
        show(&client.set_priority(&self.id, &change).await?, output)
    }
}

/// Which executions to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: FilterArgs,
    /// Rows of one page, 1 to 1000
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Continue where an earlier list ended
    #[arg(long)]
    cursor: Option<String>,
    /// All pages; with --json one execution a line
    #[arg(long)]
    all: bool,
}

impl List {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let filter = self.filter.request();
        let mut cursor = self.cursor;
        let mut first = true;
        loop {
            let page = client.list(&filter, cursor.as_deref(), Some(usize::from(self.limit))).await?;
            match (output.is_json(), self.all) {
                (true, false) => output.document(&page)?,
                (true, true) => {
                    for view in &page.executions {
                        output.record(view)?;
                    }
                }
                (false, _) => list_table(&page.executions, first, output)?,
            }
            first = false;
            cursor = page.next_cursor;
            match (&cursor, self.all) {
                (Some(_), true) => {}
                (Some(next), false) if !output.is_json() => {
                    tell!("there are more: add --all, or --cursor {next}");
                    return Ok(Exit::Done);
                }
                _ => return Ok(Exit::Done),
            }
        }
    }
}

fn list_table(views: &[ExecutionView], first: bool, output: &mut Output) -> Result<(), Failure> {
    if views.is_empty() && first {
        tell!("no executions match");
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            vec![
                view.id.clone(),
                view.status.to_string(),
                view.priority.0.as_str().to_owned(),
                view.engine.clone(),
                printable(&view.workflow_id),
                attempts_short(view),
                age(view.created_at, now),
                reason(view),
            ]
        })
        .collect();
    output.table(&["ID", "STATUS", "PRIORITY", "ENGINE", "WORKFLOW", "ATTEMPT", "AGE", "REASON"], &rows)
}

/// In one cell why it waits, or why it failed.
fn reason(view: &ExecutionView) -> String {
    let wait = view.wait.as_ref().map(|wait| wait.reason.clone());
    let failure = view.failure.as_ref().map(failure_text);
    match (wait, failure) {
        (Some(wait), Some(failure)) => format!("{wait}; {failure}"),
        (Some(reason), None) | (None, Some(reason)) => reason,
        (None, None) if view.needs_input => "needs input".to_owned(),
        (None, None) => String::new(),
    }
}

/// The filters of lists and bulk commands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// pending, running, completed, failed or cancelled; several are separated by commas
    #[arg(long, value_delimiter = ',')]
    status: Vec<String>,
    /// Name of a configured engine
    #[arg(long)]
    engine: Option<String>,
    /// Engine type
    #[arg(long = "type", value_name = "TYPE")]
    engine_type: Option<String>,
    /// The engine's id of the workflow
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// The user it was submitted for
    #[arg(long)]
    user: Option<String>,
    /// A tag it carries
    #[arg(long)]
    tag: Option<String>,
    /// Kind of the last failure, such as rate_limited; several are separated by commas
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    failure: Vec<String>,
    /// Code of the last failure, such as attempt_timeout
    #[arg(long)]
    code: Option<String>,
    /// Created at or after: a time, or a duration ago such as 2h
    #[arg(long, value_parser = parse_past, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Created before: a time, or a duration ago
    #[arg(long, value_parser = parse_past, value_name = "TIME")]
    until: Option<Timestamp>,
}

impl FilterArgs {
    pub(crate) fn request(&self) -> FilterRequest {
        FilterRequest {
            status: self.status.clone(),
            engine: self.engine.clone(),
            engine_type: self.engine_type.clone(),
            workflow_id: self.workflow.clone(),
            user_id: self.user.clone(),
            tag: self.tag.clone(),
            failure_kind: self.failure.clone(),
            failure_code: self.code.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

/// What `needsInput` means, where a person reads how an execution ended.
pub(crate) const NEEDS_INPUT: &str =
    "the workflow stopped to ask or at a breakpoint; a new execution with the same session goes on";

/// Everything about one execution.
pub(crate) fn show(view: &ExecutionView, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(view)?;
        return Ok(Exit::Done);
    }
    let wait = view.wait.as_ref().map(|wait| {
        let until = wait.until.map(|until| format!(", until {until}")).unwrap_or_default();
        let position = wait.position.map(|n| format!(", position {n}")).unwrap_or_default();
        format!("{}{position}{until}: {}", wait.reason, wait.text)
    });
    let metadata = view.metadata.as_ref().filter(|metadata| !metadata.is_empty());
    output.fields(&[
        ("id", Some(view.id.clone())),
        ("status", Some(view.status.to_string())),
        ("waits for", wait),
        ("failure", view.failure.as_ref().map(failure_text)),
        ("abandoned", view.abandoned.then(|| ABANDONED.to_owned())),
        ("needs input", view.needs_input.then(|| NEEDS_INPUT.to_owned())),
        ("workflow", Some(printable(&view.workflow_id))),
        ("engine", Some(format!("{} ({})", view.engine, view.engine_type))),
        ("endpoint", view.endpoint.clone()),
        ("engine run", view.engine_run_id.clone()),
        ("worker", view.worker.clone()),
        ("priority", Some(view.priority.0.as_str().to_owned())),
        ("attempt", Some(attempts(view))),
        ("generation", (view.generation > 1).then(|| view.generation.to_string())),
        ("user", view.user_id.as_deref().map(printable)),
        ("tags", (!view.tags.is_empty()).then(|| printable(&view.tags.join(", ")))),
        ("metadata", metadata.and_then(|metadata| serde_json::to_string(metadata).ok())),
        ("created", Some(view.created_at.to_string())),
        ("ready", (view.ready_at != view.created_at).then(|| view.ready_at.to_string())),
        ("started", view.started_at.map(|at| at.to_string())),
        ("cancel asked", view.cancel_requested_at.map(|at| at.to_string())),
        ("ended", view.ended_at.map(|at| at.to_string())),
    ])?;
    Ok(Exit::Done)
}

/// What an execution is told about that ended without its engine's word.
pub(crate) const ABANDONED: &str = "the engine may still be running it";

fn attempt_end(attempt: &AttemptView) -> String {
    let failure = attempt.failure.as_ref().map(failure_text).unwrap_or_default();
    match (attempt.abandoned, failure.is_empty()) {
        (false, _) => failure,
        (true, true) => format!("abandoned: {ABANDONED}"),
        (true, false) => format!("{failure}; abandoned: {ABANDONED}"),
    }
}

/// More attempts were begun than those that count, and one under way or cut short, explain.
fn uncounted(view: &ExecutionView) -> bool {
    view.attempt > view.attempts_counted + 1 || view.attempt > view.max_retries + 1
}

/// The attempt of how many, and how many of them count where that is not the same.
fn attempts(view: &ExecutionView) -> String {
    let most = view.max_retries + 1;
    if uncounted(view) {
        let why = if view.generation > 1 { "redriven, taken up again" } else { "taken up again" };
        let others = format!("the others were {why}, interrupted or never reached the engine");
        format!("{} ({} of {most} counted; {others})", view.attempt, view.attempts_counted)
    } else {
        format!("{} of at most {most}", view.attempt)
    }
}

/// The same for a column.
fn attempts_short(view: &ExecutionView) -> String {
    let most = view.max_retries + 1;
    if uncounted(view) {
        format!("{} ({}/{most})", view.attempt, view.attempts_counted)
    } else {
        format!("{}/{most}", view.attempt)
    }
}

/// What an execution waits for and when that may be over, or how it stands.
fn explained(view: &ExecutionView, now: jiff::Timestamp) -> [String; 2] {
    let Some(wait) = &view.wait else {
        let first = match (view.status.as_str(), view.started_at, view.ended_at) {
            ("running", Some(at), _) => {
                format!("running for {} on engine {}, attempt {}", age(at, now), view.engine, attempts(view))
            }
            (status, _, Some(at)) => {
                format!("{status} {} ago, after {}", age(at, now), counted(view.attempt as usize, "attempt"))
            }
            ("pending", ..) => {
                let first = "pending; nothing is known to hold it back".to_owned();
                return [first, "it starts as soon as the scheduler looks at it".to_owned()];
            }
            (status, ..) => status.to_owned(),
        };
        let engine_run = view.engine_run_id.as_deref().unwrap_or("not known");
        let second = match &view.failure {
            Some(failure) => failure_text(failure),
            None if view.needs_input => NEEDS_INPUT.to_owned(),
            None => format!("the engine's own id of the run: {}", printable(engine_run)),
        };
        let second = if view.abandoned { format!("abandoned: {ABANDONED}; {second}") } else { second };
        return [first, second];
    };
    let first = format!("{} for {}: {}", wait.reason, age(wait.since, now), printable(&wait.text));
    let starts = match (wait.eta_ms, wait.until) {
        (Some(EtaView { low: 0, high: Some(0) }), _) => "it should start at once".to_owned(),
        (Some(EtaView { low, high: Some(high) }), _) if low == high => {
            format!("it should start in {}", lasting(low))
        }
        (Some(EtaView { low: 0, high: Some(high) }), _) => {
            format!("it should start within {}", lasting(high))
        }
        (Some(EtaView { low, high: Some(high) }), _) => {
            format!("it should start in {} to {}", lasting(low), lasting(high))
        }
        (Some(EtaView { low, high: None }), _) => format!("it starts in {} at the soonest", lasting(low)),
        (None, Some(until)) => format!("that may change at {until}"),
        (None, None) => "the start time is unknown".to_owned(),
    };
    let runs = wait.blockers.iter().filter(|blocker| blocker.kind == "execution").count();
    let mut way: Vec<String> = wait.blockers.iter().filter(|b| b.kind != "execution").map(blocker).collect();
    if let Some(first) = wait.blockers.iter().find(|blocker| blocker.kind == "execution") {
        let more = if runs > 1 { format!(" and {} more", runs - 1) } else { String::new() };
        way.push(format!("{}{more}", blocker(first)));
    }
    let way = if way.is_empty() { String::new() } else { format!("; in its way: {}", way.join(", ")) };
    [first, format!("{starts}{way}")]
}

fn blocker(blocker: &BlockerView) -> String {
    match (&blocker.id, blocker.kind.as_str()) {
        (Some(id), "execution") => format!("execution {}", printable(id)),
        (Some(id), kind) => format!("{kind} {} ({})", printable(id), printable(&blocker.text)),
        (None, _) => printable(&blocker.text),
    }
}

pub(crate) fn parse_priority(text: &str) -> Result<PriorityName, String> {
    let value = match text.parse::<u64>() {
        Ok(number) => serde_json::Value::from(number),
        Err(_) => serde_json::Value::from(text.to_ascii_uppercase()),
    };
    serde_json::from_value(value).map_err(|_| "must be LOW, NORMAL, HIGH, CRITICAL or 1 to 4".to_owned())
}

/// A time, or a duration before now.
pub(super) fn parse_past(text: &str) -> Result<Timestamp, String> {
    match text.parse::<enginehouse_api::Span>() {
        Ok(span) => Ok(Timestamp(Time(jiff::Timestamp::now().as_millisecond()).minus(span.0))),
        Err(_) => text.parse(),
    }
}
