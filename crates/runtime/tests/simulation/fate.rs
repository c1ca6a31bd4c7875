//! What becomes of a node: it runs, stands still for a while, or ends between any two of its steps.

use enginehouse_runtime::Govern;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// Which roles of a node stand still.
pub(crate) const NODE: u8 = 0b111;
pub(crate) const WORKERS: u8 = 0b010;
pub(crate) const RENEWAL: u8 = 0b100;
const OTHERS: u8 = 0b001;

#[derive(Default)]
pub(crate) struct Fate {
    /// Once set nothing of the node moves any more, and nothing it sends arrives.
    pub(crate) dead: Arc<AtomicBool>,
    stalled: AtomicU8,
    polls: AtomicU64,
    /// The step before which it ends; 0: none.
    ends_at: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
}

impl Fate {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// It ends `steps` steps from now, wherever it stands then.
    pub(crate) fn end_after(&self, steps: u64) {
        self.ends_at.store(self.polls.load(Ordering::SeqCst) + 1 + steps, Ordering::SeqCst);
    }

    pub(crate) fn stall(&self, roles: u8) {
        self.stalled.store(roles, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.stalled.store(0, Ordering::SeqCst);
        self.wakers.lock().expect("no panics").drain(..).for_each(Waker::wake);
    }

    pub(crate) fn govern(self: &Arc<Fate>) -> Govern {
        let fate = self.clone();
        Govern::new(move |name, role| {
            let kind = match name {
                "sessions" => RENEWAL,
                name if name.contains("-w") => WORKERS,
                _ => OTHERS,
            };
            Box::pin(Governed { role, kind, fate: fate.clone() })
        })
    }
}

struct Governed {
    role: Pin<Box<dyn Future<Output = ()> + Send>>,
    kind: u8,
    fate: Arc<Fate>,
}

impl Future for Governed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let fate = self.fate.clone();
        let step = fate.polls.fetch_add(1, Ordering::SeqCst) + 1;
        let ends_at = fate.ends_at.load(Ordering::SeqCst);
        if ends_at > 0 && step >= ends_at {
            fate.dead.store(true, Ordering::SeqCst);
        }
        if fate.is_dead() {
            return Poll::Pending;
        }
        if fate.stalled.load(Ordering::SeqCst) & self.kind != 0 {
            fate.wakers.lock().expect("no panics").push(cx.waker().clone());
            return Poll::Pending;
        }
        self.role.as_mut().poll(cx)
    }
}
