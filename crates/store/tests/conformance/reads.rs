//! Reading: the queue's questions, and the lists of callers.

use crate::harness::{Harness, START, failure, finish, grant, plain, with};
use enginehouse_core::execution::{Execution, Lane, Priority, Status};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::{Key, KeyMaker, NodeId, SessionId};
use enginehouse_core::lifecycle::{self, Grant, NewExecution, Part};
use enginehouse_core::time::{MINUTE, Time};
use enginehouse_store::{Clock, Depth, Filter, ListQuery, Starting};

fn keys(rows: &[Execution]) -> Vec<i64> {
    rows.iter().map(|row| row.key().0).collect()
}

fn lane(engine: &str, user: Option<&str>) -> Lane {
    Lane { engine: engine.into(), user: user.map(Into::into), ckey: None, retry: false }
}

pub(crate) async fn due_work_is_found_by_lane_and_rank(harness: &mut Harness) {
    let with = |key: i64, priority: Priority, user: Option<&str>| NewExecution {
        priority,
        ..with(plain(key), |fixed| fixed.user = user.map(Into::into))
    };
    for (key, priority, user) in [
        (1, Priority::Low, None),
        (2, Priority::Critical, None),
        (3, Priority::Normal, None),
        (4, Priority::Normal, Some("u")),
        (5, Priority::Critical, None),
    ] {
        harness.submit(with(key, priority, user)).await;
    }
    let lanes = harness.store().lanes().await.unwrap();
    let found: Vec<_> = lanes.iter().map(|lane| (lane.lane.user.clone(), lane.rows, lane.head.1.0)).collect();
    assert_eq!(found, [(None, 4, 2), (Some("u".to_owned()), 1, 4)]);
    let ready = harness.store().ready(&lane("e", None), None, 3).await.unwrap();
    let order: Vec<i64> = ready.iter().map(|ready| ready.key.0).collect();
    assert_eq!(order, [2, 5, 3], "rank first, then the order of submission");
    let last = ready.last().unwrap();
    let rest = harness.store().ready(&lane("e", None), Some((last.rank, last.key)), 3).await.unwrap();
    assert_eq!(rest.iter().map(|ready| ready.key.0).collect::<Vec<_>>(), [1]);
    assert_eq!(harness.store().ready(&lane("other", None), None, 3).await.unwrap(), []);
    let row = harness.find(Key(2)).await;
    harness.granted(&row).await;
    assert_eq!(harness.store().lanes().await.unwrap()[0].head.1, Key(5), "what runs is not due");
}

pub(crate) async fn what_starts_is_read_with_its_request_if_that_is_small_enough(harness: &mut Harness) {
    for key in [1, 2] {
        harness.submit(plain(key)).await;
    }
    let row = harness.find(Key(2)).await;
    let request = harness.store().payload(Key(2), Part::Input).await.unwrap();
    let bytes = row.fixed.spec.input_bytes;
    let asked = |key, request_up_to| Starting { key: Key(key), request_up_to };
    let wanted = [asked(2, bytes), asked(9, bytes), asked(2, bytes - 1)];
    let bare = Execution { history: Vec::new(), ..row };
    let found = harness.store().starting(&wanted).await.unwrap();
    assert!(request.is_some());
    assert_eq!(found, [Some((bare.clone(), request)), None, Some((bare, None))]);
    assert_eq!(harness.store().starting(&[]).await.unwrap(), []);
}

pub(crate) async fn work_not_yet_due_is_found_by_its_time(harness: &mut Harness) {
    let at = |minutes: u64| Some(Time(START).plus(minutes * MINUTE));
    for (key, minutes) in [(1, 30), (2, 10), (3, 20)] {
        harness.submit(NewExecution { ready_at: at(minutes), ..plain(key) }).await;
    }
    assert_eq!(harness.store().lanes().await.unwrap(), [], "a future CRITICAL never stands in front");
    assert_eq!(harness.store().next_wake().await.unwrap(), at(10));
    assert_eq!(keys(&harness.store().due(Time(START).plus(25 * MINUTE), 10).await.unwrap()), [2, 3]);
    assert_eq!(keys(&harness.store().due(Time(START).plus(25 * MINUTE), 1).await.unwrap()), [2]);
    harness.clock.advance(10 * MINUTE);
    let row = harness.find(Key(2)).await;
    let woken = lifecycle::wake(&row, harness.clock.now()).unwrap();
    harness.apply(&row, woken).await;
    assert_eq!(harness.store().lanes().await.unwrap().len(), 1);
    assert_eq!(keys(&harness.store().due(Time(START).plus(25 * MINUTE), 10).await.unwrap()), [3]);
    let row = harness.find(Key(3)).await;
    harness.apply(&row, lifecycle::cancel(&row, None, harness.clock.now()).unwrap()).await;
    assert_eq!(harness.store().next_wake().await.unwrap(), at(30));
}

