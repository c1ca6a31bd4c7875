//! Accepting work: durable before the answer, once per id.

use super::caller::Caller;
use super::canonical::canonical;
use super::resolve::resolve;
use super::{Service, Submitted, store_error};
use crate::seal::Column;
use crate::state::planned::Planned;
use bytes::Bytes;
use enginehouse_api::{ApiError, BatchAnswer, BatchItem, BatchRequest, Code, SubmitRequest};
use enginehouse_core::execution::Execution;
use enginehouse_core::lifecycle;
use enginehouse_core::limits::{BATCH_EXECUTIONS_MAX, NAME_BYTES_MAX};
use enginehouse_core::time::SECOND;
use enginehouse_store::{New, SubmitOutcome, WriteOutcome};
use std::collections::BTreeMap;

/// `over`: how many are too many; `rate`: how many end per second, which tells when there will be room.
fn queue_full(text: String, over: u64, rate: f64) -> ApiError {
    let wait = (over as f64 / rate.max(1.0) * 1_000.0) as u64;
    ApiError::new(Code::QueueFull, text).retry_after(wait.clamp(SECOND, 60 * SECOND))
}

impl Service {
    /// Stores one execution; the answer means that it is on disk. The same id (or idempotency key) with the same request
    /// gives the same execution again.
    ///
    /// # Errors
    /// `invalid_field` and its kin name the field; `id_conflict`, `queue_full`, `stopping`, `store_unavailable` (outcome
    /// unknown: try again with the same id), `store_full`.
    pub async fn submit(
        &self,
        caller: &Caller,
        request: SubmitRequest,
        idempotency_key: Option<String>,
    ) -> Result<Submitted, ApiError> {
        self.admit(1)?;
        let new = self.prepare(caller, &request, idempotency_key)?;
        let (row, replayed) = self.store_one(new).await?;
        let execution = self.view(caller, &row, Some(&request));
        Ok(Submitted { execution, replayed })
    }

    /// The row as stored, and whether it was there before.
    pub(super) async fn store_one(&self, new: New) -> Result<(Execution, bool), ApiError> {
        self.admit_shares(std::slice::from_ref(&new))?;
        let (rows, replayed) = self.store_group(vec![new]).await?;
        let row = rows.into_iter().next().ok_or_else(|| ApiError::new(Code::Internal, "no row came back"))?;
        Ok((row, replayed[0]))
    }

    /// Stores 1 to 1,000 executions, all or none. Items that were accepted before are replays; one conflict refuses all.
    ///
    /// # Errors
    /// As `submit`; pointers begin with `/executions/{n}`.
    pub async fn submit_batch(
        &self,
        caller: &Caller,
        request: BatchRequest,
    ) -> Result<BatchAnswer, ApiError> {
        let count = request.executions.len();
        if !(1..=BATCH_EXECUTIONS_MAX).contains(&count) {
            let text = format!("1 to {BATCH_EXECUTIONS_MAX} executions");
            return Err(ApiError::field(Code::InvalidField, "/executions", text));
        }
        self.admit(count as u64)?;
        let mut group = Vec::with_capacity(count);
        for (at, item) in request.executions.iter().enumerate() {
            group.push(self.prepare(caller, item, None).map_err(|e| e.within(&format!("/executions/{at}")))?);
        }
        self.admit_shares(&group)?;
        let (rows, replayed) = self.store_group(group).await?;
        let executions = rows
            .iter()
            .zip(replayed)
            .map(|(row, replayed)| BatchItem {
                id: self.cx.payloads.public_id(row),
                status: row.status(),
                replayed,
            })
            .collect();
        Ok(BatchAnswer { executions })
    }

    /// Turns work away while there is no room for it.
    pub(super) fn admit(&self, count: u64) -> Result<(), ApiError> {
        self.ready()?;
        let depth_max = self.cx.settings.queue.depth_max;
        let mut figures = self.cx.observed.figures.lock();
        let pending = figures.totals.pending;
        if pending + count <= depth_max {
            return Ok(());
        }
        let rate = figures.throughput(self.cx.store.now());
        let text = format!("{pending} executions are pending; at most {depth_max} may be");
        Err(queue_full(text, pending + count - depth_max, rate))
    }

