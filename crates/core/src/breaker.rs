//! The circuit breaker of one endpoint: it parks work instead of burning its attempts.
//!
//! It opens on what says that the *engine* is unwell (see [`FailureKind::counts_for_breaker`] and failed health checks),
//! never on a workflow's own failure. After a while one call, the canary, finds out whether the engine is back; only
//! then is the rest released, in growing groups. The three states are Nygard's ("Release It!", 2007); the ratio beside
//! the threshold keeps a busy engine with a few failures in use, the groups keep a crowd from knocking it over again.
//!
//! Invariants: while it is open nothing starts; half open, at most one call runs as canary; every state has a way out
//! that depends on time alone, so no lost report can hold it forever.
//!
//! [`FailureKind::counts_for_breaker`]: crate::failure::FailureKind::counts_for_breaker

use crate::id::Key;
use crate::planted::{self, Bug};
use crate::time::{MINUTE, Millis, SECOND, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerRules {
    /// Counted failures within `monitoring_period` that open it.
    pub failure_threshold: u32,
    /// The least share of the calls ended in the period that these must be, 0 to 1; twice the threshold without an answer
    /// between opens it whatever the share.
    pub failure_ratio: f64,
    /// How long it stays open the first time, in milliseconds; doubles each time the canary fails.
    pub reset_timeout: Millis,
    /// Ceiling of that doubling.
    pub reset_timeout_max: Millis,
    pub monitoring_period: Millis,
}

impl Default for BreakerRules {
    fn default() -> Self {
        BreakerRules {
            failure_threshold: 5,
            failure_ratio: 0.5,
            reset_timeout: 30 * SECOND,
            reset_timeout_max: 10 * MINUTE,
            monitoring_period: MINUTE,
        }
    }
}

/// What an end (or another sign) of a call says of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The engine answered, if only with a workflow's failure.
    Answered,
    /// The engine is unwell.
    Unwell,
    /// Neither: cancelled, interrupted, out of time.
    Nothing,
}

/// The first calls after a recovery, let through group by group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Calls of the present group.
    pub size: u32,
    pub started: u32,
    answered: u32,
    since: Time,
    /// Over all groups of this recovery.
    ended: u32,
    unwell: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Closed { release: Option<Release> },
    Open { until: Time },
    HalfOpen { canary: Option<Key>, since: Time },
}

/// An operator's word, which stands above what is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    pub open: bool,
    pub reason: String,
    /// The API key that asked for it.
    pub by: Option<String>,
    pub since: Time,
    /// Back to measuring from then on; `None`: until told otherwise.
    pub until: Option<Time>,
}

/// A change of state, as it is told in events and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BreakerChange {
    /// Until the next probe; `failures` counted failures led to it.
    Opened {
        until: Time,
        failures: u32,
    },
    HalfOpened,
    /// The canary was answered; work is released in groups.
    Closed,
    /// The last group was released: nothing is held back any more.
    Released,
    /// An operator's word came or went.
    Forced {
        open: Option<bool>,
    },
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breaker {
    state: State,
    window: Window,
    /// Counted failures since the engine last answered.
    in_a_row: u32,
    /// Openings in a row without a full recovery between them.
    openings: u32,
    forced: Option<Forced>,
    /// The last health check, while one is known.
    healthy: Option<bool>,
    /// Work was answered while the health check failed: until that is well again, it counts for nothing.
    #[serde(default)]
    disproved: bool,
    /// When the state last changed.
    since: Time,
}

/// The first group after the canary, and the size at which no more groups are needed.
const RELEASE_FIRST: u32 = 2;
const RELEASE_MAX: u32 = 128;
/// A group that is not answered by then makes room for the next one all the same: long runs answer late.
const RELEASE_STEP_MIN: Millis = SECOND;
const RELEASE_STEP_MAX: Millis = 10 * SECOND;

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            state: State::Closed { release: None },
            window: Window::default(),
            in_a_row: 0,
            openings: 0,
            forced: None,
            healthy: None,
            disproved: false,
            since: Time(0),
        }
    }
}

impl Breaker {
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When the state last changed.
    #[must_use]
    pub fn since(&self) -> Time {
        self.since
    }

    #[must_use]
    pub fn forced(&self) -> Option<&Forced> {
        self.forced.as_ref()
    }

