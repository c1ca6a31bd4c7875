//! Dedicated pools on this node: what is needed of each, and which worker is whose.
//!
//! The demand is known to the scheduler's node. Another node keeps its pools' minimums, and shares the rest.

use crate::state::context::Context;
use crate::state::wanted::Wanted;
use enginehouse_core::id::SessionId;
use enginehouse_core::pool::PoolWorker;
use enginehouse_core::pools::{Needs, slots_wanted, split};
use enginehouse_core::time::{Millis, Time};
use std::collections::BTreeMap;

fn needs(cx: &Context) -> Needs {
    let now = cx.store.now();
    let slots = {
        let scheduler = cx.scheduling.scheduler.lock();
        if scheduler.may_grant() {
            slots_wanted(&scheduler.queue, &scheduler.gates, now)
        } else {
            BTreeMap::new()
        }
    };
    let retention = cx.workers.scaling.lock().rules.retention;
    let capacity = cx.settings.scaling.rules.worker_capacity;
    cx.workers.pools.lock().look(&slots, capacity, retention, now)
}

/// Workers that are there only because not every one serves all; the auto-scaler plans without them.
pub(crate) fn workers_apart(cx: &Context) -> u32 {
    if cx.settings.pools.is_empty() { 0 } else { needs(cx).apart(&cx.settings.pools) }
}

/// How many workers each pool is to have, in order; the shared ones last.
pub(crate) fn parts_of(cx: &Context, wanted: Wanted) -> Vec<u32> {
    if cx.settings.pools.is_empty() {
        return vec![wanted.count];
    }
    split(wanted.count, wanted.most, &cx.settings.pools, &needs(cx))
}

/// Those of the workers that belong to the pool at this place; behind the last one stand the shared workers.
pub(crate) fn workers_of(
    cx: &Context,
    pool: usize,
    workers: &[PoolWorker<SessionId>],
) -> Vec<PoolWorker<SessionId>> {
    let (ports, pools) = (cx.workers.ports.lock(), cx.workers.pools.lock());
    let shared = cx.settings.pools.len();
    let of = |session| ports.get(&session).and_then(|port| pools.pool_of(&port.seat.engine_types));
    workers.iter().filter(|worker| of(worker.id).unwrap_or(shared) == pool).copied().collect()
}

/// The workers that are starting: by when they should be ready, and the engine types that they will serve.
pub(crate) fn starting_workers(cx: &Context, startup: Millis) -> Vec<(Time, Vec<String>)> {
    let ports = cx.workers.ports.lock();
    let starting = ports.values().filter(|port| port.ready_at.is_none() && port.gone.is_none());
    starting.map(|port| (port.launched_at.plus(startup), port.seat.engine_types.clone())).collect()
}
