//! What holds whatever happens, by the numbers of `docs/AUTOSCALING.md`.

use super::super::*;
use super::world::{ENGINES, World};
use crate::pool::WorkerPhase;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Arrive(usize, u32, i64),
    Pass(u32),
    Clock(i64),
    LaunchesFail(bool),
    Crash(usize),
    Limit(usize, Option<u32>),
    Speed(usize, f64),
    Park(usize, bool),
    Restart(bool),
    Memory(Option<f64>),
    Stale(bool),
}

/// Jobs come and time passes.
fn work() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..ENGINES, 1u32..12, 50i64..40_000).prop_map(|(e, n, run)| Op::Arrive(e, n, run)),
        3 => (1u32..40).prop_map(Op::Pass),
    ]
}

/// What goes wrong without touching launches.
fn trouble() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => work(),
        1 => (0usize..40).prop_map(Op::Crash),
        1 => (0..ENGINES, prop::option::of(1u32..8)).prop_map(|(e, limit)| Op::Limit(e, limit)),
        1 => (0..ENGINES, 0.05f64..1.5).prop_map(|(e, speed)| Op::Speed(e, speed)),
        1 => (0..ENGINES, any::<bool>()).prop_map(|(e, parked)| Op::Park(e, parked)),
        1 => any::<bool>().prop_map(Op::Restart),
    ]
}

fn anything() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => trouble(),
        1 => (-60_000i64..60_000).prop_map(Op::Clock),
        1 => any::<bool>().prop_map(Op::LaunchesFail),
        1 => prop::option::of(0.5f64..1.0).prop_map(Op::Memory),
        1 => any::<bool>().prop_map(Op::Stale),
    ]
}

/// Rules, and what a launch really takes.
fn rules() -> impl Strategy<Value = (ScalingRules, Millis)> {
    let startup = prop_oneof![Just(0u64), Just(1_000), Just(8_000), Just(30_000)];
    (0u32..3, 1u32..10, 1u32..5, startup.clone(), startup, any::<bool>(), any::<bool>()).prop_map(
        |(min_workers, more, worker_capacity, told, real, threshold, learn)| {
            let rules = ScalingRules {
                policy: if threshold { Policy::Threshold } else { Policy::LeadTime },
                min_workers,
                max_workers: min_workers + more,
                worker_capacity,
                worker_startup_time: told,
                predict: if learn { Predict::On } else { Predict::Off },
                ..ScalingRules::default()
            };
            (rules, real)
        },
    )
}

fn happen(world: &mut World, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Arrive(engine, count, run) => world.arrive(*engine, *count, *run),
            Op::Pass(ticks) => (0..*ticks).for_each(|_| world.tick()),
            Op::Clock(by) => world.skew += by,
            Op::LaunchesFail(fail) => world.launches_fail = *fail,
            Op::Crash(pick) => world.crash(*pick),
            Op::Limit(engine, limit) => world.reaches[*engine].limit = *limit,
            Op::Speed(engine, speed) => world.reaches[*engine].speed = *speed,
            Op::Park(engine, parked) => world.reaches[*engine].parked = *parked,
            Op::Restart(memory) => world.restart(*memory),
            Op::Memory(share) => world.memory = *share,
            Op::Stale(stale) => world.stale = *stale,
        }
    }
}

