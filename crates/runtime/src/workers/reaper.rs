//! The reaper: ends the leases of sessions that are gone, and gives back what abandoned calls held.

use crate::role::{Role, Round};
use crate::state::context::{ChangeError, Context};
use crate::state::planned::Planned;
use enginehouse_core::execution::Execution;
use enginehouse_core::id::SessionId;
use enginehouse_core::lifecycle::{self, Loss};
use enginehouse_core::limits::{LEASE_TTL, REAP_EVERY};
use enginehouse_core::planted::{self, Bug};
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use enginehouse_store::{SessionWrite, StoreError, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const PAGE: usize = 500;
const EVERY: Duration = Duration::from_millis(REAP_EVERY);

pub(crate) struct Reaper {
    pub(crate) cx: Arc<Context>,
    /// The end of each session's lease as it was seen last, and since when it has been that.
    pub(crate) seen: BTreeMap<SessionId, (Option<Time>, Instant)>,
}

impl Role for Reaper {
    const NAME: &'static str = "reaper";
    const TROUBLE: &'static str = "dead sessions could not be looked for";
    type Error = StoreError;

    fn first(&self) -> Duration {
        EVERY
    }

    fn again(&self) -> Duration {
        EVERY
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        let ended = self.end_the_dead().await;
        self.redeliver();
        let now = self.cx.store.now();
        self.cx.scheduling.scheduler.lock().queue.expire_ghosts(now);
        self.cx.scheduling.grant_nudge.notify_one();
        let round = Round::then_rest(EVERY);
        Ok(match ended? {
            0 => round,
            lost => round.did(format!("took {lost} executions back from workers that are gone")),
        })
    }
}

impl Reaper {
    /// Ends the leases of sessions that are gone; gives how many that were.
    async fn end_the_dead(&mut self) -> Result<u64, StoreError> {
        let schedules = self.cx.scheduling.scheduler.lock().may_grant();
        if !self.cx.store.features().shared || !schedules || planted::has(Bug::ReaperAsleep) {
            self.seen.clear();
            return Ok(0);
        }
        let now = self.cx.store.now();
        let sessions = self.cx.store.sessions().await?;
        let known: BTreeSet<SessionId> = sessions.iter().map(|s| s.id).collect();
        self.seen.retain(|id, _| known.contains(id));
        let (dead, alive): (Vec<Session>, Vec<Session>) =
            sessions.into_iter().partition(|s| self.was_silent(s) && s.is_expired(now));
        // First no more work for the dead; a grant that was under way to one shows as a lease of no one next time.
        let of_nobody = self.cx.scheduling.scheduler.lock().follow_workers(&alive, &known);
        let mut lost = 0;
        for session in dead {
            lost += lose_all(&self.cx, Some(session.id), Loss::Node).await?;
            self.cx
                .writes
                .commit(vec![Planned::Other(Write::Session(SessionWrite::Close(session.id)))], 0)
                .await?;
        }
        for session in of_nobody {
            lost += lose_all(&self.cx, Some(session), Loss::Node).await?;
        }
        Ok(lost)
    }

    /// Whether no renewal of the session was seen for a whole ttl by this node's own clock. The store's clock may jump, and
    /// a jump ends no lease.
    fn was_silent(&mut self, session: &Session) -> bool {
        let seen = self.seen.entry(session.id).or_insert((session.lease_until, Instant::now()));
        if seen.0 != session.lease_until {
            *seen = (session.lease_until, Instant::now());
        }
        seen.1.elapsed() >= Duration::from_millis(LEASE_TTL)
    }

    /// A granted row whose worker here does not have it (its order was lost) is given out again.
    fn redeliver(&self) {
        let rows: Vec<Execution> = self.cx.scheduling.rows.lock().values().cloned().collect();
        rows.into_iter().for_each(|row| self.cx.take_on(row));
    }
}

/// Ends every lease of a dead session (or of all): the rows are pending again and burn no retry. What a dead process
/// left running on this machine is ended first.
pub(crate) async fn lose_all(cx: &Context, holder: Option<SessionId>, loss: Loss) -> Result<u64, StoreError> {
    let mut after = None;
    let mut lost = 0;
    loop {
        let rows = cx.store.running(holder, after, PAGE).await?;
        let last = rows.len() < PAGE;
        after = rows.last().map(Execution::key);
        for row in rows {
            reap_leftover(cx, &row).await;
            let jitter = cx.env.draw();
            let fence = row.state.fence;
            let decide = |row: &Execution, now| {
                lifecycle::check_lease(row, fence)?;
                lifecycle::lose(row, loss, jitter, now)
            };
            match cx.change(row.key(), true, decide).await {
                Ok(_) => lost += 1,
                Err(ChangeError::Store(error)) => return Err(error),
                Err(_) => {}
            }
        }
        if last {
            return Ok(lost);
        }
    }
}

async fn reap_leftover(cx: &Context, row: &Execution) {
    let (Some(run), false) = (&row.state.engine_run, row.state.can_reattach) else {
        return;
    };
    if let Some(engine) = cx.registry.get(&row.fixed.engine) {
        engine.adapter.reap(run).await;
    }
}
