//! Memory and processor time as bounds of growth: never a reason to grow, and never a reason to stop what is busy.

use super::decision::Rule;
use super::observation::Resources;
use super::rules::Guards;
use serde::{Deserialize, Serialize};

/// Time constant of what one worker needs, in seconds.
const SMOOTH_S: f64 = 10.0;

/// What one worker needs, smoothed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Needs {
    memory: Option<f64>,
    cpu: Option<f64>,
}

/// What the machine allows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Allowed {
    /// Workers that may exist, and the guard that says so.
    pub(super) workers: Option<(u32, Rule)>,
    /// Workers that may be launched in one step, because what one needs is not known.
    pub(super) launches: Option<u32>,
    /// Nothing may be launched.
    pub(super) shut: Option<Rule>,
    /// There must be fewer workers.
    pub(super) shrink: Option<Rule>,
}

impl Needs {
    pub(super) fn observe(&mut self, seen: &Resources, seconds: f64) {
        let smooth = |before: Option<f64>, now: Option<f64>| match (before, now.filter(|n| n.is_finite())) {
            (Some(before), Some(now)) => Some(before + (1.0 - (-seconds / SMOOTH_S).exp()) * (now - before)),
            (before, now) => now.or(before),
        };
        self.memory = smooth(self.memory, seen.worker_memory_p95.map(|bytes| bytes as f64));
        self.cpu = smooth(self.cpu, seen.worker_cpu_p95);
    }

    /// `workers`: those that are ready or starting.
    pub(super) fn allowed(&self, guards: &Guards, seen: &Resources, workers: u32) -> Allowed {
        let mut allowed = Allowed::default();
        let mut bound = |workers: f64, rule: Rule| {
            let workers = workers.clamp(0.0, 1e6) as u32;
            if allowed.workers.is_none_or(|(least, _)| workers < least) {
                allowed.workers = Some((workers, rule));
            }
        };
        if let Some(limit) = seen.memory_limit.map(|bytes| bytes as f64).filter(|limit| *limit > 0.0) {
            match self.memory {
                Some(one) if one > 0.0 => {
                    bound((limit * guards.mem_soft - seen.memory_others as f64) / one, Rule::GuardMemory);
                }
                Some(_) => {}
                // One more for each that has shown what it uses, and none before the last ones have.
                None => {
                    let unseen = workers.saturating_sub(seen.workers_measured);
                    allowed.launches = Some(seen.workers_measured.max(1).saturating_sub(unseen));
                }
            }
            let share = seen.memory_used as f64 / limit;
            if share > guards.mem_soft {
                allowed.shut = Some(Rule::GuardMemory);
            }
            if share > guards.mem_hard {
                allowed.shrink = Some(Rule::GuardMemory);
            }
        }
        if let (Some(cores), Some(one)) = (seen.cores, self.cpu.filter(|cores| *cores > 0.0)) {
            bound(cores * guards.cpu / one, Rule::GuardCpu);
        }
        if seen.memory_pressure.is_some_and(|percent| percent > guards.psi) {
            allowed.shut = Some(Rule::GuardPressure);
            allowed.shrink = Some(Rule::GuardPressure);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_cores_bound_growth() {
        let guards = Guards::default();
        let machine = Resources {
            memory_limit: Some(1_000),
            memory_used: 500,
            memory_others: 50,
            worker_memory_p95: Some(100),
            workers_measured: 3,
            ..Resources::default()
        };
        // (change, workers, launches, shut, shrink)
        type Row = (fn(&mut Resources), Option<(u32, Rule)>, Option<u32>, Option<Rule>, Option<Rule>);
        let (memory, pressure) = (Some(Rule::GuardMemory), Some(Rule::GuardPressure));
        let table: [Row; 8] = [
            (|_| (), Some((8, Rule::GuardMemory)), None, None, None),
            (|r| r.memory_used = 851, Some((8, Rule::GuardMemory)), None, memory, None),
            (|r| r.memory_used = 921, Some((8, Rule::GuardMemory)), None, memory, memory),
            (|r| r.worker_memory_p95 = None, None, Some(3), None, None),
            (|r| r.worker_memory_p95 = Some(0), None, None, None, None),
            (|r| r.memory_limit = None, None, None, None, None),
            (
                |r| (r.cores, r.worker_cpu_p95) = (Some(2.0), Some(0.5)),
                Some((3, Rule::GuardCpu)),
                None,
                None,
                None,
            ),
            (|r| r.memory_pressure = Some(11.0), Some((8, Rule::GuardMemory)), None, pressure, pressure),
        ];
        for (change, workers, launches, shut, shrink) in table {
            let mut seen = machine;
            change(&mut seen);
            let mut needs = Needs::default();
            needs.observe(&seen, 1.0);
            assert_eq!(
                needs.allowed(&guards, &seen, 3),
                Allowed { workers, launches, shut, shrink },
                "{seen:?}"
            );
        }
        // Workers, those of them that have shown what they use, and how many may be launched.
        for (workers, workers_measured, launches) in
            [(0, 0, 1), (1, 0, 0), (1, 1, 1), (2, 1, 0), (2, 2, 2), (4, 2, 0), (4, 3, 2), (9, 0, 0)]
        {
            let unknown = Resources { worker_memory_p95: None, workers_measured, ..machine };
            let allowed = Needs::default().allowed(&guards, &unknown, workers);
            assert_eq!(allowed.launches, Some(launches), "{workers} workers, {workers_measured} measured");
        }
    }
}
