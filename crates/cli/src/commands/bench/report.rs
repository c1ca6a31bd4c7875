//! What was measured, for people, for programs, and beside an earlier measurement.

use super::super::Failure;
use super::super::connect::read;
use super::super::output::Output;
use super::super::printable::tell;
use super::plan::Plan;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Steps of the printed distribution for each halving of what is left, as HdrHistogram's own tools print it.
const STEPS_PER_HALF: u32 = 5;

/// Everything a measurement says; rates per second, times in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) version: String,
    pub(super) connections: u32,
    pub(super) rate: Option<f64>,
    pub(super) batch: u32,
    /// Times are of the whole way to the result, not of the submit alone.
    pub(super) end_to_end: bool,
    pub(super) submitted: u64,
    /// What was submitted was not followed to its end.
    pub(super) submits_only: bool,
    pub(super) ended: u64,
    /// Of those that ended: failed or cancelled.
    pub(super) failed: u64,
    pub(super) submits_per_second: f64,
    /// From the first submit to the last end.
    pub(super) executions_per_second: f64,
    pub(super) calls: Times,
    /// Calls that were refused or lost, by code.
    pub(super) errors: BTreeMap<String, u64>,
    /// The furthest that an open loop was behind its own clock.
    pub(super) behind_ms: f64,
    pub(super) interrupted: bool,
    pub(super) distribution: Vec<Step>,
}

/// Times of calls, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Times {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// This many calls took at most this long.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Step {
    ms: f64,
    share: f64,
    calls: u64,
}

pub(super) struct Counts {
    pub(super) submitted: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) submitted_in: Duration,
    pub(super) ended_in: Duration,
    pub(super) behind: Duration,
    pub(super) interrupted: bool,
}

/// Fractions of a millisecond tell apart what is compared here.
fn exact(ms: f64) -> String {
    format!("{ms:.2} ms")
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        counts: Counts,
        errors: &BTreeMap<String, u64>,
        calls: &Histogram<u64>,
    ) -> Report {
        let at = |share: f64| calls.value_at_quantile(share) as f64 / 1_000.0;
        let times = Times {
            count: calls.len(),
            mean: calls.mean() / 1_000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: calls.max() as f64 / 1_000.0,
        };
        let steps = calls.iter_quantiles(STEPS_PER_HALF).map(|step| Step {
            ms: step.value_iterated_to() as f64 / 1_000.0,
            share: step.quantile_iterated_to(),
            calls: calls.count_between(0, step.value_iterated_to()),
        });
        let per_second = |count: u64, span: Duration| count as f64 / span.as_secs_f64().max(1e-9);
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: plan.connections,
            rate: plan.rate,
            batch: plan.batch,
            end_to_end: plan.wait,
            submits_only: plan.submits_only,
            submitted: counts.submitted,
            ended: counts.ended,
            failed: counts.failed,
            submits_per_second: per_second(counts.submitted, counts.submitted_in),
            executions_per_second: per_second(counts.ended, counts.ended_in),
            calls: times,
            errors: errors.clone(),
            behind_ms: counts.behind.as_secs_f64() * 1_000.0,
            interrupted: counts.interrupted,
            distribution: steps.collect(),
        }
    }

    pub(super) fn read(path: &Path) -> Result<Report, Failure> {
        let text = read(path)?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: no figures of a bench: {error}", path.display())))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::call(error.to_string()))?;
        std::fs::write(path, text + "\n")
            .map_err(|error| Failure::call(format!("{}: {error}", path.display())))
    }

    pub(super) fn print(
        &self,
        before: Option<&Report>,
        percentiles: bool,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if output.is_json() {
            return match before {
                Some(before) => output.document(&serde_json::json!({"now": self, "before": before})),
                None => output.document(self),
            };
        }
        match before {
            None => self.show(output)?,
            Some(before) => self.beside(before, output)?,
        }
        if percentiles {
            let row = |step: &Step| {
                let rarer = if step.share < 1.0 {
                    format!("{:.2}", 1.0 / (1.0 - step.share))
                } else {
                    "inf".to_owned()
                };
                vec![format!("{:.3}", step.ms), format!("{:.6}", step.share), step.calls.to_string(), rarer]
            };
            let rows: Vec<Vec<String>> = self.distribution.iter().map(row).collect();
            output.table(&["MS", "PERCENTILE", "CALLS", "1/(1-PERCENTILE)"], &rows)?;
        }
        self.warn();
        Ok(())
    }

    fn figures(&self) -> [(&'static str, f64); 8] {
        let calls = &self.calls;
        [
            ("submits per second", self.submits_per_second),
            ("executions per second", self.executions_per_second),
            ("mean", calls.mean),
            ("p50", calls.p50),
            ("p90", calls.p90),
            ("p99", calls.p99),
            ("p99.9", calls.p999),
            ("longest", calls.max),
        ]
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let followed = !self.submits_only;
        let what = if self.end_to_end { "whole way" } else { "submit" };
        let (calls, mut errors) = (&self.calls, Vec::new());
        errors.extend(self.errors.iter().map(|(code, count)| format!("{count} {code}")));
        let three = format!("{}, {}, {}", exact(calls.p50), exact(calls.p90), exact(calls.p99));
        output.fields(&[
            ("submitted", Some(self.submitted.to_string())),
            ("ended", followed.then(|| format!("{}, {} of them not completed", self.ended, self.failed))),
            ("submits per second", Some(format!("{:.0}", self.submits_per_second))),
            ("executions per second", followed.then(|| format!("{:.0}", self.executions_per_second))),
            (&format!("{what} p50, p90, p99"), Some(three)),
            ("p99.9, longest", Some(format!("{}, {}", exact(calls.p999), exact(calls.max)))),
            ("refused or lost", Some(errors.join(", ")).filter(|text| !text.is_empty())),
        ])
    }

    fn beside(&self, before: &Report, output: &mut Output) -> Result<(), Failure> {
        let rows: Vec<Vec<String>> = self
            .figures()
            .into_iter()
            .zip(before.figures())
            .map(|((what, now), (_, then))| {
                let ratio = if then > 0.0 { format!("{:.2}", now / then) } else { String::new() };
                vec![what.to_owned(), format!("{then:.2}"), format!("{now:.2}"), ratio]
            })
            .collect();
        output.table(&["", "BEFORE", "NOW", "NOW / BEFORE"], &rows)
    }

    /// What makes the figures say less than they seem to.
    fn warn(&self) {
        if self.interrupted {
            tell!("enginehouse: interrupted: these are the figures up to then");
        }
        if self.rate.is_some() && self.behind_ms > 100.0 {
            tell!(
                "enginehouse: calls were sent up to {:.0} ms late, because all connections waited for answers: the \
                 service, or this machine, cannot keep up with the rate, or there are too few --connections",
                self.behind_ms
            );
        }
        if !self.interrupted && !self.submits_only && self.ended < self.submitted {
            tell!("enginehouse: {} executions have not ended yet", self.submitted - self.ended);
        }
    }
}
