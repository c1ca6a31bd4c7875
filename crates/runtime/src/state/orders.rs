//! Orders to this node's workers, and how many of them are wanted.

use super::context::Context;
use super::port::Assigned;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::SessionId;
use enginehouse_store::{Sealed, StoreError};
use enginehouse_worker::LeaseRef;

/// Rows read at a time.
const PAGE: usize = 256;

impl Context {
    /// Hands a granted row to its worker; `false` when that is none of this node's, or has or had it.
    pub(crate) fn deliver(&self, session: SessionId, row: Execution, sealed: Option<Sealed>) -> bool {
        let mut ports = self.workers.ports.lock();
        let Some(port) = ports.get_mut(&session) else {
            return false;
        };
        let lease = LeaseRef { key: row.key(), fence: row.state.fence };
        if !port.begin(lease) {
            return false;
        }
        let request = self.payloads.inputs.lock().take(row.key());
        if port.orders.try_send(Assigned::Run { row: Box::new(row), request, sealed }).is_err() {
            port.held.remove(&lease);
            tracing::error!(
                worker = port.seat.name,
                "a worker's orders overflow; its work will be given out again"
            );
        }
        true
    }

    /// Gives a running row to the worker of this node that holds it, with the wish to cancel it if there is one. A worker
    /// that has it already is told nothing new.
    pub(crate) fn take_on(&self, row: Execution) {
        let Some(session) = row.state.holder else { return };
        // A row that was read before its end must not come back to life here, so only a new lease brings it in.
        if self.deliver(session, row.clone(), None) {
            self.scheduling.rows.lock().insert(row.key(), row.clone());
        }
        if row.state.cancel_at.is_some() {
            self.workers.send_cancel(&row);
        }
    }

    /// Takes on what this node's workers were granted and did not hear of: the feed was cut, or a commit of this node was
    /// answered by an error although it was made.
    pub(crate) async fn look_for_own(&self) -> Result<(), StoreError> {
        let sessions: Vec<SessionId> = self.workers.ports.lock().keys().copied().collect();
        for session in sessions {
            let mut after = None;
            loop {
                let rows = self.store.running(Some(session), after, PAGE).await?;
                after = rows.last().map(Execution::key);
                let last = rows.len() < PAGE;
                rows.into_iter().for_each(|row| self.take_on(row));
                if last {
                    break;
                }
            }
        }
        Ok(())
    }
}
