//! What the connections and the follower of events note while they work.

use super::plan::{Answered, Plan};
use super::report::{Counts, Report};
use crate::commands::Failure;
use enginehouse_api::client::ClientError;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Ends that no submit asked for yet; what is above it is of someone else's executions.
const EARLY_MAX: usize = 100_000;
/// The longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// This many refusals before anything was accepted say that nothing will be.
const REFUSALS_MAX: u64 = 100;

pub(super) struct Shared {
    noted: Mutex<Noted>,
    /// Something ended.
    pub(super) ended: Notify,
}

pub(super) struct Noted {
    calls: Histogram<u64>,
    pub(super) submitted: u64,
    pub(super) ended: u64,
    failed: u64,
    last_end: Option<Instant>,
    refused: u64,
    errors: BTreeMap<String, u64>,
    /// Submitted and not known to have ended.
    pub(super) open: HashSet<String>,
    /// Ended before their submit was answered, or someone else's: whether it completed, and when.
    early: HashMap<String, (bool, Instant)>,
    /// The furthest that an open loop was behind its own clock.
    behind: Duration,
}

impl Shared {
    pub(super) fn new() -> Result<Shared, Failure> {
        let calls = Histogram::new_with_bounds(1, LONGEST_US, 3)
            .map_err(|error| Failure::call(format!("no histogram: {error}")))?;
        let noted = Noted {
            calls,
            submitted: 0,
            ended: 0,
            failed: 0,
            last_end: None,
            refused: 0,
            errors: BTreeMap::new(),
            open: HashSet::new(),
            early: HashMap::new(),
            behind: Duration::ZERO,
        };
        Ok(Shared { noted: Mutex::new(noted), ended: Notify::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    /// A call was answered: it took this long, and was sent this long after it was due.
    pub(super) fn answered(&mut self, took: Duration, behind: Duration, executions: Vec<Answered>) {
        self.calls.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).max(1));
        self.behind = self.behind.max(behind);
        for one in executions {
            self.submitted += 1;
            match (one.completed, self.early.remove(&one.id)) {
                (Some(completed), _) => self.ends(completed, Instant::now()),
                (None, Some((completed, at))) => self.ends(completed, at),
                (None, None) => drop(self.open.insert(one.id)),
            }
        }
    }

    fn ends(&mut self, completed: bool, at: Instant) {
        self.ended += 1;
        self.failed += u64::from(!completed);
        self.last_end = self.last_end.max(Some(at));
    }

    /// By its event.
    pub(super) fn end_seen(&mut self, id: String, completed: bool) {
        if self.open.remove(&id) {
            self.ends(completed, Instant::now());
        } else if self.early.len() < EARLY_MAX {
            self.early.insert(id, (completed, Instant::now()));
        }
    }

    pub(super) fn refused(&mut self, error: &ClientError) {
        let name = match (error.code(), error) {
            (Some(code), _) => code.as_str().to_owned(),
            (None, ClientError::Unreachable { .. }) => "unreachable".to_owned(),
            (None, ClientError::Lost { .. }) => "answer lost".to_owned(),
            (None, _) => "unexpected answer".to_owned(),
        };
        self.refused += 1;
        *self.errors.entry(name).or_default() += 1;
    }

    /// Nothing is accepted, so there is nothing to measure.
    pub(super) fn is_hopeless(&self) -> bool {
        self.submitted == 0 && self.refused >= REFUSALS_MAX
    }

    pub(super) fn report(
        &self,
        plan: &Plan,
        begun: Instant,
        submitted_in: Duration,
        interrupted: bool,
    ) -> Report {
        let counts = Counts {
            submitted: self.submitted,
            ended: self.ended,
            failed: self.failed,
            submitted_in,
            ended_in: self.last_end.map_or(submitted_in, |end| end - begun),
            behind: self.behind,
            interrupted,
        };
        Report::new(plan, counts, &self.errors, &self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(noted: &mut Noted, id: &str, completed: Option<bool>) {
        let one = Answered { id: id.to_owned(), completed };
        noted.answered(Duration::from_millis(1), Duration::ZERO, vec![one]);
    }

    #[test]
    fn each_end_counts_once_in_whichever_order_and_strangers_never() {
        let shared = Shared::new().expect("a histogram");
        let mut noted = shared.lock();
        noted.end_seen("early".to_owned(), false);
        noted.end_seen("stranger".to_owned(), false);
        assert_eq!((noted.ended, noted.failed), (0, 0));
        answered(&mut noted, "early", None);
        answered(&mut noted, "late", None);
        answered(&mut noted, "waited", Some(true));
        assert_eq!((noted.submitted, noted.ended, noted.failed, noted.open.len()), (3, 2, 1, 1));
        noted.end_seen("late".to_owned(), true);
        noted.end_seen("late".to_owned(), true);
        assert_eq!((noted.ended, noted.failed, noted.open.len()), (3, 1, 0));
    }

    #[test]
    fn refusals_are_hopeless_only_before_the_first_success() {
        let shared = Shared::new().expect("a histogram");
        let mut noted = shared.lock();
        let refusal = ClientError::Invalid("no".to_owned());
        (1..REFUSALS_MAX).for_each(|_| noted.refused(&refusal));
        assert!(!noted.is_hopeless());
        noted.refused(&refusal);
        assert!(noted.is_hopeless());
        answered(&mut noted, "a", None);
        assert!(!noted.is_hopeless());
    }
}
