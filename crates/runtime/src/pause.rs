//! The pause of the whole service: a mark in the store while which nothing is started, nobody is told and nothing is removed.
//!
//! A restored copy comes with it. The original may still run, and whoever restores a backup to look at it wants nothing done; so
//! an operator says when the copy is to work.

use crate::context::Context;
use enginehouse_core::time::Time;
use enginehouse_store::{Doc, DocKind, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The mark's document.
const PAUSE: &str = "pause";

/// Why and since when the service is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    pub(crate) why: String,
    pub(crate) since: Time,
}

impl Pause {
    /// For people.
    pub(crate) fn words(&self) -> String {
        format!("the service is paused ({}); `enginehouse resume` lets it work", self.why)
    }
}

/// The mark that a store gets which is restored from a backup.
#[must_use]
pub fn restored_mark(now: Time) -> Doc {
    let body = json!(Pause { why: "restored from a backup".to_owned(), since: now });
    Doc { kind: DocKind::Setting, id: PAUSE.to_owned(), rev: 1, body }
}

/// Whether the service is paused, for who waits for the end of that.
pub(crate) type Paused = watch::Sender<Option<Pause>>;

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
}

/// Runs a role that touches what lies outside of the store, once the service is not paused.
pub(crate) async fn once_resumed<F: Future<Output = ()>>(
    cx: Arc<Context>,
    stop: CancellationToken,
    role: impl FnOnce(CancellationToken) -> F,
) {
    let mut pause = cx.registry.pause().subscribe();
    let resumed = tokio::select! {
        biased;
        () = stop.cancelled() => false,
        told = pause.wait_for(Option::is_none) => told.is_ok(),
    };
    if resumed {
        role(stop).await;
    }
}