    /// `closed`, `open` or `half_open`, with the operator's word above what was measured.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (&self.forced, self.state) {
            (Some(Forced { open: true, .. }), _) => "open",
            (Some(_), _) | (None, State::Closed { .. }) => "closed",
            (None, State::Open { .. }) => "open",
            (None, State::HalfOpen { .. }) => "half_open",
        }
    }

    /// Counted failures and ended calls within the monitoring period.
    #[must_use]
    pub fn counted(&self, rules: &BreakerRules, now: Time) -> (u32, u32) {
        self.window.sums(rules.monitoring_period, now)
    }

    /// Whether a call may start now.
    #[must_use]
    pub fn may_start(&self, now: Time) -> bool {
        if planted::has(Bug::BreakerOpenToAll) {
            return true;
        }
        match (&self.forced, self.state) {
            (Some(forced), _) if forced.until.is_none_or(|until| now < until) => !forced.open,
            (_, State::Closed { release: None }) => true,
            (_, State::Closed { release: Some(release) }) => release.started < release.size,
            (_, State::Open { .. }) => false,
            (_, State::HalfOpen { canary, .. }) => canary.is_none(),
        }
    }

    /// Whether it holds work back because the endpoint is not known to be well.
    #[must_use]
    pub fn parks(&self, now: Time) -> bool {
        !self.may_start(now)
    }

    /// When it next lets a call through, if that is a matter of time.
    #[must_use]
    pub fn next_probe(&self) -> Option<Time> {
        match (&self.forced, self.state) {
            (Some(Forced { open: true, until, .. }), _) => *until,
            (_, State::Open { until }) => Some(until),
            _ => None,
        }
    }

    /// A call starts there.
    pub fn started(&mut self, key: Key) {
        match &mut self.state {
            State::HalfOpen { canary, .. } => *canary = Some(key),
            State::Closed { release: Some(release) } => release.started = release.started.saturating_add(1),
            _ => {}
        }
    }

    /// A call that was to start did not: its grant was refused.
    pub fn unstarted(&mut self, key: Key) {
        match &mut self.state {
            State::HalfOpen { canary, .. } if *canary == Some(key) => *canary = None,
            State::Closed { release: Some(release) } => release.started = release.started.saturating_sub(1),
            _ => {}
        }
    }

    /// The engine took the call on (its run id is known), which is all a canary has to find out.
    pub fn accepted(&mut self, key: Key, now: Time) -> Option<BreakerChange> {
        self.disproved |= self.healthy == Some(false);
        match &mut self.state {
            State::HalfOpen { canary, .. } if *canary == Some(key) => Some(self.close(now)),
            State::Closed { release: Some(release) } => {
                release.answered = release.answered.saturating_add(1).min(release.started);
                None
            }
            _ => None,
        }
    }

    /// A call ended.
    pub fn ended(&mut self, rules: &BreakerRules, key: Key, sign: Sign, now: Time) -> Option<BreakerChange> {
        match sign {
            Sign::Answered => {
                self.in_a_row = 0;
                self.disproved |= self.healthy == Some(false);
            }
            Sign::Unwell => self.in_a_row = self.in_a_row.saturating_add(1),
            Sign::Nothing => {}
        }
        if sign != Sign::Nothing {
            self.window.add(rules.monitoring_period, sign == Sign::Unwell, now);
        }
        match (&mut self.state, sign) {
            (State::HalfOpen { canary, .. }, _) if *canary == Some(key) => match sign {
                Sign::Answered => Some(self.close(now)),
                Sign::Unwell => Some(self.open(rules, now)),
                Sign::Nothing => {
                    *canary = None;
                    None
                }
            },
            (State::Closed { release: Some(release) }, Sign::Answered) => {
                release.answered = release.answered.saturating_add(1).min(release.started);
                release.ended = release.ended.saturating_add(1);
                None
            }
            (State::Closed { release: Some(release) }, Sign::Unwell) => {
                release.ended = release.ended.saturating_add(1);
                release.unwell = release.unwell.saturating_add(1);
                let relapsed = release.unwell >= rules.failure_threshold.min(RELEASE_FIRST)
                    && f64::from(release.unwell) >= rules.failure_ratio * f64::from(release.ended);
                relapsed.then(|| self.open(rules, now))
            }
            (State::Closed { release: None }, Sign::Unwell) => self.open_if_due(rules, now),
            _ => None,
        }
    }

    /// The endpoint's health was asked; `None`: it cannot be. A failed check counts like a failed call, unless work was
    /// answered meanwhile; a good one counts for nothing, because an engine may say it is well and still fail at work.
    pub fn checked(
        &mut self,
        rules: &BreakerRules,
        healthy: Option<bool>,
        now: Time,
    ) -> Option<BreakerChange> {
        self.healthy = healthy;
        if healthy != Some(false) {
            self.disproved = false;
            return None;
        }
        if self.disproved {
            return None;
        }
        self.window.add(rules.monitoring_period, true, now);
        match self.state {
            State::Closed { release: None } => self.open_if_due(rules, now),
            State::Closed { release: Some(_) } => Some(self.open(rules, now)),
            _ => None,
        }
    }

    /// What time alone brings: an operator's word that ends, a probe that is due, the next group. Call about each second.
    pub fn tick(&mut self, rules: &BreakerRules, now: Time) -> Option<BreakerChange> {
        if self.forced.as_ref().and_then(|f| f.until).is_some_and(|until| now >= until) {
            return Some(self.force(None, now));
        }
        let step = (rules.reset_timeout / 6).clamp(RELEASE_STEP_MIN, RELEASE_STEP_MAX);
        match &mut self.state {
            // Whatever its health check says: only work shows whether an engine works.
            State::Open { until } if now >= *until => {
                self.enter(State::HalfOpen { canary: None, since: now }, now);
                Some(BreakerChange::HalfOpened)
            }
            // An engine that has worked on the canary for this long without failing it is there.
            State::HalfOpen { canary: Some(_), since } if now.since(*since) >= rules.reset_timeout => {
                Some(self.close(now))
            }
            State::Closed { release: Some(release) } => {
                let answered = release.started >= release.size && release.answered >= release.size;
                let waited = now.since(release.since) >= step;
                if !answered && !waited {
                    return None;
                }
                if release.size >= RELEASE_MAX {
                    self.openings = 0;
                    self.state = State::Closed { release: None };
                    return Some(BreakerChange::Released);
                }
                // Time passes groups on, and whatever was not started of one is lost with it.
                let size = release.size.saturating_mul(2);
                *release = Release { size, started: 0, answered: 0, since: now, ..*release };
                None
            }
            _ => None,
        }
    }

    /// Sets or lifts an operator's word.
    pub fn force(&mut self, forced: Option<Forced>, now: Time) -> BreakerChange {
        let open = forced.as_ref().map(|f| f.open);
        if forced.is_none() && self.forced.as_ref().is_some_and(|f| f.open) {
            // What was measured before says nothing any more, and no one knows how the engine is.
            self.enter(State::HalfOpen { canary: None, since: now }, now);
        }
        self.forced = forced;
        self.since = now;
        BreakerChange::Forced { open }
    }

    /// Forgets a canary that does not run any more although its end was never heard of.
    pub fn retain(&mut self, live: impl Fn(Key) -> bool) {
        if let State::HalfOpen { canary, .. } = &mut self.state
            && canary.is_some_and(|key| !live(key))
        {
            *canary = None;
        }
    }

    fn open_if_due(&mut self, rules: &BreakerRules, now: Time) -> Option<BreakerChange> {
        let (failures, ended) = self.counted(rules, now);
        let share = f64::from(failures) >= rules.failure_ratio * f64::from(ended);
        // A busy engine that dies has many answers in the window; twice the threshold with none between says enough.
        let silent = self.in_a_row >= rules.failure_threshold.saturating_mul(2);
        let due = failures >= rules.failure_threshold && (share || silent);
        due.then(|| self.open(rules, now))
    }

    fn open(&mut self, rules: &BreakerRules, now: Time) -> BreakerChange {
        let (failures, _) = self.counted(rules, now);
        let factor = 1u64 << self.openings.min(32);
        let wait = rules.reset_timeout.saturating_mul(factor).min(rules.reset_timeout_max);
        let until = now.plus(wait.max(rules.reset_timeout));
        self.openings = self.openings.saturating_add(1);
        self.in_a_row = 0;
        self.enter(State::Open { until }, now);
        self.window = Window::default();
        BreakerChange::Opened { until, failures }
    }

    fn close(&mut self, now: Time) -> BreakerChange {
        let release =
            Release { size: RELEASE_FIRST, started: 0, answered: 0, since: now, ended: 0, unwell: 0 };
        self.enter(State::Closed { release: Some(release) }, now);
        BreakerChange::Closed
    }

    fn enter(&mut self, state: State, now: Time) {
        self.state = state;
        self.since = now;
    }
}

/// Ended calls and counted failures of the monitoring period, in slices: its size does not grow with the traffic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Window {
    /// Start of the slice, calls ended, counted failures.
    slices: VecDeque<(Time, u32, u32)>,
}

const SLICES: u64 = 20;

impl Window {
    fn add(&mut self, period: Millis, failed: bool, now: Time) {
        let slice = (period / SLICES).max(1);
        match self.slices.back_mut() {
            Some((start, ended, failures)) if now.since(*start) < slice => {
                *ended = ended.saturating_add(1);
                *failures = failures.saturating_add(u32::from(failed));
            }
            _ => self.slices.push_back((now, 1, u32::from(failed))),
        }
        while self.slices.len() as u64 > SLICES
            || self.slices.front().is_some_and(|(start, ..)| now.since(*start) > period)
        {
            self.slices.pop_front();
        }
    }

    /// Counted failures and ended calls.
    fn sums(&self, period: Millis, now: Time) -> (u32, u32) {
        let recent = self.slices.iter().filter(|(start, ..)| now.since(*start) <= period);
        recent.fold((0, 0), |(failures, ended), (_, e, f)| (failures + f, ended + e))
    }
}

#[cfg(test)]
mod tests;
