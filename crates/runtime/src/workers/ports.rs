//! Ports of this node's workers from their opening to their end, and what the store is told of them.
//!
//! What becomes of the workers, how many there are and which goes first, is decided by [`enginehouse_core::pool`] and carried
//! out in [`pool`](crate::workers::pool).

use super::link::NodeLink;
use crate::state::context::Context;
use crate::state::planned::Planned;
use crate::state::port::{Drain, Origin, Port, Seat, note};
use enginehouse_core::event::NoteKind;
use enginehouse_core::id::SessionId;
use enginehouse_core::limits::{LEASE_TTL, WORKER_SILENCE_MAX};
use enginehouse_core::session::Session;
use enginehouse_store::{SessionWrite, StoreError, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// Orders that may wait beside one per slot: wishes to cancel, letting go.
const SPARE_ORDERS: usize = 256;

/// Makes a port for a worker that is to come; it gets no work before it is [ready](worker_ready).
pub(crate) fn open_port(cx: &Arc<Context>, seat: Seat) -> (SessionId, NodeLink) {
    let now = cx.store.now();
    let session = SessionId(cx.env.key(now).0);
    let (orders, inbox) = mpsc::channel(seat.capacity as usize + SPARE_ORDERS);
    let inbox = Arc::new(Mutex::new(inbox));
    cx.workers.ports.lock().insert(session, Port::new(seat, orders, now));
    (session, NodeLink { cx: cx.clone(), session, inbox })
}

/// The worker takes work from now on; the pool tells the store. `false`: it is not among the workers any more.
pub(crate) fn worker_ready(cx: &Context, session: SessionId) -> bool {
    let now = cx.store.now();
    let mut ports = cx.workers.ports.lock();
    let Some(port) = ports.get_mut(&session) else { return false };
    port.heard(now);
    if port.ready_at.is_none() {
        port.ready_at = Some(now);
        port.idle_since = now;
        port.announced = false;
    }
    cx.workers.pool_nudge.notify_one();
    true
}

/// Lets a worker finish what it has and take nothing new; after `patience` the rest is handed back.
pub(crate) fn drain_worker(
    cx: &Context,
    session: SessionId,
    why: &'static str,
    patience: u64,
    revocable: bool,
) {
    let now = cx.store.now();
    if let Some(port) = cx.workers.ports.lock().get_mut(&session) {
        let until = now.plus(patience);
        match &mut port.drain {
            // An operator's word stands above the scaler's, and an earlier end above a later one.
            Some(drain) => {
                drain.until = drain.until.min(until);
                drain.revocable &= revocable;
            }
            None => {
                port.drain = Some(Drain { why, since: now, until, revocable, handed_back: false });
                port.announced = false;
            }
        }
    }
    cx.workers.pool_nudge.notify_one();
}

/// Writes the sessions of these workers of this node as they are now, those that never took work left out.
pub(crate) async fn announce(cx: &Context, ids: Vec<SessionId>) -> Result<(), StoreError> {
    let now = cx.store.now();
    let lease_until = cx.store.features().shared.then(|| now.plus(LEASE_TTL));
    let mut writes = Vec::new();
    {
        let ports = cx.workers.ports.lock();
        for (id, port) in ids.iter().filter_map(|id| Some((*id, ports.get(id)?))) {
            let Some(ready_at) = port.ready_at else { continue };
            let session = Session {
                id,
                node: cx.settings.node,
                worker: port.seat.name.clone(),
                capacity: port.seat.capacity,
                engine_types: port.seat.engine_types.clone(),
                started_at: ready_at,
                lease_until,
                draining: !port.is_open(),
            };
            writes.push(Planned::Other(Write::Session(SessionWrite::Open(session))));
        }
    }
    if writes.is_empty() {
        return Ok(());
    }
    cx.writes.commit(writes, 0).await?;
    cx.scheduling.grant_nudge.notify_one();
    Ok(())
}

/// The sessions whose workers are known to live: a node speaks for a process elsewhere only while it hears it.
pub(crate) fn renewable(cx: &Context) -> Vec<SessionId> {
    let heard = |port: &Port| {
        port.seat.origin.is_here() || port.last_sign.elapsed() < Duration::from_millis(WORKER_SILENCE_MAX)
    };
    let ports = cx.workers.ports.lock();
    let known =
        ports.iter().filter(|(_, port)| port.ready_at.is_some() && port.gone.is_none() && heard(port));
    known.map(|(session, _)| *session).collect()
}

/// How a worker's session ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PortEnd {
    /// It was to go, and went.
    Stopped,
    /// With the reason.
    Failed(String),
}

/// Ends a worker's session; nothing it says afterwards is heard. What it still held is lost to it.
pub(crate) async fn close_port(cx: &Context, session: SessionId, end: &PortEnd) -> Result<(), StoreError> {
    let known = cx.workers.ports.lock().get(&session).map(|port| {
        let note = match end {
            PortEnd::Stopped => note(NoteKind::WorkerStopped, port, "stopped"),
            PortEnd::Failed(why) => note(NoteKind::WorkerFailed, port, why),
        };
        (port.ready_at.is_some(), port.seat.origin == Origin::Remote, note)
    });
    let Some((opened, is_remote, note)) = known else { return Ok(()) };
    if opened {
        let writes = [Write::Session(SessionWrite::Close(session)), Write::Note(note)];
        cx.writes.commit(writes.into_iter().map(Planned::Other).collect(), 0).await?;
    }
    let comes_back = is_remote && cx.is_stopping();
    cx.workers.joined.lock().closed(session, *end == PortEnd::Stopped && !comes_back);
    cx.workers.ports.lock().remove(&session);
    Ok(())
}
