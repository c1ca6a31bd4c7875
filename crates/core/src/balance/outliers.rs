//! Endpoints that are far worse than their peers are left alone for a while and come back by a trial.
//!
//! A breaker sees an endpoint that fails; this sees one that fails more, or takes far longer, than the others do, which
//! only a comparison can tell from workflows that fail or are long. The way of being left alone for longer each time,
//! and never all at once, is that of Envoy's outlier detection.

use super::{Balancer, Record, Standing};
use crate::balance::record::TrialEnd;
use crate::time::{MINUTE, Millis, SECOND, Time};

/// How long an endpoint is left alone the first time; doubled each time in a row.
const OUT_FIRST: Millis = 30 * SECOND;
const OUT_MAX: Millis = 5 * MINUTE;
/// An endpoint that did well for this long starts again with the first time.
const FORGIVEN_AFTER: Millis = 10 * MINUTE;
/// How much larger its share of unwell calls is than the peers' median, and how many times their run time it takes.
const UNWELL_MORE: f64 = 0.25;
const TIMES_SLOWER: f64 = 5.0;

/// What speaks against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its calls find it unwell far more often than the peers'.
    Unwell,
    /// Its calls take far longer than the peers'.
    Slow,
}

impl Cause {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Unwell => "unwell",
            Cause::Slow => "slow",
        }
    }
}

/// A change of who gets new work, as it is told in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceChange {
    /// It gets nothing new until then.
    Ejected { until: Time, cause: Cause },
    /// One call may try.
    Trial,
    /// It is like its peers again.
    Back,
}

pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Balancer {
    /// Whether the endpoint gets new work, as far as its peers' comparison goes; else until when not, or `now` while its
    /// trial runs.
    #[must_use]
    pub fn ejected(&self, at: u32, now: Time) -> Option<Time> {
        if !self.rules.eject {
            return None;
        }
        match self.records.get(at as usize)?.standing {
            Standing::In | Standing::Trial { call: None } => None,
            Standing::Out { until } => Some(until.max(now)),
            Standing::Trial { call: Some(_) } => Some(now),
        }
    }

    /// Whether it is one of those that all work can go to.
    #[must_use]
    pub fn is_in(&self, at: u32) -> bool {
        !self.rules.eject || self.records.get(at as usize).is_some_and(|r| r.standing == Standing::In)
    }

    /// Compares the endpoints: whose time is over may try, and the worst of those that are far from their peers is left
    /// alone if at least half stay. `parked`: whether the endpoint's breaker holds work back. Call about each second.
    pub fn tick(&mut self, parked: impl Fn(u32) -> bool, now: Time) -> Vec<(u32, BalanceChange)> {
        let mut changes = Vec::new();
        if !self.rules.eject {
            self.records.iter_mut().for_each(|record| record.standing = Standing::In);
            return changes;
        }
        for (at, record) in (0u32..).zip(&mut self.records) {
            if parked(at) {
                // Its failures are its breaker's business, and when that lets work in again they are of the past.
                record.forgive();
            }
            changes.extend(record.go_on(now).map(|change| (at, change)));
        }
        let out =
            (0u32..).zip(&self.records).filter(|(at, r)| r.standing != Standing::In || parked(*at)).count();
        if (out + 1) * 2 <= self.records.len()
            && let Some((at, cause)) = self.worst(&parked)
            && let Some(record) = self.records.get_mut(at as usize)
        {
            changes.push((at, record.eject(cause, now)));
        }
        changes
    }

    /// The endpoint that is farthest from its peers, if one is too far. Failures count before slowness.
    fn worst(&self, parked: &impl Fn(u32) -> bool) -> Option<(u32, Cause)> {
        let standing: Vec<u32> = (0u32..)
            .zip(&self.records)
            .filter(|(at, r)| r.standing == Standing::In && !parked(*at))
            .map(|(at, _)| at)
            .collect();
        let excess = |of: fn(&Record) -> Option<f64>| {
            let value = |at: &u32| self.records.get(*at as usize).and_then(of);
            let above = standing.iter().filter_map(|at| {
                let peers = standing.iter().filter(|peer| *peer != at).filter_map(value).collect();
                Some((*at, value(at)? - median(peers)?))
            });
            above.max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.cmp(&a.0)))
        };
        let unwell = excess(Record::proven_unwell).filter(|(_, more)| *more >= UNWELL_MORE);
        let slow = || {
            // With sticky keys the endpoints' work differs, so their times cannot be compared.
            let comparable = !self.rules.sticky;
            excess(Record::proven_log_ms).filter(|(_, more)| comparable && *more >= TIMES_SLOWER.ln())
        };
        unwell.map(|(at, _)| (at, Cause::Unwell)).or_else(|| slow().map(|(at, _)| (at, Cause::Slow)))
    }

    /// The longest logarithm of a run time that is not far from the peers' of this endpoint.
    pub(super) fn slowest_fair(&self, at: u32) -> Option<f64> {
        let peers = (0u32..).zip(&self.records).filter(|(peer, r)| *peer != at && r.standing == Standing::In);
        let usual = median(peers.filter_map(|(_, r)| r.proven_log_ms()).collect())?;
        (!self.rules.sticky).then_some(usual + TIMES_SLOWER.ln())
    }

    /// An endpoint that is to be tried.
    pub(super) fn wants_trial(&self, at: u32) -> bool {
        let standing = self.records.get(at as usize).map(|record| record.standing);
        self.rules.eject && standing == Some(Standing::Trial { call: None })
    }
}

impl Record {
    /// What time, or the end of its trial, brings.
    fn go_on(&mut self, now: Time) -> Option<BalanceChange> {
        match (self.standing, self.verdict.take()) {
            (Standing::In, _) => {
                if self.ejections > 0 && now.since(self.back_since) >= FORGIVEN_AFTER {
                    self.ejections = 0;
                }
                None
            }
            (Standing::Out { until }, _) if until <= now => {
                self.standing = Standing::Trial { call: None };
                Some(BalanceChange::Trial)
            }
            (Standing::Out { .. }, _) | (Standing::Trial { .. }, None) => None,
            (Standing::Trial { .. }, Some(TrialEnd::Well)) => {
                (self.standing, self.back_since) = (Standing::In, now);
                Some(BalanceChange::Back)
            }
            (Standing::Trial { .. }, Some(TrialEnd::Unwell)) => Some(self.eject(Cause::Unwell, now)),
            (Standing::Trial { .. }, Some(TrialEnd::Slow)) => Some(self.eject(Cause::Slow, now)),
        }
    }

    fn eject(&mut self, cause: Cause, now: Time) -> BalanceChange {
        let doubled = OUT_FIRST << self.ejections.min(16);
        self.ejections = self.ejections.saturating_add(1);
        let until = now.plus(doubled.min(OUT_MAX));
        self.standing = Standing::Out { until };
        BalanceChange::Ejected { until, cause }
    }
}
