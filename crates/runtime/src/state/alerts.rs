//! The alerts: which conditions are watched, and what is told of them.
//!
//! Every rule stands in one table, from which docs/ALERTS.md is printed. When one fires, and when it is over, is decided in
//! [`enginehouse_core::alert`]; what is looked at is gathered once per collection interval by the watcher.

use enginehouse_api::{AlertRuleView, AlertView, AlertsAnswer, Timestamp};
use enginehouse_core::alert::{AlertChange, AlertState, AlertTimes};
use enginehouse_core::time::{MINUTE, Millis, SECOND, Time};
use std::collections::BTreeMap;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Critical,
    Warning,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        }
    }
}

/// One rule with its defaults.
#[derive(Debug, Clone, Copy)]
pub struct AlertSpec {
    pub name: &'static str,
    pub severity: Severity,
    /// The number it compares with and its unit, if it compares with one.
    pub limit: Option<(f64, &'static str)>,
    pub times: AlertTimes,
    /// What it watches for; `{}` stands for the limit with its unit.
    pub condition: &'static str,
    pub remedy: &'static str,
}

const fn times(hold: Millis, recovery: Millis) -> AlertTimes {
    AlertTimes { hold, recovery }
}

/// Every rule.
pub const ALERTS: [AlertSpec; 15] = [
    AlertSpec {
        name: "queue_wait",
        severity: Severity::Critical,
        limit: Some((300.0, "s")),
        times: times(MINUTE, MINUTE),
        condition: "the first in line has been due for more than {}",
        remedy: "see `enginehouse queue` for what the backlog waits for; more workers, a higher limit, or an engine that is back",
    },
    AlertSpec {
        name: "error_rate",
        severity: Severity::Warning,
        limit: Some((0.5, "of what finished")),
        times: times(MINUTE, MINUTE),
        condition: "more than {} within the aggregation window failed, of at least 10",
        remedy: "see `enginehouse list --status failed` for the failures' kinds",
    },
    AlertSpec {
        name: "ends_unreadable",
        severity: Severity::Warning,
        limit: Some((0.0, "executions")),
        times: times(0, MINUTE),
        condition: "more than {} failed within the aggregation window because what their engine said could not be used (`bad_response`)",
        remedy: "see `enginehouse list --status failed` and `enginehouse explain ID` for the answer: a proxy in between, a setting of the engine, or one of its adapter",
    },
    AlertSpec {
        name: "run_unreachable",
        severity: Severity::Warning,
        limit: Some((300.0, "s")),
        times: times(0, MINUTE),
        condition: "at least one execution has a run at its engine that has been out of reach for more than {}",
        remedy: "see `enginehouse explain ID` for the last answer: bring the engine or the way to it back, and the run is taken up again; until then nothing ends it but `timeout`, `total_timeout` or `enginehouse cancel ID`",
    },
    AlertSpec {
        name: "breaker_open",
        severity: Severity::Critical,
        limit: None,
        times: times(30 * SECOND, 30 * SECOND),
        condition: "every endpoint of an engine is cut off by its circuit breaker",
        remedy: "bring the engine back; its work is parked and burns no attempt; `enginehouse engines` tells when it is tried next",
    },
    AlertSpec {
        name: "no_capable_worker",
        severity: Severity::Critical,
        limit: None,
        times: times(MINUTE, 10 * SECOND),
        condition: "work is due on an engine that no worker serves, and none is starting",
        remedy: "raise scaling.max_workers, or give a pool of [workers.pools] its engine type; `enginehouse scaling explain` tells what holds workers back",
    },
    AlertSpec {
        name: "workers_at_maximum",
        severity: Severity::Warning,
        limit: None,
        times: times(2 * MINUTE, MINUTE),
        condition: "there are as many workers as scaling.max_workers allows, and the backlog grows",
        remedy: "raise scaling.max_workers, or send less; `enginehouse simulate --whatif maxWorkers=...` tells what more would do",
    },
    AlertSpec {
        name: "limit_holds_back",
        severity: Severity::Warning,
        limit: None,
        times: times(MINUTE, MINUTE),
        condition: "work waits for an adaptive limit alone, and the endpoint is not a fifth faster than before there was one",
        remedy: "see `enginehouse engines show NAME` for why it was lowered; `adaptive = false` in [engines.NAME] switches adaptive limits off, `max_concurrency` sets a limit of your own",
    },
    AlertSpec {
        name: "store_slow",
        severity: Severity::Warning,
        limit: Some((1.0, "s")),
        times: times(MINUTE, MINUTE),
        condition: "one commit of a hundred takes longer than {}",
        remedy: "look at the disk of the data directory: every submit waits for it",
    },
    AlertSpec {
        name: "store_nearly_full",
        severity: Severity::Critical,
        limit: Some((1024.0, "MiB")),
        times: times(0, MINUTE),
        condition: "less than {} are free on the file system of the data directory",
        remedy: "make room or keep results for a shorter time; when it is full submits are refused and nothing is lost",
    },
    AlertSpec {
        name: "audit",
        severity: Severity::Critical,
        limit: None,
        times: times(10 * SECOND, MINUTE),
        condition: "slots in use and live leases differ",
        remedy: "this is a fault of Enginehouse: `enginehouse doctor` prints what to report",
    },
    AlertSpec {
        name: "key_missing",
        severity: Severity::Critical,
        limit: None,
        times: times(10 * SECOND, 10 * SECOND),
        condition: "the seal key is not where it came from",
        remedy: "put it back before the next start: the service works on, and a start without it is refused",
    },
    AlertSpec {
        name: "webhook_dead_letters",
        severity: Severity::Warning,
        limit: Some((0.0, "webhooks")),
        times: times(0, 0),
        condition: "more than {} could not be delivered and were given up",
        remedy: "see `enginehouse webhooks --state dead` for why; then replay or discard them",
    },
    AlertSpec {
        name: "webhook_paused",
        severity: Severity::Warning,
        limit: None,
        times: times(0, 0),
        condition: "a receiver of webhooks gets nothing, because its address is refused",
        remedy: "name a public address, or allow others with webhooks.NAME.allow_private = true; then `enginehouse webhooks test NAME`",
    },
    AlertSpec {
        name: "launches_fail",
        severity: Severity::Warning,
        limit: None,
        times: times(MINUTE, MINUTE),
        condition: "workers are wanted and their launches fail",
        remedy: "see the log for why; `enginehouse scaling explain` tells when the next one is tried",
    },
];

/// A rule as it is in force.
#[derive(Debug, Clone, Copy)]
pub struct AlertRule {
    pub spec: &'static AlertSpec,
    pub enabled: bool,
    pub severity: Severity,
    /// In the unit of the specification; 0 where there is none.
    pub limit: f64,
    pub times: AlertTimes,
}

impl AlertRule {
    /// As it is where nothing else is configured.
    #[must_use]
    pub fn of(spec: &'static AlertSpec) -> AlertRule {
        let limit = spec.limit.map_or(0.0, |(limit, _)| limit);
        AlertRule { spec, enabled: true, severity: spec.severity, limit, times: spec.times }
    }

