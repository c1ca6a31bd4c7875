//! A decision in one sentence for a person.

use super::decision::{Figures, Rule};
use super::rules::ScalingRules;
use super::target::Wish;

/// Why the target is what it is, and what that changes.
pub(super) fn of(wish: Wish, current: u32, rules: &ScalingRules, figures: &Figures) -> String {
    let why = why(wish, rules, figures);
    let target = wish.workers;
    match target.cmp(&current) {
        std::cmp::Ordering::Greater => format!("{why}; {} more", workers(target - current)),
        std::cmp::Ordering::Less => format!("{why}; {} fewer", workers(current - target)),
        std::cmp::Ordering::Equal if current == 1 => format!("{why}; 1 worker stays"),
        std::cmp::Ordering::Equal => format!("{why}; {} stay", workers(current)),
    }
}

fn workers(n: u32) -> String {
    counted(n, "worker")
}

fn counted(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn why(wish: Wish, rules: &ScalingRules, figures: &Figures) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let f = figures;
    match wish.rule {
        Rule::Floor => format!("min_workers is {}", rules.min_workers),
        Rule::Ceiling => {
            format!("{} would be needed and max_workers is {}", workers(f.computed), rules.max_workers)
        }
        Rule::Waiting => {
            let verb = if f.queued == 1 { "waits" } else { "wait" };
            format!("{} {verb} and too few slots free within {:.1} s", counted(f.queued, "job"), f.slack_s)
        }
        Rule::Forecast if f.lead_s > 0.0 => format!(
            "in {:.1} s, when a worker launched now can help, {:.1} slots are expected to be in use (give or take {:.1})",
            f.lead_s,
            f.expected,
            f.variance.max(0.0).sqrt()
        ),
        Rule::Forecast => format!("{} in use", counted(f.busy_slots, "slot")),
        Rule::Staffing => format!(
            "{:.2} jobs a second keep {:.1} slots busy, and a pool of that size needs {:.1} for its peaks",
            f.lambda, f.load, f.want
        ),
        Rule::FirstWorker => "there is work and it needs a worker".to_owned(),
        Rule::Recurrence => format!("demand that comes back regularly will need {:.0} slots", f.recurring),
        Rule::Due => format!("{} due before a new worker could start", counted(f.due_soon, "scheduled job")),
        Rule::Retention => "as many were needed a moment ago, and the next jobs are likely soon".to_owned(),
        Rule::Occupancy => "as many were in use a moment ago, and the next jobs are likely soon".to_owned(),
        Rule::Tolerance => format!("{} would do, too small a difference to act on", workers(f.computed)),
        Rule::UpCooldown => format!(
            "{} would be better, nothing waits, and the last increase was short ago",
            workers(f.computed)
        ),
        Rule::DownCooldown => {
            format!("{} would do, and the last decrease was short ago", workers(f.computed))
        }
        Rule::Restart => {
            format!("{} would do, and nothing is known yet of the time before the start", workers(f.computed))
        }
        Rule::GuardMemory => format!("{} would be needed and memory does not allow it", workers(f.computed)),
        Rule::GuardCpu => format!(
            "{} would be needed and the processors carry {}",
            workers(f.computed),
            f.guard.unwrap_or_default()
        ),
        Rule::GuardPressure => "all work stands still for memory too often".to_owned(),
        Rule::Stale => "the measured values are too old to act on".to_owned(),
        Rule::LaunchBackoff => {
            format!("{} would be needed and the last launch failed; the next try waits", workers(f.computed))
        }
        Rule::ThresholdUp => format!(
            "{} of the slots are in use, more than {}",
            percent(f.utilization),
            percent(rules.scale_up_threshold)
        ),
        Rule::ThresholdDown => format!(
            "{} of the slots are in use, less than {}",
            percent(f.utilization),
            percent(rules.scale_down_threshold)
        ),
        Rule::ThresholdBand => format!(
            "{} of the slots are in use, between {} and {}",
            percent(f.utilization),
            percent(rules.scale_down_threshold),
            percent(rules.scale_up_threshold)
        ),
        Rule::MaxIdle => "workers were idle for longer than max_idle_time".to_owned(),
    }
}
