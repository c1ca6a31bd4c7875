//! What the machine, or the control group this process is in, has and uses: read from `/sys/fs/cgroup` and `/proc`.
//!
//! Nothing here is needed to work: what cannot be read is not known, and then guards nothing.

use enginehouse_core::autoscaler::Resources;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Samples of the workers' needs that are kept, and how many make a percentile.
const SAMPLES_MAX: usize = 256;
const SAMPLES_MIN: usize = 5;

pub(crate) struct Machine {
    /// The directory of this process's control group (version 2).
    group: Option<PathBuf>,
    /// The same of the memory controller of version 1, where that is in use.
    memory_group: Option<PathBuf>,
    worker_memory: VecDeque<u64>,
    worker_cores: VecDeque<f64>,
}

/// What a worker process uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerUse {
    /// Bytes in memory that are not pages of files: what one more of it takes.
    pub(crate) memory_bytes: u64,
    /// Processors in use since the last look, of one that runs something.
    pub(crate) busy_cores: Option<f64>,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        Machine {
            group: own_group("", &["", "unified"]),
            memory_group: own_group("memory", &["memory"]),
            worker_memory: VecDeque::new(),
            worker_cores: VecDeque::new(),
        }
    }

    /// Looks again. `workers`: what each worker that is a process of its own uses; `None` when they live inside this
    /// process, where their needs cannot be told from the service's own and the memory in use alone guards.
    pub(crate) fn look(&mut self, workers: Option<&[WorkerUse]>) -> Resources {
        let inside = workers.is_none();
        let workers = workers.unwrap_or_default();
        for worker in workers {
            push(&mut self.worker_memory, worker.memory_bytes);
            if let Some(cores) = worker.busy_cores {
                push(&mut self.worker_cores, cores);
            }
        }
        let (limit, used) = self.memory();
        let of_workers: u64 = workers.iter().map(|worker| worker.memory_bytes).sum();
        Resources {
            memory_limit: limit,
            memory_used: used,
            memory_others: used.saturating_sub(of_workers),
            worker_memory_p95: if inside { Some(0) } else { p95(self.worker_memory.iter().copied()) },
            workers_measured: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            cores: self.cores(),
            worker_cpu_p95: p95(self.worker_cores.iter().copied()),
            memory_pressure: self.memory_pressure(),
        }
    }

    /// The tightest limit from the group up to the root with what is used under it, or the machine's memory.
    fn memory(&self) -> (Option<u64>, u64) {
        let info = Path::new("/proc/meminfo");
        let kib = |name: &str| field(info, name).map(|kib| kib * 1024);
        let total = kib("MemTotal:");
        let used = total.zip(kib("MemAvailable:")).map(|(total, free)| total.saturating_sub(free));
        let mut tightest: Option<(u64, u64)> = None;
        for (group, files) in self.memory_groups() {
            let read = (number(&group.join(files.limit)), number(&group.join(files.used)));
            // A limit above what there is limits nothing.
            let (Some(limit), Some(current)) = read else { continue };
            if total.is_some_and(|total| limit >= total) {
                continue;
            }
            // Files that were read lie in memory only while no one else wants it.
            let cache = field(&group.join("memory.stat"), files.cache).unwrap_or(0);
            let used = current.saturating_sub(cache);
            if tightest.is_none_or(|(l, u)| limit.saturating_sub(used) < l.saturating_sub(u)) {
                tightest = Some((limit, used));
            }
        }
        match (tightest, total) {
            (Some((limit, used)), _) => (Some(limit), used),
            (None, total) => (total, used.unwrap_or(0)),
        }
    }

    /// The control groups that bound this process's memory, of either version.
    fn memory_groups(&self) -> impl Iterator<Item = (&Path, &'static MemoryFiles)> {
        let second =
            self.group.iter().flat_map(|group| group.ancestors()).map(|group| (group, &SECOND_VERSION));
        let first = self.memory_group.iter().flat_map(|group| group.ancestors());
        let first = first.map(|group| (group, &FIRST_VERSION));
        second.chain(first).filter(|(group, _)| group.starts_with(GROUPS))
    }

    /// Processors that may be used: the group's quota, or what the system gives.
    fn cores(&self) -> Option<f64> {
        let system = std::thread::available_parallelism().ok().map(|n| n.get() as f64);
        let quota = self.group.as_ref().and_then(|group| {
            let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
        });
        match (system, quota) {
            (Some(system), Some(quota)) => Some(system.min(quota)),
            (system, quota) => system.or(quota),
        }
    }

    fn memory_pressure(&self) -> Option<f64> {
        let group = self.group.as_ref().map(|group| group.join("memory.pressure"));
        let text = group
            .and_then(|file| std::fs::read_to_string(file).ok())
            .or_else(|| std::fs::read_to_string("/proc/pressure/memory").ok())?;
        let full = text.lines().find(|line| line.starts_with("full"))?;
        full.split_whitespace().find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
    }
}

const GROUPS: &str = "/sys/fs/cgroup";

/// How a version of control groups names what it says of memory.
struct MemoryFiles {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with file pages that may be dropped.
    cache: &'static str,
}

const SECOND_VERSION: MemoryFiles =
    MemoryFiles { limit: "memory.max", used: "memory.current", cache: "inactive_file" };
const FIRST_VERSION: MemoryFiles = MemoryFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

/// The directory of this process's group of a controller (none: version 2), under the first of these mounts that has it.
fn own_group(controller: &str, mounts: &[&str]) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == controller).then(|| fields.next())?
    })?;
    let inside = path.trim_start_matches('/');
    mounts.iter().map(|mount| Path::new(GROUPS).join(mount).join(inside)).find(|group| group.is_dir())
}

/// A file that holds one number; `max` is none.
fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind a name in a file of such lines.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

fn push<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() >= SAMPLES_MAX {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn p95<T: PartialOrd + Copy>(samples: impl ExactSizeIterator<Item = T>) -> Option<T> {
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let mut sorted: Vec<T> = samples.collect();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get((sorted.len() - 1) * 95 / 100).copied()
}

/// Room that is left for this process on the file system of `dir`, in MiB.
pub(crate) fn free_mib(dir: &Path) -> Option<f64> {
    let found = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(found.blocks_available() as f64 * found.fragment_size() as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known_and_a_percentile_needs_some_samples() {
        let mut machine = Machine::new();
        let seen = machine.look(None);
        assert_eq!(seen.worker_memory_p95, Some(0));
        assert!(seen.memory_limit.is_some_and(|limit| limit > seen.memory_used), "{seen:?}");
        assert!(seen.cores.is_some_and(|cores| cores > 0.0), "{seen:?}");
        let worker = |memory_bytes| WorkerUse { memory_bytes, busy_cores: Some(0.5) };
        let four: Vec<WorkerUse> = (1..=4).map(worker).collect();
        assert_eq!(machine.look(Some(&four)).worker_memory_p95, None);
        let seen = machine.look(Some(&[worker(100)]));
        assert_eq!((seen.worker_memory_p95, seen.worker_cpu_p95), (Some(4), Some(0.5)));
    }
}
