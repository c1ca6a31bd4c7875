//! The adaptive concurrency limit of one endpoint: a degrading engine gets less work before it fails.
//!
//! Speed is what the endpoint completes compared with what its own healthy run times say it should have completed of the
//! same runs at the same ages. Runs that have not ended count, so a stuck engine is seen before anything ends. A slow
//! endpoint is cut back *as an experiment*: if speed rises by more than the square root of the cut, concurrency was the
//! cause, the limit stays and is probed upwards; if not, the slowness comes from elsewhere and the cut is undone. That
//! policy with its constants was measured against others in simulation (`docs/decisions/011-breaker-and-limits.md`).
//! Beside it stands what needs no statistics: an answer that says "too much" (429, 503) cuts at once by half
//! (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989).
//!
//! Invariants: the limit in force is at least `min` and at most `max`; nothing here is infinite or not a number.

mod climb;

use crate::id::Key;
use crate::limits::RETRY_AFTER_MAX;
use crate::run_times::RunTimes;
use crate::time::{Millis, SECOND, Time};
use climb::Climb;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
pub enum Ended {
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

/// What is summed up between two verdicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Epoch {
    expected: f64,
    completed: f64,
    /// Calls at once, summed over time, and that time in seconds.
    call_seconds: f64,
    seconds: f64,
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
    epoch: Epoch,
    /// Calls at once and speed before the last cut, or when the slowness was found to be external.
    before: (f64, f64),
    /// Completions a second before the last cut.
    #[serde(default)]
    rate_before: f64,
    /// After an external slowness: how long until the next experiment, in seconds, and when that is.
    retry_s: f64,
    retry_at: Time,
    calm_s: f64,
    grow_after: Time,
    last_cut: Option<Time>,
    #[serde(skip)]
    progress: f64,
    /// How fast the progress clock goes until the next tick.
    #[serde(skip, default = "full_pace")]
    pace: f64,
    /// Completions expected since the last tick of calls that have ended since.
    #[serde(skip)]
    of_ended: f64,
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
}

