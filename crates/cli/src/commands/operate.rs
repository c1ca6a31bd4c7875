//! Engines, the queue, figures and keys.

use super::output::{Output, age, counted, dash, millis, printable};
use super::printable::tell;
use super::{Exit, Failure};
use clap::{Args, Subcommand};
use enginehouse_api::client::Client;
use enginehouse_api::{
    BalanceView, BreakerRequest, BreakerView, BreakerWord, EndpointView, EngineView, KeyRequest, LimitView,
    Span, Timestamp,
};
use enginehouse_core::time::Time;

/// What to do with engines.
#[derive(Debug, Args)]
pub(crate) struct Engines {
    #[command(subcommand)]
    command: Option<EnginesCommand>,
}

#[derive(Debug, Subcommand)]
enum EnginesCommand {
    /// List all engines
    List,
    /// Show one engine and its endpoints
    Show { name: String },
    /// Start nothing more on an engine; what runs goes on
    Pause { name: String },
    /// Start work on a paused engine again
    Resume { name: String },
    /// Force the circuit breaker of an engine open or closed, or set it back to automatic
    Breaker {
        name: String,
        /// open: nothing starts; closed: work starts whatever fails; auto: by what is measured
        #[arg(value_enum)]
        state: BreakerArg,
        /// Reason, recorded with the change
        #[arg(long)]
        reason: String,
        /// One endpoint only, by its name
        #[arg(long)]
        endpoint: Option<String>,
        /// Back to auto after this time, such as 30m
        #[arg(long = "for", value_name = "DURATION")]
        span: Option<Span>,
    },
    /// Check the health of every endpoint now; exits with 1 if one is unhealthy
    Test { name: String },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BreakerArg {
    Open,
    Closed,
    Auto,
}

impl From<BreakerArg> for BreakerWord {
    fn from(arg: BreakerArg) -> BreakerWord {
        match arg {
            BreakerArg::Open => BreakerWord::Open,
            BreakerArg::Closed => BreakerWord::Closed,
            BreakerArg::Auto => BreakerWord::Auto,
        }
    }
}

impl Engines {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.command.unwrap_or(EnginesCommand::List) {
            EnginesCommand::List => list(client, output).await,
            EnginesCommand::Show { name } => show(&client.engine(&name).await?, output),
            EnginesCommand::Pause { name } => show(&client.pause_engine(&name).await?, output),
            EnginesCommand::Resume { name } => show(&client.resume_engine(&name).await?, output),
            EnginesCommand::Breaker { name, state, reason, endpoint, span } => {
                let request = BreakerRequest { state: state.into(), endpoint, reason, span };
                show(&client.force_breaker(&name, &request).await?, output)
            }
            EnginesCommand::Test { name } => {
                let test = client.test_engine(&name).await?;
                if output.is_json() {
                    output.document(&test)?;
                } else {
                    endpoints(&test.endpoints, output)?;
                }
                Ok(if test.healthy { Exit::Done } else { Exit::CallFailed })
            }
        }
    }
}

async fn list(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let answer = client.engines().await?;
    let head = ["NAME", "TYPE", "STATE", "ENDPOINTS", "PENDING", "RUNNING", "DEFAULT"];
    output.list(&answer, &head, &answer.engines, |engine| {
        let well = engine
            .endpoints
            .iter()
            .filter(|e| e.health.as_ref().is_some_and(|h| h.healthy == Some(true)))
            .count();
        vec![
            engine.name.clone(),
            engine.engine_type.clone(),
            state(engine).to_owned(),
            healthy(well, engine),
            engine.pending.to_string(),
            engine.running.to_string(),
            if engine.default { "yes" } else { "" }.to_owned(),
        ]
    })
}

/// Whether it takes work: `parked` while the circuit breaker of every endpoint is open.
fn state(engine: &EngineView) -> &'static str {
    if engine.paused {
        "paused"
    } else if !engine.endpoints.is_empty() && engine.endpoints.iter().all(|at| at.breaker.state == "open") {
        "parked"
    } else {
        "ready"
    }
}

/// How many endpoints said that they are well, and how many cannot be asked.
fn healthy(well: usize, engine: &EngineView) -> String {
    let unasked = |e: &&EndpointView| e.health.as_ref().is_some_and(|h| h.healthy.is_none());
    let (all, unasked) = (engine.endpoints.len(), engine.endpoints.iter().filter(unasked).count());
    match unasked {
        0 => format!("{well}/{all} healthy"),
        n if n == all => format!("{all} judged by work"),
        n => format!("{well}/{all} healthy, {n} judged by work"),
    }
}

