//! Decisions as tables: what is seen, the target, and the rule that gave it.

use super::super::*;

/// One engine and a pool, some time after the start.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    ready: u32,
    starting: u32,
    draining: u32,
    busy: u32,
    queued: u32,
    limit: Option<u32>,
    parked: bool,
    due: u32,
    memory_share: f64,
    failed: u32,
    idle_too_long: u32,
    stale: bool,
}

const START: Time = Time(1_000_000);

fn observation(seen: Seen, now: Time) -> Observation {
    let mut engine = EngineLoad::idle("n8n");
    engine.queued[1] = seen.queued;
    (engine.reach.limit, engine.reach.parked) = (seen.limit, seen.parked);
    let run = Running { since: now, workflow: None, priority: crate::execution::Priority::Normal };
    engine.running = vec![run; seen.busy as usize];
    Observation {
        now,
        pool: PoolCounts {
            ready: seen.ready,
            starting: vec![now; seen.starting as usize],
            draining: seen.draining,
            busy_slots: seen.busy,
            busy_ready: seen.busy,
        },
        engines: vec![engine],
        due_soon: seen.due,
        failed_launches: seen.failed,
        idle_too_long: seen.idle_too_long,
        stale: seen.stale,
        resources: (seen.memory_share > 0.0).then(|| Resources {
            memory_limit: Some(1_000),
            memory_used: (seen.memory_share * 1_000.0) as u64,
            workers_measured: seen.ready,
            ..Resources::default()
        }),
        ..Observation::default()
    }
}

/// One that has been there for so long that nothing is held because of its start.
fn settled(rules: &ScalingRules) -> Autoscaler {
    rules.check().expect("the rules make sense");
    let mut autoscaler = Autoscaler::new(rules.clone());
    let quiet = Seen { ready: rules.min_workers, ..Seen::default() };
    autoscaler.step(&observation(quiet, START));
    autoscaler.step(&observation(quiet, START.plus(200 * SECOND)));
    autoscaler
}

fn decide(rules: &ScalingRules, seen: Seen) -> (u32, &'static str) {
    let decision = settled(rules).step(&observation(seen, START.plus(201 * SECOND)));
    (decision.target, decision.rule.as_str())
}

fn threshold() -> ScalingRules {
    ScalingRules { policy: Policy::Threshold, ..ScalingRules::default() }
}

#[test]
fn the_threshold_policy_is_exact() {
    let pool = |ready, busy| Seen { ready, busy, ..Seen::default() };
    let table = [
        // Ten slots a worker; grows above 80 % toward 70 %, shrinks below 30 % by one.
        (pool(4, 32), 4, "threshold_band"),
        (pool(4, 33), 5, "threshold_up"),
        (pool(4, 40), 6, "threshold_up"),
        (Seen { starting: 2, ..pool(4, 40) }, 7, "threshold_up"),
        (pool(10, 100), 15, "threshold_up"),
        (pool(20, 200), 20, "ceiling"),
        (pool(4, 12), 4, "threshold_band"),
        (pool(4, 11), 3, "threshold_down"),
        (pool(3, 0), 2, "threshold_down"),
        (pool(2, 0), 2, "threshold_band"),
        // What waits does not count while any worker is ready, and with none it does.
        (Seen { queued: 500, ..pool(2, 10) }, 2, "threshold_band"),
        (Seen { queued: 1, ..pool(0, 0) }, 2, "floor"),
        (Seen { idle_too_long: 2, ..pool(5, 16) }, 3, "max_idle"),
        (Seen { stale: true, ..pool(5, 0) }, 5, "stale"),
    ];
    for (seen, target, rule) in table {
        assert_eq!(decide(&threshold(), seen), (target, rule), "{seen:?}");
    }
}

#[test]
fn cooldowns_hold_in_their_own_direction() {
    let mut autoscaler = settled(&threshold());
    // (seconds later, ready, busy, target, rule)
    let table = [
        (0, 4, 40, 6, "threshold_up"),
        (4, 6, 60, 6, "up_cooldown"),
        (5, 6, 60, 9, "threshold_up"),
        // No decrease while an increase is fresh.
        (9, 9, 10, 9, "threshold_band"),
        (10, 9, 10, 8, "threshold_down"),
        (15, 8, 10, 8, "down_cooldown"),
        // An increase does not wait for a decrease's cooldown.
        (16, 8, 80, 12, "threshold_up"),
        (21, 12, 10, 11, "threshold_down"),
    ];
    for (after, ready, busy, target, rule) in table {
        let seen = Seen { ready, busy, ..Seen::default() };
        let decision = autoscaler.step(&observation(seen, START.plus(300 * SECOND + after * SECOND)));
        assert_eq!((decision.target, decision.rule.as_str()), (target, rule), "after {after} s");
    }
}

fn lead_time(startup: Millis, worker_capacity: u32) -> ScalingRules {
    ScalingRules {
        min_workers: 0,
        max_workers: 20,
        worker_capacity,
        worker_startup_time: startup,
        ..ScalingRules::default()
    }
}

