//! Makes deliveries of events that someone wants, has them sent, and marks what came of each.
//!
//! The feed of commits is the outbox: an event is in it by the very transaction that it tells of. This role reads it behind a
//! stored position and makes a delivery of each event that someone wants, in the commit that moves the position on, so that a
//! kill at any instant neither loses one nor makes it twice. A delivery is a document until it was delivered; a delivery that
//! was sent and not marked is sent again under the same id. A receiver whose address is refused is paused, and its deliveries
//! wait. Only the scheduler's node does it.

use super::delivery::{CALLBACK, Delivery, POSITION, keep};
use super::receivers::{self, Last, PAUSED_WAITING_MAX, PROBE_AFTER, Paused, Receivers, receiver_of};
use super::send::{Sender, Sent};
use crate::role::{Role, Round};
use crate::service::caller::Caller;
use crate::service::{EventFilter, Service};
use crate::state::context::Context;
use crate::state::planned::Planned;
use enginehouse_core::time::{Millis, SECOND, Time};
use enginehouse_core::webhook::{Reply, Verdict, judge};
use enginehouse_store::{Cursor, Doc, DocKind, StoreError, Write, WriteOutcome};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

const PAGE: usize = 64;
/// How long a lost nudge may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Deliveries that wait; beyond it the feed is read no further until some are delivered.
const WAITING_MAX: usize = 10_000;
/// How long the position may stand still in the store while nothing that happens is wanted.
const NOTE_POSITION_EVERY: Millis = 5 * SECOND;
/// Dead letters kept; the oldest go first.
const DEAD_MAX: usize = 1_000;
/// Requests at once, to all receivers and to one of them: a slow one holds up its own deliveries only.
const SENDING_MAX: usize = 64;
const SENDING_TO_ONE_MAX: usize = 8;

pub(crate) struct Webhooks {
    cx: Arc<Context>,
    sender: Arc<Sender>,
    /// Everything up to here has its deliveries; `None`: not loaded.
    position: Option<(Cursor, u64)>,
    /// What the store says of the position, and when it was written.
    noted: (Cursor, Time),
    /// What is kept of each configured receiver.
    receivers: Receivers,
    /// When a paused receiver gets one delivery to try; at once where none is named.
    probe_at: BTreeMap<String, Time>,
    /// With the revision of each document.
    deliveries: BTreeMap<String, (u64, Delivery)>,
    sending: BTreeSet<String>,
    tasks: JoinSet<(String, Sent)>,
    /// One that was sent, and is not marked yet.
    sent: Option<(String, Sent)>,
    changed: watch::Receiver<Cursor>,
}

impl Role for Webhooks {
    const NAME: &'static str = "webhooks";
    const TROUBLE: &'static str = "webhooks could not read or write the store";
    type Error = StoreError;

    fn first(&self) -> Duration {
        self.pause()
    }

    fn again(&self) -> Duration {
        LOOK_EVERY
    }

    async fn nudged(&mut self) {
        tokio::select! {
            biased;
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.sent = done.ok(),
            _ = self.changed.changed() => {}
            () = self.cx.events.receivers.nudge.notified() => self.position = None,
        }
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        if let Some((id, sent)) = self.sent.take()
            && let Err(error) = self.mark(&id, sent).await
        {
            // It is sent again under the same id.
            tracing::warn!(%error, id, "a delivery could not be marked");
        }
        self.tell_watcher();
        if let Err(error) = self.turn().await {
            self.position = None;
            return Err(error);
        }
        Ok(Round::then_rest(self.pause()))
    }

    /// Notes how far the feed was read, so that the next start has nothing to read again.
    async fn end(&mut self) {
        if let Some((cursor, rev)) = self.position
            && cursor > self.noted.0
            && let Err(error) = self.store(cursor, rev, Vec::new(), &BTreeMap::new()).await
        {
            tracing::debug!(%error, "the position of the webhooks was not noted");
        }
    }
}

impl Webhooks {
    pub(crate) fn new(cx: Arc<Context>) -> Webhooks {
        let sender = Arc::new(Sender::new(cx.settings.webhooks.clone()));
        let changed = cx.store.changed();
        Webhooks {
            cx,
            sender,
            position: None,
            noted: (Cursor(0), Time(0)),
            receivers: BTreeMap::new(),
            probe_at: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            sending: BTreeSet::new(),
            tasks: JoinSet::new(),
            sent: None,
            changed,
        }
    }

    /// What the alerts go by.
    fn tell_watcher(&self) {
        let dead = self.deliveries.len() - self.waiting();
        self.cx.events.receivers.dead.store(dead as u64, Ordering::Relaxed);
        let paused = self.receivers.iter().filter_map(|(name, (_, receiver))| {
            let why = &receiver.paused.as_ref()?.why;
            let missed = match receiver.passed_over {
                0 => String::new(),
                missed => format!(", and {missed} events were passed over"),
            };
            Some((name.clone(), format!("{why}; {} deliveries wait{missed}", self.waiting_for(name))))
        });
        *self.cx.events.receivers.paused.lock() = paused.collect();
    }

