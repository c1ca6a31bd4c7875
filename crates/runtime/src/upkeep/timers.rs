//! The timer role: work whose time has come becomes due, work whose time has passed ends. Never early by the store's clock.

use crate::state::context::Context;
use crate::state::planned::Planned;
use enginehouse_core::lifecycle;
use enginehouse_store::StoreError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Rows looked at in one commit.
const SLICE: usize = 256;
/// The longest sleep: a lost nudge costs at most this.
const SLEEP_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Timers {
    pub(crate) cx: Arc<Context>,
}

impl Timers {
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "timers could not be served; trying again");
                    SLEEP_MAX
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.cx.writes.wake_nudge.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Serves what is due and tells how long to sleep.
    async fn round(&self) -> Result<Duration, StoreError> {
        if !self.cx.scheduling.scheduler.lock().may_grant() {
            return Ok(SLEEP_MAX);
        }
        loop {
            let now = self.cx.store.now();
            let rows = self.cx.store.due(now, SLICE).await?;
            let full = rows.len() == SLICE;
            let writes: Vec<Planned> = rows
                .into_iter()
                .filter_map(|row| {
                    let transition = lifecycle::wake(&row, now).ok()?;
                    Some(Planned::Change { row, transition, scheduled: true })
                })
                .collect();
            let served = !writes.is_empty();
            if served {
                self.cx.writes.commit(writes, 0).await?;
            }
            if !full || !served {
                break;
            }
        }
        // From here on an earlier time that is committed wakes this role; what was committed before is in the answer.
        self.cx.writes.wake_target.store(i64::MAX, Ordering::Release);
        let next = self.cx.store.next_wake().await?;
        let Some(next) = next else { return Ok(SLEEP_MAX) };
        self.cx.writes.wake_target.store(next.0, Ordering::Release);
        let wait = Duration::from_millis(next.since(self.cx.store.now()).max(1));
        Ok(wait.min(SLEEP_MAX))
    }
}
