//! Waiting for the end of an execution: one that is there, or one that is submitted now.
//!
//! A waiter reads the row when it begins, unless it began before the row was there, and when it is told of the end without the
//! row; nothing in between.

use super::caller::{Caller, Scope};
use super::read::{Stored, raw};
use super::{Service, Submitted, not_found, store_error};
use crate::state::hub::Ends;
use enginehouse_api::{ApiError, ExecutionView, SubmitRequest};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_store::Ref;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// An execution that was just submitted, and whose end its caller waits for.
pub struct Awaited {
    ends: Ends,
    request: SubmitRequest,
    /// It was there before, so it may have ended before.
    replayed: bool,
}

impl Service {
    /// Waits until the execution is terminal or `at_most` has passed, and tells how it stands then; with its result if
    /// it completed.
    pub async fn wait(
        &self,
        caller: &Caller,
        id: &str,
        at_most: Duration,
    ) -> Result<ExecutionView, ApiError> {
        let key = match self.named(id)? {
            Ref::Key(key) => key,
            _ => self.row(id).await?.key(),
        };
        let mut ends = self.cx.events.hub.ends(key);
        // It may have ended before that.
        let row = self.row_of(&ends, id).await?;
        let row = self.wait_from(Some(row), &mut ends, id, at_most).await?;
        let mut view = self.full_view(caller, &row).await?;
        self.add_result(caller, &row, &mut view).await?;
        Ok(view)
    }

    /// As [`submit`](Service::submit), for who goes on to wait with [`wait_on`](Service::wait_on).
    ///
    /// # Errors
    /// Those of `submit`.
    pub async fn submit_awaited(
        &self,
        caller: &Caller,
        request: SubmitRequest,
        idempotency_key: Option<String>,
    ) -> Result<(Submitted, Awaited), ApiError> {
        self.admit(1)?;
        let new = self.prepare(caller, &request, idempotency_key)?;
        // Subscribe before storing, so that the end cannot be missed.
        let early = self.cx.events.hub.ends(new.row.key());
        let (row, replayed) = self.store_one(new).await?;
        let ends = if replayed { self.cx.events.hub.ends(row.key()) } else { early };
        let execution = self.view(caller, &row, Some(&request));
        Ok((Submitted { execution, replayed }, Awaited { ends, request, replayed }))
    }

    /// Waits for the end of what was submitted, at most this long, and tells how it stands then; with its result if it completed.
    pub async fn wait_on(
        &self,
        caller: &Caller,
        awaited: Awaited,
        at_most: Duration,
    ) -> Result<ExecutionView, ApiError> {
        let Awaited { mut ends, request, replayed } = awaited;
        let id = ends.key().0.to_string();
        let row = if replayed { Some(self.row_of(&ends, &id).await?) } else { None };
        let row = self.wait_from(row, &mut ends, &id, at_most).await?;
        let mut view = self.view(caller, &row, Some(&request));
        self.add_result(caller, &row, &mut view).await?;
        Ok(view)
    }

    /// The row once it has ended, or as it stands when the time is up. `row`: as it is known now; `None`: it was just stored.
    async fn wait_from(
        &self,
        mut row: Option<Execution>,
        ends: &mut Ends,
        id: &str,
        at_most: Duration,
    ) -> Result<Execution, ApiError> {
        let until = Instant::now() + at_most;
        loop {
            match row {
                Some(row) if row.status().is_terminal() => return Ok(row),
                _ => {}
            }
            row = match timeout_at(until, ends.next()).await {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => Some(self.row_of(ends, id).await?),
                Err(_) => return self.row_of(ends, id).await,
            };
        }
    }

    async fn row_of(&self, ends: &Ends, id: &str) -> Result<Execution, ApiError> {
        let row = self.cx.find(Ref::Key(ends.key())).await.map_err(|e| store_error(&e))?;
        row.ok_or_else(|| not_found(id))
    }

    async fn add_result(
        &self,
        caller: &Caller,
        row: &Execution,
        view: &mut ExecutionView,
    ) -> Result<(), ApiError> {
        if row.status() != Status::Completed || !caller.may(Scope::ReadPayload) {
            return Ok(());
        }
        view.result = match self.stored_result(row).await? {
            Some(Stored::Whole(bytes)) => Some(raw(bytes)?),
            Some(Stored::Large(large)) => Some(raw(large.whole().await?)?),
            None => None,
        };
        Ok(())
    }
}
