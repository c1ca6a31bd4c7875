//! The worker's side of a call, as the suite plays it.

use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_engine::{Call, Host, LetGo, Progress, Stop, StopSignal};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Notes what an adapter says.
#[derive(Default)]
pub(crate) struct NotingHost {
    pub(crate) attached: Mutex<Vec<(String, bool)>>,
    pub(crate) progress: Mutex<Vec<Progress>>,
    pub(crate) logs: Mutex<Vec<String>>,
    pub(crate) facts: Mutex<BTreeMap<String, String>>,
}

impl NotingHost {
    /// The engine run that was attached last.
    pub(crate) fn engine_run(&self) -> Option<String> {
        self.attached.lock().unwrap().last().map(|(run, _)| run.clone())
    }
}

#[async_trait]
impl Host for NotingHost {
    async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo> {
        self.attached.lock().unwrap().push((engine_run.to_owned(), can_reattach));
        Ok(())
    }

    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }

    fn log(&self, line: &str) {
        self.logs.lock().unwrap().push(line.to_owned());
    }

    async fn recall(&self, name: &str) -> Option<String> {
        self.facts.lock().unwrap().get(name).cloned()
    }

    async fn remember(&self, name: &str, value: &str) {
        self.facts.lock().unwrap().insert(name.to_owned(), value.to_owned());
    }
}

/// A first attempt of execution `e1` on endpoint 0.
pub(crate) fn call(
    host: &Arc<NotingHost>,
    workflow_id: &str,
    parameters: &str,
) -> (watch::Sender<Option<Stop>>, Call) {
    let (sender, stop) = StopSignal::new();
    let call = Call {
        execution_id: "e1".to_owned(),
        attempt: 1,
        traceparent: None,
        idempotency_key: "e1.1".to_owned(),
        workflow_id: workflow_id.to_owned(),
        definition: None,
        workflow_name: None,
        parameters: Bytes::copy_from_slice(parameters.as_bytes()),
        options: None,
        session_id: None,
        endpoint: 0,
        engine_run: None,
        maybe_started: false,
        result_bytes_max: 1 << 20,
        host: host.clone(),
        stop,
    };
    (sender, call)
}
