//! A driver under test, and what the cases say to it.

use enginehouse_core::event::EventType;
use enginehouse_core::execution::{Execution, Fixed};
use enginehouse_core::failure::{Failure, FailureKind};
use enginehouse_core::id::{Key, NodeId, SessionId};
use enginehouse_core::lifecycle::{self, AttemptEnd, Grant, NewExecution, Transition};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::time::Time;
use enginehouse_store::{
    Batch, Clock, Committed, Durability, ManualClock, MemoryStore, New, Ref, RoleWrite, SqliteOptions,
    SqliteStore, Store, StoreError, SubmitOutcome, Write, WriteOutcome,
};
use std::sync::Arc;
use tempfile::TempDir;

type Open = fn(&TempDir, Arc<ManualClock>) -> Result<Arc<dyn Store>, StoreError>;

/// Makes a driver, or opens it again on what it kept.
pub(crate) struct Driver {
    open: Open,
    keeps: bool,
}

pub(crate) fn memory() -> Driver {
    Driver { open: |_, clock| Ok(Arc::new(MemoryStore::new(clock))), keeps: false }
}

pub(crate) fn sqlite() -> Driver {
    let open = |dir: &TempDir, clock: Arc<ManualClock>| {
        let mut options = SqliteOptions::new(dir.path());
        options.clock = clock;
        // What a power cut would take is not what these cases are about.
        options.durability = Durability::Relaxed;
        SqliteStore::open(options).map(|store| Arc::new(store) as Arc<dyn Store>)
    };
    Driver { open, keeps: true }
}

pub(crate) struct Harness {
    driver: Driver,
    dir: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    store: Option<Arc<dyn Store>>,
    pub(crate) epoch: Option<u64>,
}

/// Times in the cases are milliseconds after this one.
pub(crate) const START: i64 = 1_800_000_000_000;

impl Harness {
    pub(crate) fn new(driver: Driver) -> Harness {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Time(START)));
        let store = (driver.open)(&dir, clock.clone()).unwrap();
        Harness { driver, dir, clock, store: Some(store), epoch: None }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.store.as_ref().unwrap()
    }

    /// Closes and opens again; `false` for a driver that keeps nothing.
    pub(crate) async fn reopen(&mut self) -> bool {
        if !self.driver.keeps {
            return false;
        }
        let store = self.store.take().unwrap();
        store.close().await.unwrap();
        drop(store);
        self.store = Some((self.driver.open)(&self.dir, self.clock.clone()).unwrap());
        true
    }

    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Committed {
        self.store().commit(Batch { node: NodeId(0), scheduler_epoch: self.epoch, writes }).await.unwrap()
    }

    /// One write and its outcome.
    pub(crate) async fn write(&self, write: Write) -> WriteOutcome {
        self.commit(vec![write]).await.outcomes.pop().unwrap()
    }

    /// Becomes the scheduler.
    pub(crate) async fn elect(&mut self) {
        let write = RoleWrite { node: NodeId(0), known_epoch: self.epoch, exclusive: true };
        let WriteOutcome::Role(grant) = self.write(Write::Role(write)).await else { panic!("no role") };
        self.epoch = Some(grant.epoch);
    }

    /// Submits one execution that must be new.
    pub(crate) async fn submit(&self, new: NewExecution) -> Execution {
        let row = self.row(new);
        let outcome = self.write(Write::Submit(vec![self.packed(&row)])).await;
        assert!(
            matches!(&outcome, WriteOutcome::Submitted(items) if matches!(items[0], SubmitOutcome::Stored { .. })),
            "{outcome:?}"
        );
        row
    }

    pub(crate) fn row(&self, mut new: NewExecution) -> Execution {
        new.fixed.created_at = self.clock.now();
        lifecycle::submit(new, &HeadStarts::default())
    }

    pub(crate) fn packed(&self, row: &Execution) -> New {
        New {
            row: row.clone(),
            input: Arc::from(format!("input of {}", row.key().0).as_bytes()),
            grant: None,
        }
    }

    /// The row as the store has it.
    pub(crate) async fn find(&self, key: Key) -> Execution {
        self.store().find(&[Ref::Key(key)]).await.unwrap().pop().unwrap().unwrap()
    }

    /// Applies a transition that must be accepted; the row after it.
    pub(crate) async fn apply(&self, row: &Execution, transition: Transition) -> Execution {
        let outcome = self.write(Write::Apply(transition.clone())).await;
        assert!(matches!(outcome, WriteOutcome::Applied), "{outcome:?}");
        transition.applied_to(row)
    }

    pub(crate) async fn granted(&self, row: &Execution) -> Execution {
        self.apply(row, grant(row, self.clock.now())).await
    }

    pub(crate) async fn completed(&self, row: &Execution) -> Execution {
        let running = self.granted(row).await;
        self.apply(&running, finish(&running, success(), self.clock.now())).await
    }
}

pub(crate) fn plain(key: i64) -> NewExecution {
    with(NewExecution::plain(key), |fixed| fixed.spec.input_bytes = 7)
}

/// A request with something special about it.
pub(crate) fn with(mut new: NewExecution, change: impl FnOnce(&mut Fixed)) -> NewExecution {
    change(&mut new.fixed);
    new
}

pub(crate) fn grant(row: &Execution, now: Time) -> Transition {
    let grant = Grant { session: SessionId(7), worker: "w1".into(), endpoint: 0 };
    lifecycle::grant(row, &grant, now).unwrap()
}

pub(crate) fn success() -> AttemptEnd {
    AttemptEnd::Succeeded { needs_input: false, output_bytes: 2 }
}

pub(crate) fn failure(kind: FailureKind) -> AttemptEnd {
    let failure = Failure {
        kind,
        code: "c".into(),
        message: vec![1, 2],
        retryable: false,
        attempt: 1,
        engine_status: Some(500),
    };
    AttemptEnd::Failed {
        failure,
        retry_after: None,
        open_end: false,
        recognised: false,
        retry: None,
        by_default: None,
    }
}

pub(crate) fn finish(row: &Execution, end: AttemptEnd, now: Time) -> Transition {
    lifecycle::finish(row, row.state.fence, end, &HeadStarts::default(), 0.5, now).unwrap()
}

pub(crate) fn kinds(row: &Execution) -> Vec<EventType> {
    row.history.iter().map(|event| event.kind).collect()
}
