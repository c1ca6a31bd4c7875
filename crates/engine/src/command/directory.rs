//! The working directory of one attempt: made empty, removed with everything in it, by the next process if its own died.

use crate::contract::Call;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Begins every name, so that nothing else is ever removed.
const PREFIX: &str = "enginehouse-";
/// The part of an id that a name holds: a name of a file has at most 255 bytes.
const ID_CHARS_MAX: usize = 128;
/// How often a removal is tried while programs that were just killed may still write.
const TRIES: u32 = 5;

pub(super) struct Directory {
    path: PathBuf,
    name: String,
}

impl Directory {
    /// Makes a directory that no other attempt has, below `base`.
    pub(super) fn make(base: &Path, call: &Call) -> std::io::Result<Directory> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| std::io::Error::other("no random numbers"))?;
        // For people who look into the base; the random part is what no other attempt has.
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let id: String = call.execution_id.chars().take(ID_CHARS_MAX).map(safe).collect();
        let name = format!("{PREFIX}{id}-{}-{:016x}", call.attempt, u64::from_ne_bytes(random));
        let path = base.join(&name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Directory { path, name })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its name below the base, by which a later process finds it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Removes what a dead process left; nothing happens when it is gone, or when the name is none of ours.
pub(super) fn remove_leftover(base: &Path, name: &str) {
    if !name.starts_with(PREFIX) || name.contains('/') {
        return;
    }
    let path = base.join(name);
    for _ in 0..TRIES {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, directory = %path.display(), "what a dead service left could not be removed");
                return;
            }
            _ => return,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "an attempt's directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let inner = base.path().join("inner");
        for path in ["enginehouse-one-1-00/kept", "inner/enginehouse-two-1-00", "other"] {
            std::fs::create_dir_all(base.path().join(path)).unwrap();
        }
        for spared in ["other", "enginehouse-/../other", "inner/enginehouse-two-1-00", ""] {
            remove_leftover(base.path(), spared);
        }
        assert!(base.path().join("other").is_dir() && inner.join("enginehouse-two-1-00").is_dir());
        remove_leftover(base.path(), "enginehouse-one-1-00");
        remove_leftover(base.path(), "enginehouse-one-1-00");
        assert!(!base.path().join("enginehouse-one-1-00").exists());
    }
}
