//! The limiter on simulated engines.

use super::*;
use proptest::prelude::*;

/// A small generator of its own, so that a seed means the same for ever (Steele et al., SplitMix64, 2014).
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Lognormal around `median` with sigma `spread`.
    fn run_s(&mut self, median: f64, spread: f64) -> f64 {
        let normal = (0..12).map(|_| self.draw()).sum::<f64>() - 6.0;
        median * (spread * normal).exp()
    }
}

/// What an engine does with a load.
#[derive(Clone, Copy)]
struct Engine {
    /// Seconds of a run while nothing is wrong.
    base_s: f64,
    /// How different runs are.
    spread: f64,
    /// Calls at once above which every run gets slower in proportion.
    knee: f64,
    /// Every run takes so much longer, whatever the load.
    slow: f64,
    /// Calls at once above which further ones are answered 503.
    refuses_above: usize,
    /// Nothing ends any more.
    stuck: bool,
}

const WELL: Engine =
    Engine { base_s: 1.0, spread: 0.5, knee: 1e9, slow: 1.0, refuses_above: usize::MAX, stuck: false };

/// What came of a run of the simulation.
#[derive(Debug, Default)]
struct Came {
    completed: u64,
    cuts: u32,
    limits: Vec<Option<u32>>,
}

struct World {
    dice: Dice,
    limiter: Limiter,
    now_ms: i64,
    next_key: i64,
    /// Work left in seconds of a healthy engine.
    calls: BTreeMap<Key, f64>,
}

impl World {
    fn new(seed: u64, max: Option<u32>) -> World {
        let limiter = Limiter::new(LimiterRules { max, ..LimiterRules::default() });
        World { dice: Dice(seed), limiter, now_ms: 1_000_000, next_key: 0, calls: BTreeMap::new() }
    }

    /// `offered` calls want to run at once, all the time.
    fn run(&mut self, engine: Engine, offered: usize, seconds: u32) -> Came {
        let mut came = Came::default();
        let step = 0.1;
        for at in 0..seconds * 10 {
            let mode = self.limiter.mode();
            let now = Time(self.now_ms);
            let most = self.limiter.limit().map_or(offered, |limit| offered.min(limit as usize));
            while self.calls.len() < most {
                let key = Key(self.next_key);
                self.next_key += 1;
                self.limiter.started(key, now);
                if self.calls.len() >= engine.refuses_above {
                    self.limiter.ended(key, Ended::Overloaded { retry_after: None }, now);
                    break;
                }
                let work = self.dice.run_s(engine.base_s, engine.spread);
                self.calls.insert(key, work);
            }
            let crowd = (self.calls.len() as f64 / engine.knee).max(1.0);
            // Above the knee the engine thrashes: what it does in all falls as well.
            let pace = if engine.stuck { 0.0 } else { step / engine.slow / (crowd * crowd.sqrt()) };
            self.now_ms += 100;
            let now = Time(self.now_ms);
            let mut ended = Vec::new();
            for (key, left) in &mut self.calls {
                *left -= pace;
                if *left <= 0.0 {
                    ended.push(*key);
                }
            }
            for key in ended {
                self.calls.remove(&key);
                self.limiter.ended(key, Ended::Answered, now);
                came.completed += 1;
            }
            if at % 10 == 9 {
                self.limiter.tick(now);
                came.limits.push(self.limiter.limit());
            }
            came.cuts += u32::from(mode != Mode::Cut && self.limiter.mode() == Mode::Cut);
        }
        came
    }
}

const SEEDS: u64 = 20;

#[test]
fn a_knee_is_found_from_far_above_it() {
    // Runs from a part of a tick to many ticks, alike or not; from one second to the next far too many want to run.
    for (base_s, spread) in
        [(0.1, 0.0), (0.3, 0.0), (0.4, 0.0), (0.4, 0.5), (1.0, 0.0), (3.0, 0.2), (5.0, 0.7)]
    {
        let (mut found, mut calm) = (0, 0);
        for seed in 0..SEEDS {
            let mut world = World::new(seed, None);
            let engine = Engine { base_s, spread, knee: 8.0, ..WELL };
            calm += world.run(engine, 6, 60 + (30.0 * base_s) as u32).cuts;
            let came = world.run(engine, 60, 200 + (100.0 * base_s) as u32);
            let late = &came.limits[came.limits.len() - 100..];
            let good = late.iter().filter(|limit| limit.is_some_and(|l| (4..=12).contains(&l))).count();
            found += u32::from(good >= 80);
        }
        println!("{base_s} s, spread {spread}: {found} of {SEEDS}, {calm} cuts in calm");
        assert!(
            found >= 17 && calm <= 4,
            "{base_s} s, spread {spread}: {found} of {SEEDS}, {calm} cuts in calm"
        );
    }
}

