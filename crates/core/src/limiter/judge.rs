//! The verdicts: when to cut, what a cut has shown, and when a limit is asked to justify itself.
//!
//! A cut makes work wait, so each step is bounded by what it may cost. An endpoint has to be clearly slower than its own runs
//! vary; a cut ends as soon as it is clear, or once it has put off what waits for this long; a limit that is used up is raised
//! again and again, and given up when more is completed then. What is not clear ends without a limit.

use super::trial::{self, Finding, Stretch, Tick};
use super::{Limiter, Mode, WARM, patience};
use crate::time::{Millis, SECOND, Time};
use serde::{Deserialize, Serialize};

/// Speed from which on the endpoint may be asked for more.
const WELL: f64 = 0.85;
/// Completions that the speed remembers.
pub(super) const SPEED_MEMORY: f64 = 40.0;
/// Standard errors by which an endpoint must be slower than when it is well.
const SLOW_CLEAR: f64 = 3.0;
/// The least a cut leaves of the concurrency before it, and the most.
const CUT_FLOOR: f64 = 0.34;
const RECUT_FLOOR: f64 = 0.6;
const CUT_CEILING: f64 = 0.8;
/// Calls at once that count as few. Few calls are often slow because others use the same machine, and then a cut gives their
/// share away: it has to pay more.
const FEW: f64 = 10.0;
/// Where on the scale of a comparison concurrency begins to be the cause, for many calls and for few.
const CAUSE_FROM: f64 = 0.5;
const CAUSE_FROM_FEW: f64 = 0.8;
/// Standard errors from which on a cut is clear, and by how many one that costs too much must speak for concurrency.
const CUT_CLEAR: f64 = 1.3;
const LEANS: f64 = 1.0;
/// How long a cut may put off what waits: the longer of a time in seconds and a share of a mean run at the speed before the cut.
/// A speed below `PUT_OFF_SLOW` counts as that. A collapsed endpoint takes long to get rid of its runs, and what waits for it waits
/// anyway.
const PUT_OFF_S: f64 = 3.0;
const PUT_OFF_RUN: f64 = 0.25;
const PUT_OFF_SLOW: f64 = 0.1;
/// The longest that is looked at the calls that are left, in seconds.
const CUT_LASTS_S: f64 = 30.0;
/// The share of all slots that leaves none for more.
const FULL: f64 = 0.85;
/// Seconds until the next experiment after one that showed nothing: at first half of this, and at most.
pub(super) const EXPERIMENT_FIRST_S: f64 = 150.0;
const EXPERIMENT_MAX_S: f64 = 1_800.0;
/// The same where there are more calls that complete no more, or no slots left.
pub(super) const CROWDED_FIRST_S: f64 = 20.0;
const CROWDED_MAX_S: f64 = 480.0;
/// How much one epoch says about how irregularly runs end, and the most that it may say.
const SPREAD_SHARE: f64 = 0.1;
const SPREAD_MAX: f64 = 16.0;
/// By how much more irregular an endpoint is taken for that was never seen well, and the epochs after which it is known.
const SPREAD_UNKNOWN: f64 = 2.0;
const KNOWN_AFTER: f64 = 16.0;
/// By how much a limit that holds work back is raised to see whether it should.
const RAISE: f64 = 1.35;
/// Calls at once, as a multiple of the limit, from which on the raise shows.
const RAISED: f64 = 1.15;
/// Completions before a limit is challenged, after which a challenge ends even if it is not clear, and without which it does
/// not succeed.
const CHALLENGE_FROM: f64 = 6.0;
const CHALLENGE_ENDS: f64 = 25.0;
const CHALLENGE_LEAST: f64 = 5.0;
/// Standard errors by which a limit must prove right, and by which it is given up: one that is wrong costs more than one that
/// is missed.
const STANDS_CLEAR: f64 = 1.5;
const FALLS_CLEAR: f64 = 0.8;
/// Seconds between challenges that a limit stood, first and at most, and challenges after which it is trusted.
const PAUSE_FIRST_S: f64 = 15.0;
const PAUSE_MAX_S: f64 = 480.0;
const HELD: u32 = 2;
/// A limit that stood and is slow all the same goes down with this power of its speed, which is taken for no less than this. Where
/// calls beyond a knee share what it can do the power 1 leads to the knee, and where they hinder each other less does.
const STEP_DOWN: f64 = 0.6;
const STEP_DOWN_SLOW: f64 = 0.4;
/// Seconds after which a limit of which not half is used is raised. It holds nothing back then, and what was seen gets old.
const CALM_S: f64 = 600.0;
/// The share of the concurrency that was too much to which the limit comes back at once.
const NEAR_WALL: f64 = 0.85;

