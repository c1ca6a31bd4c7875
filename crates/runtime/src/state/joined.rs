//! Workers that speak through the API: whose session is whose, and what is on its way to them.
//!
//! The node's own word on a worker is its [`Port`](crate::state::port::Port); here is only what the way over HTTP adds: who may speak
//! for a session, the orders whose arrival is not confirmed, and the names that leases have on the wire.

use super::lock::{Lock, Place};
use super::port::Assigned;
use crate::seal::{fresh_secret, hex};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use enginehouse_api::WorkerLease;
use enginehouse_core::id::SessionId;
use enginehouse_core::limits::WORKER_SESSIONS_REMEMBERED;
use enginehouse_worker::{LeaseRef, Order};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Begins the token of a worker process, so that it is told from an API key.
const TOKEN_PREFIX: &str = "ehw_";
/// Reports of a session that are remembered as taken, far more than can be repeated.
const REPORTED_REMEMBERED: usize = 512;

/// Who may speak for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The holder of this API key; `None`: anyone who reaches a service that asks for none.
    Key(Option<String>),
    /// The process that was given the token, of which only a hash is kept.
    Token { hash: String },
}

/// One worker's session as it is spoken for over HTTP.
pub(crate) struct Seated {
    pub(crate) session: SessionId,
    pub(crate) owner: Owner,
    /// Part of the session's name, so that no one can guess it.
    secret: String,
    /// Of the registration that took the seat; empty until then.
    pub(crate) nonce: Lock<String>,
    pub(crate) inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Assigned>>>,
    /// What was taken from the inbox and is not an order yet; taken in turn, and kept when the reader is dropped.
    pub(crate) opening: tokio::sync::Mutex<VecDeque<Assigned>>,
    pub(crate) wire: Lock<Wire>,
    /// Each pull raises it, and ends the one before.
    pub(crate) turn: watch::Sender<u64>,
    /// The session was closed in peace: the worker goes, and joins no other.
    dismissed: AtomicBool,
}

/// What is on its way to one worker, and what its leases are called there.
#[derive(Default)]
pub(crate) struct Wire {
    last_number: u64,
    /// Sent, and not confirmed; with the time at which each was opened.
    pub(crate) unconfirmed: VecDeque<(u64, Instant, Order)>,
    /// Given to the worker, and not reported.
    leases: BTreeMap<WorkerLease, LeaseRef>,
    reported: VecDeque<WorkerLease>,
}

impl Wire {
    /// Orders up to this number have arrived; `false`: no such order was ever sent.
    pub(crate) fn confirm(&mut self, number: u64) -> bool {
        while self.unconfirmed.front().is_some_and(|(first, _, _)| *first <= number) {
            self.unconfirmed.pop_front();
        }
        number <= self.last_number
    }

    /// An order goes to the worker. One about a lease that it does not have goes nowhere.
    pub(crate) fn send(&mut self, order: Order) {
        match &order {
            Order::Run(assignment) => {
                let lease = WorkerLease {
                    execution_id: assignment.execution_id.clone(),
                    fence: assignment.lease.fence.0,
                };
                self.leases.insert(lease, assignment.lease);
            }
            Order::Cancel(lease) | Order::LetGo(lease) if self.name(*lease).is_none() => return,
            Order::Cancel(_) | Order::LetGo(_) | Order::HandBack => {}
        }
        self.last_number += 1;
        self.unconfirmed.push_back((self.last_number, Instant::now(), order));
    }

    /// What a lease of the worker is called on the wire.
    pub(crate) fn name(&self, lease: LeaseRef) -> Option<WorkerLease> {
        self.leases.iter().find(|(_, held)| **held == lease).map(|(name, _)| name.clone())
    }

    /// The lease of that name, if it was given to this worker and not ended by it.
    pub(crate) fn lease(&self, name: &WorkerLease) -> Option<LeaseRef> {
        self.leases.get(name).copied()
    }

    /// The lease is over for this worker; `reported`: because its report was taken.
    pub(crate) fn end(&mut self, name: &WorkerLease, reported: bool) {
        self.leases.remove(name);
        if reported {
            if self.reported.len() >= REPORTED_REMEMBERED {
                self.reported.pop_front();
            }
            self.reported.push_back(name.clone());
        }
    }

    pub(crate) fn was_reported(&self, name: &WorkerLease) -> bool {
        self.reported.contains(name)
    }

    pub(crate) fn holds_nothing(&self) -> bool {
        self.leases.is_empty()
    }
}

impl Seated {
    /// The session's name on the wire.
    pub(crate) fn name(&self) -> String {
        format!("{:x}-{}", self.session.0, self.secret)
    }

    /// The worker may go, and need not come back.
    pub(crate) fn may_go(&self) -> bool {
        self.may_go_with(&self.wire.lock())
    }

