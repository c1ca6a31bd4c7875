//! This node's workers, how many are wanted, and the orders that need nothing but their ports.

use super::joined::Joined;
use super::lock::{Lock, Place};
use super::port::{Assigned, Port};
use super::scaling::Scaling;
use super::wanted::{PoolNews, Wanted};
use enginehouse_core::execution::Execution;
use enginehouse_core::id::SessionId;
use enginehouse_core::pools::{PoolRules, Pools};
use enginehouse_worker::{LeaseRef, Order};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::{Notify, mpsc, watch};

/// A run of the engine that no attempt follows any more and that is to be stopped there.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) engine: String,
    pub(crate) endpoint: u32,
    pub(crate) engine_run: String,
}

pub(crate) struct Workers {
    pub(crate) scaling: Lock<Scaling>,
    /// Workers that speak through the API. What is one worker's there is locked after this, and before the ports.
    pub(crate) joined: Lock<Joined>,
    /// How many workers this node is to have.
    pub(crate) wanted: Lock<Wanted>,
    pub(crate) ports: Lock<BTreeMap<SessionId, Port>>,
    pub(crate) pool_news: Lock<PoolNews>,
    /// The dedicated pools, and what was needed of them a moment ago.
    pub(crate) pools: Lock<Pools>,
    /// Where this node's worker processes find it, once that is known.
    pub(crate) worker_door: watch::Sender<Option<String>>,
    pub(crate) orphans: mpsc::Sender<Orphan>,
    /// Something changed among the workers, or how many are wanted.
    pub(crate) pool_nudge: Notify,
    /// Work found no free slot.
    pub(crate) scaler_nudge: Notify,
}

impl Workers {
    pub(crate) fn new(
        wanted: Wanted,
        scaling: Scaling,
        pools: Vec<PoolRules>,
        orphans: mpsc::Sender<Orphan>,
    ) -> Workers {
        Workers {
            scaling: Lock::new(Place::Scaling, scaling),
            joined: Lock::new(Place::Joined, Default::default()),
            wanted: Lock::new(Place::Wanted, wanted),
            ports: Lock::new(Place::Ports, Default::default()),
            pool_news: Lock::new(Place::PoolNews, Default::default()),
            pools: Lock::new(Place::Pools, Pools::new(pools)),
            worker_door: watch::channel(None).0,
            orphans,
            pool_nudge: Notify::new(),
            scaler_nudge: Notify::new(),
        }
    }

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

    /// Tells the worker that holds the row that its caller wishes it to stop.
    pub(crate) fn send_cancel(&self, row: &Execution) {
        let Some(session) = row.state.holder else { return };
        let lease = LeaseRef { key: row.key(), fence: row.state.fence };
        if let Some(port) = self.ports.lock().get(&session) {
            let _ = port.orders.try_send(Assigned::Order(Order::Cancel(lease)));
        }
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
