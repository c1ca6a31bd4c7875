//! The way of one call through an engine that runs workflows by an id of its own:
//! *start -> attached -> follow*, and on a wish to stop *cancel -> follow until the engine says it stopped*.
//!
//! Dropping [`drive`] at any point leaves the engine's run alone. Nothing here has a time limit of its own: every
//! request is bounded by the client, and the attempt as a whole by the worker.

use crate::contract::{Call, Engine, EngineFailure, LetGo, Outcome};
use async_trait::async_trait;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::ENGINE_RUN_BYTES_MAX;
use std::time::Duration;

/// The code of a failure that says the engine no longer knows the run.
pub(crate) const RUN_LOST: &str = "run_lost";
/// Pause between two tries to cancel while the engine cannot be reached.
const CANCEL_PAUSE: Duration = Duration::from_millis(500);

/// What [`drive`] needs of an engine type beside its [`Engine::cancel`].
#[async_trait]
pub(crate) trait Tracked: Engine {
    /// Starts the run, or finds the one that an earlier attempt started (`call.maybe_started`).
    async fn start(&self, call: &Call) -> Result<Started, EngineFailure>;

    /// Waits for the end of a run. Never cancels it. A run the engine does not know is [`run_lost`].
    async fn follow(&self, call: &Call, engine_run: &str) -> Outcome;

    /// Whether the end of a run says that it was stopped. Where it does not, an end that follows an accepted stop is one.
    fn tells_stops(&self) -> bool {
        true
    }
}

/// What came of a start.
#[derive(Debug)]
pub(crate) enum Started {
    /// The engine's run id.
    Run(String),
    /// The engine answered with the end at once.
    Ended(Outcome),
}

/// Takes one call from its start, or from `call.engine_run`, to its end.
pub(crate) async fn drive<T: Tracked + ?Sized>(engine: &T, call: &Call) -> Outcome {
    let engine_run = match begin(engine, call).await {
        Ok(engine_run) => engine_run,
        Err(outcome) => return outcome,
    };
    let follow = engine.follow(call, &engine_run);
    tokio::pin!(follow);
    tokio::select! {
        biased;
        outcome = &mut follow => return outcome,
        _ = call.stopped() => {}
    }
    // The run is followed while it is being cancelled: it may end by itself, and that end is then the truth.
    let accepted = tokio::select! {
        biased;
        outcome = &mut follow => return outcome,
        accepted = cancel_until_accepted(engine, call, &engine_run) => accepted,
    };
    match follow.await {
        // Some engines forget a run that was cancelled.
        Outcome::Failed(failure) if accepted && failure.code == RUN_LOST => Outcome::Cancelled,
        Outcome::Succeeded { .. } if accepted && !engine.tells_stops() => Outcome::Cancelled,
        outcome => outcome,
    }
}

/// The failure of a run the engine no longer knows. A fresh run may do better, so it counts as the engine's own fault.
pub(crate) fn run_lost(message: impl Into<String>) -> EngineFailure {
    EngineFailure::new(FailureKind::Unavailable, RUN_LOST, message)
}

async fn begin<T: Tracked + ?Sized>(engine: &T, call: &Call) -> Result<String, Outcome> {
    if let Some(engine_run) = &call.engine_run {
        return Ok(engine_run.clone());
    }
    if call.stop.requested().is_some() && !call.maybe_started {
        return Err(Outcome::Cancelled);
    }
    // A wish to stop that comes now waits for the answer: only then is there a run to cancel.
    let engine_run = match engine.start(call).await {
        Ok(Started::Run(engine_run)) => engine_run,
        Ok(Started::Ended(outcome)) => return Err(outcome),
        Err(failure) => return Err(Outcome::Failed(failure)),
    };
    if engine_run.is_empty() || engine_run.len() > ENGINE_RUN_BYTES_MAX {
        let message = format!("the engine's run id has {} bytes", engine_run.len());
        let failure = EngineFailure::new(FailureKind::BadResponse, "invalid_run_id", message);
        return Err(Outcome::Failed(failure.not_repeated()));
    }
    match call.attached(&engine_run, engine.capabilities().reattach).await {
        Ok(()) => Ok(engine_run),
        Err(LetGo) => Err(Outcome::LetGo),
    }
}