/// A limit that holds work back is raised for a while: if the endpoint then completes more, it was wrong.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Challenge {
    /// The limit to come back to, while one is under way.
    from: Option<f64>,
    /// What was seen at that limit, and above it.
    below: Stretch,
    above: Stretch,
    due: Time,
    pause_s: f64,
    /// Challenges in a row that the limit stood.
    stood: u32,
}

impl Challenge {
    #[cfg(test)]
    pub(super) fn is_under_way(&self) -> bool {
        self.from.is_some()
    }

    /// Due at once.
    fn new(below: Stretch, now: Time) -> Challenge {
        Challenge { below, due: now, pause_s: PAUSE_FIRST_S, ..Challenge::default() }
    }
}

fn later(now: Time, seconds: f64) -> Time {
    now.plus((seconds * SECOND as f64) as Millis)
}

impl Limiter {
    /// What one tick brought to a cut that is under way.
    pub(super) fn experiment(&mut self, tick: &Tick, now: Time) {
        let before = self.slow.at_once();
        if tick.at_once >= self.limit - 0.5 {
            self.put_off_s += tick.seconds * (1.0 - tick.at_once / before.max(1.0)).max(0.0);
        }
        // It begins when enough of the excess runs have ended.
        if tick.at_once <= (before * self.limit).sqrt() {
            self.epoch.add(tick);
        }
        let from = if before < FEW { CAUSE_FROM_FEW } else { CAUSE_FROM };
        let errors = trial::errors(&self.slow, &self.epoch, from, self.irregularity());
        let over = self.put_off_s > self.put_off_max() || self.epoch.seconds > CUT_LASTS_S;
        match Finding::of(errors, CUT_CLEAR, CUT_CLEAR) {
            Finding::Cause => self.caused(now),
            Finding::Unclear if over && errors > LEANS => self.caused(now),
            Finding::Unclear if !over => {}
            Finding::Innocent if !over && self.epoch.seconds < self.run_if_caused() => {}
            Finding::Innocent | Finding::Unclear => self.innocent(now),
        }
    }

    /// Seconds that a run takes under the limit that is tried, if concurrency is all that makes the endpoint slow. Before that
    /// nothing that began under it can have ended, where runs are alike.
    fn run_if_caused(&self) -> f64 {
        let faster = self.slow.at_once() / self.limit.max(1.0);
        self.healthy.mean() / (self.slow.speed() * faster).clamp(PUT_OFF_SLOW, 1.0)
    }

    /// How long the cut may put off what waits, in seconds.
    fn put_off_max(&self) -> f64 {
        if self.is_full(self.slow.at_once()) {
            return f64::INFINITY;
        }
        PUT_OFF_S.max(PUT_OFF_RUN * self.healthy.mean() / self.slow.speed().clamp(PUT_OFF_SLOW, 1.0))
    }

    /// Fewer calls were faster by as much as concurrency explains.
    fn caused(&mut self, now: Time) {
        let epoch = std::mem::take(&mut self.epoch);
        if epoch.speed() < self.rules.sick && self.limit > 1.0 {
            let proven = self.limit;
            self.cut(epoch, CUT_FLOOR);
            self.proven = Some(proven);
            return;
        }
        (self.expected, self.completed) = (epoch.expected, epoch.completed);
        self.hold(self.limit, epoch, now);
    }

    fn hold(&mut self, limit: f64, below: Stretch, now: Time) {
        self.mode = Mode::Hold;
        self.limit = limit;
        self.proven = None;
        self.step = 1.0;
        self.challenge = Challenge::new(below, now);
    }

