//! What is kept of each configured receiver: which events it is told of, how it last answered, whether it is paused.
//!
//! An event is judged by the filter that was in force when it happened. A filter that was corrected, and a receiver that is new,
//! begin with what happens next: nothing old goes out at once.

use super::delivery::{POSITION, keep};
use crate::state::context::Context;
use crate::state::planned::Planned;
use crate::state::settings::WebhookEndpoint;
use enginehouse_api::EventView;
use enginehouse_core::time::{MINUTE, Millis, Time};
use enginehouse_store::{Cursor, Doc, DocKind, StoreError, Write};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Begins the ids of these documents; the rest is the receiver's name.
const PREFIX: &str = "receiver/";
/// Changes of a filter that are told apart while the feed was not read beyond them.
const ERAS_MAX: usize = 16;
/// How long a receiver whose address was refused is left alone before one delivery is tried.
pub(super) const PROBE_AFTER: Millis = 5 * MINUTE;
/// Deliveries that wait for a paused receiver; further events are passed over, and counted.
pub(super) const PAUSED_WAITING_MAX: usize = 1_000;

/// Which events a receiver is told of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    /// The types; empty: the ends of executions.
    events: Vec<String>,
    /// Only executions of these engines, by name; empty: of all.
    engines: Vec<String>,
}

impl Filter {
    pub(super) fn of(endpoint: &WebhookEndpoint) -> Filter {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            names
        };
        Filter { events: sorted(&endpoint.events), engines: sorted(&endpoint.engines) }
    }

    pub(super) fn wants(&self, event: &EventView) -> bool {
        const ENDS: [&str; 3] = ["execution_completed", "execution_failed", "execution_cancelled"];
        let kind = &event.kind;
        let listed = if self.events.is_empty() {
            ENDS.contains(&kind.as_str())
        } else {
            self.events.iter().any(|wanted| wanted == kind)
        };
        let here = event
            .engine
            .as_ref()
            .is_none_or(|engine| self.engines.is_empty() || self.engines.contains(engine));
        listed && here
    }
}

/// A time with another filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Era {
    /// Its last commit.
    until: u64,
    /// `None`: the receiver was not there.
    filter: Option<Filter>,
}

/// How the last delivery went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Last {
    pub(crate) at: Time,
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) execution_id: Option<String>,
    pub(crate) delivered: bool,
    pub(crate) text: String,
}

/// Why and since when nothing is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub(crate) since: Time,
    pub(crate) why: String,
}

/// A configured receiver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Receiver {
    filter: Filter,
    /// Filters of before, the oldest first.
    eras: Vec<Era>,
    pub(crate) delivered: u64,
    pub(crate) last: Option<Last>,
    pub(crate) paused: Option<Paused>,
    /// Events that it was not told of because too many waited while it was paused.
    pub(crate) passed_over: u64,
}

impl Receiver {
    /// Whether it is told of an event of this commit.
    pub(super) fn wants(&self, cursor: Cursor, event: &EventView) -> bool {
        match self.eras.iter().find(|era| cursor.0 <= era.until) {
            Some(era) => era.filter.as_ref().is_some_and(|filter| filter.wants(event)),
            None => self.filter.wants(event),
        }
    }

    /// From the commit after `newest` on, `filter` counts; what was read before `position` is settled.
    fn change(&mut self, filter: Filter, newest: u64, position: u64) {
        let before = std::mem::replace(&mut self.filter, filter);
        self.eras.push(Era { until: newest, filter: Some(before) });
        self.eras.retain(|era| era.until > position);
        let excess = self.eras.len().saturating_sub(ERAS_MAX);
        self.eras.drain(..excess);
    }
}

/// The receivers by name, each with the revision of its document.
pub(super) type Receivers = BTreeMap<String, (u64, Receiver)>;

/// The receiver in a document; `None`: it is another one.
pub(crate) fn receiver_of(doc: &Doc) -> Option<(String, Receiver)> {
    let name = doc.id.strip_prefix(PREFIX)?;
    Some((name.to_owned(), serde_json::from_value(doc.body.clone()).ok()?))
}

/// The document with the position; `receivers` says that those of its time are kept.
pub(super) fn position_at(cursor: Cursor, rev: u64) -> Planned {
    keep(POSITION, rev, serde_json::json!({ "cursor": cursor.0, "receivers": true }))
}

