//! From a target to what is done with each worker: which to take back, launch, cancel, stop and drain.
//!
//! Up: draining workers come back first, the most loaded first, then new ones are launched. Down: the youngest that are
//! starting are cancelled, then the longest idle are stopped, then the least loaded drain. Invariants: a busy worker is
//! never stopped, only drained; `max` bounds all workers that exist, the draining ones included; a worker appears in at
//! most one action.

use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerPhase {
    Starting,
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
}

/// One worker as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolWorker<Id> {
    pub id: Id,
    pub phase: WorkerPhase,
    pub busy_slots: u32,
    pub launched: Time,
    /// Since when it has had nothing to do; not looked at while it is busy.
    pub idle_since: Time,
    /// Its age, count or memory says that it should be replaced when that is convenient.
    pub recycle: bool,
    /// It does not work as it should: it is replaced at once, and gets nothing more.
    pub unhealthy: bool,
}

/// What the plan aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolAim {
    /// Workers that should be ready or starting.
    pub target: u32,
    /// Workers that may exist.
    pub max: u32,
    /// A launch older than this has failed, see [`launch_timeout`](crate::autoscaler::Autoscaler::launch_timeout).
    pub launch_timeout: Millis,
    /// No launch may begin now: a guard or a back-off says so.
    pub launch_nothing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolAction<Id> {
    /// A draining worker takes new work again.
    Reinstate(Id),
    /// Launch so many.
    Launch(u32),
    /// A starting worker is not needed.
    Cancel(Id),
    /// A starting worker takes too long: its launch has failed.
    GiveUp(Id),
    /// An idle worker is not needed, or is replaced.
    Stop(Id),
    /// A busy worker takes nothing new and goes when it is empty.
    Drain(Id),
}

/// What to do now, in this order.
#[must_use]
pub fn plan<Id: Copy + Ord>(workers: &[PoolWorker<Id>], aim: PoolAim, now: Time) -> Vec<PoolAction<Id>> {
    let mut plan = Plan { actions: Vec::new(), exist: count(workers.len()) };
    let hung = |w: &PoolWorker<Id>| {
        w.phase == WorkerPhase::Starting && now.since(w.launched) > aim.launch_timeout.max(1)
    };
    for worker in workers.iter().filter(|w| hung(w)) {
        plan.remove(PoolAction::GiveUp(worker.id));
    }
    for worker in workers.iter().filter(|w| w.unhealthy && !hung(w)) {
        plan.leave(worker);
    }
    let mut sound: Vec<&PoolWorker<Id>> = workers.iter().filter(|w| !w.unhealthy && !hung(w)).collect();
    plan.recycle(&mut sound, aim);
    let have = count(sound.iter().filter(|w| w.phase != WorkerPhase::Draining).count());
    if have < aim.target {
        plan.grow(&mut sound, aim.target - have, aim);
    } else {
        plan.shrink(&mut sound, have - aim.target);
    }
    plan.actions
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

struct Plan<Id> {
    actions: Vec<PoolAction<Id>>,
    /// Workers that exist after the actions so far.
    exist: u32,
}

impl<Id: Copy + Ord> Plan<Id> {
    /// An action after which the worker is gone.
    fn remove(&mut self, action: PoolAction<Id>) {
        self.exist = self.exist.saturating_sub(1);
        self.actions.push(action);
    }

    /// Takes a worker out of service by the gentlest means that its state allows.
    fn leave(&mut self, worker: &PoolWorker<Id>) {
        match worker.phase {
            WorkerPhase::Starting => self.remove(PoolAction::Cancel(worker.id)),
            WorkerPhase::Ready if worker.busy_slots == 0 => self.remove(PoolAction::Stop(worker.id)),
            WorkerPhase::Ready => self.actions.push(PoolAction::Drain(worker.id)),
            WorkerPhase::Draining => {}
        }
    }

    /// Replaces one worker that should be recycled at a time, so that the pool keeps nearly all its slots.
    fn recycle(&mut self, sound: &mut Vec<&PoolWorker<Id>>, aim: PoolAim) {
        let under_way = sound
            .iter()
            .any(|w| w.phase == WorkerPhase::Starting || (w.recycle && w.phase == WorkerPhase::Draining));
        let due = sound.iter().filter(|w| w.recycle && w.phase == WorkerPhase::Ready);
        let chosen = due.min_by_key(|w| (w.busy_slots, w.launched, w.id)).map(|w| w.id);
        if let Some(id) = chosen
            && !under_way
            && !aim.launch_nothing
            && let Some(at) = sound.iter().position(|w| w.id == id)
        {
            let worker = sound.remove(at);
            self.leave(worker);
        }
    }

    fn grow(&mut self, sound: &mut [&PoolWorker<Id>], mut need: u32, aim: PoolAim) {
        sound.sort_by_key(|w| (u32::MAX - w.busy_slots, w.launched, w.id));
        for worker in sound.iter().filter(|w| w.phase == WorkerPhase::Draining && !w.recycle) {
            if need == 0 {
                return;
            }
            self.actions.push(PoolAction::Reinstate(worker.id));
            need -= 1;
        }
        let launch = need.min(aim.max.saturating_sub(self.exist));
        if launch > 0 && !aim.launch_nothing {
            self.exist += launch;
            self.actions.push(PoolAction::Launch(launch));
        }
    }

    fn shrink(&mut self, sound: &mut [&PoolWorker<Id>], mut drop: u32) {
        sound.sort_by_key(|w| (w.launched, w.id));
        for worker in sound.iter().rev().filter(|w| w.phase == WorkerPhase::Starting) {
            if drop == 0 {
                return;
            }
            self.remove(PoolAction::Cancel(worker.id));
            drop -= 1;
        }
        sound.sort_by_key(|w| (w.busy_slots, w.idle_since, w.launched, w.id));
        for worker in sound.iter().filter(|w| w.phase == WorkerPhase::Ready) {
            if drop == 0 {
                return;
            }
            self.leave(worker);
            drop -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
