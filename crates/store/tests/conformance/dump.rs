//! A whole store as text, by which two drivers are compared.

use enginehouse_core::execution::Execution;
use enginehouse_core::lifecycle::Part;
use enginehouse_core::time::Time;
use enginehouse_store::{Cursor, DocKind, Filter, ListQuery, Ref, Store};
use std::fmt::Write;

/// Everything the contract can read, in its order.
pub(crate) async fn dump(store: &dyn Store) -> String {
    let mut out = String::new();
    let query = ListQuery { filter: Filter::default(), after: None, limit: 10_000 };
    let rows = store.list(&query).await.unwrap();
    let refs: Vec<Ref> = rows.iter().map(|row| Ref::Key(row.key())).collect();
    for row in store.find(&refs).await.unwrap().into_iter().flatten() {
        let _ = writeln!(out, "row {row:?}");
        for part in [Part::Input, Part::Output, Part::Logs] {
            if let Some(body) = store.payload(row.key(), part).await.unwrap() {
                let _ = writeln!(out, "  {part:?} {body:?}");
            }
        }
    }
    for lane in store.lanes().await.unwrap() {
        let _ = writeln!(out, "lane {lane:?} {:?}", store.ready(&lane.lane, None, 10_000).await.unwrap());
    }
    let keys = |rows: Vec<Execution>| rows.iter().map(|row| row.key().0).collect::<Vec<_>>();
    let _ = writeln!(out, "due {:?}", keys(store.due(Time(i64::MAX), 10_000).await.unwrap()));
    let _ = writeln!(out, "next wake {:?}", store.next_wake().await.unwrap());
    let _ = writeln!(out, "running {:?}", keys(store.running(None, None, 10_000).await.unwrap()));
    let _ = writeln!(out, "ended {:?}", store.ended(None, 10_000).await.unwrap());
    let _ = writeln!(out, "sessions {:?}", store.sessions().await.unwrap());
    for kind in [
        DocKind::Engine,
        DocKind::ApiKey,
        DocKind::EngineMemory,
        DocKind::Scaling,
        DocKind::Decision,
        DocKind::Webhook,
        DocKind::Setting,
    ] {
        let _ = writeln!(out, "{kind:?} {:?}", store.docs(kind).await.unwrap());
    }
    let _ = writeln!(out, "totals {:?}", store.totals().await.unwrap());
    let page = store.feed(Cursor(0), 10_000).await.unwrap();
    for commit in &page.commits {
        let _ = writeln!(out, "commit {commit:?}");
    }
    out
}
