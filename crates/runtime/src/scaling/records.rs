//! Decisions as evidence: each change of the number of workers with what it was decided on and what came of it.

use crate::state::context::Context;
use crate::state::planned::Planned;
use crate::state::wanted::PoolTotals;
use enginehouse_api::{
    EngineInputs, PolicyWord, ScalingDecisionView, ScalingInputs, ScalingOutcome, ShadowView, Timestamp,
};
use enginehouse_core::autoscaler::{Decision, EngineFigures, Figures, Policy, Rule, ScalingAction};
use enginehouse_core::event::NoteKind;
use enginehouse_core::limits::DECISIONS_MAX;
use enginehouse_core::time::Time;
use enginehouse_store::{DocKind, Note, StoreError, Write};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Records {
    /// The documents that are kept, with their revision, the oldest first.
    kept: VecDeque<(String, u64)>,
    under_way: Option<UnderWay>,
    /// The rule that held growth back when that was last kept.
    held_by: Option<Rule>,
    /// What every node was told last.
    pub(super) wanted: Option<Value>,
    count: u64,
}

/// A change that is being made.
struct UnderWay {
    view: ScalingDecisionView,
    target: u32,
    since: Time,
    before: PoolTotals,
}

impl Records {
    pub(super) async fn load(cx: &Context) -> Result<Records, StoreError> {
        let docs = cx.store.docs(DocKind::Decision).await?;
        let mut kept: Vec<(String, u64)> = docs.into_iter().map(|doc| (doc.id, doc.rev)).collect();
        kept.sort();
        Ok(Records { kept: kept.into(), ..Records::default() })
    }

    /// Keeps what a step decided, and closes what an earlier one began.
    pub(super) async fn follow(
        &mut self,
        cx: &Arc<Context>,
        decision: &Decision,
        beside: Option<&Decision>,
        totals: PoolTotals,
        now: Time,
    ) -> Result<(), StoreError> {
        let figures = &decision.figures;
        let acts = decision.action != ScalingAction::NoAction;
        let settled = figures.starting == 0;
        if let Some(under_way) = self.under_way.take() {
            let reached = settled && figures.ready == under_way.target;
            if reached || acts {
                let outcome = ScalingOutcome {
                    reached_after_ms: reached.then(|| now.since(under_way.since)),
                    launched: totals.launched.saturating_sub(under_way.before.launched),
                    failed: totals.failed.saturating_sub(under_way.before.failed),
                    stopped: totals.stopped.saturating_sub(under_way.before.stopped),
                };
                self.complete(cx, under_way.view, outcome).await?;
            } else {
                self.under_way = Some(under_way);
            }
        }
        let held = held_back(decision);
        if acts {
            let view = self.keep(cx, decision, beside).await?;
            let (current, target, rule) = (decision.current, decision.target, decision.rule.as_str());
            tracing::info!(current, target, rule, "{}", decision.reason);
            self.under_way = Some(UnderWay { view, target, since: now, before: totals });
        } else if held.is_some() && held != self.held_by {
            self.keep(cx, decision, beside).await?;
            tracing::warn!(workers = decision.current, rule = decision.rule.as_str(), "{}", decision.reason);
        }
        self.held_by = held;
        Ok(())
    }

    async fn keep(
        &mut self,
        cx: &Arc<Context>,
        decision: &Decision,
        beside: Option<&Decision>,
    ) -> Result<ScalingDecisionView, StoreError> {
        self.count += 1;
        // Sorts by time; the count tells decisions of one instant apart.
        let id = format!("{:014}-{:06}", decision.at.0, self.count % 1_000_000);
        let mut view = view(decision);
        view.id = Some(id.clone());
        view.shadow = beside.map(shadow);
        cx.write_doc(DocKind::Decision, &id, 0, json!(view)).await?;
        self.kept.push_back((id, 1));
        while self.kept.len() > DECISIONS_MAX {
            let Some((id, rev)) = self.kept.pop_front() else { break };
            let forget = Write::Forget { kind: DocKind::Decision, id, rev };
            cx.writes.commit(vec![Planned::Other(forget)], 0).await?;
        }
        Ok(view)
    }