    /// Turns away what would make one engine's, or one user's, part of the queue too long.
    fn admit_shares(&self, group: &[New]) -> Result<(), ApiError> {
        let limits = &self.cx.settings.queue;
        if limits.engine_depth_max.is_none() && limits.user_depth_max.is_none() {
            return Ok(());
        }
        let mut engines: BTreeMap<&str, u64> = BTreeMap::new();
        let mut users: BTreeMap<&Option<String>, u64> = BTreeMap::new();
        for fixed in group.iter().map(|new| &new.row.fixed) {
            *engines.entry(&fixed.engine).or_default() += 1;
            *users.entry(&fixed.user).or_default() += 1;
        }
        let rate = self.cx.observed.figures.lock().throughput(self.cx.store.now());
        let scheduler = self.cx.scheduling.scheduler.lock();
        for (engine, count) in engines {
            let due = scheduler.queue.depth_of_engine(engine);
            if let Some(most) = limits.engine_depth_max.filter(|most| due + count > *most) {
                let text = format!("{due} executions wait for engine {engine:?}; at most {most} may");
                return Err(queue_full(text, due + count - most, rate));
            }
        }
        for (user, count) in users {
            let due = scheduler.queue.depth_of_user(user);
            if let Some(most) = limits.user_depth_max.filter(|most| due + count > *most) {
                let named = user.as_ref().map_or("no user".to_owned(), |user| format!("user {user:?}"));
                let text = format!("{due} executions of {named} wait; at most {most} may");
                return Err(queue_full(text, due + count - most, rate));
            }
        }
        Ok(())
    }

    pub(super) fn prepare(
        &self,
        caller: &Caller,
        request: &SubmitRequest,
        idempotency_key: Option<String>,
    ) -> Result<New, ApiError> {
        let now = self.cx.store.now();
        let mut new = resolve(&self.cx, caller, request, now)?;
        let unreadable = |e: serde_json::Error| ApiError::new(Code::InvalidJson, e.to_string());
        let plain = serde_json::to_vec(request).map_err(unreadable)?;
        // Who repeats a request because its answer was lost may do so under another span.
        let text = canonical(&plain, &["createdAt", "traceparent"]).map_err(unreadable)?;
        new.fixed.request_hash = self.cx.payloads.sealer.request_hash(&text);
        if let Some(key) = idempotency_key {
            if key.is_empty() || key.len() > NAME_BYTES_MAX {
                let text = format!("Idempotency-Key has 1 to {NAME_BYTES_MAX} bytes");
                return Err(ApiError::new(Code::InvalidField, text));
            }
            // Scoped to the API key: two callers may use the same word.
            let scope = caller.key_id.as_deref().unwrap_or("local");
            new.fixed.idem_key =
                Some(self.cx.payloads.sealer.name_hash(&format!("idempotency:{scope}:{key}")));
        }
        let input = self.cx.payloads.sealer.seal(new.fixed.key, Column::Input, &plain);
        let row = lifecycle::submit(new, &self.cx.settings.head_starts);
        self.cx.payloads.inputs.lock().put(row.key(), Bytes::from(plain));
        Ok(New { row, input, grant: None })
    }

    /// Commits a group and gives back its rows as stored, and which of them were there before.
    async fn store_group(&self, group: Vec<New>) -> Result<(Vec<Execution>, Vec<bool>), ApiError> {
        let rows: Vec<Execution> = group.iter().map(|n| n.row.clone()).collect();
        let bytes = group.iter().map(|n| n.input.len()).sum();
        let settled = self.cx.writes.commit(vec![Planned::Submit(group)], bytes).await;
        let (outcome, started) = match settled {
            Ok(settled) => (settled.outcomes.into_iter().next(), settled.started),
            Err(error) => {
                self.drop_inputs(&rows);
                return Err(store_error(&error));
            }
        };
        match outcome {
            Some(WriteOutcome::Submitted(items)) => {
                let mut replayed = Vec::with_capacity(rows.len());
                let mut stored = Vec::with_capacity(rows.len());
                let mut started: BTreeMap<_, _> = started.into_iter().collect();
                for (row, item) in rows.into_iter().zip(items) {
                    replayed.push(matches!(item, SubmitOutcome::Existing(_)));
                    stored.push(match item {
                        SubmitOutcome::Existing(existing) => {
                            self.cx.payloads.inputs.lock().take(row.key());
                            *existing
                        }
                        // What started in the same commit is told as it is, not as it was before.
                        SubmitOutcome::Stored { .. } => match started.remove(&row.key()) {
                            Some(state) => Execution { state, ..row },
                            None => row,
                        },
                    });
                }
                Ok((stored, replayed))
            }
            Some(WriteOutcome::Conflict { index, existing }) => {
                self.drop_inputs(&rows);
                let id = self.cx.payloads.public_id(&existing);
                let text = format!(
                    "the id or idempotency key belongs to execution {id:?}, which has a different request"
                );
                let single = rows.len() == 1;
                let pointer = if single { "/id".to_owned() } else { format!("/executions/{index}/id") };
                Err(ApiError::field(Code::IdConflict, pointer, text))
            }
            _ => {
                self.drop_inputs(&rows);
                Err(ApiError::new(Code::Internal, "the store gave no outcome"))
            }
        }
    }

    fn drop_inputs(&self, rows: &[Execution]) {
        let mut inputs = self.cx.payloads.inputs.lock();
        for row in rows {
            inputs.take(row.key());
        }
    }
}
