//! `enginehouse events`: what happens in the service, as it happens.

use super::follow::{Outages, print_with_id};
use super::output::Output;
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::Code;
use enginehouse_api::client::{Client, EventQuery};

/// Follow the events of the service until Ctrl-C
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only events of this type, such as execution_failed or breaker_opened; may be repeated. metrics_updated comes only
    /// when it is named
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only executions of this engine, by name
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Start after the event with this id, or at the `oldest` that is kept
    #[arg(long, value_name = "EVENT")]
    after: Option<String>,
    /// Number of events after which the command ends
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Events {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let mut query = EventQuery { types: self.types, engine: self.engine, after: self.after };
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut outages = Outages::default();
        loop {
            match client.all_events(&query).await {
                Ok(mut reader) => {
                    outages.reached();
                    while let Ok(Some(event)) = reader.next().await {
                        print_with_id(&event, output)?;
                        // Where to go on after a lost connection.
                        query.after = event.id.clone().or(query.after);
                        left -= 1;
                        if left == 0 {
                            return Ok(Exit::Done);
                        }
                    }
                }
                Err(error) if error.code() == Some(Code::EventGone) => {
                    let message =
                        "the event to go on after is not kept any more; begin with --after oldest".to_owned();
                    return Err(Failure { exit: Exit::CallFailed, message, code: None });
                }
                Err(error) => outages.count(error)?,
            }
            outages.rest().await;
        }
    }
}
