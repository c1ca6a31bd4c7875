//! This node's workers as the node sees them: one [`Port`] each, from its launch until it is gone.
//!
//! A port is where orders for a worker wait and where it is kept what the worker holds.

use bytes::Bytes;
use enginehouse_core::event::NoteKind;
use enginehouse_core::execution::Execution;
use enginehouse_core::lifecycle::Loss;
use enginehouse_core::planted::{self, Bug};
use enginehouse_core::time::Time;
use enginehouse_store::{Note, Sealed};
use enginehouse_worker::{LeaseRef, Order};
use serde_json::json;
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Where a worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In this process, which is its lease.
    InProcess,
    /// A child process of this node, which is seen to end at once.
    Process,
    /// It joined from elsewhere; only its signs of life tell that it lives.
    Remote,
    /// In this process, and of the embedding program's own making.
    Embedded,
}

impl Origin {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Origin::InProcess | Origin::Embedded => "in_process",
            Origin::Process => "process",
            Origin::Remote => "remote",
        }
    }

    /// It lives as long as this process does.
    pub(crate) fn is_here(self) -> bool {
        matches!(self, Origin::InProcess | Origin::Embedded)
    }

    /// The pool launches and ends it.
    pub(crate) fn is_pooled(self) -> bool {
        matches!(self, Origin::InProcess | Origin::Process)
    }
}

/// What a worker is to be when it is there.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) capacity: u32,
    /// Empty: it serves all.
    pub(crate) engine_types: Vec<String>,
}

/// Why and since when a worker takes no new work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) why: &'static str,
    pub(crate) since: Time,
    /// What still runs then is handed back.
    pub(crate) until: Time,
    /// The scaler may take it back into service.
    pub(crate) revocable: bool,
    pub(crate) handed_back: bool,
}

/// The node's end of one worker.
pub(crate) struct Port {
    pub(crate) seat: Seat,
    pub(crate) launched_at: Time,
    /// When it first said that it takes work; `None` while it starts.
    pub(crate) ready_at: Option<Time>,
    /// Since when it holds nothing.
    pub(crate) idle_since: Time,
    pub(crate) drain: Option<Drain>,
    /// It was silent for too long: it gets nothing new until it is heard again.
    pub(crate) unhealthy: bool,
    pub(crate) last_sign: Instant,
    pub(crate) last_sign_at: Time,
    /// Bytes of memory of its process, where it is one of its own.
    pub(crate) memory_bytes: Option<u64>,
    /// What of it another such process would take as well; `None` until it has taken work.
    pub(crate) private_bytes: Option<u64>,
    /// Processors its process used recently while it ran something.
    pub(crate) busy_cores: Option<f64>,
    /// That it takes work was told.
    pub(crate) introduced: bool,
    /// The store has its session as it is now.
    pub(crate) announced: bool,
    pub(crate) orders: mpsc::Sender<Assigned>,
    /// Why the worker is gone, while what it held is still to be given back.
    pub(crate) gone: Option<String>,
    /// What its death, if it dies, says of what it held.
    pub(crate) loss: Loss,
    /// What the worker was given and has not reported yet.
    pub(crate) held: BTreeSet<LeaseRef>,
    /// What the worker had to let go of because its lease could not be proved; handed back once the store can be reached.
    pub(crate) given_up: BTreeSet<LeaseRef>,
    /// The leases that ended last. Anyone who read a row before its end must not give it out again after it.
    ended: VecDeque<LeaseRef>,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) busy_ms: u64,
}

/// How many ended leases are remembered, far more than can end between a read and what follows from it.
const ENDED_REMEMBERED: usize = 512;

impl Port {
    /// Of a worker that is to come.
    pub(crate) fn new(seat: Seat, orders: mpsc::Sender<Assigned>, now: Time) -> Port {
        Port {
            seat,
            launched_at: now,
            ready_at: None,
            idle_since: now,
            drain: None,
            unhealthy: false,
            last_sign: Instant::now(),
            last_sign_at: now,
            memory_bytes: None,
            private_bytes: None,
            busy_cores: None,
            introduced: false,
            announced: false,
            orders,
            gone: None,
            loss: Loss::Worker,
            held: BTreeSet::new(),
            given_up: BTreeSet::new(),
            ended: VecDeque::new(),
            done: 0,
            failed: 0,
            busy_ms: 0,
        }
    }

    /// Takes note that the worker is to have this lease; `false` when it has it, or had it.
    pub(crate) fn begin(&mut self, lease: LeaseRef) -> bool {
        let had = self.ended.contains(&lease) || self.given_up.contains(&lease);
        (!had && self.held.insert(lease)) || planted::has(Bug::DeliveredTwice)
    }

    pub(crate) fn end(&mut self, lease: LeaseRef, now: Time) {
        if self.held.remove(&lease) && self.held.is_empty() {
            self.idle_since = now;
        }
        if self.ended.len() >= ENDED_REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(lease);
    }

    /// Whether the scheduler may give it work.
    pub(crate) fn is_open(&self) -> bool {
        self.ready_at.is_some() && self.drain.is_none() && !self.unhealthy && self.gone.is_none()
    }

    /// Its status in the words of the API.
    pub(crate) fn status(&self) -> &'static str {
        match (self.ready_at, &self.drain) {
            _ if self.gone.is_some() => "offline",
            _ if self.unhealthy => "unhealthy",
            (_, Some(_)) => "draining",
            (None, None) => "starting",
            _ if self.held.is_empty() => "idle",
            _ if self.held.len() < self.seat.capacity as usize => "busy",
            _ => "overloaded",
        }
    }

    pub(crate) fn heard(&mut self, now: Time) {
        self.last_sign = Instant::now();
        self.last_sign_at = now;
    }
}

/// What goes down a link.
pub(crate) enum Assigned {
    Run {
        row: Box<Execution>,
        /// The request if it is still in memory.
        request: Option<Bytes>,
        /// The request as it is stored, if it was read with the row.
        sealed: Option<Sealed>,
    },
    Order(Order),
}

/// The service-wide event of a worker's beginning or end.
pub(crate) fn note(kind: NoteKind, port: &Port, why: &str) -> Note {
    let data = json!({
        "worker": port.seat.name, "provider": port.seat.origin.as_str(), "capacity": port.seat.capacity,
        "engineTypes": port.seat.engine_types, "reason": why,
    });
    Note { kind, data }
}