/// Runs to learn before speed is judged, and completions that the speed remembers.
const WARM: u64 = 50;
/// Speed from which on the endpoint may be asked for more.
const WELL: f64 = 0.85;
/// Up to so many runs those that have not ended count as well. Later they would hide that an engine gets slow.
const YOUNG: u64 = 300;
const SPEED_MEMORY: f64 = 40.0;
/// The least a cut leaves of the concurrency before it, and the most.
const CUT_FLOOR: f64 = 0.34;
const RECUT_FLOOR: f64 = 0.6;
const CUT_CEILING: f64 = 0.8;
/// Completions that are enough to compare rates by.
const SURE: f64 = 10.0;
const EXPERIMENT_FIRST_S: f64 = 150.0;
const EXPERIMENT_MAX_S: f64 = 1_800.0;
/// Calls at once that count as few.
const FEW: f64 = 10.0;
/// The share of the concurrency that was too much to which the limit comes back at once.
const NEAR_WALL: f64 = 0.85;
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
            epoch: Epoch::default(),
            before: (1.0, 1.0),
            rate_before: 0.0,
            retry_s: EXPERIMENT_FIRST_S,
            retry_at: Time(0),
            calm_s: 0.0,
            grow_after: Time(0),
            last_cut: None,
            progress: 0.0,
            pace: full_pace(),
            of_ended: 0.0,
            running: BTreeMap::new(),
            just: Vec::new(),
            last_tick: None,
            answered: 0.0,
            dirty: 0,
            climb: Climb::default(),
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

    pub fn ended(&mut self, key: Key, how: Ended, now: Time) {
        let at_once = self.running.len().max(1) as f64;
        let progress = self.progress_at(now);
        let run = self.running.remove(&key);
        match how {
            Ended::Unknown => self.of_ended += run.map_or(0.0, |run| self.expected_of(&run, progress)),
            Ended::Apart => {
                let expected = run.map_or(0.0, |run| run.expected);
                self.expected = (self.expected - expected).max(0.0);
                self.epoch.expected = (self.epoch.expected - expected).max(0.0);
            }
            Ended::Overloaded { retry_after } => self.overloaded(at_once, run, retry_after, now),
            Ended::Answered => {
                self.answered += 1.0;
                self.of_ended += run.map_or(0.0, |run| self.expected_of(&run, progress));
                if let Some(run) = run
                    && self.just.len() < JUST_MAX
                {
                    self.just.push(now.since(run.since) as f64 / SECOND as f64);
                }
            }
        }
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
        self.epoch = Epoch::default();
    }

    /// Learns from what happened since the last tick. Call about each second; any spacing works.
    pub fn tick(&mut self, now: Time) {
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
            (self.expected, self.completed, self.epoch) = (0.0, 0.0, Epoch::default());
            return;
        }
        self.weigh(&just, span, expected, now);
        self.pace = if self.mode == Mode::Open { full_pace() } else { self.speed.clamp(0.05, 1.0) };
    }

    /// Takes what was expected and what came, and judges at the end of an epoch.
    fn weigh(&mut self, just: &[f64], span: f64, expected: f64, now: Time) {
        let (done, at_once) = (just.len() as f64, self.running.len() as f64);
        let kept = (-expected / SPEED_MEMORY).exp();
        self.expected = self.expected * kept + expected;
        self.completed = self.completed * kept + done;
        self.speed = (self.completed + 2.0) / (self.expected + 2.0);
        if self.mode == Mode::Cut && at_once > self.limit + 0.5 {
            // The experiment begins when the excess runs have ended.
            return;
        }
        let epoch = &mut self.epoch;
        epoch.expected += expected;
        epoch.completed += done;
        epoch.call_seconds += at_once * span;
        epoch.seconds += span;
        let long = epoch.seconds >= 60.0 && epoch.expected >= 5.0;
        if epoch.seconds >= 5.0 && (epoch.expected >= self.rules.epoch || long) {
            let epoch = std::mem::take(&mut self.epoch);
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
            let hazard = self.expected_of(run, progress);
            run.expected += hazard;
            expected += hazard;
        }
        self.running = running;
        self.progress = progress;
        expected
    }

    fn judge(&mut self, epoch: Epoch, now: Time) {
        let at_once = epoch.call_seconds / epoch.seconds.max(f64::MIN_POSITIVE);
        let speed = (epoch.completed + 0.5) / (epoch.expected + 0.5);
        let sick = self.rules.sick;
        let bad = self.speed < sick && speed < sick + 0.1 && at_once >= 2.0;
        // By how much the speed rose for the concurrency that was taken away. Few calls are often slow because others use
        // the same machine, and then a cut gives their share away: it has to pay more.
        let power = if self.before.0 < FEW { 0.8 } else { 0.5 };
        let less = self.before.0 / at_once.max(1e-6);
        // The same said by completions alone. That needs no idea of how long runs should take, and holds when the speed before
        // the cut was too low to be told exactly.
        let rate = epoch.completed / epoch.seconds.max(f64::MIN_POSITIVE);
        let done = epoch.completed >= SURE && rate >= self.rate_before * less.powf(power - 1.0);
        let paid = speed / self.before.1.max(1e-6) >= less.powf(power) || done && self.rate_before > 0.0;
        match self.mode {
            Mode::Open if bad => self.cut(at_once, speed, rate, CUT_FLOOR),
            Mode::Open => {}
            Mode::Cut if (speed >= 0.75 && (paid || self.before.0 >= FEW)) || (self.limit <= 1.0 && paid) => {
                self.mode = Mode::Hold;
                self.step = 1.0;
                (self.expected, self.completed) = (epoch.expected, epoch.completed);
            }
            Mode::Cut if paid => self.cut(at_once, speed, rate, CUT_FLOOR),
            Mode::Cut => {
                self.mode = Mode::External;
                self.before = (at_once, speed);
                self.retry_s = (self.retry_s * 2.0).min(EXPERIMENT_MAX_S);
                self.retry_at = now.plus((self.retry_s * SECOND as f64) as Millis);
                (self.expected, self.completed) = (epoch.expected, epoch.completed);
            }
            // Slowness is the price of what it completes, unless it completes less than it did.
            Mode::Hold if bad && !self.climb.accounts_for(epoch.completed / epoch.seconds) => {
                self.cut(at_once, speed, rate, RECUT_FLOOR);
            }
            Mode::Hold => self.probe(at_once, epoch, now),
            Mode::External if self.speed > WELL => {
                self.mode = Mode::Open;
                self.retry_s = EXPERIMENT_FIRST_S;
            }
            Mode::External => {
                // More calls and no more completions: it was the concurrency after all.
                let crowded =
                    at_once >= 1.4 * self.before.0 && at_once * speed <= 1.15 * self.before.0 * self.before.1;
                if crowded || (now > self.retry_at && bad) {
                    self.cut(at_once, speed, rate, CUT_FLOOR);
                }
            }
        }
    }

    /// Raises the limit while the endpoint is well and uses it.
    fn probe(&mut self, at_once: f64, epoch: Epoch, now: Time) {
        if now < self.grow_after {
            return;
        }
        if self.speed < WELL {
            self.step = 1.0;
            self.climb.start();
        }
        let whole = self.limit.floor().max(1.0);
        if self.climb.on && at_once >= 0.85 * whole {
            self.limit = self.climb.next(whole, epoch.completed, epoch.seconds);
        } else if !self.climb.on && at_once >= 0.7 * self.limit {
            self.grow();
        } else if at_once < 0.5 * self.limit {
            self.calm_s += epoch.seconds;
            if self.calm_s > 120.0 {
                self.limit *= 1.5;
                self.calm_s = 60.0;
                self.climb.stop();
            }
        }
        self.open_if_grown();
    }

    /// After an overload answers alone raise the limit again: at once to just below what was too much, and beyond it by
    /// single steps, as long as too few runs were learned to judge the speed.
    fn regain(&mut self, now: Time) {
        let answered = self.mode == Mode::Hold && now >= self.grow_after && self.answered >= self.limit;
        let well = self.healthy.runs < WARM || self.speed >= WELL;
        let Some(wall) = self.wall.filter(|_| answered && well) else { return };
        if self.limit < NEAR_WALL * wall {
            self.answered = 0.0;
            self.limit = (NEAR_WALL * wall).ceil();
        } else if self.healthy.runs < WARM && self.answered >= 4.0 * self.limit {
            self.grow();
            self.open_if_grown();
        }
    }

    fn grow(&mut self) {
        self.answered = 0.0;
        let near_wall = self.wall.is_some_and(|wall| self.limit / wall.max(1.0) < 1.25);
        if near_wall {
            self.step = 1.0;
        }
        self.limit += self.step;
        self.step = (2.0 * self.step).min((0.25 * self.limit).max(1.0));
    }

    fn open_if_grown(&mut self) {
        let ceiling = self.rules.max.map_or(self.ceiling, f64::from);
        if self.limit >= ceiling {
            self.mode = Mode::Open;
            self.climb.stop();
            self.retry_s = EXPERIMENT_FIRST_S;
            self.wall = None;
            self.ceiling = 0.0;
        }
    }

    fn cut(&mut self, at_once: f64, speed: f64, rate: f64, floor: f64) {
        self.before = (at_once, speed);
        self.rate_before = rate;
        self.mode = Mode::Cut;
        // It is slow with less than what it refuses, so that is not what bounds it.
        self.wall = None;
        self.climb.stop();
        self.limit = (at_once * speed.clamp(floor, CUT_CEILING)).ceil().max(1.0);
        self.ceiling = self.ceiling.max(at_once * 1.5);
        (self.expected, self.completed) = (0.0, 0.0);
        self.speed = speed.max(0.05);
        self.step = 1.0;
    }
}

#[cfg(test)]
mod tests;
