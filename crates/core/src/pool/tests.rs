//! Plans as tables, and what holds for every plan.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NOW: Time = Time(1_000_000);
const LAUNCH_TIMEOUT: Millis = 60_000;

/// A worker from a word: its letter, `s`tarting, `r`eady or `d`raining, its busy slots, then `~` to be recycled, `!`
/// unhealthy. A worker further left was launched earlier and has been idle for longer; `h` stands for a start that
/// has taken too long.
fn worker(at: usize, word: &str) -> PoolWorker<char> {
    let mut letters = word.chars();
    let id = letters.next().unwrap();
    let kind = letters.next().unwrap();
    let phase = match kind {
        's' | 'h' => WorkerPhase::Starting,
        'r' => WorkerPhase::Ready,
        'd' => WorkerPhase::Draining,
        other => panic!("no phase: {other}"),
    };
    let busy = letters.clone().take_while(char::is_ascii_digit).collect::<String>();
    let since = NOW.minus(if kind == 'h' { LAUNCH_TIMEOUT + 1 } else { 1_000 - at as Millis });
    PoolWorker {
        id,
        phase,
        busy_slots: busy.parse().unwrap_or(0),
        launched: since,
        idle_since: since,
        recycle: word.contains('~'),
        unhealthy: word.contains('!'),
    }
}