    /// Fewer calls were not faster, or not clearly: what the cut before this one has proven is what is left of it.
    fn innocent(&mut self, now: Time) {
        let epoch = std::mem::take(&mut self.epoch);
        if let Some(limit) = self.proven.take() {
            self.hold(limit, Stretch::default(), now);
            return;
        }
        self.mode = Mode::External;
        self.patience.grow();
        self.climb.stop();
        let last = if epoch.seconds > 0.0 { &epoch } else { &self.slow };
        (self.expected, self.completed) = (last.expected, last.completed);
        self.crowded_s = self.crowded_s.max(CROWDED_FIRST_S);
        self.crowded_at = later(now, self.crowded_s);
        self.crowded_s = (2.0 * self.crowded_s).min(CROWDED_MAX_S);
        self.retry_s = (self.retry_s * 2.0).min(EXPERIMENT_MAX_S);
        self.retry_at = later(now, self.retry_s);
    }

    /// What one tick brought to a limit that holds; gives whether there is no more to say of it.
    pub(super) fn challenged(&mut self, tick: &Tick, now: Time) -> bool {
        let Some(from) = self.challenge.from else { return self.challenge_begins(tick, now) };
        if tick.at_once < from * RAISED {
            return tick.at_once >= from;
        }
        let spread = self.irregularity();
        let challenge = &mut self.challenge;
        challenge.above.add(tick);
        let errors = trial::errors(&challenge.below, &challenge.above, CAUSE_FROM, spread);
        let over = challenge.above.completed > CHALLENGE_ENDS;
        let stands = match Finding::of(errors, STANDS_CLEAR, FALLS_CLEAR) {
            Finding::Cause => true,
            Finding::Innocent if challenge.above.completed < CHALLENGE_LEAST => return true,
            Finding::Innocent => false,
            Finding::Unclear if over => errors > 0.0,
            Finding::Unclear => return true,
        };
        challenge.from = None;
        (self.expected, self.completed) = (challenge.above.expected, challenge.above.completed);
        self.epoch = Stretch::default();
        if stands {
            self.limit = from;
            let speed = challenge.below.speed();
            if errors > STANDS_CLEAR && speed < WELL {
                // It is slow at the limit as well, and by concurrency: fewer calls complete no less.
                self.limit = (from * speed.max(STEP_DOWN_SLOW).powf(STEP_DOWN)).ceil();
            }
            challenge.stood += 1;
            if challenge.stood >= HELD {
                self.patience.end();
            }
            challenge.due = later(now, challenge.pause_s);
            challenge.pause_s = (2.0 * challenge.pause_s).min(PAUSE_MAX_S);
            challenge.below = Stretch::default();
        } else {
            *challenge = Challenge::new(std::mem::take(&mut challenge.above), now);
            self.climb.stop();
        }
        self.open_if_grown();
        true
    }

    /// Raises a limit that is used up, once it is due.
    fn challenge_begins(&mut self, tick: &Tick, now: Time) -> bool {
        let limit = self.limit.floor();
        if tick.at_once > limit + 0.5 {
            // What began under another limit says nothing about this one.
            return true;
        }
        // What an endpoint refuses is its own word.
        if self.wall.is_some() || now < self.grow_after || tick.at_once < limit - 0.5 {
            return false;
        }
        let challenge = &mut self.challenge;
        if challenge.below.completed > CHALLENGE_ENDS {
            challenge.below = Stretch::default();
        }
        challenge.below.add(tick);
        if now < challenge.due || challenge.below.completed < CHALLENGE_FROM || self.speed < self.rules.sick {
            return false;
        }
        challenge.from = Some(self.limit);
        challenge.above = Stretch::default();
        self.limit = (self.limit * RAISE).ceil();
        true
    }

    /// Whether this number of calls at once uses up all the workers there may be: work waits then whatever is tried.
    fn is_full(&self, at_once: f64) -> bool {
        self.rules.max.is_some_and(|max| at_once >= FULL * f64::from(max))
    }

