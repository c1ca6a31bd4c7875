//! What has ended is listed, removed in whole or in part, and leaves no trace behind.

use crate::harness::{Harness, START, failure, finish, plain, success, with};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::{ExecutionId, Key};
use enginehouse_core::lifecycle::{self, Part};
use enginehouse_core::time::Time;
use enginehouse_store::{Clock, Depth, Filter, ListQuery, Payloads, Ref, Removal, Write, WriteOutcome};
use std::sync::Arc;

/// Rows 1 to 4: cancelled, completed with a result, running, pending.
async fn four(harness: &mut Harness) {
    for key in 1..=4_i64 {
        let named = (key == 1).then(|| ExecutionId::try_from("mine".to_owned()).unwrap());
        let tags = vec!["x".to_owned(), format!("t{key}")];
        let new = with(plain(key), |fixed| (fixed.ext_id, fixed.tags) = (named, tags));
        let row = harness.submit(new).await;
        harness.clock.advance(1_000);
        match key {
            1 => {
                harness.apply(&row, lifecycle::cancel(&row, None, harness.clock.now()).unwrap()).await;
            }
            2 => completed_with(harness, &row, b"{}").await,
            3 => {
                harness.granted(&row).await;
            }
            _ => {}
        }
    }
}

async fn completed_with(harness: &Harness, row: &Execution, result: &[u8]) {
    let running = harness.granted(row).await;
    let mut done = finish(&running, success(), harness.clock.now());
    done.parts = vec![(Part::Output, Arc::from(result))];
    harness.apply(&running, done).await;
}