pub(crate) async fn running_rows_are_found_by_their_holder(harness: &mut Harness) {
    for key in 1..=5 {
        let row = harness.submit(plain(key)).await;
        let grant = Grant { session: SessionId(key % 2), worker: "w".into(), endpoint: 0 };
        let started = lifecycle::grant(&row, &grant, harness.clock.now()).unwrap();
        harness.apply(&row, started).await;
    }
    harness.submit(plain(6)).await;
    let running = |holder: Option<i64>, after: Option<i64>, max: usize| {
        let store = harness.store().clone();
        async move { keys(&store.running(holder.map(SessionId), after.map(Key), max).await.unwrap()) }
    };
    assert_eq!(running(None, None, 10).await, [1, 2, 3, 4, 5]);
    assert_eq!(running(None, Some(2), 2).await, [3, 4]);
    assert_eq!(running(Some(1), None, 10).await, [1, 3, 5]);
    assert_eq!(running(Some(1), Some(1), 1).await, [3]);
    assert_eq!(running(Some(9), None, 10).await, Vec::<i64>::new());
}

pub(crate) async fn lists_filter_and_page(harness: &mut Harness) {
    // Keys are made of the time, which drivers may use to find rows by it.
    let mut maker = KeyMaker::new(NodeId(0));
    let mut made = Vec::new();
    for key in 1..=9_i64 {
        made.push(maker.next(harness.clock.now()));
        let new = with(plain(key), |fixed| {
            fixed.key = made[made.len() - 1];
            fixed.engine = if key % 2 == 0 { "even" } else { "odd" }.into();
            fixed.engine_type = if key < 5 { "demo" } else { "n8n" }.into();
            fixed.workflow = format!("w{}", key % 3);
            fixed.user = (key % 3 == 0).then(|| "u".into());
            fixed.tags = if key % 4 == 0 { vec!["four".into(), "x".into()] } else { vec!["x".into()] };
        });
        let row = harness.submit(new).await;
        if key > 7 {
            harness.granted(&row).await;
        }
        // One that fails for good, and one that waits for its next attempt.
        for (failing, kind) in [(2, FailureKind::Auth), (5, FailureKind::Unavailable)] {
            if key == failing {
                let running = harness.granted(&row).await;
                harness.apply(&running, finish(&running, failure(kind), harness.clock.now())).await;
            }
        }
        harness.clock.advance(1_000);
    }
    let text = |text: &str| Some(text.to_owned());
    let at = |seconds: i64| Some(Time(START + seconds * 1_000));
    let filter = Filter::default;
    for (filter, wanted) in [
        (filter(), &[9, 8, 7, 6, 5, 4, 3, 2, 1][..]),
        (Filter { engine: text("even"), ..filter() }, &[8, 6, 4, 2]),
        (Filter { engine_type: text("n8n"), ..filter() }, &[9, 8, 7, 6, 5]),
        (Filter { workflow: text("w1"), ..filter() }, &[7, 4, 1]),
        (Filter { user: text("u"), ..filter() }, &[9, 6, 3]),
        (Filter { tag: text("four"), ..filter() }, &[8, 4]),
        (Filter { tag: text("x"), engine: text("odd"), ..filter() }, &[9, 7, 5, 3, 1]),
        (Filter { statuses: vec![Status::Running], ..filter() }, &[9, 8]),
        (
            Filter { statuses: vec![Status::Running, Status::Pending], user: text("u"), ..filter() },
            &[9, 6, 3],
        ),
        (Filter { statuses: vec![Status::Failed], ..filter() }, &[2]),
        (Filter { statuses: vec![Status::Cancelled], ..filter() }, &[]),
        (Filter { failure_kinds: vec![FailureKind::Auth], ..filter() }, &[2]),
        (Filter { failure_kinds: vec![FailureKind::Auth, FailureKind::Unavailable], ..filter() }, &[5, 2]),
        (Filter { failure_kinds: vec![FailureKind::Lost], ..filter() }, &[]),
        (Filter { failure_code: text("c"), ..filter() }, &[5, 2]),
        (Filter { failure_code: text("c"), engine: text("odd"), ..filter() }, &[5]),
        (Filter { failure_code: text("c"), statuses: vec![Status::Failed], ..filter() }, &[2]),
        (Filter { failure_code: text("other"), ..filter() }, &[]),
        (Filter { since: at(2), until: at(5), ..filter() }, &[5, 4, 3]),
        (Filter { tag: text("four"), user: text("u"), workflow: text("w1"), ..filter() }, &[]),
    ] {
        let mut found = Vec::new();
        let mut after = None;
        // Page by page, so that no page may skip or repeat a row.
        loop {
            let query = ListQuery { filter: filter.clone(), after, limit: 2 };
            let page = harness.store().list(&query).await.unwrap();
            assert!(page.len() <= 2 && page.iter().all(|row| row.history.is_empty()));
            after = page.last().map(Execution::key);
            found.extend(page.iter().map(|row| made.iter().position(|key| *key == row.key()).unwrap() + 1));
            if page.is_empty() {
                break;
            }
        }
        assert_eq!(found, wanted, "{filter:?}");
    }
}

pub(crate) async fn a_sound_store_has_no_findings(harness: &mut Harness) {
    let row = harness.submit(plain(1)).await;
    harness.apply(&row, grant(&row, harness.clock.now())).await;
    for depth in [Depth::Quick, Depth::Full] {
        assert_eq!(harness.store().check(depth).await.unwrap().findings, Vec::<String>::new());
    }
}
