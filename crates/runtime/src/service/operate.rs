//! Engines, workers, the queue and the figures.

use super::caller::Caller;
use super::{Service, average, store_error};
use crate::state::operator_words::OperatorWords;
use crate::state::pause::Pause;
use crate::state::planned::Planned;
use crate::state::settings::RegisteredEngine;
use crate::upkeep::health::KeyCheck;
use crate::upkeep::health::check_endpoint;
use enginehouse_api::{
    AdaptedView, ApiError, BalanceView, BreakerRequest, BreakerView, BreakerWord, CapabilitiesView, Code,
    EndpointView, EngineTest, EngineView, EnginesAnswer, ForcedView, HealthView, LimitView, QueueView,
    ResumeAnswer, Timestamp,
};
use enginehouse_core::breaker::{Breaker, Forced, State};
use enginehouse_core::event::NoteKind;
use enginehouse_core::execution::Status;
use enginehouse_core::gate::{EndpointGate, Gate};
use enginehouse_core::limiter::{Cause, Holding, Lowered};
use enginehouse_core::limits::{NAME_BYTES_MAX, SPAN_MAX};
use enginehouse_core::time::{SECOND, Time};
use enginehouse_store::{DocKind, Filter, ListQuery, Note, Write};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Pending rows whose reasons are counted for the queue's figures, the newest: naming each of a long backlog would mean reading
/// it all.
const EXPLAINED_MAX: usize = 2_000;

impl Service {
    pub async fn engines(&self) -> Result<EnginesAnswer, ApiError> {
        Ok(EnginesAnswer { engines: self.cx.registry.iter().map(|e| self.engine_view(e)).collect() })
    }

    pub async fn engine(&self, name: &str) -> Result<EngineView, ApiError> {
        Ok(self.engine_view(self.registered(name)?))
    }

    /// Starts nothing more on the engine; what runs goes on.
    pub async fn pause_engine(&self, caller: &Caller, name: &str) -> Result<EngineView, ApiError> {
        self.set_paused(caller, name, true).await
    }

    pub async fn resume_engine(&self, caller: &Caller, name: &str) -> Result<EngineView, ApiError> {
        self.set_paused(caller, name, false).await
    }

    async fn set_paused(&self, caller: &Caller, name: &str, paused: bool) -> Result<EngineView, ApiError> {
        let engine = self.registered(name)?;
        let said = json!({ "paused": paused });
        self.operate(caller, engine, said, |words| words.paused = paused).await
    }

    /// Ends the pause of the whole service, in which a restored copy begins.
    pub async fn resume(&self, caller: &Caller) -> Result<ResumeAnswer, ApiError> {
        let resumed = self.cx.take_pause_away().await.map_err(|e| store_error(&e))?;
        if resumed {
            tracing::info!(by = caller.key_id, "resumed: what is due starts");
            let data = json!({ "paused": false, "by": caller.key_id });
            self.tell_all(data).await?;
        }
        Ok(ResumeAnswer { resumed })
    }

    /// Why nothing is started, in words; `None`: it is.
    #[must_use]
    pub fn pause_words(&self) -> Option<String> {
        self.cx.registry.pause().borrow().as_ref().map(Pause::words)
    }

    /// Forces the breaker of one endpoint, or of all, open or closed, or lets it go by what is measured again.
    ///
    /// # Errors
    /// `not_found` for an unknown engine, `invalid_field` for an unknown endpoint or a reason that is missing.
    pub async fn force_breaker(
        &self,
        caller: &Caller,
        name: &str,
        request: BreakerRequest,
    ) -> Result<EngineView, ApiError> {
        let engine = self.registered(name)?;
        let names: Vec<String> = engine.settings.endpoints.iter().map(|e| e.name.clone()).collect();
        let wanted: Vec<String> = match &request.endpoint {
            None => names,
            Some(one) if names.contains(one) => vec![one.clone()],
            Some(_) => {
                let text = format!("engine {name:?} has no such endpoint; it has {}", names.join(", "));
                return Err(ApiError::field(Code::InvalidField, "/endpoint", text));
            }
        };
        let reason = request.reason.trim().to_owned();
        if reason.is_empty() || reason.len() > NAME_BYTES_MAX || reason.chars().any(char::is_control) {
            let text = format!("say why, in 1 to {NAME_BYTES_MAX} bytes; others will read it");
            return Err(ApiError::field(Code::InvalidField, "/reason", text));
        }
        let since = self.cx.store.now();
        let until = match request.span {
            Some(span) if span.0 == 0 || span.0 > SPAN_MAX => {
                return Err(ApiError::field(Code::InvalidField, "/for", "1 ms to 366 days"));
            }
            span => span.map(|span| since.plus(span.0)),
        };
        let forced = match request.state {
            BreakerWord::Auto => None,
            word => {
                let by = caller.key_id.clone();
                Some(Forced { open: word == BreakerWord::Open, reason, by, since, until })
            }
        };
        let said = json!({ "breaker": request.state, "endpoints": wanted, "reason": request.reason });
        self.operate(caller, engine, said, |words| {
            for endpoint in &wanted {
                match &forced {
                    Some(forced) => words.forced.insert(endpoint.clone(), forced.clone()),
                    None => words.forced.remove(endpoint),
                };
            }
        })
        .await
    }

