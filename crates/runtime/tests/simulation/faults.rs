//! Which faults a seed chooses, and what of them really struck.

use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// How often each fault strikes: per thousand calls of a store or an engine, or per thousand steps of the client.
/// A seed leaves about half of them out, so that each is also met without the others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) commit_lost_before: u32,
    pub(crate) commit_lost_after: u32,
    pub(crate) commit_slow: u32,
    pub(crate) read_failed: u32,
    pub(crate) renewal_repeated: u32,
    pub(crate) node_killed: u32,
    pub(crate) node_stalled: u32,
    pub(crate) workers_stalled: u32,
    pub(crate) renewal_stalled: u32,
    /// Workers together with what renews their session.
    pub(crate) zombies: u32,
    pub(crate) clock_jumped: u32,
    pub(crate) engine_down: u32,
    pub(crate) engine_crashed: u32,
    pub(crate) engine_busy: u32,
    pub(crate) answer_lost: u32,
    pub(crate) answer_late: u32,
    pub(crate) engine_hung: u32,
    pub(crate) workflow_failed: u32,
    /// The whole store, for every node.
    pub(crate) store_away: u32,
    /// Of the runs that never end, those that say nothing either.
    pub(crate) hung_silent: u32,
    /// A submit is sent again by a caller who may not know what became of it.
    pub(crate) submit_repeated: u32,
}

/// Every fault that a long run must have met.
pub(crate) const NAMES: [&str; 22] = [
    "answer_late",
    "answer_lost",
    "clock_back",
    "clock_forward",
    "commit_lost_after",
    "commit_lost_before",
    "commit_slow",
    "engine_busy",
    "engine_crashed",
    "engine_down",
    "engine_hung",
    "engine_silent",
    "node_killed",
    "node_stalled",
    "read_failed",
    "renewal_repeated",
    "renewal_stalled",
    "store_away",
    "submit_repeated",
    "workers_stalled",
    "workflow_failed",
    "zombies",
];

impl Faults {
    pub(crate) fn choose(random: &mut StdRng) -> Faults {
        let mut rate = |most: u32| if random.random_bool(0.5) { random.random_range(1..=most) } else { 0 };
        Faults {
            commit_lost_before: rate(60),
            commit_lost_after: rate(60),
            commit_slow: rate(30),
            read_failed: rate(60),
            renewal_repeated: rate(200),
            node_killed: rate(60),
            node_stalled: rate(30),
            workers_stalled: rate(30),
            renewal_stalled: rate(30),
            zombies: rate(30),
            clock_jumped: rate(20),
            engine_down: rate(100),
            engine_crashed: rate(30),
            engine_busy: rate(100),
            answer_lost: rate(200),
            answer_late: rate(100),
            engine_hung: rate(60),
            workflow_failed: rate(400),
            ..Faults::default()
        }
    }

    /// The same with those that came later, drawn apart: a seed of the corpus keeps meaning what it meant.
    pub(crate) fn choose_more(self, random: &mut StdRng) -> Faults {
        let mut rate = |most: u32| if random.random_bool(0.5) { random.random_range(1..=most) } else { 0 };
        Faults { store_away: rate(15), hung_silent: rate(1000), submit_repeated: rate(150), ..self }
    }

    /// Two nodes of which one's workers stand still past their lease, again and again, and nothing else.
    pub(crate) fn zombies() -> Faults {
        Faults { zombies: 20, ..Faults::default() }
    }
}

/// What really struck; a fault that never did proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Fired(Mutex<BTreeMap<&'static str, u64>>);

impl Fired {
    pub(crate) fn count(&self, name: &'static str) {
        *self.0.lock().expect("no panics").entry(name).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().expect("no panics").clone()
    }
}