fn said(actions: &[PoolAction<char>]) -> String {
    let word = |action: &PoolAction<char>| match action {
        PoolAction::Reinstate(id) => format!("reinstate {id}"),
        PoolAction::Launch(n) => format!("launch {n}"),
        PoolAction::Cancel(id) => format!("cancel {id}"),
        PoolAction::GiveUp(id) => format!("give up {id}"),
        PoolAction::Stop(id) => format!("stop {id}"),
        PoolAction::Drain(id) => format!("drain {id}"),
    };
    actions.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_target_becomes_actions() {
    // what, the workers, target / max (`-` behind them: nothing may be launched), the actions
    let rows: [(&str, &str, &str, &str); 25] = [
        ("nothing to do", "a:r1 b:r0", "2/5", ""),
        ("from nothing", "", "3/5", "launch 3"),
        ("no more than may exist", "a:r1", "9/5", "launch 4"),
        ("a draining one counts among those that exist", "a:r1 b:d1", "3/2", "reinstate b"),
        ("the most loaded draining one comes back first", "a:d1 b:d3 c:d2", "1/5", "reinstate b"),
        ("draining ones come back before a launch", "a:r1 b:d0", "3/5", "reinstate b, launch 1"),
        ("nobody is launched under a guard", "a:r1", "3/5-", ""),
        ("a draining one comes back under a guard", "a:r1 b:d1", "3/5-", "reinstate b"),
        ("a starting one counts", "a:r1 b:s", "2/5", ""),
        ("the youngest start is cancelled first", "a:r1 b:s c:s", "2/5", "cancel c"),
        ("a start is cancelled before an idle one goes", "a:r0 b:s", "1/5", "cancel b"),
        ("the longest idle goes", "a:r0 b:r0 c:r1", "2/5", "stop a"),
        ("an idle one before a busy one", "a:r1 b:r0", "1/5", "stop b"),
        ("the least loaded drains", "a:r3 b:r1 c:r2", "1/5", "drain b, drain c"),
        ("to nothing", "a:r1 b:r0 c:s d:d1", "0/5", "cancel c, stop b, drain a"),
        ("a start that hangs is given up and replaced", "a:h b:r1", "2/5", "give up a, launch 1"),
        ("a start that hangs is given up under a guard", "a:h b:r1", "2/5-", "give up a"),
        ("an unhealthy idle one is replaced", "a:r0! b:r1", "2/5", "stop a, launch 1"),
        ("an unhealthy busy one drains and is replaced", "a:r2! b:r1", "2/5", "drain a, launch 1"),
        ("and not before there is room for another", "a:r2! b:r1", "2/2", "drain a"),
        ("an unhealthy one that drains is left alone", "a:d1! b:r1", "1/5", ""),
        ("one is recycled at a time, the emptiest first", "a:r2~ b:r1~", "2/5", "drain b, launch 1"),
        ("not while another starts", "a:r0~ b:s", "2/5", ""),
        ("not while another drains for it", "a:d1~ b:r1~ c:r1", "2/5", ""),
        ("not while nothing may be launched", "a:r0~ b:r1", "2/5-", ""),
    ];
    for (what, workers, aim, wanted) in rows {
        let workers: Vec<_> = workers
            .split_whitespace()
            .enumerate()
            .map(|(at, word)| worker(at, &word.replacen(':', "", 1)))
            .collect();
        let (target, rest) = aim.split_once('/').unwrap();
        let aim = PoolAim {
            target: target.parse().unwrap(),
            max: rest.trim_end_matches('-').parse().unwrap(),
            launch_timeout: LAUNCH_TIMEOUT,
            launch_nothing: rest.ends_with('-'),
        };
        assert_eq!(said(&plan(&workers, aim, NOW)), wanted, "{what}");
    }
}

fn any_worker() -> impl Strategy<Value = PoolWorker<u32>> {
    let phase =
        prop_oneof![Just(WorkerPhase::Starting), Just(WorkerPhase::Ready), Just(WorkerPhase::Draining)];
    (phase, 0..4u32, 0..120_000u64, 0..9_000u64, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(phase, busy, age, idle, recycle, unhealthy)| PoolWorker {
            id: 0,
            phase,
            busy_slots: if phase == WorkerPhase::Starting { 0 } else { busy },
            launched: NOW.minus(age),
            idle_since: NOW.minus(idle),
            recycle,
            unhealthy,
        },
    )
}

proptest! {
    #[test]
    fn every_plan_keeps_the_rules(
        mut workers in prop::collection::vec(any_worker(), 0..12),
        target in 0..10u32,
        max in 0..10u32,
        launch_nothing: bool,
    ) {
        for (id, worker) in workers.iter_mut().enumerate() {
            worker.id = id as u32;
        }
        let aim = PoolAim { target: target.min(max), max, launch_timeout: LAUNCH_TIMEOUT, launch_nothing };
        let actions = plan(&workers, aim, NOW);
        let mut met = BTreeSet::new();
        let (mut launched, mut gone) = (0, 0);
        for action in &actions {
            let id = match *action {
                PoolAction::Launch(n) => {
                    prop_assert!(!launch_nothing && n > 0 && launched == 0);
                    launched = n;
                    continue;
                }
                PoolAction::Reinstate(id) | PoolAction::Drain(id) => id,
                PoolAction::Cancel(id) | PoolAction::GiveUp(id) | PoolAction::Stop(id) => {
                    gone += 1;
                    id
                }
            };
            prop_assert!(met.insert(id), "worker {id} has two actions: {actions:?}");
            let worker = &workers[id as usize];
            let fits = match action {
                PoolAction::Reinstate(_) => worker.phase == WorkerPhase::Draining && !worker.unhealthy,
                PoolAction::Cancel(_) | PoolAction::GiveUp(_) => worker.phase == WorkerPhase::Starting,
                PoolAction::Stop(_) => worker.phase == WorkerPhase::Ready && worker.busy_slots == 0,
                PoolAction::Drain(_) => worker.phase == WorkerPhase::Ready && worker.busy_slots > 0,
                PoolAction::Launch(_) => true,
            };
            prop_assert!(fits, "{action:?} of {worker:?}");
        }
        let exist = workers.len() as u32 - gone + launched;
        prop_assert!(exist <= max.max(workers.len() as u32 - gone), "{exist} exist of {max}: {actions:?}");
        let down = actions.iter().any(|a| matches!(a, PoolAction::Reinstate(_) | PoolAction::Launch(_)));
        let sound = |w: &&PoolWorker<u32>| w.phase != WorkerPhase::Draining && !w.unhealthy;
        let hung = |w: &PoolWorker<u32>| w.phase == WorkerPhase::Starting && NOW.since(w.launched) > LAUNCH_TIMEOUT;
        let have = workers.iter().filter(sound).filter(|w| !hung(w)).count() as u32;
        prop_assert!(!(down && have > aim.target), "grows though there are {have}: {actions:?}");
    }
}