    /// Stores an operator's word on an engine, tells every node of it, and acts on it here.
    async fn operate(
        &self,
        caller: &Caller,
        engine: &RegisteredEngine,
        mut said: Value,
        change: impl Fn(&mut OperatorWords) + Send + Sync,
    ) -> Result<EngineView, ApiError> {
        let name = engine.settings.name.as_str();
        let body = |stored: Option<&Value>| {
            let mut words = OperatorWords::read(stored);
            change(&mut words);
            json!(words)
        };
        self.cx.keep(DocKind::Engine, name, body).await.map_err(|e| store_error(&e))?;
        said["engine"] = json!(name);
        said["by"] = json!(caller.key_id);
        self.tell_all(said).await?;
        Ok(self.engine_view(engine))
    }

    /// Tells every node that an operator's word is stored, and goes by it here.
    async fn tell_all(&self, data: Value) -> Result<(), ApiError> {
        let note = Note { kind: NoteKind::EngineOperated, data };
        let told = self.cx.writes.commit(vec![Planned::Other(Write::Note(note))], 0).await;
        told.map_err(|e| store_error(&e))?;
        self.cx.load_operator_words().await.map_err(|e| store_error(&e))?;
        self.cx.scheduling.grant_nudge.notify_one();
        Ok(())
    }

    /// Asks every endpoint for its health now, and whether it takes its key.
    pub async fn test_engine(&self, name: &str) -> Result<EngineTest, ApiError> {
        let engine = self.registered(name)?;
        for at in 0..engine.settings.endpoints.len() {
            check_endpoint(&self.cx, name, at, KeyCheck::Now).await;
        }
        let endpoints = self.engine_view(engine).endpoints;
        let healthy = endpoints.iter().all(|e| e.health.as_ref().is_some_and(|h| h.healthy != Some(false)));
        Ok(EngineTest { name: name.to_owned(), healthy, endpoints })
    }

    fn registered(&self, name: &str) -> Result<&RegisteredEngine, ApiError> {
        let missing = || ApiError::new(Code::NotFound, format!("no engine is named {name:?}"));
        self.cx.registry.get(name).ok_or_else(missing)
    }

    fn engine_view(&self, engine: &RegisteredEngine) -> EngineView {
        let settings = &engine.settings;
        let state = self.cx.registry.state(&settings.name);
        let can = engine.adapter.capabilities();
        let now = self.cx.store.now();
        let scheduler = self.cx.scheduling.scheduler.lock();
        let occupancy = scheduler.queue.occupancy();
        let fresh = Gate::new(settings.gate_rules(&self.cx.settings), now);
        let gate = scheduler.gates.get(&settings.name).unwrap_or(&fresh);
        let endpoints = (0u32..)
            .zip(&settings.endpoints)
            .zip(gate.endpoints())
            .map(|((at, endpoint), machines)| EndpointView {
                name: endpoint.name.clone(),
                weight: endpoint.weight,
                max_concurrency: settings.max_concurrency,
                running: u64::from(occupancy.of_endpoint(&settings.name, at)),
                breaker: breaker_view(gate, &machines.breaker, now),
                limit: limit_view(gate, machines, &settings.name, at, now),
                balance: BalanceView {
                    run_ms: gate.balancer().run_ms(at),
                    unwell_share: gate.balancer().unwell_share(at),
                    ejected_until: gate.balancer().ejected(at, now).map(Timestamp),
                },
                health: state.checked.get(&(at as usize)).map(|c| HealthView {
                    healthy: c.is_well(),
                    detail: c.detail(),
                    latency_ms: c.health.latency,
                    checked_at: Timestamp(c.at),
                }),
            })
            .collect();
        EngineView {
            name: settings.name.clone(),
            engine_type: settings.engine_type.clone(),
            default: settings.default,
            paused: self.cx.registry.is_paused(&settings.name),
            allow_inline: settings.allow_inline,
            capabilities: CapabilitiesView {
                cancel: can.cancel,
                reattach: can.reattach,
                idempotent_submit: can.idempotent_submit,
                inline: can.inline,
                progress: can.progress,
            },
            endpoints,
            pending: scheduler.queue.depth_of_engine(&settings.name),
            retries_left: gate.retries_left(now).0,
            running: u64::from(occupancy.of_engine(&settings.name)),
        }
    }

