//! The invariants, checked over the whole feed and the final rows of a run.

use crate::engine::EngineWorld;
use crate::run::{ENGINE_LIMIT, WORKER_CAPACITY};
use crate::store::line;
use enginehouse_core::event::{Event, EventType};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::failure::{Failure, FailureKind};
use enginehouse_core::id::{Key, SessionId};
use enginehouse_core::time::Time;
use enginehouse_store::{Change, Commit, Cursor, Filter, ListQuery, Ref, Store};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Seen {
    events: Vec<Event>,
}

/// Everything that happened, as text, and what is wrong with it.
pub(crate) struct Checked {
    pub(crate) trace: Vec<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) accepted: usize,
    /// Results of attempts whose lease was gone, refused and kept as events.
    pub(crate) late_results: usize,
    /// From the loss of each attempt to the start of the next, in milliseconds.
    pub(crate) recoveries: Vec<u64>,
}

/// What the outside knows of a run beside the store.
pub(crate) struct Outside<'a> {
    pub(crate) acknowledged: &'a [Key],
    pub(crate) at_most_once: &'a BTreeSet<String>,
    pub(crate) world: &'a EngineWorld,
    /// No scheduler died or lost track of what it had heard, so every one knows which endpoint asked for patience.
    pub(crate) one_scheduler: bool,
    /// The attempt that each completed execution's stored result came from.
    pub(crate) results: &'a BTreeMap<Key, u32>,
}

