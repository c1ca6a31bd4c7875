//! One batch on its way through the store, in steps: foresee what it changes, pick what may start, read those rows, grant them,
//! write the batch, commit it, settle what came of each write.
//!
//! An [`Origin`] stands beside each write of the batch and says where it came from, so that the outcomes, which come in the
//! order of the writes, find their way back.

use super::ahead::{self, ReadAhead};
use crate::breakpoints::Kinds;
use crate::state::context::Context;
use crate::state::planned::{Planned, Request};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::{Key, SessionId};
use enginehouse_core::lifecycle::{self, Grant, Transition};
use enginehouse_core::limits::COMMIT_WRITES_MAX;
use enginehouse_core::planted::{self, Bug};
use enginehouse_core::queue::Pick;
use enginehouse_core::time::Time;
use enginehouse_store::{Batch, Committed, Sealed, Started, Starting, StoreError, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;

pub(super) struct Round {
    pub(super) cx: Arc<Context>,
    pub(super) now: Time,
    pub(super) requests: Vec<Request>,
    /// One for each write of the batch, in the batch's order.
    pub(super) origins: Vec<Origin>,
}

/// Where a write of the batch comes from.
pub(super) enum Origin {
    /// From a request: which one, and which of its writes. Grants of what it submits are part of the same write, each with the
    /// place of its row among those that are submitted.
    Asked { request: usize, write: usize, grants: Vec<(usize, Granted)> },
    /// A grant alone, of a row that waited.
    Grant(Box<Granted>),
}

/// A grant that waits for its commit.
pub(super) struct Granted {
    pub(super) row: Execution,
    pub(super) transition: Transition,
    pub(super) session: SessionId,
    /// The row's request, if it was read with the row.
    pub(super) request: Option<Sealed>,
}

/// A row that may start, as it will be when its grant is applied.
pub(super) struct Known {
    /// Without history.
    row: Execution,
    /// The write of the batch that submits it, and its place there.
    submitted: Option<(usize, usize)>,
    request: Option<Sealed>,
}

impl Round {
    /// Changes come before submits, because a refused change holds what comes behind it.
    pub(super) fn new(cx: Arc<Context>, requests: Vec<Request>) -> Round {
        let now = cx.store.now();
        let writes = |(request, asked): (usize, &Request)| {
            (0..asked.writes.len()).map(move |write| Origin::Asked { request, write, grants: Vec::new() })
        };
        let mut origins: Vec<Origin> = requests.iter().enumerate().flat_map(writes).collect();
        origins.sort_by_key(|origin| matches!(asked(&requests, origin), Some(Planned::Submit(_))));
        Round { cx, now, requests, origins }
    }

    /// Shows the queue what the batch will change, and picks what may start then.
    pub(super) fn pick(&self) -> Vec<Pick> {
        let mut scheduler = self.cx.scheduling.scheduler.lock();
        for planned in self.requests.iter().flat_map(|request| &request.writes) {
            scheduler.foresee(planned, self.now);
        }
        if self.cx.is_stopping() {
            return Vec::new();
        }
        let mut picks = Vec::new();
        while picks.len() < COMMIT_WRITES_MAX {
            let Some(pick) = scheduler.pick(self.now) else { break };
            picks.push(pick);
        }
        if picks.len() < COMMIT_WRITES_MAX && scheduler.is_short_of_slots() {
            self.cx.workers.scaler_nudge.notify_one();
        }
        picks
    }

    /// The rows of the picks: from the batch itself, from what was read ahead, or from the store.
    pub(super) async fn read(&self, picks: &[Pick], ahead: &mut ReadAhead) -> BTreeMap<Key, Known> {
        let mut known = self.brought(&picks.iter().map(|pick| pick.key).collect());
        let waited: Vec<Key> =
            picks.iter().map(|pick| pick.key).filter(|key| !known.contains_key(key)).collect();
        if waited.is_empty() {
            return known;
        }
        ahead.finish().await;
        let (mut read, mut missing) = (Vec::with_capacity(waited.len()), Vec::new());
        for key in &waited {
            match ahead.take(*key) {
                Some(started) => read.push((*key, started)),
                None => missing.push(*key),
            }
        }
        if !missing.is_empty() {
            match starting(&self.cx, &missing).await {
                Ok(found) => read.extend(found),
                Err(error) => {
                    tracing::warn!(%error, "rows to start could not be read");
                    self.cx.scheduling.scheduler.lock().lose_track();
                }
            }
        }
        let stored = |(key, (row, request)): (Key, Started)| (key, Known { row, submitted: None, request });
        known.extend(read.into_iter().map(stored));
        self.read_on(waited.len(), ahead);
        known
    }

    /// Has the rows read that are likely to start in the next batch, while this one is synced.
    fn read_on(&self, waited: usize, ahead: &mut ReadAhead) {
        let most = ReadAhead::<Started>::wanted(waited);
        let likely = self.cx.scheduling.scheduler.lock().queue.likely_next(most);
        let unread = ahead.keep(likely);
        if !unread.is_empty() {
            let (cx, keys) = (self.cx.clone(), unread.clone());
            ahead.begin(unread, async move { starting(&cx, &keys).await });
        }
    }

    /// Those of the rows that the batch itself brings, as they are once it is applied.
    fn brought(&self, wanted: &BTreeSet<Key>) -> BTreeMap<Key, Known> {
        let mut rows = BTreeMap::new();
        let mut add = |row: Execution, submitted| {
            let row = Execution { history: Vec::new(), ..row };
            rows.insert(row.key(), Known { row, submitted, request: None });
        };
        for (at, origin) in self.origins.iter().enumerate() {
            match asked(&self.requests, origin) {
                Some(Planned::Submit(group)) => {
                    for (item, new) in group.iter().enumerate() {
                        if wanted.contains(&new.row.key()) {
                            add(new.row.clone(), Some((at, item)));
                        }
                    }
                }
                Some(Planned::Transition { row, transition, .. }) if wanted.contains(&row.key()) => {
                    add(transition.applied_to(row), None);
                }
                _ => {}
            }
        }
        rows
    }

    /// Turns picks into grants on the row as it will be when the grant is applied. A grant of what the batch submits becomes
    /// part of that submit, and the others come last.
    pub(super) fn grant(&mut self, picks: Vec<Pick>, mut known: BTreeMap<Key, Known>) {
        let mut scheduler = self.cx.scheduling.scheduler.lock();
        for pick in picks {
            let Some(Known { row, submitted, request }) = known.remove(&pick.key) else {
                scheduler.unpick(pick.key, self.now);
                continue;
            };
            let worker = self.cx.workers.worker_name(pick.worker);
            let grant = Grant { session: pick.worker, worker, endpoint: pick.endpoint };
            let granted = match lifecycle::grant(&row, &grant, self.now) {
                Ok(transition) => Granted { row, transition, session: pick.worker, request },
                Err(refused) => {
                    scheduler.unpick(pick.key, self.now);
                    // One past its limits stays out of the queue, and its timer ends it.
                    let past = refused == lifecycle::Refused::NotDue
                        && row.status() == Status::Pending
                        && row.state.due;
                    if !past {
                        scheduler.resync(&row, self.now);
                    }
                    continue;
                }
            };
            let of_submit = submitted.and_then(|(at, item)| match &mut self.origins[at] {
                Origin::Asked { grants, .. } => Some((grants, item)),
                Origin::Grant(_) => None,
            });
            match of_submit {
                Some((grants, item)) => grants.push((item, granted)),
                None => self.origins.push(Origin::Grant(Box::new(granted))),
            }
        }
    }

    /// The batch.
    pub(super) fn write(&self) -> Batch {
        let write = |origin: &Origin| match origin {
            Origin::Grant(granted) => Write::Schedule(granted.transition.clone()),
            Origin::Asked { request, write, grants } => match &self.requests[*request].writes[*write] {
                Planned::Submit(group) => {
                    let mut group = group.clone();
                    for (item, granted) in grants {
                        group[*item].grant = Some(granted.transition.clone());
                    }
                    Write::Submit(group)
                }
                Planned::Transition { transition, scheduled: true, .. } => {
                    Write::Schedule(transition.clone())
                }
                Planned::Transition { transition, scheduled: false, .. } => Write::Apply(transition.clone()),
                Planned::Other(write) => write.clone(),
            },
        };
        let writes = self.origins.iter().map(write).collect();
        let scheduler_epoch = self.cx.scheduling.scheduler.lock().epoch();
        Batch { node: self.cx.settings.node, scheduler_epoch, writes }
    }

    /// # Errors
    /// What became of the batch is not known.
    pub(super) async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let kinds = Kinds::of(&batch);
        kinds.before();
        let (begun, writes) = (Instant::now(), batch.writes.len());
        let committed = self.cx.store.commit(batch).await?;
        let took = begun.elapsed();
        self.cx.observed.telemetry.committed(writes, took);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.cx.observed.figures.lock().committed(self.now, took);
        kinds.after();
        Ok(committed)
    }

    /// The outcome of the batch is unknown: what is remembered of the store is dropped, and every caller gets the error.
    pub(super) fn lose(self, error: &StoreError) {
        tracing::error!(%error, "a commit failed; its outcome is unknown");
        if let StoreError::Broken(_) = error {
            // Who started this process starts the next one, and that one reads what the disk really holds.
            self.cx.fail(error.to_string());
        }
        self.cx.scheduling.scheduler.lock().lose_track();
        self.cx.scheduling.rows.lock().clear();
        self.cx.writes.relay_nudge.notify_one();
        for request in self.requests {
            if planted::has(Bug::AnsweredUnstored) {
                request.answer_as_if_stored(self.now);
                continue;
            }
            let _ = request.reply.send(Err(error.clone()));
        }
    }
}

/// What was asked for, unless the write is a grant.
fn asked<'a>(requests: &'a [Request], origin: &Origin) -> Option<&'a Planned> {
    match origin {
        Origin::Asked { request, write, .. } => requests.get(*request)?.writes.get(*write),
        Origin::Grant(_) => None,
    }
}

/// Reads rows that start, each with its request if that is small and not in memory.
async fn starting(cx: &Context, keys: &[Key]) -> Result<Vec<(Key, Started)>, StoreError> {
    let wanted: Vec<Starting> = {
        let inputs = cx.payloads.inputs.lock();
        let up_to = |key| if inputs.holds(key) { 0 } else { ahead::REQUEST_BYTES_MAX };
        keys.iter().map(|key| Starting { key: *key, request_up_to: up_to(*key) }).collect()
    };
    let found = cx.store.starting(&wanted).await?;
    Ok(keys.iter().copied().zip(found).filter_map(|(key, started)| Some((key, started?))).collect())
}
