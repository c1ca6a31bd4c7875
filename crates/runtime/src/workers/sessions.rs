//! Renews the sessions of this node's workers, and the scheduler's role, off the work path.
//!
//! With a store of its own a node's workers need neither: their process is the lease, and the directory lock is the role.

use super::ports::{announce, renewable};
use crate::state::context::{ChangeError, Context};
use crate::state::planned::Planned;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::SessionId;
use enginehouse_core::lifecycle::{self, Outcome};
use enginehouse_core::limits::{LEASE_RENEW_EVERY, LEASE_TTL, SCHEDULER_TTL};
use enginehouse_core::session::let_go_after;
use enginehouse_store::{Outcome as Written, RoleWrite, SessionWrite, StoreError, Write};
use enginehouse_worker::LeaseRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const ELECT_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Sessions {
    pub(crate) cx: Arc<Context>,
}

impl Sessions {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut renewed = Instant::now();
        let mut next = Instant::now() + Duration::from_millis(LEASE_RENEW_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
            let asked = Instant::now();
            match self.renew().await {
                Ok(()) => {
                    renewed = asked;
                    next = asked + Duration::from_millis(LEASE_RENEW_EVERY);
                }
                Err(error) => {
                    tracing::warn!(%error, "sessions could not be renewed; trying again");
                    next = asked + Duration::from_secs(1);
                }
            }
            if renewed.elapsed() >= Duration::from_millis(let_go_after()) {
                let sessions: Vec<SessionId> = self.cx.workers.ports.lock().keys().copied().collect();
                sessions.into_iter().for_each(|s| self.cx.workers.let_go_of(s));
            }
        }
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let sessions = renewable(&self.cx);
        let until = self.cx.store.now().plus(LEASE_TTL);
        let write = Write::Session(SessionWrite::Renew { sessions, until });
        let settled = self.cx.writes.commit(vec![Planned::Other(write)], 0).await?;
        if let Some(Written::Missing(missing)) = settled.outcomes.into_iter().next() {
            missing.iter().for_each(|s| self.cx.workers.let_go_of(*s));
            // Its leases were ended when it was closed, so the worker may begin anew under the same session.
            announce(&self.cx, missing).await?;
        }
        self.hand_back().await?;
        self.cx.look_for_own().await
    }

    /// Hands back what workers let go of while their session lives on: nobody else would ever end those leases.
    async fn hand_back(&self) -> Result<(), StoreError> {
        let given_up: Vec<(SessionId, LeaseRef)> = {
            let ports = self.cx.workers.ports.lock();
            ports.iter().flat_map(|(id, port)| port.given_up.iter().map(|lease| (*id, *lease))).collect()
        };
        for (session, lease) in given_up {
            let decide = |row: &Execution, now| {
                let outcome = Outcome::Interrupted { reason: "let_go".to_owned() };
                lifecycle::finish(row, lease.fence, outcome, &self.cx.settings.head_starts, 0.0, now)
            };
            match self.cx.change(lease.key, false, decide).await {
                Err(ChangeError::Store(error)) => return Err(error),
                // Tried again with the next renewal.
                Err(ChangeError::Contended) => {}
                Ok(_) | Err(ChangeError::NotFound | ChangeError::Refused(_)) => {
                    if let Some(port) = self.cx.workers.ports.lock().get_mut(&session) {
                        port.given_up.remove(&lease);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Asks for the scheduler's role, and keeps it.
pub(crate) struct Election {
    pub(crate) cx: Arc<Context>,
}

impl Election {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut held = Instant::now();
        loop {
            let asked = Instant::now();
            match self.ask().await {
                Ok(()) => held = asked,
                Err(error) => {
                    tracing::warn!(%error, "the scheduler's role could not be renewed");
                    if held.elapsed() >= Duration::from_millis(SCHEDULER_TTL) {
                        self.cx.scheduling.scheduler.lock().elect(None);
                    }
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ELECT_EVERY) => {}
            }
        }
    }

    /// One round: after it this node knows whether it schedules.
    pub(crate) async fn ask(&self) -> Result<(), StoreError> {
        let known_epoch = self.cx.scheduling.scheduler.lock().epoch();
        let exclusive = !self.cx.store.features().shared;
        let write = RoleWrite { node: self.cx.settings.node, known_epoch, exclusive };
        let settled = self.cx.writes.commit(vec![Planned::Other(Write::Role(write))], 0).await?;
        let Some(Written::Role(grant)) = settled.outcomes.into_iter().next() else {
            return Ok(());
        };
        let mine = grant.node == self.cx.settings.node && settled.at <= grant.until;
        if mine && known_epoch != Some(grant.epoch) {
            self.extend_all().await?;
            self.cx.load_gates().await?;
            tracing::info!(epoch = grant.epoch, "this node schedules");
        }
        self.cx.scheduling.scheduler.lock().elect(mine.then_some(grant.epoch));
        self.cx.scheduling.grant_nudge.notify_one();
        Ok(())
    }

    /// After a time without a scheduler nobody's lease may be held against it: all sessions get one more ttl.
    async fn extend_all(&self) -> Result<(), StoreError> {
        if !self.cx.store.features().shared {
            return Ok(());
        }
        let sessions = self.cx.store.sessions().await?.into_iter().map(|s| s.id).collect();
        let until = self.cx.store.now().plus(LEASE_TTL);
        let write = Write::Session(SessionWrite::Renew { sessions, until });
        self.cx.writes.commit(vec![Planned::Other(write)], 0).await.map(|_| ())
    }
}
