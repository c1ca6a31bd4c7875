//! How many files this process may have open: a connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files beside the connections: the store, what listens, calls to engines, and their pipes.
const OTHERS: u64 = 1_024;

/// Raises this process's limit until this many connections fit, as far as the system allows it; says so where it does not.
pub(super) fn allow(connections: usize) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = raised(soft, hard, connections as u64);
    if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
        tracing::warn!(limit = soft, "the limit of open files cannot be raised");
    }
    if wanted < connections as u64 + OTHERS {
        tracing::warn!(
            limit = wanted,
            connections_max = connections,
            "fewer files may be open than server.connections_max needs; raise the hard limit (ulimit -Hn, LimitNOFILE= of \
             systemd) or lower the setting"
        );
    }
}

fn raised(soft: u64, hard: u64, connections: u64) -> u64 {
    soft.max(hard.min(connections + OTHERS))
}

#[cfg(test)]
mod tests {
    use super::raised;

    #[test]
    fn the_limit_is_raised_as_far_as_needed_and_allowed_and_never_lowered() {
        let table = [
            (1_024, 1 << 20, 16_384, 17_408),
            (1_024, 4_096, 16_384, 4_096),
            (1 << 16, 1 << 20, 16_384, 1 << 16),
            (1_024, 1_024, 10, 1_024),
            (1_024, 1 << 20, 10, 1_034),
        ];
        for (soft, hard, connections, expected) in table {
            assert_eq!(raised(soft, hard, connections), expected, "{soft} {hard} {connections}");
        }
    }
}
