//! Transitions: guarded by the row's `rev` and by the scheduler's epoch, with their payloads, events and sums.

use crate::harness::{Harness, failure, finish, grant, kinds, plain, success};
use enginehouse_core::event::EventType;
use enginehouse_core::execution::{Priority, Status};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::{self, NewExecution, Part};
use enginehouse_core::limits::HISTORY_EVENTS_MAX;
use enginehouse_core::rank::HeadStarts;
use enginehouse_store::{Clock, SubmitOutcome, Write, WriteOutcome};
use std::sync::Arc;

pub(crate) async fn a_transition_needs_the_row_s_rev(harness: &mut Harness) {
    let row = harness.submit(plain(1)).await;
    let cancel = lifecycle::cancel(&row, None, harness.clock.now()).unwrap();
    let running = harness.granted(&row).await;
    let outcome = harness.write(Write::Apply(cancel)).await;
    assert!(matches!(&outcome, WriteOutcome::Stale(Some(truth)) if **truth == running), "{outcome:?}");
    assert_eq!(harness.find(Key(1)).await, running);
    let unknown = grant(&harness.row(plain(2)), harness.clock.now());
    assert!(matches!(harness.write(Write::Apply(unknown)).await, WriteOutcome::Stale(None)));
}

pub(crate) async fn the_scheduler_s_writes_need_its_epoch(harness: &mut Harness) {
    let row = harness.submit(plain(1)).await;
    let transition = grant(&row, harness.clock.now());
    assert!(matches!(harness.write(Write::Schedule(transition.clone())).await, WriteOutcome::WrongEpoch));
    harness.elect().await;
    let old = harness.epoch;
    harness.epoch = None;
    harness.elect().await;
    let new = harness.epoch;
    assert_ne!(old, new);
    harness.epoch = old;
    assert!(matches!(harness.write(Write::Schedule(transition.clone())).await, WriteOutcome::WrongEpoch));
    harness.epoch = new;
    assert!(matches!(harness.write(Write::Schedule(transition)).await, WriteOutcome::Applied));
}

/// A cancel and a change of priority both lead to the next `rev`; what was decided on the one that lost must not hit the
/// other.
pub(crate) async fn a_refused_change_takes_later_ones_of_its_row_along(harness: &mut Harness) {
    harness.elect().await;
    let row = harness.submit(plain(1)).await;
    let now = harness.clock.now();
    let cancel = lifecycle::cancel(&row, None, now).unwrap();
    let raised = lifecycle::reprioritize(&row, Priority::High, &HeadStarts::default(), None, now).unwrap();
    let started = grant(&raised.applied_to(&row), now);
    let bystander = harness.submit(plain(2)).await;
    let other = grant(&bystander, now);
    let writes = vec![
        Write::Apply(cancel.clone()),
        Write::Apply(raised),
        Write::Schedule(started),
        Write::Schedule(other),
    ];
    let outcomes = harness.commit(writes).await.outcomes;
    assert!(
        matches!(
            &outcomes[..],
            [WriteOutcome::Applied, WriteOutcome::Stale(_), WriteOutcome::Stale(_), WriteOutcome::Held]
        ),
        "{outcomes:?}"
    );
    assert_eq!(harness.find(Key(1)).await, cancel.applied_to(&row));
    // A change of a row that is not there yet is refused as well, whatever the batch submits later.
    let new = harness.row(plain(3));
    let writes = vec![
        Write::Apply(grant(&new, now)),
        Write::Submit(vec![harness.packed(&new)]),
        Write::Apply(grant(&new, now)),
    ];
    let outcomes = harness.commit(writes).await.outcomes;
    assert!(
        matches!(
            &outcomes[..],
            [WriteOutcome::Stale(None), WriteOutcome::Submitted(_), WriteOutcome::Stale(Some(_))]
        ),
        "{outcomes:?}"
    );
}

pub(crate) async fn payloads_come_with_a_transition(harness: &mut Harness) {
    let row = harness.submit(plain(1)).await;
    let running = harness.granted(&row).await;
    let mut done = finish(&running, success(), harness.clock.now());
    done.parts = vec![(Part::Output, Arc::from(&b"{}"[..])), (Part::Logs, Arc::from(&b"line"[..]))];
    let stale = {
        let mut stale = done.clone();
        stale.rev -= 1;
        stale
    };
    assert!(matches!(harness.write(Write::Apply(stale)).await, WriteOutcome::Stale(_)));
    assert_eq!(
        harness.store().payload(Key(1), Part::Output).await.unwrap(),
        None,
        "a refused write brings nothing"
    );
    harness.apply(&running, done).await;
    for (part, body) in [(Part::Output, &b"{}"[..]), (Part::Logs, b"line")] {
        assert_eq!(harness.store().payload(Key(1), part).await.unwrap().as_deref(), Some(body));
    }
}

