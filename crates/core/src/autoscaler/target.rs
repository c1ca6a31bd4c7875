//! From demand to a number of workers: what is wanted, what is kept, what bounds it, and when it may change.

use super::decision::{Decision, Figures, Rule, ScalingAction};
use super::demand::{Demand, Lead};
use super::guards::Allowed;
use super::observation::Observation;
use super::rules::{Policy, Predict};
use super::wish::Wish;
use super::{Autoscaler, normal, reason};
use crate::time::{Millis, SECOND, Time};
use serde::{Deserialize, Serialize};

/// The most standard deviations of headroom.
const Z_MAX: f64 = 2.0;
/// A fraction of a worker up to this is not worth a whole one.
const ROUND_SLACK: f64 = 0.2;
/// The least time for which the slots in use are remembered where the forecast looks ahead.
const OCCUPIED_MIN_S: f64 = 10.0;

/// When the target changed last.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Damping {
    last_up: Option<Time>,
    last_down: Option<Time>,
}

fn cooling(last: Option<Time>, cooldown: Millis, now: Time) -> bool {
    last.is_some_and(|last| now.since(last) < cooldown)
}

/// Workers for this many slots.
fn workers_for(slots: f64, capacity: f64) -> u32 {
    let workers = (slots / capacity - 1e-9).ceil();
    if workers.is_finite() { workers.clamp(0.0, 1e6) as u32 } else { 0 }
}

fn millis(seconds: f64) -> Millis {
    (seconds * SECOND as f64).clamp(0.0, 1e15) as Millis
}

impl Autoscaler {
    pub(super) fn decide(&mut self, seen: &Observation, now: Time, lead: Lead, demand: Demand) -> Decision {
        let capacity = f64::from(self.rules.worker_capacity.max(1));
        let mut figures = self.figures(seen, now, lead, &demand);
        let wish = match self.rules.policy {
            Policy::LeadTime => self.lead_time(seen, now, lead, &demand, &mut figures),
            Policy::Threshold => self.threshold(seen, &demand, &figures),
        };
        let current = figures.ready + figures.starting;
        let grows = self.rules.policy == Policy::LeadTime || wish.workers > current;
        let wish = if wish.workers >= self.rules.max_workers && grows {
            // It would be more still: the target is the same, and that it is not enough is said.
            let workers = wish.workers.saturating_add(workers_for(f64::from(demand.beyond), capacity));
            Wish::new(workers, wish.rule)
        } else {
            wish
        };
        figures.computed = wish.workers;
        let bounded = self.bounded(wish);
        let (wish, may_launch) = self.permitted(seen, now, current, bounded, &mut figures);
        let wish = self.damped(seen, now, current, wish, &demand, &figures);
        let action = match wish.workers.cmp(&current) {
            std::cmp::Ordering::Greater => ScalingAction::ScaleUp,
            std::cmp::Ordering::Less => ScalingAction::ScaleDown,
            std::cmp::Ordering::Equal => ScalingAction::NoAction,
        };
        let needed = figures.expected + f64::from(demand.beyond);
        let spare = f64::from(wish.workers) * capacity + 0.5 - needed;
        let confidence =
            if seen.stale { 0.0 } else { normal::share_below(spare / figures.variance.max(1e-9).sqrt()) };
        let reason = reason::of(wish, current, &self.rules, &figures);
        Decision {
            at: now,
            policy: self.rules.policy,
            action,
            target: wish.workers,
            current,
            reason,
            confidence,
            rule: wish.rule,
            may_launch,
            figures,
        }
    }

