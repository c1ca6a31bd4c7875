//! The timer role: work whose time has come becomes due, work whose time has passed ends. Never early by the store's clock.

use crate::role::{Role, Round};
use crate::state::context::Context;
use crate::state::planned::Planned;
use enginehouse_core::lifecycle;
use enginehouse_store::StoreError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Rows looked at in one commit.
const SLICE: usize = 256;
/// The longest sleep: a lost nudge costs at most this.
const SLEEP_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Timers {
    pub(crate) cx: Arc<Context>,
}

impl Role for Timers {
    const NAME: &'static str = "timers";
    const TROUBLE: &'static str = "timers could not be served";
    type Error = StoreError;

    fn again(&self) -> Duration {
        SLEEP_MAX
    }

    async fn nudged(&mut self) {
        self.cx.writes.wake_nudge.notified().await;
    }

    /// Serves what is due, and rests until the next time that something is.
    async fn round(&mut self) -> Result<Round, StoreError> {
        if !self.cx.scheduling.scheduler.lock().may_grant() {
            return Ok(Round::then_rest(SLEEP_MAX));
        }
        loop {
            let now = self.cx.store.now();
            let rows = self.cx.store.due(now, SLICE).await?;
            let full = rows.len() == SLICE;
            let writes: Vec<Planned> = rows
                .into_iter()
                .filter_map(|row| {
                    let transition = lifecycle::wake(&row, now).ok()?;
                    Some(Planned::Transition { row, transition, scheduled: true })
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
        let Some(next) = next else { return Ok(Round::then_rest(SLEEP_MAX)) };
        self.cx.writes.wake_target.store(next.0, Ordering::Release);
        let wait = Duration::from_millis(next.since(self.cx.store.now()).max(1));
        Ok(Round::then_rest(wait.min(SLEEP_MAX)))
    }
}
