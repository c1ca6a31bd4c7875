//! Sessions and leases: who may run what, until when.
//!
//! A lease is (execution, fence, holder). Only sessions are renewed, all of a node's in one write, so the cost of
//! holding leases does not grow with their number.

use crate::id::{NodeId, SessionId};
use crate::limits::{LEASE_TTL, SCHEDULER_TTL};
use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};

/// One incarnation of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub node: NodeId,
    pub worker: String,
    pub capacity: u32,
    /// The engine types it serves; empty means all.
    pub engine_types: Vec<String>,
    pub started_at: Time,
    /// `None` when the process is the lease: an in-process worker of an embedded store.
    pub lease_until: Option<Time>,
    /// Takes no new work.
    pub draining: bool,
}

impl Session {
    /// Eligible for reaping: expiry alone ends nothing, a later grant does.
    #[must_use]
    pub fn is_expired(&self, now: Time) -> bool {
        self.lease_until.is_some_and(|until| until < now)
    }

    #[must_use]
    pub fn serves(&self, engine_type: &str) -> bool {
        self.engine_types.is_empty() || self.engine_types.iter().any(|t| t == engine_type)
    }

    #[must_use]
    pub fn renewed(&self, now: Time) -> Session {
        Session { lease_until: self.lease_until.map(|_| now.plus(LEASE_TTL)), ..self.clone() }
    }
}

/// A role only one node of a store holds at a time, with an epoch that grows with each holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleGrant {
    pub node: NodeId,
    pub epoch: u64,
    pub until: Time,
}

impl RoleGrant {
    /// Who holds the role after `node` asked for it at `now`: the holder renews, anyone else takes over once it expired.
    /// `exclusive` says that no other process can be alive (an embedded store's directory lock proves it), so that a
    /// restart need not wait for the dead holder's time.
    #[must_use]
    pub fn acquire(
        current: Option<RoleGrant>,
        node: NodeId,
        known_epoch: Option<u64>,
        exclusive: bool,
        now: Time,
    ) -> Option<RoleGrant> {
        let until = now.plus(SCHEDULER_TTL);
        match current {
            None => Some(RoleGrant { node, epoch: 1, until }),
            Some(held) if held.node == node && known_epoch == Some(held.epoch) => {
                Some(RoleGrant { until, ..held })
            }
            Some(held) if exclusive || held.until < now => {
                Some(RoleGrant { node, epoch: held.epoch + 1, until })
            }
            Some(_) => None,
        }
    }
}

/// By when a worker that could not renew must have let go: before its lease ends by any clock.
#[must_use]
pub fn let_go_after() -> Millis {
    LEASE_TTL - LEASE_TTL / 5
}
