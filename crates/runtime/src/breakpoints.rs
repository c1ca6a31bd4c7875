//! Named places at which a test lets the process die: `ENGINEHOUSE_BREAKPOINT=NAME` ends it with SIGKILL at the first hit
//! of that name, `NAME:N` at the N-th.
//!
//! Only builds with debug assertions have them. In any other build nothing here reads the environment, and every hit is
//! an empty function.

#[cfg(debug_assertions)]
pub use armed::ALL;
pub(crate) use armed::{Kinds, hit, watched};

#[cfg(debug_assertions)]
mod armed {
    use async_trait::async_trait;
    use enginehouse_core::event::EventType;
    use enginehouse_core::execution::Status;
    use enginehouse_core::lifecycle::Transition;
    use enginehouse_engine::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Workflow};
    use enginehouse_store::{Batch, Write};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, OnceLock};

    /// Every name that can be hit.
    pub const ALL: &[&str] = &[
        "commit.submit.before",
        "commit.submit.after",
        "commit.grant.before",
        "commit.grant.after",
        "commit.attach.before",
        "commit.attach.after",
        "commit.finish.before",
        "commit.finish.after",
        "commit.cancel.before",
        "commit.cancel.after",
        "commit.wake.before",
        "commit.wake.after",
        "commit.lose.before",
        "commit.lose.after",
        "commit.other.before",
        "commit.other.after",
        "blob.written",
        "attempt.opened",
        "attempt.attached",
        "attempt.reported",
        "engine.before",
        "engine.after",
    ];

    const VARIABLE: &str = "ENGINEHOUSE_BREAKPOINT";

    struct Armed {
        name: String,
        /// Hits to come, the deadly one included.
        left: AtomicU32,
    }

    /// What the environment asks for, read once.
    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let text = std::env::var(VARIABLE).ok()?;
            let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
            let count: u32 = count.parse().unwrap_or(0);
            assert!(ALL.contains(&name) && count > 0, "{VARIABLE}={text}: give NAME or NAME:N of {ALL:?}");
            Some(Armed { name: name.to_owned(), left: AtomicU32::new(count) })
        };
        ARMED.get_or_init(read).as_ref()
    }

    /// Ends the process if this is the hit that was asked for.
    pub(crate) fn hit(name: &str) {
        let Some(armed) = armed() else { return };
        assert!(ALL.contains(&name), "the breakpoint {name} is missing in the list of all");
        if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = kill(Pid::this(), Signal::SIGKILL);
            // Nothing may happen between the signal and the end that it brings.
            loop {
                std::thread::park();
            }
        }
    }

    /// What kinds of writes a batch holds; each has a breakpoint before and one after the commit.
    pub(crate) struct Kinds(BTreeSet<&'static str>);

    impl Kinds {
        pub(crate) fn of(batch: &Batch) -> Kinds {
            let mut kinds = BTreeSet::new();
            // Without a breakpoint no one asks.
            let writes: &[Write] = if armed().is_some() { &batch.writes } else { &[] };
            for write in writes {
                let kind = match write {
                    Write::Submit(_) => "submit",
                    Write::Apply(transition) => reported(transition),
                    Write::Schedule(transition) => scheduled(transition),
                    _ => "other",
                };
                kinds.insert(kind);
                if matches!(write, Write::Submit(group) if group.iter().any(|new| new.grant.is_some())) {
                    kinds.insert("grant");
                }
            }
            Kinds(kinds)
        }

        pub(crate) fn before(&self) {
            self.0.iter().for_each(|kind| hit(&format!("commit.{kind}.before")));
        }

        pub(crate) fn after(&self) {
            self.0.iter().for_each(|kind| hit(&format!("commit.{kind}.after")));
        }
    }

    /// The kind of a transition that a worker or a caller asked for.
    fn reported(transition: &Transition) -> &'static str {
        match (transition.from, transition.event.kind) {
            (_, EventType::ExecutionAttached) => "attach",
            (_, EventType::ExecutionCancelRequested) => "cancel",
            (Status::Pending, EventType::ExecutionCancelled) => "cancel",
            (Status::Running, _) if transition.next.status != Status::Running => "finish",
            _ => "other",
        }
    }

    /// The kind of a transition that only the scheduler may make.
    fn scheduled(transition: &Transition) -> &'static str {
        match (transition.from, transition.event.kind) {
            (_, EventType::ExecutionStarted) => "grant",
            (Status::Running, _) => "lose",
            _ => "wake",
        }
    }

    /// The adapter with a breakpoint before and one after each of its runs.
    pub(crate) fn watched(adapter: Arc<dyn Engine>) -> Arc<dyn Engine> {
        Arc::new(Watched(adapter))
    }

    struct Watched(Arc<dyn Engine>);

    #[async_trait]
    impl Engine for Watched {
        fn engine_type(&self) -> &str {
            self.0.engine_type()
        }

        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }

        fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
            self.0.validate(workflow)
        }

        async fn run(&self, call: Call) -> Outcome {
            hit("engine.before");
            let outcome = self.0.run(call).await;
            hit("engine.after");
            outcome
        }

        async fn cancel(&self, endpoint: usize, engine_run: &str) -> Result<(), EngineFailure> {
            self.0.cancel(endpoint, engine_run).await
        }

        async fn health(&self, endpoint: usize) -> Health {
            self.0.health(endpoint).await
        }

        async fn reap(&self, engine_run: &str) {
            self.0.reap(engine_run).await;
        }
    }
}

#[cfg(not(debug_assertions))]
mod armed {
    use enginehouse_engine::Engine;
    use enginehouse_store::Batch;
    use std::sync::Arc;

    #[inline]
    pub(crate) fn hit(_name: &str) {}

    #[inline]
    pub(crate) fn watched(adapter: Arc<dyn Engine>) -> Arc<dyn Engine> {
        adapter
    }

    pub(crate) struct Kinds;

    impl Kinds {
        #[inline]
        pub(crate) fn of(_batch: &Batch) -> Kinds {
            Kinds
        }

        #[inline]
        pub(crate) fn before(&self) {}

        #[inline]
        pub(crate) fn after(&self) {}
    }
}
