//! `enginehouse webhooks`.

use super::output::{Output, age, dash, printable};
use super::{Exit, Failure};
use clap::{Args, Subcommand, ValueEnum};
use enginehouse_api::client::Client;

/// Webhooks that were not delivered yet, or were given up
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Webhooks {
    /// Only those that wait for their next attempt, or only dead letters
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
    let answer = client.webhook_deliveries(word).await?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(Exit::Done);
    }
    if answer.total == 0 {
        output.line("none: everything was delivered")?;
        return Ok(Exit::Done);
    }
    let now = jiff::Timestamp::now();
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
