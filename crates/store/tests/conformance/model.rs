//! The reference and the embedded store under the same random commands: their dumps stay equal.

use crate::dump::dump;
use crate::harness::{Harness, failure, finish, grant, memory, plain, sqlite, success, with};
use enginehouse_core::execution::{Execution, Priority, Status};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::{ExecutionId, Key};
use enginehouse_core::lifecycle::{self, Loss, NewExecution, Part, Transition};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::time::Time;
use enginehouse_store::{Clock, Ref, Removal, Write};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Command {
    /// Submits with a key, sometimes a name, a user, a delay.
    Submit {
        key: i64,
        name: Option<u8>,
        user: bool,
        delay: bool,
        priority: u8,
    },
    /// Decides on the row as it is (or as it was before its last change) and writes.
    Change {
        key: i64,
        verb: u8,
        stale: bool,
    },
    /// Several changes of a few rows in one batch.
    Batch(Vec<(i64, u8)>),
    /// Removes an ended row, or what it carries.
    Remove {
        key: i64,
        whole: bool,
    },
    Advance(u64),
    Reopen,
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let submit = (1..30_i64, proptest::option::of(0..6_u8), any::<bool>(), any::<bool>(), 0..4_u8)
        .prop_map(|(key, name, user, delay, priority)| Command::Submit { key, name, user, delay, priority });
    let change = (1..30_i64, 0..9_u8, proptest::bool::weighted(0.1))
        .prop_map(|(key, verb, stale)| Command::Change { key, verb, stale });
    let batch = proptest::collection::vec((1..30_i64, 0..9_u8), 1..5).prop_map(Command::Batch);
    let remove = (1..30_i64, any::<bool>()).prop_map(|(key, whole)| Command::Remove { key, whole });
    let advance = (1..40_000_u64).prop_map(Command::Advance);
    let one = prop_oneof![4 => submit, 8 => change, 2 => batch, 2 => remove, 2 => advance, 1 => Just(Command::Reopen)];
    proptest::collection::vec(one, 1..60)
}

/// What a verb decides on a row; `None` when the rules refuse it.
fn decide(row: &Execution, verb: u8, now: Time) -> Option<Transition> {
    let heads = HeadStarts::default();
    let running = row.status() == Status::Running;
    let transition = match verb {
        0 if row.status() == Status::Pending && row.state.due && now < row.deadline() => grant(row, now),
        1 if running => {
            let mut done = finish(row, success(), now);
            done.parts = vec![(Part::Output, Arc::from(&b"{}"[..]))];
            done
        }
        2 if running => finish(row, failure(FailureKind::Unavailable), now),
        3 if running => finish(row, failure(FailureKind::EngineError), now),
        4 => lifecycle::cancel(row, Some("k".into()), now).ok()?,
        5 => lifecycle::lose(row, Loss::Node, 0.5, now).ok()?,
        6 => lifecycle::wake(row, now).ok()?,
        7 => lifecycle::redrive(row, &heads, None, now).ok()?,
        8 if running => {
            lifecycle::attach(row, row.state.fence, format!("run-{}", row.state.rev), true, now).ok()?
        }
        _ => lifecycle::reprioritize(row, Priority::High, &heads, None, now).ok()?,
    };
    Some(transition)
}

async fn row(harness: &Harness, key: i64) -> Option<Execution> {
    harness.store().find(&[Ref::Key(Key(key))]).await.unwrap().pop().flatten()
}

fn new(command: &Command, now: Time) -> NewExecution {
    let Command::Submit { key, name, user, delay, priority } = command else { panic!("no submit") };
    let plain = with(plain(*key), |fixed| {
        fixed.ext_id = name.map(|name| ExecutionId::try_from(format!("n{name}")).unwrap());
        fixed.request_hash = [name.unwrap_or(0); 32];
        fixed.user = user.then(|| "u".into());
        fixed.tags = if *user { vec!["t".into()] } else { Vec::new() };
    });
    NewExecution {
        ready_at: delay.then(|| now.plus(20_000)),
        priority: [Priority::Low, Priority::Normal, Priority::High, Priority::Critical]
            [usize::from(*priority)],
        ..plain
    }
}

/// Says what the command did, so that the outcomes are compared too.
async fn obey(harness: &mut Harness, command: &Command) -> String {
    let now = harness.clock.now();
    let writes = match command {
        Command::Submit { .. } => {
            vec![Write::Submit(vec![harness.packed(&harness.row(new(command, now)))])]
        }
        Command::Change { key, verb, stale } => {
            let Some(found) = row(harness, *key).await else { return "nobody".into() };
            let Some(mut transition) = decide(&found, *verb, now) else { return "refused".into() };
            transition.rev -= u32::from(*stale);
            vec![Write::Apply(transition)]
        }
        Command::Batch(changes) => {
            let mut writes = Vec::new();
            for (key, verb) in changes {
                let Some(found) = row(harness, *key).await else { continue };
                writes.extend(decide(&found, *verb, now).map(Write::Schedule));
            }
            writes
        }
        Command::Remove { key, whole } => {
            // Whether it has ended is the store's to see.
            let rev = row(harness, *key).await.map_or(1, |row| row.state.rev);
            vec![Write::Remove(vec![Removal { key: Key(*key), rev, whole: *whole }])]
        }
        Command::Advance(ms) => {
            harness.clock.advance(*ms);
            return String::new();
        }
        Command::Reopen => {
            harness.reopen().await;
            return String::new();
        }
    };
    format!("{:?}", harness.commit(writes).await)
}

async fn compare(commands: Vec<Command>) {
    let (mut reference, mut embedded) = (Harness::new(memory()), Harness::new(sqlite()));
    reference.elect().await;
    embedded.elect().await;
    for command in &commands {
        let (one, two) = (obey(&mut reference, command).await, obey(&mut embedded, command).await);
        assert_eq!(one, two, "{command:?}");
    }
    assert_eq!(dump(&**reference.store()).await, dump(&**embedded.store()).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_is_the_reference_on_disk(commands in commands()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(compare(commands));
    }
}