async fn remove(harness: &mut Harness, removals: &[(i64, u32, bool)]) -> u64 {
    let removal = |&(key, rev, whole): &(i64, u32, bool)| Removal { key: Key(key), rev, whole };
    match harness.write(Write::Remove(removals.iter().map(removal).collect())).await {
        WriteOutcome::Removed(changed) => changed,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn ended_rows_are_listed_by_key(harness: &mut Harness) {
    four(harness).await;
    let rows = harness.store().ended(None, 10).await.unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (row.key.0, row.status, row.ended_at.0 - START, row.named, row.has_payload, row.engine.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [(1, Status::Cancelled, 1_000, true, true, "e"), (2, Status::Completed, 2_000, false, true, "e")]
    );
    // Payloads are counted by how they begin.
    let heads = |of: Payloads, bytes: usize| {
        let store = harness.store().clone();
        async move { store.heads(of, bytes).await.unwrap() }
    };
    assert_eq!(heads(Payloads::Part(Part::Input), 5).await, [(b"input".to_vec(), 4)]);
    assert_eq!(heads(Payloads::Part(Part::Output), 9).await, [(b"{}".to_vec(), 1)]);
    assert_eq!(heads(Payloads::Part(Part::Logs), 9).await, []);
    assert_eq!(heads(Payloads::Failures, 1).await, []);
    let row = harness.find(Key(3)).await;
    harness.apply(&row, finish(&row, failure(FailureKind::EngineError), harness.clock.now())).await;
    assert_eq!(harness.store().heads(Payloads::Failures, 1).await.unwrap(), [(vec![1], 1)]);
    assert_eq!(harness.store().ended(None, 1).await.unwrap(), rows[..1]);
    assert_eq!(harness.store().ended(Some(Key(1)), 1).await.unwrap(), rows[1..]);
    assert_eq!(harness.store().ended(Some(Key(3)), 10).await.unwrap(), []);
    assert_eq!(rows[1].rev, harness.find(Key(2)).await.state.rev);
    let usage = harness.store().usage().await.unwrap();
    let counts =
        (usage.pending, usage.running, usage.completed, usage.failed, usage.cancelled, usage.removed);
    assert_eq!(counts, (1, 0, 1, 1, 1, 0));
    assert_eq!(usage.oldest_ended, Some(Time(START + 1_000)));
    assert!(usage.bytes > 0, "{usage:?}");
}

pub(crate) async fn what_is_removed_leaves_nothing_behind(harness: &mut Harness) {
    four(harness).await;
    let rows = harness.store().ended(None, 10).await.unwrap();
    let before = harness.store().totals().await.unwrap();
    // Only what has ended, and only as it was when it was looked at.
    assert_eq!(
        remove(harness, &[(1, rows[0].rev + 1, true), (3, 2, true), (4, 1, true), (9, 1, true)]).await,
        0
    );
    assert_eq!(harness.store().usage().await.unwrap().removed, 0);
    // The parts alone: the row stays, and stays known by its name.
    assert_eq!(remove(harness, &[(1, rows[0].rev, false), (2, rows[1].rev, false)]).await, 2);
    for (key, part) in [(1, Part::Input), (2, Part::Input), (2, Part::Output)] {
        assert_eq!(harness.store().payload(Key(key), part).await.unwrap(), None);
    }
    let named = Ref::Id(ExecutionId::try_from("mine".to_owned()).unwrap());
    let found = harness.store().find(std::slice::from_ref(&named)).await.unwrap();
    assert!(found[0].is_some() && harness.store().payload(Key(3), Part::Input).await.unwrap().is_some());
    assert!(harness.store().ended(None, 10).await.unwrap().iter().all(|row| !row.has_payload));
    assert_eq!(harness.store().check(Depth::Full).await.unwrap().findings, Vec::<String>::new());
    // The whole of both.
    assert_eq!(remove(harness, &[(1, rows[0].rev, true), (2, rows[1].rev, true)]).await, 2);
    assert_eq!(harness.store().ended(None, 10).await.unwrap(), []);
    assert_eq!(harness.store().find(&[named]).await.unwrap(), [None]);
    let tagged = Filter { tag: Some("x".to_owned()), ..Filter::default() };
    let listed = harness.store().list(&ListQuery { filter: tagged, after: None, limit: 10 }).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.key().0).collect::<Vec<_>>(), [4, 3]);
    let (totals, usage) = (harness.store().totals().await.unwrap(), harness.store().usage().await.unwrap());
    assert_eq!(
        (totals.completed, totals.cancelled),
        (before.completed, before.cancelled),
        "sums since the store was made"
    );
    assert_eq!((usage.completed, usage.cancelled, usage.removed, usage.oldest_ended), (0, 0, 2, None));
    assert_eq!(harness.store().check(Depth::Full).await.unwrap().findings, Vec::<String>::new());
    // A name is free again once its row is gone.
    let id = ExecutionId::try_from("mine".to_owned()).unwrap();
    harness.submit(with(plain(11), |fixed| fixed.ext_id = Some(id))).await;
    harness.reopen().await;
    assert_eq!(harness.store().usage().await.unwrap().removed, 2);
    assert_eq!(harness.store().check(Depth::Full).await.unwrap().findings, Vec::<String>::new());
}

pub(crate) async fn free_room_is_given_back(harness: &mut Harness) {
    for key in 1..=60 {
        let row = harness.submit(plain(key)).await;
        completed_with(harness, &row, &[7; 50_000]).await;
    }
    let before = harness.store().usage().await.unwrap();
    let rows = harness.store().ended(None, 100).await.unwrap();
    let all: Vec<_> = rows.iter().map(|row| (row.key.0, row.rev, true)).collect();
    assert_eq!(remove(harness, &all).await, 60);
    let after = harness.store().usage().await.unwrap();
    assert!(after.bytes + 2_500_000 < before.bytes, "{before:?} {after:?}");
    let mut left = after.reclaimable;
    while left > 0 {
        let now = harness.store().reclaim(1 << 20).await.unwrap();
        assert!(now < left, "{now} of {left} bytes are left");
        left = now;
    }
    assert_eq!(harness.store().usage().await.unwrap().reclaimable, 0);
    assert_eq!(harness.store().check(Depth::Full).await.unwrap().findings, Vec::<String>::new());
}
