//! Orders to this node's workers, and how many of them are wanted.

use super::context::Context;
use super::port::Assigned;
use super::wanted::Wanted;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::SessionId;
use enginehouse_store::{Sealed, StoreError};
use enginehouse_worker::{LeaseRef, Order};
use std::collections::BTreeSet;

/// Rows read at a time.
const PAGE: usize = 256;

impl Context {
    /// Tells this node's pool how many workers it is to have.
    pub(crate) fn want(&self, wanted: Wanted) {
        let mut now = self.wanted.lock();
        if *now != wanted {
            *now = wanted;
            self.pool_nudge.notify_one();
        }
    }

    pub(crate) fn worker_name(&self, session: SessionId) -> String {
        let ports = self.ports.lock();
        ports.get(&session).map_or_else(|| format!("session-{}", session.0), |p| p.seat.name.clone())
    }

    /// Hands a granted row to its worker; `false` when that is none of this node's, or has or had it.
    pub(crate) fn deliver(&self, session: SessionId, row: Execution, sealed: Option<Sealed>) -> bool {
        let mut ports = self.ports.lock();
        let Some(port) = ports.get_mut(&session) else {
            return false;
        };
        let lease = LeaseRef { key: row.key(), fence: row.state.fence };
        if !port.begin(lease) {
            return false;
        }
        let request = self.inputs.lock().take(row.key());
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
            self.rows.lock().insert(row.key(), row.clone());
        }
        if row.state.cancel_at.is_some() {
            self.send_cancel(&row);
        }
    }

    /// Tells the worker that holds the row that its caller wishes it to stop.
    pub(crate) fn send_cancel(&self, row: &Execution) {
        let Some(session) = row.state.holder else { return };
        let lease = LeaseRef { key: row.key(), fence: row.state.fence };
        if let Some(port) = self.ports.lock().get(&session) {
            let _ = port.orders.try_send(Assigned::Order(Order::Cancel(lease)));
        }
    }

    /// Takes on what this node's workers were granted and did not hear of: the feed was cut, or a commit of this node was
    /// answered by an error although it was made.
    pub(crate) async fn look_for_own(&self) -> Result<(), StoreError> {
        let sessions: Vec<SessionId> = self.ports.lock().keys().copied().collect();
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

    /// Tells this node's worker of that session to let go of everything: its lease cannot be proved any more.
    pub(crate) fn let_go_of(&self, session: SessionId) {
        let mut ports = self.ports.lock();
        let Some(port) = ports.get_mut(&session) else {
            return;
        };
        let held: BTreeSet<LeaseRef> = std::mem::take(&mut port.held);
        for lease in held {
            port.given_up.insert(lease);
            let order = Order::LetGo(lease);
            let _ = port.orders.try_send(Assigned::Order(order));
        }
    }
}
