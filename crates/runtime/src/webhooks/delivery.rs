//! One event for one receiver, as it is kept in the store until it was delivered.

use crate::state::planned::Planned;
use enginehouse_core::time::Time;
use enginehouse_store::{Doc, DocKind, Write};
use serde::{Deserialize, Serialize};

/// The document with the position; the others are deliveries, by their id.
pub(crate) const POSITION: &str = "position";

/// The receiver of a delivery that goes to its execution's `callbackUrl`.
pub(crate) const CALLBACK: &str = "callback";

/// One event for one receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delivery {
    /// The name of a configured endpoint, or [`CALLBACK`].
    pub(crate) to: String,
    /// The event as it is told, without payload.
    pub(crate) event: serde_json::Value,
    /// The execution's key, where it is about one.
    pub(crate) key: Option<i64>,
    pub(crate) created_at: Time,
    pub(crate) attempts: u32,
    /// When it is tried next; `None`: it is a dead letter.
    pub(crate) next_at: Option<Time>,
    /// What the last attempt came to, in words.
    pub(crate) last: Option<String>,
}

impl Delivery {
    /// What may be slow as a whole: an endpoint, or the one execution's receiver.
    pub(super) fn place(&self) -> String {
        match self.key.filter(|_| self.to == CALLBACK) {
            Some(key) => format!("{CALLBACK} {key}"),
            None => self.to.clone(),
        }
    }
}

pub(super) fn keep(id: &str, rev: u64, body: serde_json::Value) -> Planned {
    let doc = Doc { kind: DocKind::Webhook, id: id.to_owned(), rev, body };
    Planned::Other(Write::Keep { doc, rev })
}
