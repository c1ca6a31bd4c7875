//! Finding an execution by the header it was called with.

use super::N8n;
use super::data::{Execution, NoData};
use super::wire::{self, Listed, Page, is_id};
use crate::client::Poll;
use crate::contract::{Call, EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use std::collections::BTreeSet;

/// The header a workflow is called with; its value is the idempotency key of the run.
pub(super) const EXECUTION_KEY: &str = "x-execution-key";
/// Executions in one page of the list.
const PAGE: &str = "100";
/// Pages looked through for each status.
const PAGES_MAX: usize = 5;

/// What was seen of a workflow's executions while one is looked for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Those that belong to other calls.
    strangers: BTreeSet<String>,
    /// One that runs shows nothing of what it was called with.
    pub(super) dark: bool,
}

impl N8n {
    /// The newest execution's number; 0 when there is none. Whatever begins from now on has a greater one.
    pub(super) async fn newest(&self, call: &Call, workflow: &str) -> Result<u64, EngineFailure> {
        let mut poll = self.client.poll_before(call);
        let mut newest = 0;
        for status in [None, Some("running"), Some("waiting")] {
            let page = self.page(&mut poll, call, workflow, status, None).await?;
            newest = page.data.iter().map(number).fold(newest, u64::max);
        }
        Ok(newest)
    }

    /// Looks for the execution of this call until it would have been shown: n8n may list what it took some time later.
    pub(super) async fn find_in_time(
        &self,
        call: &Call,
        workflow: &str,
        after: u64,
    ) -> Result<Option<String>, EngineFailure> {
        let mut poll = self.client.poll(call);
        loop {
            let found = self.find(&mut poll, call, workflow, after).await?;
            if found.is_some() || poll.is_known_as_unknown() {
                return Ok(found);
            }
            poll.pause().await;
        }
    }

    /// The execution of this call among those of the workflow after number `after`.
    ///
    /// An execution that shows nothing of what it was called with (older versions do so only at the end) might be the
    /// one: it is waited for, and only it, so that nothing is run twice.
    pub(super) async fn find(
        &self,
        poll: &mut Poll,
        call: &Call,
        workflow: &str,
        after: u64,
    ) -> Result<Option<String>, EngineFailure> {
        let (mut open, all) = self.candidates(poll, call, workflow, after).await?;
        loop {
            let mut dark = Vec::new();
            for id in open {
                match self.called_with(poll, call, &id).await? {
                    Ok(Some(key)) if key == call.idempotency_key => return Ok(Some(id)),
                    Ok(_) => {}
                    Err(NoData) => dark.push(id),
                }
            }
            if dark.is_empty() && all {
                return Ok(None);
            }
            if dark.is_empty() {
                let message = "too many executions of the workflow began since to find out whether n8n started this one";
                let failure = EngineFailure::new(FailureKind::BadResponse, "start_unknown", message);
                return Err(failure.with_reached(Reached::Maybe));
            }
            open = dark;
            poll.pause().await;
        }
    }

    /// Looks once among the executions that are there now.
    pub(super) async fn glance(
        &self,
        poll: &mut Poll,
        call: &Call,
        workflow: &str,
        after: u64,
        seen: &mut Seen,
    ) -> Result<Option<String>, EngineFailure> {
        for id in self.candidates(poll, call, workflow, after).await?.0 {
            if seen.strangers.contains(&id) {
                continue;
            }
            match self.called_with(poll, call, &id).await? {
                Ok(Some(key)) if key == call.idempotency_key => return Ok(Some(id)),
                Ok(_) => drop(seen.strangers.insert(id)),
                Err(NoData) => seen.dark = true,
            }
        }
        Ok(None)
    }

    /// Executions of the workflow, the newest first, and whether these are all. Running ones have to be asked for by their
    /// status.
    async fn candidates(
        &self,
        poll: &mut Poll,
        call: &Call,
        workflow: &str,
        after: u64,
    ) -> Result<(Vec<String>, bool), EngineFailure> {
        let mut found: BTreeSet<(u64, String)> = BTreeSet::new();
        let mut all = true;
        for status in [Some("running"), Some("waiting"), None] {
            let mut cursor = None;
            for _ in 0..PAGES_MAX {
                let page = self.page(poll, call, workflow, status, cursor.as_deref()).await?;
                let older = page.data.iter().any(|listed| number(listed) <= after);
                let ours = page.data.iter().filter(|listed| number(listed) > after && is_id(&listed.id));
                found.extend(ours.map(|listed| (number(listed), listed.id.clone())));
                cursor = page.next_cursor.filter(|_| !older);
                if cursor.is_none() {
                    break;
                }
            }
            all &= cursor.is_none();
        }
        Ok((found.into_iter().rev().map(|(_, id)| id).collect(), all))
    }

    async fn page(
        &self,
        poll: &mut Poll,
        call: &Call,
        workflow: &str,
        status: Option<&str>,
        cursor: Option<&str>,
    ) -> Result<Page, EngineFailure> {
        poll.until_read(
            &self.client,
            || {
                let url = self.api(call.endpoint, &["executions"])?;
                let mut request = self.client.get(url).query("workflowId", workflow).query("limit", PAGE);
                for (name, value) in [("status", status), ("cursor", cursor)] {
                    if let Some(value) = value {
                        request = request.query(name, value);
                    }
                }
                Ok(request)
            },
            |answer| if answer.is_success() { answer.json() } else { Err(self.refusal(&answer)) },
        )
        .await
    }

    /// The key an execution was called with; one that n8n has pruned meanwhile belongs to no one.
    async fn called_with(
        &self,
        poll: &mut Poll,
        call: &Call,
        id: &str,
    ) -> Result<Result<Option<String>, NoData>, EngineFailure> {
        poll.until_read(
            &self.client,
            || self.execution(call.endpoint, id, true),
            |answer| match answer.status {
                200..300 => {
                    let ended = answer.json::<Listed>()?.end()?.is_some();
                    match answer.json::<Execution>()?.called_with(EXECUTION_KEY) {
                        // What shows nothing at its end never will.
                        Err(NoData) if ended => Ok(Ok(None)),
                        found => Ok(found),
                    }
                }
                404 if wire::is_not_found(&answer) => Ok(Ok(None)),
                _ => Err(self.refusal(&answer)),
            },
        )
        .await
    }
}

fn number(listed: &Listed) -> u64 {
    listed.id.parse().unwrap_or(0)
}
