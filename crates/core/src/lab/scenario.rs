//! What is run: the jobs, the engines and their faults, and the pool's bounds.

use crate::execution::Priority;
use crate::time::{DAY, Millis};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One job of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub arrival: Millis,
    /// What the run takes on a healthy engine, in seconds.
    pub service_s: f64,
    pub engine: Arc<str>,
    pub workflow: Option<Arc<str>>,
    pub priority: Priority,
}

/// How an engine behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineShape {
    /// Runs at once up to which all of them run at full speed; infinite: concurrency does not matter.
    pub knee: f64,
    /// How fast the speed falls beyond the knee: with `gamma` above 0 more runs mean less done in all.
    pub gamma: f64,
    /// Speed of every run whatever the concurrency; 1 is healthy.
    pub speed: f64,
}

impl Default for EngineShape {
    fn default() -> Self {
        EngineShape { knee: f64::INFINITY, gamma: 0.5, speed: 1.0 }
    }
}

impl EngineShape {
    /// The speed of each of `running` runs.
    #[must_use]
    pub fn speed_of(&self, running: usize) -> f64 {
        let running = running as f64;
        if running <= self.knee {
            self.speed
        } else {
            self.speed * (self.knee / running).powf(1.0 + self.gamma)
        }
    }
}

/// An engine becomes another; what is `None` stays.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineChange {
    pub at: Millis,
    pub engine: Arc<str>,
    pub knee: Option<f64>,
    pub gamma: Option<f64>,
    pub speed: Option<f64>,
}

/// The world around the policy. The policy is told the bounds, the slots and the tick, and nothing of the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub name: String,
    pub horizon: Millis,
    pub tick: Millis,
    /// The policy is also asked between ticks, a little after a job found no free slot, as the service does it.
    pub between_ticks: bool,
    /// The wait that counts as late.
    pub slo_wait: Millis,
    pub min_workers: u32,
    pub max_workers: u32,
    pub slots: u32,
    /// From the launch of a worker until it is ready.
    pub startup: Millis,
    pub engines: BTreeMap<Arc<str>, EngineShape>,
    pub changes: Vec<EngineChange>,
}

/// A scenario or trace that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScenarioError(pub String);

/// The longest trace.
const HORIZON_MAX: Millis = 62 * DAY;

impl Scenario {
    /// Refuses what cannot be run; jobs must be in the order of their arrival.
    pub fn check(&self, jobs: &[Job]) -> Result<(), ScenarioError> {
        let refuse = |text: String| Err(ScenarioError(text));
        if self.tick == 0 || self.horizon > HORIZON_MAX {
            return refuse("the tick must be longer than nothing and the horizon at most 62 days".to_owned());
        }
        if self.max_workers == 0 || self.min_workers > self.max_workers || self.slots == 0 {
            return refuse(
                "needs at least one worker with one slot, and min_workers <= max_workers".to_owned(),
            );
        }
        for (name, shape) in &self.engines {
            check_shape(name, shape)?;
        }
        for change in &self.changes {
            let Some(shape) = self.engines.get(&change.engine) else {
                return refuse(format!(
                    "engine_events name the engine {:?}, which is not among the engines",
                    change.engine
                ));
            };
            check_shape(&change.engine, &shape.changed(change))?;
        }
        for (row, job) in jobs.iter().enumerate() {
            if !self.engines.contains_key(&job.engine) {
                return refuse(format!(
                    "job {row} is for the engine {:?}, which is not among the engines",
                    job.engine
                ));
            }
            if !(job.service_s >= 0.0 && job.service_s <= HORIZON_MAX as f64) || job.arrival > HORIZON_MAX {
                return refuse(format!(
                    "job {row} arrives or runs for longer than 62 days, or less than nothing"
                ));
            }
            if row > 0 && jobs[row - 1].arrival > job.arrival {
                return refuse(format!(
                    "job {row} arrives before the one above it; the trace must be sorted"
                ));
            }
        }
        Ok(())
    }
}

fn check_shape(name: &str, shape: &EngineShape) -> Result<(), ScenarioError> {
    let sound =
        shape.knee >= 1.0 && (0.0..=10.0).contains(&shape.gamma) && (0.01..=100.0).contains(&shape.speed);
    if sound {
        return Ok(());
    }
    Err(ScenarioError(format!(
        "engine {name:?}: knee must be at least 1, gamma 0 to 10, and speed 0.01 to 100"
    )))
}

impl EngineShape {
    #[must_use]
    pub(super) fn changed(self, change: &EngineChange) -> EngineShape {
        EngineShape {
            knee: change.knee.unwrap_or(self.knee),
            gamma: change.gamma.unwrap_or(self.gamma),
            speed: change.speed.unwrap_or(self.speed),
        }
    }
}
