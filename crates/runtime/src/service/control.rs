//! Steering executions: cancel, redrive, replay, priority, and the bulk verbs.

use super::caller::Caller;
use super::read::filter;
use super::{Service, change_error, cursor, store_error};
use crate::state::context::ChangeError;
use crate::state::planned::Planned;
use enginehouse_api::{
    ApiError, BulkAnswer, BulkRequest, Code, ExecutionView, FilterRequest, PatchRequest, SubmitRequest,
};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::{self, Part, Refused, Transition};
use enginehouse_core::limits::{BULK_EXECUTIONS_MAX, BULK_SLICE};
use enginehouse_core::time::Time;
use enginehouse_store::{Filter, ListQuery, WriteOutcome};

impl Service {
    /// Pending work ends `cancelled` at once. For running work the wish is stored: it beats retries and lost leases, and
    /// the engine is told to stop.
    ///
    /// # Errors
    /// `already_finished` when it completed or failed.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<ExecutionView, ApiError> {
        let key = self.row(id).await?.key();
        let by = caller.key_id.clone();
        match self.cx.change(key, false, |row, now| lifecycle::cancel(row, by.clone(), now)).await {
            Ok(row) => self.full_view(caller, &row).await,
            // Asking twice is no error.
            Err(ChangeError::Refused(Refused::AlreadyCancelled)) => self.get(caller, id).await,
            Err(error) => Err(change_error(id, error)),
        }
    }

    /// Puts a failed or cancelled execution back under its id, with a fresh retry budget.
    pub async fn redrive(&self, caller: &Caller, id: &str) -> Result<ExecutionView, ApiError> {
        self.ready()?;
        let key = self.row(id).await?.key();
        let input = self.cx.store.payload(key, Part::Input).await.map_err(|e| store_error(&e))?;
        if input.is_none() {
            return Err(ApiError::new(
                Code::ResultGone,
                "the request was removed, so it cannot be run again",
            ));
        }
        let (heads, by) = (self.cx.settings.head_starts, caller.key_id.clone());
        let changed =
            self.cx.change(key, false, |row, now| lifecycle::redrive(row, &heads, by.clone(), now)).await;
        let row = changed.map_err(|e| change_error(id, e))?;
        self.full_view(caller, &row).await
    }

    /// Submits a new execution from an old one's request.
    pub async fn replay(&self, caller: &Caller, id: &str) -> Result<ExecutionView, ApiError> {
        let row = self.row(id).await?;
        let gone = || ApiError::new(Code::ResultGone, "the request was removed");
        let text = self.stored_request(&row).await?.ok_or_else(gone)?;
        let mut request: SubmitRequest = serde_json::from_str(&text)
            .map_err(|_| ApiError::new(Code::Internal, "the stored request cannot be read"))?;
        // It is a new execution that starts now, whatever times and names the old one had.
        request.id = None;
        request.ready_at = None;
        request.created_at = None;
        request.engine = Some(row.fixed.engine.clone());
        request.engine_type = None;
        Ok(self.submit(caller, request, None).await?.execution)
    }

    /// # Errors
    /// `not_pending` once it runs or has ended.
    pub async fn set_priority(
        &self,
        caller: &Caller,
        id: &str,
        change: PatchRequest,
    ) -> Result<ExecutionView, ApiError> {
        let row = self.row(id).await?;
        let (heads, by, priority) = (self.cx.settings.head_starts, caller.key_id.clone(), change.priority.0);
        let decide = |row: &Execution, now| lifecycle::reprioritize(row, priority, &heads, by.clone(), now);
        match self.cx.change(row.key(), false, decide).await {
            Ok(row) => self.full_view(caller, &row).await,
            Err(ChangeError::Refused(Refused::NoChange)) => self.get(caller, id).await,
            Err(error) => Err(change_error(id, error)),
        }
    }

    /// Cancels all that match, at most 10,000 a call; `nextCursor` goes on.
    pub async fn bulk_cancel(&self, caller: &Caller, request: BulkRequest) -> Result<BulkAnswer, ApiError> {
        let by = caller.key_id.clone();
        let open = [Status::Pending, Status::Running];
        self.bulk(&request, &open, |row, now| lifecycle::cancel(row, by.clone(), now)).await
    }

    /// Redrives all failed or cancelled ones that match, at most 10,000 a call.
    pub async fn bulk_redrive(&self, caller: &Caller, request: BulkRequest) -> Result<BulkAnswer, ApiError> {
        self.ready()?;
        let (heads, by) = (self.cx.settings.head_starts, caller.key_id.clone());
        let dead = [Status::Failed, Status::Cancelled];
        self.bulk(&request, &dead, |row, now| lifecycle::redrive(row, &heads, by.clone(), now)).await
    }

    async fn bulk(
        &self,
        request: &BulkRequest,
        statuses: &[Status],
        decide: impl Fn(&Execution, Time) -> Result<Transition, Refused> + Send + Sync,
    ) -> Result<BulkAnswer, ApiError> {
        let filter = bulk_filter(request, statuses)?;
        if filter.statuses.is_empty() {
            // The filter asks only for statuses this verb never changes.
            return Ok(BulkAnswer { matched: 0, changed: 0, next_cursor: None });
        }
        let mut after: Option<Key> = cursor::decode(&self.cx, &filter, request.cursor.as_deref())?;
        let (mut matched, mut changed) = (0u64, 0u64);
        loop {
            let left = BULK_EXECUTIONS_MAX - usize::try_from(matched).unwrap_or(BULK_EXECUTIONS_MAX);
            if left == 0 {
                break;
            }
            let query = ListQuery { filter: filter.clone(), after, limit: BULK_SLICE.min(left) };
            let rows = self.cx.store.list(&query).await.map_err(|e| store_error(&e))?;
            let last_page = rows.len() < query.limit;
            after = rows.last().map(Execution::key).or(after);
            matched += rows.len() as u64;
            if !request.dry_run && !rows.is_empty() {
                changed += self.change_slice(rows, &decide).await?;
            }
            if last_page {
                return Ok(BulkAnswer { matched, changed, next_cursor: None });
            }
        }
        let next_cursor = after.map(|key| cursor::encode(&self.cx, &filter, key));
        Ok(BulkAnswer { matched, changed, next_cursor })
    }

    /// One commit for the slice; rows that changed meanwhile are decided on one by one.
    async fn change_slice(
        &self,
        rows: Vec<Execution>,
        decide: &(impl Fn(&Execution, Time) -> Result<Transition, Refused> + Send + Sync),
    ) -> Result<u64, ApiError> {
        let now = self.cx.store.now();
        let mut keys = Vec::new();
        let mut writes = Vec::new();
        for row in rows {
            if let Ok(transition) = decide(&row, now) {
                keys.push(row.key());
                writes.push(Planned::Transition { row, transition, scheduled: false });
            }
        }
        let settled = self.cx.writes.commit(writes, 0).await.map_err(|e| store_error(&e))?;
        let mut changed = 0;
        for (key, outcome) in keys.into_iter().zip(settled.outcomes) {
            changed += match outcome {
                WriteOutcome::Applied => 1,
                _ => u64::from(self.cx.change(key, false, decide).await.is_ok()),
            };
        }
        Ok(changed)
    }
}

fn bulk_filter(request: &BulkRequest, statuses: &[Status]) -> Result<Filter, ApiError> {
    let asked = request.filter.clone().unwrap_or_default();
    if asked == FilterRequest::default() && !request.all {
        let text = "give at least one condition, or \"all\": true";
        return Err(ApiError::field(Code::InvalidField, "/filter", text));
    }
    let mut filter = filter(&asked, "/filter/")?;
    if filter.statuses.is_empty() {
        filter.statuses = statuses.to_vec();
    } else {
        filter.statuses.retain(|s| statuses.contains(s));
    }
    Ok(filter)
}
