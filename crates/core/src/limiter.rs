//! The adaptive concurrency limit of one endpoint: a degrading engine gets less work before it fails.
//!
//! Speed is what the endpoint completes compared with what its own healthy run times say it should have completed of the
//! same runs at the same ages. Runs that have not ended count, so a stuck engine is seen before anything ends. A slow
//! endpoint is cut back *as an experiment*: if the calls that are left are faster by as much as concurrency explains, the limit
//! stays, and is raised again and again to see whether it should; if not, the slowness comes from elsewhere and the cut is
//! undone. What a cut may cost is bounded, and where nothing is clear there is no limit. That policy with its constants was
//! measured on recorded and made traffic (`docs/decisions/046-limits-that-do-no-harm.md`).
//! Beside it stands what needs no statistics: an answer that says "too much" (429, 503) cuts at once by half
//! (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989).
//!
//! Invariants: the limit in force is at least `min` and at most `max`; nothing here is infinite or not a number.

mod account;
mod climb;
mod judge;
mod patience;
mod trial;

use crate::id::Key;
use crate::limits::RETRY_AFTER_MAX;
use crate::run_times::RunTimes;
use crate::time::{Millis, SECOND, Time};
use account::Account;
pub use account::{Cause, Holding, Lowered, Slowness};
use climb::Climb;
use judge::{Challenge, SPEED_MEMORY};
use patience::Patience;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use trial::{Ages, Stretch, Tick};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimiterRules {
    /// The limit never goes below this; at least 1.
    pub min: u32,
    /// The most that can be asked of it: what is configured, or the slots of all workers. `None`: no bound is known, and a
    /// limit that has grown past half as much again as once was too much is given up.
    pub max: Option<u32>,
    /// Speed below which the endpoint counts as slow, 0 to 1.
    pub sick: f64,
    /// Expected completions after which a verdict is taken.
    pub epoch: f64,
}

impl Default for LimiterRules {
    fn default() -> Self {
        LimiterRules { min: 1, max: None, sick: 0.55, epoch: 20.0 }
    }
}

/// What was learned about how much the endpoint can do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing speaks against more.
    Open,
    /// Cut back to find out whether concurrency is the cause.
    Cut,
    /// Concurrency is the cause: the limit stays and is probed upwards.
    Hold,
    /// It is slow whatever the concurrency.
    External,
}

impl Mode {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Open => "open",
            Mode::Cut => "cut",
            Mode::Hold => "hold",
            Mode::External => "external",
        }
    }
}

/// How a call ended, as far as the endpoint's load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// A run of its duration.
    Answered,
    /// The engine said that it is too much.
    Overloaded { retry_after: Option<Millis> },
    /// For reasons of its own, such as a workflow that fails: its time says nothing about the endpoint.
    Apart,
    /// Not by itself: cancelled, interrupted, out of time. It would have gone on.
    Unknown,
}

/// A running call.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Running {
    since: Time,
    /// Where the progress clock stood when it began.
    progress: f64,
    /// Completions that were expected of it so far.
    expected: f64,
}

