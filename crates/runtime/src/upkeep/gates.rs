//! The gate keeper: what time brings to breakers and limits, telling and storing their changes, failing what will not wait.
//!
//! Only the scheduler's node decides. The others read what it stored, so that every node shows the same.

use crate::role::{Role, Round};
use crate::seal::Column;
use crate::state::context::Context;
use crate::state::planned::Planned;
use crate::state::scheduler::Scheduler;
use enginehouse_core::balance;
use enginehouse_core::breaker::BreakerChange;
use enginehouse_core::event::NoteKind;
use enginehouse_core::execution::Execution;
use enginehouse_core::gate::{Gate, GateChange, Shut};
use enginehouse_core::lifecycle;
use enginehouse_core::queue::Waited;
use enginehouse_core::time::Time;
use enginehouse_store::{DocKind, Note, StoreError, Write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const TICK: Duration = Duration::from_secs(1);
/// How often what was learned is stored although no breaker changed.
const STORE_EVERY: Duration = Duration::from_secs(10);
/// How often a node that does not decide reads what the scheduler stored.
const READ_EVERY: Duration = Duration::from_secs(5);
/// Executions of one engine that fail fast in one turn.
const FAIL_FAST_AT_ONCE: usize = 256;

pub(crate) struct GateKeeper {
    cx: Arc<Context>,
    /// What was stored last of each engine.
    stored: BTreeMap<String, Value>,
    /// When what was learned is to be stored next although no breaker changed, or to be read from the scheduler's node.
    next_store: Instant,
    next_read: Instant,
}

impl Role for GateKeeper {
    const NAME: &'static str = "gates";
    const TROUBLE: &'static str = "what is known of the engines could not be stored or read";
    type Error = StoreError;

    fn first(&self) -> Duration {
        TICK
    }

    fn again(&self) -> Duration {
        TICK
    }

    async fn nudged(&mut self) {
        self.cx.scheduling.gate_nudge.notified().await;
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        let round = Round::then_rest(TICK);
        let Some(changes) = self.turn_gates() else {
            if Instant::now() >= self.next_read {
                self.next_read = Instant::now() + READ_EVERY;
                self.cx.load_gates().await?;
            }
            return Ok(round);
        };
        self.fail_fast().await;
        if changes.is_empty() && Instant::now() < self.next_store {
            return Ok(round);
        }
        self.next_store = Instant::now() + STORE_EVERY;
        if let Err(error) = self.store(&changes).await {
            self.cx.scheduling.scheduler.lock().gate_changes.extend(changes);
            return Err(error);
        }
        Ok(match changes.len() {
            0 => round,
            count => round.did(format!("{count} changes of circuit breakers stored")),
        })
    }
}

impl GateKeeper {
    pub(crate) fn new(cx: Arc<Context>) -> GateKeeper {
        let now = Instant::now();
        GateKeeper { cx, stored: BTreeMap::new(), next_store: now + STORE_EVERY, next_read: now }
    }

    /// Stores every gate that differs from what was stored last, and tells of the changes.
    async fn store(&mut self, changes: &[GateChange]) -> Result<(), StoreError> {
        let docs = self.cx.scheduling.scheduler.lock().gates.docs();
        for (engine, doc) in docs {
            let body = json!(doc);
            if self.stored.get(&engine) != Some(&body) {
                self.cx.keep(DocKind::Gate, &engine, |_| body.clone()).await?;
                self.stored.insert(engine, body);
            }
        }
        let notes = changes.iter().filter_map(|change| self.note(change));
        let writes: Vec<Planned> = notes.map(|note| Planned::Other(Write::Note(note))).collect();
        if !writes.is_empty() {
            self.cx.writes.commit(writes, 0).await?;
        }
        Ok(())
    }

    /// The service-wide event of a change.
    fn note(&self, change: &GateChange) -> Option<Note> {
        let (kind, until, failures) = match &change.change {
            BreakerChange::Opened { until, failures } => {
                (NoteKind::BreakerOpened, Some(*until), Some(*failures))
            }
            BreakerChange::HalfOpened => (NoteKind::BreakerHalfOpen, None, None),
            BreakerChange::Closed => (NoteKind::BreakerClosed, None, None),
            BreakerChange::Released | BreakerChange::Forced { .. } => return None,
        };
        let endpoint = self.cx.registry.endpoint_name(&change.engine, change.endpoint);
        let data = json!({
            "engine": change.engine, "endpoint": endpoint, "until": until.map(|at| at.0), "failures": failures,
        });
        Some(Note { kind, data })
    }

    /// Ends what would rather fail than wait for an engine all of whose breakers are open.
    async fn fail_fast(&self) {
        let mut keys = Vec::new();
        {
            let now = self.cx.store.now();
            let scheduler = self.cx.scheduling.scheduler.lock();
            for engine in self.cx.registry.iter() {
                let name = &engine.settings.name;
                if matches!(
                    scheduler.queue.shut(&scheduler.gates, name, None, now),
                    Some(Shut::Parked { .. })
                ) {
                    let why = self.why_parked(name, scheduler.gates.get(name));
                    let keys_of = scheduler.queue.impatient(name, FAIL_FAST_AT_ONCE);
                    keys.extend(keys_of.into_iter().map(|key| (key, why.clone())));
                }
            }
        }
        for (key, why) in keys {
            let message = self.cx.payloads.sealer.seal(key, Column::Failure, why.as_bytes()).to_vec();
            let decide = |row: &Execution, now| lifecycle::fail_fast(row, message.clone(), now);
            // Whatever stood in the way, the next turn meets the row as it is then.
            let _ = self.cx.change(key, true, decide).await;
        }
    }

    /// Why every breaker of an engine is open, in words.
    fn why_parked(&self, name: &str, gate: Option<&Gate>) -> String {
        let checked = self.cx.registry.state(name).checked;
        let ill = checked.values().map(|c| &c.health).find(|health| health.healthy == Some(false));
        let at_work = || gate.and_then(|gate| gate.endpoints().find_map(|e| e.last_unwell.clone()));
        match ill.map(|health| health.detail.clone()).or_else(at_work) {
            Some(cause) => format!("every circuit breaker of the engine {name} is open; last: {cause}"),
            None => format!("every circuit breaker of the engine {name} is open"),
        }
    }

    /// What time brings to the gates, and every change since the last turn; `None` while another node schedules.
    fn turn_gates(&self) -> Option<Vec<GateChange>> {
        let now = self.cx.store.now();
        let mut scheduler = self.cx.scheduling.scheduler.lock();
        if !scheduler.may_grant() {
            return None;
        }
        scheduler.forget_calls_without_lease();
        let ticked = scheduler.gates.tick(now);
        let compared = scheduler.gates.compare(now);
        let Scheduler { queue, gates, .. } = &mut *scheduler;
        queue.charge_running(now);
        let waited = queue.charge_limits(gates, now);
        let mut changes = std::mem::take(&mut scheduler.gate_changes);
        changes.extend(ticked);
        drop(scheduler);
        for Waited { engine, endpoint, seconds } in waited {
            self.cx.observed.telemetry.limited(
                &engine,
                self.cx.registry.endpoint_name(&engine, endpoint),
                seconds,
            );
        }
        changes.iter().for_each(|change| self.tell(change, now));
        compared.iter().for_each(|(engine, at, change)| self.tell_compared(engine, *at, *change, now));
        self.cx.scheduling.grant_nudge.notify_one();
        Some(changes)
    }

    fn tell(&self, change: &GateChange, now: Time) {
        let (engine, endpoint) =
            (&change.engine, self.cx.registry.endpoint_name(&change.engine, change.endpoint));
        match &change.change {
            BreakerChange::Opened { until, failures } => tracing::warn!(
                engine,
                endpoint,
                failures,
                probe_in_ms = until.since(now),
                "its circuit breaker opened: its work is parked and burns no attempt"
            ),
            BreakerChange::HalfOpened => {
                tracing::info!(engine, endpoint, "its circuit breaker lets one attempt try");
            }
            BreakerChange::Closed => {
                tracing::info!(engine, endpoint, "its circuit breaker closed: work is released in groups");
            }
            BreakerChange::Released => tracing::info!(engine, endpoint, "all of its work is released"),
            BreakerChange::Forced { open } => {
                tracing::warn!(engine, endpoint, open, "an operator's word on its circuit breaker");
            }
        }
    }

    fn tell_compared(&self, engine: &str, at: u32, change: balance::BalanceChange, now: Time) {
        let endpoint = self.cx.registry.endpoint_name(engine, at);
        match change {
            balance::BalanceChange::Ejected { until, cause } => tracing::warn!(
                engine,
                endpoint,
                cause = cause.as_str(),
                for_ms = until.since(now),
                "it is far worse than the engine's other endpoints and gets nothing new for a while"
            ),
            balance::BalanceChange::Trial => {
                tracing::info!(engine, endpoint, "one attempt finds out how it is now")
            }
            balance::BalanceChange::Back => {
                tracing::info!(engine, endpoint, "it is like the other endpoints again and gets its share");
            }
        }
    }
}
