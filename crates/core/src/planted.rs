//! Faults put in on purpose, so that the checks that must find them can be checked.
//!
//! Only the feature `planted-bugs` makes them possible, and only a test that asks for one gets it; without the feature
//! the question has a constant answer and leaves nothing in the program.

/// One fault, named by what it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A worker's fence is not compared with the row's.
    FenceIgnored,
    /// A submit is acknowledged although its commit failed.
    AnsweredUnstored,
    /// The end of a lease does not free its room at the endpoint.
    SlotLeaked,
    /// A retry does not wait for its time.
    BackoffSkipped,
    /// The end of an attempt forgets that the caller wished to cancel.
    CancelForgotten,
    /// An endpoint's limit is not looked at.
    LimitIgnored,
    /// Work of one concurrency key runs side by side.
    KeyIgnored,
    /// A worker is given what it has already.
    DeliveredTwice,
    /// The store takes a former scheduler's writes.
    EpochIgnored,
    /// Retries never run out.
    RetriesEndless,
    /// A lost worker makes the engine's run a new one.
    RunRepeated,
    /// `atMostOnce` work is tried again after its worker was lost.
    OnceTwice,
    /// An attempt that never reached its engine burns a retry.
    RefusalBurnt,
    /// An open breaker lets everything through.
    BreakerOpenToAll,
    /// An endpoint that asked for patience gets none.
    FreezeIgnored,
    /// What has ended can be cancelled.
    EndedTwice,
    /// Work that waits for its time is never looked at again.
    TimerLost,
    /// Leases of dead workers are never ended.
    ReaperAsleep,
    /// A late result is told under the number of the event before it.
    EventUnnumbered,
}

impl Bug {
    pub const ALL: [Bug; 19] = [
        Bug::FenceIgnored,
        Bug::AnsweredUnstored,
        Bug::SlotLeaked,
        Bug::BackoffSkipped,
        Bug::CancelForgotten,
        Bug::LimitIgnored,
        Bug::KeyIgnored,
        Bug::DeliveredTwice,
        Bug::EpochIgnored,
        Bug::RetriesEndless,
        Bug::RunRepeated,
        Bug::OnceTwice,
        Bug::RefusalBurnt,
        Bug::BreakerOpenToAll,
        Bug::FreezeIgnored,
        Bug::EndedTwice,
        Bug::TimerLost,
        Bug::ReaperAsleep,
        Bug::EventUnnumbered,
    ];
}

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Puts a fault in, or takes it out, on this thread.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this fault is in.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this fault is in.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn has(_bug: Bug) -> bool {
    false
}