    fn figures(&self, seen: &Observation, now: Time, lead: Lead, demand: &Demand) -> Figures {
        let timeout = self.launch_timeout();
        let alive = seen.pool.starting.iter().filter(|launched| now.since(**launched) <= timeout).count();
        let slots = f64::from(seen.pool.ready) * f64::from(self.rules.worker_capacity.max(1));
        let queued = demand.engines.iter().fold(0, |sum: u32, engine| sum.saturating_add(engine.queued));
        Figures {
            ready: seen.pool.ready,
            starting: u32::try_from(alive).unwrap_or(u32::MAX),
            draining: seen.pool.draining,
            busy_slots: seen.pool.busy_slots,
            queued,
            oldest_wait_s: seen.oldest_wait as f64 / SECOND as f64,
            utilization: if slots > 0.0 {
                (f64::from(seen.pool.busy_ready) / slots).min(1.0)
            } else {
                f64::from(u8::from(demand.occupied > 0))
            },
            expected: f64::from(demand.occupied),
            variance: demand.variance,
            want: 0.0,
            computed: 0,
            lambda: demand.lambda,
            load: demand.load,
            lead_s: lead.ahead,
            slack_s: lead.slack,
            startup_s: lead.startup,
            recurring: 0.0,
            standby: self.memory.standby.held.workers,
            standby_saves: self.memory.standby.held.saves,
            standby_costs_s: self.memory.standby.held.costs_s,
            due_soon: seen.due_soon,
            guard: None,
            engines: demand.engines.clone(),
        }
    }

    /// The lead-time policy: what is needed, learned, scheduled, and kept.
    fn lead_time(
        &mut self,
        seen: &Observation,
        now: Time,
        lead: Lead,
        demand: &Demand,
        figures: &mut Figures,
    ) -> Wish {
        let capacity = f64::from(self.rules.worker_capacity.max(1));
        let mut wish = if lead.ahead > 0.0 {
            self.forecast(seen, lead, demand, figures)
        } else {
            let want = demand.at_once(seen.pool.busy_slots);
            let rule = if want > f64::from(seen.pool.busy_slots) { Rule::Waiting } else { Rule::Forecast };
            figures.want = want;
            Wish::new(workers_for(want - ROUND_SLACK * capacity, capacity), rule)
        };
        if demand.occupied > 0 {
            wish = wish.or_more(1, Rule::FirstWorker);
        }
        if self.rules.parts.recurrence && self.rules.predict != Predict::Off && !seen.stale {
            let span = millis(lead.startup).saturating_add(2 * self.rules.tick_interval);
            figures.recurring = self.memory.recurrence.push(now, demand.occupied, span);
            if lead.ahead > 0.0 && self.rules.predict == Predict::On {
                wish = wish.or_more(workers_for(figures.recurring, capacity), Rule::Recurrence);
            }
        }
        wish = wish.or_more(self.memory.standby.held.workers, Rule::Standby);
        if lead.ahead > 0.0 && seen.due_soon > 0 {
            let due = f64::from(demand.occupied) + f64::from(seen.due_soon);
            wish = wish.or_more(workers_for(due, capacity), Rule::Due);
        }
        self.kept(now, lead, demand, wish)
    }

    /// What the pool needs when a worker launched now becomes useful.
    fn forecast(&self, seen: &Observation, lead: Lead, demand: &Demand, figures: &mut Figures) -> Wish {
        let capacity = f64::from(self.rules.worker_capacity.max(1));
        let expected = demand.expected(seen, capacity, lead);
        // One more slot pays while the arrivals that would find none cost more than the slot does.
        let worth = demand.lambda * self.late_cost() * capacity;
        let headroom = self.rules.parts.headroom;
        let mut extra = 0.0;
        if worth > 1.0 {
            let z = if headroom { normal::quantile_above_half(1.0 - 1.0 / worth).min(Z_MAX) } else { 0.0 };
            extra = (0.5 + z * demand.variance.sqrt()).max(0.0);
        }
        let mut want = (expected + extra) / (1.0 + demand.freeing(seen.pool.busy_slots));
        let mut rule = Rule::Forecast;
        if worth > 1.0 {
            let beta = if headroom { 2.0 * (1.0 / self.rules.target_utilization - 1.0) } else { 0.0 };
            let staffing = demand.load + beta * demand.load.sqrt();
            if staffing > want {
                (want, rule) = (staffing, Rule::Staffing);
            }
        }
        (figures.expected, figures.want) = (expected, want);
        Wish::new(workers_for(want - ROUND_SLACK * capacity, capacity), rule)
    }

