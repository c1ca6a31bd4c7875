//! The account of a limit: since when it is in force, what lowered it, and what it has cost what waits.
//!
//! It only watches: nothing that is decided goes by it. It is kept with the limiter, so a restart does not begin it again.

use super::{Limiter, Mode, TICK_MAX_S};
use crate::time::{SECOND, Time};
use serde::{Deserialize, Serialize};

/// The speed now over the speed before the limit from which on the limit counts as worth it.
const ROSE: f64 = 1.2;
/// Speed from which on runs count as usual ones, and how many of them the usual run time remembers. What is learned for the
/// verdicts also holds runs from when the endpoint began to be slow, and would make it look less slow than it is.
const USUAL: f64 = 0.85;
const USUAL_MEMORY: u32 = 300;

/// What a limit was lowered for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The endpoint completed less than its own usual run times let expect.
    Slow(Slowness),
    /// It answered that it is too much (429, 503).
    Refused,
}

/// What was seen of a slow endpoint before its limit was lowered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slowness {
    /// The mean run while nothing was wrong.
    pub usual_s: f64,
    /// The mean run then, by what calls spent there for each that ended, but no longer than the longest run that was seen;
    /// `None` where none ended.
    pub run_s: Option<f64>,
    /// What was completed compared with what was to be expected, 1 being as much.
    pub speed: f64,
    /// Runs that ended, and those of the same ages that usually do, within this many seconds.
    pub ended: f64,
    pub expected: f64,
    pub seconds: f64,
}

/// The last time that a limit was lowered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lowered {
    pub at: Time,
    /// The learned limit before; `None`: there was none.
    pub from: Option<u32>,
    pub to: u32,
    pub cause: Cause,
}

/// A limit in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    /// Since when there has been a limit without a break.
    pub since: Time,
    pub lowered: Lowered,
    /// The speed before there was a limit.
    pub speed_before: f64,
    /// Seconds that executions waited for this limit alone since `since`, all of them together.
    pub waited_s: f64,
    /// Executions that waited for it alone at the last look.
    pub held: u64,
    /// The last look at which some did.
    pub held_at: Option<Time>,
}

/// What was seen of the limiter at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Seen {
    mode: Mode,
    limit: Option<u32>,
    cut: Option<Time>,
}

/// See the module's text.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Account {
    seen: Option<Seen>,
    holding: Option<Holding>,
    /// The mean of this many runs while nothing was wrong, in seconds.
    usual_s: f64,
    usual_runs: u32,
    /// The longest run that ended since it was well, in seconds.
    #[serde(skip)]
    longest_s: f64,
    /// When it was last looked at what waits; the time between two processes is not charged.
    #[serde(skip)]
    looked: Option<Time>,
}

impl Limiter {
    /// The account of the limit in force.
    #[must_use]
    pub fn holding(&self) -> Option<&Holding> {
        self.account.holding.as_ref()
    }

    /// Whether the endpoint is clearly faster than before there was a limit. Nothing is faster than well: beyond its usual speed
    /// the figure says that little was learned of it yet.
    #[must_use]
    pub fn speed_rose(&self) -> bool {
        self.holding().is_some_and(|holding| self.speed().min(1.0) >= ROSE * holding.speed_before)
    }

    /// Takes in that this many executions wait for this limit alone, as they have since the last look; gives the seconds that
    /// are charged for it.
    pub(crate) fn hold_back(&mut self, held: u64, now: Time) -> f64 {
        let looked = self.account.looked.replace(now).unwrap_or(now);
        let Some(holding) = &mut self.account.holding else { return 0.0 };
        let span = now.since(looked.max(holding.since)) as f64 / SECOND as f64;
        let waited = held as f64 * span.min(TICK_MAX_S);
        holding.waited_s += waited;
        holding.held = held;
        if held > 0 {
            holding.held_at = Some(now);
        }
        waited
    }

    /// How many runs ended since the last tick, and their seconds, before the tick takes them.
    pub(super) fn just_ended(&mut self) -> (u32, f64) {
        let longest_s = self.just.iter().copied().fold(self.account.longest_s, f64::max);
        self.account.longest_s = longest_s;
        (u32::try_from(self.just.len()).unwrap_or(u32::MAX), self.just.iter().sum())
    }

    /// Takes in what ended before the tick, by how well the endpoint is after it.
    pub(super) fn note_runs(&mut self, (count, sum_s): (u32, f64)) {
        if self.speed < USUAL {
            return;
        }
        let account = &mut self.account;
        account.longest_s = 0.0;
        if count == 0 || self.mode != Mode::Open {
            return;
        }
        account.usual_runs = account.usual_runs.saturating_add(count).min(USUAL_MEMORY.max(count));
        let share = f64::from(count) / f64::from(account.usual_runs);
        account.usual_s += share * (sum_s / f64::from(count) - account.usual_s);
    }

    /// Follows what became of the limit.
    pub(super) fn keep_account(&mut self, now: Time) {
        let seen = Seen { mode: self.mode, limit: self.limit(), cut: self.last_cut };
        let before = self.account.seen.replace(seen);
        let Some(to) = seen.limit else {
            self.account.holding = None;
            return;
        };
        let refused = match before {
            Some(before) => seen.mode == Mode::Hold && before.cut != seen.cut,
            None => self.wall.is_some(),
        };
        let tried = seen.mode == Mode::Cut
            && before.is_some_and(|before| before.mode != Mode::Cut || before.limit != seen.limit);
        let held = self.account.holding.take();
        let holding = match held {
            Some(mut holding) if !refused && !tried => {
                let lowered = &mut holding.lowered;
                // The refusals of one burst are told one after the other, and lower the limit together.
                if lowered.cause == Cause::Refused && now.since(lowered.at) < SECOND {
                    lowered.to = lowered.to.min(to);
                }
                holding
            }
            held => {
                let cause = if refused { Cause::Refused } else { Cause::Slow(self.slowness(now)) };
                let from = before.and_then(|before| before.limit);
                self.lower(held, Lowered { at: now, from, to, cause })
            }
        };
        self.account.holding = Some(holding);
    }

    /// The account after a limit was lowered, or set.
    fn lower(&self, held: Option<Holding>, lowered: Lowered) -> Holding {
        let speed_before = match lowered.cause {
            Cause::Slow(slow) => slow.speed,
            Cause::Refused => self.speed(),
        };
        let since = lowered.at;
        let fresh = Holding { since, lowered, speed_before, waited_s: 0.0, held: 0, held_at: None };
        held.map_or(fresh, |held| Holding { lowered, ..held })
    }

    fn slowness(&self, now: Time) -> Slowness {
        let (slow, account) = (&self.slow, &self.account);
        let ages = self.running.values().map(|run| now.since(run.since) as f64 / SECOND as f64);
        // While calls that began together are yet to end, few ends would make each look far longer than any has been.
        let longest_s = ages.fold(account.longest_s, f64::max);
        Slowness {
            usual_s: if account.usual_runs > 0 { account.usual_s } else { self.healthy.mean() },
            run_s: (slow.completed >= 1.0).then(|| (slow.call_seconds / slow.completed).min(longest_s)),
            speed: slow.speed(),
            ended: slow.completed,
            expected: slow.expected,
            seconds: slow.seconds,
        }
    }
}
