//! Following one execution to its end by its events, over lost connections and restarts of the service.

use super::output::{Output, printable};
use super::printable::{shell_word, tell};
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::client::{Client, ClientError, EventReader, ServerEvent};
use enginehouse_api::{Code, EventView, ExecutionView, Span};
use enginehouse_core::pauses::Pauses;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a service may be out of reach before it is given up.
const UNREACHABLE_MAX: Duration = Duration::from_secs(60);
/// Between one try to reach it and the next.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(100), Duration::from_secs(3));

/// Which execution, and from where.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The execution's id
    id: String,
    /// Start after the event with this id
    #[arg(long, value_name = "EVENT")]
    after: Option<String>,
    /// Give up after this time
    #[arg(long, value_name = "DURATION")]
    wait_for: Option<Span>,
}

impl Watch {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let deadline = self.wait_for.map(|span| Instant::now() + Duration::from_millis(span.0));
        let ended = follow(client, &self.id, self.after, deadline, |event| print(event, output)).await?;
        match ended {
            Some(view) => Ok(Exit::of_status(view.status)),
            None => Err(over(&self.id)),
        }
    }
}

fn print(event: &ServerEvent, output: &mut Output) -> Result<(), Failure> {
    match (event.view(), output.is_json()) {
        (Ok(view), true) => output.record(&view),
        (Err(_), true) => output.record(&serde_json::json!({ "type": event.event, "data": event.data })),
        (Ok(view), false) => {
            let words = words(&view);
            output.line(format!("{}  {:<26} {words}", view.at, view.kind).trim_end())?;
            output.flush()
        }
        (Err(_), false) => {
            output.line(&format!("{:<24}  {:<26} {}", "", event.event, printable(&event.data)))?;
            output.flush()
        }
    }
}

/// An event of the service's stream, of which a reader wants to know which execution it is about and where to go on.
pub(super) fn print_with_id(event: &ServerEvent, output: &mut Output) -> Result<(), Failure> {
    let Ok(view) = event.view() else { return print(event, output) };
    if output.is_json() {
        output.record(&Numbered { view: &view, event_id: event.id.as_deref() })?;
        return output.flush();
    }
    let engine = view.engine.as_deref().map_or(String::new(), |engine| format!("  {engine}"));
    let about = printable(&format!("{}{engine}", view.id));
    output.line(format!("{}  {:<26} {about}  {}", view.at, view.kind, words(&view)).trim_end())?;
    output.flush()
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Numbered<'a> {
    #[serde(flatten)]
    view: &'a EventView,
    event_id: Option<&'a str>,
}

/// What an event says beside its type.
fn words(view: &EventView) -> String {
    let mut parts = Vec::new();
    if view.attempt > 0 {
        parts.push(format!("attempt {}", view.attempt));
    }
    let data: BTreeMap<String, &RawValue> = serde_json::from_str(view.data.get()).unwrap_or_default();
    for (name, value) in data {
        match (value.get(), serde_json::from_str::<String>(value.get())) {
            ("null", _) => {}
            (_, Ok(text)) => parts.push(format!("{name} {text}")),
            (exact, Err(_)) => parts.push(format!("{name} {exact}")),
        }
    }
    printable(&parts.join(", "))
}

/// The message when the time to wait is over.
pub(crate) fn over(id: &str) -> Failure {
    let word = shell_word(id);
    let message = format!("{id} has not ended yet; it goes on, follow it with: enginehouse watch {word}");
    Failure { exit: Exit::WaitOver, message, code: None }
}

/// Hands every event to `each` until the execution ended; `None` when the deadline came first.
pub(crate) async fn follow(
    client: &Client,
    id: &str,
    after: Option<String>,
    deadline: Option<Instant>,
    mut each: impl FnMut(&ServerEvent) -> Result<(), Failure>,
) -> Result<Option<ExecutionView>, Failure> {
    let mut follower = Follower { last: after, outages: Outages::default() };
    let work = async {
        loop {
            match follower.round(client, id, &mut each).await? {
                Some(view) => return Ok::<_, Failure>(view),
                None => follower.outages.rest().await,
            }
        }
    };
    match deadline {
        None => work.await.map(Some),
        Some(deadline) => match tokio::time::timeout_at(deadline, work).await {
            Ok(view) => view.map(Some),
            Err(_) => Ok(None),
        },
    }
}

/// Whether nothing more comes.
pub(super) fn has_ended(execution: &ExecutionView) -> bool {
    matches!(execution.status.as_str(), "completed" | "failed" | "cancelled")
}

struct Follower {
    /// Where to resume.
    last: Option<String>,
    outages: Outages,
}

impl Follower {
    /// One connection: its events, then how the execution stands. `None`: not ended, connect again.
    async fn round(
        &mut self,
        client: &Client,
        id: &str,
        each: &mut impl FnMut(&ServerEvent) -> Result<(), Failure>,
    ) -> Result<Option<ExecutionView>, Failure> {
        match client.events(id, self.last.as_deref()).await {
            Ok(reader) => {
                self.outages.lost_since = None;
                self.read(reader, each).await?;
            }
            // The place to resume from is gone: only what comes from now on can be told.
            Err(error) if error.code() == Some(Code::EventGone) && self.last.is_some() => {
                tell!("some events of {id} are not kept any more");
                self.last = None;
                return Ok(None);
            }
            Err(error) => return self.outages.count(error).map(|()| None),
        }
        match client.get(id).await {
            Ok(view) if has_ended(&view) => Ok(Some(view)),
            Ok(_) => Ok(None),
            Err(error) => self.outages.count(error).map(|()| None),
        }
    }

    async fn read(
        &mut self,
        mut reader: EventReader,
        each: &mut impl FnMut(&ServerEvent) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            match reader.next().await {
                Ok(Some(event)) => {
                    each(&event)?;
                    if let Some(event_id) = &event.id {
                        self.last = Some(event_id.clone());
                    }
                    self.outages.pauses.restart();
                }
                // An ended or broken stream is the same here: the execution's own status decides.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }
}

/// How long the service has been out of reach, and when to try again.
pub(super) struct Outages {
    pauses: Pauses,
    lost_since: Option<Instant>,
}

impl Default for Outages {
    fn default() -> Outages {
        Outages { pauses: PAUSES, lost_since: None }
    }
}

impl Outages {
    pub(super) fn reached(&mut self) {
        *self = Outages::default();
    }

    /// Says whether an error is worth waiting out: a service that restarts, or is not there for a moment.
    pub(super) fn count(&mut self, error: ClientError) -> Result<(), Failure> {
        let passing = match &error {
            ClientError::Unreachable { .. } | ClientError::Lost { .. } => true,
            _ => matches!(
                error.code(),
                Some(Code::Stopping | Code::NotReady | Code::StoreUnavailable | Code::RateLimited)
            ),
        };
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if passing && since.elapsed() < UNREACHABLE_MAX { Ok(()) } else { Err(error.into()) }
    }

    pub(super) async fn rest(&mut self) {
        tokio::time::sleep(self.pauses.after_failure()).await;
    }
}
