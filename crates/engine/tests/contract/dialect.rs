//! How the stub speaks as one engine type. An adapter joins the suite by one implementation of [`Dialect`] and one
//! line in `main.rs`.

use crate::stub::{Reply, Seen};
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::{Engine, Reached};
use std::sync::Arc;

/// One engine type, as the stub plays it.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// Names the rows of the table in a failed assertion.
    fn name(&self) -> &'static str;

    /// The adapter under test. `settings` name one endpoint (the stub), the key [`CANARY`], and short time limits.
    fn engine(&self, settings: HttpSettings) -> Arc<dyn Engine>;

    fn workflow_id(&self) -> &'static str;

    fn parameters(&self) -> &'static str {
        r#"{"message":"hi"}"#
    }

    /// What a run that succeeded must give, as JSON text.
    fn result(&self) -> &'static str;

    /// Which step of a call a request belongs to; faults are planned by step.
    fn step(&self, request: &Seen) -> Step;

    /// How a healthy engine answers. It keeps its runs in `fake`.
    fn answer(&self, request: &Seen, fake: &mut Fake) -> Reply;

    /// Where this adapter rightly differs from the common expectation; `None` leaves that one in force.
    fn differs(&self, _step: Step, _fault: Fault) -> Option<Expected> {
        None
    }

    /// Faults this adapter has no place for.
    fn skips(&self, _step: Step, _fault: Fault) -> bool {
        false
    }

    /// What must come of a run that ends so; `None` where this engine knows no such end.
    fn ends(&self, state: RunState) -> Option<Expected> {
        usual_end(state)
    }

    /// Failed runs carry these words of the engine.
    fn failure_words(&self) -> &'static str {
        "boom"
    }
}

/// What comes of a run that ends so, of most engines.
pub(crate) fn usual_end(state: RunState) -> Option<Expected> {
    use FailureKind::{EngineError, Timeout, Unavailable};
    match state {
        RunState::Succeeded => Some(Expected::Succeeds),
        RunState::Failed => Some(Expected::Fails(EngineError, Reached::Yes)),
        RunState::TimedOut => Some(Expected::Fails(Timeout, Reached::Yes)),
        RunState::Cancelled => Some(Expected::Cancelled),
        RunState::Crashed | RunState::Forgotten => Some(Expected::Fails(Unavailable, Reached::Yes)),
        RunState::Asks | RunState::Running => None,
    }
}

/// The secret that must never be seen in a failure.
pub(crate) const CANARY: &str = "canary/secret\"key=7f3a";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The request that starts a run.
    Submit,
    /// A question about how a run is doing.
    Status,
    /// The request that fetches the result, where it is another than the last status.
    Result,
    Cancel,
    Health,
    /// Anything else, such as looking a run up or following its events.
    Side,
}

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The true answer, but late.
    Slow,
    /// No answer at all.
    Stall,
    /// The head of an answer, then its body byte by byte without coming to an end.
    Drip,
    /// A reset instead of an answer; the engine did nothing.
    Reset,
    /// The engine did what was asked; its answer is lost by a reset.
    LostAnswer,
    /// This status with a JSON body that repeats every header of the request.
    Status(u16),
    /// 429 with `Retry-After: 7`.
    Busy,
    /// 200 with a body that is not JSON.
    Malformed,
    /// 200 with an empty JSON object where more is needed.
    Empty,
    /// Something that is not HTTP.
    NotHttp,
    /// A body shorter than announced.
    Truncated,
    /// JSON nested 10,000 deep.
    TooDeep,
    /// A body announced as 10 GB.
    Huge,
    /// A chunked body without end.
    Endless,
    /// A redirect to another host.
    Redirect,
}

impl Fault {
    /// Whether the engine did what it was asked to before this came of it.
    pub(crate) fn comes_of_work(self) -> bool {
        matches!(self, Fault::LostAnswer | Fault::NotHttp | Fault::Truncated | Fault::Status(504))
    }
}

/// What must come of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Succeeds,
    Fails(FailureKind, Reached),
    Cancelled,
}

/// The engine behind the stub: its runs and what becomes of them.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) runs: Vec<FakeRun>,
    /// What a run is after it was asked for [`Fake::polls_to_end`] times; `Running` never ends by itself.
    pub(crate) end: RunState,
    pub(crate) polls_to_end: u32,
    /// Health, where the dialect's engine can tell.
    pub(crate) healthy: bool,
    /// What else was asked of it, where a test wants to know.
    pub(crate) notes: Vec<String>,
    /// Names of the workflows it was given.
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct FakeRun {
    /// What the caller correlates the run by.
    pub(crate) key: String,
    pub(crate) state: RunState,
    pub(crate) polls: u32,
    pub(crate) cancels: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunState {
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    /// The engine died in mid-run and says so.
    Crashed,
    /// Stopped to ask a human.
    Asks,
    /// Not known any more.
    Forgotten,
}

impl Fake {
    pub(crate) fn new(end: RunState) -> Fake {
        Fake { runs: Vec::new(), end, polls_to_end: 2, healthy: true, notes: Vec::new(), names: Vec::new() }
    }

    /// Whether something is noted; what is noted with "once" in front is noted until it was asked for.
    pub(crate) fn takes_note(&mut self, note: &str) -> bool {
        let once = self.notes.iter().position(|noted| *noted == format!("once {note}"));
        once.map(|at| self.notes.remove(at)).is_some() || self.notes.iter().any(|noted| noted == note)
    }

    /// Starts a run; answers its number, from 0.
    pub(crate) fn start(&mut self, key: &str) -> usize {
        self.runs.push(FakeRun { key: key.to_owned(), state: RunState::Running, polls: 0, cancels: 0 });
        self.runs.len() - 1
    }

    /// The run with this key, for engines that recognise a repeated submit.
    pub(crate) fn find(&self, key: &str) -> Option<usize> {
        self.runs.iter().position(|run| run.key == key)
    }

    /// Asks for a run's state; `Forgotten` for an unknown one.
    pub(crate) fn poll(&mut self, run: usize) -> RunState {
        let (end, polls_to_end) = (self.end, self.polls_to_end);
        let Some(run) = self.runs.get_mut(run) else { return RunState::Forgotten };
        run.polls += 1;
        if run.state == RunState::Running && run.polls >= polls_to_end {
            run.state = end;
        }
        run.state
    }

    /// Stops a run; `false` when it was over or is unknown.
    pub(crate) fn cancel(&mut self, run: usize) -> bool {
        let Some(run) = self.runs.get_mut(run) else { return false };
        run.cancels += 1;
        let running = run.state == RunState::Running;
        if running {
            run.state = RunState::Cancelled;
        }
        running
    }
}