    /// Keeps what was needed a moment ago, if an arrival is likely within the time in which keeping it pays.
    fn kept(&mut self, now: Time, lead: Lead, demand: &Demand, wish: Wish) -> Wish {
        if !self.rules.parts.retention {
            return wish;
        }
        let late = if lead.ahead > 0.0 { self.late_cost() } else { 0.0 };
        let keep = (demand.lambda * (lead.startup + self.rules.action_cost + late)).min(1.0);
        let span = millis(keep * self.rules.retention as f64 / SECOND as f64);
        let mut kept = wish.or_more(self.memory.wants.push(now, wish.workers, span), Rule::Retention);
        if lead.ahead > 0.0 {
            let capacity = f64::from(self.rules.worker_capacity.max(1));
            let occupied = workers_for(f64::from(demand.occupied), capacity);
            let span = millis(keep * lead.startup.max(OCCUPIED_MIN_S));
            kept = kept.or_more(self.memory.occupied.push(now, occupied, span), Rule::Occupancy);
        }
        kept
    }

    /// The threshold policy: above one utilization toward the target one, below another by one worker down.
    fn threshold(&self, seen: &Observation, demand: &Demand, figures: &Figures) -> Wish {
        let rules = &self.rules;
        let current = figures.ready + figures.starting;
        // What waits needs a worker, also in the moment in which the first one is ready and has not got it yet.
        let least = rules.min_workers.max(u32::from(demand.occupied > 0));
        let starved = figures.ready == 0 && demand.occupied > 0;
        if figures.utilization > rules.scale_up_threshold || starved {
            let slots = f64::from(rules.worker_capacity.max(1)) * rules.target_utilization;
            let toward = workers_for(f64::from(seen.pool.busy_slots), slots).max(current + 1);
            return Wish::new(toward, if starved { Rule::FirstWorker } else { Rule::ThresholdUp });
        }
        let low = figures.utilization < rules.scale_down_threshold;
        if low && current > least {
            return Wish::new(current - 1, Rule::ThresholdDown);
        }
        if seen.idle_too_long > 0 && current > least {
            let fewer = current.saturating_sub(seen.idle_too_long).max(least);
            return Wish::new(fewer, Rule::MaxIdle);
        }
        if !low {
            return Wish::new(current, Rule::ThresholdBand);
        }
        // It would shrink, and may not.
        let rule = if least > rules.min_workers { Rule::FirstWorker } else { Rule::Floor };
        Wish::new(current.saturating_sub(1), Rule::ThresholdDown).held(current, rule)
    }

    fn bounded(&self, wish: Wish) -> Wish {
        let (least, most) = (self.rules.min_workers, self.rules.max_workers.max(self.rules.min_workers));
        if wish.workers > most {
            wish.held(most, Rule::Ceiling)
        } else if wish.workers < least {
            wish.held(least, Rule::Floor)
        } else {
            wish
        }
    }