/// See the module's text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limiter {
    #[serde(skip)]
    rules: LimiterRules,
    healthy: RunTimes,
    mode: Mode,
    /// In force in `cut` and `hold`.
    limit: f64,
    /// Reaching this in `hold` ends it: the endpoint once took as much.
    ceiling: f64,
    /// Calls at once that were too much last time; growth is fast below it and slow around it.
    wall: Option<f64>,
    step: f64,
    /// Completions expected and seen, with forgetting.
    expected: f64,
    completed: f64,
    speed: f64,
    epoch: Stretch,
    /// The time before the last cut.
    #[serde(default)]
    slow: Stretch,
    /// How irregularly runs end here: the variance of completions over that of a Poisson process, at least 1.
    #[serde(default = "full_pace")]
    spread: f64,
    /// Epochs in which it was open and nothing was wrong.
    #[serde(default)]
    well_epochs: u32,
    /// Seconds by which the experiment under way has put off what waits.
    #[serde(default)]
    put_off_s: f64,
    #[serde(default)]
    challenge: Challenge,
    /// The limit that an earlier cut has proven, while a deeper one is tried.
    #[serde(default)]
    proven: Option<f64>,
    /// Completions expected and seen in the last epoch in which nothing was wrong.
    #[serde(default)]
    last_epoch: (f64, f64),
    /// When more calls that complete no more are a reason for another experiment, and the pause after that.
    #[serde(default)]
    crowded_at: Time,
    #[serde(default)]
    crowded_s: f64,
    /// After an external slowness: how long until the next experiment, in seconds, and when that is.
    retry_s: f64,
    retry_at: Time,
    calm_s: f64,
    grow_after: Time,
    last_cut: Option<Time>,
    #[serde(default)]
    account: Account,
    #[serde(skip)]
    progress: f64,
    /// How fast the progress clock goes until the next tick.
    #[serde(skip, default = "full_pace")]
    pace: f64,
    /// Completions expected since the last tick of calls that have ended since.
    #[serde(skip)]
    of_ended: f64,
    /// What calls did at each age since the last tick.
    #[serde(skip)]
    ages: Ages,
    #[serde(skip)]
    running: BTreeMap<Key, Running>,
    /// Of this tick: completed runs in seconds, and calls that were answered.
    #[serde(skip)]
    just: Vec<f64>,
    #[serde(skip)]
    last_tick: Option<Time>,
    /// Answered calls since the limit last grew.
    answered: f64,
    dirty: u32,
    #[serde(default)]
    climb: Climb,
    #[serde(default)]
    patience: Patience,
}

/// Runs to learn before speed is judged.
const WARM: u64 = 50;
/// While fewer runs than this have ended, those that have not count as well. Later they would hide that an engine gets slow.
const YOUNG: u64 = 300;
/// Runs end as regularly as chance lets them.
const STEADY: f64 = 1.05;
/// Completed runs kept within one tick; more say nothing new about the speed.
const JUST_MAX: usize = 4_096;
/// A tick that comes later than this is taken as this long: the time between was not observed.
const TICK_MAX_S: f64 = 10.0;

fn full_pace() -> f64 {
    1.0
}

impl Limiter {
    #[must_use]
    pub fn new(rules: LimiterRules) -> Limiter {
        Limiter {
            rules,
            healthy: RunTimes::default(),
            mode: Mode::Open,
            limit: f64::from(rules.max.unwrap_or(rules.min.max(1))),
            ceiling: 0.0,
            wall: None,
            step: 1.0,
            expected: 0.0,
            completed: 0.0,
            speed: 1.0,
            epoch: Stretch::default(),
            slow: Stretch::default(),
            spread: 1.0,
            well_epochs: 0,
            put_off_s: 0.0,
            challenge: Challenge::default(),
            proven: None,
            last_epoch: (0.0, 0.0),
            crowded_at: Time(0),
            crowded_s: judge::CROWDED_FIRST_S,
            retry_s: judge::EXPERIMENT_FIRST_S,
            retry_at: Time(0),
            calm_s: 0.0,
            grow_after: Time(0),
            last_cut: None,
            account: Account::default(),
            progress: 0.0,
            pace: full_pace(),
            of_ended: 0.0,
            ages: Ages::default(),
            running: BTreeMap::new(),
            just: Vec::new(),
            last_tick: None,
            answered: 0.0,
            dirty: 0,
            climb: Climb::default(),
            patience: Patience::default(),
        }
    }

    /// Takes up rules; also makes a limiter that was read from a document usable.
    pub fn set_rules(&mut self, rules: LimiterRules) {
        self.rules = rules;
        self.healthy.rebuild();
    }