    fn pause(&self) -> Duration {
        let now = self.cx.store.now();
        let next = self.deliveries.iter().filter(|(id, _)| !self.sending.contains(*id));
        let next = next.filter_map(|(_, (_, delivery))| self.due_at(delivery)).min();
        let until = next.map_or(LOOK_EVERY, |at| Duration::from_millis(at.since(now)));
        until.clamp(Duration::from_millis(5), LOOK_EVERY)
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        if !self.cx.scheduling.scheduler.lock().may_grant() {
            // The node that schedules now has the deliveries; what is being sent here is sent there again, at worst.
            self.position = None;
            self.deliveries.clear();
            self.receivers.clear();
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
        self.receivers.clear();
        self.probe_at.clear();
        let mut position = None;
        for doc in self.cx.store.docs(DocKind::Webhook).await? {
            if doc.id == POSITION {
                position = doc.body["cursor"].as_u64().map(|cursor| (Cursor(cursor), doc.rev));
            } else if let Some((name, receiver)) = receiver_of(&doc) {
                self.receivers.insert(name, (doc.rev, receiver));
            } else if let Ok(delivery) = serde_json::from_value(doc.body) {
                self.deliveries.insert(doc.id, (doc.rev, delivery));
            }
        }
        let gone =
            || StoreError::Corrupt("it is not noted how far the feed was read for webhooks".to_owned());
        let (cursor, rev) = position.ok_or_else(gone)?;
        self.position = Some((cursor, rev));
        self.noted = (cursor, self.cx.store.now());
        Ok(())
    }

    /// When a delivery is tried next; a paused receiver gets nothing before its probe.
    fn due_at(&self, delivery: &Delivery) -> Option<Time> {
        let at = delivery.next_at?;
        let paused = self.receivers.get(&delivery.to).is_some_and(|(_, receiver)| receiver.paused.is_some());
        let probe = self.probe_at.get(&delivery.to).filter(|_| paused);
        Some(probe.map_or(at, |probe| at.max(*probe)))
    }

    fn waiting_for(&self, name: &str) -> usize {
        let waits = |delivery: &Delivery| delivery.to == name && delivery.next_at.is_some();
        self.deliveries.values().filter(|(_, delivery)| waits(delivery)).count()
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
            let missed = self.pass_over(&mut fresh);
            let full = page.commits.len() == PAGE;
            // To read some commits again costs little, so the position alone is written now and then only.
            let late =
                page.next > self.noted.0 && self.cx.store.now().since(self.noted.1) >= NOTE_POSITION_EVERY;
            if fresh.is_empty() && missed.is_empty() && !late {
                self.position = Some((page.next, rev));
            } else {
                self.store(page.next, rev, fresh, &missed).await?;
            }
            if !full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The deliveries that a commit makes, by their ids: the same for every reader at every time.
    fn wanted(&self, commit: &enginehouse_store::Commit) -> Vec<(String, Delivery)> {
        let service = Service::new(self.cx.clone());
        // What an engine said is payload, and receivers get none.
        let nobody = Caller { key_id: None, scopes: Default::default(), user: None, worker: None };
        let settings = &self.cx.settings.webhooks;
        let mut found = Vec::new();
        for told in service.told(commit, &nobody, &EventFilter::default()) {
            let wants = |name: &str| {
                self.receivers.get(name).is_some_and(|(_, kept)| kept.wants(commit.cursor, &told.view))
            };
            let receivers = settings.endpoints.iter().map(|endpoint| endpoint.name.as_str());
            let callback = told.callback.then_some(CALLBACK);
            for to in receivers.filter(|name| wants(name)).chain(callback) {
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

    /// Leaves out what would wait for a paused receiver beyond its bound; answers how many of whom.
    fn pass_over(&self, fresh: &mut Vec<(String, Delivery)>) -> BTreeMap<String, u64> {
        let mut missed: BTreeMap<String, u64> = BTreeMap::new();
        for (name, (_, receiver)) in &self.receivers {
            if receiver.paused.is_none() || !fresh.iter().any(|(_, delivery)| delivery.to == *name) {
                continue;
            }
            let mut room = PAUSED_WAITING_MAX.saturating_sub(self.waiting_for(name));
            fresh.retain(|(_, delivery)| {
                let stays = delivery.to != *name || room > 0;
                if delivery.to == *name {
                    room = room.saturating_sub(1);
                }
                if !stays {
                    *missed.entry(name.clone()).or_default() += 1;
                }
                stays
            });
        }
        missed
    }

    /// Stores deliveries and the position behind them in one commit, and how many events were passed over for whom.
    async fn store(
        &mut self,
        next: Cursor,
        rev: u64,
        fresh: Vec<(String, Delivery)>,
        missed: &BTreeMap<String, u64>,
    ) -> Result<(), StoreError> {
        let mut writes = vec![receivers::position_at(next, rev)];
        for (name, count) in missed {
            if let Some((rev, receiver)) = self.receivers.get_mut(name) {
                receiver.passed_over += count;
                writes.push(receivers::write(name, *rev, receiver));
                *rev += 1;
            }
        }
        for (id, delivery) in &fresh {
            writes.push(keep(id, 0, serde_json::to_value(delivery).unwrap_or_default()));
        }
        let settled = self.cx.writes.commit(writes, 0).await?;
        if settled.outcomes.iter().any(|outcome| matches!(outcome, WriteOutcome::DocStale(_))) {
            // Another node has moved on: what it knows counts.
            self.position = None;
            return Ok(());
        }
        self.position = Some((next, rev + 1));
        self.noted = (next, self.cx.store.now());
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
            if let Some(at) = self.due_at(delivery).filter(|at| *at <= now && !self.sending.contains(id)) {
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
            let paused = self.receivers.get(&delivery.to).is_some_and(|(_, kept)| kept.paused.is_some());
            if *count < if paused { 1 } else { SENDING_TO_ONE_MAX } {
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
        // A refused address is nothing that the delivery can help: it waits as it is.
        let refused = sent.refused && self.receivers.contains_key(&delivery.to);
        let attempts = delivery.attempts + u32::from(!refused);
        let verdict = judge(sent.answer, attempts, self.cx.env.draw());
        let outcome = match verdict {
            _ if refused => "refused",
            Verdict::Delivered => "delivered",
            Verdict::Again(_) => "failed",
            Verdict::Dead => "dead",
        };
        self.cx.observed.telemetry.webhook(&delivery.to, outcome);
        let told = self.note_of(id, &delivery, &sent, refused);
        let kind = DocKind::Webhook;
        let write = if verdict == Verdict::Delivered {
            self.deliveries.remove(id);
            Write::Forget { kind, id: id.to_owned(), rev }
        } else {
            let next_at = match verdict {
                _ if refused => delivery.next_at,
                Verdict::Again(pause) => Some(self.cx.store.now().plus(pause)),
                _ => None,
            };
            if next_at.is_none() {
                tracing::warn!(id, to = delivery.to, last = sent.text, "a webhook could not be delivered");
            }
            let tried = Delivery { attempts, next_at, last: Some(sent.text), ..delivery };
            let body = serde_json::to_value(&tried).unwrap_or_default();
            self.deliveries.insert(id.to_owned(), (rev + 1, tried));
            Write::Keep { doc: Doc { kind, id: id.to_owned(), rev, body }, rev }
        };
        let writes = std::iter::once(Planned::Other(write)).chain(told).collect();
        let settled = self.cx.writes.commit(writes, 0).await?;
        if settled.outcomes.iter().any(|outcome| matches!(outcome, WriteOutcome::DocStale(_))) {
            // Someone replayed it meanwhile, or another node has it.
            self.position = None;
        }
        self.bury().await
    }

    /// What an attempt says of its receiver: how it went, and whether the receiver is paused from here on.
    fn note_of(&mut self, id: &str, delivery: &Delivery, sent: &Sent, refused: bool) -> Option<Planned> {
        let now = self.cx.store.now();
        let (rev, receiver) = self.receivers.get_mut(&delivery.to)?;
        let text = |name: &str| delivery.event[name].as_str().unwrap_or_default().to_owned();
        let delivered = matches!(sent.answer, Reply::Status(200..=299, _));
        receiver.last = Some(Last {
            at: now,
            id: id.to_owned(),
            event: text("type"),
            execution_id: Some(text("id")).filter(|id| !id.is_empty()),
            delivered,
            text: sent.text.clone(),
        });
        receiver.delivered += u64::from(delivered);
        if refused {
            if receiver.paused.is_none() {
                tracing::warn!(receiver = delivery.to, "a receiver of webhooks is paused: {}", sent.text);
                receiver.paused = Some(Paused { since: now, why: sent.text.clone() });
            }
            self.probe_at.insert(delivery.to.clone(), now.plus(PROBE_AFTER));
        } else if receiver.paused.take().is_some() {
            tracing::info!(receiver = delivery.to, "a receiver of webhooks is not paused any more");
        }
        let write = receivers::write(&delivery.to, *rev, receiver);
        *rev += 1;
        Some(write)
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
            self.cx.writes.commit(vec![Planned::Other(forget)], 0).await?;
        }
        Ok(())
    }
}
