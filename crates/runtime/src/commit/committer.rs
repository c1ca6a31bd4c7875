//! The only writer: turns everything that waits into one batch, adds the grants that fit, commits once, tells everyone.
//!
//! There is no timer: while one batch is synced the next one gathers. On the scheduler's node a batch carries what starts
//! in the slots that are free or that the batch itself frees, so a submit that can start at once costs one write.

use super::ahead::ReadAhead;
use super::round::Round;
use crate::state::context::Context;
use crate::state::planned::Request;
use enginehouse_core::execution::Execution;
use enginehouse_core::limits::{COMMIT_BYTES_MAX, COMMIT_WRITES_MAX, READY_REFILL};
use enginehouse_core::session::Session;
use enginehouse_store::{LaneCount, Ref, Store, StoreError};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Rows read at a time.
const READ_PAGE: usize = 1_000;

pub(crate) struct Committer {
    pub(crate) cx: Arc<Context>,
    pub(crate) inbox: mpsc::Receiver<Request>,
    pub(crate) ahead: ReadAhead,
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

    /// One batch, from what waits to what came of it.
    async fn round(&mut self, requests: Vec<Request>) {
        self.hydrate().await;
        self.follow_others().await;
        self.refill().await;
        let cx = self.cx.clone();
        let _batch = cx.writes.batch.lock().await;
        let mut round = Round::new(cx.clone(), requests);
        let picks = round.pick();
        if !picks.is_empty() {
            let rows = round.read(&picks, &mut self.ahead).await;
            round.grant(picks, rows);
        }
        if round.origins.is_empty() && round.requests.is_empty() {
            return;
        }
        match round.commit(round.write()).await {
            Ok(committed) => round.settle(committed, &mut self.ahead),
            Err(error) => {
                self.ahead.clear();
                round.lose(&error);
            }
        }
    }

    /// Reads the queue again after it lost track of the store. Only here can no commit of this node come between.
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
                    tracing::warn!(%error, "what other nodes changed could not be read; the queue is read again");
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
