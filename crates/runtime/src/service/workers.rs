//! The workers: who they are, and sending one away.

use super::caller::Caller;
use super::{Service, average, store_error};
use crate::state::planned::Planned;
use crate::state::port::Port;
use crate::workers::ports::drain_worker;
use enginehouse_api::{
    ApiError, Code, DrainRequest, DrainView, SlotsView, Timestamp, WorkerView, WorkersAnswer,
};
use enginehouse_core::event::NoteKind;
use enginehouse_core::id::SessionId;
use enginehouse_core::limits::NAME_BYTES_MAX;
use enginehouse_store::{Note, Ref, Write};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// How long an answer about the workers waits for a batch to be stored.
const BATCH_PATIENCE: Duration = Duration::from_secs(1);

impl Service {
    pub async fn workers(&self) -> Result<WorkersAnswer, ApiError> {
        let ids = self.worker_ids();
        let mut workers = Vec::with_capacity(ids.len());
        for (session, _) in ids {
            workers.extend(self.worker_view(session).await?);
        }
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(WorkersAnswer { workers, slots: self.slots().await })
    }

    /// What the scheduler counts and what runs, looked at between two batches: within one the scheduler counts what is planned.
    async fn slots(&self) -> Option<SlotsView> {
        let _between = timeout(BATCH_PATIENCE, self.cx.writes.batch.lock()).await.ok()?;
        let scheduler = self.cx.scheduling.scheduler.lock();
        let rows = self.cx.scheduling.rows.lock();
        let ports = self.cx.workers.ports.lock();
        let open = ports.values().filter(|port| port.is_open()).map(|port| u64::from(port.seat.capacity));
        let occupancy = scheduler.queue.occupancy();
        Some(SlotsView {
            open: open.sum(),
            in_use: ports.keys().map(|session| u64::from(occupancy.of_worker(*session))).sum(),
            leases: rows.values().filter_map(|row| row.state.holder).filter(|h| ports.contains_key(h)).count()
                as u64,
        })
    }

    pub async fn worker(&self, id: &str) -> Result<WorkerView, ApiError> {
        let missing = || ApiError::new(Code::NotFound, format!("no worker is named {id:?}"));
        let (session, _) = self.worker_ids().into_iter().find(|(_, name)| name == id).ok_or_else(missing)?;
        self.worker_view(session).await?.ok_or_else(missing)
    }

    fn worker_ids(&self) -> Vec<(SessionId, String)> {
        self.cx.workers.ports.lock().iter().map(|(id, p)| (*id, p.seat.name.clone())).collect()
    }

    async fn worker_view(&self, session: SessionId) -> Result<Option<WorkerView>, ApiError> {
        let (mut view, keys) = {
            let ports = self.cx.workers.ports.lock();
            let Some(port) = ports.get(&session) else {
                return Ok(None);
            };
            let keys: Vec<Ref> = port.held.iter().map(|l| Ref::Key(l.key)).collect();
            (describe(port, self.cx.settings.node.0), keys)
        };
        let rows = self.cx.store.find(&keys).await.map_err(|e| store_error(&e))?;
        view.active_executions = rows.iter().flatten().map(|row| self.cx.payloads.public_id(row)).collect();
        Ok(Some(view))
    }

    /// Sends a worker away: it takes nothing new, finishes what it has, hands back what still runs after the timeout, and
    /// goes. The pool replaces it if it is still needed.
    ///
    /// # Errors
    /// `not_found`, or `store_unavailable`: then nothing was begun.
    pub async fn drain_worker(
        &self,
        caller: &Caller,
        id: &str,
        request: &DrainRequest,
    ) -> Result<WorkerView, ApiError> {
        let missing = || ApiError::new(Code::NotFound, format!("no worker is named {id:?}"));
        let (session, _) = self.worker_ids().into_iter().find(|(_, name)| name == id).ok_or_else(missing)?;
        let reason = request.reason.as_deref().unwrap_or_default();
        if reason.len() > NAME_BYTES_MAX || reason.chars().any(char::is_control) {
            let text = format!("must be text without control characters of at most {NAME_BYTES_MAX} bytes");
            return Err(ApiError::field(Code::InvalidField, "/reason", text));
        }
        let patience = request.timeout.map_or(self.cx.settings.scaling.rules.drain_timeout, |span| span.0);
        let data = json!({
            "worker": id, "action": "drain", "timeoutMs": patience, "reason": request.reason, "by": caller.key_id,
        });
        let note = Write::Note(Note { kind: NoteKind::WorkerOperated, data });
        self.cx.writes.commit(vec![Planned::Other(note)], 0).await.map_err(|e| store_error(&e))?;
        drain_worker(&self.cx, session, "operator", patience, false);
        self.worker_view(session).await?.ok_or_else(missing)
    }
}

fn describe(port: &Port, node: u16) -> WorkerView {
    let held = port.held.len() as u64;
    WorkerView {
        id: port.seat.name.clone(),
        provider: port.seat.origin.as_str().to_owned(),
        capacity: port.seat.capacity,
        engine_types: port.seat.engine_types.clone(),
        status: port.status().to_owned(),
        current_load: held as f64 / f64::from(port.seat.capacity.max(1)),
        last_heartbeat: Timestamp(port.last_sign_at),
        active_executions: Vec::new(),
        total_executions: port.done,
        failed_executions: port.failed,
        average_execution_time: average(port.busy_ms, port.done),
        memory_bytes: port.memory_bytes,
        drain: port.drain.as_ref().map(|drain| DrainView {
            reason: drain.why.to_owned(),
            since: Timestamp(drain.since),
            until: Timestamp(drain.until),
        }),
        node,
        started_at: Timestamp(port.launched_at),
    }
}