    /// What may be done of it now: stale numbers, a young memory, guards and failing launches hold it back.
    fn permitted(
        &self,
        seen: &Observation,
        now: Time,
        current: u32,
        wish: Wish,
        figures: &mut Figures,
    ) -> (Wish, bool) {
        let least = self.rules.min_workers;
        let waits = seen.engines.iter().any(|engine| engine.queued_total() > 0);
        let frozen = seen.stale && (wish.workers < current || !waits);
        // What is too old to act on is no reason to leave the bounds.
        let wish = if frozen { self.bounded(wish.held(current, Rule::Stale)) } else { wish };
        let allowed = seen.resources.as_ref().map_or(Allowed::default(), |resources| {
            let starting = u32::try_from(seen.pool.starting.len()).unwrap_or(u32::MAX);
            let workers = seen.pool.ready.saturating_add(starting);
            self.memory.needs.allowed(&self.rules.guards, resources, workers)
        });
        figures.guard = allowed.workers.map(|(workers, _)| workers);
        if let Some(rule) = allowed.shrink.filter(|_| !frozen) {
            // Workers drain, so nothing that is busy is stopped for it.
            let fewer = current.saturating_sub(1);
            let shrunk = if wish.workers <= fewer { wish } else { wish.held(fewer, rule) };
            return (self.bounded(shrunk), false);
        }
        if wish.workers < current {
            let held = self.hold_until.is_some_and(|until| now < until) && current <= self.rules.max_workers;
            let may_launch = allowed.shut.is_none() && self.memory.startup.blocked(now).is_none();
            return (if held { wish.held(current, Rule::Restart) } else { wish }, may_launch);
        }
        // Draining workers that come back are no launches.
        let without_launch = current.saturating_add(seen.pool.draining);
        let mut bound: Option<(u32, Rule)> = None;
        let mut lower = |workers: u32, rule: Rule| {
            if bound.is_none_or(|(least, _)| workers < least) {
                bound = Some((workers, rule));
            }
        };
        if let Some((workers, rule)) = allowed.workers {
            lower(workers.max(without_launch), rule);
        }
        if let Some(launches) = allowed.launches {
            lower(without_launch.saturating_add(launches), Rule::GuardUnmeasured);
        }
        if let Some(rule) = allowed.shut {
            lower(without_launch, rule);
        }
        if self.memory.startup.blocked(now).is_some() {
            lower(without_launch, Rule::LaunchBackoff);
        }
        match bound {
            Some((workers, rule)) if workers < wish.workers => {
                (wish.held(workers.max(least).min(wish.workers), rule), workers > without_launch)
            }
            _ => (wish, bound.is_none_or(|(workers, _)| workers > without_launch)),
        }
    }

    /// Cooldowns and tolerance. A target outside of the bounds is never held back.
    fn damped(
        &mut self,
        seen: &Observation,
        now: Time,
        current: u32,
        wish: Wish,
        demand: &Demand,
        figures: &Figures,
    ) -> Wish {
        let rules = &self.rules;
        let damping = &mut self.memory.damping;
        let outside = current < rules.min_workers || current > rules.max_workers;
        let damped = rules.parts.damping || rules.policy == Policy::Threshold;
        if wish.workers > current {
            let urgent = rules.policy == Policy::LeadTime
                && (demand.waiting > 0 || figures.utilization >= rules.scale_up_threshold);
            if !urgent && !outside && cooling(damping.last_up, rules.scale_up_cooldown, now) {
                return wish.held(current, Rule::UpCooldown);
            }
            damping.last_up = Some(now);
        } else if wish.workers < current {
            // The mean load says it as well as what runs this moment does: ends that fall together are no reason to shrink.
            let slots = f64::from(figures.ready.max(1)) * f64::from(rules.worker_capacity.max(1));
            let used = figures.utilization.max(demand.load / slots);
            let small = rules.policy == Policy::LeadTime
                && f64::from(current - wish.workers) < rules.tolerance * f64::from(current)
                && used >= rules.scale_down_threshold
                && seen.idle_too_long == 0;
            if small && damped && !outside {
                return wish.held(current, Rule::Tolerance);
            }
            // A pool that shrinks right after it grew swings. Where a launch is in time a worker is stopped as soon as it has
            // nothing to do, which costs no wait.
            let swings = rules.policy == Policy::Threshold || figures.lead_s > 0.0;
            let grew = damping.last_up.filter(|_| swings);
            let last = damping.last_down.max(grew);
            if damped && !outside && cooling(last, rules.scale_down_cooldown, now) {
                return wish.held(current, Rule::DownCooldown);
            }
            damping.last_down = Some(now);
        }
        wish
    }
}