/// Repeats a cancel until the engine takes it: a refusal may be of something on the way. `false` where the run cannot be
/// stopped at all: it then goes on, and its follower with it.
async fn cancel_until_accepted<T: Tracked + ?Sized>(engine: &T, call: &Call, engine_run: &str) -> bool {
    let mut refused = false;
    loop {
        let Err(failure) = engine.cancel(call.endpoint, engine_run).await else { return true };
        let known = matches!(failure.code.as_str(), "cannot_cancel" | RUN_LOST | "template");
        if !failure.kind.retried_by_default() && !refused {
            refused = true;
            let (kind, code) = (failure.kind.as_str(), failure.code.as_str());
            tracing::warn!(execution = %call.execution_id, kind, code, "the engine refuses to cancel a run");
        }
        if known {
            return false;
        }
        let wait = failure.retry_after.map_or(CANCEL_PAUSE, Duration::from_millis);
        tokio::time::sleep(wait.max(CANCEL_PAUSE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Capabilities, Health, Host, Progress, Stop, StopSignal, Workflow};
    use bytes::Bytes;
    use std::sync::Arc;
    use std::sync::Mutex;
    use tokio::sync::watch;

    /// An engine whose run ends when it is told to, and which notes what was asked of it.
    struct Fake {
        notes: Mutex<Vec<String>>,
        /// `None` while the start is not answered.
        answer_start: watch::Sender<bool>,
        end: watch::Sender<Option<Outcome>>,
        cancels_to_fail: Mutex<u32>,
        end_on_cancel: Outcome,
    }

    impl Fake {
        fn new(end_on_cancel: Outcome) -> Arc<Fake> {
            Arc::new(Fake {
                notes: Mutex::default(),
                answer_start: watch::channel(true).0,
                end: watch::channel(None).0,
                cancels_to_fail: Mutex::new(0),
                end_on_cancel,
            })
        }

        fn note(&self, text: impl Into<String>) {
            self.notes.lock().unwrap().push(text.into());
        }

        fn notes(&self) -> String {
            self.notes.lock().unwrap().join(" ")
        }
    }

    #[async_trait]
    impl Tracked for Fake {
        async fn start(&self, _call: &Call) -> Result<Started, EngineFailure> {
            self.note("start");
            self.answer_start.subscribe().wait_for(|ready| *ready).await.unwrap();
            Ok(Started::Run("r1".to_owned()))
        }

        async fn follow(&self, _call: &Call, engine_run: &str) -> Outcome {
            self.note(format!("follow:{engine_run}"));
            self.end.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap()
        }
    }

    #[async_trait]
    impl Engine for Fake {
        fn engine_type(&self) -> &str {
            "fake"
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities {
                cancel: true,
                reattach: true,
                idempotent_submit: false,
                inline: false,
                progress: false,
            }
        }

        fn validate(&self, _workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
            Ok(())
        }

        async fn run(&self, call: Call) -> Outcome {
            drive(self, &call).await
        }

        async fn cancel(&self, _endpoint: usize, _engine_run: &str) -> Result<(), EngineFailure> {
            self.note("cancel");
            let mut left = self.cancels_to_fail.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return Err(EngineFailure::new(FailureKind::Connection, "connection_refused", ""));
            }
            self.end.send_replace(Some(self.end_on_cancel.clone()));
            Ok(())
        }

        async fn health(&self, _endpoint: usize) -> Health {
            Health { healthy: Some(true), detail: String::new(), latency: 0 }
        }
    }

    #[async_trait]
    impl Host for Fake {
        async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo> {
            self.note(format!("attached:{engine_run}:{can_reattach}"));
            Ok(())
        }
        fn progress(&self, _progress: Progress) {}
        fn log(&self, _line: &str) {}
        async fn recall(&self, _name: &str) -> Option<String> {
            None
        }
        async fn remember(&self, _name: &str, _value: &str) {}
    }

    fn call(fake: &Arc<Fake>) -> (watch::Sender<Option<Stop>>, Call) {
        let (sender, stop) = StopSignal::new();
        let call = Call {
            execution_id: "e".to_owned(),
            attempt: 1,
            idempotency_key: "e.1".to_owned(),
            traceparent: None,
            workflow_id: "w".to_owned(),
            definition: None,
            workflow_name: None,
            parameters: Bytes::from_static(b"null"),
            options: None,
            session_id: None,
            endpoint: 0,
            engine_run: None,
            maybe_started: false,
            result_bytes_max: 1 << 20,
            host: fake.clone(),
            stop,
        };
        (sender, call)
    }

    #[tokio::test]
    async fn a_run_is_attached_before_it_is_followed() {
        let fake = Fake::new(Outcome::Cancelled);
        let (_stop, call) = call(&fake);
        let done = Outcome::Succeeded { result: Bytes::from_static(b"1"), needs_input: false };
        fake.end.send_replace(Some(done.clone()));
        assert_eq!(drive(&*fake, &call).await, done);
        assert_eq!(fake.notes(), "start attached:r1:true follow:r1");
    }

    #[tokio::test]
    async fn a_known_run_is_followed_without_a_start() {
        let fake = Fake::new(Outcome::Cancelled);
        let (stop, mut call) = call(&fake);
        call.engine_run = Some("r0".to_owned());
        stop.send_replace(Some(Stop::Cancel));
        assert_eq!(drive(&*fake, &call).await, Outcome::Cancelled);
        assert_eq!(fake.notes(), "follow:r0 cancel");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_before_the_start_is_answered_cancels_once_it_is() {
        let fake = Fake::new(Outcome::Cancelled);
        fake.answer_start.send_replace(false);
        *fake.cancels_to_fail.lock().unwrap() = 2;
        let (stop, call) = call(&fake);
        let driving = {
            let fake = fake.clone();
            tokio::spawn(async move { drive(&*fake, &call).await })
        };
        tokio::task::yield_now().await;
        stop.send_replace(Some(Stop::Timeout));
        tokio::task::yield_now().await;
        assert_eq!(fake.notes(), "start");
        fake.answer_start.send_replace(true);
        assert_eq!(driving.await.unwrap(), Outcome::Cancelled);
        assert_eq!(fake.notes(), "start attached:r1:true follow:r1 cancel cancel cancel");
    }

    #[tokio::test]
    async fn a_stop_before_anything_was_sent_starts_nothing() {
        let fake = Fake::new(Outcome::Cancelled);
        let (stop, mut call) = call(&fake);
        stop.send_replace(Some(Stop::Cancel));
        assert_eq!(drive(&*fake, &call).await, Outcome::Cancelled);
        assert_eq!(fake.notes(), "");
        call.maybe_started = true;
        assert_eq!(drive(&*fake, &call).await, Outcome::Cancelled);
        assert_eq!(fake.notes(), "start attached:r1:true follow:r1 cancel");
    }

    #[tokio::test]
    async fn a_run_forgotten_after_its_cancel_counts_as_cancelled() {
        let fake = Fake::new(Outcome::Failed(run_lost("gone")));
        let (stop, call) = call(&fake);
        stop.send_replace(Some(Stop::Cancel));
        let mut call = call;
        call.engine_run = Some("r0".to_owned());
        assert_eq!(drive(&*fake, &call).await, Outcome::Cancelled);
    }
}
