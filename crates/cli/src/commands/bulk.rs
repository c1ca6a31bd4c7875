//! Cancelling and redriving: some by id, or all that match a filter.

use super::executions::{ABANDONED, FilterArgs};
use super::output::Output;
use super::printable::tell;
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::client::{Client, ClientError};
use enginehouse_api::{BulkAnswer, BulkRequest, ExecutionView, FilterRequest};

/// Ids, or a filter.
#[derive(Debug, Args)]
pub(crate) struct Bulk {
    /// Ids of executions
    #[arg(conflicts_with_all = ["all", "dry_run", "status", "engine", "engine_type", "workflow", "user", "tag", "failure", "code", "since", "until"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every execution that the verb applies to
    #[arg(long)]
    all: bool,
    /// Count only, change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy)]
enum Verb {
    Cancel,
    Redrive,
}

impl Bulk {
    pub(crate) async fn cancel(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        self.run(Verb::Cancel, client, output).await
    }

    pub(crate) async fn redrive(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        self.run(Verb::Redrive, client, output).await
    }

    async fn run(self, verb: Verb, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        if self.ids.is_empty() {
            return self.by_filter(verb, client, output).await;
        }
        let mut exit = Exit::Done;
        for id in &self.ids {
            let answer = match verb {
                Verb::Cancel => client.cancel(id).await,
                Verb::Redrive => client.redrive(id).await,
            };
            match answer {
                Ok(view) => tell(verb, &view, output)?,
                // One refused id does not keep the others from being asked for.
                Err(error @ ClientError::Problem { .. }) if self.ids.len() > 1 => {
                    tell!("{id}: {error}");
                    exit = Exit::CallFailed;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(exit)
    }

    async fn by_filter(self, verb: Verb, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let filter = self.filter.request();
        let filtered = filter != FilterRequest::default();
        if !filtered && !self.all {
            return Err(Failure::usage("name executions by id, give a filter, or say --all".to_owned()));
        }
        let mut total = BulkAnswer { matched: 0, changed: 0, next_cursor: None };
        loop {
            let request = BulkRequest {
                filter: filtered.then(|| filter.clone()),
                all: self.all && !filtered,
                dry_run: self.dry_run,
                cursor: total.next_cursor.take(),
            };
            let answer = match verb {
                Verb::Cancel => client.bulk_cancel(&request).await?,
                Verb::Redrive => client.bulk_redrive(&request).await?,
            };
            total.matched += answer.matched;
            total.changed += answer.changed;
            total.next_cursor = answer.next_cursor;
            if total.next_cursor.is_none() {
                break;
            }
        }
        if output.is_json() {
            output.document(&total)?;
        } else if self.dry_run {
            output.line(&format!("{} match; nothing was changed", total.matched))?;
        } else {
            output.line(&format!("{} matched, {} changed", total.matched, total.changed))?;
        }
        Ok(Exit::Done)
    }
}

fn tell(verb: Verb, view: &ExecutionView, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.record(view);
    }
    let what = match (verb, view.status.as_str()) {
        (Verb::Cancel, "running") => "asked to stop".to_owned(),
        (_, status) => status.to_owned(),
    };
    let open = if view.abandoned { format!("; abandoned: {ABANDONED}") } else { String::new() };
    output.line(&format!("{}  {what}{open}", view.id))
}
