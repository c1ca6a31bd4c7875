//! Asks each endpoint for its health on a timer, and stops runs in their engine that nobody follows any more.

use crate::state::context::Context;
use crate::state::registry::Checked;
use crate::state::settings::RegisteredEngine;
use crate::state::workers::Orphan;
use enginehouse_engine::EngineFailure;
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Endpoints asked at the same time.
const ASKED_AT_ONCE: usize = 8;
/// How long stopping an orphaned run may take.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct HealthChecks {
    pub(crate) cx: Arc<Context>,
}

impl HealthChecks {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut key = KeyCheck::Now;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.check_all(key) => {}
            }
            key = KeyCheck::WhereNeeded;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(self.cx.settings.health_interval)) => {}
            }
        }
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

/// In words for whoever has to put the key right.
fn refused_key(engine: &RegisteredEngine, failure: &EngineFailure) -> String {
    let said = &failure.message;
    match &engine.settings.key_source {
        Some(source) => format!("it refuses the API key from {source}: {said}"),
        None => {
            format!("it asks for an API key, and engines.{}.api_key names none: {said}", engine.settings.name)
        }
    }
}

pub(crate) struct Orphans {
    pub(crate) cx: Arc<Context>,
    pub(crate) inbox: mpsc::Receiver<Orphan>,
}

impl Orphans {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let orphan = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                orphan = self.inbox.recv() => orphan,
            };
            let Some(orphan) = orphan else { return };
            let Some(engine) = self.cx.registry.get(&orphan.engine) else {
                continue;
            };
            let cancel = engine.adapter.cancel(orphan.endpoint as usize, &orphan.engine_run);
            match tokio::time::timeout(ORPHAN_PATIENCE, cancel).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => tracing::warn!(
                    engine = orphan.engine,
                    code = failure.code,
                    "a run could not be stopped in its engine"
                ),
                Err(_) => {
                    tracing::warn!(engine = orphan.engine, "stopping a run in its engine took too long")
                }
            }
        }
    }
}
