//! Renews the sessions of this node's workers, and the scheduler's role, off the work path.
//!
//! With a store of its own a node's workers need neither: their process is the lease, and the directory lock is the role.

use super::ports::{announce, renewable};
use crate::role::{Role, Round};
use crate::state::context::{ChangeError, Context};
use crate::state::planned::Planned;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::SessionId;
use enginehouse_core::lifecycle::{self, AttemptEnd};
use enginehouse_core::limits::{LEASE_RENEW_EVERY, LEASE_TTL, SCHEDULER_TTL};
use enginehouse_core::reason::Reason;
use enginehouse_core::session::let_go_after;
use enginehouse_store::{RoleWrite, SessionWrite, StoreError, Write, WriteOutcome};
use enginehouse_worker::LeaseRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const ELECT_EVERY: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_millis(LEASE_RENEW_EVERY);
/// How long after a renewal that failed the next one is asked for.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Sessions {
    cx: Arc<Context>,
    /// When the last renewal was asked for, and the last one that was granted.
    asked: Instant,
    renewed: Instant,
}

impl Role for Sessions {
    const NAME: &'static str = "sessions";
    const TROUBLE: &'static str = "sessions could not be renewed";
    type Error = StoreError;

    fn first(&self) -> Duration {
        RENEW_EVERY
    }

    fn again(&self) -> Duration {
        RENEW_AGAIN.saturating_sub(self.asked.elapsed())
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        self.asked = Instant::now();
        let renewed = self.renew().await;
        if renewed.is_ok() {
            self.renewed = self.asked;
        }
        if self.renewed.elapsed() >= Duration::from_millis(let_go_after()) {
            let sessions: Vec<SessionId> = self.cx.workers.ports.lock().keys().copied().collect();
            sessions.into_iter().for_each(|s| self.cx.workers.let_go_of(s));
        }
        renewed.map(|()| Round::then_rest(RENEW_EVERY.saturating_sub(self.asked.elapsed())))
    }
}

impl Sessions {
    pub(crate) fn new(cx: Arc<Context>) -> Sessions {
        Sessions { cx, asked: Instant::now(), renewed: Instant::now() }
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let sessions = renewable(&self.cx);
        let until = self.cx.store.now().plus(LEASE_TTL);
        let write = Write::Session(SessionWrite::Renew { sessions, until });
        let settled = self.cx.writes.commit(vec![Planned::Other(write)], 0).await?;
        if let Some(WriteOutcome::Missing(missing)) = settled.outcomes.into_iter().next() {
            missing.iter().for_each(|s| self.cx.workers.let_go_of(*s));
            // Its leases were ended when it was closed, so the worker may start over under the same session.
            announce(&self.cx, missing).await?;
        }
        self.hand_back().await?;
        self.cx.look_for_own().await
    }

    /// Hands back what workers let go of while their session lives on: no one else would ever end those leases.
    async fn hand_back(&self) -> Result<(), StoreError> {
        let given_up: Vec<(SessionId, LeaseRef)> = {
            let ports = self.cx.workers.ports.lock();
            ports.iter().flat_map(|(id, port)| port.given_up.iter().map(|lease| (*id, *lease))).collect()
        };
        for (session, lease) in given_up {
            let decide = |row: &Execution, now| {
                let outcome = AttemptEnd::Interrupted { reason: Reason::LetGo };
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
    cx: Arc<Context>,
    /// When the last time was asked that an answer came.
    held: Instant,
}

impl Role for Election {
    const NAME: &'static str = "election";
    const TROUBLE: &'static str = "the scheduler's role could not be renewed";
    type Error = StoreError;

    fn again(&self) -> Duration {
        ELECT_EVERY
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        let asked = Instant::now();
        let answer = self.ask().await;
        if answer.is_ok() {
            self.held = asked;
        } else if self.held.elapsed() >= Duration::from_millis(SCHEDULER_TTL) {
            self.cx.scheduling.scheduler.lock().elect(None);
        }
        answer.map(|()| Round::then_rest(ELECT_EVERY))
    }
}

impl Election {
    pub(crate) fn new(cx: Arc<Context>) -> Election {
        Election { cx, held: Instant::now() }
    }

    /// One round: after it this node knows whether it schedules.
    pub(crate) async fn ask(&self) -> Result<(), StoreError> {
        let known_epoch = self.cx.scheduling.scheduler.lock().epoch();
        let exclusive = !self.cx.store.features().shared;
        let write = RoleWrite { node: self.cx.settings.node, known_epoch, exclusive };
        let settled = self.cx.writes.commit(vec![Planned::Other(Write::Role(write))], 0).await?;
        let Some(WriteOutcome::Role(grant)) = settled.outcomes.into_iter().next() else {
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

    /// After a time without a scheduler no one's lease may be held against it: all sessions get one more ttl.
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