    /// Keeps what came of a decision, and tells of it.
    async fn complete(
        &mut self,
        cx: &Arc<Context>,
        mut view: ScalingDecisionView,
        outcome: ScalingOutcome,
    ) -> Result<(), StoreError> {
        view.outcome = Some(outcome);
        let id = view.id.clone().unwrap_or_default();
        let data = json!({
            "decision": id, "action": view.action, "from": view.current_worker_count,
            "targetWorkerCount": view.target_worker_count, "reason": view.reason, "rule": view.rule,
            "outcome": outcome,
        });
        let note = Write::Note(Note { kind: NoteKind::ScalingCompleted, data });
        cx.writes.commit(vec![Planned::Other(note)], 0).await?;
        if let Some(kept) = self.kept.iter_mut().rev().find(|(kept, _)| *kept == id) {
            cx.write_doc(DocKind::Decision, &id, kept.1, json!(view)).await?;
            kept.1 += 1;
        }
        Ok(())
    }
}

/// The rule that keeps the pool from growing although more is wanted.
fn held_back(decision: &Decision) -> Option<Rule> {
    let wants = decision.figures.computed > decision.current || decision.figures.queued > 0;
    let holds = matches!(
        decision.rule,
        Rule::Ceiling
            | Rule::GuardMemory
            | Rule::GuardUnmeasured
            | Rule::GuardCpu
            | Rule::GuardPressure
            | Rule::LaunchBackoff
    );
    (wants && holds).then_some(decision.rule)
}

pub(crate) fn policy_word(policy: Policy) -> PolicyWord {
    match policy {
        Policy::LeadTime => PolicyWord::LeadTime,
        Policy::Threshold => PolicyWord::Threshold,
    }
}

fn shadow(decision: &Decision) -> ShadowView {
    ShadowView {
        policy: policy_word(decision.policy),
        action: decision.action.as_str().to_owned(),
        target_worker_count: decision.target,
        reason: decision.reason.clone(),
    }
}

/// A decision as callers see it.
pub(crate) fn view(decision: &Decision) -> ScalingDecisionView {
    ScalingDecisionView {
        id: None,
        at: Timestamp(decision.at),
        policy: policy_word(decision.policy),
        action: decision.action.as_str().to_owned(),
        target_worker_count: decision.target,
        current_worker_count: decision.current,
        reason: decision.reason.clone(),
        rule: decision.rule.as_str().to_owned(),
        confidence: decision.confidence,
        inputs: inputs(&decision.figures),
        shadow: None,
        outcome: None,
    }
}

fn inputs(figures: &Figures) -> ScalingInputs {
    ScalingInputs {
        ready: figures.ready,
        starting: figures.starting,
        draining: figures.draining,
        busy_slots: figures.busy_slots,
        queued: figures.queued,
        oldest_wait_s: figures.oldest_wait_s,
        utilization: figures.utilization,
        expected: figures.expected,
        variance: figures.variance,
        want: figures.want,
        computed: figures.computed,
        lambda: figures.lambda,
        load: figures.load,
        lead_s: figures.lead_s,
        slack_s: figures.slack_s,
        startup_s: figures.startup_s,
        recurring: figures.recurring,
        due_soon: figures.due_soon,
        standby: figures.standby,
        standby_saves: figures.standby_saves,
        standby_costs_s: figures.standby_costs_s,
        guard: figures.guard,
        engines: figures.engines.iter().map(engine_inputs).collect(),
    }
}

fn engine_inputs(engine: &EngineFigures) -> EngineInputs {
    EngineInputs {
        name: engine.name.clone(),
        running: engine.running,
        queued: engine.queued,
        admissible: engine.admissible,
        limit: engine.limit,
        speed: engine.speed,
        parked: engine.parked,
        lambda: engine.lambda,
        mean_run_s: engine.mean_run_s,
        expected: engine.expected,
    }
}
