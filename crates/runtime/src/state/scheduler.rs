//! What the elected scheduler knows: the ready queue, kept in step with every commit.
//!
//! Exactly one node of a store has an epoch and decides what starts. The queue is a view of the store: after any store
//! error it is thrown away and read again, and a refused write brings the true row, which [`Scheduler::resync`] takes.

use super::planned::Planned;
use super::traffic::Traffic;
use enginehouse_core::event::{Event, EventType};
use enginehouse_core::execution::{Execution, Lane, Status};
use enginehouse_core::gate::{GateChange, Gates};
use enginehouse_core::id::{Key, SessionId};
use enginehouse_core::limits::READY_REFILL;
use enginehouse_core::queue::{Entry, Lease, Pick, Queue, WorkerRules};
use enginehouse_core::rank::Rank;
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use enginehouse_core::wait::{self, Wait};
use enginehouse_store::{Change, LaneCount, Ready, SessionWrite, Write};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Scheduler {
    pub(crate) queue: Queue,
    /// Breakers, adaptive limits, rates and retry budgets: fed by events, stored as documents.
    pub(crate) gates: Gates,
    /// Breakers' changes that are still to be told and stored.
    pub(crate) gate_changes: Vec<GateChange>,
    /// The epoch under which this node schedules.
    epoch: Option<u64>,
    /// The queue mirrors the store.
    hydrated: bool,
    /// How often it lost track of the store: what was read before the last time is not enough.
    losses: u64,
    /// Rows that other nodes changed since they were read last.
    changed_elsewhere: BTreeSet<Key>,
    /// For the auto-scaler: what came and what ended.
    pub(crate) traffic: Traffic,
    /// Attempts whose call is being abandoned, and until when they keep their engine's room.
    abandoned: BTreeMap<Key, Time>,
    /// Calls that gates know of and that had no lease when it was looked last.
    without_lease: BTreeSet<Key>,
}

impl Scheduler {
    pub(crate) fn new(queue: Queue, gates: Gates) -> Scheduler {
        Scheduler {
            queue,
            gates,
            gate_changes: Vec::new(),
            epoch: None,
            hydrated: false,
            losses: 0,
            changed_elsewhere: BTreeSet::new(),
            traffic: Traffic::default(),
            abandoned: BTreeMap::new(),
            without_lease: BTreeSet::new(),
        }
    }

    /// Takes in what became of a running execution, for its engine's breakers and limits.
    pub(crate) fn observe(&mut self, before: &Execution, event: &Event, now: Time) {
        let (engine, endpoint) = (&before.fixed.engine, before.state.endpoint.unwrap_or(0));
        let Some(gate) = self.gates.get_mut(engine) else { return };
        let change = gate.observe(endpoint, before.key(), event, before.state.retrying, now);
        self.gate_changes.extend(change.map(|change| GateChange {
            engine: engine.clone(),
            endpoint,
            change,
        }));
    }

    /// Another node changed a row; `false`: this node does not schedule. The row itself is read where no commit of this node
    /// can come between, see [`Committer`](crate::commit::committer::Committer). While the queue is being read again the change is
    /// remembered too: what was read before it does not show it, and no one tells of it twice.
    pub(crate) fn heard(&mut self, change: &Change, now: Time) -> bool {
        if self.epoch.is_none() {
            return false;
        }
        self.changed_elsewhere.insert(change.key);
        if self.hydrated
            && let Some(lease) = self.queue.occupancy().lease(change.key)
            && let Some(gate) = self.gates.get_mut(&lease.engine)
        {
            let (endpoint, retry, engine) = (lease.endpoint, lease.retry, lease.engine.clone());
            if change.event.kind == EventType::ExecutionCompleted {
                self.traffic.completed(&engine, None, change.event.at.since(lease.since));
            }
            let observed = gate.observe(endpoint, change.key, &change.event, retry, now);
            self.gate_changes.extend(observed.map(|change| GateChange { engine, endpoint, change }));
        }
        true
    }

