//! The working directory of one attempt: made empty, removed with everything in it.

use crate::contract::Call;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes a directory that no other attempt has, below `base`.
    pub(super) fn make(base: &Path, call: &Call) -> std::io::Result<Directory> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| std::io::Error::other("no random numbers"))?;
        // An id holds no slash, but one of dots alone would be another directory.
        let id: String =
            call.execution_id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let name = format!("enginehouse-{id}-{}-{:016x}", call.attempt, u64::from_ne_bytes(random));
        let path = base.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Directory { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "an attempt's directory could not be removed");
        }
    }
}
