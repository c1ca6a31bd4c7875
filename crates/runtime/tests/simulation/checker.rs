//! The invariants, checked over the whole feed and the final rows of a run.

use crate::world::{EngineWorld, line};
use enginehouse_core::event::{Event, EventType};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::Key;
use enginehouse_core::time::Time;
use enginehouse_store::{Cursor, Filter, ListQuery, Ref, Store};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Seen {
    events: Vec<Event>,
}

/// Everything that happened, as text, and what is wrong with it.
pub(crate) struct Verdict {
    pub(crate) trace: Vec<String>,
    pub(crate) violations: Vec<String>,
}

pub(crate) async fn judge(
    store: &dyn Store,
    acknowledged: &[Key],
    at_most_once: &BTreeSet<String>,
    world: &EngineWorld,
) -> Verdict {
    let mut violations = Vec::new();
    let mut trace = Vec::new();
    let mut histories: BTreeMap<Key, Seen> = BTreeMap::new();
    let mut after = Cursor(0);
    loop {
        let page = store.feed(after, 500).await.expect("the reference store answers");
        for change in page.commits.iter().flat_map(|c| &c.changes) {
            trace.push(line(change.key, &change.event));
            histories.entry(change.key).or_default().events.push(change.event.clone());
        }
        if page.commits.is_empty() {
            break;
        }
        after = page.next;
    }
    for (key, seen) in &histories {
        check_events(*key, &seen.events, &mut violations);
    }
    let rows = all_rows(store).await;
    let keys: BTreeSet<Key> = rows.iter().map(Execution::key).collect();
    for key in acknowledged.iter().filter(|k| !keys.contains(k)) {
        violations.push(format!("I1 {}: acknowledged and not stored", key.0));
    }
    for row in &rows {
        check_row(row, &histories, &mut violations);
    }
    check_totals(store, &rows, &mut violations).await;
    let runs = world.runs.lock().expect("no panics");
    for row in &rows {
        let Some(id) = row.fixed.ext_id.as_ref().filter(|id| at_most_once.contains(id.as_str())) else {
            continue;
        };
        let started = runs.iter().filter(|r| r.execution == id.as_str()).count();
        // A redrive is a person's decision to run it once more.
        if started > row.state.generation as usize {
            violations.push(format!(
                "I5 {id}: atMostOnce ran {started} times in {} generations",
                row.state.generation
            ));
        }
    }
    Verdict { trace, violations }
}

async fn all_rows(store: &dyn Store) -> Vec<Execution> {
    let mut rows: Vec<Execution> = Vec::new();
    loop {
        let query =
            ListQuery { filter: Filter::default(), after: rows.last().map(Execution::key), limit: 500 };
        let page = store.list(&query).await.expect("the reference store answers");
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    let refs: Vec<Ref> = rows.iter().map(|r| Ref::Key(r.key())).collect();
    store.find(&refs).await.expect("the reference store answers").into_iter().flatten().collect()
}

fn check_events(key: Key, events: &[Event], violations: &mut Vec<String>) {
    let mut fence = 0;
    let mut attempt = 0;
    let mut ready: Option<Time> = None;
    let mut ended = false;
    for (at, event) in events.iter().enumerate() {
        let mut wrong = |what: &str| violations.push(format!("{what}: {}", line(key, event)));
        if event.seq as usize != at + 1 {
            wrong("I7 event numbers have a gap");
        }
        let after_end = matches!(
            event.kind,
            EventType::LateResult | EventType::OperatorAction | EventType::ExecutionRedriven
        );
        if ended && !after_end {
            wrong("I2 something follows the terminal event");
        }
        match event.kind {
            EventType::ExecutionStarted => {
                let granted = event.data.fence.unwrap_or(0);
                if granted <= fence || event.attempt <= attempt {
                    wrong("I3 fence or attempt did not grow");
                }
                if ready.is_some_and(|ready| event.at < ready) {
                    wrong("I9 started before its time");
                }
                (fence, attempt, ready) = (granted, event.attempt, None);
            }
            EventType::ExecutionSubmitted
            | EventType::ExecutionRetrying
            | EventType::ExecutionInterrupted => {
                ready = event.data.ready_at;
            }
            EventType::ExecutionRedriven => (ended, ready) = (false, event.data.ready_at),
            _ => {}
        }
        ended |= event.kind.is_terminal();
    }
}

fn check_row(row: &Execution, histories: &BTreeMap<Key, Seen>, violations: &mut Vec<String>) {
    let mut wrong = |what: String| violations.push(format!("{}: {what}", row.key().0));
    if !row.status().is_terminal() {
        wrong(format!(
            "I10 still {} (due {}, wake {:?}) after the quiet time",
            row.status().as_str(),
            row.state.due,
            row.state.wake_at
        ));
    }
    let events = histories.get(&row.key()).map_or(0, |s| s.events.len());
    if row.state.rev as usize != events {
        wrong(format!("I7 rev {} but {events} events in the feed", row.state.rev));
    }
    if row.history.len() != events.min(256) {
        wrong(format!("I7 {} events in the history, {events} in the feed", row.history.len()));
    }
    let reported = row.state.reported;
    if reported > row.fixed.spec.retry.max_retries + 1 {
        wrong(format!(
            "P3 {reported} attempts reported, {} retries allowed",
            row.fixed.spec.retry.max_retries
        ));
    }
}

async fn check_totals(store: &dyn Store, rows: &[Execution], violations: &mut Vec<String>) {
    let totals = store.totals().await.expect("the reference store answers");
    let count = |status: Status| rows.iter().filter(|r| r.status() == status).count() as u64;
    let told = [totals.pending, totals.running, totals.completed, totals.failed, totals.cancelled];
    let true_counts = Status::ALL.map(count);
    if told != true_counts || totals.accepted != rows.len() as u64 {
        violations.push(format!("totals say {told:?} of {}, rows say {true_counts:?}", totals.accepted));
    }
}