    /// Takes a verdict at the end of an epoch.
    pub(super) fn judge(&mut self, epoch: Stretch, now: Time) {
        let at_once = epoch.at_once();
        let speed = epoch.speed();
        let sick = self.rules.sick;
        let clear = self.speed * (SLOW_CLEAR * (self.irregularity() / SPEED_MEMORY).sqrt()).exp() < WELL;
        let slow = self.speed < sick && speed < sick + 0.1 && clear;
        let bad = slow && at_once >= 2.0;
        match self.mode {
            Mode::Open if !bad => {
                self.well_epochs = self.well_epochs.saturating_add(1);
                self.patience.rest();
            }
            Mode::Open if self.patience.is_over(&epoch, now) => self.cut(epoch, CUT_FLOOR),
            Mode::Open | Mode::Cut => {}
            // Slowness is the price of what it completes, unless it completes less than it did.
            Mode::Hold if bad && !self.climb.accounts_for(epoch.rate()) => {
                let proven = (self.challenge.stood >= HELD).then_some(self.limit);
                self.cut(epoch, RECUT_FLOOR);
                self.proven = proven;
            }
            // Slow with a single call: it is not the calls, unless the endpoint itself said that more are too much.
            Mode::Hold if slow && self.limit < 2.0 && self.wall.is_none() => self.innocent(now),
            Mode::Hold => self.probe(at_once, &epoch, now),
            Mode::External if self.speed > WELL => {
                self.mode = Mode::Open;
                self.retry_s = EXPERIMENT_FIRST_S;
                self.crowded_s = CROWDED_FIRST_S;
            }
            Mode::External => {
                let crowded = patience::crowded(patience::load(&self.slow), (at_once, speed));
                let full = bad && self.is_full(at_once);
                if ((crowded || full) && now > self.crowded_at) || (now > self.retry_at && bad) {
                    self.cut(epoch, CUT_FLOOR);
                }
            }
        }
    }

    /// How irregularly runs end here, as far as it is known: of an endpoint that was seen well for a short time only, a slow spell
    /// is no surprise.
    fn irregularity(&self) -> f64 {
        let unknown = (1.0 - f64::from(self.well_epochs) / KNOWN_AFTER).max(0.0);
        self.spread + SPREAD_UNKNOWN * unknown
    }

    /// Learns how irregularly runs end while nothing is wrong: by how much two epochs in a row differ, compared with what
    /// chance alone would make of it.
    pub(super) fn learn_spread(&mut self, epoch: &Stretch) {
        let (expected, completed) =
            std::mem::replace(&mut self.last_epoch, (epoch.expected, epoch.completed));
        if expected < 1.0 {
            return;
        }
        let speed = (completed + 0.5) / (expected + 0.5);
        let variance = (epoch.expected * speed).max(1.0) * (1.0 + epoch.expected / expected);
        let seen = ((epoch.completed - epoch.expected * speed).powi(2) / variance).min(SPREAD_MAX);
        self.spread = (self.spread + SPREAD_SHARE * (seen - self.spread)).max(1.0);
    }

    /// Raises the limit while the endpoint is well and uses it.
    pub(super) fn probe(&mut self, at_once: f64, epoch: &Stretch, now: Time) {
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
            if self.calm_s > CALM_S {
                self.limit *= 1.5;
                self.calm_s = 0.5 * CALM_S;
                self.climb.stop();
            }
        }
        self.open_if_grown();
    }

    /// After an overload answers alone raise the limit again: at once to just below what was too much, and beyond it by
    /// single steps, as long as too few runs were learned to judge the speed.
    pub(super) fn regain(&mut self, now: Time) {
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

    pub(super) fn grow(&mut self) {
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

    fn cut(&mut self, slow: Stretch, floor: f64) {
        let (at_once, speed) = (slow.at_once(), slow.speed());
        self.slow = slow;
        self.mode = Mode::Cut;
        // It is slow with less than what it refuses, so that is not what bounds it.
        self.wall = None;
        self.proven = None;
        self.climb.stop();
        self.challenge = Challenge::default();
        self.put_off_s = 0.0;
        self.limit = (at_once * speed.clamp(floor, CUT_CEILING)).ceil().max(1.0);
        self.ceiling = self.ceiling.max(at_once * 1.5);
        (self.expected, self.completed) = (0.0, 0.0);
        self.speed = speed.max(0.05);
        self.step = 1.0;
    }
}
