//! The events of the whole service, in the order of commits: read from the feed, so that none is missed and a reader may go on
//! where it was.

use super::caller::Caller;
use super::events::{BACKLOG, SLOW_READER};
use super::{EventItem, EventStream, Service, store_error};
use enginehouse_api::{ApiError, Code, EventView, MetricsSample, Timestamp};
use enginehouse_core::event::event_names;
use enginehouse_core::id::Key;
use enginehouse_store::{Change, Commit, Cursor, Note, StoreError};
use std::time::Duration;
use tokio::sync::mpsc;

const PAGE: usize = 64;
/// How long a lost nudge may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events that come within this are told together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The figures as they were sampled: told while they are read and never stored, so only readers that name it get it.
const METRICS_UPDATED: &str = "metrics_updated";

/// Which events; all given conditions hold.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Any of these; empty: all.
    pub types: Vec<String>,
    /// Only executions of this engine, by name.
    pub engine: Option<String>,
}

/// Where a stream begins.
#[derive(Debug, Clone, Default)]
pub enum EventsFrom {
    /// With what happens next.
    #[default]
    Now,
    /// With the oldest that is kept.
    Oldest,
    /// After the event of this id.
    After(String),
}

/// An event's place: its commit, and its number within that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    cursor: u64,
    number: usize,
}

impl Place {
    fn parse(text: &str) -> Option<Place> {
        let (cursor, number) = text.split_once('-')?;
        Some(Place { cursor: cursor.parse().ok()?, number: number.parse().ok()? })
    }
}

impl Service {
    /// The service's events, until the reader goes or is too slow; a reader goes on with the id of the last event it saw. All
    /// are durable but `metrics_updated`, which comes each collection interval to who names it, on the node that schedules.
    ///
    /// # Errors
    /// `invalid_field` for the name of no event; `event_gone` when the event to go on after is not kept any more, or never was there.
    pub async fn subscribe(
        &self,
        caller: &Caller,
        filter: EventFilter,
        from: EventsFrom,
    ) -> Result<EventStream, ApiError> {
        check_types(&filter.types)?;
        let gone = || ApiError::new(Code::EventGone, "there is no such event any more");
        let newest = *self.cx.store.changed().borrow();
        let (cursor, skip) = match from {
            EventsFrom::Now => (newest, 0),
            EventsFrom::Oldest => (Cursor(self.oldest_commit().await?.saturating_sub(1)), 0),
            EventsFrom::After(id) => {
                let place = Place::parse(&id).ok_or_else(gone)?;
                if place.cursor == 0 || place.cursor > newest.0 {
                    return Err(gone());
                }
                // The commit is read again, without what was seen of it.
                (Cursor(place.cursor - 1), place.number + 1)
            }
        };
        match self.cx.store.feed(cursor, 1).await {
            Ok(_) => {}
            Err(StoreError::Gone { .. }) => return Err(gone()),
            Err(error) => return Err(store_error(&error)),
        }
        let (sender, stream) = mpsc::channel(BACKLOG);
        let reader = Reader { service: self.clone(), caller: caller.clone(), filter, cursor, skip, sender };
        let halt = self.cx.halt.clone();
        self.cx.events.readers.spawn(async move {
            halt.run_until_cancelled(reader.run()).await;
        });
        Ok(stream)
    }

    /// The first commit that is kept; 1 while all are.
    async fn oldest_commit(&self) -> Result<u64, ApiError> {
        match self.cx.store.feed(Cursor(0), 1).await {
            Ok(_) => Ok(1),
            Err(StoreError::Gone { oldest }) => Ok(oldest.0),
            Err(error) => Err(store_error(&error)),
        }
    }
}

/// Refuses the name of no event: a reader would wait for it forever.
fn check_types(types: &[String]) -> Result<(), ApiError> {
    let names = event_names();
    let unknown = types.iter().find(|name| *name != METRICS_UPDATED && !names.contains(&name.as_str()));
    match unknown {
        None => Ok(()),
        Some(name) => {
            let text =
                format!("{name:?} is not an event type; there are: {}, {METRICS_UPDATED}", names.join(", "));
            Err(ApiError::field(Code::InvalidField, "?type", text))
        }
    }
}

/// Carries the feed to one reader; ends with it.
struct Reader {
    service: Service,
    caller: Caller,
    filter: EventFilter,
    /// Everything up to here was sent.
    cursor: Cursor,
    /// Events of the next commit that were seen already.
    skip: usize,
    sender: mpsc::Sender<EventItem>,
}

/// The reader is gone, too slow, or so far behind that what it would read next is not kept: it goes on by its last id, and
/// is told if that is not possible.
struct Cut;

