//! Pauses and patience while a run is followed.

use super::{Answer, HttpClient, Request};
use crate::config::PollSettings;
use crate::contract::{EngineFailure, Reached, StopSignal};
use enginehouse_core::failure::FailureKind;
use std::time::Duration;
use tokio::time::Instant;

/// The pace of one run's status polls. A poll that fails is not a failed attempt: the engine may be out of reach for
/// `unreachable_after` before the run is let go.
pub(crate) struct Poll {
    settings: PollSettings,
    pause: Duration,
    /// When the engine was last seen well, once it is not.
    unreachable_since: Option<Instant>,
    stop: StopSignal,
    stop_seen: bool,
}

impl Poll {
    pub(super) fn new(settings: PollSettings, stop: StopSignal) -> Poll {
        let stop_seen = stop.requested().is_some();
        Poll { settings, pause: settings.first, unreachable_since: None, stop, stop_seen }
    }

    /// Waits for the next poll; each pause is longer than the one before. A wish to stop ends the pause and makes the
    /// next ones short again, because the end is near.
    pub(crate) async fn pause(&mut self) {
        self.pause_at_least(Duration::ZERO).await;
    }

    async fn pause_at_least(&mut self, span: Duration) {
        let pause = self.pause.max(span);
        self.pause = (self.pause * 3 / 2).min(self.settings.longest);
        if self.stop_seen {
            tokio::time::sleep(pause).await;
            return;
        }
        tokio::select! {
            biased;
            _ = self.stop.wait() => {
                self.stop_seen = true;
                self.pause = self.settings.first;
            }
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// The next pauses are short again: something has just happened.
    pub(crate) fn quicken(&mut self) {
        self.pause = self.settings.first;
    }

    /// The engine gave a sensible answer.
    pub(crate) fn well(&mut self) {
        self.unreachable_since = None;
    }

    /// A poll failed. `Err` when the engine has been out of reach for too long or the failure is no passing one;
    /// the run's end is then unknown, and a later attempt takes it up again.
    pub(crate) fn missed(&mut self, failure: EngineFailure) -> Result<(), EngineFailure> {
        if !is_passing(failure.kind) {
            return Err(failure.with_reached(Reached::Yes));
        }
        let since = *self.unreachable_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.settings.unreachable_after {
            return Err(failure.with_reached(Reached::Maybe));
        }
        Ok(())
    }

    /// Sends what `make` builds until `read` can make sense of an answer, pausing between the tries.
    pub(crate) async fn until_read<T>(
        &mut self,
        client: &HttpClient,
        make: impl Fn() -> Result<Request, EngineFailure>,
        read: impl Fn(Answer) -> Result<T, EngineFailure>,
    ) -> Result<T, EngineFailure> {
        loop {
            let failure = match client.send(make()?).await.and_then(&read) {
                Ok(value) => {
                    self.well();
                    return Ok(value);
                }
                Err(failure) => client.scrubbed(failure),
            };
            // A busy engine may name its own pause, but a run is looked at again within the patience of its poll.
            let wait = failure.retry_after.map_or(Duration::ZERO, Duration::from_millis);
            self.missed(failure)?;
            self.pause_at_least(wait.min(self.settings.unreachable_after)).await;
        }
    }
}

/// Kinds of failure that a later poll may not meet again.
fn is_passing(kind: FailureKind) -> bool {
    use FailureKind::{BadResponse, Connection, RateLimited, Unavailable};
    matches!(kind, Connection | Unavailable | RateLimited | BadResponse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Stop;

    fn settings() -> PollSettings {
        PollSettings {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(2),
            unreachable_after: Duration::from_secs(30),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_the_longest_and_a_stop_shortens_them() {
        let (stop, signal) = StopSignal::new();
        let mut poll = Poll::new(settings(), signal);
        let mut spans = Vec::new();
        for _ in 0..8 {
            let begun = Instant::now();
            poll.pause().await;
            spans.push(begun.elapsed().as_millis());
        }
        assert_eq!(spans[..3], [250, 375, 563]);
        assert_eq!(spans[7], 2_000);
        stop.send_replace(Some(Stop::Cancel));
        let begun = Instant::now();
        poll.pause().await;
        assert_eq!(begun.elapsed().as_millis(), 0);
        poll.pause().await;
        assert_eq!(begun.elapsed().as_millis(), 250);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_after_the_engine_was_away_for_too_long() {
        let (_stop, signal) = StopSignal::new();
        let mut poll = Poll::new(settings(), signal);
        let away = || {
            EngineFailure::new(FailureKind::Connection, "connection_refused", "").with_reached(Reached::No)
        };
        assert!(poll.missed(away()).is_ok());
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(poll.missed(away()).is_ok());
        poll.well();
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(poll.missed(away()).is_ok());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(poll.missed(away()).unwrap_err().reached, Reached::Maybe);
        let refused = EngineFailure::new(FailureKind::Auth, "unauthorized", "");
        assert_eq!(poll.missed(refused.clone()).unwrap_err(), refused);
    }
}