    /// What it watches for, with its limit.
    #[must_use]
    pub fn condition(&self) -> String {
        let unit = self.spec.limit.map_or("", |(_, unit)| unit);
        let limit = if unit.starts_with("of ") {
            format!("{} % {unit}", self.limit * 100.0)
        } else {
            format!("{} {unit}", self.limit)
        };
        self.spec.condition.replace("{}", &limit)
    }
}

/// All rules with their defaults.
#[must_use]
pub fn default_alerts() -> Vec<AlertRule> {
    ALERTS.iter().map(AlertRule::of).collect()
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) rule: &'static str,
    /// What it is about, such as an engine's name; empty: the service.
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// What is to be told of one alert.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AlertNews {
    pub(crate) view: AlertView,
    /// How long it held; `None`: it begins.
    pub(crate) resolved_after: Option<Millis>,
}

#[derive(Debug)]
struct Watched {
    state: AlertState,
    text: String,
}

/// The alerts of this node.
#[derive(Debug)]
pub(crate) struct Alerts {
    rules: Vec<AlertRule>,
    /// By rule and subject. Subjects are configured names, so their number is bounded.
    watched: BTreeMap<(&'static str, String), Watched>,
}

impl Alerts {
    pub(crate) fn new(rules: Vec<AlertRule>) -> Alerts {
        Alerts { rules, watched: BTreeMap::new() }
    }

    pub(crate) fn rule(&self, name: &str) -> Option<&AlertRule> {
        self.rules.iter().find(|rule| rule.spec.name == name && rule.enabled)
    }