pub(super) fn write(name: &str, rev: u64, receiver: &Receiver) -> Planned {
    keep(&format!("{PREFIX}{name}"), rev, serde_json::to_value(receiver).unwrap_or_default())
}

/// Notes where the feed begins to be read, if nothing is noted yet, and from where on each receiver's filter counts. To be done
/// before any work is taken: from then on no event is passed over, whenever the process dies.
pub(crate) async fn begin(cx: &Context) -> Result<(), StoreError> {
    let newest = cx.store.changed().borrow().0;
    let docs = cx.store.docs(DocKind::Webhook).await?;
    let position = docs.iter().find(|doc| doc.id == POSITION);
    let mut known: Receivers = BTreeMap::new();
    for doc in &docs {
        known.extend(receiver_of(doc).map(|(name, receiver)| (name, (doc.rev, receiver))));
    }
    // A store from before receivers were kept: those that are configured were there.
    let from_before = position.is_some_and(|doc| doc.body["receivers"] != true);
    let read = position.and_then(|doc| doc.body["cursor"].as_u64()).unwrap_or(newest);
    let mut writes = Vec::new();
    if position.is_none() {
        writes.push(position_at(Cursor(newest), 0));
    }
    for endpoint in &cx.settings.webhooks.endpoints {
        let filter = Filter::of(endpoint);
        match known.remove(&endpoint.name) {
            Some((_, receiver)) if receiver.filter == filter => {}
            Some((rev, mut receiver)) => {
                receiver.change(filter, newest, read);
                writes.push(write(&endpoint.name, rev, &receiver));
            }
            None => {
                let eras = if from_before { Vec::new() } else { vec![Era { until: newest, filter: None }] };
                writes.push(write(&endpoint.name, 0, &Receiver { filter, eras, ..Receiver::default() }));
            }
        }
    }
    // One that comes back later starts over.
    for (name, (rev, _)) in known {
        let forget = Write::Forget { kind: DocKind::Webhook, id: format!("{PREFIX}{name}"), rev };
        writes.push(Planned::Other(forget));
    }
    if writes.is_empty() {
        return Ok(());
    }
    // A node that was faster has noted an earlier place.
    cx.writes.commit(writes, 0).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_api::Timestamp;

    fn event(kind: &str, engine: Option<&str>) -> EventView {
        EventView {
            id: "e".to_owned(),
            seq: Some(1),
            kind: kind.to_owned(),
            at: Timestamp(Time(0)),
            attempt: 1,
            engine: engine.map(str::to_owned),
            status: None,
            data: serde_json::Value::Null.into(),
        }
    }

    fn filter(events: &[&str], engines: &[&str]) -> Filter {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Filter { events: names(events), engines: names(engines) }
    }

    #[test]
    fn a_filter_wants_what_it_names() {
        for (events, engines, kind, engine, wanted) in [
            (&[][..], &[][..], "execution_completed", Some("a"), true),
            (&[], &[], "execution_started", Some("a"), false),
            (&["execution_started"], &[], "execution_started", Some("a"), true),
            (&["execution_started"], &["b"], "execution_started", Some("a"), false),
            (&["alert"], &["b"], "alert", None, true),
        ] {
            let found = filter(events, engines).wants(&event(kind, engine));
            assert_eq!(found, wanted, "{events:?} {engines:?} {kind} {engine:?}");
        }
    }

    #[test]
    fn an_event_is_judged_by_the_filter_of_its_time() {
        let mut receiver = Receiver { filter: filter(&["alert"], &[]), ..Receiver::default() };
        receiver.eras.push(Era { until: 10, filter: None });
        receiver.change(filter(&["execution_failed"], &[]), 20, 5);
        receiver.change(filter(&[], &[]), 30, 5);
        for (cursor, kind, wanted) in [
            (10, "alert", false),
            (11, "alert", true),
            (20, "execution_failed", false),
            (21, "execution_failed", true),
            (30, "execution_completed", false),
            (31, "execution_completed", true),
            (31, "alert", false),
        ] {
            assert_eq!(receiver.wants(Cursor(cursor), &event(kind, None)), wanted, "{cursor} {kind}");
        }
        receiver.change(filter(&["alert"], &[]), 40, 30);
        assert_eq!(receiver.eras.len(), 1, "what was read is settled: {receiver:?}");
        (50..200).for_each(|n| receiver.change(filter(&[], &[]), n, 30));
        assert_eq!(receiver.eras.len(), ERAS_MAX);
    }
}
