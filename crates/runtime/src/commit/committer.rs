//! The only writer: turns everything that waits into one batch, adds the grants that fit, commits once, tells everyone.
//!
//! There is no timer: while one batch is synced the next one gathers. On the scheduler's node a batch carries what starts
//! in the slots that are free or that the batch itself frees, so a submit that can start at once costs one write.

use super::ahead::{self, ReadAhead};
use crate::breakpoints::Kinds;
use crate::state::context::Context;
use crate::state::planned::{Planned, Request, Settled};
use crate::state::scheduler::{Scheduler, rules_of};
use enginehouse_core::execution::{Execution, State, Status};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::{self, Grant, Transition};
use enginehouse_core::limits::{COMMIT_BYTES_MAX, COMMIT_WRITES_MAX, READY_REFILL};
use enginehouse_core::planted::{self, Bug};
use enginehouse_core::queue::Pick;
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use enginehouse_store::{
    Batch, Committed, LaneCount, Outcome, Ref, Sealed, SessionWrite, Started, Starting, Store, StoreError,
    SubmitOutcome, Write,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Rows read at a time.
const READ_PAGE: usize = 1_000;

pub(crate) struct Committer {
    pub(crate) cx: Arc<Context>,
    pub(crate) inbox: mpsc::Receiver<Request>,
    pub(crate) ahead: ReadAhead,
}

/// A grant that waits for its commit.
struct Granted {
    row: Execution,
    transition: Transition,
    session: enginehouse_core::id::SessionId,
    /// Folded into the submit at this place; otherwise a write of its own.
    folded: Option<Place>,
    request: Option<Sealed>,
}

/// A row that may start, as it will be when its grant is applied.
struct Known {
    /// Without history.
    row: Execution,
    /// Where the batch brings it as a submit.
    place: Option<Place>,
    /// Its request, if that was read with it.
    request: Option<Sealed>,
}

impl Committer {
    /// Runs until `stop`, then commits what still waits.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut requests = Vec::new();
            let opening = self.cx.next_opening();
            tokio::select! {
                biased;
                request = self.inbox.recv() => match request {
                    Some(request) => requests.push(request),
                    None => return,
                },
                () = self.cx.scheduling.grant_nudge.notified() => {}
                () = tokio::time::sleep(opening) => {}
                () = stop.cancelled() => {
                    self.inbox.close();
                    while let Some(request) = self.inbox.recv().await {
                        self.round(vec![request]).await;
                    }
                    return;
                }
            }
            self.gather(&mut requests);
            let roles = self.cx.observed.roles.clone();
            roles.watch_work("committer", self.round(requests)).await;
        }
    }

    fn gather(&mut self, requests: &mut Vec<Request>) {
        let mut writes: usize = requests.iter().map(|r| r.writes.len()).sum();
        let mut bytes: usize = requests.iter().map(|r| r.bytes).sum();
        while writes < COMMIT_WRITES_MAX && bytes < COMMIT_BYTES_MAX {
            let Ok(request) = self.inbox.try_recv() else {
                return;
            };
            writes += request.writes.len();
            bytes += request.bytes;
            requests.push(request);
        }
    }

    async fn round(&mut self, requests: Vec<Request>) {
        self.hydrate().await;
        self.follow_others().await;
        self.refill().await;
        let cx = self.cx.clone();
        let _batch = cx.writes.batch.lock().await;
        let now = self.cx.store.now();
        let picks = self.plan(&requests, now);
        let grants = self.grants(&requests, picks, now).await;
        if requests.is_empty() && grants.is_empty() {
            return;
        }
        let (batch, shape) = self.batch(&requests, &grants);
        let kinds = Kinds::of(&batch);
        kinds.before();
        let (begun, writes) = (Instant::now(), batch.writes.len());
        match self.cx.store.commit(batch).await {
            Ok(committed) => {
                let took = begun.elapsed();
                self.cx.observed.telemetry.committed(writes, took);
                let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.cx.observed.figures.lock().committed(now, took);
                kinds.after();
                self.settle(requests, grants, &shape, committed, now);
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed; its outcome is unknown");
                self.ahead.clear();
                if let StoreError::Broken(_) = &error {
                    // Who started this process starts the next one, and that one reads what the disk really holds.
                    self.cx.fail(error.to_string());
                }
                self.cx.scheduling.scheduler.lock().lose_track();
                self.cx.scheduling.rows.lock().clear();
                self.cx.writes.relay_nudge.notify_one();
                for request in requests {
                    if planted::has(Bug::AnsweredUnstored) {
                        request.answer_as_if_stored(now);
                        continue;
                    }
                    let _ = request.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Reads the queue anew after it lost track of the store. Only here can no commit of this node come between.
    async fn hydrate(&mut self) {
        if !self.cx.scheduling.scheduler.lock().needs_hydration() {
            return;
        }
        let begun = self.cx.scheduling.scheduler.lock().begin_hydration();
        self.ahead.clear();
        match read_all(&self.cx.store).await {
            Ok((sessions, lanes, running)) => {
                let queue = self.cx.fresh_queue(&sessions);
                self.cx.scheduling.scheduler.lock().hydrate(begun, queue, lanes, &running);
                // A grant whose commit was answered by an error may stand although its worker never heard of it.
                running.into_iter().for_each(|row| self.cx.take_on(row));
            }
            Err(error) => tracing::warn!(%error, "the queue could not be read from the store; trying again"),
        }
    }

    /// Makes the queue agree with what other nodes changed. A row read anywhere else might be older than a grant of this
    /// node that was committed meanwhile, and would give its slot away twice.
    async fn follow_others(&mut self) {
        let keys = {
            let mut scheduler = self.cx.scheduling.scheduler.lock();
            if scheduler.may_grant() { scheduler.take_changed_elsewhere() } else { Vec::new() }
        };
        keys.iter().for_each(|key| self.ahead.forget(*key));
        for page in keys.chunks(READ_PAGE) {
            let refs: Vec<Ref> = page.iter().map(|key| Ref::Key(*key)).collect();
            match self.cx.store.find(&refs).await {
                Ok(rows) => {
                    let now = self.cx.store.now();
                    let mut scheduler = self.cx.scheduling.scheduler.lock();
                    for row in rows.into_iter().flatten() {
                        scheduler.follow_other(&Execution { history: Vec::new(), ..row }, now);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what other nodes changed could not be read; the queue is read anew");
                    self.cx.scheduling.scheduler.lock().lose_track();
                    return;
                }
            }
        }
    }

    /// Reads on where a lane's rows in memory run low.
    async fn refill(&mut self) {
        loop {
            let wanted = self.cx.scheduling.scheduler.lock().wants_refill();
            let Some((lane, after)) = wanted else { return };
            match self.cx.store.ready(&lane, after, READY_REFILL).await {
                Ok(ready) => self.cx.scheduling.scheduler.lock().refill(&lane, ready),
                Err(error) => {
                    tracing::warn!(%error, "the ready queue could not be read on");
                    return;
                }
            }
        }
    }

    fn plan(&self, requests: &[Request], now: Time) -> Vec<Pick> {
        let mut scheduler = self.cx.scheduling.scheduler.lock();
        for planned in requests.iter().flat_map(|r| &r.writes) {
            scheduler.foresee(planned, now);
        }
        if self.cx.is_stopping() {
            return Vec::new();
        }
        let mut picks = Vec::new();
        while picks.len() < COMMIT_WRITES_MAX {
            let Some(pick) = scheduler.pick(now) else { break };
            picks.push(pick);
        }
        if picks.len() < COMMIT_WRITES_MAX && scheduler.is_short_of_slots() {
            self.cx.workers.scaler_nudge.notify_one();
        }
        picks
    }

    /// The rows of `picks`, and of what else the batch brings.
    async fn rows_of(&mut self, requests: &[Request], picks: &[Pick]) -> BTreeMap<Key, Known> {
        let mut known = rows_in(requests);
        let waited: Vec<Key> = picks.iter().map(|p| p.key).filter(|k| !known.contains_key(k)).collect();
        if waited.is_empty() {
            return known;
        }
        self.ahead.finish().await;
        let (mut read, mut missing) = (Vec::with_capacity(waited.len()), Vec::new());
        for key in &waited {
            match self.ahead.take(*key) {
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
        let stored = |(key, (row, request)): (Key, Started)| (key, Known { row, place: None, request });
        known.extend(read.into_iter().map(stored));
        let most = ReadAhead::<Started>::wanted(waited.len());
        let likely = self.cx.scheduling.scheduler.lock().queue.likely_next(most);
        let unread = self.ahead.keep(likely);
        if !unread.is_empty() {
            let (cx, keys) = (self.cx.clone(), unread.clone());
            self.ahead.begin(unread, async move { starting(&cx, &keys).await });
        }
        known
    }

    /// Turns picks into grants on the row as it will be when the grant is applied.
    async fn grants(&mut self, requests: &[Request], picks: Vec<Pick>, now: Time) -> Vec<Granted> {
        if picks.is_empty() {
            return Vec::new();
        }
        let mut known = self.rows_of(requests, &picks).await;
        let mut scheduler = self.cx.scheduling.scheduler.lock();
        let mut grants = Vec::with_capacity(picks.len());
        for pick in picks {
            let Some(Known { row, place: folded, request }) = known.remove(&pick.key) else {
                scheduler.unpick(pick.key, now);
                continue;
            };
            let worker = self.cx.workers.worker_name(pick.worker);
            let grant = Grant { session: pick.worker, worker, endpoint: pick.endpoint };
            match lifecycle::grant(&row, &grant, now) {
                Ok(transition) => {
                    grants.push(Granted { row, transition, session: pick.worker, folded, request });
                }
                // Past its limits: the row stays out of the queue and its timer ends it.
                Err(lifecycle::Refused::NotDue) if row.status() == Status::Pending && row.state.due => {
                    scheduler.unpick(pick.key, now);
                }
                Err(_) => {
                    scheduler.unpick(pick.key, now);
                    scheduler.resync(&row, now);
                }
            }
        }
        grants
    }

    /// One batch of everything: changes before submits and grants last, because a refused change holds what comes behind it.
    fn batch(&self, requests: &[Request], grants: &[Granted]) -> (Batch, Shape) {
        let mut order: Vec<(usize, usize)> = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            order.extend((0..request.writes.len()).map(|write| (at, write)));
        }
        order.sort_by_key(|(request, write)| matches!(requests[*request].writes[*write], Planned::Submit(_)));
        let mut places: Vec<Vec<usize>> = requests.iter().map(|r| vec![0; r.writes.len()]).collect();
        let mut writes = Vec::with_capacity(order.len() + grants.len());
        for (request, write) in order {
            places[request][write] = writes.len();
            writes.push(match &requests[request].writes[write] {
                Planned::Submit(group) => Write::Submit(group.clone()),
                Planned::Change { transition, scheduled: true, .. } => Write::Schedule(transition.clone()),
                Planned::Change { transition, scheduled: false, .. } => Write::Apply(transition.clone()),
                Planned::Other(write) => write.clone(),
            });
        }
        let grants_from = writes.len();
        for granted in grants {
            match granted.folded {
                Some((request, write, item)) => {
                    if let Write::Submit(group) = &mut writes[places[request][write]] {
                        group[item].grant = Some(granted.transition.clone());
                    }
                }
                None => writes.push(Write::Schedule(granted.transition.clone())),
            }
        }
        let scheduler_epoch = self.cx.scheduling.scheduler.lock().epoch();
        (Batch { node: self.cx.settings.node, scheduler_epoch, writes }, Shape { places, grants_from })
    }

    fn settle(
        &mut self,
        requests: Vec<Request>,
        grants: Vec<Granted>,
        shape: &Shape,
        mut committed: Committed,
        now: Time,
    ) {
        let (own, cursor) = (committed.outcomes.split_off(shape.grants_from), committed.cursor);
        let mut started: Vec<Vec<(Key, State)>> = vec![Vec::new(); requests.len()];
        {
            let cx = self.cx.clone();
            let mut scheduler = cx.scheduling.scheduler.lock();
            for (request, places) in requests.iter().zip(&shape.places) {
                for (planned, place) in request.writes.iter().zip(places) {
                    self.settle_one(&mut scheduler, planned, &committed.outcomes[*place], now);
                }
            }
            let mut own = own.iter();
            for granted in grants {
                let outcome = match granted.folded {
                    Some((request, write, item)) => {
                        let stored = &committed.outcomes[shape.places[request][write]];
                        let outcome = folded_outcome(stored, item);
                        if matches!(outcome, Some(Outcome::Applied)) {
                            started[request].push((granted.row.key(), granted.transition.next.clone()));
                        }
                        outcome
                    }
                    None => own.next().cloned(),
                };
                self.settle_grant(&mut scheduler, granted, outcome, now);
            }
        }
        self.cx.writes.made(cursor);
        let mut outcomes: Vec<Option<Outcome>> = committed.outcomes.into_iter().map(Some).collect();
        let mut started = started.into_iter();
        for (request, places) in requests.into_iter().zip(&shape.places) {
            let outcomes = places.iter().filter_map(|place| outcomes[*place].take()).collect();
            let started = started.next().unwrap_or_default();
            let _ = request.reply.send(Ok(Settled { at: committed.at, outcomes, started }));
        }
    }

    fn settle_one(&mut self, scheduler: &mut Scheduler, planned: &Planned, outcome: &Outcome, now: Time) {
        if let Planned::Change { row, .. } = planned {
            self.ahead.forget(row.key());
        }
        match (planned, outcome) {
            (Planned::Submit(group), Outcome::Submitted(items)) => {
                for (new, item) in group.iter().zip(items) {
                    match item {
                        SubmitOutcome::Stored { .. } => {
                            self.cx.submitted(&new.row);
                            if new.row.state.due {
                                scheduler.traffic.arrived(&new.row.fixed.engine, new.row.state.priority);
                            }
                        }
                        SubmitOutcome::Existing(_) => scheduler.forget(&new.row, now),
                    }
                }
            }
            (Planned::Submit(group), _) => group.iter().for_each(|new| scheduler.forget(&new.row, now)),
            (Planned::Change { row, transition, .. }, Outcome::Applied) => {
                if row.status() == Status::Running {
                    scheduler.observe(row, &transition.event, now);
                }
                scheduler.traffic.moved(row, &transition.next, transition.event.kind);
                self.cx.moved(row, transition);
            }
            (Planned::Change { .. }, Outcome::Stale(Some(truth))) => {
                self.cx.scheduling.rows.lock().remove(&truth.key());
                scheduler.resync(truth, now);
            }
            (Planned::Change { .. }, Outcome::WrongEpoch) => {
                scheduler.elect(None);
            }
            (Planned::Other(Write::Session(SessionWrite::Open(session))), Outcome::Applied) => {
                scheduler.queue.set_worker(session.id, rules_of(session));
            }
            _ => {}
        }
    }

    fn settle_grant(&self, scheduler: &mut Scheduler, granted: Granted, outcome: Option<Outcome>, now: Time) {
        match outcome {
            Some(Outcome::Applied) => {
                self.cx.moved(&granted.row, &granted.transition);
                let row = granted.transition.applied_to(&granted.row);
                let row = Execution { history: Vec::new(), ..row };
                if scheduler.queue.occupancy().lease(row.key()).is_none() {
                    scheduler.resync(&row, now);
                }
                self.cx.deliver(granted.session, row, granted.request);
            }
            Some(Outcome::Stale(Some(truth))) => {
                scheduler.unpick(granted.row.key(), now);
                scheduler.resync(&truth, now);
            }
            Some(Outcome::WrongEpoch) => {
                scheduler.unpick(granted.row.key(), now);
                scheduler.elect(None);
            }
            Some(Outcome::Held) => {
                scheduler.unpick(granted.row.key(), now);
                scheduler.resync(&granted.row, now);
                self.cx.scheduling.grant_nudge.notify_one();
            }
            // A replayed or refused submit was forgotten with its write.
            _ => scheduler.unpick(granted.row.key(), now),
        }
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

async fn read_all(
    store: &Arc<dyn Store>,
) -> Result<(Vec<Session>, Vec<LaneCount>, Vec<Execution>), StoreError> {
    let sessions = store.sessions().await?;
    let lanes = store.lanes().await?;
    let mut running: Vec<Execution> = Vec::new();
    loop {
        let page = store.running(None, running.last().map(Execution::key), READ_PAGE).await?;
        let last = page.len() < READ_PAGE;
        running.extend(page);
        if last {
            return Ok((sessions, lanes, running));
        }
    }
}

/// Where each request's writes stand in the batch, and where the scheduler's own grants begin.
struct Shape {
    places: Vec<Vec<usize>>,
    grants_from: usize,
}

/// Request, write and item.
type Place = (usize, usize, usize);

/// The rows a batch itself brings, as they are once it is applied.
fn rows_in(requests: &[Request]) -> BTreeMap<Key, Known> {
    let mut rows = BTreeMap::new();
    for (r, request) in requests.iter().enumerate() {
        for (w, planned) in request.writes.iter().enumerate() {
            match planned {
                Planned::Submit(group) => {
                    for (i, new) in group.iter().enumerate() {
                        let row = Execution { history: Vec::new(), ..new.row.clone() };
                        rows.insert(row.key(), Known { row, place: Some((r, w, i)), request: None });
                    }
                }
                Planned::Change { row, transition, .. } => {
                    let after = transition.applied_to(row);
                    let row = Execution { history: Vec::new(), ..after };
                    rows.insert(row.key(), Known { row, place: None, request: None });
                }
                Planned::Other(_) => {}
            }
        }
    }
    rows
}

fn folded_outcome(outcome: &Outcome, item: usize) -> Option<Outcome> {
    match outcome {
        Outcome::Submitted(items) => match items.get(item) {
            Some(SubmitOutcome::Stored { granted: true }) => Some(Outcome::Applied),
            Some(SubmitOutcome::Stored { granted: false }) => Some(Outcome::Held),
            _ => None,
        },
        _ => None,
    }
}
