//! What is told of a limit, as a text table: the limit on the left, the words on the right.
//!
//! It was lowered at 18:51:03; it is 18:55:03. Left: the mode with the limit in force, the learned limit before (`-`: none) and
//! after, the cause, seconds that work has waited, and further words.

use super::*;
use crate::breaker::BreakerRules;
use crate::gate::GateRules;
use crate::limiter::LimiterRules;
use serde_json::json;

const LOWERED: Time = Time(1_772_304_663_000);
const NOW: Time = Time(1_772_304_903_000);

/// What was seen of an endpoint whose runs usually take 2 s.
fn cause(word: &str) -> serde_json::Value {
    let slow = |run_s: Option<f64>, speed: f64, ended: f64| json!({"slow": {"usual_s": 2.0, "run_s": run_s, "speed": speed, "ended": ended, "expected": 21.4, "seconds": 12.0}});
    match word {
        "slow" => slow(Some(4.4), 0.4545, 9.0),
        "mixed" => slow(Some(1.5), 0.4, 9.0),
        "stuck" => slow(None, 0.02, 0.0),
        "refused" => json!("refused"),
        other => panic!("{other} is no cause"),
    }
}

fn gate(words: &[&str]) -> Gate {
    let number = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.parse::<u32>().ok());
    let two = words.contains(&"two");
    let rules = GateRules {
        breaker: BreakerRules::default(),
        adaptive: !words.contains(&"off"),
        max_concurrency: number("max="),
        slots_max: Some(50),
        endpoints: if two { vec!["a".into(), "b".into()] } else { vec!["a".into()] },
        ..GateRules::default()
    };
    let mut gate = Gate::new(rules, LOWERED);
    let [mode, in_force, from, to, cause_word, waited] = words[..6] else { panic!("{words:?}") };
    let mut doc = serde_json::to_value(&gate.endpoints[0].limiter).expect("it is stored");
    doc["mode"] = json!(mode);
    doc["limit"] = json!(in_force.parse::<f64>().unwrap_or(50.0));
    doc["speed"] = json!(0.42);
    if in_force != "-" {
        let since = number("since=").map_or(LOWERED, |before| LOWERED.minus(u64::from(before) * SECOND));
        doc["account"]["holding"] = json!({
            "since": since, "speed_before": 0.4, "waited_s": waited.parse::<f64>().expect("seconds"), "held": 3,
            "held_at": NOW,
            "lowered": {"at": LOWERED, "from": from.parse::<u32>().ok(), "to": to.parse::<u32>().expect("a limit"),
                "cause": cause(cause_word)},
        });
    }
    gate.endpoints[0].limiter = serde_json::from_value(doc).expect("and read");
    gate.endpoints[0]
        .limiter
        .set_rules(LimiterRules { max: gate.rules.max_concurrency.or(Some(50)), ..LimiterRules::default() });
    gate
}

const TOLD: &str = "
cut      7 -  7 slow    0             => experiment: Enginehouse lowered the limit of engine e from none to 7 at 18:51:03 UTC, because runs took about 4.4 s instead of 2.0 s (9 ended in 12 s, where 21 would at the usual speed); this is an experiment, as a rule a short one: if fewer at once are not clearly faster, the limit goes up again; work has waited 0 s for it in all | `adaptive = false` in [engines.e] switches it off
cut      4 7  4 stuck   31.4 since=60 => experiment: Enginehouse lowered the limit of engine e from 7 to 4 at 18:51:03 UTC, because no run ended in 12 s, where 21 would at the usual speed; this is an experiment, as a rule a short one: if fewer at once are not clearly faster, the limit goes up again; there has been a limit since 18:50:03 UTC; work has waited 31 s for it in all | `adaptive = false` in [engines.e] switches it off
cut      4 7  4 mixed   31.4 since=60 => experiment: Enginehouse lowered the limit of engine e from 7 to 4 at 18:51:03 UTC, because 9 runs ended in 12 s, where 21 would at the usual speed; this is an experiment, as a rule a short one: if fewer at once are not clearly faster, the limit goes up again; there has been a limit since 18:50:03 UTC; work has waited 31 s for it in all | `adaptive = false` in [engines.e] switches it off
hold     7 -  7 slow    123           => slower_with_more: Enginehouse lowered the limit of engine e from none to 7 at 18:51:03 UTC, because runs took about 4.4 s instead of 2.0 s (9 ended in 12 s, where 21 would at the usual speed); fewer at once were faster, so it stays, and it is raised from time to time to see whether it should; work has waited 123 s for it in all | `adaptive = false` in [engines.e] switches it off
hold     9 -  7 slow    4000 two      => slower_with_more: Enginehouse lowered the limit of endpoint a of engine e from none to 7 at 18:51:03 UTC, because runs took about 4.4 s instead of 2.0 s (9 ended in 12 s, where 21 would at the usual speed); fewer at once were faster, so it stays, and it is raised from time to time to see whether it should; it is 9 now; work has waited 67 min for it in all | `adaptive = false` in [engines.e] switches it off
hold     5 -  5 refused 9000 max=40   => too_many_requests: Enginehouse lowered the limit of engine e from its `max_concurrency` of 40 to 5 at 18:51:03 UTC, because the engine answered that it is too much (429 or 503); it is raised again as the engine's answers allow; work has waited 2.5 h for it in all | `adaptive = false` in [engines.e] switches it off
hold     5 -  5 refused 9 since=86400 => too_many_requests: Enginehouse lowered the limit of engine e from none to 5 at 18:51:03 UTC, because the engine answered that it is too much (429 or 503); it is raised again as the engine's answers allow; there has been a limit since 2026-02-27 18:51:03 UTC; work has waited 9 s for it in all | `adaptive = false` in [engines.e] switches it off
hold     7 -  7 slow    1 max=4       => configured: engine e runs at most 4 at once: its `max_concurrency` | a higher `max_concurrency` in [engines.e] lets more run
hold     7 -  7 slow    1 max=40 off  => configured: engine e runs at most 40 at once: its `max_concurrency` | a higher `max_concurrency` in [engines.e] lets more run
hold     7 -  7 slow    1 off         => -
external - -  - -       - max=4       => configured: engine e runs at most 4 at once: its `max_concurrency` | a higher `max_concurrency` in [engines.e] lets more run
external - -  - -       -             => slow_anyway: engine e has no limit: it works at 42 % of its usual speed, and fewer at once were not clearly faster |
external - -  - -       - off         => -
open     - -  - -       -             => -
";