    /// Takes in every condition that holds now; answers what is to be told.
    pub(crate) fn observe(&mut self, breaches: Vec<Breach>, now: Time) -> Vec<AlertNews> {
        let mut holding: BTreeMap<(&'static str, String), String> = BTreeMap::new();
        for breach in breaches {
            if self.rule(breach.rule).is_some() {
                holding.insert((breach.rule, breach.subject), breach.text);
            }
        }
        for (name, text) in &holding {
            let fresh = || Watched { state: AlertState::default(), text: String::new() };
            self.watched.entry(name.clone()).or_insert_with(fresh).text.clone_from(text);
        }
        let mut news = Vec::new();
        for (name, watched) in &mut self.watched {
            let Some(rule) = self.rules.iter().find(|rule| rule.spec.name == name.0) else { continue };
            let before = watched.state;
            let change = watched.state.observe(holding.contains_key(name), rule.times, now);
            let resolved_after = match change {
                None => continue,
                Some(AlertChange::Fired) => None,
                Some(AlertChange::Resolved { after }) => Some(after),
            };
            let told = if resolved_after.is_some() { before } else { watched.state };
            news.extend(
                view(rule, &name.1, told, &watched.text).map(|view| AlertNews { view, resolved_after }),
            );
        }
        self.watched.retain(|_, watched| watched.state != AlertState::Quiet);
        news
    }

    pub(crate) fn answer(&self) -> AlertsAnswer {
        let rule = |name: &str| self.rules.iter().find(|rule| rule.spec.name == name);
        let views = self.watched.iter().filter_map(|((name, subject), watched)| {
            view(rule(name)?, subject, watched.state, &watched.text)
        });
        let mut alerts: Vec<AlertView> = views.collect();
        alerts.sort_by_key(|view| (view.state != "firing", view.severity != "critical", view.since));
        let firing = alerts.iter().filter(|view| view.state == "firing").count() as u64;
        let rules = self.rules.iter().map(|rule| AlertRuleView {
            alert: rule.spec.name.to_owned(),
            severity: rule.severity.as_str().to_owned(),
            enabled: rule.enabled,
            condition: rule.condition(),
            for_ms: rule.times.hold,
            recovery_ms: rule.times.recovery,
        });
        AlertsAnswer { firing, alerts, rules: rules.collect() }
    }

    /// How many fire, by rule and severity; every rule has its count.
    pub(crate) fn counts(&self) -> Vec<(&'static str, Severity, u64)> {
        let firing = |name| {
            self.watched.iter().filter(|((rule, _), w)| *rule == name && w.state.is_firing()).count() as u64
        };
        self.rules.iter().map(|rule| (rule.spec.name, rule.severity, firing(rule.spec.name))).collect()
    }
}

fn view(rule: &AlertRule, subject: &str, state: AlertState, text: &str) -> Option<AlertView> {
    let (word, since) = match state {
        AlertState::Quiet => return None,
        AlertState::Pending { since } => ("pending", since),
        AlertState::Firing { since, .. } => ("firing", since),
    };
    Some(AlertView {
        alert: rule.spec.name.to_owned(),
        subject: subject.to_owned(),
        severity: rule.severity.as_str().to_owned(),
        state: word.to_owned(),
        since: Timestamp(since),
        text: text.to_owned(),
        remedy: rule.spec.remedy.to_owned(),
    })
}

/// docs/ALERTS.md.
#[must_use]
pub fn alerts_markdown() -> String {
    let mut text = String::from(
        "# Alerts\n\nConditions that the service watches. One that holds for its time fires: `GET /v1/alerts`, `enginehouse alerts`, the \
         event\n`alert`, a line in the log, and `enginehouse_alerts_firing` for Prometheus. It is over once it was gone for its recovery \
         time.\n`[alerts.NAME]` of the configuration changes `enabled`, `severity`, `limit`, `hold` and `recovery` of one.\n\n\
         | alert | severity | fires when | for | recovery | what to do |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for rule in default_alerts() {
        let seconds = |ms: Millis| format!("{} s", ms / SECOND);
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            rule.spec.name,
            rule.severity.as_str(),
            rule.condition(),
            seconds(rule.times.hold),
            seconds(rule.times.recovery),
            rule.spec.remedy
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breach(rule: &'static str, subject: &str) -> Breach {
        Breach { rule, subject: subject.to_owned(), text: format!("{rule} of {subject}") }
    }

    #[test]
    fn each_subject_has_an_alert_of_its_own() {
        let mut alerts = Alerts::new(default_alerts());
        let both = || vec![breach("breaker_open", "a"), breach("breaker_open", "b")];
        assert!(alerts.observe(both(), Time(0)).is_empty());
        assert_eq!(alerts.answer().alerts.len(), 2);
        assert!(alerts.observe(vec![breach("breaker_open", "a")], Time(10_000)).is_empty());
        let news = alerts.observe(both(), Time(30_000));
        assert_eq!(news.iter().map(|n| n.view.subject.as_str()).collect::<Vec<_>>(), ["a"], "b began anew");
        let told = alerts.answer();
        assert_eq!((told.firing, told.alerts[0].text.as_str()), (1, "breaker_open of a"));
        assert!(alerts.counts().contains(&("breaker_open", Severity::Critical, 1)));
        assert!(alerts.observe(Vec::new(), Time(40_000)).is_empty());
        let news = alerts.observe(Vec::new(), Time(70_000));
        assert_eq!(news.iter().map(|n| n.resolved_after).collect::<Vec<_>>(), [Some(40_000)]);
        assert!(alerts.answer().alerts.is_empty());
    }

    #[test]
    fn a_rule_that_is_off_tells_nothing() {
        let mut rules = default_alerts();
        rules.iter_mut().for_each(|rule| (rule.enabled, rule.times) = (false, times(0, 0)));
        let mut alerts = Alerts::new(rules);
        assert!(alerts.observe(vec![breach("audit", "")], Time(0)).is_empty());
        assert!(alerts.answer().alerts.is_empty());
    }

    #[test]
    fn names_are_told_apart_and_every_limit_is_said() {
        let names: std::collections::BTreeSet<&str> = ALERTS.iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), ALERTS.len());
        for spec in &ALERTS {
            assert_eq!(spec.condition.contains("{}"), spec.limit.is_some(), "{}", spec.name);
        }
        assert_eq!(
            AlertRule::of(&ALERTS[1]).condition(),
            "more than 50 % of what finished within the aggregation window failed, of at least 10"
        );
    }
}
