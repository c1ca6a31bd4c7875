//! One worker: takes orders, runs attempts side by side, each to its report.

use crate::attempt::{self, Control};
use crate::link::{Assignment, LeaseRef, Link, Order};
use crate::settings::{Engines, WorkerSettings};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs attempts until its link closes. Dropping its future lets go of every attempt.
pub struct Worker {
    link: Arc<dyn Link>,
    engines: Arc<Engines>,
    settings: WorkerSettings,
}

impl Worker {
    #[must_use]
    pub fn new(link: Arc<dyn Link>, engines: Arc<Engines>, settings: WorkerSettings) -> Worker {
        Worker { link, engines, settings }
    }

    pub async fn run(self) {
        let link = self.link.clone();
        let mut attempts = FuturesUnordered::new();
        let mut controls: BTreeMap<LeaseRef, Control> = BTreeMap::new();
        // One future through every turn of the loop: an order half taken must not be lost to an attempt's end.
        let mut next = std::pin::pin!(link.order());
        let mut open = true;
        while open || !attempts.is_empty() {
            tokio::select! {
                biased;
                Some(lease) = attempts.next(), if !attempts.is_empty() => {
                    controls.remove(&lease);
                }
                order = next.as_mut(), if open => match order {
                    Some(order) => {
                        if let Some(assignment) = obey(order, &controls) {
                            let (control, commands) = attempt::control();
                            controls.insert(assignment.lease, control);
                            attempts.push(self.attempt(assignment, commands));
                        }
                        next.set(link.order());
                    }
                    None => open = false,
                },
            }
        }
    }

    /// Makes one attempt; gives back its lease.
    fn attempt(
        &self,
        assignment: Assignment,
        commands: attempt::Commands,
    ) -> impl Future<Output = LeaseRef> + use<> {
        let (link, engines, settings) = (self.link.clone(), self.engines.clone(), self.settings);
        async move {
            let lease = assignment.lease;
            attempt::run(assignment, commands, link, &engines, settings).await;
            lease
        }
    }
}

/// Passes an order on to the attempt it is for; gives back the assignment of a new one.
fn obey(order: Order, controls: &BTreeMap<LeaseRef, Control>) -> Option<Assignment> {
    match order {
        Order::Run(assignment) => return Some(*assignment),
        Order::Cancel(lease) => {
            controls.get(&lease).into_iter().for_each(Control::cancel);
        }
        Order::LetGo(lease) => {
            controls.get(&lease).into_iter().for_each(Control::let_go);
        }
        Order::HandBack => controls.values().for_each(Control::hand_back),
    }
    None
}