fn rows(table: &str) -> impl Iterator<Item = (Vec<&str>, &str)> {
    table.lines().filter(|line| !line.is_empty()).map(|line| {
        let (left, right) = line.split_once("=>").expect("an arrow");
        (left.split_whitespace().collect(), right.trim())
    })
}

#[test]
fn what_is_told_is_what_was_decided() {
    for (words, expected) in rows(TOLD) {
        let told = gate(&words).limit_told("e", 0, NOW).map(|told| {
            let text = format!("{}: {} | {}", told.why.as_str(), told.text, told.remedy.unwrap_or_default());
            text.trim_end().to_owned()
        });
        assert_eq!(told.as_deref().unwrap_or("-"), expected, "{words:?}");
    }
}

const FULL: &str = "
hold 7 - 7 refused 9          => the adaptive limit holds it back: Enginehouse lowered the limit of engine x.y from none to 7 at 18:51:03 UTC, because the engine answered that it is too much (429 or 503); it is raised again as the engine's answers allow; work has waited 9 s for it in all; `adaptive = false` in [engines.\"x.y\"] switches it off
hold 7 - 7 refused 9 max=4    => engine x.y runs as many as it may: its `max_concurrency` of 4 is used up
open - - - -       - max=4    => engine x.y runs as many as it may: its `max_concurrency` of 4 is used up
open - - - -       - max=4 two => engine x.y runs as many as it may: its `max_concurrency` of 4 per endpoint is used up
";

#[test]
fn who_waits_is_told_whose_limit_it_is() {
    for (words, expected) in rows(FULL) {
        assert_eq!(gate(&words).full_told("x.y", 0, NOW), expected, "{words:?}");
    }
}

#[test]
fn a_limit_in_vain_is_one_that_holds_work_back_without_more_speed() {
    let words = ["hold", "9", "-", "7", "slow", "130"];
    let text = "work waits for the adaptive limit of 9 calls at once on engine e, and has waited 130 s in all since 18:51:03 UTC; its \
                speed was 40 % of the usual before there was a limit and is 42 % now";
    assert_eq!(gate(&words).holds_in_vain("e", 0, NOW).as_deref(), Some(text));
    let later = NOW.plus(LATELY + 1);
    assert_eq!(gate(&words).holds_in_vain("e", 0, later), None, "nothing waits for it");
    for more in ["off", "max=8"] {
        let words = [&words[..], &[more]].concat();
        assert_eq!(gate(&words).holds_in_vain("e", 0, NOW), None, "another limit is in force: {more}");
    }
    let mut faster = gate(&words);
    let mut doc = serde_json::to_value(&faster.endpoints[0].limiter).expect("it is stored");
    doc["speed"] = json!(0.48);
    faster.endpoints[0].limiter = serde_json::from_value(doc).expect("and read");
    assert_eq!(faster.holds_in_vain("e", 0, NOW), None, "a fifth faster");
}
