//! The pauses between tries of one thing: each is twice the one before, up to the longest.

use std::time::Duration;

/// Pauses that double. They end when their owner stops trying.
#[derive(Debug, Clone)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    coming: Duration,
}

impl Pauses {
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Pauses {
        Pauses { first, longest, coming: first }
    }

    /// How long to pause after one more try that came to nothing.
    #[must_use]
    pub fn after_failure(&mut self) -> Duration {
        let pause = self.coming;
        self.coming = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// A try came to something: the pauses begin with the first again.
    pub fn restart(&mut self) {
        self.coming = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again() {
        let mut pauses = Pauses::new(Duration::from_millis(300), Duration::from_secs(1));
        let mut taken = || pauses.after_failure().as_millis();
        assert_eq!([taken(), taken(), taken(), taken()], [300, 600, 1_000, 1_000]);
        pauses.restart();
        assert_eq!(pauses.after_failure().as_millis(), 300);
    }
}
