//! Batches as a whole: sessions, the role, documents, the feed, restarts, and two at once.

use crate::dump::dump;
use crate::harness::{Harness, grant, plain};
use enginehouse_core::event::NoteKind;
use enginehouse_core::id::{Key, NodeId, SessionId};
use enginehouse_core::limits::SCHEDULER_TTL;
use enginehouse_core::session::Session;
use enginehouse_core::time::Time;
use enginehouse_store::{
    Batch, Clock, Cursor, Depth, Doc, DocKind, Note, RoleWrite, SessionWrite, StoreError, Write, WriteOutcome,
};
use serde_json::json;

fn session(id: i64, lease_until: Option<Time>) -> Session {
    Session {
        id: SessionId(id),
        node: NodeId(0),
        worker: format!("w{id}"),
        capacity: 10,
        engine_types: vec!["demo".into()],
        started_at: Time(1),
        lease_until,
        draining: false,
    }
}

fn doc(id: &str, body: serde_json::Value) -> Doc {
    Doc { kind: DocKind::Engine, id: id.to_owned(), rev: 0, body }
}

pub(crate) async fn refused_writes_leave_the_others(harness: &mut Harness) {
    let one = harness.submit(plain(1)).await;
    let two = harness.submit(plain(2)).await;
    let now = harness.clock.now();
    let writes = vec![
        Write::Schedule(grant(&one, now)),
        Write::Keep { doc: doc("x", json!(1)), rev: 7 },
        Write::Apply(grant(&two, now)),
        Write::Submit(vec![harness.packed(&harness.row(plain(3)))]),
    ];
    let outcomes = harness.commit(writes).await.outcomes;
    assert!(
        matches!(
            &outcomes[..],
            [
                WriteOutcome::WrongEpoch,
                WriteOutcome::DocStale(None),
                WriteOutcome::Applied,
                WriteOutcome::Submitted(_)
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(harness.find(Key(1)).await, one);
    assert_ne!(harness.find(Key(2)).await, two);
}

pub(crate) async fn sessions_are_opened_renewed_and_closed(harness: &mut Harness) {
    let leased = |until: i64| session(2, Some(Time(until)));
    for opened in [session(3, None), leased(10)] {
        assert!(matches!(
            harness.write(Write::Session(SessionWrite::Open(opened))).await,
            WriteOutcome::Applied
        ));
    }
    assert_eq!(harness.store().sessions().await.unwrap(), [leased(10), session(3, None)]);
    let sessions = vec![SessionId(2), SessionId(3), SessionId(4)];
    let renewed = harness.write(Write::Session(SessionWrite::Renew { sessions, until: Time(99) })).await;
    assert!(matches!(&renewed, WriteOutcome::Missing(missing) if *missing == [SessionId(4)]), "{renewed:?}");
    assert_eq!(harness.store().sessions().await.unwrap(), [leased(99), session(3, None)]);
    let draining = Session { draining: true, ..leased(99) };
    harness.write(Write::Session(SessionWrite::Open(draining.clone()))).await;
    for _ in 0..2 {
        harness.write(Write::Session(SessionWrite::Close(SessionId(3)))).await;
    }
    assert_eq!(harness.store().sessions().await.unwrap(), [draining]);
}

pub(crate) async fn a_role_passes_on_when_its_time_is_over(harness: &mut Harness) {
    let ask = |node: u16, known_epoch: Option<u64>| {
        Write::Role(RoleWrite { node: NodeId(node), known_epoch, exclusive: false })
    };
    let holder = |outcome: WriteOutcome| match outcome {
        WriteOutcome::Role(grant) => (grant.node.0, grant.epoch),
        other => panic!("{other:?}"),
    };
    assert_eq!(holder(harness.write(ask(1, None)).await), (1, 1));
    assert_eq!(holder(harness.write(ask(2, None)).await), (1, 1), "it is held");
    harness.clock.advance(SCHEDULER_TTL - 1);
    assert_eq!(holder(harness.write(ask(1, Some(1))).await), (1, 1), "it is kept");
    harness.clock.advance(SCHEDULER_TTL + 1);
    assert_eq!(holder(harness.write(ask(2, None)).await), (2, 2), "its time was over");
    assert_eq!(holder(harness.write(ask(1, Some(1))).await), (2, 2));
    let restarted = RoleWrite { node: NodeId(2), known_epoch: None, exclusive: true };
    assert_eq!(holder(harness.write(Write::Role(restarted)).await), (2, 3), "no other process can be alive");
}

pub(crate) async fn documents_change_by_their_rev(harness: &mut Harness) {
    let keep = |body: i64, rev: u64| Write::Keep { doc: doc("x", json!(body)), rev };
    assert!(matches!(harness.write(keep(1, 0)).await, WriteOutcome::Applied));
    assert!(
        matches!(harness.write(keep(2, 0)).await, WriteOutcome::DocStale(Some(d)) if d.rev == 1 && d.body == json!(1))
    );
    assert!(matches!(harness.write(keep(3, 1)).await, WriteOutcome::Applied));
    harness.write(Write::Keep { doc: doc("a", json!(null)), rev: 0 }).await;
    let wanted = [Doc { rev: 1, ..doc("a", json!(null)) }, Doc { rev: 2, ..doc("x", json!(3)) }];
    assert_eq!(harness.store().docs(DocKind::Engine).await.unwrap(), wanted);
    assert_eq!(harness.store().docs(DocKind::ApiKey).await.unwrap(), []);
    let forget = |rev: u64| Write::Forget { kind: DocKind::Engine, id: "x".into(), rev };
    assert!(matches!(harness.write(forget(1)).await, WriteOutcome::DocStale(Some(_))));
    assert!(matches!(harness.write(forget(2)).await, WriteOutcome::Applied));
    assert!(matches!(harness.write(forget(2)).await, WriteOutcome::DocStale(None)));
}

pub(crate) async fn the_feed_tells_every_change_in_order(harness: &mut Harness) {
    let mut nudge = harness.store().changed();
    let begun = *nudge.borrow_and_update();
    let one = harness.submit(plain(1)).await;
    assert!(nudge.has_changed().unwrap());
    let running = harness.granted(&one).await;
    harness.write(Write::Note(Note { kind: NoteKind::Alert, data: json!({"n": 1}) })).await;
    // What changes nothing another node could care for has no place in the feed.
    let at =
        harness.write(Write::Session(SessionWrite::Renew { sessions: Vec::new(), until: Time(1) })).await;
    assert!(matches!(at, WriteOutcome::Missing(missing) if missing.is_empty()));
    let first = harness.store().feed(begun, 2).await.unwrap();
    assert_eq!(first.commits.len(), 2);
    let rest = harness.store().feed(first.next, 10).await.unwrap();
    let all: Vec<_> = first.commits.iter().chain(&rest.commits).collect();
    assert!(all.windows(2).all(|pair| pair[0].cursor < pair[1].cursor && pair[0].at <= pair[1].at));
    let events: Vec<_> = all.iter().flat_map(|commit| &commit.changes).collect();
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].event.seq, events[1].event.seq), (1, 2));
    assert_eq!((events[1].status, events[1].holder), (running.status(), running.state.holder));
    assert_eq!(all[2].notes, [Note { kind: NoteKind::Alert, data: json!({"n": 1}) }]);
    let end = harness.store().feed(rest.next, 10).await.unwrap();
    assert_eq!((end.commits.len(), end.next), (0, rest.next));
    assert_eq!(*harness.store().changed().borrow(), rest.next);
}

