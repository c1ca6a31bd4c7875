//! The watcher: samples the service's figures, keeps their history, and watches for what people should know of.
//!
//! It works on the scheduler's node only, each collection interval. Samples are stored once a minute.

use crate::machine::free_mib;
use crate::role::{Role, Round};
use crate::service::Service;
use crate::state::alerts::{AlertNews, Breach};
use crate::state::context::Context;
use crate::state::figures::Rates;
use crate::state::planned::Planned;
use crate::state::settings::EngineSettings;
use enginehouse_api::{MetricsSample, Timestamp};
use enginehouse_core::autoscaler::Rule;
use enginehouse_core::event::NoteKind;
use enginehouse_core::gate::Gate;
use enginehouse_core::time::{MINUTE, Millis, SECOND, Time};
use enginehouse_store::{Doc, DocKind, Note, StoreError, Write, WriteOutcome};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Fewer ends than these say nothing about a rate of errors.
const ENDS_MIN: u64 = 10;
/// News of alerts that wait for the store.
const NEWS_MAX: usize = 256;

pub(crate) struct Watcher {
    cx: Arc<Context>,
    /// Revisions of the stored documents by their names; `None` until they were read.
    stored: Option<BTreeMap<String, u64>>,
    /// Everything up to then is stored.
    stored_until: Time,
    /// News that the store has not taken yet.
    untold: Vec<Note>,
}

impl Role for Watcher {
    const NAME: &'static str = "watcher";
    const TROUBLE: &'static str = "the service's figures could not be read or stored";
    type Error = StoreError;

    fn first(&self) -> Duration {
        Duration::from_millis(self.cx.settings.collection_interval)
    }

    fn again(&self) -> Duration {
        self.first()
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        let decides = self.cx.scheduling.scheduler.lock().may_grant();
        if decides {
            self.turn().await?;
        } else {
            self.stored = None;
        }
        Ok(Round::then_rest(self.first()))
    }

    async fn end(&mut self) {
        if self.stored.is_some() {
            let _ = self.store_samples(self.cx.store.now()).await;
        }
    }
}

impl Watcher {
    pub(crate) fn new(cx: Arc<Context>) -> Watcher {
        let stored_until = cx.store.now();
        Watcher { cx, stored: None, stored_until, untold: Vec::new() }
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        if self.stored.is_none() {
            self.load().await?;
        }
        let now = self.cx.store.now();
        let rates = self.cx.observed.figures.lock().rates(now);
        // What is watched does not wait for a store that cannot be read.
        let sampled = self.sample(now, &rates).await;
        let mut breaches = self.breaches(now, &rates);
        breaches.extend(self.audit().await);
        let news = self.cx.observed.alerts.lock().observe(breaches, now);
        news.into_iter().for_each(|news| self.tell(news));
        sampled?;
        self.store_news().await?;
        if now.since(self.stored_until) >= MINUTE {
            self.store_samples(now).await?;
        }
        Ok(())
    }

    async fn sample(&self, now: Time, rates: &Rates) -> Result<(), StoreError> {
        let metrics = Service::new(self.cx.clone()).metrics_with(rates).await?;
        let oldest = self.cx.oldest_wait(&self.cx.scheduling.scheduler.lock().queue, now);
        let sample = MetricsSample {
            at: Timestamp(now),
            total_executions: metrics.total_executions,
            successful_executions: metrics.successful_executions,
            failed_executions: metrics.failed_executions,
            cancelled_executions: metrics.cancelled_executions,
            retried_attempts: metrics.retried_attempts,
            average_execution_time: metrics.average_execution_time,
            current_queue_size: metrics.current_queue_size as f64,
            oldest_wait_s: oldest as f64 / SECOND as f64,
            active_workers: metrics.active_workers as f64,
            total_workers: metrics.total_workers as f64,
            system_utilization: metrics.system_utilization,
            throughput: metrics.throughput,
            error_rate: metrics.error_rate,
            queue_wait: metrics.queue_wait,
            run_time: metrics.run_time,
            end_to_end: metrics.end_to_end,
        };
        self.cx.observed.history.lock().push(sample);
        self.cx.observed.sampled.send_replace(Some(sample));
        Ok(())
    }

    // ---- what is watched