#[test]
fn where_a_launch_is_in_time_each_waiting_job_counts() {
    let waits = |queued| Seen { queued, ..Seen::default() };
    let one = lead_time(SECOND, 1);
    let table = [
        (waits(0), 0, "forecast"),
        (waits(1), 1, "waiting"),
        (waits(3), 3, "waiting"),
        (waits(21), 20, "ceiling"),
        // What the engine does not take is no demand.
        (Seen { limit: Some(4), ..waits(100) }, 4, "waiting"),
        (Seen { parked: true, ..waits(100) }, 0, "forecast"),
        // Scheduled work is in time by itself.
        (Seen { due: 5, ..waits(0) }, 0, "forecast"),
        // Of four runs that have just begun one is expected to end within the two seconds that a job may wait.
        (Seen { ready: 4, busy: 4, ..waits(0) }, 4, "forecast"),
        (Seen { ready: 4, busy: 4, ..waits(1) }, 4, "waiting"),
        (Seen { ready: 4, busy: 4, ..waits(2) }, 5, "waiting"),
    ];
    for (seen, target, rule) in table {
        assert_eq!(decide(&one, seen), (target, rule), "{seen:?}");
    }
    // Ten slots a worker: a fifth of a worker more is not worth one.
    for (queued, target) in [(1, 1), (12, 1), (13, 2), (22, 2), (23, 3)] {
        assert_eq!(decide(&lead_time(SECOND, 10), waits(queued)).0, target, "{queued} wait");
    }
}

#[test]
fn where_a_launch_takes_longer_than_a_job_may_wait_it_looks_ahead() {
    let waits = |queued| Seen { queued, ..Seen::default() };
    let table = [
        (waits(0), 0, "forecast"),
        (waits(3), 3, "forecast"),
        (Seen { due: 5, ..waits(0) }, 5, "due"),
        (Seen { due: 5, ..waits(3) }, 8, "due"),
        (Seen { stale: true, ready: 2, ..waits(0) }, 2, "stale"),
        (Seen { memory_share: 0.84, ready: 2, ..waits(10) }, 4, "guard_memory"),
        (Seen { memory_share: 0.86, ready: 2, ..waits(10) }, 2, "guard_memory"),
        (Seen { memory_share: 0.86, ready: 2, draining: 3, ..waits(10) }, 5, "guard_memory"),
        (Seen { memory_share: 0.93, ready: 2, busy: 2, ..waits(10) }, 1, "guard_memory"),
        (Seen { failed: 1, ready: 2, ..waits(10) }, 2, "launch_backoff"),
    ];
    for (seen, target, rule) in table {
        assert_eq!(decide(&lead_time(10 * SECOND, 1), seen), (target, rule), "{seen:?}");
    }
}

#[test]
fn small_steps_down_are_not_taken_and_large_ones_are() {
    let rules = lead_time(SECOND, 1);
    // Of a busy pool so many are idle: (ready, busy, target, rule).
    let table = [
        (10, 9, 10, "tolerance"),
        (10, 8, 8, "forecast"),
        (20, 17, 20, "tolerance"),
        (20, 16, 16, "forecast"),
        // Below 30 % any step is worth taking.
        (4, 1, 1, "forecast"),
    ];
    for (ready, busy, target, rule) in table {
        let seen = Seen { ready, busy, ..Seen::default() };
        assert_eq!(decide(&rules, seen), (target, rule), "{busy} of {ready}");
    }
}

#[test]
fn without_a_memory_nothing_is_taken_away_for_a_minute() {
    let rules = lead_time(SECOND, 1);
    let mut autoscaler = Autoscaler::new(rules.clone());
    let seen = Seen { ready: 5, ..Seen::default() };
    for (second, target) in [(0, 5), (59, 5), (60, 0)] {
        let decision = autoscaler.step(&observation(seen, START.plus(second * SECOND)));
        assert_eq!(decision.target, target, "after {second} s: {}", decision.reason);
    }
    let mut again = Autoscaler::new(rules);
    again.restore(settled(&lead_time(SECOND, 1)).snapshot());
    assert_eq!(again.step(&observation(seen, START.plus(201 * SECOND))).target, 0, "with a memory at once");
}

#[test]
fn a_reason_answers_why() {
    let rules = lead_time(SECOND, 1);
    let seen = Seen { queued: 3, ..Seen::default() };
    let decision = settled(&rules).step(&observation(seen, START.plus(201 * SECOND)));
    assert_eq!(decision.reason, "3 jobs wait and too few slots free within 2.0 s; 3 workers more");
    assert!(decision.confidence > 0.5, "{}", decision.confidence);
    let ceiling = Seen { queued: 300, ..Seen::default() };
    let decision = settled(&rules).step(&observation(ceiling, START.plus(201 * SECOND)));
    assert!(decision.confidence < 0.01, "not enough, and known: {}", decision.confidence);
}
