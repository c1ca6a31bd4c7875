//! Reading executions: one, its parts, and lists.

use super::caller::{Caller, Scope};
use super::{Service, cursor, store_error};
use crate::seal::{Column, SealError, is_manifest};
use crate::state::large_results::LargeResult;
use enginehouse_api::{
    ApiError, AttemptsAnswer, Code, ExecutionView, FilterRequest, ListAnswer, LogsAnswer, ResultView,
    SubmitRequest, Timestamp,
};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_core::limits::{
    LIST_LIMIT_MAX, LOG_BYTES_MAX, NAME_BYTES_MAX, RESULT_BYTES_MAX, STORED_REQUEST_BYTES_MAX,
};
use enginehouse_store::{Filter, ListQuery, Ref};
use serde_json::value::RawValue;

impl Service {
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<ExecutionView, ApiError> {
        let row = self.row(id).await?;
        self.full_view(caller, &row).await
    }

    pub(super) async fn full_view(
        &self,
        caller: &Caller,
        row: &Execution,
    ) -> Result<ExecutionView, ApiError> {
        let request = if caller.may(Scope::ReadPayload) { self.stored_request(row).await? } else { None };
        let request: Option<SubmitRequest> = request.and_then(|text| serde_json::from_str(&text).ok());
        Ok(self.view(caller, row, request.as_ref()))
    }

    /// The request as it was sent.
    pub async fn request(&self, _caller: &Caller, id: &str) -> Result<Box<RawValue>, ApiError> {
        let row = self.row(id).await?;
        let gone = || ApiError::new(Code::ResultGone, "the request was removed");
        let text = self.stored_request(&row).await?.ok_or_else(gone)?;
        RawValue::from_string(text)
            .map_err(|_| ApiError::new(Code::Internal, "the stored request is not JSON"))
    }

    /// # Errors
    /// `not_finished` until it is terminal, `result_gone` when retention removed it.
    pub async fn result(&self, caller: &Caller, id: &str) -> Result<ResultView, ApiError> {
        let mut answer = self.result_answer(caller, id).await?;
        if let Some(large) = answer.large.take() {
            answer.view.result = Some(raw(large.whole().await?)?);
        }
        Ok(answer.view)
    }

    /// As [`result`](Service::result), but a large result is left where it lies, to be read as it is sent.
    ///
    /// # Errors
    /// As those of [`result`](Service::result).
    pub async fn result_answer(&self, caller: &Caller, id: &str) -> Result<ResultAnswer, ApiError> {
        let row = self.row(id).await?;
        if !row.status().is_terminal() {
            let text = format!("execution {id:?} is {}", row.status().as_str());
            return Err(ApiError::new(Code::NotFinished, text));
        }
        let stored = if row.status() == Status::Completed {
            let gone = || ApiError::new(Code::ResultGone, "the result was removed");
            Some(self.stored_result(&row).await?.ok_or_else(gone)?)
        } else {
            None
        };
        let (result, large) = match stored {
            Some(Stored::Whole(bytes)) => (Some(raw(bytes)?), None),
            Some(Stored::Large(large)) => (None, Some(large)),
            None => (None, None),
        };
        let view = ResultView {
            id: self.cx.payloads.public_id(&row),
            status: row.status(),
            result,
            failure: row.state.failure.as_ref().map(|f| self.failure_view(caller, row.key(), f)),
            needs_input: row.state.needs_input,
            started_at: row.state.started_at.map(Timestamp),
            ended_at: row.state.ended_at.map(Timestamp),
            abandoned: row.state.abandoned,
        };
        Ok(ResultAnswer { view, large })
    }

    pub async fn attempts(&self, caller: &Caller, id: &str) -> Result<AttemptsAnswer, ApiError> {
        let row = self.row(id).await?;
        Ok(AttemptsAnswer { attempts: self.attempt_views(caller, &row) })
    }

    pub async fn logs(&self, _caller: &Caller, id: &str) -> Result<LogsAnswer, ApiError> {
        let row = self.row(id).await?;
        let logs = self.payload(&row, Part::Logs, LOG_BYTES_MAX * 2).await?.unwrap_or_default();
        Ok(LogsAnswer {
            id: self.cx.payloads.public_id(&row),
            logs: String::from_utf8_lossy(&logs).into_owned(),
        })
    }