    fn breaches(&self, now: Time, rates: &Rates) -> Vec<Breach> {
        let mut found = Vec::new();
        let limit = |name: &str| self.cx.observed.alerts.lock().rule(name).map(|rule| rule.limit);
        if let Some(limit) = limit("error_rate").filter(|limit| rates.error_rate > *limit)
            && rates.finished >= ENDS_MIN
        {
            let text = format!(
                "{:.0} % of the {} executions that finished lately failed; {:.0} % are tolerated",
                rates.error_rate * 100.0,
                rates.finished,
                limit * 100.0
            );
            found.push(service("error_rate", text));
        }
        if limit("ends_unreadable").is_some_and(|limit| rates.unreadable as f64 > limit) {
            let text = format!(
                "{} executions failed lately because what their engine said of them could not be used",
                rates.unreadable
            );
            found.push(service("ends_unreadable", text));
        }
        if let Some(limit) = limit("run_unreachable") {
            found.extend(self.out_of_reach(limit, now));
        }
        let dead = self.cx.events.receivers.dead.load(Ordering::Relaxed);
        if limit("webhook_dead_letters").is_some_and(|limit| dead as f64 > limit) {
            let text = format!("{dead} webhooks could not be delivered and were given up");
            found.push(service("webhook_dead_letters", text));
        }
        for (name, why) in self.cx.events.receivers.paused.lock().iter() {
            let text = format!("the receiver {name} of webhooks gets nothing: {why}");
            found.push(Breach { rule: "webhook_paused", subject: name.clone(), text });
        }
        if let Some(limit) = limit("store_slow").filter(|limit| rates.commits.p99 > limit * 1_000.0) {
            let text =
                format!("one commit of a hundred takes {:.0} ms; {limit} s are tolerated", rates.commits.p99);
            found.push(service("store_slow", text));
        }
        if let Some(limit) = limit("store_nearly_full")
            && let Some(free) = self.cx.settings.data_dir.as_deref().and_then(free_mib)
            && free < limit
        {
            let text = format!("{free:.0} MiB are free where the data directory is; {limit} are to be");
            found.push(service("store_nearly_full", text));
        }
        let source = &self.cx.settings.seal.source;
        if let Some(why) = source.missing() {
            found.push(service("key_missing", format!("the seal key came from {source}, and {why}")));
        }
        found.extend(self.of_the_queue(now, limit("queue_wait")));
        found.extend(self.of_the_workers());
        found
    }

    fn out_of_reach(&self, limit: f64, now: Time) -> Vec<Breach> {
        let tolerated = (limit * SECOND as f64) as Millis;
        let lost = self.cx.observed.unreached.lock().longer_than(tolerated, now);
        let told = lost.into_iter().map(|(engine, lost)| {
            let executions = if lost.count == 1 { "execution" } else { "executions" };
            let text = format!(
                "runs of {} {executions} at engine {engine} have been out of reach for more than {limit} s, the oldest for {} s",
                lost.count,
                lost.oldest / SECOND
            );
            Breach { rule: "run_unreachable", subject: engine, text }
        });
        told.collect()
    }

    fn of_the_queue(&self, now: Time, wait_limit: Option<f64>) -> Vec<Breach> {
        let mut found = Vec::new();
        let scheduler = self.cx.scheduling.scheduler.lock();
        let queue = &scheduler.queue;
        let oldest = self.cx.oldest_wait(queue, now) as f64 / SECOND as f64;
        if let Some(limit) = wait_limit.filter(|limit| oldest > *limit) {
            let text = format!("the first in line has been due for {oldest:.0} s; {limit} s are tolerated");
            found.push(service("queue_wait", text));
        }
        for engine in self.cx.registry.iter() {
            let settings = &engine.settings;
            let due = queue.depth_of_engine(&settings.name);
            let parked = scheduler.gates.get(&settings.name).is_some_and(|gate| {
                let mut breakers = gate.endpoints().map(|endpoint| &endpoint.breaker).peekable();
                breakers.peek().is_some() && breakers.all(|breaker| breaker.parks(now))
            });
            if parked {
                let text =
                    format!("no endpoint of engine {} is called; {due} executions wait", settings.name);
                found.push(Breach { rule: "breaker_open", subject: settings.name.clone(), text });
            }
            found.extend(limits_in_vain(settings, scheduler.gates.get(&settings.name), now));
            let kind = &settings.engine_type;
            if due > 0 && !queue.has_capable_worker(kind) && queue.expected_worker(kind).is_none() {
                let text = format!(
                    "{due} executions wait for engine {}, and no worker serves {kind}",
                    settings.name
                );
                found.push(Breach { rule: "no_capable_worker", subject: settings.name.clone(), text });
            }
        }
        found
    }

    /// The lease auditor: what the counts say against the leases they are made of, and slots in use against what runs.
    async fn audit(&self) -> Option<Breach> {
        let findings = Service::new(self.cx.clone()).audit_leases().await;
        self.cx.observed.telemetry.violated(findings.len() as u64);
        findings.into_iter().next().map(|finding| service("audit", finding))
    }

    fn of_the_workers(&self) -> Vec<Breach> {
        let mut found = Vec::new();
        let (workers, most, wants, blocked) = {
            let scaling = self.cx.workers.scaling.lock();
            let Some(decision) = &scaling.decision else { return found };
            let wants = decision.figures.computed > decision.current;
            (decision.current, scaling.rules.max_workers, wants, decision.rule == Rule::LaunchBackoff)
        };
        if blocked && wants {
            let text = format!("there are {workers} workers, more are wanted, and their launches fail");
            found.push(service("launches_fail", text));
        }
        let before = self.cx.observed.history.lock().mean_queue(MINUTE, self.cx.store.now());
        let waiting = self.cx.observed.figures.lock().totals.pending as f64;
        if workers >= most && before.is_some_and(|before| waiting > before) && waiting > 0.0 {
            let text = format!(
                "all {most} workers that scaling.max_workers allows are there, and the backlog grew to {waiting:.0}"
            );
            found.push(service("workers_at_maximum", text));
        }
        found
    }

