//! The pause of the whole service: a mark in the store while which nothing is started, no one is told and nothing is removed.
//!
//! A restored copy comes with it. The original may still run, and anyone who restores a backup to look at it wants nothing done; so
//! an operator says when the copy is to work.

use enginehouse_core::time::Time;
use enginehouse_store::{Doc, DocKind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

/// The mark's document.
pub(crate) const PAUSE: &str = "pause";

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
