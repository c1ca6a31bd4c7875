//! One worker: takes orders, runs attempts side by side, each to its report.

use crate::attempt::{self, Control};
use crate::link::{LeaseRef, Link, Order};
use enginehouse_core::time::Millis;
use enginehouse_engine::Engine;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adapters by configured engine name.
pub type Engines = BTreeMap<String, Arc<dyn Engine>>;

#[derive(Debug, Clone, Copy)]
pub struct WorkerSettings {
    /// How long an engine may take to stop a run before its call is abandoned.
    pub cancel_grace: Millis,
}

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
        let mut attempts = FuturesUnordered::new();
        let mut controls: BTreeMap<LeaseRef, Control> = BTreeMap::new();
        let mut open = true;
        while open || !attempts.is_empty() {
            tokio::select! {
                biased;
                Some(lease) = attempts.next(), if !attempts.is_empty() => {
                    controls.remove(&lease);
                }
                order = self.link.order(), if open => match order {
                    Some(Order::Run(assignment)) => {
                        let lease = assignment.lease;
                        let (control, commands) = attempt::control();
                        controls.insert(lease, control);
                        let (link, engines, settings) = (self.link.clone(), self.engines.clone(), self.settings);
                        attempts.push(async move {
                            attempt::run(*assignment, commands, link, &engines, settings).await;
                            lease
                        });
                    }
                    Some(Order::Cancel(lease)) => {
                        if let Some(control) = controls.get(&lease) {
                            control.cancel();
                        }
                    }
                    Some(Order::LetGo(lease)) => {
                        if let Some(control) = controls.get(&lease) {
                            control.let_go();
                        }
                    }
                    Some(Order::HandBack) => controls.values().for_each(Control::hand_back),
                    None => open = false,
                },
            }
        }
    }
}
