//! What came and what ended since it was looked at last, by engine: what the auto-scaler learns from.

use enginehouse_core::autoscaler::Completed;
use enginehouse_core::event::EventType;
use enginehouse_core::execution::{Execution, Priority, State, Status};
use enginehouse_core::limits::TRAFFIC_ENDS_MAX;
use enginehouse_core::time::Millis;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    engines: BTreeMap<String, EngineTraffic>,
}

#[derive(Debug, Default)]
pub(crate) struct EngineTraffic {
    /// Executions that became due, by priority.
    pub(crate) arrivals: [u32; 4],
    /// Runs that succeeded.
    pub(crate) completed: Vec<Completed>,
}

impl Traffic {
    pub(crate) fn arrived(&mut self, engine: &str, priority: Priority) {
        let arrivals = &mut self.of(engine).arrivals[priority as usize];
        *arrivals = arrivals.saturating_add(1);
    }

    /// A run ended well after `took`. Beyond the bound a run more teaches nothing.
    pub(crate) fn completed(&mut self, engine: &str, workflow: Option<&str>, took: Millis) {
        let completed = &mut self.of(engine).completed;
        if completed.len() < TRAFFIC_ENDS_MAX {
            completed.push(Completed { took, workflow: workflow.map(Arc::from) });
        }
    }

    /// Takes in a change that was stored.
    pub(crate) fn moved(&mut self, before: &Execution, next: &State, event: EventType) {
        let due = |state: &State| state.status == Status::Pending && state.due;
        if due(next) && !due(&before.state) {
            self.arrived(&before.fixed.engine, next.priority);
        }
        if event == EventType::ExecutionCompleted
            && let (Some(since), Some(ended)) = (before.state.run_started_at, next.ended_at)
        {
            self.completed(&before.fixed.engine, Some(&before.fixed.workflow), ended.since(since));
        }
    }

    fn of(&mut self, engine: &str) -> &mut EngineTraffic {
        self.engines.entry(engine.to_owned()).or_default()
    }

    /// What was gathered; the next look begins with nothing.
    pub(crate) fn take(&mut self) -> BTreeMap<String, EngineTraffic> {
        std::mem::take(&mut self.engines)
    }
}