pub(crate) async fn what_was_committed_is_there_after_a_restart(harness: &mut Harness) {
    harness.elect().await;
    let one = harness.submit(plain(1)).await;
    harness.granted(&one).await;
    let two = harness.submit(plain(2)).await;
    harness.completed(&two).await;
    harness.submit(plain(3)).await;
    harness.write(Write::Session(SessionWrite::Open(session(2, None)))).await;
    harness.write(Write::Keep { doc: doc("x", json!([1, "two"])), rev: 0 }).await;
    let before = dump(&**harness.store()).await;
    if !harness.reopen().await {
        return;
    }
    assert_eq!(dump(&**harness.store()).await, before);
    // The order of commits goes on where it was.
    let cursor = *harness.store().changed().borrow();
    assert!(cursor > Cursor(0));
    harness.submit(plain(4)).await;
    assert!(*harness.store().changed().borrow() > cursor);
    assert_eq!(harness.store().check(Depth::Full).await.unwrap().findings, Vec::<String>::new());
}

pub(crate) async fn a_closed_store_answers_so(harness: &mut Harness) {
    let store = harness.store().clone();
    store.close().await.unwrap();
    let batch = Batch { node: NodeId(0), scheduler_epoch: None, writes: Vec::new() };
    assert!(matches!(store.commit(batch).await, Err(StoreError::Closed)));
    assert!(matches!(store.sessions().await, Err(StoreError::Closed)));
}

/// Anyone who makes such a commit must not think that the newest place is its own, or it would never read what stands there.
pub(crate) async fn a_commit_with_nothing_to_tell_has_no_place_in_the_feed(harness: &mut Harness) {
    let row = harness.row(plain(1));
    let told = harness.commit(vec![Write::Submit(vec![harness.packed(&row)])]).await;
    let newest = *harness.store().changed().borrow();
    assert_eq!(told.cursor, Some(newest));
    let again = harness.commit(vec![Write::Submit(vec![harness.packed(&row)])]).await;
    let nothing = harness.commit(Vec::new()).await;
    assert_eq!((again.cursor, nothing.cursor), (None, None));
    assert_eq!(*harness.store().changed().borrow(), newest);
    assert_eq!(harness.store().feed(Cursor(0), 10).await.unwrap().next, newest);
}

pub(crate) async fn two_commits_at_once_both_stand(harness: &mut Harness) {
    let rows: Vec<_> = (1..=40).map(|key| harness.row(plain(key))).collect();
    let commits = rows.iter().map(|row| {
        let writes = vec![Write::Submit(vec![harness.packed(row)])];
        harness.store().commit(Batch { node: NodeId(0), scheduler_epoch: None, writes })
    });
    let mut cursors: Vec<Cursor> = Vec::new();
    for committed in futures_util::future::join_all(commits).await {
        cursors.extend(committed.unwrap().cursor);
    }
    cursors.sort();
    cursors.dedup();
    assert_eq!(cursors.len(), 40, "each commit has a place of its own");
    assert_eq!(harness.store().totals().await.unwrap().accepted, 40);
}
