//! What the auto-scaler looks at, gathered from the queue, the leases, the pool, the store and the machine.

use crate::machine::{Machine, WorkerUse};
use crate::state::context::Context;
use crate::state::port::Origin;
use enginehouse_core::autoscaler::{Autoscaler, EngineLoad, Observation, PoolCounts, Reach, Running};
use enginehouse_core::execution::Priority;
use enginehouse_core::limits::DUE_SOON_MAX;
use enginehouse_core::time::{Millis, Time};
use enginehouse_store::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Observer {
    cx: Arc<Context>,
    machine: Option<Machine>,
}

impl Observer {
    pub(super) fn new(cx: Arc<Context>) -> Observer {
        let machine = cx.settings.scaling.guard_machine.then(Machine::new);
        Observer { cx, machine }
    }

    pub(super) async fn observe(&mut self, scaler: &Autoscaler) -> Result<Observation, StoreError> {
        let now = self.cx.store.now();
        let due_soon = self.due_soon(now, scaler.due_span()).await?;
        let (started_up, failed_launches) = {
            let mut news = self.cx.workers.pool_news.lock();
            (std::mem::take(&mut news.startups), std::mem::take(&mut news.failed_launches))
        };
        let (engines, oldest_wait, pool) = self.load(now);
        Ok(Observation {
            now,
            pool,
            engines,
            oldest_wait,
            started_up,
            failed_launches,
            due_soon,
            idle_too_long: self.idle_too_long(now, scaler.rules().max_idle_time),
            resources: self.resources(),
            stale: false,
        })
    }

    /// Every engine's load, how long the first in line has waited, and the workers.
    fn load(&self, now: Time) -> (Vec<EngineLoad>, Millis, PoolCounts) {
        let mut scheduler = self.cx.scheduling.scheduler.lock();
        let mut traffic = scheduler.traffic.take();
        let mut running = self.running(&scheduler.queue);
        let mut engines = Vec::new();
        for engine in self.cx.registry.iter() {
            let name = engine.settings.name.as_str();
            let seen = traffic.remove(name).unwrap_or_default();
            let due = scheduler.queue.due_of_engine(name);
            let paused = scheduler.queue.engine(name).is_some_and(|rules| rules.paused);
            engines.push(EngineLoad {
                name: name.to_owned(),
                arrivals: seen.arrivals,
                completed: seen.completed,
                running: running.remove(name).unwrap_or_default(),
                queued: due.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
                reach: Reach::of(scheduler.gates.get(name), paused, now),
            });
        }
        let oldest = self.cx.oldest_wait(&scheduler.queue, now);
        let pool = self.pool(&scheduler.queue);
        (engines, oldest, pool)
    }

    fn running(&self, queue: &enginehouse_core::queue::Queue) -> BTreeMap<String, Vec<Running>> {
        let rows = self.cx.scheduling.rows.lock();
        let mut running: BTreeMap<String, Vec<Running>> = BTreeMap::new();
        for (key, lease) in queue.occupancy().leases() {
            let row = rows.get(&key);
            running.entry(lease.engine.clone()).or_default().push(Running {
                since: lease.since,
                workflow: row.map(|row| Arc::from(row.fixed.workflow.as_str())),
                priority: row.map_or(Priority::Normal, |row| row.state.priority),
            });
        }
        running
    }

    fn pool(&self, queue: &enginehouse_core::queue::Queue) -> PoolCounts {
        let ports = self.cx.workers.ports.lock();
        let mut counts = PoolCounts::default();
        for port in ports.values().filter(|port| port.ready_at.is_none() && port.gone.is_none()) {
            counts.starting.push(port.launched_at);
        }
        counts.starting.sort_unstable();
        for (session, worker) in queue.workers() {
            let busy = queue.occupancy().of_worker(*session);
            counts.busy_slots += busy;
            let gone = ports.get(session).is_some_and(|port| !port.is_open());
            if worker.open && !gone {
                counts.ready += 1;
                counts.busy_ready += busy;
            } else {
                counts.draining += 1;
            }
        }
        // A worker that is ready but not yet in the queue is as good as there.
        let unannounced =
            ports.iter().filter(|(id, port)| port.is_open() && !queue.workers().contains_key(id));
        counts.ready += u32::try_from(unannounced.count()).unwrap_or(u32::MAX);
        counts
    }

    async fn due_soon(&self, now: Time, span: Millis) -> Result<u32, StoreError> {
        let until = now.plus(span);
        let rows = self.cx.store.due(until, DUE_SOON_MAX).await?;
        let soon = rows.iter().filter(|row| !row.state.due && row.state.ready_at <= until);
        Ok(u32::try_from(soon.count()).unwrap_or(u32::MAX))
    }

    fn idle_too_long(&self, now: Time, most: Option<Millis>) -> u32 {
        let Some(most) = most else { return 0 };
        let ports = self.cx.workers.ports.lock();
        let idle =
            ports.values().filter(|p| p.is_open() && p.held.is_empty() && now.since(p.idle_since) > most);
        u32::try_from(idle.count()).unwrap_or(u32::MAX)
    }

    fn resources(&mut self) -> Option<enginehouse_core::autoscaler::Resources> {
        let machine = self.machine.as_mut()?;
        let ports = self.cx.workers.ports.lock();
        let inside = self.cx.settings.processes.is_none();
        let own = ports.values().filter(|port| port.seat.origin == Origin::Process);
        let workers: Vec<WorkerUse> = own
            .filter_map(|port| {
                Some(WorkerUse { memory_bytes: port.private_bytes?, busy_cores: port.busy_cores })
            })
            .collect();
        drop(ports);
        Some(machine.look((!inside).then_some(&workers)))
    }
}