#[test]
fn a_healthy_engine_is_hardly_ever_cut() {
    let mut cut = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, Some(40));
        let healthy = Engine { base_s: 5.0, ..WELL };
        world.run(healthy, 20, 300);
        let later = world.run(healthy, 5, 300).cuts + world.run(healthy, 40, 300).cuts;
        cut += u32::from(later > 0);
    }
    assert!(cut <= 1, "{cut} of {SEEDS} healthy engines were cut");
}

#[test]
fn a_knee_is_found() {
    let mut found = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, Some(40));
        world.run(WELL, 8, 120);
        let came = world.run(Engine { knee: 8.0, ..WELL }, 40, 900);
        let late = &came.limits[600..];
        let mean = late.iter().map(|l| f64::from(l.unwrap_or(40))).sum::<f64>() / late.len() as f64;
        found += u32::from((4.0..=12.0).contains(&mean));
    }
    assert!(found >= 18, "the knee was found in {found} of {SEEDS} runs");
}

#[test]
fn slowness_from_elsewhere_is_not_answered_with_a_limit() {
    let mut right = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, Some(40));
        world.run(WELL, 20, 120);
        world.run(Engine { slow: 4.0, ..WELL }, 20, 400);
        right += u32::from(world.limiter.mode() == Mode::External && world.limiter.limit().is_none());
        world.run(WELL, 20, 200);
        assert!(matches!(world.limiter.mode(), Mode::Open | Mode::Hold), "{:?}", world.limiter.mode());
    }
    assert!(right >= 18, "external in {right} of {SEEDS} runs");
}

#[test]
fn an_engine_that_says_503_is_used_near_its_capacity() {
    for (seed, warm) in [(1, 0), (2, 0), (3, 120), (4, 120)] {
        let mut world = World::new(seed, None);
        world.run(WELL, 6, warm);
        let refusing = Engine { refuses_above: 8, ..WELL };
        world.run(refusing, 40, 120);
        let came = world.run(refusing, 40, 600);
        // Eight at once with a mean of 1.13 s each.
        let possible = 600.0 * 8.0 / 1.13;
        let share = came.completed as f64 / possible;
        assert!(share > 0.75, "seed {seed}: {share:.2} of what is possible");
    }
}

#[test]
fn a_stuck_engine_is_seen_before_anything_ends() {
    let mut world = World::new(7, Some(40));
    world.run(WELL, 20, 120);
    let came = world.run(Engine { stuck: true, ..WELL }, 20, 60);
    assert_eq!(came.completed, 0);
    assert!(world.limiter.speed() < 0.5, "speed {}", world.limiter.speed());
    assert_eq!(world.limiter.mode(), Mode::Cut);
}

/// Verdicts at the end of an epoch: the mode with the limit in force (`-`: none), the concurrency and speed before the last
/// cut; then the epoch's calls at once, its speed and its seconds; then the mode and limit that follow. `max` is 40.
const VERDICTS: &str = "
  open  -  before 1 1.0    20 at 1.0 for 20 s   => open -
  open  -  before 1 1.0    20 at 0.6 for 20 s   => open -
  open  -  before 1 1.0    20 at 0.52 for 20 s  => cut 11
  open  -  before 1 1.0    20 at 0.1 for 20 s   => cut 7
  open  -  before 1 1.0    1 at 0.1 for 20 s    => open -
  cut  10  before 20 0.5   10 at 0.8 for 20 s   => hold 10
  cut  10  before 20 0.25  10 at 0.38 for 20 s  => cut 4
  cut  10  before 20 0.5   10 at 0.5 for 20 s   => external -
  cut   2  before 4 0.5    2 at 0.8 for 20 s    => external -
  cut   2  before 4 0.4    2 at 0.8 for 20 s    => hold 2
  cut   1  before 2 0.2    1 at 0.4 for 20 s    => hold 1
  hold 10  before 20 0.5   10 at 0.9 for 20 s   => hold 11
  hold 10  before 20 0.5   10 at 0.7 for 20 s   => hold 10
  hold 10  before 20 0.5   6 at 0.9 for 20 s    => hold 10
  hold 10  before 20 0.5   2 at 0.9 for 130 s   => hold 15
  hold 10  before 20 0.5   10 at 0.4 for 20 s   => cut 6
  hold 39  before 20 0.5   39 at 0.9 for 20 s   => open -
  external - before 10 0.5 10 at 0.5 for 20 s   => external -
  external - before 10 0.5 15 at 0.35 for 20 s  => cut 6
  external - before 10 0.5 10 at 0.9 for 20 s   => open -
";

fn mode(word: &str) -> Mode {
    let all = [Mode::Open, Mode::Cut, Mode::Hold, Mode::External];
    all.into_iter().find(|mode| mode.as_str() == word).expect("a mode")
}

