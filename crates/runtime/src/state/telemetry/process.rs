//! The process's own use of the machine, from /proc.

use std::path::Path;

/// What could be read; elsewhere than on Linux nothing.
#[derive(Debug, Default)]
pub(crate) struct Use {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) files_max: Option<u64>,
    pub(crate) started_at: Option<f64>,
    pub(crate) threads: Option<u64>,
}

impl Use {
    pub(crate) fn read() -> Use {
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return Use::default() };
        // The name in parentheses may hold blanks; the fields behind it are counted from the state, the third of all.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<u64>().ok());
        let ticks =
            nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4_096);
        let page = u64::try_from(page).unwrap_or(4_096);
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        Use {
            cpu_seconds: number(14).zip(number(15)).map(|(user, system)| (user + system) as f64 / ticks),
            resident_bytes: number(24).map(|pages| pages * page),
            open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
            files_max: limit.ok().map(|(soft, _)| soft),
            started_at: number(22).zip(booted_at()).map(|(since, boot)| boot + since as f64 / ticks),
            threads: number(20),
        }
    }
}

fn booted_at() -> Option<f64> {
    let text = std::fs::read_to_string(Path::new("/proc/stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}