    pub async fn queue(&self) -> Result<QueueView, ApiError> {
        let totals = self.cx.store.totals().await.map_err(|e| store_error(&e))?;
        let filter = Filter { statuses: vec![Status::Pending], ..Filter::default() };
        let query = ListQuery { filter, after: None, limit: EXPLAINED_MAX };
        let pending = self.cx.store.list(&query).await.map_err(|e| store_error(&e))?;
        let now = self.cx.store.now();
        let scheduler = self.cx.scheduling.scheduler.lock();
        let mut by_wait_reason: BTreeMap<String, u64> = BTreeMap::new();
        for row in &pending {
            if let Some(wait) = scheduler.explain(row, now) {
                *by_wait_reason.entry(wait.reason.as_str().to_owned()).or_default() += 1;
            }
        }
        let mut by_priority: BTreeMap<String, u64> = BTreeMap::new();
        for (priority, count) in scheduler.queue.due_by_priority() {
            by_priority.insert(priority.as_str().to_owned(), count);
        }
        let due = pending.iter().filter(|row| row.state.due);
        let oldest = due.map(|row| row.state.ready_at).min().map(Timestamp);
        let rates = self.cx.observed.figures.lock().rates(now);
        Ok(QueueView {
            total_queued: totals.accepted,
            total_processed: totals.completed + totals.failed + totals.cancelled,
            total_failed: totals.failed,
            current_queue_size: totals.pending,
            active_executions: totals.running,
            average_processing_time: average(totals.run_ms, totals.started),
            average_wait_time: average(totals.wait_ms, totals.started),
            throughput: rates.throughput,
            oldest,
            wait_percentiles: rates.queue_wait,
            by_engine: scheduler.queue.due_by_engine(),
            by_priority,
            by_wait_reason,
        })
    }
}

fn breaker_view(gate: &Gate, breaker: &Breaker, now: Time) -> BreakerView {
    let (failures, calls) = breaker.counted(&gate.rules().breaker, now);
    let forced = breaker.forced().map(|forced| ForcedView {
        reason: forced.reason.clone(),
        by: forced.by.clone(),
        since: Timestamp(forced.since),
        until: forced.until.map(Timestamp),
    });
    let release = match breaker.state() {
        State::Closed { release } => release.map(|r| r.size),
        _ => None,
    };
    BreakerView {
        state: breaker.word().to_owned(),
        since: (breaker.since() > Time(0)).then_some(Timestamp(breaker.since())),
        next_probe: breaker.next_probe().map(Timestamp),
        failures,
        calls,
        releasing: release,
        forced,
    }
}

fn limit_view(gate: &Gate, endpoint: &EndpointGate, engine: &str, at: u32, now: Time) -> LimitView {
    let told = gate.limit_told(engine, at, now);
    let why = told.as_ref().map(|told| told.why.as_str().to_owned());
    let (text, remedy) = told.map_or((None, None), |told| (Some(told.text), told.remedy));
    LimitView {
        current: gate.limit(at),
        adaptive: gate.rules().adaptive,
        mode: endpoint.limiter.mode().as_str().to_owned(),
        speed: endpoint.limiter.speed(),
        frozen_until: endpoint.frozen_until.filter(|until| now < *until).map(Timestamp),
        why,
        text,
        remedy,
        adapted: gate.holding(at).map(adapted_view),
    }
}

fn adapted_view(holding: &Holding) -> AdaptedView {
    let Lowered { at, from, to, cause } = holding.lowered;
    let slow = match cause {
        Cause::Slow(slow) => Some(slow),
        Cause::Refused => None,
    };
    let ms = |seconds: f64| seconds * SECOND as f64;
    AdaptedView {
        since: Timestamp(holding.since),
        lowered_at: Timestamp(at),
        before: from,
        after: to,
        speed: slow.map(|slow| slow.speed),
        run_ms: slow.and_then(|slow| slow.run_s).map(ms),
        usual_run_ms: slow.map(|slow| ms(slow.usual_s)),
        held_back: holding.held,
        waited_s: holding.waited_s,
    }
}
