//! A look at the whole service: what is wrong, and what to do about it.

use super::Service;
use crate::machine::free_mib;
use crate::seal::SealKeySource;
use enginehouse_api::{DoctorAnswer, FindingView, RoleView, Timestamp};
use enginehouse_core::time::Millis;
use enginehouse_store::Depth;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the look waits for a batch to be stored.
const BATCH_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for the place of large results.
const BLOB_PATIENCE: Duration = Duration::from_secs(20);
/// How long a round may run that should be short, before it counts as stuck.
const ROUND_MAX: Duration = Duration::from_secs(60);
/// Findings of one check that are told.
const FINDINGS_MAX: usize = 20;

impl Service {
    /// Looks at the store, the leases, the engines, the workers, the disk, the keys and the alerts; `full` reads
    /// the whole store. What cannot be looked at is a finding too.
    pub async fn doctor(&self, full: bool) -> DoctorAnswer {
        let mut findings = self.store_findings(full).await;
        findings.extend(self.pause_finding());
        findings.extend(self.lease_findings().await);
        findings.extend(self.engine_findings().await);
        findings.push(self.worker_finding());
        findings.extend(self.disk_finding());
        findings.extend(self.blob_finding().await);
        findings.push(self.key_finding());
        findings.extend(self.alert_findings());
        let (roles, of_roles) = self.roles();
        findings.extend(of_roles);
        DoctorAnswer { roles, ..DoctorAnswer::new(Timestamp(self.cx.store.now()), findings) }
    }

    /// What does not agree among the queue's counts, the leases and what runs; nothing, if all is well. It looks between two
    /// batches, since within one the scheduler counts what is planned.
    pub(crate) async fn audit_leases(&self) -> Vec<String> {
        let Ok(_between) = timeout(BATCH_PATIENCE, self.cx.writes.batch.lock()).await else {
            return Vec::new();
        };
        let scheduler = self.cx.scheduling.scheduler.lock();
        if !scheduler.may_grant() {
            return Vec::new();
        }
        let mut findings = scheduler.queue.occupancy().audit();
        let counted = scheduler.queue.occupancy().len();
        let running = self.cx.scheduling.rows.lock().len();
        // What ran elsewhere is known to the scheduler before this node has read its row.
        if !self.cx.store.features().shared && counted != running {
            findings.push(format!("{counted} leases are counted, and {running} executions run"));
        }
        findings
    }

    async fn store_findings(&self, full: bool) -> Vec<FindingView> {
        let depth = if full { Depth::Full } else { Depth::Quick };
        let what = if full { "all of it was read" } else { "a quick look; --full reads all of it" };
        match self.cx.store.check(depth).await {
            Ok(report) if report.findings.is_empty() => {
                vec![FindingView::ok("store", format!("sound ({what})"))]
            }
            Ok(report) => {
                let remedy = "stop the service, keep a copy of the data directory, and restore the newest backup \
                              that passes (`enginehouse restore`)";
                let told = report.findings.into_iter().take(FINDINGS_MAX);
                told.map(|text| FindingView::failed("store", text, remedy)).collect()
            }
            Err(error) => {
                let remedy = "look at the disk of the data directory and at the log";
                vec![FindingView::failed("store", error.to_string(), remedy)]
            }
        }
    }

    fn pause_finding(&self) -> Option<FindingView> {
        let pause = self.cx.registry.pause().borrow().clone()?;
        let text = format!("the service is paused since {}: {}", Timestamp(pause.since), pause.why);
        let remedy = "once the service that the backup is of starts nothing any more: `enginehouse resume`";
        Some(FindingView::warning("pause", text, remedy))
    }

    /// Whether the place of large results can be written, read and cleared.
    async fn blob_finding(&self) -> Option<FindingView> {
        let blobs = self.cx.payloads.blobs.as_ref()?;
        let place = blobs.settings.told();
        Some(match timeout(BLOB_PATIENCE, blobs.probe()).await {
            Ok(Ok(())) => FindingView::ok("blobs", format!("{place} can be written, read and cleared")),
            told => {
                let why = match told {
                    Ok(Err(error)) => error.to_string(),
                    _ => "it does not answer".to_owned(),
                };
                let remedy =
                    "until it is well, executions with large results stay running, and are reported again";
                FindingView::failed("blobs", format!("{place}: {why}"), remedy)
            }
        })
    }

    async fn lease_findings(&self) -> Vec<FindingView> {
        let mut wrong = self.audit_leases().await;
        wrong.extend(self.audit());
        if wrong.is_empty() {
            let leases = self.cx.scheduling.scheduler.lock().queue.occupancy().len();
            return vec![FindingView::ok(
                "leases",
                format!("{leases} live, and every count agrees with them"),
            )];
        }
        let remedy = "this is a fault of Enginehouse; report it with the log; a restart rebuilds the counts";
        wrong.into_iter().take(FINDINGS_MAX).map(|text| FindingView::failed("leases", text, remedy)).collect()
    }

