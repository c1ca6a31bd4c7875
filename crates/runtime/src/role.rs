//! What a role is, the loop that drives it, and what is kept of its rounds.
//!
//! A role does one thing again and again: a round, then a rest, until time or a nudge brings the next one. The driver keeps
//! when each round began, how long it took and what came of it, so that `doctor` can show a role that fails or hangs.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::{Future, pending, ready};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a round came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    /// In words, if anything was done that is worth a word.
    did: Option<String>,
    /// How long the role rests, if nothing nudges it.
    rest: Duration,
}

impl Round {
    pub(crate) fn then_rest(rest: Duration) -> Round {
        Round { did: None, rest }
    }

    pub(crate) fn did(self, text: impl Into<String>) -> Round {
        Round { did: Some(text.into()), ..self }
    }
}

/// One duty of a node. It waits in [`nudged`](Role::nudged) and in the driver; whatever else it waits for is part of a round.
pub(crate) trait Role: Send {
    /// What the log and `doctor` call it.
    const NAME: &'static str;
    /// What a failed round means, before its error in the log.
    const TROUBLE: &'static str;
    /// A round may take long, and may be dropped wherever it waits, so that a stop does not wait for it.
    const LONG: bool = false;
    type Error: Display + Send;

    /// How long it waits before its first round.
    fn first(&self) -> Duration {
        Duration::ZERO
    }

    /// How long it rests after a round that failed. Nudges wait as well, so that what fails is not asked in a tight loop.
    fn again(&self) -> Duration;

    fn round(&mut self) -> impl Future<Output = Result<Round, Self::Error>> + Send;

    /// Returns when the next round is not to wait for the end of the rest. It may be dropped at any time.
    fn nudged(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// The last thing it does when the node stops.
    fn end(&mut self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// Drives a role until the node stops.
pub(crate) async fn drive<R: Role>(mut role: R, runs: Arc<Runs>, stop: CancellationToken) {
    runs.add(R::NAME, R::LONG);
    let mut rest = role.first();
    let mut failed = false;
    loop {
        if rest.is_zero() && stop.is_cancelled() {
            break;
        }
        if !rest.is_zero() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = role.nudged(), if !failed => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
        let round = runs.watch(R::NAME, role.round());
        let came = if R::LONG {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                came = round => came,
            }
        } else {
            round.await
        };
        failed = came.is_err();
        rest = match came {
            Ok(round) => round.rest,
            Err(error) => {
                // While the node stops much of what a role needs is gone already.
                if !stop.is_cancelled() {
                    tracing::warn!(%error, role = R::NAME, "{}; trying again", R::TROUBLE);
                }
                role.again()
            }
        };
    }
    role.end().await;
}

/// What a role did so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    /// Rounds that ended.
    pub(crate) rounds: u64,
    /// Rounds in a row, up to the last one, that failed.
    pub(crate) failed: u64,
    /// Since when the round under way runs.
    pub(crate) since: Option<Instant>,
    /// Its rounds may take long.
    pub(crate) long: bool,
    /// When the last round ended, and how long it took.
    pub(crate) last: Option<(Instant, Duration)>,
    /// Why the last round failed, if it did.
    pub(crate) error: Option<String>,
    /// The last thing that it did which is worth a word, and when.
    pub(crate) did: Option<(Instant, String)>,
}

/// What all roles of a node did, by their names.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    of: Mutex<BTreeMap<&'static str, Run>>,
}

