//! The event stream of one execution: durable events from its history, live items in between.

use super::caller::{Caller, Scope};
use super::{EventItem, EventStream, Service};
use crate::state::hub::{Live, Subscription};
use enginehouse_api::{ApiError, Code, EventView, Timestamp};
use enginehouse_core::exact::ExactJson;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::Key;
use enginehouse_engine::Progress;
use serde_json::json;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// Items a reader may be behind.
pub(super) const BACKLOG: usize = 64;
/// How long a full backlog may stay full before the reader is cut.
pub(super) const SLOW_READER: Duration = Duration::from_secs(10);

impl Service {
    /// Durable events after `last_event_id` (or from the start), then new ones until the execution is terminal.
    ///
    /// # Errors
    /// `event_gone` when the id is unknown or its successors were folded away.
    pub async fn events(
        &self,
        caller: &Caller,
        id: &str,
        last_event_id: Option<&str>,
    ) -> Result<EventStream, ApiError> {
        let row = self.row(id).await?;
        let last = match last_event_id {
            None => None,
            Some(text) => Some(resume_point(&row, text)?),
        };
        let subscription = self.cx.events.hub.subscribe(row.key());
        let (sender, stream) = mpsc::channel(BACKLOG);
        let pump = Pump {
            service: self.clone(),
            caller: caller.clone(),
            id: self.cx.payloads.public_id(&row),
            key: row.key(),
            last: last.unwrap_or(0),
            live: 0,
            sender,
        };
        let halt = self.cx.halt.clone();
        self.cx.events.readers.spawn(async move {
            halt.run_until_cancelled(pump.run(subscription)).await;
        });
        Ok(stream)
    }
}

/// The number of the durable event to go on after. Ids are `n`, or `n.k` for the k-th live item after event n.
fn resume_point(row: &Execution, text: &str) -> Result<u32, ApiError> {
    let gone = || ApiError::new(Code::EventGone, "there is no such event any more");
    let number = text.split_once('.').map_or(text, |(n, _)| n);
    let last: u32 = number.parse().map_err(|_| gone())?;
    let next_is_kept = last == row.state.rev || row.history.iter().any(|e| e.seq == last + 1);
    if last <= row.state.rev && next_is_kept { Ok(last) } else { Err(gone()) }
}

/// Carries events from the store to one reader; ends with its reader.
struct Pump {
    service: Service,
    caller: Caller,
    id: String,
    key: Key,
    /// Events up to here were sent.
    last: u32,
    /// Live items sent since.
    live: u32,
    sender: mpsc::Sender<EventItem>,
}

/// The reader is gone or too slow.
struct Cut;

impl Pump {
    async fn run(mut self, mut subscription: Subscription) {
        loop {
            match self.durable().await {
                Ok(true) | Err(Cut) => return,
                Ok(false) => {}
            }
            let sent = tokio::select! {
                biased;
                changed = subscription.durable.any() => if changed { Ok(()) } else { Err(Cut) },
                live = subscription.live.recv() => match live {
                    Ok(live) => self.live_item(&live).await,
                    Err(RecvError::Lagged(dropped)) => self.gap(dropped).await,
                    Err(RecvError::Closed) => Err(Cut),
                },
                () = self.sender.closed() => Err(Cut),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Sends what the history has beyond `last`; true when nothing more will come.
    async fn durable(&mut self) -> Result<bool, Cut> {
        let row = match self.service.row(&self.id).await {
            Ok(row) => row,
            Err(error) if error.code == Code::NotFound => return Err(Cut),
            // The reader resumes by its last id.
            Err(_) => return Err(Cut),
        };
        let sent = self.last;
        for event in row.history.iter().filter(|e| e.seq > sent) {
            let view = self.service.event_view(&self.caller, &self.id, self.key, event);
            self.send(EventItem { id: event.seq.to_string(), view }).await?;
            self.last = event.seq;
            self.live = 0;
        }
        Ok(row.status().is_terminal())
    }

    async fn live_item(&mut self, live: &Live) -> Result<(), Cut> {
        // What an engine says of its run is payload: it may be the result, piece by piece.
        let open = self.caller.may(Scope::ReadPayload);
        let told = Progress { data: live.progress.data.clone().filter(|_| open), ..live.progress };
        // Told as the engine wrote it: a number of its own may have more digits than one of ours.
        let data = serde_json::to_string(&told).and_then(|text| ExactJson::parse(&text));
        let data = data.unwrap_or_else(|_| json!({ "fraction": live.progress.fraction }).into());
        self.unnumbered("progress", live.attempt, data).await
    }

    async fn gap(&mut self, dropped: u64) -> Result<(), Cut> {
        self.unnumbered("gap", 0, json!({ "dropped": dropped }).into()).await
    }

    async fn unnumbered(&mut self, kind: &str, attempt: u32, data: ExactJson) -> Result<(), Cut> {
        self.live += 1;
        let at = Timestamp(self.service.cx.store.now());
        let view = EventView {
            id: self.id.clone(),
            seq: None,
            kind: kind.to_owned(),
            at,
            attempt,
            engine: None,
            status: None,
            data,
        };
        self.send(EventItem { id: format!("{}.{}", self.last, self.live), view }).await
    }

    async fn send(&self, item: EventItem) -> Result<(), Cut> {
        self.sender.send_timeout(item, SLOW_READER).await.map_err(|_| Cut)
    }
}
