//! Tells receivers what happened, by HTTP: configured endpoints of the events they want, and `callbackUrl` of an execution's end.
//!
//! The feed of commits is the outbox: an event is in it by the very transaction that it tells of. This role reads it behind a
//! stored position and makes a delivery of each event that somebody wants, in the commit that moves the position on, so that a
//! kill at any instant neither loses one nor makes it twice. A delivery is a document until it was delivered; a delivery that
//! was sent and not marked is sent again under the same id. Only the scheduler's node does it.

mod egress;
mod send;
mod sign;

pub use send::{WebhookEndpoint, WebhookPolicy, WebhookSecrets, WebhookSettings};

use crate::caller::Caller;
use crate::committer::Planned;
use crate::context::Context;
use crate::service::{EventFilter, Service};
use enginehouse_core::time::Time;
use enginehouse_core::webhook::{Verdict, judge};
use enginehouse_store::{Cursor, Doc, DocKind, Outcome, StoreError, Write};
use send::{Sender, Sent};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PAGE: usize = 64;
/// How long a lost nudge may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Deliveries that wait; beyond it the feed is read no further until some are delivered.
const WAITING_MAX: usize = 10_000;
/// Dead letters kept; the oldest go first.
const DEAD_MAX: usize = 1_000;
/// Requests at once, to all receivers and to one of them: a slow one holds up its own deliveries only.
const SENDING_MAX: usize = 64;
const SENDING_TO_ONE_MAX: usize = 8;
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

/// Notes where the feed begins to be read for webhooks, if nothing is noted yet. To be done before any work is taken: from then
/// on no event is passed over, whenever the process dies.
pub(crate) async fn begin(cx: &Context) -> Result<(), StoreError> {
    let newest = *cx.store.changed().borrow();
    if cx.store.docs(DocKind::Webhook).await?.iter().any(|doc| doc.id == POSITION) {
        return Ok(());
    }
    // A node that was faster has noted an earlier place.
    cx.commit(vec![keep(POSITION, 0, serde_json::json!({ "cursor": newest.0 }))], 0).await.map(drop)
}

fn keep(id: &str, rev: u64, body: serde_json::Value) -> Planned {
    let doc = Doc { kind: DocKind::Webhook, id: id.to_owned(), rev, body };
    Planned::Other(Write::Keep { doc, rev })
}

pub(crate) struct Webhooks {
    cx: Arc<Context>,
    sender: Arc<Sender>,
    /// Everything up to here has its deliveries; `None`: not loaded.
    position: Option<(Cursor, u64)>,
    /// With the revision of each document.
    deliveries: BTreeMap<String, (u64, Delivery)>,
    sending: BTreeSet<String>,
    tasks: JoinSet<(String, Sent)>,
}

