//! What is wanted of this node's pool of workers, and what the pool saw.

use enginehouse_core::time::Millis;

/// How many workers this node is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) count: u32,
    /// Workers of any kind that may be there at once, those that go included.
    pub(crate) most: u32,
    /// A launch that takes longer has failed.
    pub(crate) launch_timeout: Millis,
    /// No launch may begin now.
    pub(crate) launch_nothing: bool,
}

/// What the pool saw, for the scaler, which takes it.
#[derive(Debug, Default)]
pub(crate) struct PoolNews {
    /// How long workers took from their launch until they took work.
    pub(crate) startups: Vec<Millis>,
    pub(crate) failed_launches: u32,
    pub(crate) totals: PoolTotals,
}

/// What the pool did since its node started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PoolTotals {
    pub(crate) launched: u32,
    /// Launches that failed, and workers that died.
    pub(crate) failed: u32,
    pub(crate) stopped: u32,
}
