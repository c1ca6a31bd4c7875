//! What an engine is told of an execution whose id is any text.

use super::*;
use enginehouse_core::id::engine_key;

/// The key reaches every engine in the one form that a header can carry, and the run is found by it after a lost answer.
#[tokio::test]
async fn any_id_becomes_a_key_that_every_engine_takes() {
    for dialect in dialects() {
        for (id, key) in [
            ("throughput-Low Load-0", "throughput-Low Load-0.1"),
            ("gr\u{f6}\u{df}e 50%", "gr%C3%B6%C3%9Fe 50%25.1"),
            ("\u{202e}a", "%E2%80%AEa.1"),
        ] {
            let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), None).await;
            let engine = dialect.engine(settings(stub.url()));
            let (_stop, first) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
            assert_eq!(engine_key(id, 1), key);
            let first = Call { execution_id: id.to_owned(), idempotency_key: key.to_owned(), ..first };
            let again = Call { maybe_started: true, attempt: 2, ..first.clone() };
            let at = format!("{} {id:?}", dialect.name());
            for (call, started) in [(first, 1), (again, 1)] {
                let outcome = within(engine.run(call)).await;
                compare(&*dialect, &outcome, Expected::Succeeds)
                    .unwrap_or_else(|wrong| panic!("{at}: {wrong}"));
                let keys = stub.fake(|fake| fake.runs.iter().map(|run| run.key.clone()).collect::<Vec<_>>());
                if engine.capabilities().idempotent_submit {
                    assert_eq!(keys, vec![key; started], "{at}");
                }
            }
        }
    }
}