    fn tell(&mut self, news: AlertNews) {
        let AlertNews { view, resolved_after } = news;
        let (alert, subject) = (view.alert.as_str(), view.subject.as_str());
        match resolved_after {
            None => {
                tracing::warn!(alert, subject, severity = %view.severity, remedy = %view.remedy, "{}", view.text)
            }
            Some(after_ms) => tracing::info!(alert, subject, after_ms, "an alert is over: {}", view.text),
        }
        let state = if resolved_after.is_some() { "resolved" } else { "firing" };
        let data = json!({
            "alert": alert, "subject": subject, "severity": view.severity, "state": state, "since": view.since,
            "text": view.text, "remedy": view.remedy, "resolvedAfterMs": resolved_after,
        });
        if self.untold.len() == NEWS_MAX {
            self.untold.remove(0);
        }
        self.untold.push(Note { kind: NoteKind::Alert, data });
    }

    async fn store_news(&mut self) -> Result<(), StoreError> {
        if self.untold.is_empty() {
            return Ok(());
        }
        let writes = self.untold.iter().map(|note| Planned::Other(Write::Note(note.clone()))).collect();
        self.cx.writes.commit(writes, 0).await?;
        self.untold.clear();
        Ok(())
    }

    // ---- the history at rest

    /// Takes up what an earlier process, or another node, sampled.
    async fn load(&mut self) -> Result<(), StoreError> {
        let mut docs = self.cx.store.docs(DocKind::Figures).await?;
        docs.sort_by(|a, b| a.id.cmp(&b.id));
        self.stored = Some(docs.iter().map(|doc| (doc.id.clone(), doc.rev)).collect());
        let mut history = self.cx.observed.history.lock();
        for doc in docs {
            match serde_json::from_value::<Vec<MetricsSample>>(doc.body) {
                Ok(samples) => history.restore(&doc.id, samples),
                Err(error) => {
                    tracing::warn!(%error, id = doc.id, "a stretch of the figures' history cannot be read");
                }
            }
        }
        Ok(())
    }

    async fn store_samples(&mut self, now: Time) -> Result<(), StoreError> {
        let chunks = self.cx.observed.history.lock().chunks(self.stored_until);
        let Some(stored) = &mut self.stored else { return Ok(()) };
        let mut writes = Vec::new();
        for chunk in &chunks {
            let rev = stored.get(&chunk.id).copied().unwrap_or(0);
            let body = json!(chunk.samples);
            let doc = Doc { kind: DocKind::Figures, id: chunk.id.clone(), rev, body };
            writes.push(Planned::Other(Write::Keep { doc, rev }));
        }
        let past: Vec<(String, u64)> = {
            let history = self.cx.observed.history.lock();
            let past = stored.iter().filter(|(id, _)| history.is_past(id, now));
            past.map(|(id, rev)| (id.clone(), *rev)).collect()
        };
        for (id, rev) in &past {
            let forget = Write::Forget { kind: DocKind::Figures, id: id.clone(), rev: *rev };
            writes.push(Planned::Other(forget));
        }
        if writes.is_empty() {
            return Ok(());
        }
        let settled = self.cx.writes.commit(writes, 0).await?;
        if settled.outcomes.iter().any(|outcome| matches!(outcome, WriteOutcome::DocStale(_))) {
            // Another node was here; what it stored is read before anything else is.
            self.stored = None;
            return Ok(());
        }
        chunks.into_iter().for_each(|chunk| *stored.entry(chunk.id).or_default() += 1);
        past.iter().for_each(|(id, _)| {
            stored.remove(id);
        });
        self.stored_until = now;
        Ok(())
    }
}

/// The adaptive limits of an engine's endpoints that hold work back and made nothing faster.
fn limits_in_vain(settings: &EngineSettings, gate: Option<&Gate>, now: Time) -> Vec<Breach> {
    let Some(gate) = gate else { return Vec::new() };
    let name = &settings.name;
    let told = (0u32..).zip(&settings.endpoints).filter_map(|(at, endpoint)| {
        let text = gate.holds_in_vain(name, at, now)?;
        let alone = settings.endpoints.len() == 1;
        let subject = if alone { name.clone() } else { format!("{name} {}", endpoint.name) };
        Some(Breach { rule: "limit_holds_back", subject, text })
    });
    told.collect()
}

fn service(rule: &'static str, text: String) -> Breach {
    Breach { rule, subject: String::new(), text }
}
