//! How long what has ended is kept.

use super::checker::Checker;
use super::raw::Raw;
use enginehouse_core::execution::Status;
use enginehouse_core::retention::RetentionRules;
use enginehouse_core::time::DAY;

pub(super) fn resolve(raw: &Raw, checker: &mut Checker<'_>) -> RetentionRules {
    let storage = &raw.storage;
    let mut rules = RetentionRules {
        age: Some(storage.result_retention_days.0).filter(|days| *days > 0).map(|days| days * DAY),
        rows_max: storage.ended_max.map(|most| most.0),
        bytes_max: storage.max_mib.map(|mib| mib.0 << 20),
        ..RetentionRules::default()
    };
    for (word, days) in &storage.retention_days_of_status {
        match Status::parse(word).filter(|status| status.is_terminal()) {
            Some(status) => drop(rules.of_status.insert(status, days.0 * DAY)),
            None => checker.fault(
                &format!("storage/retention_days_of_status/{word}"),
                "is not a status in which executions end: completed, failed or cancelled",
            ),
        }
    }
    for (name, days) in &storage.retention_days_of_engine {
        let known = raw.engines.0.contains_key(name);
        checker.require(known, &format!("storage/retention_days_of_engine/{name}"), || {
            "is not the name of a configured engine".to_owned()
        });
        rules.of_engine.insert(name.clone(), days.0 * DAY);
    }
    rules
}
