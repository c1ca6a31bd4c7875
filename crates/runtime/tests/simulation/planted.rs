//! The checker is checked: each planted fault must be found, and soon.

use crate::run::{Kind, simulate};
use enginehouse_core::planted::{Bug, plant};
use serde_json::json;
use std::collections::BTreeMap;

/// Seeds after which a fault counts as not found.
const SEEDS_MAX: u64 = 300;

/// The seed that found the fault, with what it found.
fn hunt(bug: Bug) -> Option<(u64, String)> {
    // A planted fault may well end in a panic, which is found just as well.
    let run = |seed| {
        let caught = std::panic::catch_unwind(|| {
            plant(Some(bug));
            simulate(seed, Kind::Any)
        });
        plant(None);
        match caught {
            Ok(came) => came.verdict.violations.into_iter().next(),
            Err(_) => Some("a panic".to_owned()),
        }
    };
    (1..=SEEDS_MAX).find_map(|seed| Some((seed, run(seed)?)))
}

#[test]
fn every_planted_fault_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match hunt(bug) {
            Some((seed, violation)) => {
                println!("planted {bug:?}: found after {seed} seeds: {violation}");
                found.insert(format!("{bug:?}"), seed);
            }
            None => {
                println!("planted {bug:?}: NOT FOUND in {SEEDS_MAX} seeds");
                missed.push(bug);
            }
        }
    }
    println!("planted {} of {} found", found.len(), Bug::ALL.len());
    if let Ok(path) = std::env::var("PLANTED_REPORT") {
        std::fs::write(path, json!({"planted": Bug::ALL.len(), "found": found}).to_string())
            .expect("written");
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