#[test]
fn a_verdict_follows_from_speed_and_calls_at_once() {
    for row in VERDICTS.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (given, expected) = row.split_once("=>").expect("an arrow");
        let words: Vec<&str> = given.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<f64>().expect("a number");
        let mut limiter = Limiter::new(LimiterRules { max: Some(40), ..LimiterRules::default() });
        limiter.mode = mode(words[0]);
        limiter.limit = words[1].parse().unwrap_or(40.0);
        limiter.before = (number(3), number(4));
        limiter.speed = number(7);
        limiter.retry_at = Time(300_000);
        // So many that half a completion more or less does not show.
        let (expected_completions, seconds) = (1e9, number(9));
        let epoch = Epoch {
            expected: expected_completions,
            completed: expected_completions * number(7),
            call_seconds: number(5) * seconds,
            seconds,
        };
        limiter.judge(epoch, Time(100_000));
        let limit = limiter.limit().map_or("-".to_owned(), |limit| limit.to_string());
        assert_eq!(format!("{} {limit}", limiter.mode().as_str()), expected.trim(), "{row}");
    }
}

#[test]
fn growth_is_fast_far_from_the_wall_and_stops_at_a_quarter() {
    let mut limiter = Limiter::new(LimiterRules::default());
    (limiter.mode, limiter.limit, limiter.ceiling) = (Mode::Hold, 8.0, 1e9);
    let mut limits = Vec::new();
    for _ in 0..6 {
        let epoch = Epoch { call_seconds: limiter.limit * 10.0, seconds: 10.0, ..Epoch::default() };
        limiter.speed = 1.0;
        limiter.probe(epoch.call_seconds / epoch.seconds, epoch.seconds, Time(0));
        limits.push(limiter.limit().expect("held"));
    }
    assert_eq!(limits, [9, 11, 13, 17, 21, 26]);
    limiter.wall = Some(26.0);
    limiter.probe(limiter.limit, 10.0, Time(0));
    assert_eq!(limiter.limit(), Some(27), "by single steps around what was too much");
}

#[test]
fn one_overload_cuts_once_however_many_calls_were_under_way() {
    let mut limiter = Limiter::new(LimiterRules::default());
    for key in 0..40 {
        limiter.started(Key(key), Time(0));
    }
    for key in 0..10 {
        limiter.ended(
            Key(key),
            Ended::Overloaded { retry_after: Some(30 * SECOND) },
            Time(5_000 + key * 2_000),
        );
    }
    assert_eq!(limiter.limit(), Some(20), "40 at once, cut by half, and the others were there before");
    for second in 0..20 {
        (0..30).for_each(|n| limiter.ended(Key(n), Ended::Answered, Time(7_000)));
        limiter.tick(Time(7_000 + second * 1_000));
    }
    assert_eq!(limiter.limit(), Some(20), "it was asked for patience");
}

#[test]
fn what_is_stored_goes_on_as_if_nothing_had_happened() {
    let mut world = World::new(5, Some(40));
    world.run(WELL, 8, 120);
    world.run(Engine { knee: 8.0, ..WELL }, 40, 300);
    let text = serde_json::to_string(&world.limiter).expect("it is stored");
    let mut read: Limiter = serde_json::from_str(&text).expect("and read");
    read.set_rules(world.limiter.rules);
    assert_eq!((read.limit(), read.mode()), (world.limiter.limit(), world.limiter.mode()));
    assert!((read.speed() - world.limiter.speed()).abs() < 1e-9);
    assert_eq!(read.healthy.runs, world.limiter.healthy.runs);
    assert!(text.len() < 4_096, "{} bytes", text.len());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start(i64, i64),
    End(i64, u8, i64),
    Tick(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![0i64..100_000, -5i64..5, Just(i64::MAX), Just(i64::MIN)];
    prop_oneof![
        (0i64..30, time.clone()).prop_map(|(k, t)| Step::Start(k, t)),
        (0i64..30, 0u8..4, time.clone()).prop_map(|(k, h, t)| Step::End(k, h, t)),
        time.prop_map(Step::Tick),
    ]
}

proptest! {
    #[test]
    fn any_history_leaves_a_limit_in_its_bounds(
        steps in prop::collection::vec(step(), 1..400), max in prop::option::of(1u32..50)
    ) {
        let mut limiter = Limiter::new(LimiterRules { max, ..LimiterRules::default() });
        for step in steps {
            match step {
                Step::Start(key, at) => limiter.started(Key(key), Time(at)),
                Step::End(key, how, at) => {
                    let how = match how {
                        0 => Ended::Overloaded { retry_after: Some(u64::MAX) },
                        1 => Ended::Unknown,
                        _ => Ended::Answered,
                    };
                    limiter.ended(Key(key), how, Time(at));
                }
                Step::Tick(at) => limiter.tick(Time(at)),
            }
            prop_assert!(limiter.speed().is_finite() && limiter.limit.is_finite());
            if let Some(limit) = limiter.limit() {
                prop_assert!(limit >= 1 && max.is_none_or(|max| limit <= max));
            }
        }
    }
}
