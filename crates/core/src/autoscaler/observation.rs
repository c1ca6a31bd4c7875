//! What an auto-scaler may look at: the pool, each engine's load, and the machine, all of it from the past.

use crate::execution::Priority;
use crate::gate::{Gate, Shut};
use crate::limiter::Mode;
use crate::time::{Millis, SECOND, Time};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The world at one instant. `now` may be any clock that does not go backwards; one that does is taken to stand still.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observation {
    pub now: Time,
    pub pool: PoolCounts,
    /// One entry for each engine, also for one without load; the order does not matter.
    pub engines: Vec<EngineLoad>,
    /// How long the job that waits longest has waited.
    pub oldest_wait: Millis,
    /// Start-up times of the workers that became ready since the last step.
    pub started_up: Vec<Millis>,
    /// Launches that failed since the last step, those given up for taking too long included.
    pub failed_launches: u32,
    /// Scheduled and delayed jobs and retries that come due within [`due_span`](super::Autoscaler::due_span).
    pub due_soon: u32,
    /// Workers idle for longer than [`max_idle_time`](super::ScalingRules::max_idle_time).
    pub idle_too_long: u32,
    /// `None`: the machine is not measured, and nothing guards it.
    pub resources: Option<Resources>,
    /// The numbers are older than three ticks.
    pub stale: bool,
}

/// The workers of the pool by state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolCounts {
    /// Healthy and open to new work.
    pub ready: u32,
    /// When each worker that is starting was launched.
    pub starting: Vec<Time>,
    /// Finishing what they have, closed to new work.
    pub draining: u32,
    /// Slots in use, those of draining workers included.
    pub busy_slots: u32,
    /// Slots in use of the ready workers.
    pub busy_ready: u32,
}

/// What one engine has and gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineLoad {
    pub name: String,
    /// Jobs that became due since the last step, by priority in the order of [`Priority::ALL`].
    pub arrivals: [u32; 4],
    /// Runs that succeeded since the last step.
    pub completed: Vec<Completed>,
    pub running: Vec<Running>,
    /// Due jobs that wait, by priority.
    pub queued: [u32; 4],
    pub reach: Reach,
}

impl EngineLoad {
    /// An engine of which nothing is known and that has nothing.
    #[must_use]
    pub fn idle(name: &str) -> EngineLoad {
        EngineLoad {
            name: name.to_owned(),
            arrivals: [0; 4],
            completed: Vec::new(),
            running: Vec::new(),
            queued: [0; 4],
            reach: Reach::default(),
        }
    }

    #[must_use]
    pub fn queued_total(&self) -> u32 {
        self.queued.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// A run that has ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    pub took: Millis,
    pub workflow: Option<Arc<str>>,
}

/// A run that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub since: Time,
    pub workflow: Option<Arc<str>>,
    pub priority: Priority,
}

/// How much an engine takes, and how fast it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    /// Runs at once over all its endpoints; `None`: no bound is known.
    pub limit: Option<u32>,
    /// Speed compared with its healthy one, 1 when well. It is shown; the forecast learns slow runs as what they are.
    pub speed: f64,
    /// Nothing starts there now (breakers, an operator's pause).
    pub parked: bool,
}

impl Default for Reach {
    fn default() -> Self {
        Reach { limit: None, speed: 1.0, parked: false }
    }
}

/// An engine that asked for patience for no longer than this is planned for as if it had not.
const SHORT_FREEZE: Millis = 5 * SECOND;

impl Reach {
    /// Sums up an engine's endpoints; an engine without a gate takes everything.
    #[must_use]
    pub fn of(gate: Option<&Gate>, paused: bool, now: Time) -> Reach {
        let Some(gate) = gate else { return Reach { parked: paused, ..Reach::default() } };
        let mut reach = Reach { limit: Some(0), speed: 0.0, parked: true };
        let mut weight = 0.0;
        for (at, endpoint) in (0u32..).zip(gate.endpoints()) {
            let closed = match gate.shut_to(false, at, 0, now) {
                Some(Shut::Parked { .. } | Shut::Ejected { .. }) => true,
                Some(Shut::Frozen { until }) => until.since(now) > SHORT_FREEZE,
                Some(Shut::Full) | None => false,
            };
            if closed {
                continue;
            }
            reach.parked = false;
            // An experiment is over soon, and the pool is still needed then.
            let limit = match endpoint.limiter.mode() {
                Mode::Cut => gate.rules().max_concurrency,
                _ => gate.limit(at),
            };
            reach.limit = match (reach.limit, limit) {
                (Some(sum), Some(limit)) => Some(sum.saturating_add(limit)),
                _ => None,
            };
            let share = endpoint.limiter.running() as f64 + 1.0;
            reach.speed += endpoint.limiter.speed() * share;
            weight += share;
        }
        reach.speed = if weight > 0.0 && gate.rules().adaptive { reach.speed / weight } else { 1.0 };
        if paused {
            reach = Reach { limit: Some(0), parked: true, ..reach };
        }
        reach
    }
}

/// What the machine has and uses.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes that the service and its workers may use together; `None`: no limit is known.
    pub memory_limit: Option<u64>,
    /// Bytes in use under that limit.
    pub memory_used: u64,
    /// Bytes of it that are not the workers'.
    pub memory_others: u64,
    /// 95th percentile of what one worker's process has in memory beside pages of files; `None` while fewer than five were seen, 0 for workers
    /// that share the service's own process.
    pub worker_memory_p95: Option<u64>,
    /// Workers of which it is known what they use.
    #[serde(default)]
    pub workers_measured: u32,
    /// Processors that may be used; `None`: not known.
    pub cores: Option<f64>,
    /// 95th percentile of the cores one busy worker uses; `None` while fewer than five were seen, 0 for workers
    /// that share the service's own process.
    pub worker_cpu_p95: Option<f64>,
    /// Percent of the last ten seconds in which all work stood still for memory (PSI `full avg10`).
    pub memory_pressure: Option<f64>,
}
