//! `enginehouse webhooks`.

use super::output::{Output, age, dash, millis, printable};
use super::{Exit, Failure};
use clap::{Args, Subcommand, ValueEnum};
use enginehouse_api::WebhookReceiverView;
use enginehouse_api::client::Client;

/// Show the receivers of webhooks and what was not delivered yet, or was given up
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Webhooks {
    /// Only deliveries: those that wait for their next attempt, or dead letters
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Waiting,
    Dead,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send one signed test event to a receiver, and say what came back
    Test {
        /// The receiver's name
        name: String,
    },
    /// Try deliveries again at once
    Replay {
        /// Their ids
        #[arg(required_unless_present = "dead")]
        ids: Vec<String>,
        /// All dead letters
        #[arg(long, conflicts_with = "ids")]
        dead: bool,
    },
    /// Give deliveries up for good
    Discard {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

impl Webhooks {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.verb {
            None => list(self.state, client, output).await,
            Some(Verb::Test { name }) => test(&name, client, output).await,
            Some(Verb::Replay { ids, dead }) => {
                let ids = if dead {
                    let dead = client.webhook_deliveries(Some("dead")).await?;
                    dead.deliveries.into_iter().map(|delivery| delivery.id).collect()
                } else {
                    ids
                };
                for id in &ids {
                    let view = client.replay_webhook(id).await?;
                    if output.is_json() {
                        output.record(&view)?;
                    }
                }
                if !output.is_json() {
                    output.line(&format!("{} tried again", ids.len()))?;
                }
                Ok(Exit::Done)
            }
            Some(Verb::Discard { ids }) => {
                for id in &ids {
                    client.discard_webhook(id).await?;
                }
                Ok(Exit::Done)
            }
        }
    }
}

async fn list(state: Option<State>, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let word = state.map(|state| match state {
        State::Waiting => "waiting",
        State::Dead => "dead",
    });
    let receivers = match word {
        None => Some(client.webhook_receivers().await?),
        Some(_) => None,
    };
    let answer = client.webhook_deliveries(word).await?;
    if output.is_json() {
        let mut document = serde_json::to_value(&answer).unwrap_or_default();
        if let Some(known) = &receivers {
            document["receivers"] = serde_json::json!(known.receivers);
        }
        output.document(&document)?;
        return Ok(Exit::Done);
    }
    let now = jiff::Timestamp::now();
    if let Some(known) = &receivers {
        if known.receivers.is_empty() {
            output.line("no receiver is configured ([webhooks.NAME])")?;
        } else {
            receivers_table(&known.receivers, now, output)?;
        }
        output.line("")?;
    }
    if answer.total == 0 {
        output.line("nothing waits: everything was delivered")?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = answer
        .deliveries
        .iter()
        .map(|delivery| {
            vec![
                delivery.id.clone(),
                delivery.event_type.clone(),
                dash(delivery.execution_id.as_deref()),
                delivery.state.clone(),
                delivery.attempts.to_string(),
                age(delivery.created_at, now),
                printable(&dash(delivery.last.as_deref())),
            ]
        })
        .collect();
    output.table(&["ID", "EVENT", "EXECUTION", "STATE", "ATTEMPTS", "AGE", "LAST"], &rows)?;
    let more = answer.total.saturating_sub(answer.deliveries.len() as u64);
    if more > 0 {
        output.line(&format!("and {more} more"))?;
    }
    Ok(Exit::Done)
}

fn receivers_table(
    receivers: &[WebhookReceiverView],
    now: jiff::Timestamp,
    output: &mut Output,
) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = receivers
        .iter()
        .map(|receiver| {
            let state = if receiver.paused_since.is_some() { "paused" } else { "ready" };
            let last = receiver
                .last
                .as_ref()
                .map(|last| format!("{} ago, {}: {}", age(last.at, now), last.event_type, last.text));
            let told =
                if receiver.events.is_empty() { "ends".to_owned() } else { receiver.events.join(", ") };
            vec![
                receiver.name.clone(),
                state.to_owned(),
                receiver.delivered.to_string(),
                receiver.waiting.to_string(),
                receiver.dead.to_string(),
                receiver.origin.clone(),
                last.unwrap_or_else(|| "never".to_owned()),
                told,
            ]
        })
        .collect();
    let head = ["RECEIVER", "STATE", "DELIVERED", "WAITING", "DEAD", "AT", "LAST DELIVERY", "EVENTS"];
    output.table(&head, &rows)?;
    for receiver in receivers {
        if let Some(why) = &receiver.paused_because {
            let missed = match receiver.passed_over {
                0 => String::new(),
                missed => format!("; {missed} events were passed over meanwhile"),
            };
            output.line(&format!("{} is paused: {why}{missed}", receiver.name))?;
        }
    }
    Ok(())
}

async fn test(name: &str, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let tested = client.test_webhook(name).await?;
    if output.is_json() {
        output.document(&tested)?;
    } else {
        let took = if tested.delivered { "took" } else { "did not take" };
        output.line(&format!(
            "{} {took} the test event {}: {} after {}",
            tested.receiver,
            tested.id,
            tested.text,
            millis(tested.took_ms as f64)
        ))?;
        if let Some(answer) = &tested.answer {
            output.line(answer)?;
        }
    }
    Ok(if tested.delivered { Exit::Done } else { Exit::CallFailed })
}
