//! A process group: known by its leader's number and start time, killed as a whole.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A group of ours; killed when this is dropped.
pub(super) struct Group {
    leader: Leader,
}

/// A process, told from a later one with the same number by when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pid: i32,
    /// In the kernel's ticks since it booted.
    started: u64,
    /// Tells one boot of the machine from another.
    boot: String,
}

impl Group {
    pub(super) fn new(leader: Leader) -> Group {
        Group { leader }
    }

    /// What the store keeps of it.
    pub(super) fn id(&self) -> String {
        format!("{}/{}/{}", self.leader.pid, self.leader.started, self.leader.boot)
    }

    pub(super) fn terminate(&self) {
        // No one left to signal is what is wanted.
        let _ = killpg(Pid::from_raw(self.leader.pid), Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        let _ = killpg(Pid::from_raw(self.leader.pid), Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader is reaped by its own thread only after every signal of ours, or its number has no group any more.
        self.kill();
    }
}

impl Leader {
    /// The process with this number, while it lives.
    pub(super) fn of(pid: i32) -> Option<Leader> {
        Some(Leader { pid, started: stat(pid)?.started, boot: boot()? })
    }

    fn parse(text: &str) -> Option<Leader> {
        let mut parts = text.splitn(4, '/');
        let pid = parts.next()?.parse().ok().filter(|pid| *pid > 1)?;
        Some(Leader { pid, started: parts.next()?.parse().ok()?, boot: parts.next()?.to_owned() })
    }
}

/// Kills what is left of a group by the id the store kept; tells whether anything was.
pub(super) fn end_leftover(id: &str) -> bool {
    let Some(leader) = Leader::parse(id) else { return false };
    if boot().as_deref() != Some(leader.boot.as_str()) {
        return false;
    }
    match stat(leader.pid) {
        // The number belongs to another process by now.
        Some(found) if found.started != leader.started => false,
        Some(_) => killpg(Pid::from_raw(leader.pid), Signal::SIGKILL).is_ok(),
        // The leader is gone; a number that still names a group is given to no new process.
        None => killpg(Pid::from_raw(leader.pid), Signal::SIGKILL).is_ok(),
    }
}

struct Stat {
    started: u64,
}

/// What the kernel says of a process that has not ended.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields are counted from its end.
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    Some(Stat { started: fields.get(19)?.parse().ok()? })
}

fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().chars().filter(char::is_ascii_alphanumeric).take(12).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn a_leftover_is_killed_and_another_process_is_not() {
        let mut child = std::process::Command::new("/bin/sleep").arg("600").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let leader = Leader::of(pid).unwrap();
        let id = |leader: &Leader| format!("{}/{}/{}", leader.pid, leader.started, leader.boot);
        let later = Leader { started: leader.started + 1, ..leader.clone() };
        let other_boot = Leader { boot: "another".to_owned(), ..leader.clone() };
        for spared in [id(&later), id(&other_boot), "1/1/x".to_owned(), "nonsense".to_owned()] {
            assert!(!end_leftover(&spared), "{spared}");
        }
        assert!(child.try_wait().unwrap().is_none());
        assert!(end_leftover(&format!("{}/what-follows", id(&leader))));
        assert!(!child.wait().unwrap().success());
        assert!(!end_leftover(&id(&leader)), "it is gone");
    }
}