impl Webhooks {
    pub(crate) fn new(cx: Arc<Context>) -> Webhooks {
        let sender = Arc::new(Sender::new(cx.settings.webhooks.clone()));
        Webhooks {
            cx,
            sender,
            position: None,
            deliveries: BTreeMap::new(),
            sending: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changed = self.cx.store.changed();
        loop {
            let pause = self.pause();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Ok((id, sent)) = done
                        && let Err(error) = self.mark(&id, sent).await
                    {
                        // It is sent again under the same id.
                        tracing::warn!(%error, id, "a delivery could not be marked");
                    }
                }
                _ = changed.changed() => {}
                () = self.cx.webhook_nudge.notified() => self.position = None,
                () = tokio::time::sleep(pause) => {}
            }
            let dead = self.deliveries.len() - self.waiting();
            self.cx.dead_letters.store(dead as u64, Ordering::Relaxed);
            if let Err(error) = self.turn().await {
                tracing::warn!(%error, "webhooks could not read or write the store; trying again");
                self.position = None;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    fn pause(&self) -> Duration {
        let now = self.cx.store.now();
        let next = self.deliveries.iter().filter(|(id, _)| !self.sending.contains(*id));
        let next = next.filter_map(|(_, (_, delivery))| delivery.next_at).min();
        let until = next.map_or(LOOK_EVERY, |at| Duration::from_millis(at.since(now)));
        until.clamp(Duration::from_millis(5), LOOK_EVERY)
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        if !self.cx.scheduler.lock().may_grant() {
            // Whoever schedules now has the deliveries; what is being sent here is sent there again, at worst.
            self.position = None;
            self.deliveries.clear();
            return Ok(());
        }
        if self.position.is_none() {
            self.load().await?;
        }
        self.read_feed().await?;
        self.send_due();
        Ok(())
    }

    async fn load(&mut self) -> Result<(), StoreError> {
        self.deliveries.clear();
        let mut position = None;
        for doc in self.cx.store.docs(DocKind::Webhook).await? {
            if doc.id == POSITION {
                position = doc.body["cursor"].as_u64().map(|cursor| (Cursor(cursor), doc.rev));
            } else if let Ok(delivery) = serde_json::from_value(doc.body) {
                self.deliveries.insert(doc.id, (doc.rev, delivery));
            }
        }
        let gone =
            || StoreError::Corrupt("it is not noted how far the feed was read for webhooks".to_owned());
        self.position = Some(position.ok_or_else(gone)?);
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.deliveries.values().filter(|(_, delivery)| delivery.next_at.is_some()).count()
    }

    async fn read_feed(&mut self) -> Result<(), StoreError> {
        while self.waiting() < WAITING_MAX {
            let Some((cursor, rev)) = self.position else { return Ok(()) };
            let page = match self.cx.store.feed(cursor, PAGE).await {
                Ok(page) => page,
                Err(StoreError::Gone { oldest }) => {
                    tracing::error!(
                        "receivers of webhooks were away for so long that events were lost to them"
                    );
                    self.position = Some((Cursor(oldest.0.saturating_sub(1)), rev));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut fresh = Vec::new();
            for commit in &page.commits {
                fresh.extend(self.wanted(commit));
            }
            let full = page.commits.len() == PAGE;
            // The position alone is no reason to write: to read some commits again costs nothing.
            let far = page.next.0 - cursor.0 >= 10_000;
            if fresh.is_empty() && !far {
                self.position = Some((page.next, rev));
            } else {
                self.store(page.next, rev, fresh).await?;
            }
            if !full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The deliveries that a commit makes, by their ids: the same whoever reads it, and whenever.
    fn wanted(&self, commit: &enginehouse_store::Commit) -> Vec<(String, Delivery)> {
        let service = Service::new(self.cx.clone());
        // What an engine said is payload, and receivers get none.
        let nobody = Caller { key_id: None, scopes: Default::default(), user: None, worker: None };
        let settings = &self.cx.settings.webhooks;
        let mut found = Vec::new();
        for told in service.told(commit, &nobody, &EventFilter::default()) {
            let receivers = settings.endpoints.iter().filter(|endpoint| endpoint.wants(&told.view));
            let callback = told.callback.then_some(CALLBACK);
            for to in receivers.map(|endpoint| endpoint.name.as_str()).chain(callback) {
                let id = format!("msg_{}_{}_{to}", commit.cursor.0, told.number);
                let delivery = Delivery {
                    to: to.to_owned(),
                    event: serde_json::to_value(&told.view).unwrap_or_default(),
                    key: told.key.map(|key| key.0),
                    created_at: commit.at,
                    attempts: 0,
                    next_at: Some(commit.at),
                    last: None,
                };
                found.push((id, delivery));
            }
        }
        found
    }

    /// Stores deliveries and the position behind them in one commit.
    async fn store(
        &mut self,
        next: Cursor,
        rev: u64,
        fresh: Vec<(String, Delivery)>,
    ) -> Result<(), StoreError> {
        let mut writes = vec![keep(POSITION, rev, serde_json::json!({ "cursor": next.0 }))];
        for (id, delivery) in &fresh {
            writes.push(keep(id, 0, serde_json::to_value(delivery).unwrap_or_default()));
        }
        let settled = self.cx.commit(writes, 0).await?;
        if matches!(settled.outcomes.first(), Some(Outcome::DocStale(_))) {
            // Another node has moved on: what it knows counts.
            self.position = None;
            return Ok(());
        }
        self.position = Some((next, rev + 1));
        self.deliveries.extend(fresh.into_iter().map(|(id, delivery)| (id, (1, delivery))));
        Ok(())
    }

    fn send_due(&mut self) {
        let now = self.cx.store.now();
        let mut to_one: BTreeMap<String, usize> = BTreeMap::new();
        for id in &self.sending {
            if let Some((_, delivery)) = self.deliveries.get(id) {
                *to_one.entry(delivery.place()).or_default() += 1;
            }
        }
        let mut due: Vec<(Time, &String)> = Vec::new();
        for (id, (_, delivery)) in &self.deliveries {
            if let Some(at) = delivery.next_at.filter(|at| *at <= now && !self.sending.contains(id)) {
                due.push((at, id));
            }
        }
        due.sort();
        let mut chosen = Vec::new();
        for (_, id) in due {
            if self.sending.len() + chosen.len() >= SENDING_MAX {
                break;
            }
            let Some((_, delivery)) = self.deliveries.get(id) else { continue };
            let count = to_one.entry(delivery.place()).or_default();
            if *count < SENDING_TO_ONE_MAX {
                *count += 1;
                chosen.push((id.clone(), delivery.clone()));
            }
        }
        for (id, delivery) in chosen {
            self.sending.insert(id.clone());
            let (cx, sender) = (self.cx.clone(), self.sender.clone());
            self.tasks.spawn(async move {
                let sent = sender.send(&cx, &id, &delivery).await;
                (id, sent)
            });
        }
    }

    /// Takes note of what an attempt came to.
    async fn mark(&mut self, id: &str, sent: Sent) -> Result<(), StoreError> {
        self.sending.remove(id);
        let Some((rev, delivery)) = self.deliveries.get(id).cloned() else { return Ok(()) };
        let attempts = delivery.attempts + 1;
        let verdict = judge(sent.answer, attempts, self.cx.env.draw());
        let outcome = match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Again(_) => "failed",
            Verdict::Dead => "dead",
        };
        self.cx.telemetry.webhook(&delivery.to, outcome);
        let kind = DocKind::Webhook;
        let write = match verdict {
            Verdict::Delivered => Write::Forget { kind, id: id.to_owned(), rev },
            Verdict::Again(_) | Verdict::Dead => {
                let now = self.cx.store.now();
                let next_at = if let Verdict::Again(pause) = verdict { Some(now.plus(pause)) } else { None };
                if next_at.is_none() {
                    tracing::warn!(
                        id,
                        to = delivery.to,
                        last = sent.text,
                        "a webhook could not be delivered"
                    );
                }
                let tried = Delivery { attempts, next_at, last: Some(sent.text), ..delivery };
                let body = serde_json::to_value(&tried).unwrap_or_default();
                self.deliveries.insert(id.to_owned(), (rev + 1, tried));
                Write::Keep { doc: Doc { kind, id: id.to_owned(), rev, body }, rev }
            }
        };
        if verdict == Verdict::Delivered {
            self.deliveries.remove(id);
        }
        let settled = self.cx.commit(vec![Planned::Other(write)], 0).await?;
        if matches!(settled.outcomes.first(), Some(Outcome::DocStale(_))) {
            // Somebody replayed it meanwhile, or another node has it.
            self.position = None;
        }
        self.bury().await
    }

    /// Forgets the oldest dead letters beyond their number.
    async fn bury(&mut self) -> Result<(), StoreError> {
        let dead = self.deliveries.iter().filter(|(_, (_, delivery))| delivery.next_at.is_none());
        let mut dead: Vec<(Time, String, u64)> =
            dead.map(|(id, (rev, delivery))| (delivery.created_at, id.clone(), *rev)).collect();
        if dead.len() <= DEAD_MAX {
            return Ok(());
        }
        dead.sort();
        dead.truncate(dead.len() - DEAD_MAX);
        for (_, id, rev) in dead {
            self.deliveries.remove(&id);
            let forget = Write::Forget { kind: DocKind::Webhook, id, rev };
            self.cx.commit(vec![Planned::Other(forget)], 0).await?;
        }
        Ok(())
    }
}

impl Delivery {
    /// What may be slow as a whole: an endpoint, or the one execution's receiver.
    fn place(&self) -> String {
        match self.key.filter(|_| self.to == CALLBACK) {
            Some(key) => format!("{CALLBACK} {key}"),
            None => self.to.clone(),
        }
    }
}
