//! The engines of a simulated run. Their runs go on whatever becomes of their callers, and they fail as the seed says.

use crate::faults::{Faults, Fired};
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::{
    Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Reached, Workflow,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a follower looks for an engine that is gone.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);

/// What a simulated workflow does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Script {
    /// How long the run takes.
    ms: u64,
    /// Runs that fail before one succeeds.
    failures: u32,
    /// The kind they fail with.
    kind: String,
    /// The answer to every submit but the last this many is lost.
    lost_answers: u32,
    /// How long the engine takes to say that it has the run.
    late_ms: u64,
    /// Never ends by itself.
    hangs: bool,
    /// Nor says anything.
    silent: bool,
}

/// One run inside a simulated engine.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) execution: String,
    key: String,
    engine: &'static str,
    endpoint: usize,
    ends: Instant,
    fails: Option<FailureKind>,
    hangs: bool,
    silent: bool,
    cancelled: bool,
    crashed: bool,
}

/// An endpoint as it is now.
#[derive(Debug, Clone, Default)]
struct Place {
    down: bool,
    /// Calls refused since it went down last.
    refused: u32,
    /// The most calls that were refused while it was down once.
    refused_most: u32,
}

#[derive(Default)]
struct Inside {
    runs: Vec<Run>,
    submits: BTreeMap<String, u32>,
    places: BTreeMap<(&'static str, usize), Place>,
    /// Attempts whose call is followed now.
    followed: BTreeSet<(String, u32)>,
    violations: Vec<String>,
}

/// The engines' own state, shared by all nodes and restarts.
pub(crate) struct EngineWorld {
    inside: Mutex<Inside>,
    quiet: Arc<AtomicBool>,
    faults: Faults,
    fired: Arc<Fired>,
    random: Mutex<StdRng>,
}

impl EngineWorld {
    pub(crate) fn new(seed: u64, faults: Faults, fired: Arc<Fired>, quiet: Arc<AtomicBool>) -> EngineWorld {
        let random = Mutex::new(StdRng::seed_from_u64(seed ^ 0x000e_0e0e));
        EngineWorld { inside: Mutex::default(), quiet, faults, fired, random }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("no panics")
    }

    fn strikes(&self, per_thousand: u32, name: &'static str) -> bool {
        let drawn: u32 = self.random.lock().expect("no panics").random_range(0..1000);
        let strikes = !self.quiet.load(Ordering::SeqCst) && drawn < per_thousand;
        if strikes {
            self.fired.count(name);
        }
        strikes
    }

    /// Takes an endpoint down, or brings it back.
    pub(crate) fn toggle(&self, engine: &'static str, endpoint: usize) {
        let mut inside = self.inside();
        let place = inside.places.entry((engine, endpoint)).or_default();
        place.down = !place.down;
        place.refused = 0;
    }

    /// An endpoint loses every run that has not ended.
    pub(crate) fn crash(&self, engine: &'static str, endpoint: usize) {
        let now = Instant::now();
        for run in &mut self.inside().runs {
            run.crashed |= run.engine == engine && run.endpoint == endpoint && (run.hangs || run.ends > now);
        }
    }

    pub(crate) fn heal(&self) {
        self.inside().places.values_mut().for_each(|place| place.down = false);
    }

    /// Whether a run that was started under the key goes on forever, with no one to stop it.
    pub(crate) fn goes_on(&self, key: &str) -> bool {
        let goes_on = |run: &Run| run.key == key && run.hangs && !run.cancelled && !run.crashed;
        self.inside().runs.iter().any(|run| goes_on(run) && run.fails.is_none())
    }

    pub(crate) fn runs_of(&self, execution: &str) -> usize {
        self.inside().runs.iter().filter(|r| r.execution == execution).count()
    }

    /// What was seen that must not be; `refused_max`: calls that may meet one endpoint while it is down.
    pub(crate) fn violations(&self, refused_max: u32) -> Vec<String> {
        let inside = self.inside();
        let mut found = inside.violations.clone();
        for ((engine, endpoint), place) in &inside.places {
            if place.refused_most > refused_max {
                let most = place.refused_most;
                found.push(format!("P3 {engine} {endpoint} was called {most} times while it was down"));
            }
        }
        found
            .extend(inside.followed.iter().map(|(id, attempt)| format!("{id} a{attempt} is still followed")));
        found
    }

    fn is_down(&self, engine: &'static str, endpoint: usize) -> bool {
        self.inside().places.get(&(engine, endpoint)).is_some_and(|place| place.down)
    }
}

/// An adapter to one simulated engine.
pub(crate) struct SimEngine {
    pub(crate) world: Arc<EngineWorld>,
    pub(crate) name: &'static str,
    /// It recognises a repeated submit by its key, and its runs can be taken up again; otherwise they die with their call.
    pub(crate) reattach: bool,
}

struct Following {
    world: Arc<EngineWorld>,
    attempt: (String, u32),
}

impl Following {
    fn new(world: &Arc<EngineWorld>, call: &Call) -> Following {
        let attempt = (call.execution_id.clone(), call.attempt);
        let mut inside = world.inside();
        if !inside.followed.insert(attempt.clone()) {
            let text = format!("I3 {} attempt {} runs twice at a time", attempt.0, attempt.1);
            inside.violations.push(text);
        }
        drop(inside);
        Following { world: world.clone(), attempt }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.world.inside().followed.remove(&self.attempt);
    }
}

fn unreachable(text: &str) -> EngineFailure {
    EngineFailure::new(FailureKind::Connection, "reset", text).with_reached(Reached::Maybe)
}

impl SimEngine {
    /// No one listens, or the engine is too busy to take the call.
    fn turned_away(&self, call: &Call) -> Option<EngineFailure> {
        let mut inside = self.world.inside();
        let place = inside.places.entry((self.name, call.endpoint)).or_default();
        if place.down {
            place.refused += 1;
            place.refused_most = place.refused_most.max(place.refused);
            let refused = EngineFailure::new(FailureKind::Connection, "refused", "nobody listens");
            return Some(refused.with_reached(Reached::No));
        }
        drop(inside);
        if self.world.strikes(self.world.faults.engine_busy, "engine_busy") {
            let busy = EngineFailure::new(FailureKind::RateLimited, "busy", "too much").with_status(429);
            return Some(busy.with_retry_after(Some(2_000)));
        }
        None
    }

