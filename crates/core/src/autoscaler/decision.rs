//! What an auto-scaler decided, and everything needed to answer "why so many?".

use super::rules::Policy;
use crate::time::Time;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScalingAction {
    ScaleUp,
    ScaleDown,
    NoAction,
}

impl ScalingAction {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScalingAction::ScaleUp => "scale_up",
            ScalingAction::ScaleDown => "scale_down",
            ScalingAction::NoAction => "no_action",
        }
    }
}

/// The rule that gave the target its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// `min_workers`.
    Floor,
    /// `max_workers`.
    Ceiling,
    /// Jobs wait, and no slot frees in time.
    Waiting,
    /// Slots expected to be in use when a worker launched now becomes useful, with headroom.
    Forecast,
    /// The least headroom over the mean load (square-root staffing).
    Staffing,
    /// There is admissible work and would be no worker.
    FirstWorker,
    /// Demand that comes back after a fixed period.
    Recurrence,
    /// Scheduled work that comes due.
    Due,
    /// What was computed a moment ago is kept.
    Retention,
    /// What was in use a moment ago is kept.
    Occupancy,
    /// Workers are worth holding for bursts.
    Standby,
    /// The decrease is too small to be worth an action.
    Tolerance,
    /// The last increase was too short ago: for one that is not urgent, and in the threshold policy for a decrease.
    UpCooldown,
    /// The last decrease was too short ago.
    DownCooldown,
    /// Nothing is known of the time before: no decrease yet.
    Restart,
    /// Memory in use, or what further workers would need of it.
    GuardMemory,
    /// The same guard before the last workers have shown what memory they use.
    GuardUnmeasured,
    /// What further workers would need of the processors.
    GuardCpu,
    /// All work stands still for memory too often.
    GuardPressure,
    /// The numbers are old: nothing changes but for jobs seen waiting.
    Stale,
    /// Launches fail: the next try has to wait.
    LaunchBackoff,
    /// Utilization is above `scale_up_threshold`.
    ThresholdUp,
    /// Utilization is below `scale_down_threshold`.
    ThresholdDown,
    /// Utilization is between the thresholds.
    ThresholdBand,
    /// Workers were idle for longer than `max_idle_time`.
    MaxIdle,
}

impl Rule {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Floor => "floor",
            Rule::Ceiling => "ceiling",
            Rule::Waiting => "waiting",
            Rule::Forecast => "forecast",
            Rule::Staffing => "staffing",
            Rule::FirstWorker => "first_worker",
            Rule::Recurrence => "recurrence",
            Rule::Due => "due",
            Rule::Retention => "retention",
            Rule::Occupancy => "occupancy",
            Rule::Standby => "standby",
            Rule::Tolerance => "tolerance",
            Rule::UpCooldown => "up_cooldown",
            Rule::DownCooldown => "down_cooldown",
            Rule::Restart => "restart",
            Rule::GuardMemory | Rule::GuardUnmeasured => "guard_memory",
            Rule::GuardCpu => "guard_cpu",
            Rule::GuardPressure => "guard_pressure",
            Rule::Stale => "stale",
            Rule::LaunchBackoff => "launch_backoff",
            Rule::ThresholdUp => "threshold_up",
            Rule::ThresholdDown => "threshold_down",
            Rule::ThresholdBand => "threshold_band",
            Rule::MaxIdle => "max_idle",
        }
    }
}

/// One step's answer. The same observations give the same decisions, bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub at: Time,
    pub policy: Policy,
    pub action: ScalingAction,
    /// Workers that should be ready or starting.
    pub target: u32,
    /// Workers ready or starting now; launches that hang do not count.
    pub current: u32,
    /// For a person, in one sentence.
    pub reason: String,
    /// The probability, by the policy's own forecast, that no job finds the pool full at the instant the forecast is for
    /// if the pool has `target` workers by then; 0 to 1. Low under a ceiling means "this is not enough and I know it".
    pub confidence: f64,
    pub rule: Rule,
    /// Whether workers may be launched for it; without, draining ones may still be taken back.
    pub may_launch: bool,
    pub figures: Figures,
}

/// The numbers a decision came from. Spans are in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub busy_slots: u32,
    pub queued: u32,
    pub oldest_wait_s: f64,
    /// Busy slots of ready workers over their slots, 0 to 1.
    pub utilization: f64,
    /// Expected slots in use at the forecast's instant (N), and the variance of that number (V).
    pub expected: f64,
    pub variance: f64,
    /// Slots wanted, with headroom, and the workers computed from them before retention and bounds.
    pub want: f64,
    pub computed: u32,
    /// Arrivals per second over all engines, and the mean load they make, in slots.
    pub lambda: f64,
    pub load: f64,
    /// How far ahead the forecast looks, or how long a job may simply wait; one of them is 0.
    pub lead_s: f64,
    pub slack_s: f64,
    pub startup_s: f64,
    /// Slots that recurring demand will need, as announced; acted upon only with `predict: on`.
    pub recurring: f64,
    pub due_soon: u32,
    /// Workers that are worth holding for bursts; 0: none beyond `min_workers`.
    pub standby: u32,
    /// Over about the last twenty minutes: late jobs that these would have prevented, and what they would have cost, in seconds
    /// of one worker.
    pub standby_saves: f64,
    pub standby_costs_s: f64,
    /// The most workers the guards allow; `None`: they allow all.
    pub guard: Option<u32>,
    pub engines: Vec<EngineFigures>,
}

/// One engine's part in a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineFigures {
    pub name: String,
    pub running: u32,
    pub queued: u32,
    /// Queued jobs that the engine would take within the lead.
    pub admissible: u32,
    pub limit: Option<u32>,
    pub speed: f64,
    pub parked: bool,
    pub lambda: f64,
    pub mean_run_s: f64,
    /// Expected slots in use at the forecast's instant.
    pub expected: f64,
}
