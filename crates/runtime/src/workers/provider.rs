//! Where workers come from: one trait, one implementation for each place they can run in.

use super::link::NodeLink;
use super::ports::worker_ready;
use crate::state::port::Origin;
use enginehouse_core::time::Millis;
use enginehouse_worker::{Engines, Worker, WorkerSettings};
use std::pin::Pin;
use std::sync::Arc;

/// A worker's whole life; the answer says how it ended. Dropping it ends the worker at once.
pub(crate) type Life = Pin<Box<dyn Future<Output = WorkerEnd> + Send>>;

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WorkerEnd {
    /// Its link was closed and it went.
    Dismissed,
    /// It died, or never came up; why, for people.
    Failed(String),
    /// Someone killed it; how, for people.
    Killed(String),
}

/// Brings workers up.
pub(crate) trait Provider: Send + Sync + 'static {
    fn origin(&self) -> Origin;

    /// Launches the worker at the other end of the link and follows it to its end. It says itself when it is
    /// [ready](worker_ready).
    fn launch(&self, name: &str, link: NodeLink) -> Life;
}

/// Workers as futures of this process.
pub(crate) struct InProcess {
    pub(crate) adapters: Arc<Engines>,
    pub(crate) cancel_grace: Millis,
}

impl Provider for InProcess {
    fn origin(&self) -> Origin {
        Origin::InProcess
    }

    fn launch(&self, _name: &str, link: NodeLink) -> Life {
        let (cx, session) = (link.cx.clone(), link.session);
        let settings = WorkerSettings { cancel_grace: self.cancel_grace };
        let worker = Worker::new(Arc::new(link), self.adapters.clone(), settings);
        worker_ready(&cx, session);
        Box::pin(async move {
            worker.run().await;
            WorkerEnd::Dismissed
        })
    }
}