pub(crate) async fn a_grant_behind_a_refused_change_is_held(harness: &mut Harness) {
    harness.elect().await;
    let submitted = harness.submit(plain(1)).await;
    let running = harness.granted(&submitted).await;
    let waiting = harness.submit(plain(2)).await;
    let now = harness.clock.now();
    let cancel = lifecycle::cancel(&running, None, now).unwrap();
    // Decided on the row as it was before the wish to cancel: it frees nothing.
    let stale = finish(&running, success(), now);
    let grant = grant(&waiting, now);
    let fresh = harness.row(plain(3));
    let mut new = harness.packed(&fresh);
    new.grant = Some(crate::harness::grant(&fresh, now));
    let writes =
        vec![Write::Apply(cancel), Write::Apply(stale), Write::Submit(vec![new]), Write::Schedule(grant)];
    let outcomes = harness.commit(writes).await.outcomes;
    assert!(matches!(outcomes[0], WriteOutcome::Applied), "{outcomes:?}");
    assert!(matches!(outcomes[1], WriteOutcome::Stale(Some(_))), "{outcomes:?}");
    let stored = matches!(&outcomes[2], WriteOutcome::Submitted(items) if matches!(items[..], [SubmitOutcome::Stored { granted: false }]));
    assert!(stored, "the submit stands without its grant: {outcomes:?}");
    assert!(matches!(outcomes[3], WriteOutcome::Held), "{outcomes:?}");
    assert_eq!(harness.find(Key(2)).await.status(), Status::Pending);
    assert_eq!(harness.find(Key(3)).await.status(), Status::Pending);
}

pub(crate) async fn a_long_history_is_folded(harness: &mut Harness) {
    let mut row = harness.submit(plain(1)).await;
    let events = HISTORY_EVENTS_MAX + 20;
    for turn in 0..events {
        let priority = if turn % 2 == 0 { Priority::High } else { Priority::Low };
        let now = harness.clock.now();
        let change = lifecycle::reprioritize(&row, priority, &HeadStarts::default(), None, now).unwrap();
        row = harness.apply(&row, change).await;
    }
    let found = harness.find(Key(1)).await;
    assert_eq!(found.state.rev as usize, events + 1);
    assert!(found.history.len() <= HISTORY_EVENTS_MAX, "{}", found.history.len());
    assert_eq!(kinds(&found)[0], EventType::ExecutionSubmitted, "the beginning is kept");
    let newest: Vec<u32> = found.history.iter().rev().take(10).map(|event| event.seq).collect();
    let wanted: Vec<u32> = (0..10).map(|back| found.state.rev - back).collect();
    assert_eq!(newest, wanted);
}

pub(crate) async fn totals_follow_every_transition(harness: &mut Harness) {
    let sums = |harness: &Harness| {
        let store = harness.store().clone();
        async move {
            let t = store.totals().await.unwrap();
            [t.accepted, t.pending, t.running, t.completed, t.failed, t.cancelled, t.retried]
        }
    };
    let one = harness.submit(plain(1)).await;
    let two = harness.submit(plain(2)).await;
    let three = harness.submit(NewExecution { ready_at: None, ..plain(3) }).await;
    assert_eq!(sums(harness).await, [3, 3, 0, 0, 0, 0, 0]);
    harness.clock.advance(100);
    let running = harness.granted(&one).await;
    assert_eq!(sums(harness).await, [3, 2, 1, 0, 0, 0, 0]);
    harness.clock.advance(50);
    harness.apply(&running, finish(&running, success(), harness.clock.now())).await;
    let running = harness.granted(&two).await;
    let retried = finish(&running, failure(FailureKind::Unavailable), harness.clock.now());
    let waiting = harness.apply(&running, retried).await;
    assert_eq!(waiting.status(), Status::Pending);
    assert_eq!(sums(harness).await, [3, 2, 0, 1, 0, 0, 1]);
    harness.apply(&waiting, lifecycle::cancel(&waiting, None, harness.clock.now()).unwrap()).await;
    let running = harness.granted(&three).await;
    let failed =
        harness.apply(&running, finish(&running, failure(FailureKind::Auth), harness.clock.now())).await;
    assert_eq!(sums(harness).await, [3, 0, 0, 1, 1, 1, 1]);
    let redriven = lifecycle::redrive(&failed, &HeadStarts::default(), None, harness.clock.now()).unwrap();
    harness.apply(&failed, redriven).await;
    assert_eq!(sums(harness).await, [3, 1, 0, 1, 0, 1, 1]);
    let totals = harness.store().totals().await.unwrap();
    assert_eq!((totals.run_ms, totals.wait_ms > 0), (50, true));
}