    async fn engine_findings(&self) -> Vec<FindingView> {
        let mut findings = Vec::new();
        for engine in self.cx.registry.iter() {
            let name = &engine.settings.name;
            let Ok(tested) = self.test_engine(name).await else { continue };
            let known = self.cx.registry.state(name).checked;
            for (at, endpoint) in tested.endpoints.into_iter().enumerate() {
                let place = format!("{name} at {}", endpoint.name);
                let last = known.get(&at);
                let remedy = if last.is_some_and(|last| last.key_refused.is_some()) {
                    format!(
                        "put a key there that it takes, start again, then `enginehouse engines test {name}`"
                    )
                } else {
                    format!(
                        "see that it runs and can be reached from here; then `enginehouse engines test {name}`"
                    )
                };
                findings.push(match endpoint.health {
                    Some(health) if health.healthy.is_none() && endpoint.breaker.state == "closed" => {
                        FindingView::ok("engine", format!("{place} is judged by its work: {}", health.detail))
                    }
                    Some(health) if health.healthy == Some(true) && endpoint.breaker.state == "closed" => {
                        let taken = last.and_then(|last| last.key_taken.as_deref());
                        let taken = taken.map(|taken| format!("; {taken}")).unwrap_or_default();
                        FindingView::ok(
                            "engine",
                            format!("{place} answers in {} ms{taken}", health.latency_ms),
                        )
                    }
                    Some(health) if health.healthy != Some(false) => {
                        let text =
                            format!("{place} answers, and its circuit breaker is {}", endpoint.breaker.state);
                        FindingView::warning(
                            "engine",
                            text,
                            "nothing, if it failed a moment ago: it is probed again by itself",
                        )
                    }
                    Some(health) => FindingView::failed(
                        "engine",
                        format!("{place} is not well: {}", health.detail),
                        remedy,
                    ),
                    None => FindingView::warning("engine", format!("{place} could not be asked"), remedy),
                });
            }
        }
        if findings.is_empty() {
            let remedy = "add an engine to the configuration: `enginehouse config init` shows how";
            findings.push(FindingView::warning("engine", "none is configured", remedy));
        }
        findings
    }

    fn worker_finding(&self) -> FindingView {
        let ports = self.cx.workers.ports.lock();
        let open = ports.values().filter(|port| port.is_open()).count();
        let unwell = ports.values().filter(|port| matches!(port.status(), "unhealthy" | "offline")).count();
        let text = format!("{} known, {open} take work, {unwell} are unhealthy or gone", ports.len());
        if unwell > 0 {
            return FindingView::warning(
                "workers",
                text,
                "they are replaced; see `enginehouse workers` and the log",
            );
        }
        FindingView::ok("workers", text)
    }

    fn disk_finding(&self) -> Option<FindingView> {
        let dir = self.cx.settings.data_dir.as_deref()?;
        let free = free_mib(dir)?;
        let text = format!("{free:.0} MiB are free where {} is", dir.display());
        let limit = self.cx.observed.alerts.lock().rule("store_nearly_full").map(|rule| rule.limit);
        Some(if limit.is_some_and(|limit| free < limit) {
            FindingView::failed("disk", text, "make room, or keep results for a shorter time")
        } else {
            FindingView::ok("disk", text)
        })
    }

    fn key_finding(&self) -> FindingView {
        let source = &self.cx.settings.seal.source;
        if let Some(why) = source.missing() {
            let remedy = "put it back before the next start: without it no stored payload can be read";
            return FindingView::failed(
                "keys",
                format!("the seal key comes from {source}, and {why}"),
                remedy,
            );
        }
        let beside = match source {
            SealKeySource::File(file) => {
                self.cx.settings.data_dir.as_deref().is_some_and(|dir| file.starts_with(dir))
            }
            _ => false,
        };
        if beside {
            let text = format!("the seal key is in {source}, beside what it protects");
            return FindingView::warning(
                "keys",
                text,
                "name another place with storage.seal_key_file and move it there",
            );
        }
        FindingView::ok("keys", format!("the seal key comes from {source}"))
    }

    /// What each role did, and what is wrong with those that fail or hang.
    fn roles(&self) -> (Vec<RoleView>, Vec<FindingView>) {
        let now = self.cx.store.now();
        let at = |at: Instant| Timestamp(now.minus(ms(at.elapsed())));
        let mut findings = Vec::new();
        let all = self.cx.observed.roles.all();
        let count = all.len();
        let views = all.into_iter().map(|(name, run)| {
            let running = run.since.map(|since| since.elapsed());
            if let Some(error) = &run.error {
                let text = format!("{name} failed {} times in a row: {error}", run.failed);
                findings.push(FindingView::warning("roles", text, "it tries again by itself; see the log for more"));
            }
            if let Some(running) = running.filter(|running| !run.long && *running > ROUND_MAX) {
                let text = format!("a round of {name} has been running for {} s", running.as_secs());
                let remedy = "look at the disk and at the log; if it does not end, restart the service, which loses \
                              nothing";
                findings.push(FindingView::failed("roles", text, remedy));
            }
            RoleView {
                name: name.to_owned(),
                rounds: run.rounds,
                failed_rounds: run.failed,
                running_ms: running.map(ms),
                last_at: run.last.map(|(ended, _)| at(ended)),
                last_ms: run.last.map(|(_, took)| ms(took)),
                error: run.error,
                did_at: run.did.as_ref().map(|(when, _)| at(*when)),
                did: run.did.map(|(_, text)| text),
            }
        });
        let views = views.collect();
        if findings.is_empty() {
            findings
                .push(FindingView::ok("roles", format!("{count} run, and the last round of each went well")));
        }
        (views, findings)
    }

    fn alert_findings(&self) -> Vec<FindingView> {
        let firing: Vec<_> =
            self.alerts().alerts.into_iter().filter(|alert| alert.state == "firing").collect();
        if firing.is_empty() {
            return vec![FindingView::ok("alerts", "none fires")];
        }
        let finding = |alert: enginehouse_api::AlertView| {
            let text = format!("{}: {}", alert.alert, alert.text);
            match alert.severity.as_str() {
                "critical" => FindingView::failed("alerts", text, alert.remedy),
                _ => FindingView::warning("alerts", text, alert.remedy),
            }
        };
        firing.into_iter().map(finding).collect()
    }
}

fn ms(span: Duration) -> Millis {
    Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX)
}
