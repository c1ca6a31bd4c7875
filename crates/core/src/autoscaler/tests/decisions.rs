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
        (pool(2, 0), 2, "floor"),
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
        (14, 9, 10, 9, "down_cooldown"),
        (15, 9, 10, 8, "threshold_down"),
        (20, 8, 10, 8, "down_cooldown"),
        // An increase does not wait for a decrease's cooldown.
        (21, 8, 80, 12, "threshold_up"),
        (30, 12, 10, 12, "down_cooldown"),
        (31, 12, 10, 11, "threshold_down"),
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
        // Slots that free are taken by the next of a long queue, so the engine's limit is what is wanted.
        (Seen { ready: 4, busy: 4, limit: Some(6), ..waits(2) }, 5, "waiting"),
        (Seen { ready: 4, busy: 4, limit: Some(6), ..waits(100) }, 6, "waiting"),
        (Seen { ready: 4, busy: 4, limit: Some(4), ..waits(100) }, 4, "forecast"),
        (Seen { ready: 4, busy: 4, parked: true, ..waits(100) }, 4, "forecast"),
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
        (Seen { limit: Some(6), ..waits(100) }, 6, "forecast"),
        (Seen { ready: 4, busy: 4, limit: Some(6), ..waits(100) }, 6, "occupancy"),
        (Seen { parked: true, ..waits(100) }, 0, "forecast"),
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
    // Of a busy pool this many are idle: (ready, busy, target, rule).
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

/// One a line: the policy and what is seen, then the whole answer. `after=N`: this many seconds after an increase (`up`) or a
/// decrease (`down`).
const REASONS: &str = "
threshold ready=2                             => no_action floor: 0 % of the slots are in use, less than 30 %, and min_workers is 2; 2 workers stay
threshold ready=4                             => scale_down threshold_down: 0 % of the slots are in use, less than 30 %; 1 worker fewer
threshold ready=4 up after=9                  => no_action down_cooldown: 3 workers would do, and the last change was short ago (cooldown); 4 workers stay
threshold ready=4 up after=10                 => scale_down threshold_down: 0 % of the slots are in use, less than 30 %; 1 worker fewer
threshold ready=4 down after=3                => no_action down_cooldown: 3 workers would do, and the last change was short ago (cooldown); 4 workers stay
threshold ready=4 busy=40 queued=9 up after=3 => no_action up_cooldown: 6 workers would be better, and the last increase was short ago; 4 workers stay
threshold ready=4 busy=20                     => no_action threshold_band: 50 % of the slots are in use, between 30 % and 80 %; 4 workers stay
threshold ready=4 busy=40                     => scale_up threshold_up: 100 % of the slots are in use, more than 80 %; 2 workers more
threshold ready=1 busy=2 min=1                => no_action floor: 20 % of the slots are in use, less than 30 %, and min_workers is 1; 1 worker stays
threshold ready=1 busy=2 min=0                => no_action first_worker: there is work and it needs a worker; 1 worker stays
threshold queued=1 min=0                      => scale_up first_worker: there is work and it needs a worker; 1 worker more
threshold min=0                               => no_action floor: min_workers is 0; 0 workers stay
threshold ready=1                             => scale_up floor: min_workers is 2; 1 worker more
threshold ready=20 busy=200                   => no_action ceiling: 29 workers would be needed and max_workers is 20; 20 workers stay
threshold ready=25 busy=125                   => scale_down ceiling: max_workers is 20; 5 workers fewer
threshold ready=25 busy=10                    => scale_down ceiling: max_workers is 20; 5 workers fewer
threshold ready=1 stale                       => scale_up floor: min_workers is 2; 1 worker more
threshold ready=25 stale                      => scale_down ceiling: max_workers is 20; 5 workers fewer
threshold ready=5 stale                       => no_action stale: the measured values are too old to act on; 5 workers stay
threshold ready=2 busy=10 memory=93           => no_action floor: min_workers is 2; 2 workers stay
threshold ready=4 busy=20 memory=93           => scale_down guard_memory: 4 workers would be needed and memory does not allow it; 1 worker fewer
threshold ready=4 memory=93                   => scale_down threshold_down: 0 % of the slots are in use, less than 30 %; 1 worker fewer
threshold ready=4 busy=40 memory=86           => no_action guard_memory: 6 workers would be needed and memory does not allow it; 4 workers stay
threshold ready=4 busy=40 failed=1            => no_action launch_backoff: 6 workers would be needed and the last launch failed; the next try waits; 4 workers stay
threshold ready=4 busy=16 idle=1              => scale_down max_idle: workers were idle for longer than max_idle_time; 1 worker fewer
lead_time ready=2                             => no_action floor: min_workers is 2; 2 workers stay
lead_time ready=1                             => scale_up floor: min_workers is 2; 1 worker more
lead_time ready=2 busy=20 queued=40           => scale_up waiting: 40 jobs wait and too few slots free within 2.0 s; 4 workers more
lead_time ready=2 busy=20 queued=400          => scale_up ceiling: 42 workers would be needed and max_workers is 20; 18 workers more
lead_time ready=10 busy=90 min=9              => no_action tolerance: 9 workers would do, too small a difference to act on; 10 workers stay
lead_time ready=10 busy=100 queued=9 down after=3 => no_action forecast: 100 slots in use; 10 workers stay
lead_time ready=10 down after=3               => no_action down_cooldown: 2 workers would do, and the last change was short ago (cooldown); 10 workers stay
lead_time ready=10 stale                      => no_action stale: the measured values are too old to act on; 10 workers stay
";

#[test]
fn each_decision_names_what_really_held_it() {
    for line in REASONS.lines().filter(|line| !line.is_empty()) {
        let (words, expected) = line.split_once("=>").expect("two sides");
        let words: Vec<&str> = words.split_whitespace().collect();
        let number = |name: &str| {
            let value = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.map_or(0, |value| value.parse::<u32>().expect("a number"))
        };
        let has = |word: &str| words.contains(&word);
        let policy = if has("threshold") { Policy::Threshold } else { Policy::LeadTime };
        let least = if words.iter().any(|word| word.starts_with("min=")) { number("min") } else { 2 };
        let rules = ScalingRules { policy, min_workers: least, ..ScalingRules::default() };
        let seen = Seen {
            ready: number("ready"),
            busy: number("busy"),
            queued: number("queued"),
            idle_too_long: number("idle"),
            memory_share: f64::from(number("memory")) / 100.0,
            failed: number("failed"),
            stale: has("stale"),
            ..Seen::default()
        };
        let mut autoscaler = settled(&rules);
        let begun = START.plus(300 * SECOND);
        if has("up") || has("down") {
            let (ready, busy) = if has("up") { (3, 30) } else { (12, 0) };
            let before = autoscaler.step(&observation(Seen { ready, busy, ..Seen::default() }, begun));
            let moved = if has("up") { ScalingAction::ScaleUp } else { ScalingAction::ScaleDown };
            assert_eq!(before.action, moved, "{line}: {}", before.reason);
        }
        let after = u64::from(number("after")) * SECOND;
        let decision = autoscaler.step(&observation(seen, begun.plus(after)));
        let said = format!("{} {}: {}", decision.action.as_str(), decision.rule.as_str(), decision.reason);
        assert_eq!(said, expected.trim(), "{line}");
    }
}