    /// The rows to read again.
    pub(crate) fn take_changed_elsewhere(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.changed_elsewhere).into_iter().collect()
    }

    /// Takes a pick back: its grant was not made.
    pub(crate) fn unpick(&mut self, key: Key, now: Time) {
        if let Some(lease) = self.queue.occupancy().lease(key)
            && let Some(gate) = self.gates.get_mut(&lease.engine)
        {
            gate.unstarted(lease.endpoint, key, lease.retry, now);
        }
        self.queue.release(key, now, false);
    }

    /// When an engine that holds due work back for a time lets the next one in.
    pub(crate) fn next_opening(&self, now: Time) -> Option<Time> {
        if self.may_grant() { self.queue.next_opening(&self.gates, now) } else { None }
    }

    /// The epoch to write under; `None` while another node schedules.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    pub(crate) fn elect(&mut self, epoch: Option<u64>) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.lose_track();
        }
    }

    /// What was written is not known: the queue must be read again.
    pub(crate) fn lose_track(&mut self) {
        self.hydrated = false;
        self.losses += 1;
    }

    /// The queue is about to be read again: what changed elsewhere until now will be in what is read. Gives what
    /// [`hydrate`](Self::hydrate) wants back.
    pub(crate) fn begin_hydration(&mut self) -> u64 {
        self.changed_elsewhere.clear();
        self.losses
    }

    pub(crate) fn needs_hydration(&self) -> bool {
        self.epoch.is_some() && !self.hydrated
    }

    pub(crate) fn may_grant(&self) -> bool {
        self.epoch.is_some() && self.hydrated
    }

    /// Takes in which workers there are now, and gives back who holds leases without being one of `known`.
    pub(crate) fn follow_workers(
        &mut self,
        alive: &[Session],
        known: &BTreeSet<SessionId>,
    ) -> BTreeSet<SessionId> {
        let gone: Vec<SessionId> =
            self.queue.workers().keys().filter(|id| !alive.iter().any(|s| s.id == **id)).copied().collect();
        gone.into_iter().for_each(|id| self.queue.remove_worker(id));
        for session in alive {
            self.queue.set_worker(session.id, rules_of(session));
        }
        self.queue
            .occupancy()
            .leases()
            .map(|(_, lease)| lease.worker)
            .filter(|id| !known.contains(id))
            .collect()
    }

    /// Replaces all rows and leases by what the store held since [`begin_hydration`](Self::begin_hydration); engines and
    /// workers stay. When track was lost once more meanwhile, it must be read once more.
    pub(crate) fn hydrate(&mut self, begun: u64, fresh: Queue, lanes: Vec<LaneCount>, running: &[Execution]) {
        self.queue = fresh;
        for row in running {
            self.lease_running(row);
        }
        let leases = self.queue.occupancy();
        self.gates.retain(|key| leases.lease(key).is_some());
        for (key, lease) in leases.leases() {
            if let Some(gate) = self.gates.get_mut(&lease.engine) {
                gate.adopt(lease.endpoint, key, lease.since);
            }
        }
        for lane in lanes {
            self.queue.hydrate(&lane.lane, lane.rows);
        }
        self.abandoned.clear();
        self.hydrated = begun == self.losses;
    }

    /// Forgets calls that have had no lease since the last time. One whose end was never heard of would count at its endpoint
    /// forever, and hold its limit where it is; one that has none for the first time may be about to be stored as ended.
    pub(crate) fn forget_calls_without_lease(&mut self) {
        let (leases, before) = (self.queue.occupancy(), std::mem::take(&mut self.without_lease));
        let without = RefCell::new(BTreeSet::new());
        self.gates.retain(|key| {
            leases.lease(key).is_some() || {
                without.borrow_mut().insert(key);
                !before.contains(&key)
            }
        });
        self.without_lease = without.into_inner();
    }

    /// The queue holds all that this node has heard of.
    pub(crate) fn is_in_step(&self) -> bool {
        self.may_grant() && self.changed_elsewhere.is_empty()
    }

    /// Why the row waits. A node that does not schedule, or has lost track of the store, has no queue to go by.
    pub(crate) fn explain(&self, row: &Execution, now: Time) -> Option<Wait> {
        if self.may_grant() {
            wait::explain(row, &self.queue, &self.gates, now)
        } else {
            wait::held_by_time(row, now)
        }
    }

    pub(crate) fn wants_refill(&self) -> Option<(Lane, Option<(Rank, Key)>)> {
        if self.may_grant() { self.queue.wants_refill() } else { None }
    }

    pub(crate) fn refill(&mut self, lane: &Lane, ready: Vec<Ready>) {
        let more = ready.len() >= READY_REFILL;
        let entries = ready
            .into_iter()
            .map(|r| Entry {
                key: r.key,
                rank: r.rank,
                priority: r.priority,
                pinned: r.pinned,
                fail_fast: r.fail_fast,
            })
            .collect();
        self.queue.refill(lane, entries, more);
    }

    /// The attempt's call was given up while its engine may still work on it.
    pub(crate) fn will_abandon(&mut self, key: Key, until: Time) {
        self.abandoned.insert(key, until);
    }

    /// Takes in what a batch will change if it commits, so that slots it frees can be given away in the same batch.
    pub(crate) fn foresee(&mut self, planned: &Planned, now: Time) {
        match planned {
            Planned::Submit(group) => {
                for new in group.iter().filter(|n| n.row.state.due) {
                    self.queue.push(&new.row.lane(), entry(&new.row));
                }
            }
            Planned::Transition { row, transition, .. } => {
                let after = Execution {
                    fixed: row.fixed.clone(),
                    state: transition.next.clone(),
                    history: Vec::new(),
                };
                self.follow(row, &after, transition.event.kind, now);
            }
            // A worker that is to take nothing more gets nothing in this very batch; what opens one counts once it is stored.
            Planned::Other(Write::Session(SessionWrite::Open(session))) if session.draining => {
                self.queue.set_worker(session.id, rules_of(session));
            }
            Planned::Other(Write::Session(SessionWrite::Close(session))) => {
                self.queue.remove_worker(*session)
            }
            Planned::Other(_) => {}
        }
    }

    fn follow(&mut self, before: &Execution, after: &Execution, event: EventType, now: Time) {
        let key = before.key();
        let queued = |row: &Execution| row.status() == Status::Pending && row.state.due;
        if before.status() == Status::Running && after.status() != Status::Running {
            match self.abandoned.remove(&key) {
                Some(until) => self.queue.abandon(key, until, now),
                None => self.queue.release(key, now, event != EventType::ExecutionInterrupted),
            }
        }
        let stays = queued(before) && queued(after) && before.state.rank == after.state.rank;
        if queued(before) && !stays && after.status() != Status::Running {
            self.queue.remove(key, &before.lane());
        }
        if queued(after) && !stays {
            self.queue.push(&after.lane(), entry(after));
        }
    }

    /// Takes in a row that another node changed.
    pub(crate) fn follow_other(&mut self, row: &Execution, now: Time) {
        let waited = self.queue.holds(row.key());
        self.resync(row, now);
        if !waited && self.queue.holds(row.key()) {
            self.traffic.arrived(&row.fixed.engine, row.state.priority);
        }
    }

    /// Makes the queue agree with the true row after a guess about it was wrong, or another node changed it.
    pub(crate) fn resync(&mut self, row: &Execution, now: Time) {
        if row.status() == Status::Running {
            self.queue.remove(row.key(), &row.lane());
            let known = self.queue.occupancy().lease(row.key()).map(|lease| lease.worker);
            if known.is_none() || known != row.state.holder {
                self.lease_running(row);
            }
            return;
        }
        self.queue.release(row.key(), now, false);
        self.queue.remove(row.key(), &row.lane());
        if row.status() == Status::Pending && row.state.due {
            self.queue.push(&row.lane(), entry(row));
        }
    }

    /// A foreseen row that was not stored after all.
    pub(crate) fn forget(&mut self, row: &Execution, now: Time) {
        self.queue.release(row.key(), now, false);
        self.queue.remove(row.key(), &row.lane());
    }

    pub(crate) fn pick(&mut self, now: Time) -> Option<Pick> {
        if self.may_grant() { self.queue.pick(&mut self.gates, now) } else { None }
    }

    /// Whether due work waits and no worker has a slot for it.
    pub(crate) fn is_short_of_slots(&self) -> bool {
        self.may_grant() && self.queue.is_short_of_slots()
    }

    fn lease_running(&mut self, row: &Execution) {
        let lease = Lease {
            engine: row.fixed.engine.clone(),
            endpoint: row.state.endpoint.unwrap_or(0),
            ckey: row.fixed.ckey.clone(),
            user: row.fixed.user.clone(),
            worker: row.state.holder.unwrap_or(SessionId(0)),
            since: row.state.run_started_at.unwrap_or(row.state.ready_at),
            charged: 0,
            retry: row.state.retrying,
        };
        self.queue.lease(row.key(), lease);
    }
}

