//! Clocks of a store: one that follows the machine without ever stepping back, and one that a test moves by hand.

use crate::Clock;
use enginehouse_core::time::{Millis, Time};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How much of the time that passed may go into correcting the clock: one part in this many.
///
/// A correction changes the length of every span measured meanwhile by as much, so it must stay well below the fifth of
/// a lease that a worker keeps as its margin when it lets go.
const SLEW_PART: i128 = 20;

/// The wall clock at start plus monotonic time. A step of the wall clock does not move it; it approaches the wall clock
/// by at most a twentieth of the time that passes, and never runs backwards.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    reading: Mutex<Reading>,
}

/// The clock at one instant, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Reading {
    monotonic: i128,
    value: i128,
}

impl Reading {
    /// The reading at `monotonic`, moved towards `wall` as far as the slew allows.
    fn advanced(self, monotonic: i128, wall: i128) -> Reading {
        let passed = (monotonic - self.monotonic).max(0);
        let unslewed = self.value + passed;
        let most = passed / SLEW_PART;
        let correction = (wall - unslewed).clamp(-most, most);
        Reading { monotonic: self.monotonic.max(monotonic), value: unslewed + correction }
    }
}

impl SystemClock {
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock {
            started: Instant::now(),
            reading: Mutex::new(Reading { monotonic: 0, value: wall_clock() }),
        }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let mut reading = self.reading.lock();
        *reading = reading.advanced(nanoseconds(self.started.elapsed()), wall_clock());
        Time(i64::try_from(reading.value / 1_000_000).unwrap_or(i64::MAX))
    }

    fn raise_to(&self, least: Time) {
        let mut reading = self.reading.lock();
        reading.value = reading.value.max(i128::from(least.0) * 1_000_000);
    }
}

fn nanoseconds(span: Duration) -> i128 {
    i128::try_from(span.as_nanos()).unwrap_or(i128::MAX)
}

/// A clock before 1970 counts as 1970: nothing sensible can be scheduled by it anyway.
fn wall_clock() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicI64,
}

impl ManualClock {
    #[must_use]
    pub fn new(now: Time) -> ManualClock {
        ManualClock { now: AtomicI64::new(now.0) }
    }

    pub fn advance(&self, span: Millis) {
        let span = i64::try_from(span).unwrap_or(i64::MAX);
        self.now.fetch_add(span, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time(self.now.load(Ordering::SeqCst))
    }

    fn raise_to(&self, least: Time) {
        self.now.fetch_max(least.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn a_jump_of_the_wall_clock_is_followed_slowly_and_never_backwards() {
        // (seconds passed, wall clock, expected value), each step following from the one before.
        let steps = [
            (10, 10, 10 * SECOND),
            // The wall clock jumps an hour ahead: 20 s bring one second of it.
            (30, 3_630, 31 * SECOND),
            // It jumps back to 1970: the clock goes on, one twentieth slower.
            (50, 0, 50 * SECOND),
            (70, 0, 69 * SECOND),
            // Within reach it is met exactly.
            (90, 90, 89 * SECOND + SECOND),
        ];
        let mut reading = Reading { monotonic: 0, value: 0 };
        for (passed, wall, expected) in steps {
            let next = reading.advanced(passed * SECOND, wall * SECOND);
            assert!(next.value >= reading.value);
            assert_eq!(next.value, expected, "after {passed} s with the wall clock at {wall}");
            reading = next;
        }
        let same = reading.advanced(0, 0);
        assert_eq!(same.value, reading.value, "a late reading of the monotonic clock moves nothing back");
    }

    #[test]
    fn it_starts_at_the_wall_clock_and_is_raised_but_never_lowered() {
        let clock = SystemClock::new();
        let start = clock.now();
        assert!(start.0 > 1_600_000_000_000);
        clock.raise_to(start.plus(1_000_000));
        assert!(clock.now() >= start.plus(1_000_000));
        clock.raise_to(start);
        assert!(clock.now() >= start.plus(1_000_000));
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = ManualClock::new(Time(5));
        clock.advance(10);
        clock.raise_to(Time(3));
        assert_eq!(clock.now(), Time(15));
        clock.raise_to(Time(30));
        assert_eq!(clock.now(), Time(30));
    }
}