    /// Newest first. A cursor is a position, stable under inserts and deletes.
    pub async fn list(
        &self,
        caller: &Caller,
        filter: FilterRequest,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<ListAnswer, ApiError> {
        if !(1..=LIST_LIMIT_MAX).contains(&limit) {
            return Err(ApiError::field(Code::InvalidField, "?limit", format!("1 to {LIST_LIMIT_MAX}")));
        }
        let filter = self::filter(&filter, "?")?;
        let after = cursor::decode(&self.cx, &filter, cursor)?;
        let query = ListQuery { filter, after, limit: limit + 1 };
        let mut rows = self.cx.store.list(&query).await.map_err(|e| store_error(&e))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor =
            rows.last().filter(|_| more).map(|last| cursor::encode(&self.cx, &query.filter, last.key()));
        let executions = rows.iter().map(|row| self.view(caller, row, None)).collect();
        Ok(ListAnswer { executions, next_cursor })
    }

    pub(super) async fn stored_request(&self, row: &Execution) -> Result<Option<String>, ApiError> {
        let bytes = self.payload(row, Part::Input, STORED_REQUEST_BYTES_MAX).await?;
        Ok(bytes.and_then(|b| String::from_utf8(b).ok()))
    }

    /// Where the execution's caller wants to be told of its end; `None` when the request was removed.
    pub(crate) async fn callback_url(&self, key: Key) -> Result<Option<String>, ApiError> {
        let row = self.cx.find(Ref::Key(key)).await.map_err(|e| store_error(&e))?;
        let Some(row) = row else { return Ok(None) };
        let Some(text) = self.stored_request(&row).await? else { return Ok(None) };
        let request: SubmitRequest = serde_json::from_str(&text)
            .map_err(|_| ApiError::new(Code::Internal, "the stored request cannot be read"))?;
        Ok(request.callback_url)
    }

    pub(super) async fn stored_result(&self, row: &Execution) -> Result<Option<Stored>, ApiError> {
        let key = row.key();
        let (fence, now) = (row.state.fence, self.cx.store.now());
        let kept = self.cx.payloads.results.lock().get(key, fence, now);
        if let Some(kept) = kept {
            return Ok(Some(Stored::Whole(kept)));
        }
        let sealed = self.cx.store.payload(key, Part::Output).await.map_err(|e| store_error(&e))?;
        let Some(sealed) = sealed else { return Ok(None) };
        let wrong = |error: SealError| error.public("the stored result");
        if is_manifest(&sealed) {
            let manifest = self.cx.manifest(key, &sealed).await.map_err(wrong)?;
            return Ok(Some(Stored::Large(LargeResult::new(self.cx.clone(), key, manifest))));
        }
        let bytes = self.cx.open(key, Column::Output, &sealed, RESULT_BYTES_MAX).await.map_err(wrong)?;
        self.cx.payloads.results.lock().put(key, fence, &bytes, self.cx.store.now());
        Ok(Some(Stored::Whole(bytes)))
    }

    async fn payload(
        &self,
        row: &Execution,
        part: Part,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        let sealed = self.cx.store.payload(row.key(), part).await.map_err(|e| store_error(&e))?;
        let Some(sealed) = sealed else { return Ok(None) };
        let opened = self.cx.open(row.key(), Column::from(part), &sealed, bytes_max).await;
        opened.map(Some).map_err(|error| {
            let what = match part {
                Part::Input => "the stored request",
                Part::Output => "the stored result",
                Part::Logs => "the stored log",
            };
            error.public(what)
        })
    }
}

/// The answer to who asks for a result.
#[derive(Clone)]
pub struct ResultAnswer {
    /// All of it, but for a large result, which is `null` here.
    pub view: ResultView,
    pub large: Option<LargeResult>,
}

/// A result as it is stored.
pub(super) enum Stored {
    Whole(Vec<u8>),
    Large(LargeResult),
}

pub(super) fn raw(bytes: Vec<u8>) -> Result<Box<RawValue>, ApiError> {
    let text = String::from_utf8(bytes)
        .map_err(|_| ApiError::new(Code::Internal, "the stored result is not UTF-8"))?;
    RawValue::from_string(text).map_err(|_| ApiError::new(Code::Internal, "the stored result is not JSON"))
}

/// The store's filter; `prefix` is where its fields stand (`?` for a query, `/filter/` for a body).
pub(super) fn filter(request: &FilterRequest, prefix: &str) -> Result<Filter, ApiError> {
    let invalid =
        |name: &str, text: String| ApiError::field(Code::InvalidField, format!("{prefix}{name}"), text);
    let mut statuses = Vec::new();
    for word in &request.status {
        let status = Status::parse(word).ok_or_else(|| {
            let all: Vec<&str> = Status::ALL.iter().map(|s| s.as_str()).collect();
            invalid("status", format!("one of: {}", all.join(", ")))
        })?;
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    statuses.sort_unstable();
    let name = |field: &str, value: &Option<String>| match value {
        Some(text)
            if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) =>
        {
            Err(invalid(field, format!("1 to {NAME_BYTES_MAX} bytes without control characters")))
        }
        value => Ok(value.clone()),
    };
    let mut failure_kinds = Vec::new();
    for word in &request.failure_kind {
        failure_kinds.push(FailureKind::parse(word).ok_or_else(|| {
            let all: Vec<&str> = FailureKind::ALL.iter().map(|kind| kind.as_str()).collect();
            invalid("failureKind", format!("one of: {}", all.join(", ")))
        })?);
    }
    failure_kinds.sort_unstable();
    failure_kinds.dedup();
    let engine_type = name("engineType", &request.engine_type)?;
    Ok(Filter {
        statuses,
        engine: name("engine", &request.engine)?,
        engine_type: engine_type.map(|t| if t == "langgraph" { "langsmith".to_owned() } else { t }),
        workflow: name("workflowId", &request.workflow_id)?,
        user: name("userId", &request.user_id)?,
        tag: name("tag", &request.tag)?,
        failure_kinds,
        failure_code: name("failureCode", &request.failure_code)?,
        since: request.since.map(|t| t.0),
        until: request.until.map(|t| t.0),
    })
}
