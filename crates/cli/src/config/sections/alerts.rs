//! `[alerts.NAME]`: what is told when a condition holds.

use crate::config::checker::Checker;
use crate::config::types::{Flag, MaybeNone, Price, choice, section};
use enginehouse_runtime::{Settings, Severity, default_alerts};
use std::collections::BTreeMap;

section! {
    /// What is told when a condition holds: see docs/ALERTS.md for the names and what each of them watches.
    pub struct AlertRaw {
        /// Whether it is watched.
        enabled: Flag = Flag(true);
        /// How bad it is. Absent: as docs/ALERTS.md says.
        severity: Option<SeverityName> = None;
        /// The number it compares with, in the unit of docs/ALERTS.md. Absent: as said there.
        limit: Option<Price> = None;
        /// How long the condition must hold. Absent: as docs/ALERTS.md says.
        hold: Option<MaybeNone> = None;
        /// How long it must be gone before the alert is over. Absent: as docs/ALERTS.md says.
        recovery: Option<MaybeNone> = None;
    }
}

choice! {
    /// How bad an alert is.
    pub enum SeverityName {
        /// Someone should look at it now.
        Critical "critical",
        /// Someone should look at it soon.
        Warning "warning",
    }
}

/// Every rule as it is in force; what makes no sense is a fault of its key.
pub(in crate::config) fn resolve(
    raw: &BTreeMap<String, AlertRaw>,
    settings: &mut Settings,
    checker: &mut Checker<'_>,
) {
    let mut rules = default_alerts();
    for (name, written) in raw {
        let AlertRaw { enabled, severity, limit, hold, recovery } = written;
        let path = format!("alerts/{name}");
        let Some(rule) = rules.iter_mut().find(|rule| rule.spec.name == name) else {
            let known: Vec<&str> = default_alerts().iter().map(|rule| rule.spec.name).collect();
            checker.fault(&path, format!("is not an alert; there are {}", known.join(", ")));
            continue;
        };
        rule.enabled = enabled.0;
        if let Some(severity) = severity {
            rule.severity = match severity {
                SeverityName::Critical => Severity::Critical,
                SeverityName::Warning => Severity::Warning,
            };
        }
        if let Some(limit) = limit {
            checker.require(rule.spec.limit.is_some(), &format!("{path}/limit"), || {
                format!("{name} compares with no number")
            });
            rule.limit = limit.0;
        }
        rule.times.hold = hold.map_or(rule.times.hold, |span| span.0);
        rule.times.recovery = recovery.map_or(rule.times.recovery, |span| span.0);
    }
    settings.alerts = rules;
}
