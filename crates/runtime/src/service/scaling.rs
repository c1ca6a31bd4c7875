//! How many workers there are, why, and by which rules.

use super::caller::Caller;
use super::{Service, store_error};
use crate::scaling::records::{policy_word, view};
use crate::state::planned::Planned;
use crate::state::scaling::changed;
use enginehouse_api::{
    ApiError, Code, PredictWord, ScalingChanged, ScalingDecisionView, ScalingDecisionsAnswer, ScalingRequest,
    ScalingRulesView, ScalingView, Span, Timestamp,
};
use enginehouse_core::autoscaler::{Policy, Predict, ScalingRules};
use enginehouse_core::event::NoteKind;
use enginehouse_core::limits::{NAME_BYTES_MAX, SPAN_MAX};
use enginehouse_store::{DocKind, Note, Write};
use serde_json::json;

impl Service {
    /// The rules in force, the workers there are, and what the scaler decided last.
    pub fn scaling(&self) -> ScalingView {
        self.cx.expire_scaling_change();
        let (busy, slots) = {
            let scheduler = self.cx.scheduling.scheduler.lock();
            let workers = scheduler.queue.workers();
            let slots: u32 = workers.values().filter(|w| w.open).map(|w| w.capacity).sum();
            (u32::try_from(scheduler.queue.occupancy().len()).unwrap_or(u32::MAX), slots)
        };
        let count = |status: &[&str]| {
            let ports = self.cx.workers.ports.lock();
            u32::try_from(ports.values().filter(|port| status.contains(&port.status())).count())
                .unwrap_or(u32::MAX)
        };
        let scaling = self.cx.workers.scaling.lock();
        ScalingView {
            target: scaling
                .decision
                .as_ref()
                .map_or(self.cx.workers.wanted.lock().count, |decision| decision.target),
            ready: count(&["idle", "busy", "overloaded"]),
            starting: count(&["starting"]),
            draining: count(&["draining"]),
            busy_slots: busy,
            slots,
            rules: rules_view(&scaling.rules, scaling.shadow),
            changed: scaling.change.clone(),
            startup_time_ms: scaling.startup,
            decision: scaling.decision.as_ref().map(view),
            shadow: scaling.shadow_decision.as_ref().map(view),
        }
    }

    /// Decisions that changed something or were held back, the newest first, at most `limit`.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn scaling_decisions(&self, limit: usize) -> Result<ScalingDecisionsAnswer, ApiError> {
        let mut docs = self.cx.store.docs(DocKind::Decision).await.map_err(|e| store_error(&e))?;
        docs.sort_by(|a, b| b.id.cmp(&a.id));
        let views =
            docs.into_iter().take(limit).map(|doc| serde_json::from_value::<ScalingDecisionView>(doc.body));
        let decisions: Result<Vec<ScalingDecisionView>, _> = views.collect();
        let decisions = decisions
            .map_err(|e| ApiError::new(Code::Internal, format!("a stored decision cannot be read: {e}")))?;
        Ok(ScalingDecisionsAnswer { decisions })
    }

    /// Puts other rules in the place of the configured ones, for a time or until told otherwise.
    ///
    /// # Errors
    /// `invalid_field` for rules that make no sense; then nothing changes.
    pub async fn set_scaling(
        &self,
        caller: &Caller,
        mut request: ScalingRequest,
    ) -> Result<ScalingView, ApiError> {
        let (reason, span) = (request.reason.take(), request.span.take());
        let empty = request == ScalingRequest::default();
        if let Some(reason) = &reason
            && (reason.trim().is_empty()
                || reason.len() > NAME_BYTES_MAX
                || reason.chars().any(char::is_control))
        {
            let text = format!("must be 1 to {NAME_BYTES_MAX} bytes of text without control characters");
            return Err(ApiError::field(Code::InvalidField, "/reason", text));
        }
        if span.is_some_and(|span| span.0 == 0 || span.0 > SPAN_MAX) {
            return Err(ApiError::field(Code::InvalidField, "/for", "must be from 1 ms to 366 days"));
        }
        let configured = &self.cx.settings.scaling;
        changed(&configured.rules, configured.shadow, &request).map_err(|error| {
            let pointer = format!("/{}", camel(error.field));
            ApiError::field(Code::InvalidField, &pointer, error.message.clone())
        })?;
        let now = self.cx.store.now();
        request.reason.clone_from(&reason);
        let change = (!empty).then(|| ScalingChanged {
            rules: request.clone(),
            by: caller.key_id.clone(),
            since: Timestamp(now),
            until: span.map(|span| Timestamp(now.plus(span.0))),
        });
        self.cx.keep_scaling_change(change.as_ref()).await.map_err(|e| store_error(&e))?;
        let data = json!({
            "rules": request, "reason": reason, "by": caller.key_id, "forMs": span.map(|span| span.0),
        });
        let note = Write::Note(Note { kind: NoteKind::ScalingOperated, data });
        self.cx.writes.commit(vec![Planned::Other(note)], 0).await.map_err(|e| store_error(&e))?;
        self.cx.apply_scaling_change(change);
        self.cx.workers.scaler_nudge.notify_one();
        Ok(self.scaling())
    }
}

fn rules_view(rules: &ScalingRules, shadow: Option<Policy>) -> ScalingRulesView {
    ScalingRulesView {
        policy: policy_word(rules.policy),
        shadow: shadow.map(policy_word),
        min_workers: rules.min_workers,
        max_workers: rules.max_workers,
        worker_capacity: rules.worker_capacity,
        target_utilization: rules.target_utilization,
        scale_up_threshold: rules.scale_up_threshold,
        scale_down_threshold: rules.scale_down_threshold,
        scale_up_cooldown: Span(rules.scale_up_cooldown),
        scale_down_cooldown: Span(rules.scale_down_cooldown),
        worker_startup_time: Span(rules.worker_startup_time),
        slo_wait: Span(rules.slo_wait),
        late_cost: rules.late_cost,
        tick_interval: Span(rules.tick_interval),
        retention: Span(rules.retention),
        tolerance: rules.tolerance,
        predict: match rules.predict {
            Predict::On => PredictWord::On,
            Predict::Shadow => PredictWord::Shadow,
            Predict::Off => PredictWord::Off,
        },
    }
}

/// `min_workers` as `minWorkers`.
fn camel(field: &str) -> String {
    let mut name = String::with_capacity(field.len());
    let mut raise = false;
    for letter in field.chars() {
        if letter == '_' {
            raise = true;
        } else if raise {
            name.push(letter.to_ascii_uppercase());
            raise = false;
        } else {
            name.push(letter);
        }
    }
    name
}