fn show(engine: &EngineView, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(engine)?;
        return Ok(Exit::Done);
    }
    let can = &engine.capabilities;
    let words = [
        (can.cancel, "cancel"),
        (can.reattach, "re-attach"),
        (can.idempotent_submit, "idempotent submit"),
        (can.inline, "inline definitions"),
        (can.progress, "progress"),
    ];
    let words: Vec<&str> = words.into_iter().filter(|(can, _)| *can).map(|(_, word)| word).collect();
    output.fields(&[
        ("name", Some(engine.name.clone())),
        ("type", Some(engine.engine_type.clone())),
        ("state", Some(state(engine).to_owned())),
        ("default", Some(if engine.default { "yes" } else { "no" }.to_owned())),
        ("inline", Some(if engine.allow_inline { "allowed" } else { "not allowed" }.to_owned())),
        ("can", Some(words.join(", "))),
        ("pending", Some(engine.pending.to_string())),
        ("running", Some(engine.running.to_string())),
    ])?;
    output.line("")?;
    endpoints(&engine.endpoints, output)?;
    for limit in engine.endpoints.iter().map(|endpoint| &endpoint.limit) {
        limited(limit, output)?;
    }
    Ok(Exit::Done)
}

fn endpoints(endpoints: &[EndpointView], output: &mut Output) -> Result<(), Failure> {
    let now = jiff::Timestamp::now();
    let rows: Vec<Vec<String>> = endpoints
        .iter()
        .map(|endpoint| {
            let (state, detail, latency) = match &endpoint.health {
                None => ("not asked yet", String::new(), "-".to_owned()),
                Some(health) => (
                    match health.healthy {
                        Some(true) => "healthy",
                        Some(false) => "not healthy",
                        None => "not asked",
                    },
                    printable(&health.detail),
                    millis(health.latency_ms as f64),
                ),
            };
            let most = at_most(&endpoint.limit);
            vec![
                endpoint.name.clone(),
                breaker(&endpoint.breaker, now),
                state.to_owned(),
                latency,
                endpoint.running.to_string(),
                most,
                endpoint.weight.to_string(),
                balance(&endpoint.balance, now),
                detail,
            ]
        })
        .collect();
    let head = ["ENDPOINT", "BREAKER", "HEALTH", "LATENCY", "RUNNING", "AT MOST", "WEIGHT", "TAKES", "SAYS"];
    output.table(&head, &rows)
}

/// The calls at once, and by whose word.
fn at_most(limit: &LimitView) -> String {
    match limit.current {
        None => "-".to_owned(),
        Some(most) if limit.adapted.is_some() => format!("{most} (adaptive)"),
        Some(most) => most.to_string(),
    }
}

/// What Enginehouse itself decided about a limit; what is configured needs no words.
fn limited(limit: &LimitView, output: &mut Output) -> Result<(), Failure> {
    let decided = limit.why.as_deref().is_some_and(|why| why != "configured");
    let Some(text) = limit.text.as_ref().filter(|_| decided) else { return Ok(()) };
    output.line("")?;
    output.line(text)?;
    if let Some(adapted) = &limit.adapted {
        let held = counted(usize::try_from(adapted.held_back).unwrap_or(usize::MAX), "execution");
        let remedy = limit.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        output.line(&format!("{held} held back by it at the last look{remedy}"))?;
    }
    Ok(())
}

/// What an attempt takes there, and whether that, or failures, keep new ones away.
fn balance(balance: &BalanceView, now: jiff::Timestamp) -> String {
    let takes = balance.run_ms.map_or("-".to_owned(), millis);
    match balance.ejected_until {
        None => takes,
        Some(until) => {
            let left = (until.0.0 - now.as_millisecond()).max(0);
            format!("{takes} (left alone, {})", millis(left as f64))
        }
    }
}

