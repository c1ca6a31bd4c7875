//! The table, the two formats, and that nothing is given out that is not in the table.

use super::*;
use prometheus_client::encoding::text::encode;
use std::collections::BTreeSet;

#[test]
fn names_are_as_prometheus_wants_them_and_stand_once() {
    let mut names = BTreeSet::new();
    for entry in table::TABLE {
        let name = entry.written();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(!entry.help.ends_with('.') && entry.help.len() > 5, "{name}: {}", entry.help);
        assert!(names.insert(name), "{} stands twice", entry.name);
    }
    let page = markdown();
    assert!(names.iter().all(|name| page.contains(&format!("| `{name}` |"))), "{page}");
}

#[test]
fn the_older_format_has_no_units_exemplars_or_end_and_names_counters_in_full() {
    let telemetry = Telemetry::new();
    let labels = vec![("engine", "a # {\"b\"}".into()), ("priority", "HIGH".into())];
    telemetry.submitted.get_or_create(&labels).inc();
    let example = vec![("execution_id", "x".into())];
    telemetry.queue_wait.get_or_create(&labels[1..].to_vec()).observe(0.02, Some(example), None);
    telemetry.committed(3, Duration::from_millis(3));
    let mut registry = Registry::default();
    telemetry.register(&mut registry);
    let mut open = String::new();
    encode(&mut open, &registry).unwrap();
    assert!(open.contains("# UNIT enginehouse_execution_queue_wait_seconds seconds"), "{open}");
    assert!(open.contains("# {execution_id=\"x\"}") && open.ends_with("# EOF\n"), "{open}");
    let old = text::prometheus(&open);
    assert!(old.contains("# TYPE enginehouse_executions_submitted_total counter\n"), "{old}");
    assert!(
        old.contains(
            "enginehouse_executions_submitted_total{engine=\"a # {\\\"b\\\"}\",priority=\"HIGH\"} 1\n"
        ),
        "{old}"
    );
    assert!(
        old.contains("enginehouse_execution_queue_wait_seconds_bucket{le=\"0.025\",priority=\"HIGH\"} 1\n"),
        "{old}"
    );
    assert!(!old.contains("# UNIT") && !old.contains("# EOF") && !old.contains("execution_id"), "{old}");
    assert!(old.contains("enginehouse_store_commit_writes_sum 3.0\n"), "{old}");
}