    pub(crate) fn may_go_with(&self, wire: &Wire) -> bool {
        self.dismissed.load(Ordering::Acquire) && wire.holds_nothing()
    }
}

/// Every session that is or was spoken for over HTTP.
#[derive(Default)]
pub(crate) struct Joined {
    sessions: BTreeMap<SessionId, Arc<Seated>>,
}

impl Joined {
    /// Keeps a session; the oldest of those that have ended (`is_over` says which) are forgotten when there are many.
    pub(crate) fn seat(
        &mut self,
        session: SessionId,
        owner: Owner,
        inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Assigned>>>,
        is_over: impl Fn(SessionId) -> bool,
    ) -> Arc<Seated> {
        let seated = Arc::new(Seated {
            session,
            owner,
            secret: hex(&fresh_secret()[..16]),
            nonce: Lock::new(Place::Nonce, Default::default()),
            inbox,
            opening: tokio::sync::Mutex::default(),
            wire: Lock::new(Place::Wire, Default::default()),
            turn: watch::channel(0).0,
            dismissed: AtomicBool::new(false),
        });
        if self.sessions.len() >= WORKER_SESSIONS_REMEMBERED {
            let oldest = self.sessions.keys().find(|session| is_over(**session)).copied();
            oldest.map(|session| self.sessions.remove(&session));
        }
        self.sessions.insert(session, seated.clone());
        seated
    }

    /// The session of that name on the wire.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Seated>> {
        let (id, secret) = name.split_once('-')?;
        let session = SessionId(i64::from_str_radix(id, 16).ok()?);
        let seated = self.sessions.get(&session)?;
        verify_slices_are_equal(seated.secret.as_bytes(), secret.as_bytes()).ok()?;
        Some(seated.clone())
    }

    pub(crate) fn of(&self, session: SessionId) -> Option<Arc<Seated>> {
        self.sessions.get(&session).cloned()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Seated>> {
        self.sessions.values()
    }

    /// The session has ended, in peace or not. What was on its way is dropped; what it was given stays known, so that a
    /// late result is told from a stranger's.
    pub(crate) fn closed(&mut self, session: SessionId, in_peace: bool) {
        let Some(seated) = self.sessions.get(&session) else { return };
        if !in_peace && matches!(seated.owner, Owner::Token { .. }) {
            // Its process is dead, so no one will ask.
            self.sessions.remove(&session);
            return;
        }
        seated.dismissed.store(in_peace, Ordering::Release);
        seated.wire.lock().unconfirmed.clear();
        if let Ok(mut opening) = seated.opening.try_lock() {
            opening.clear();
        }
        if let Ok(mut inbox) = seated.inbox.try_lock() {
            while inbox.try_recv().is_ok() {}
        }
    }

    /// The node stops: its processes go with it, and workers elsewhere wait for its next start.
    pub(crate) fn node_stops(&self) {
        for seated in self.sessions.values() {
            let goes = matches!(seated.owner, Owner::Token { .. });
            seated.dismissed.store(goes, Ordering::Release);
        }
    }
}

/// A token for the process of a session's worker.
pub(crate) fn fresh_token(session: SessionId) -> String {
    format!("{TOKEN_PREFIX}{:x}_{}", session.0, hex(&fresh_secret()))
}

/// The session whose process a token is for, if it is a token at all; it is not checked yet.
pub(crate) fn session_of_token(token: &str) -> Option<SessionId> {
    let (id, _) = token.strip_prefix(TOKEN_PREFIX)?.split_once('_')?;
    i64::from_str_radix(id, 16).ok().map(SessionId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_core::id::{Fence, Key};

    fn lease(key: i64) -> LeaseRef {
        LeaseRef { key: Key(key), fence: Fence(1) }
    }

    #[test]
    fn orders_are_kept_until_they_are_confirmed_and_numbers_never_return() {
        let mut wire = Wire::default();
        wire.send(Order::HandBack);
        wire.send(Order::HandBack);
        // It has no such lease, so it is told nothing of it.
        wire.send(Order::Cancel(lease(9)));
        let numbers = |wire: &Wire| wire.unconfirmed.iter().map(|(n, _, _)| *n).collect::<Vec<_>>();
        assert_eq!(numbers(&wire), [1, 2]);
        assert!(wire.confirm(0) && wire.confirm(1) && wire.confirm(1));
        assert_eq!(numbers(&wire), [2]);
        assert!(!wire.confirm(3), "never sent");
        wire.send(Order::HandBack);
        assert_eq!(numbers(&wire), [3]);
    }

    #[test]
    fn a_token_names_its_session_and_nothing_else_does() {
        let token = fresh_token(SessionId(0x1f));
        assert_eq!(session_of_token(&token), Some(SessionId(0x1f)));
        for other in ["", "ehw_", "ehw_zz_1", "eh_1f_2", "ehw_1f"] {
            assert_eq!(session_of_token(other), None, "{other}");
        }
    }
}
