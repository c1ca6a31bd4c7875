//! `[workers]`: where the workers run, and when one of them is replaced.

mod pools;

use crate::config::checker::Checker;
use crate::config::types::{UpToAYear, Whole, choice, section};
use enginehouse_core::queue::Placement;
use enginehouse_runtime::{Settings, WorkerSettings};
use pools::WorkerPool;
use std::collections::BTreeMap;

section! {
    /// Where the workers run, and when one of them is replaced.
    pub struct Workers {
        /// Where the workers run: `in_process`, inside the service, or `process`, each a process of its own, so that a crash or a leak of memory in one is no other's matter.
        provider: ProviderName = ProviderName::InProcess;
        /// Which of several workers with a free slot gets the next attempt.
        placement: PlacementWord = PlacementWord::Pack;
        /// A worker that is idle for longer is not kept by `scaling.tolerance`, nor by the room between the thresholds. Absent: no idle time counts.
        max_idle_time: Option<UpToAYear> = None;
        /// A worker of this age is replaced: it finishes what it runs and goes. Absent: at no age.
        max_age: Option<UpToAYear> = None;
        /// A worker that ended this many attempts is replaced. Absent: after no number.
        max_executions: Option<Whole<1, 1000000000>> = None;
        /// A worker process that uses this many MiB of memory is replaced. Absent: at no size.
        max_memory_mib: Option<Whole<16, 1048576>> = None;
        /// Workers that serve only some engine types, by a name of yours (1 to 32 of `a-z A-Z 0-9 . _ -`), beside the shared ones that serve all. They count for `scaling.max_workers`.
        pools: BTreeMap<String, WorkerPool> = BTreeMap::new();
    }
}

choice! {
    /// Where workers run.
    pub enum ProviderName {
        /// Inside the service.
        InProcess "in_process",
        /// Each is a child process of the service.
        Process "process",
    }

    /// Which worker gets the next attempt.
    pub enum PlacementWord {
        /// The fullest, so that the others run empty and can go.
        Pack "pack",
        /// The emptiest, so that as little as possible is lost with one worker.
        Spread "spread",
    }
}

/// `max_workers` stands in `[scaling]`. Whether workers are processes is for the program that starts the node, and
/// `max_idle_time` for the auto-scaler.
pub(in crate::config) fn resolve(
    raw: &Workers,
    max_workers: u32,
    settings: &mut Settings,
    checker: &mut Checker<'_>,
) {
    let Workers { provider: _, placement, max_idle_time: _, max_age, max_executions, max_memory_mib, pools } =
        raw;
    settings.workers = WorkerSettings {
        placement: match placement {
            PlacementWord::Pack => Placement::Pack,
            PlacementWord::Spread => Placement::Spread,
        },
        max_age: max_age.map(|span| span.0),
        max_executions: max_executions.map(|most| most.0),
        max_memory_bytes: max_memory_mib.map(|mib| mib.0 << 20),
    };
    settings.pools = pools::resolve(pools, max_workers, checker);
}