fn seconds(span: Millis) -> u32 {
    u32::try_from(span / SECOND).unwrap_or(u32::MAX)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// 1, 2, 8, 9, 11: checked by the world in every step; and every job ends, once.
    #[test]
    fn nothing_breaks_and_nothing_is_lost(
        (rules, startup) in rules(), ops in prop::collection::vec(anything(), 1..50)
    ) {
        let mut world = World::new(rules, startup);
        happen(&mut world, &ops);
        world.heal();
        let mut ticks = 0;
        while world.unfinished() > 0 && ticks < 20_000 {
            world.tick();
            ticks += 1;
        }
        prop_assert_eq!(world.unfinished(), 0, "after {} ticks: {:?}", ticks, world.last);
        prop_assert!(world.broken.is_empty(), "{}", world.broken[0]);
    }

    /// 10: put away and taken up again before every step, the policy decides as if nothing had happened.
    #[test]
    fn a_restart_changes_nothing(
        (rules, startup) in rules(), ops in prop::collection::vec(anything(), 1..25)
    ) {
        let mut world = World::new(rules, startup).with_twin();
        happen(&mut world, &ops);
        prop_assert!(world.broken.is_empty(), "{}", world.broken[0]);
    }

    /// 3: work for a healthy engine has a worker within a start-up and two ticks.
    #[test]
    fn work_gets_a_worker(
        (rules, startup) in rules(), ops in prop::collection::vec(trouble(), 0..30)
    ) {
        let mut world = World::new(rules.clone(), startup);
        happen(&mut world, &ops);
        world.heal();
        // A launch from before that hangs is given up only after its time.
        while world.count(WorkerPhase::Starting) > 0 {
            world.tick();
        }
        world.arrive(0, 1, 600_000);
        // The threshold policy keeps the cooldown of its last increase.
        let cooldown = if rules.policy == Policy::Threshold { rules.scale_up_cooldown } else { 0 };
        let most = seconds(startup) + seconds(cooldown) + 2;
        let ready = (0..=most).any(|_| {
            world.tick();
            world.count(WorkerPhase::Ready) > 0
        });
        prop_assert!(ready, "{:?}", world.last);
    }

    /// 4: without demand the pool goes to its least size and rests.
    #[test]
    fn an_idle_pool_comes_to_rest(
        (mut rules, startup) in rules(), ops in prop::collection::vec(trouble(), 0..30)
    ) {
        rules.predict = Predict::Off;
        let mut world = World::new(rules.clone(), startup);
        happen(&mut world, &ops);
        world.heal();
        for _ in 0..20_000 {
            if world.unfinished() == 0 {
                break;
            }
            world.tick();
        }
        let longest = rules.retention.max(rules.scale_up_cooldown).max(rules.scale_down_cooldown);
        // So long a silence until one more slot is not worth its price any more, with all engines counted.
        let worth = rules.late_cost * f64::from(rules.worker_capacity) * ENGINES as f64;
        // And until holding workers for another burst has cost what the late jobs of the last ones were worth.
        let arrived: u32 = ops.iter().map(|op| if let Op::Arrive(_, count, _) = op { *count } else { 0 }).sum();
        let bursts = 1_200.0 * (1.0 + rules.late_cost * f64::from(arrived) / 1_200.0).ln();
        let steps = (rules.max_workers - rules.min_workers) * seconds(rules.scale_down_cooldown);
        let span = 3 * seconds(longest) + seconds(startup.max(rules.worker_startup_time)) + (worth + bursts) as u32 + steps;
        (0..span + 60).for_each(|_| world.tick());
        let rests = |world: &World| (world.count(WorkerPhase::Ready), world.count(WorkerPhase::Starting));
        prop_assert_eq!(rests(&world), (rules.min_workers, 0), "{:?}", world.last);
        let launched = world.launched;
        for _ in 0..120 {
            world.tick();
            prop_assert_eq!(rests(&world), (rules.min_workers, 0), "{:?}", world.last);
        }
        prop_assert_eq!(world.launched, launched);
    }

    /// 5: a steady load has a steady target where the policy looks ahead. (Where a launch is in time it follows the jobs.)
    /// While the policy still learns how long the runs take, which it does over their last thousand, the target may follow
    /// that once; what it may not do is go and come back.
    #[test]
    fn a_steady_load_has_a_steady_target(
        every in 1u32..6, at_once in 1u32..4, run in 500i64..15_000,
        startup in prop_oneof![Just(10_000u64), Just(30_000)], slots in 1u32..5
    ) {
        // Jobs that end within a moment of the next ones' arrival make the load itself go up and down.
        prop_assume!(run % (i64::from(every) * 1_000) >= 100);
        let rules = ScalingRules {
            min_workers: 0, max_workers: 100, worker_capacity: slots, worker_startup_time: startup,
            predict: Predict::Off, ..ScalingRules::default()
        };
        let mut world = World::new(rules, startup);
        let mut targets = Vec::new();
        for second in 0..1_800 {
            if second % every == 0 {
                world.arrive(0, at_once, run);
            }
            world.tick();
            targets.push(world.last.as_ref().map_or(0, |decision| decision.target));
        }
        let late = &targets[1_500..];
        let moves: Vec<bool> = late.windows(2).filter(|two| two[0] != two[1]).map(|two| two[0] < two[1]).collect();
        prop_assert!(moves.len() <= 1, "{} moves: {:?}", moves.len(), late);
    }

    /// 6 and 7: more work never asks for less, and work beyond an engine's limit asks for no more than the limit can use.
    #[test]
    fn what_is_wanted_grows_with_the_work(
        (mut rules, startup) in rules(), ops in prop::collection::vec(trouble(), 1..20),
        more in 1u32..30, limit in 1u32..20
    ) {
        rules.policy = Policy::LeadTime;
        rules.max_workers = 1_000;
        let mut world = World::new(rules, startup);
        happen(&mut world, &ops);
        world.heal();
        let seen = world.observation();
        let wanted = |seen: &Observation| world.autoscaler.clone().step(seen).figures.computed;
        let with = |change: &dyn Fn(&mut EngineLoad)| {
            let mut seen = seen.clone();
            change(&mut seen.engines[0]);
            wanted(&seen)
        };
        let base = wanted(&seen);
        let longer_queue = with(&|engine| engine.queued[1] += more);
        let more_arrivals = with(&|engine| engine.arrivals[1] += more);
        prop_assert!(longer_queue >= base, "{} waiting more: {} after {}", more, longer_queue, base);
        prop_assert!(more_arrivals >= base, "{} arrivals more: {} after {}", more, more_arrivals, base);
        let limited = with(&|engine| engine.reach.limit = Some(limit));
        prop_assert!(limited <= base, "a limit of {}: {} after {}", limit, limited, base);
        let room = |engine: &mut EngineLoad| {
            engine.reach.limit = Some(limit);
            let running = u32::try_from(engine.running.len()).unwrap_or(u32::MAX);
            engine.queued = [0, limit.saturating_sub(running), 0, 0];
        };
        let (full, beyond) = (with(&room), with(&|engine| {
            room(engine);
            engine.queued[0] += more;
        }));
        if world.autoscaler.due_span() + 1_000 <= 5_000 {
            // The other engines may use as much as they do without it.
            let used = |engine: &EngineLoad| engine.queued_total() + engine.running.len() as u32;
            let others: u32 = seen.engines.iter().skip(1).map(used).sum();
            let running = seen.engines[0].running.len() as u32;
            let most = (others + limit.max(running)).div_ceil(world.autoscaler.rules().worker_capacity);
            let in_bounds = (full..=full.max(most)).contains(&beyond);
            prop_assert!(in_bounds, "{} beyond {}: {} after {}", more, limit, beyond, full);
        }
        let parked = with(&|engine| (engine.reach.parked, engine.queued[1]) = (true, 1_000));
        prop_assert!(parked <= base, "parked: {} after {}", parked, base);
    }

    /// 8: what is foretold only ever raises the number.
    #[test]
    fn forecasts_only_raise(
        (mut rules, startup) in rules(), ops in prop::collection::vec(trouble(), 1..20), due in 0u32..50
    ) {
        rules.policy = Policy::LeadTime;
        let mut world = World::new(rules.clone(), startup);
        happen(&mut world, &ops);
        for _ in 0..6 {
            world.arrive(1, 12, 2_000);
            (0..60).for_each(|_| world.tick());
            let seen = Observation { due_soon: due, ..world.observation() };
            let mut with = world.autoscaler.clone();
            with.set_rules(ScalingRules { predict: Predict::On, ..rules.clone() });
            let mut without = world.autoscaler.clone();
            without.set_rules(ScalingRules { predict: Predict::Off, ..rules.clone() });
            let (with, without) = (with.step(&seen), without.step(&Observation { due_soon: 0, ..seen.clone() }));
            prop_assert!(with.figures.computed >= without.figures.computed, "{:?}\n{:?}", with, without);
        }
    }

    /// 9: whatever is observed, the estimators stay finite.
    #[test]
    fn estimators_stay_finite(
        steps in prop::collection::vec(
            (prop_oneof![Just(0i64), 0i64..100_000, Just(i64::MAX), Just(i64::MIN), -5i64..5],
             prop_oneof![Just(0u32), 1u32..5, Just(u32::MAX)],
             prop_oneof![Just(0u64), 1u64..100_000, Just(u64::MAX)]),
            1..60)
    ) {
        let mut autoscaler = Autoscaler::new(ScalingRules::default());
        for (at, count, took) in steps {
            let mut load = EngineLoad::idle("n8n");
            load.arrivals[1] = count;
            load.queued[2] = count;
            load.completed = vec![Completed { took, workflow: Some("w".into()) }];
            load.running = vec![Running {
                since: Time(at / 2), workflow: None, priority: crate::execution::Priority::Low,
            }];
            load.reach.speed = took as f64;
            let seen = Observation {
                now: Time(at), engines: vec![load], started_up: vec![took], failed_launches: count,
                ..Observation::default()
            };
            let f = autoscaler.step(&seen).figures;
            let numbers = [f.expected, f.variance, f.want, f.lambda, f.load, f.startup_s, f.recurring];
            prop_assert!(numbers.iter().all(|n| n.is_finite() && *n >= 0.0), "{:?}", f);
        }
    }
}

#[test]
fn the_rate_of_a_stream_that_stopped_goes_to_nothing() {
    let mut world = World::new(ScalingRules::default(), 1_000);
    for _ in 0..600 {
        world.arrive(0, 3, 500);
        world.tick();
    }
    let lambda = |world: &World| world.last.as_ref().map_or(0.0, |decision| decision.figures.lambda);
    assert!(lambda(&world) > 2.5, "{}", lambda(&world));
    (0..120).for_each(|_| world.tick());
    assert!(lambda(&world) < 0.02, "{}", lambda(&world));
}
