//! A decision in one sentence for a person.

use super::decision::{Figures, Rule};
use super::rules::{Policy, ScalingRules};
use super::wish::Wish;

/// Why the target is what it is, and what that changes.
pub(super) fn of(wish: Wish, current: u32, rules: &ScalingRules, figures: &Figures) -> String {
    let why = why(wish, current, rules, figures);
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

fn why(wish: Wish, current: u32, rules: &ScalingRules, figures: &Figures) -> String {
    let f = figures;
    match wish.rule {
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
        Rule::Standby => format!(
            "bursts are worth {}: over about the last 20 minutes that would have kept {} from being late, for {:.0} s of workers",
            workers(f.standby),
            counted(f.standby_saves.round() as u32, "job"),
            f.standby_costs_s
        ),
        Rule::ThresholdUp => format!("{}, more than {}", in_use(f), percent(rules.scale_up_threshold)),
        Rule::ThresholdDown => format!("{}, less than {}", in_use(f), percent(rules.scale_down_threshold)),
        Rule::ThresholdBand => {
            let (down, up) = (percent(rules.scale_down_threshold), percent(rules.scale_up_threshold));
            format!("{}, between {down} and {up}", in_use(f))
        }
        Rule::MaxIdle => "workers were idle for longer than max_idle_time".to_owned(),
        _ => held(wish, current, rules, figures),
    }
}

/// What keeps the target from being what it would be.
fn held(wish: Wish, current: u32, rules: &ScalingRules, figures: &Figures) -> String {
    let would = workers(wish.unheld);
    let low = rules.policy == Policy::Threshold && figures.utilization < rules.scale_down_threshold;
    let less = || format!("{}, less than {}", in_use(figures), percent(rules.scale_down_threshold));
    match wish.rule {
        Rule::Floor if low && wish.unheld < current => {
            format!("{}, and min_workers is {}", less(), rules.min_workers)
        }
        Rule::Floor => format!("min_workers is {}", rules.min_workers),
        Rule::Ceiling if wish.unheld > current => {
            format!("{would} would be needed and max_workers is {}", rules.max_workers)
        }
        Rule::Ceiling => format!("max_workers is {}", rules.max_workers),
        Rule::Tolerance => format!("{would} would do, too small a difference to act on"),
        Rule::UpCooldown if rules.policy == Policy::Threshold => {
            format!("{would} would be better, and the last increase was short ago")
        }
        Rule::UpCooldown => {
            format!("{would} would be better, no job waits for a slot, and the last increase was short ago")
        }
        Rule::DownCooldown => format!("{would} would do, and the last change was short ago (cooldown)"),
        Rule::Restart => {
            format!("{would} would do, and nothing is known yet of the time before the start")
        }
        Rule::GuardMemory => format!("{would} would be needed and memory does not allow it"),
        Rule::GuardUnmeasured => {
            format!("{would} would be needed and it is not known yet what memory the last ones use")
        }
        Rule::GuardCpu => {
            let carried = figures.guard.unwrap_or_default();
            format!("{would} would be needed and the processors carry {carried}")
        }
        Rule::GuardPressure => "all work stands still for memory too often".to_owned(),
        Rule::LaunchBackoff => {
            format!("{would} would be needed and the last launch failed; the next try waits")
        }
        _ => "the measured values are too old to act on".to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn in_use(figures: &Figures) -> String {
    if figures.ready > 0 {
        format!("{} of the slots are in use", percent(figures.utilization))
    } else {
        "no slot is in use".to_owned()
    }
}
