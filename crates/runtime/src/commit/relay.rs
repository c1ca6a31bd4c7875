//! Follows the feed of commits: learns what other nodes did, and wakes those who wait for an execution.
//!
//! What this node commits it tells by itself as soon as it is stored. The feed of a store that it has alone is read only when a
//! commit was made another way, or when no one knows what became of one.

use crate::role::{Role, Round};
use crate::state::context::Context;
use enginehouse_core::event::{EventType, NoteKind};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_store::{Change, Cursor, Ref, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const PAGE: usize = 256;
/// How long a lost nudge may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Relay {
    cx: Arc<Context>,
    changed: watch::Receiver<Cursor>,
}

impl Role for Relay {
    const NAME: &'static str = "relay";
    const TROUBLE: &'static str = "the feed could not be read";
    type Error = StoreError;

    fn first(&self) -> Duration {
        LOOK_EVERY
    }

    fn again(&self) -> Duration {
        LOOK_EVERY
    }

    async fn nudged(&mut self) {
        let shared = self.cx.store.features().shared;
        tokio::select! {
            biased;
            _ = self.changed.changed(), if shared => {}
            () = self.cx.writes.relay_nudge.notified() => {}
        }
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        if *self.cx.store.changed().borrow() > *self.cx.writes.known.lock() {
            self.catch_up().await?;
        }
        Ok(Round::then_rest(LOOK_EVERY))
    }
}

impl Relay {
    pub(crate) fn new(cx: Arc<Context>) -> Relay {
        let changed = cx.store.changed();
        Relay { cx, changed }
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        loop {
            let from = *self.cx.writes.known.lock();
            let page = match self.cx.store.feed(from, PAGE).await {
                Ok(page) => page,
                Err(StoreError::Gone { oldest }) => {
                    // What lies between is not known: read the queue again, and go on from the oldest commit kept.
                    self.cx.scheduling.scheduler.lock().lose_track();
                    self.cx.scheduling.grant_nudge.notify_one();
                    *self.cx.writes.known.lock() = Cursor(oldest.0.saturating_sub(1));
                    self.cx.look_for_own().await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let last = page.commits.len() < PAGE;
            for commit in &page.commits {
                for change in &commit.changes {
                    self.cx.events.hub.changed(change.key, change.status.is_terminal());
                    self.cx.observed.unreached.lock().heard(change.key, &change.engine, &change.event);
                }
                if commit.node != self.cx.settings.node {
                    self.follow(&commit.changes).await?;
                    if commit.notes.iter().any(|note| note.kind == NoteKind::EngineOperated) {
                        self.cx.load_operator_words().await?;
                    }
                    if commit.notes.iter().any(|note| note.kind == NoteKind::ScalingOperated) {
                        self.cx.load_scaling_change().await?;
                    }
                }
            }
            let mut known = self.cx.writes.known.lock();
            *known = page.next.max(*known);
            if last {
                return Ok(());
            }
        }
    }

    /// Takes in what another node committed.
    async fn follow(&self, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            // What another node wrote is newer than what is remembered here.
            self.cx.scheduling.rows.lock().remove(&change.key);
            if self.cx.scheduling.scheduler.lock().heard(change, self.cx.store.now()) {
                self.cx.scheduling.grant_nudge.notify_one();
            }
            let local = change.holder.is_some_and(|h| self.cx.workers.ports.lock().contains_key(&h));
            if !local {
                continue;
            }
            let Some(row) = self.cx.find(Ref::Key(change.key)).await? else {
                continue;
            };
            let row = Execution { history: Vec::new(), ..row };
            match change.event.kind {
                EventType::ExecutionCancelRequested if local => self.cx.workers.send_cancel(&row),
                // Later events may have followed already; what counts is whether this very grant still stands.
                EventType::ExecutionStarted if local && stands(&row, change) => self.cx.take_on(row),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether the row still runs under the grant that the change tells of.
fn stands(row: &Execution, change: &Change) -> bool {
    row.status() == Status::Running && change.event.data.fence == Some(row.state.fence.0)
}
