//! Who decides on the number of workers in the lab.

use crate::autoscaler::{Autoscaler, Decision, Observation};
use crate::time::{MINUTE, Millis, SECOND, Time};
use std::collections::VecDeque;

/// What a policy orders in one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Orders {
    pub target: u32,
    pub may_launch: bool,
    /// A launch that takes longer is given up.
    pub launch_timeout: Millis,
    /// Why, if the policy says so.
    pub decision: Option<Decision>,
}

impl Orders {
    fn plain(target: u32) -> Orders {
        Orders { target, may_launch: true, launch_timeout: Millis::MAX, decision: None }
    }
}

/// A policy under test. It sees the past and nothing else.
pub trait LabPolicy {
    fn step(&mut self, seen: &Observation) -> Orders;
}

impl LabPolicy for Autoscaler {
    fn step(&mut self, seen: &Observation) -> Orders {
        let decision = Autoscaler::step(self, seen);
        Orders {
            target: decision.target,
            may_launch: decision.may_launch,
            launch_timeout: self.launch_timeout(),
            decision: Some(decision),
        }
    }
}

/// Always this many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed(pub u32);

impl LabPolicy for Fixed {
    fn step(&mut self, _: &Observation) -> Orders {
        Orders::plain(self.0)
    }
}

/// One worker per job, kept for a minute: what an idle worker costs is spent only once it was idle that long
/// (Gandhi et al., "AutoScale", ACM TOCS 30(4), 2012). The best of the policies that do not forecast, as a reference.
#[derive(Debug, Clone)]
pub struct DelayedOff {
    slots: u32,
    keep: Millis,
    peaks: VecDeque<(Time, u32)>,
}

impl DelayedOff {
    #[must_use]
    pub fn new(slots: u32) -> DelayedOff {
        DelayedOff { slots: slots.max(1), keep: MINUTE.max(SECOND), peaks: VecDeque::new() }
    }
}

impl LabPolicy for DelayedOff {
    fn step(&mut self, seen: &Observation) -> Orders {
        let queued =
            seen.engines.iter().fold(0, |sum: u32, engine| sum.saturating_add(engine.queued_total()));
        let need = seen.pool.busy_slots.saturating_add(queued).div_ceil(self.slots);
        while self.peaks.back().is_some_and(|(_, last)| *last <= need) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((seen.now, need));
        while self.peaks.front().is_some_and(|(at, _)| seen.now.since(*at) > self.keep) {
            self.peaks.pop_front();
        }
        Orders::plain(self.peaks.front().map_or(need, |(_, peak)| *peak))
    }
}