impl Runs {
    pub(crate) fn all(&self) -> BTreeMap<&'static str, Run> {
        self.of.lock().clone()
    }

    /// A role shows before its first round.
    fn add(&self, name: &'static str, long: bool) {
        self.of.lock().entry(name).or_default().long = long;
    }

    /// Follows one round.
    async fn watch<E: Display>(
        &self,
        name: &'static str,
        round: impl Future<Output = Result<Round, E>>,
    ) -> Result<Round, E> {
        let begun = self.begin(name);
        let came = round.await;
        let ended = self.end(name, begun, |run| run.error = came.as_ref().err().map(ToString::to_string));
        let did = came.as_ref().ok().and_then(|round| round.did.clone());
        if let Some(did) = did {
            self.of.lock().entry(name).or_default().did = Some((ended, did));
        }
        came
    }

    /// Follows one piece of work of a role that has a loop of its own.
    pub(crate) async fn watch_work<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        let begun = self.begin(name);
        let came = work.await;
        self.end(name, begun, |run| run.error = None);
        came
    }

    fn begin(&self, name: &'static str) -> Instant {
        let now = Instant::now();
        self.of.lock().entry(name).or_default().since = Some(now);
        now
    }

    fn end(&self, name: &'static str, begun: Instant, outcome: impl FnOnce(&mut Run)) -> Instant {
        let now = Instant::now();
        let mut all = self.of.lock();
        let run = all.entry(name).or_default();
        outcome(run);
        run.rounds += 1;
        run.failed = if run.error.is_some() { run.failed + 1 } else { 0 };
        run.since = None;
        run.last = Some((now, now - begun));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{Notify, mpsc};
    use tokio::task::JoinSet;

    /// Fails as often as it is told to, then does something.
    struct Clumsy {
        failures: u32,
        nudge: Arc<Notify>,
        rounds: mpsc::Sender<Instant>,
    }

    impl Role for Clumsy {
        const NAME: &'static str = "clumsy";
        const TROUBLE: &'static str = "it stumbled";
        type Error = String;

        fn again(&self) -> Duration {
            Duration::from_secs(5)
        }

        async fn round(&mut self) -> Result<Round, String> {
            let _ = self.rounds.send(Instant::now()).await;
            if self.failures > 0 {
                self.failures -= 1;
                return Err("a stone".to_owned());
            }
            Ok(Round::then_rest(Duration::from_secs(60)).did("walked"))
        }

        async fn nudged(&mut self) {
            self.nudge.notified().await;
        }

        async fn end(&mut self) {
            self.failures = 0;
            let _ = self.rounds.send(Instant::now()).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_fails_is_tried_again_and_a_nudge_begins_one_early() {
        let (rounds, mut seen) = mpsc::channel(16);
        let (nudge, runs, stop) =
            (Arc::new(Notify::new()), Arc::new(Runs::default()), CancellationToken::new());
        let role = Clumsy { failures: 2, nudge: nudge.clone(), rounds };
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(role, runs.clone(), stop.clone()));
        let mut next = async || seen.recv().await.expect("a round").duration_since(begun).as_secs();
        assert_eq!(next().await, 0);
        nudge.notify_one();
        assert_eq!(next().await, 5, "a nudge does not hurry what failed");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let run = runs.all()["clumsy"].clone();
        assert_eq!((run.rounds, run.failed, run.error.as_deref()), (2, 2, Some("a stone")));
        assert!(run.since.is_none() && run.did.is_none(), "{run:?}");
        assert_eq!(next().await, 10);
        assert_eq!(next().await, 10, "the nudge was kept");
        assert_eq!(next().await, 70);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let run = runs.all()["clumsy"].clone();
        assert_eq!((run.rounds, run.failed, run.error), (5, 0, None));
        assert_eq!(run.did.expect("it did something").1, "walked");
        stop.cancel();
        assert_eq!(next().await, 71, "its end");
        tasks.join_next().await.expect("a task").expect("it ends");
    }

    /// Always fails, and wants no rest.
    struct Restless;

    impl Role for Restless {
        const NAME: &'static str = "restless";
        const TROUBLE: &'static str = "it finds no rest";
        type Error = String;

        fn again(&self) -> Duration {
            Duration::ZERO
        }

        async fn round(&mut self) -> Result<Round, String> {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err("a dream".to_owned())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_without_a_rest_hears_of_the_stop() {
        let (runs, stop) = (Arc::new(Runs::default()), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(Restless, runs.clone(), stop.clone()));
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        stop.cancel();
        tasks.join_next().await.expect("a task").expect("it ends");
        assert_eq!(runs.all()["restless"].failed, 3);
    }

    /// Never comes to the end of a round.
    struct Lost;

    impl Role for Lost {
        const NAME: &'static str = "lost";
        const TROUBLE: &'static str = "it is lost";
        const LONG: bool = true;
        type Error = String;

        fn again(&self) -> Duration {
            Duration::from_secs(1)
        }

        async fn round(&mut self) -> Result<Round, String> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_round_shows_and_does_not_hold_up_the_stop() {
        let (runs, stop) = (Arc::new(Runs::default()), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(Lost, runs.clone(), stop.clone()));
        tokio::time::sleep(Duration::from_secs(90)).await;
        let run = runs.all()["lost"].clone();
        assert_eq!((run.rounds, run.long), (0, true));
        assert_eq!(run.since.map(|since| since.elapsed().as_secs()), Some(90));
        stop.cancel();
        tasks.join_next().await.expect("a task").expect("it ends");
    }
}
