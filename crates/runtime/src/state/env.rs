//! The node's source of ids and random numbers: one place, so that a simulation can seed it.

use enginehouse_core::id::{Key, KeyMaker, NodeId};
use enginehouse_core::time::Time;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) struct Env {
    keys: Mutex<KeyMaker>,
    random: Mutex<StdRng>,
}

impl Env {
    /// `seed`: for a repeatable run; `None` takes one from the system.
    pub(crate) fn new(node: NodeId, now: Time, seed: Option<u64>) -> Env {
        let seed = seed.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random numbers");
            u64::from_le_bytes(bytes)
        });
        Env { keys: Mutex::new(KeyMaker::after(node, now)), random: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    pub(crate) fn key(&self, now: Time) -> Key {
        self.keys.lock().next(now)
    }

    /// The id of a new trace, never 0.
    pub(crate) fn trace_id(&self) -> u128 {
        self.random.lock().random::<u128>().max(1)
    }

    /// In `[0, 1)`.
    pub(crate) fn draw(&self) -> f64 {
        self.random.lock().random()
    }
}
