//! What operators said of the service and its engines, and what was learned of these, as it is stored: taken up on any node.

use super::context::Context;
use super::pause::{PAUSE, Pause};
use enginehouse_core::breaker::Forced;
use enginehouse_core::gate::GateDoc;
use enginehouse_store::{DocKind, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What operators said of one engine, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OperatorWords {
    pub(crate) paused: bool,
    /// Breakers forced open or closed, by endpoint name.
    pub(crate) forced: BTreeMap<String, Forced>,
}

impl OperatorWords {
    pub(crate) fn read(body: Option<&Value>) -> OperatorWords {
        body.and_then(|body| serde_json::from_value(body.clone()).ok()).unwrap_or_default()
    }
}

impl Context {
    /// Brings the pause to what the store says. A mark that cannot be read is one.
    pub(crate) async fn load_pause(&self) -> Result<(), StoreError> {
        let docs = self.store.docs(DocKind::Setting).await?;
        let body = docs.into_iter().find(|doc| doc.id == PAUSE).map(|doc| doc.body);
        let pause = body.filter(|body| !body.is_null()).map(|body| {
            let unreadable = Pause { why: "its mark cannot be read".to_owned(), since: self.store.now() };
            serde_json::from_value(body).unwrap_or(unreadable)
        });
        self.registry.pause().send_if_modified(|known| {
            let changed = *known != pause;
            *known = pause;
            changed
        });
        Ok(())
    }

    /// Takes the mark away; false when there was none.
    pub(crate) async fn take_pause_away(&self) -> Result<bool, StoreError> {
        self.load_pause().await?;
        if self.registry.pause().borrow().is_none() {
            return Ok(false);
        }
        self.keep(DocKind::Setting, PAUSE, |_| Value::Null).await?;
        self.load_pause().await?;
        Ok(true)
    }

    /// Takes up what an earlier scheduler stored of the engines, and what operators said.
    pub(crate) async fn load_gates(&self) -> Result<(), StoreError> {
        let docs = self.store.docs(DocKind::Gate).await?;
        {
            let mut scheduler = self.scheduling.scheduler.lock();
            for doc in docs {
                match serde_json::from_value::<GateDoc>(doc.body) {
                    Ok(gate) => scheduler.gates.restore(&doc.id, gate),
                    Err(error) => {
                        tracing::warn!(engine = doc.id, %error, "what was stored of an engine cannot be read");
                    }
                }
            }
        }
        self.load_operator_words().await
    }

    /// Brings pauses, the service's and the engines', and forced breakers to what operators said last, on whichever node.
    pub(crate) async fn load_operator_words(&self) -> Result<(), StoreError> {
        self.load_pause().await?;
        let docs = self.store.docs(DocKind::Engine).await?;
        let now = self.store.now();
        for engine in self.registry.iter() {
            let name = &engine.settings.name;
            let words = OperatorWords::read(docs.iter().find(|d| d.id == *name).map(|d| &d.body));
            self.registry.set_paused(name, words.paused);
            let mut scheduler = self.scheduling.scheduler.lock();
            scheduler.queue.set_engine(name, self.registry.rules(&engine.settings));
            for (at, endpoint) in (0u32..).zip(&engine.settings.endpoints) {
                let wanted =
                    words.forced.get(&endpoint.name).filter(|f| f.until.is_none_or(|until| now < until));
                let present =
                    scheduler.gates.get(name).and_then(|g| g.endpoint(at)?.breaker.forced().cloned());
                if present.as_ref() != wanted {
                    let changes = scheduler.gates.force(name, Some(at), wanted, now);
                    if scheduler.may_grant() {
                        scheduler.gate_changes.extend(changes);
                        self.scheduling.gate_nudge.notify_one();
                    }
                }
            }
        }
        Ok(())
    }
}