    /// Calls at once that are in force; `None`: as many as are configured.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        match self.mode {
            Mode::Open | Mode::External => None,
            Mode::Cut | Mode::Hold => {
                let most = self.rules.max.unwrap_or(u32::MAX);
                Some((self.limit.clamp(0.0, 1e9) as u32).clamp(self.rules.min.max(1), most.max(1)))
            }
        }
    }

    /// What the endpoint completes compared with what it did while it was well.
    #[must_use]
    pub fn speed(&self) -> f64 {
        self.speed.clamp(0.0, 10.0)
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Since when a call runs.
    #[must_use]
    pub fn since(&self, key: Key) -> Option<Time> {
        self.running.get(&key).map(|run| run.since)
    }

    pub fn started(&mut self, key: Key, now: Time) {
        let progress = self.progress_at(now);
        self.running.entry(key).or_insert(Running { since: now, progress, expected: 0.0 });
    }

    /// Where the progress clock stands: it slows with the endpoint, so that a run on a slow one is not taken for older than
    /// it is.
    fn progress_at(&self, now: Time) -> f64 {
        let since = self.last_tick.map_or(0.0, |tick| now.since(tick) as f64 / SECOND as f64);
        self.progress + self.pace * since.min(TICK_MAX_S)
    }

    /// The completions that a healthy endpoint would have shown of this run since the last tick.
    fn expected_of(&self, run: &Running, progress: f64) -> f64 {
        let from = (self.progress - run.progress).max(0.0);
        let hazard = self.healthy.hazard(from, (progress - run.progress).max(from));
        // The clock goes as slowly as the endpoint does; a healthy one would get through the same ages so much sooner.
        let hazard = hazard / self.pace;
        if hazard.is_finite() { hazard.max(0.0) } else { 0.0 }
    }

    /// Takes in the ages that a call had since the last tick; gives its age.
    fn aged(&mut self, run: &Running, now: Time) -> f64 {
        let age = now.since(run.since) as f64 / SECOND as f64;
        let tick = self.last_tick.map_or(0.0, |tick| now.since(tick) as f64 / SECOND as f64);
        self.ages.spend(age - tick.min(TICK_MAX_S), age);
        age
    }

    pub fn ended(&mut self, key: Key, how: CallEnd, now: Time) {
        let at_once = self.running.len().max(1) as f64;
        let progress = self.progress_at(now);
        let run = self.running.remove(&key);
        if let Some(run) = &run {
            let age = self.aged(run, now);
            if how == CallEnd::Answered {
                self.ages.end(age);
            }
        }
        match how {
            CallEnd::Unknown => self.of_ended += run.map_or(0.0, |run| self.expected_of(&run, progress)),
            CallEnd::Apart => {
                let expected = run.map_or(0.0, |run| run.expected);
                self.expected = (self.expected - expected).max(0.0);
                self.epoch.expected = (self.epoch.expected - expected).max(0.0);
            }
            CallEnd::Overloaded { retry_after } => self.overloaded(at_once, run, retry_after, now),
            CallEnd::Answered => {
                self.answered += 1.0;
                self.of_ended += run.map_or(0.0, |run| self.expected_of(&run, progress));
                if let Some(run) = run
                    && self.just.len() < JUST_MAX
                {
                    self.just.push(now.since(run.since) as f64 / SECOND as f64);
                }
            }
        }
        self.keep_account(now);
    }

    /// Forgets calls that do not run any more although their end was never heard of.
    pub fn retain(&mut self, live: impl Fn(Key) -> bool) {
        self.running.retain(|key, _| live(*key));
    }

    /// Cuts by half at once. Calls that were under way at the last cut say nothing about the limit since.
    fn overloaded(&mut self, at_once: f64, run: Option<Running>, retry_after: Option<Millis>, now: Time) {
        if let Some(span) = retry_after {
            self.grow_after = self.grow_after.max(now.plus(span.min(RETRY_AFTER_MAX)));
        }
        let known = self
            .last_cut
            .is_some_and(|cut| now.since(cut) < SECOND || run.is_some_and(|run| run.since <= cut));
        if known {
            // What is left of a burst once all its refusals were told is what the endpoint took.
            if let Some(wall) = self.wall.filter(|_| self.last_cut.is_some_and(|cut| now.since(cut) < SECOND))
            {
                let taken = wall.min(self.running.len().max(1) as f64);
                self.wall = Some(taken);
                self.limit = self.limit.min((taken / 2.0).floor().max(1.0));
            }
            return;
        }
        let in_force = self.limit().map_or(at_once, |limit| at_once.min(f64::from(limit)));
        self.wall = Some(in_force);
        self.ceiling = self.ceiling.max(at_once * 1.5);
        self.mode = Mode::Hold;
        self.limit = (in_force / 2.0).floor().max(1.0);
        self.step = 1.0;
        self.answered = 0.0;
        self.last_cut = Some(now);
        self.epoch = Stretch::default();
    }

    /// Learns from what happened since the last tick. Call about each second; any spacing works.
    pub fn tick(&mut self, now: Time) {
        let ended = self.just_ended();
        self.learn(now);
        self.note_runs(ended);
        self.keep_account(now);
    }

    fn learn(&mut self, now: Time) {
        let span = self.last_tick.map_or(0.0, |last| now.since(last) as f64 / SECOND as f64);
        let expected = if span > 0.0 { self.expected_completions(now) } else { 0.0 };
        self.last_tick = Some(self.last_tick.map_or(now, |last| last.max(now)));
        let span = span.min(TICK_MAX_S);
        let just = std::mem::take(&mut self.just);
        if self.mode == Mode::Open || self.healthy.runs < WARM {
            just.iter().for_each(|seconds| self.healthy.add(*seconds));
            self.dirty = self.dirty.saturating_add(u32::try_from(just.len()).unwrap_or(u32::MAX));
            if self.dirty >= 10 {
                let young = self.healthy.runs < YOUNG;
                let ages = self.running.values().filter(|_| young);
                self.healthy.rebuild_with(ages.map(|run| now.since(run.since) as f64 / SECOND as f64));
                self.dirty = 0;
            }
        }
        if span <= 0.0 {
            return;
        }
        self.regain(now);
        if self.healthy.runs < WARM {
            (self.expected, self.completed, self.epoch) = (0.0, 0.0, Stretch::default());
            self.ages = Ages::default();
            return;
        }
        self.weigh(&just, span, expected, now);
        self.pace = if self.mode == Mode::Open { full_pace() } else { self.speed.clamp(0.05, 1.0) };
    }

    /// Takes what was expected and what came, and judges at the end of an epoch.
    fn weigh(&mut self, just: &[f64], span: f64, expected: f64, now: Time) {
        let done = just.len() as f64;
        let kept = (-expected / SPEED_MEMORY).exp();
        self.expected = self.expected * kept + expected;
        self.completed = self.completed * kept + done;
        let before = self.speed;
        self.speed = (self.completed + 2.0) / (self.expected + 2.0);
        let slows = before >= self.rules.sick && self.speed < self.rules.sick;
        if slows && self.mode == Mode::Open && self.spread < STEADY {
            // The time in which it was well says nothing about the one in which it is not. Where runs end irregularly it is
            // kept: a slow spell of such an endpoint passes by itself, and by itself it would look like more than it is.
            self.epoch = Stretch::default();
        }
        let ages = std::mem::take(&mut self.ages);
        let at_once = ages.call_seconds() / span;
        let tick = Tick { expected, completed: done, at_once, seconds: span, ages };
        if self.mode == Mode::Cut {
            return self.experiment(&tick, now);
        }
        if self.mode == Mode::Hold && self.challenged(&tick, now) {
            return;
        }
        self.epoch.add(&tick);
        let long = self.epoch.seconds >= 60.0 && self.epoch.expected >= 5.0;
        if self.epoch.seconds >= 5.0 && (self.epoch.expected >= self.rules.epoch || long) {
            let epoch = std::mem::take(&mut self.epoch);
            if self.mode == Mode::Open {
                self.learn_spread(&epoch);
            }
            self.judge(epoch, now);
        }
    }

    /// What a healthy engine would have completed of the same runs since the last tick: the growth of their cumulative
    /// hazard, which is unbiased whatever the spacing of the ticks (the compensator of the counting process; Aalen,
    /// "Nonparametric inference for a family of counting processes", 1978).
    fn expected_completions(&mut self, now: Time) -> f64 {
        let progress = self.progress_at(now);
        let mut running = std::mem::take(&mut self.running);
        let mut expected = std::mem::take(&mut self.of_ended);
        for run in running.values_mut() {
            self.aged(run, now);
            let hazard = self.expected_of(run, progress);
            run.expected += hazard;
            expected += hazard;
        }
        self.running = running;
        self.progress = progress;
        expected
    }
}

#[cfg(test)]
mod tests;
