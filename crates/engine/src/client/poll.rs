//! Pauses and patience while a run is followed.
//!
//! An odd answer about a run that is known (a refused key, a web page, a status without a meaning) says something of the
//! way to the engine, not of the run: it is looked at again, for [`PollSettings::unreachable_after`] and [`LOOKS_MIN`]
//! times at least, before the attempt ends. Even the engine's own "no such run" has to be seen [`LOOKS_MIN`] times,
//! because some engines show a run only some time after they took it.

use super::{Answer, HttpClient, Request};
use crate::config::PollSettings;
use crate::contract::{EngineFailure, Reached, StopSignal};
use enginehouse_core::failure::FailureKind;
use std::time::Duration;
use tokio::time::Instant;

/// Looks in a row before what they say is believed.
const LOOKS_MIN: u32 = 4;
/// How long an engine may be slow to show a run that it took; `unreachable_after` where that is shorter.
const LAG: Duration = Duration::from_secs(5);

/// The pace of one run's status polls. A poll that fails is not a failed attempt.
pub(crate) struct Poll {
    settings: PollSettings,
    pause: Duration,
    /// Whether there is a run to lose. Before it, a refusal is final.
    started: bool,
    looks_min: u32,
    /// Looks since the last sensible answer.
    odd: Looks,
    /// Answers in a row by which the engine knows no such run; odd ones between them do not count.
    unknown: Looks,
    /// How long the engine says that it knows no such run before that is believed.
    lag: Duration,
    stop: StopSignal,
    stop_seen: bool,
}

/// Looks that brought nothing.
#[derive(Debug, Default)]
struct Looks {
    count: u32,
    since: Option<Instant>,
}

impl Looks {
    fn add(&mut self) {
        self.count = self.count.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
    }

    fn are_over(&self, looks_min: u32, patience: Duration) -> bool {
        self.count >= looks_min && self.since.is_some_and(|since| since.elapsed() >= patience)
    }
}

impl Poll {
    pub(super) fn new(settings: PollSettings, stop: StopSignal, started: bool) -> Poll {
        let stop_seen = stop.requested().is_some();
        let (odd, unknown) = (Looks::default(), Looks::default());
        let looks_min = if started { LOOKS_MIN } else { 1 };
        let lag = LAG.min(settings.unreachable_after);
        Poll { settings, pause: settings.first, started, looks_min, odd, unknown, lag, stop, stop_seen }
    }

    /// For an engine whose own "no such run" cannot be told from that of something on the way to it: it is believed as late
    /// as any other odd answer.
    pub(crate) fn doubting(self) -> Poll {
        Poll { lag: self.settings.unreachable_after, ..self }
    }

    /// The same without any patience: the first look that brings nothing is the last.
    pub(super) fn hasty(settings: PollSettings, stop: StopSignal) -> Poll {
        Poll::new(PollSettings { unreachable_after: Duration::ZERO, ..settings }, stop, false)
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
        self.odd = Looks::default();
    }

    /// A poll brought nothing. `Err` when that has been so for too long, or no later poll can do better; a run that is known
    /// can still be taken up again.
    pub(crate) fn missed(&mut self, failure: EngineFailure) -> Result<(), EngineFailure> {
        let passing = match failure.kind {
            FailureKind::TooLarge => failure.engine_status == Some(413),
            _ if self.started => true,
            kind => kind.is_out_of_reach() || kind == FailureKind::BadResponse,
        };
        if !passing {
            return Err(failure.with_reached(Reached::Yes));
        }
        self.odd.add();
        if self.odd.are_over(self.looks_min, self.settings.unreachable_after) {
            return Err(if self.started { given_up(failure) } else { failure.with_reached(Reached::Maybe) });
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
            // What cannot be asked now never can.
            let request =
                make().map_err(|failure| if self.started { failure.not_repeated() } else { failure })?;
            let failure = match client.send(request).await.and_then(&read) {
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

    /// One more answer by which the engine knows no such run; whether that is to be believed now.
    pub(crate) fn is_known_as_unknown(&mut self) -> bool {
        self.unknown.add();
        self.unknown.are_over(LOOKS_MIN, self.lag)
    }

    /// The same for what only an engine that knows the run can answer. `read` gives `None` for the engine's own "no such
    /// run", and so does this once it has been said often enough.
    pub(crate) async fn until_known<T>(
        &mut self,
        client: &HttpClient,
        make: impl Fn() -> Result<Request, EngineFailure>,
        read: impl Fn(Answer) -> Result<Option<T>, EngineFailure>,
    ) -> Result<Option<T>, EngineFailure> {
        loop {
            if let Some(value) = self.until_read(client, &make, &read).await? {
                self.unknown = Looks::default();
                return Ok(Some(value));
            }
            if self.is_known_as_unknown() {
                return Ok(None);
            }
            self.pause().await;
        }
    }
}

/// The end of an attempt whose run is known but could not be asked for its end. What the answers said of the way stands in
/// the code and the message; only a refused key keeps its kind, because someone has to mend that.
fn given_up(failure: EngineFailure) -> EngineFailure {
    let kind = match failure.kind {
        kind if kind.is_out_of_reach() || kind == FailureKind::Auth => kind,
        _ => FailureKind::BadResponse,
    };
    let told = format!("the run is known, but its end could not be read; last: {}", failure.message);
    let message = EngineFailure::new(kind, "", told).message;
    EngineFailure { kind, message, reached: Reached::Maybe, ..failure }
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
        let mut poll = Poll::new(settings(), signal, true);
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

    fn failure(kind: FailureKind) -> EngineFailure {
        EngineFailure::new(kind, "code", "words").with_reached(Reached::No)
    }

    #[tokio::test(start_paused = true)]
    async fn patience_with_a_known_run_ends_after_a_time_and_a_number_of_looks() {
        use FailureKind::{Auth, BadResponse, Connection, InvalidRequest, NotFound, Unavailable};
        for (kind, given_up_as) in [
            (Connection, Connection),
            (Unavailable, Unavailable),
            (Auth, Auth),
            (NotFound, BadResponse),
            (InvalidRequest, BadResponse),
            (BadResponse, BadResponse),
        ] {
            let (_stop, signal) = StopSignal::new();
            let mut poll = Poll::new(settings(), signal, true);
            assert!(poll.missed(failure(kind)).is_ok());
            tokio::time::advance(Duration::from_secs(29)).await;
            assert!(poll.missed(failure(kind)).is_ok());
            poll.well();
            assert!(poll.missed(failure(kind)).is_ok());
            tokio::time::advance(Duration::from_secs(31)).await;
            assert!(poll.missed(failure(kind)).is_ok(), "two looks are too few");
            assert!(poll.missed(failure(kind)).is_ok());
            let end = poll.missed(failure(kind)).unwrap_err();
            assert_eq!((end.kind, end.reached), (given_up_as, Reached::Maybe));
            assert!(end.message.ends_with("last: words"), "{}", end.message);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_later_look_can_mend_is_final() {
        let (_stop, signal) = StopSignal::new();
        let mut poll = Poll::new(settings(), signal.clone(), true);
        assert_eq!(poll.missed(failure(FailureKind::TooLarge)).unwrap_err().reached, Reached::Yes);
        let mut before = Poll::new(settings(), signal, false);
        assert_eq!(before.missed(failure(FailureKind::Auth)).unwrap_err().reached, Reached::Yes);
        assert!(before.missed(failure(FailureKind::Unavailable)).is_ok());
    }
}
