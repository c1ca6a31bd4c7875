//! What callers may do with the deliveries of webhooks and their receivers: look at them, try again, give up.

use super::delivery::{Delivery, POSITION};
use super::receivers::{Receiver, receiver_of};
use super::send::test_event;
use crate::service::{Service, store_error};
use crate::state::planned::Planned;
use enginehouse_api::{
    ApiError, Code, Timestamp, WebhookDeliveriesAnswer, WebhookDeliveryView, WebhookLastView,
    WebhookReceiverView, WebhookReceiversAnswer, WebhookTestView,
};
use enginehouse_store::{Doc, DocKind, Write, WriteOutcome};
use std::collections::BTreeMap;

/// Deliveries in one answer, the oldest first.
const SHOWN_MAX: usize = 1_000;

impl Service {
    /// What is to be delivered, and what was given up; `dead`: only the one or the other.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn webhook_deliveries(&self, dead: Option<bool>) -> Result<WebhookDeliveriesAnswer, ApiError> {
        let docs = self.cx.store.docs(DocKind::Webhook).await.map_err(|e| store_error(&e))?;
        let found = docs.into_iter().filter_map(|doc| Some((doc.id.clone(), parse(doc)?)));
        let wanted = found.filter(|(_, delivery)| dead.is_none_or(|dead| dead == delivery.next_at.is_none()));
        let mut deliveries: Vec<WebhookDeliveryView> =
            wanted.map(|(id, delivery)| view(id, delivery)).collect();
        deliveries.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let total = deliveries.len() as u64;
        deliveries.truncate(SHOWN_MAX);
        Ok(WebhookDeliveriesAnswer { total, deliveries })
    }

    /// The configured receivers, with how their last delivery went.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn webhook_receivers(&self) -> Result<WebhookReceiversAnswer, ApiError> {
        let docs = self.cx.store.docs(DocKind::Webhook).await.map_err(|e| store_error(&e))?;
        let mut kept: BTreeMap<String, Receiver> = docs.iter().filter_map(receiver_of).collect();
        let deliveries: Vec<Delivery> = docs.into_iter().filter_map(parse).collect();
        let count = |name: &str, dead: bool| {
            let counts = |delivery: &&Delivery| delivery.to == name && delivery.next_at.is_none() == dead;
            deliveries.iter().filter(counts).count() as u64
        };
        let mut receivers = Vec::new();
        for endpoint in &self.cx.settings.webhooks.endpoints {
            let Receiver { delivered, last, paused, passed_over, .. } =
                kept.remove(&endpoint.name).unwrap_or_default();
            receivers.push(WebhookReceiverView {
                name: endpoint.name.clone(),
                origin: origin(&endpoint.url),
                events: endpoint.events.clone(),
                engines: endpoint.engines.clone(),
                paused_since: paused.as_ref().map(|paused| Timestamp(paused.since)),
                paused_because: paused.map(|paused| paused.why),
                waiting: count(&endpoint.name, false),
                dead: count(&endpoint.name, true),
                delivered,
                passed_over,
                last: last.map(|last| WebhookLastView {
                    at: Timestamp(last.at),
                    id: last.id,
                    event_type: last.event,
                    execution_id: last.execution_id,
                    delivered: last.delivered,
                    text: last.text,
                }),
            });
        }
        receivers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(WebhookReceiversAnswer { receivers })
    }

    /// Sends one signed test event to a receiver, and says what came back. One that was paused is tried again at once when it
    /// takes the test.
    ///
    /// # Errors
    /// `not_found` when no receiver has this name.
    pub async fn test_webhook(&self, name: &str) -> Result<WebhookTestView, ApiError> {
        let endpoints = &self.cx.settings.webhooks.endpoints;
        let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.name == name) else {
            let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
            let known = if names.is_empty() { "none is configured".to_owned() } else { names.join(", ") };
            let text = format!("there is no receiver {name:?} of webhooks; there are: {known}");
            return Err(ApiError::new(Code::NotFound, text));
        };
        let tested = test_event(&self.cx, endpoint).await;
        if tested.delivered {
            self.cx.events.receivers.nudge.notify_one();
        }
        Ok(tested)
    }

    /// Tries a delivery again at once, as if it had never been tried; it keeps its id.
    ///
    /// # Errors
    /// `not_found` when it was delivered or discarded.
    pub async fn replay_webhook(&self, id: &str) -> Result<WebhookDeliveryView, ApiError> {
        loop {
            let (rev, delivery) = self.webhook(id).await?;
            let now = self.cx.store.now();
            let delivery = Delivery { attempts: 0, next_at: Some(now), ..delivery };
            let body = serde_json::to_value(&delivery).unwrap_or_default();
            let doc = Doc { kind: DocKind::Webhook, id: id.to_owned(), rev, body };
            if self.changed_webhook(Write::Keep { doc, rev }).await? {
                return Ok(view(id.to_owned(), delivery));
            }
        }
    }

    /// Gives a delivery up for good.
    ///
    /// # Errors
    /// `not_found` when it was delivered or discarded.
    pub async fn discard_webhook(&self, id: &str) -> Result<(), ApiError> {
        loop {
            let (rev, _) = self.webhook(id).await?;
            let forget = Write::Forget { kind: DocKind::Webhook, id: id.to_owned(), rev };
            if self.changed_webhook(forget).await? {
                return Ok(());
            }
        }
    }

    async fn webhook(&self, id: &str) -> Result<(u64, Delivery), ApiError> {
        let docs = self.cx.store.docs(DocKind::Webhook).await.map_err(|e| store_error(&e))?;
        let doc = docs.into_iter().find(|doc| doc.id == id);
        let found = doc.and_then(|doc| Some((doc.rev, parse(doc)?)));
        found.ok_or_else(|| ApiError::new(Code::NotFound, "no such delivery; it was delivered, or discarded"))
    }

    /// Writes a change of a delivery; `false` when it changed meanwhile.
    async fn changed_webhook(&self, write: Write) -> Result<bool, ApiError> {
        let settled =
            self.cx.writes.commit(vec![Planned::Other(write)], 0).await.map_err(|e| store_error(&e))?;
        let done = !matches!(settled.outcomes.first(), Some(WriteOutcome::DocStale(_)));
        if done {
            self.cx.events.receivers.nudge.notify_one();
        }
        Ok(done)
    }
}

/// Where a URL leads to, without its path.
fn origin(url: &str) -> String {
    reqwest::Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

fn parse(doc: Doc) -> Option<Delivery> {
    (doc.id != POSITION).then(|| serde_json::from_value(doc.body).ok())?
}

fn view(id: String, delivery: Delivery) -> WebhookDeliveryView {
    let text = |name: &str| delivery.event[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    WebhookDeliveryView {
        id,
        receiver: delivery.to,
        event_type: text("type").unwrap_or_default(),
        execution_id: text("id"),
        state: if delivery.next_at.is_some() { "waiting" } else { "dead" }.to_owned(),
        attempts: delivery.attempts,
        created_at: Timestamp(delivery.created_at),
        next_attempt_at: delivery.next_at.map(Timestamp),
        last: delivery.last,
    }
}