pub(crate) async fn judge(store: &dyn Store, outside: Outside<'_>) -> Checked {
    let mut violations = Vec::new();
    let mut trace = Vec::new();
    let mut histories: BTreeMap<Key, Seen> = BTreeMap::new();
    let rows = all_rows(store).await;
    let ckeys = rows.iter().filter_map(|r| Some((r.key(), r.fixed.ckey.clone()?))).collect();
    let mut leases = Leases { ckeys, one_scheduler: outside.one_scheduler, ..Leases::default() };
    let named: Vec<&String> = rows.iter().filter_map(|r| r.fixed.idem_key.as_ref()).collect();
    if named.iter().collect::<BTreeSet<_>>().len() < named.len() {
        violations.push("I6 two executions have the same idempotency key".to_owned());
    }
    let mut after = Cursor(0);
    loop {
        let page = store.feed(after, 500).await.expect("the reference store answers");
        for commit in &page.commits {
            leases.follow(commit, &mut violations);
            let (cursor, node) = (commit.cursor.0, commit.node.0);
            trace.extend(
                commit.changes.iter().map(|c| format!("c{cursor} n{node} {}", line(c.key, &c.event))),
            );
            trace.extend(
                commit
                    .notes
                    .iter()
                    .map(|note| format!("c{cursor} n{node} {} {}", note.kind.as_str(), note.data)),
            );
        }
        for change in page.commits.iter().flat_map(|c| &c.changes) {
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
    let keys: BTreeSet<Key> = rows.iter().map(Execution::key).collect();
    for key in outside.acknowledged.iter().filter(|k| !keys.contains(k)) {
        violations.push(format!("I1 {}: acknowledged and not stored", key.0));
    }
    for row in &rows {
        check_row(row, &histories, &mut violations);
        check_runs(row, &histories, &outside, &mut violations);
        if outside.results.get(&row.key()).is_some_and(|attempt| *attempt != row.state.attempt) {
            violations.push(format!(
                "I4 {}: completed by attempt {:?}, its result is of another",
                row.key().0,
                row.state.attempt
            ));
        }
    }
    check_totals(store, &rows, &mut violations).await;
    let events = histories.values().flat_map(|seen| &seen.events);
    let late_results = events.filter(|e| e.kind == EventType::LateResult).count();
    let recoveries = histories.values().flat_map(|seen| recoveries(&seen.events)).collect();
    Checked { trace, violations, accepted: rows.len(), late_results, recoveries }
}

fn recoveries(events: &[Event]) -> Vec<u64> {
    let mut lost: Option<Time> = None;
    let mut found = Vec::new();
    for event in events {
        match event.kind {
            EventType::ExecutionInterrupted => lost = Some(event.at),
            EventType::ExecutionStarted => found.extend(lost.take().map(|at| event.at.since(at))),
            _ => {}
        }
    }
    found
}

/// The leases that live at one point of the feed.
#[derive(Default)]
struct Leases {
    ckeys: BTreeMap<Key, String>,
    /// Engine, endpoint and session of each running execution.
    running: BTreeMap<Key, (String, u32, Option<SessionId>)>,
    one_scheduler: bool,
    /// Until when each endpoint asked to be left alone.
    frozen: BTreeMap<(String, u32), Time>,
}

impl Leases {
    /// I8: no grant is made while live leases reach the limit. What one commit frees it may give away, wherever the two
    /// stand in it.
    fn follow(&mut self, commit: &Commit, violations: &mut Vec<String>) {
        let mut asked = Vec::new();
        for change in commit.changes.iter().filter(|c| c.status != Status::Running) {
            if let Some((engine, endpoint, _)) = self.running.remove(&change.key)
                && let Some(until) = patience(&change.event)
            {
                asked.push(((engine, endpoint), until));
            }
        }
        for (at, change) in commit.changes.iter().enumerate() {
            // A row may start and end in one commit.
            let ended =
                commit.changes[at..].iter().any(|c| c.key == change.key && c.status != Status::Running);
            if !ended {
                self.start(change, violations);
            }
        }
        // What starts in the commit that tells of it could not know.
        for (place, until) in asked {
            let known = self.frozen.entry(place).or_insert(until);
            *known = until.max(*known);
        }
    }

    fn start(&mut self, change: &Change, violations: &mut Vec<String>) {
        if change.event.kind == EventType::ExecutionStarted {
            let place = (change.engine.clone(), change.event.data.endpoint.unwrap_or(0), change.holder);
            let at_endpoint = self.running.values().filter(|l| (&l.0, l.1) == (&place.0, place.1)).count();
            let of_worker = self.running.values().filter(|l| l.2 == place.2).count();
            let frozen = self.frozen.get(&(place.0.clone(), place.1)).copied();
            if self.one_scheduler && frozen.is_some_and(|until| change.event.at < until) {
                let text = line(change.key, &change.event);
                violations.push(format!("I9 its endpoint had asked for patience until {frozen:?}: {text}"));
            }
            let ckey = self.ckeys.get(&change.key);
            let of_key =
                ckey.map_or(0, |c| self.running.keys().filter(|k| self.ckeys.get(k) == Some(c)).count());
            if at_endpoint >= ENGINE_LIMIT || of_worker >= WORKER_CAPACITY || of_key >= 1 {
                violations.push(format!(
                    "I8 {at_endpoint} ran at its endpoint, {of_worker} on its worker, {of_key} of its key: {}",
                    line(change.key, &change.event)
                ));
            }
            self.running.insert(change.key, place);
        }
    }
}

/// Until when the engine whose answer this is wants nothing more.
fn patience(event: &Event) -> Option<Time> {
    let failure = event.data.failure.as_ref()?;
    let busy = failure.kind == FailureKind::RateLimited;
    event.data.retry_after.filter(|_| busy).map(|span| event.at.plus(span))
}

/// I5: what the engine was asked to run, compared with what the attempts reported.
fn check_runs(
    row: &Execution,
    histories: &BTreeMap<Key, Seen>,
    outside: &Outside<'_>,
    violations: &mut Vec<String>,
) {
    let Some(id) = row.fixed.ext_id.as_ref().map(|id| id.as_str()) else { return };
    let started = outside.world.runs_of(id);
    let key = format!("{id}.{}", row.state.run);
    if row.fixed.engine == "attach" && !row.state.abandoned && outside.world.goes_on(&key) {
        let status = row.status().as_str();
        violations.push(format!("I16 {id}: it ended {status}, its run {key} goes on, and nobody says so"));
    }
    // A redrive is a person's decision to run it once more.
    if outside.at_most_once.contains(id) && started > row.state.generation as usize {
        violations
            .push(format!("I5 {id}: atMostOnce ran {started} times in {} generations", row.state.generation));
    }
    let again = |event: &Event| {
        let reported = event.kind == EventType::ExecutionRetrying && event.data.reason.is_none();
        reported || event.kind == EventType::ExecutionRedriven
    };
    let allowed = 1 + histories.get(&row.key()).map_or(0, |s| s.events.iter().filter(|e| again(e)).count());
    if row.fixed.engine == "attach" && started > allowed {
        violations.push(format!("I5 {id}: {started} runs were started, its attempts account for {allowed}"));
    }
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
    let (mut ended, mut wished) = (false, false);
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
            EventType::ExecutionRedriven => {
                (ended, wished, ready) = (false, false, event.data.ready_at);
            }
            EventType::ExecutionCancelRequested => wished = true,
            _ => {}
        }
        if wished && event.kind.is_terminal() && event.kind != EventType::ExecutionCancelled {
            wrong("P11 its caller had wished to cancel it");
        }
        let refused = |failure: &Failure| failure.code == "refused";
        if event.kind.is_terminal() && event.data.failure.as_ref().is_some_and(refused) {
            wrong("P3 it failed although no attempt reached its engine");
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