/// One worker as the queue sees it.
pub(crate) fn rules_of(session: &Session) -> WorkerRules {
    let engine_types = session.engine_types.clone();
    WorkerRules { capacity: session.capacity, engine_types, open: !session.draining }
}

fn entry(row: &Execution) -> Entry {
    let pinned = row.state.pinned();
    let fail_fast = row.fixed.spec.fail_fast;
    Entry { key: row.key(), rank: row.state.rank, priority: row.state.priority, pinned, fail_fast }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_core::event::EventData;
    use enginehouse_core::gate::GateRules;

    fn change(key: i64) -> Change {
        Change {
            key: Key(key),
            ext_id: None,
            engine: "e".into(),
            status: Status::Pending,
            holder: None,
            event: Event {
                seq: 1,
                kind: EventType::ExecutionSubmitted,
                at: Time(1),
                attempt: 0,
                data: EventData::default(),
            },
        }
    }

    #[test]
    fn what_changes_elsewhere_while_the_queue_is_read_anew_is_not_forgotten() {
        let mut scheduler = Scheduler::new(Queue::new(1), Gates::default());
        assert!(!scheduler.heard(&change(1), Time(1)), "another node schedules");
        scheduler.elect(Some(1));
        scheduler.heard(&change(2), Time(1));
        let begun = scheduler.begin_hydration();
        assert!(scheduler.heard(&change(3), Time(2)), "what was read may not show it");
        scheduler.hydrate(begun, Queue::new(1), Vec::new(), &[]);
        assert!(scheduler.may_grant());
        assert_eq!(scheduler.take_changed_elsewhere(), [Key(3)]);
    }

    #[test]
    fn track_that_is_lost_while_the_queue_is_read_anew_is_lost() {
        let mut scheduler = Scheduler::new(Queue::new(1), Gates::default());
        scheduler.elect(Some(1));
        let begun = scheduler.begin_hydration();
        scheduler.lose_track();
        scheduler.hydrate(begun, Queue::new(1), Vec::new(), &[]);
        assert!(!scheduler.may_grant() && scheduler.needs_hydration());
    }

    #[test]
    fn a_call_without_a_lease_counts_no_longer_than_till_the_second_look() {
        let mut gates = Gates::default();
        let rules = GateRules { adaptive: true, endpoints: vec!["a".to_owned()], ..GateRules::default() };
        gates.set("e", rules, Time(0));
        let mut scheduler = Scheduler::new(Queue::new(1), gates);
        let lease = Lease {
            engine: "e".to_owned(),
            endpoint: 0,
            ckey: None,
            user: None,
            worker: SessionId(1),
            since: Time(0),
            charged: 0,
            retry: false,
        };
        scheduler.queue.lease(Key(1), lease);
        let gate = scheduler.gates.get_mut("e").expect("it was set");
        gate.adopt(0, Key(1), Time(0));
        gate.adopt(0, Key(2), Time(0));
        let mut looked = Vec::new();
        for _ in 0..3 {
            scheduler.forget_calls_without_lease();
            let gate = scheduler.gates.get_mut("e").expect("it was set");
            looked.push(gate.endpoint(0).expect("one").limiter.running());
        }
        assert_eq!(looked, [2, 1, 1], "the one with a lease stays");
    }
}
