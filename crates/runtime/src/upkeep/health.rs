//! Asks each endpoint for its health on a timer, and stops runs in their engine that no one follows any more.

use crate::role::{Role, Round};
use crate::state::context::Context;
use crate::state::registry::Checked;
use crate::state::settings::RegisteredEngine;
use crate::state::workers::Orphan;
use enginehouse_engine::EngineFailure;
use futures_util::stream::{self, StreamExt};
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Endpoints asked at the same time.
const ASKED_AT_ONCE: usize = 8;
/// How long stopping an orphaned run may take.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(30);
/// How often a role that has nothing to stop shows that it lives.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) struct HealthChecks {
    cx: Arc<Context>,
    /// Keys are looked at as well in the first round.
    key: KeyCheck,
}

impl Role for HealthChecks {
    const NAME: &'static str = "health";
    const TROUBLE: &'static str = "the engines could not be asked for their health";
    const LONG: bool = true;
    type Error = Infallible;

    fn again(&self) -> Duration {
        Duration::from_millis(self.cx.settings.health_interval)
    }

    async fn round(&mut self) -> Result<Round, Infallible> {
        self.check_all(self.key).await;
        self.key = KeyCheck::WhereNeeded;
        Ok(Round::then_rest(Duration::from_millis(self.cx.settings.health_interval)))
    }
}

impl HealthChecks {
    pub(crate) fn new(cx: Arc<Context>) -> HealthChecks {
        HealthChecks { cx, key: KeyCheck::Now }
    }

    async fn check_all(&self, key: KeyCheck) {
        let all: Vec<(String, usize)> = self
            .cx
            .registry
            .iter()
            .flat_map(|e| (0..e.settings.endpoints.len()).map(|at| (e.settings.name.clone(), at)))
            .collect();
        stream::iter(all)
            .for_each_concurrent(ASKED_AT_ONCE, |(name, at)| async move {
                check_endpoint(&self.cx, &name, at, key).await
            })
            .await;
    }
}

/// When it is looked whether an endpoint takes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyCheck {
    Now,
    /// Only where it did not the last time, since a key may be made in the engine later, and where it did not answer.
    WhereNeeded,
}

/// Asks one endpoint now and remembers its answer.
pub(crate) async fn check_endpoint(cx: &Context, name: &str, endpoint: usize, key: KeyCheck) {
    let Some(engine) = cx.registry.get(name) else {
        return;
    };
    let last = cx.registry.state(name).checked.remove(&endpoint);
    let first = last.is_none();
    // Of one that did not answer nothing was heard, and it may come back with other keys.
    let was_away = last.as_ref().is_some_and(|last| last.health.healthy == Some(false));
    let before = last.and_then(|last| last.key_refused);
    let key = async {
        if key == KeyCheck::WhereNeeded && before.is_none() && !was_away {
            return None;
        }
        Some(engine.adapter.check_key(endpoint).await)
    };
    let (health, key) = tokio::join!(engine.adapter.health(endpoint), key);
    let at = u32::try_from(endpoint).unwrap_or(u32::MAX);
    {
        let mut scheduler = cx.scheduling.scheduler.lock();
        let change = scheduler.gates.checked(name, at, health.healthy, cx.store.now());
        scheduler.gate_changes.extend(change);
    }
    let key_taken = match (&key, &engine.settings.key_source) {
        (Some(Ok(true)), Some(source)) => Some(format!("it takes the API key from {source}")),
        _ => None,
    };
    let key_refused = match key {
        Some(Err(failure)) => Some(refused_key(engine, &failure)),
        Some(Ok(true)) => None,
        Some(Ok(false)) if health.healthy != Some(false) => None,
        // Of an engine that does not answer nothing new is heard of its key.
        _ => before.clone(),
    };
    match (&before, &key_refused, &key_taken) {
        (None, Some(why), _) => tracing::warn!(engine = name, endpoint, "{why}"),
        (_, None, Some(taken)) if first || was_away || before.is_some() => {
            tracing::info!(engine = name, endpoint, "{taken}")
        }
        (Some(_), None, None) => tracing::info!(engine = name, endpoint, "its API key is taken now"),
        _ => {}
    }
    let checked = Checked { health, key_refused, key_taken, at: cx.store.now() };
    cx.registry.set_health(name, endpoint, checked);
}

/// In words for anyone who has to put the key right.
fn refused_key(engine: &RegisteredEngine, failure: &EngineFailure) -> String {
    let said = &failure.message;
    match &engine.settings.key_source {
        Some(source) => format!("it refuses the API key from {source}: {said}"),
        None => {
            format!("it asks for an API key, and engines.{}.api_key names none: {said}", engine.settings.name)
        }
    }
}

/// Stops runs in their engine that no one follows any more, one after the other.
pub(crate) struct Orphans {
    cx: Arc<Context>,
    inbox: mpsc::Receiver<Orphan>,
    next: Option<Orphan>,
}

impl Orphans {
    pub(crate) fn new(cx: Arc<Context>, inbox: mpsc::Receiver<Orphan>) -> Orphans {
        Orphans { cx, inbox, next: None }
    }
}

impl Role for Orphans {
    const NAME: &'static str = "orphans";
    const TROUBLE: &'static str = "a run could not be stopped in its engine";
    const LONG: bool = true;
    type Error = String;

    /// A run that cannot be stopped is left alone, and the next one is not kept waiting.
    fn again(&self) -> Duration {
        Duration::from_millis(1)
    }

    async fn nudged(&mut self) {
        self.next = self.inbox.recv().await;
        if self.next.is_none() {
            // Nothing sends any more, so the node is about to stop.
            pending().await
        }
    }

    async fn round(&mut self) -> Result<Round, String> {
        let round = Round::then_rest(IDLE);
        let Some(orphan) = self.next.take() else { return Ok(round) };
        let Some(engine) = self.cx.registry.get(&orphan.engine) else { return Ok(round) };
        let cancel = engine.adapter.cancel(orphan.endpoint as usize, &orphan.engine_run);
        match tokio::time::timeout(ORPHAN_PATIENCE, cancel).await {
            Ok(Ok(())) => Ok(round.did(format!("stopped a run of {}", orphan.engine))),
            Ok(Err(failure)) => Err(format!("{}: {}", orphan.engine, failure.code)),
            Err(_) => Err(format!("{}: it took too long", orphan.engine)),
        }
    }
}