impl Reader {
    async fn run(mut self) {
        let mut changed = self.service.cx.store.changed();
        let named = self.filter.types.iter().any(|kind| kind == METRICS_UPDATED);
        let mut figures = self.service.cx.observed.sampled.subscribe();
        loop {
            match self.catch_up().await {
                Ok(()) => {}
                Err(Cut) => return,
            }
            // What comes in quick succession is told together, or a thousand readers would be woken by every commit.
            tokio::time::sleep(TOGETHER).await;
            tokio::select! {
                biased;
                () = self.sender.closed() => return,
                _ = changed.changed() => {}
                Ok(()) = figures.changed(), if named => {
                    let sample = *figures.borrow_and_update();
                    if self.send_figures(sample).await.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), Cut> {
        loop {
            let cx = &self.service.cx;
            let commits = cx.events.tail.after(&*cx.store, self.cursor, PAGE).await.map_err(|_| Cut)?;
            for commit in &commits {
                self.send(commit).await?;
                self.cursor = commit.cursor;
                self.skip = 0;
            }
            if commits.is_empty() {
                return Ok(());
            }
        }
    }

    async fn send(&self, commit: &Commit) -> Result<(), Cut> {
        for told in self.service.told(commit, &self.caller, &self.filter) {
            if told.number >= self.skip {
                let id = format!("{}-{}", commit.cursor.0, told.number);
                let item = EventItem { id, view: told.view };
                self.sender.send_timeout(item, SLOW_READER).await.map_err(|_| Cut)?;
            }
        }
        Ok(())
    }

    /// Its id is empty: there is nothing to go on after, and an id would have the reader skip what was not sent yet.
    async fn send_figures(&self, sample: Option<MetricsSample>) -> Result<(), Cut> {
        let Some(sample) = sample else { return Ok(()) };
        let data = serde_json::to_value(sample).map_err(|_| Cut)?;
        let view = service_event(METRICS_UPDATED.to_owned(), sample.at, data);
        let item = EventItem { id: String::new(), view };
        self.sender.send_timeout(item, SLOW_READER).await.map_err(|_| Cut)
    }
}

/// An event of a commit.
pub(crate) struct Told {
    /// Its place in the commit.
    pub(crate) number: usize,
    pub(crate) view: EventView,
    /// The execution that it is about.
    pub(crate) key: Option<Key>,
    /// It is the end of an execution whose caller wants to be told of it.
    pub(crate) callback: bool,
}

impl EventFilter {
    fn wants(&self, kind: &str, engine: Option<&str>) -> bool {
        let here = self.engine.is_none() || self.engine.as_deref() == engine;
        here && (self.types.is_empty() || self.types.iter().any(|wanted| wanted == kind))
    }
}

impl Service {
    /// The events of a commit, as a caller may see them.
    pub(crate) fn told(&self, commit: &Commit, caller: &Caller, filter: &EventFilter) -> Vec<Told> {
        let mut told = Vec::new();
        for (number, change) in commit.changes.iter().enumerate() {
            if filter.wants(change.event.kind.as_str(), Some(&change.engine)) {
                let view = self.of_execution(caller, change);
                told.push(Told { number, view, key: Some(change.key), callback: change.event.data.callback });
            }
        }
        for (number, note) in (commit.changes.len()..).zip(&commit.notes) {
            if filter.wants(note.kind.as_str(), None) {
                told.push(Told { number, view: of_service(commit, note), key: None, callback: false });
            }
        }
        told
    }

    fn of_execution(&self, caller: &Caller, change: &Change) -> EventView {
        let id = self.cx.payloads.id_of(change.key, change.ext_id.as_ref());
        EventView {
            engine: Some(change.engine.clone()),
            status: Some(change.status.as_str().to_owned()),
            ..self.event_view(caller, &id, change.key, &change.event)
        }
    }
}

fn of_service(commit: &Commit, note: &Note) -> EventView {
    service_event(note.kind.as_str().to_owned(), Timestamp(commit.at), note.data.clone())
}

/// An event that belongs to no execution.
fn service_event(kind: String, at: Timestamp, data: serde_json::Value) -> EventView {
    EventView {
        id: String::new(),
        seq: None,
        kind,
        at,
        attempt: 0,
        engine: None,
        status: None,
        data: data.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        assert_eq!(Place::parse("17-3"), Some(Place { cursor: 17, number: 3 }));
        for text in ["", "17", "17-", "-3", "a-3", "17-3-1", "99999999999999999999-1"] {
            assert_eq!(Place::parse(text), None, "{text:?}");
        }
    }
}
