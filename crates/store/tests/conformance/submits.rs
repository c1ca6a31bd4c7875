//! Submitting: once, as a whole, with everything it brings.

use crate::harness::{Harness, grant, plain, with};
use enginehouse_core::execution::{Execution, Status};
use enginehouse_core::id::{ExecutionId, Key};
use enginehouse_core::lifecycle::{NewExecution, Part};
use enginehouse_store::{Filter, ListQuery, New, Ref, SubmitOutcome, Write, WriteOutcome};

fn named(key: i64, id: &str) -> NewExecution {
    with(plain(key), |fixed| fixed.ext_id = Some(ExecutionId::try_from(id.to_owned()).unwrap()))
}

fn stored(outcome: &WriteOutcome) -> Vec<bool> {
    match outcome {
        WriteOutcome::Submitted(items) => {
            items.iter().map(|item| matches!(item, SubmitOutcome::Stored { .. })).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn count(harness: &Harness) -> usize {
    let query = ListQuery { filter: Filter::default(), after: None, limit: 100 };
    harness.store().list(&query).await.unwrap().len()
}

pub(crate) async fn a_submit_is_there_with_everything_it_brought(harness: &mut Harness) {
    let new = with(named(5, "mine"), |fixed| {
        fixed.user = Some("u".into());
        fixed.ckey = Some("k".into());
        fixed.tags = vec!["a".into(), "b".into()];
        fixed.idem_key = Some("key/1".into());
    });
    let row = harness.submit(new).await;
    let id = ExecutionId::try_from("mine".to_owned()).unwrap();
    for named in [Ref::Key(Key(5)), Ref::Id(id), Ref::Idempotency("key/1".into())] {
        assert_eq!(harness.store().find(&[named]).await.unwrap(), [Some(row.clone())]);
    }
    let input = harness.store().payload(Key(5), Part::Input).await.unwrap().unwrap();
    assert_eq!(&input[..], b"input of 5");
    assert_eq!(harness.store().payload(Key(5), Part::Output).await.unwrap(), None);
    let nobody = [Ref::Key(Key(6)), Ref::Idempotency("key/2".into())];
    assert_eq!(harness.store().find(&nobody).await.unwrap(), [None, None]);
}

pub(crate) async fn the_same_request_is_the_same_execution(harness: &mut Harness) {
    let first = harness.submit(named(5, "mine")).await;
    let again = with(named(6, "mine"), |fixed| fixed.request_hash = first.fixed.request_hash);
    let outcome = harness.write(Write::Submit(vec![harness.packed(&harness.row(again))])).await;
    let WriteOutcome::Submitted(items) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(&items[0], SubmitOutcome::Existing(row) if **row == first), "{items:?}");
    assert_eq!(count(harness).await, 1);
    let other = harness.row(named(7, "mine"));
    let outcome = harness.write(Write::Submit(vec![harness.packed(&other)])).await;
    assert!(
        matches!(&outcome, WriteOutcome::Conflict { index: 0, existing } if **existing == first),
        "{outcome:?}"
    );
    assert_eq!(count(harness).await, 1);
}

pub(crate) async fn an_idempotency_key_names_one_execution(harness: &mut Harness) {
    let idempotent = |new, hash: u8| {
        with(new, |fixed| (fixed.idem_key, fixed.request_hash) = (Some("k/1".into()), [hash; 32]))
    };
    let keyed = |key: i64| idempotent(plain(key), 1);
    harness.submit(keyed(1)).await;
    let outcome = harness.write(Write::Submit(vec![harness.packed(&harness.row(keyed(2)))])).await;
    assert_eq!(stored(&outcome), [false]);
    let other = idempotent(plain(3), 2);
    let outcome = harness.write(Write::Submit(vec![harness.packed(&harness.row(other))])).await;
    assert!(matches!(outcome, WriteOutcome::Conflict { index: 0, .. }), "{outcome:?}");
    // An id and a key that belong to two executions cannot name one.
    harness.submit(with(named(4, "four"), |fixed| fixed.request_hash = [1; 32])).await;
    let both = idempotent(named(5, "four"), 1);
    let outcome = harness.write(Write::Submit(vec![harness.packed(&harness.row(both))])).await;
    assert!(matches!(outcome, WriteOutcome::Conflict { .. }), "{outcome:?}");
}

pub(crate) async fn a_conflict_refuses_the_whole_group(harness: &mut Harness) {
    harness.submit(named(1, "taken")).await;
    let group: Vec<New> = [plain(2), plain(3), named(4, "taken"), plain(5)]
        .into_iter()
        .map(|new| harness.packed(&harness.row(new)))
        .collect();
    let before = harness.store().totals().await.unwrap();
    let outcome = harness.write(Write::Submit(group)).await;
    assert!(matches!(outcome, WriteOutcome::Conflict { index: 2, .. }), "{outcome:?}");
    assert_eq!((count(harness).await, harness.store().totals().await.unwrap()), (1, before));
    assert_eq!(harness.store().payload(Key(2), Part::Input).await.unwrap(), None);
    // A repeated request within a group is the same execution, not a conflict.
    let twice: Vec<New> = [6, 7]
        .into_iter()
        .map(|key| {
            let new = with(named(key, "twice"), |fixed| fixed.request_hash = [9; 32]);
            harness.packed(&harness.row(new))
        })
        .collect();
    assert_eq!(stored(&harness.write(Write::Submit(twice)).await), [true, false]);
}

pub(crate) async fn a_submit_may_be_granted_at_once(harness: &mut Harness) {
    let packed = |harness: &Harness, key: i64| {
        let row = harness.row(plain(key));
        let grant = grant(&row, row.fixed.created_at);
        (row.clone(), New { grant: Some(grant), ..harness.packed(&row) })
    };
    // Without the scheduler's epoch it is stored, but not granted.
    let (row, new) = packed(harness, 1);
    let outcome = harness.write(Write::Submit(vec![new])).await;
    assert!(
        matches!(&outcome, WriteOutcome::Submitted(items) if matches!(items[0], SubmitOutcome::Stored { granted: false }))
    );
    assert_eq!(harness.find(row.key()).await, row);
    harness.elect().await;
    let (row, new) = packed(harness, 2);
    let wanted: Execution = new.grant.clone().unwrap().applied_to(&row);
    let outcome = harness.write(Write::Submit(vec![new])).await;
    assert!(
        matches!(&outcome, WriteOutcome::Submitted(items) if matches!(items[0], SubmitOutcome::Stored { granted: true }))
    );
    let found = harness.find(row.key()).await;
    assert_eq!((found.status(), &found), (Status::Running, &wanted));
}