    /// Starts a run, or finds the one that the same key started before.
    fn start(&self, call: &Call, script: &Script) -> Result<usize, EngineFailure> {
        let mut inside = self.world.inside();
        let submitted = inside.submits.entry(call.execution_id.clone()).or_default();
        *submitted += 1;
        let lost = *submitted <= script.lost_answers;
        let known = inside.runs.iter().position(|r| r.key == call.idempotency_key);
        let number = known.filter(|_| self.reattach).unwrap_or_else(|| {
            let earlier = inside.runs.iter().filter(|r| r.execution == call.execution_id).count();
            let fails = (u32::try_from(earlier).expect("few") < script.failures)
                .then(|| FailureKind::parse(&script.kind).unwrap_or(FailureKind::Unavailable));
            inside.runs.push(Run {
                execution: call.execution_id.clone(),
                key: call.idempotency_key.clone(),
                engine: self.name,
                endpoint: call.endpoint,
                ends: Instant::now() + Duration::from_millis(script.ms),
                fails,
                hangs: script.hangs,
                silent: script.silent,
                cancelled: false,
                crashed: false,
            });
            inside.runs.len() - 1
        });
        if self.reattach && inside.runs[number].endpoint != call.endpoint {
            let text = format!("P7 {} looked for its run at another endpoint", call.execution_id);
            inside.violations.push(text);
        }
        drop(inside);
        if lost {
            self.world.fired.count("answer_lost");
            return Err(unreachable("the answer was lost"));
        }
        Ok(number)
    }

    fn run_at(&self, number: usize) -> Run {
        self.world.inside().runs[number].clone()
    }

    /// Waits for the engine to be there; an error once it has been gone for too long.
    async fn reach(&self, endpoint: usize) -> Result<(), EngineFailure> {
        let until = Instant::now() + UNREACHABLE_AFTER;
        while self.world.is_down(self.name, endpoint) {
            if Instant::now() >= until {
                return Err(unreachable("it does not answer any more"));
            }
            sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    async fn follow(&self, call: &Call, number: usize) -> Outcome {
        let run = self.run_at(number);
        if run.ends > Instant::now() {
            sleep_until(run.ends).await;
        }
        loop {
            if let Err(failure) = self.reach(call.endpoint).await {
                return Outcome::Failed(failure);
            }
            let run = self.run_at(number);
            if !run.silent {
                call.host.progress(Progress { fraction: Some(1.0), data: None });
            }
            if run.cancelled {
                return Outcome::Cancelled;
            }
            if run.crashed {
                return Outcome::Failed(EngineFailure::new(
                    FailureKind::Unavailable,
                    "crashed",
                    "the engine crashed in the run",
                ));
            }
            if let Some(kind) = run.fails {
                self.world.fired.count("workflow_failed");
                return Outcome::Failed(EngineFailure::new(kind, "scripted", "as the script says"));
            }
            if !run.hangs {
                let result = format!("{{\"run\":{number},\"attempt\":{}}}", call.attempt);
                return Outcome::Succeeded { result: Bytes::from(result), needs_input: false };
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// The run to follow: the known one, or a fresh one whose id is stored first.
    async fn begin(&self, call: &Call) -> Result<usize, Outcome> {
        if let Some(known) = &call.engine_run {
            return Ok(known.parse().expect("our own run id"));
        }
        let script: Script = serde_json::from_slice(&call.parameters).unwrap_or_default();
        if let Some(failure) = self.turned_away(call) {
            return Err(Outcome::Failed(failure));
        }
        let number = self.start(call, &script).map_err(Outcome::Failed)?;
        if script.late_ms > 0 && !self.world.quiet.load(Ordering::SeqCst) {
            self.world.fired.count("answer_late");
            sleep(Duration::from_millis(script.late_ms)).await;
        }
        match call.attached(&number.to_string(), self.reattach).await {
            Ok(()) => Ok(number),
            Err(_) => Err(Outcome::LetGo),
        }
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn engine_type(&self) -> &str {
        "sim"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: true,
            reattach: self.reattach,
            idempotent_submit: self.reattach,
            inline: false,
            progress: true,
        }
    }

    fn validate(&self, _workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn run(&self, call: Call) -> Outcome {
        let _following = Following::new(&self.world, &call);
        sleep(Duration::from_millis(1)).await;
        let number = match self.begin(&call).await {
            Ok(number) => number,
            Err(outcome) => return outcome,
        };
        tokio::select! {
            biased;
            outcome = self.follow(&call, number) => outcome,
            _ = call.stopped() => {
                sleep(Duration::from_millis(5)).await;
                self.world.inside().runs[number].cancelled = true;
                Outcome::Cancelled
            }
        }
    }

    async fn cancel(&self, _endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
        let number: usize = engine_run.parse().expect("our own run id");
        self.world.inside().runs[number].cancelled = true;
        Ok(())
    }

    async fn health(&self, endpoint: usize) -> Health {
        let healthy = !self.world.is_down(self.name, endpoint);
        Health { healthy: Some(healthy), detail: "simulated".into(), latency: 0 }
    }
}
