//! `[alerts.NAME]`: what is told when a condition holds.

use super::checker::Checker;
use super::raw::{Raw, SeverityName};
use enginehouse_runtime::{AlertRule, Severity, default_alerts};

/// Every rule as it is in force; what makes no sense is a fault of its key.
pub(super) fn resolve(raw: &Raw, checker: &mut Checker<'_>) -> Vec<AlertRule> {
    let mut rules = default_alerts();
    for (name, written) in &raw.alerts {
        let path = format!("alerts/{name}");
        let Some(rule) = rules.iter_mut().find(|rule| rule.spec.name == name) else {
            let known: Vec<&str> = default_alerts().iter().map(|rule| rule.spec.name).collect();
            checker.fault(&path, format!("is not an alert; there are {}", known.join(", ")));
            continue;
        };
        rule.enabled = written.enabled.0;
        if let Some(severity) = written.severity {
            rule.severity = match severity {
                SeverityName::Critical => Severity::Critical,
                SeverityName::Warning => Severity::Warning,
            };
        }
        if let Some(limit) = written.limit {
            checker.require(rule.spec.limit.is_some(), &format!("{path}/limit"), || {
                format!("{name} compares with no number")
            });
            rule.limit = limit.0;
        }
        rule.times.hold = written.hold.map_or(rule.times.hold, |span| span.0);
        rule.times.recovery = written.recovery.map_or(rule.times.recovery, |span| span.0);
    }
    rules
}