/// A breaker's state in a few words: what it does, by whose word, until when.
fn breaker(breaker: &BreakerView, now: jiff::Timestamp) -> String {
    let mut text = breaker.state.replace('_', " ");
    if let Some(forced) = &breaker.forced {
        text.push_str(&format!(" (forced: {})", printable(&forced.reason)));
    } else if let Some(size) = breaker.releasing {
        text.push_str(&format!(" (releasing {size} at a time)"));
    } else if breaker.state == "closed" && breaker.failures > 0 {
        text.push_str(&format!(" ({} of {} failed)", breaker.failures, breaker.calls));
    }
    if let Some(probe) = breaker.next_probe {
        let wait = (probe.0.0 - now.as_millisecond()).max(0);
        text.push_str(&format!(", next probe in {}", millis(wait as f64)));
    }
    text
}

/// Ends the pause in which a restored copy begins.
pub(crate) async fn resume(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let answer = client.resume().await?;
    if output.is_json() {
        output.document(&answer)?;
    } else if answer.resumed {
        output.line("resumed: what is due starts")?;
    } else {
        output.line("it was not paused")?;
    }
    Ok(Exit::Done)
}

pub(crate) async fn queue(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let queue = client.queue().await?;
    if output.is_json() {
        output.document(&queue)?;
        return Ok(Exit::Done);
    }
    let now = jiff::Timestamp::now();
    let wait = queue.wait_percentiles;
    output.fields(&[
        ("pending", Some(queue.current_queue_size.to_string())),
        ("running", Some(queue.active_executions.to_string())),
        ("oldest due", queue.oldest.map(|oldest| age(oldest, now))),
        ("finished per second", Some(format!("{:.2}", queue.throughput))),
        ("average wait", Some(millis(queue.average_wait_time))),
        (
            "wait p50, p95, p99",
            Some(format!("{}, {}, {}", millis(wait.p50), millis(wait.p95), millis(wait.p99))),
        ),
        ("average run", Some(millis(queue.average_processing_time))),
        ("accepted in all", Some(queue.total_queued.to_string())),
        ("ended in all", Some(queue.total_processed.to_string())),
        ("failed in all", Some(queue.total_failed.to_string())),
    ])?;
    for (title, counts) in
        [("WAITS FOR", &queue.by_wait_reason), ("DUE ON", &queue.by_engine), ("DUE WITH", &queue.by_priority)]
    {
        if !counts.is_empty() {
            output.line("")?;
            let rows: Vec<Vec<String>> =
                counts.iter().map(|(name, count)| vec![name.clone(), count.to_string()]).collect();
            output.table(&[title, "EXECUTIONS"], &rows)?;
        }
    }
    Ok(Exit::Done)
}

/// What to do with API keys.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: Option<KeysCommand>,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// List all keys; their secrets are not kept
    List,
    /// Make a key; its secret is printed once
    Create {
        /// What it is for
        name: String,
        /// Any of submit, submit:inline, read, read:payload, cancel, worker, metrics, admin; separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// Everything submitted with it belongs to this user
        #[arg(long)]
        user: Option<String>,
        /// It stops working after this time
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
    },
    /// Remove a key; calls with it are refused from then on
    Delete { id: String },
}

impl Keys {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.command.unwrap_or(KeysCommand::List) {
            KeysCommand::List => list_keys(client, output).await,
            KeysCommand::Create { name, scopes, user, expires_in } => {
                let now = Time(jiff::Timestamp::now().as_millisecond());
                let expires_at = expires_in.map(|span| Timestamp(now.plus(span.0)));
                let created =
                    client.create_key(&KeyRequest { name, scopes, user_id: user, expires_at }).await?;
                if output.is_json() {
                    output.document(&created)?;
                } else {
                    output.line(&created.secret)?;
                    tell!("key {} was made; its secret is shown only now", created.key.id);
                }
                Ok(Exit::Done)
            }
            KeysCommand::Delete { id } => {
                client.delete_key(&id).await?;
                tell!("key {id} was removed");
                Ok(Exit::Done)
            }
        }
    }
}

async fn list_keys(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let answer = client.keys().await?;
    let now = jiff::Timestamp::now();
    let head = ["ID", "NAME", "SCOPES", "USER", "AGE", "EXPIRES"];
    output.list(&answer, &head, &answer.keys, |key| {
        vec![
            key.id.clone(),
            printable(&key.name),
            key.scopes.join(","),
            dash(key.user_id.as_deref()),
            age(key.created_at, now),
            key.expires_at.map_or("never".to_owned(), |at| at.to_string()),
        ]
    })
}
