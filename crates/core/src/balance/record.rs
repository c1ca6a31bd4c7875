//! What was learned of one endpoint: how long calls take there, how many find it unwell, and whether it is left alone.

use crate::breaker::Sign;
use crate::id::Key;
use crate::time::{MINUTE, Millis, Time};
use serde::{Deserialize, Serialize};

/// The least weight of the newest call in what is learned; it remembers about twice as many calls as its inverse.
const SMOOTHING: f64 = 0.05;
/// Calls after which what was learned can be compared with the peers'.
const EVIDENCE: f64 = 10.0;
/// What is known of an endpoint without calls fades to what is usual with this time constant, or that of ten calls.
const FADES_AFTER: f64 = MINUTE as f64;
const FADES_AFTER_CALLS: f64 = 10.0;
/// Most of the calls may fail, but never so many that the expected time of one that is answered is without bound.
const UNWELL_MAX: f64 = 0.95;

/// Whether it gets new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub(super) enum Standing {
    #[default]
    In,
    Out {
        until: Time,
    },
    /// One call finds out whether it is like its peers again.
    Trial {
        call: Option<Key>,
    },
}

/// How a trial went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TrialEnd {
    Well,
    Unwell,
    Slow,
}

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The smoothed logarithm of the run time in milliseconds: the geometric mean, because run times scatter over orders
    /// of magnitude, and one run of an hour must not condemn an endpoint.
    log_ms: f64,
    /// Answered calls behind it, as far as they are remembered.
    runs: f64,
    /// The smoothed share of calls that found it unwell.
    unwell: f64,
    /// Ended calls behind that.
    calls: f64,
    last_end: Time,
    #[serde(flatten)]
    pub(super) standing: Standing,
    /// Times in a row that it was left alone.
    pub(super) ejections: u32,
    /// When it last came back.
    pub(super) back_since: Time,
    /// How the trial went, until the next tick.
    #[serde(skip)]
    pub(super) verdict: Option<TrialEnd>,
}

impl Record {
    /// What was read, with everything that would not be a number set aside.
    pub(super) fn sane(self) -> Record {
        let numbers = [self.log_ms, self.runs, self.unwell, self.calls];
        let sound = numbers.iter().all(|number| number.is_finite())
            && [self.runs, self.unwell, self.calls].iter().all(|number| *number >= 0.0);
        let standing = match self.standing {
            // The call that tried may have ended unheard meanwhile; another one may try.
            Standing::Trial { .. } => Standing::Trial { call: None },
            other => other,
        };
        if sound { Record { standing, ..self } } else { Record::default() }
    }

    pub(super) fn log_ms(&self) -> Option<f64> {
        (self.runs > 0.0).then_some(self.log_ms)
    }

    pub(super) fn run_ms(&self) -> Option<f64> {
        self.log_ms().map(f64::exp)
    }

    pub(super) fn unwell_share(&self) -> f64 {
        self.unwell.clamp(0.0, 1.0)
    }

    /// The smoothed logarithm of the run time, where it rests on enough to be compared.
    pub(super) fn proven_log_ms(&self) -> Option<f64> {
        (self.runs >= EVIDENCE).then_some(self.log_ms)
    }

    pub(super) fn proven_unwell(&self) -> Option<f64> {
        (self.calls >= EVIDENCE).then_some(self.unwell)
    }

    /// What of it is still believed after a time without calls, 0 to 1.
    fn belief(&self, now: Time) -> f64 {
        let fades = FADES_AFTER.max(FADES_AFTER_CALLS * self.run_ms().unwrap_or(0.0));
        (-(now.since(self.last_end) as f64) / fades).exp()
    }

    /// The time of one call, and of those it takes until one is answered. While it has calls nothing fades: their time
    /// says how the endpoint is.
    pub(super) fn cost(&self, used: u32, usual: f64, now: Time) -> f64 {
        let belief = if used > 0 { 1.0 } else { self.belief(now) };
        let log_ms = self.log_ms().map_or(usual, |own| usual + belief * (own - usual));
        log_ms.clamp(-1e2, 1e2).exp() / (1.0 - (belief * self.unwell).clamp(0.0, UNWELL_MAX))
    }

    pub(super) fn started(&mut self, key: Key) {
        if let Standing::Trial { call: call @ None } = &mut self.standing {
            *call = Some(key);
        }
    }

    /// The call says nothing; if it was the trial, another one is needed.
    pub(super) fn try_again(&mut self, key: Key) {
        if self.standing == (Standing::Trial { call: Some(key) }) {
            self.standing = Standing::Trial { call: None };
        }
    }

    pub(super) fn retain(&mut self, live: impl Fn(Key) -> bool) {
        if let Standing::Trial { call: Some(key) } = self.standing
            && !live(key)
        {
            self.try_again(key);
        }
    }

    /// Forgets who found it unwell.
    pub(super) fn forgive(&mut self) {
        (self.unwell, self.calls) = (0.0, 0.0);
    }

    /// `most`: the longest logarithm of a run time that is not far from the peers'.
    pub(super) fn ended(&mut self, key: Key, sign: Sign, took: Option<Millis>, most: Option<f64>, now: Time) {
        let log_ms = took.map(|took| (took.max(1) as f64).ln());
        if self.standing == (Standing::Trial { call: Some(key) }) {
            let slow = most.zip(log_ms).is_some_and(|(most, took)| took > most);
            self.verdict = match sign {
                Sign::Nothing => None,
                Sign::Unwell => Some(TrialEnd::Unwell),
                Sign::Answered if slow => Some(TrialEnd::Slow),
                Sign::Answered => Some(TrialEnd::Well),
            };
            match self.verdict {
                None => self.try_again(key),
                // What was learned before the time alone says little about the time after it.
                Some(TrialEnd::Well) => (self.runs, self.calls, self.unwell) = (0.0, 0.0, 0.0),
                Some(_) => {}
            }
        }
        if sign == Sign::Nothing {
            return;
        }
        let belief = self.belief(now);
        self.last_end = self.last_end.max(now);
        let unwell = f64::from(u8::from(sign == Sign::Unwell));
        learn(&mut self.unwell, &mut self.calls, unwell, belief);
        // A call that fails may be over at once, and must not make its endpoint look fast.
        if let (Sign::Answered, Some(log_ms)) = (sign, log_ms) {
            learn(&mut self.log_ms, &mut self.runs, log_ms, belief);
        }
    }
}

/// Moves a smoothed value towards the newest one: the mean of the first ones, then with a fixed weight.
fn learn(value: &mut f64, behind: &mut f64, newest: f64, belief: f64) {
    *behind *= belief;
    *value += (newest - *value) * SMOOTHING.max(1.0 / (*behind + 1.0));
    *behind = (*behind + 1.0).min(1.0 / SMOOTHING);
}
