//! Backups of a data directory, and data directories from backups.

use super::output::Output;
use super::printable::tell;
use super::{Exit, Failure};
use clap::Args;
use enginehouse::config::BLOBS_DIRECTORY;
use enginehouse::{SealKeySource, directory};
use enginehouse_runtime::{blobs_beside, copy_blobs};
use enginehouse_store::sqlite;
use std::path::{Path, PathBuf};

/// Where a backup goes.
#[derive(Debug, Args)]
#[command(after_help = "\
The copy is one consistent state of the store, taken while the service works; the file must not
exist yet. Large results of the data directory are put beside it, in FILE.blobs, as second names of
the same files where that is possible; those in a bucket stay there. Payloads in it are sealed: keep
a copy of the seal key too, apart from it. The command tells where the key lies.

Example:
  enginehouse backup --data /var/lib/enginehouse /backups/enginehouse-monday.sqlite")]
pub(crate) struct Backup {
    /// The file to write
    file: PathBuf,
}

impl Backup {
    pub(crate) fn run(self, dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
        let blobs = blobs_beside(&self.file);
        if blobs.exists() {
            return Err(Failure::call(format!("{} exists already; a backup writes anew", blobs.display())));
        }
        // Before and after the copy of the store: what it tells of may go, and come, while it is made.
        copy(&dir.join(BLOBS_DIRECTORY), &blobs)?;
        sqlite::backup_from_dir(dir, &self.file).map_err(|error| Failure::call(error.to_string()))?;
        let (count, blob_bytes) = copy(&dir.join(BLOBS_DIRECTORY), &blobs)?;
        let bytes = std::fs::metadata(&self.file).map(|file| file.len()).unwrap_or_default();
        let key = directory::known_seal_key(dir);
        let blobs = Some(blobs).filter(|_| count > 0);
        if output.is_json() {
            output.document(&serde_json::json!({
                "file": self.file, "bytes": bytes, "sealKeyFile": key,
                "blobs": blobs, "blobCount": count, "blobBytes": blob_bytes,
            }))?;
        } else {
            output.line(&format!("{}  {bytes} bytes", self.file.display()))?;
            if let Some(blobs) = blobs {
                let large = format!("{}  {count} large results, {blob_bytes} bytes", blobs.display());
                output.line(&large)?;
            }
            if let Some(key) = key {
                tell!("its payloads open only with the seal key {}; keep a copy of it too", key.display());
            }
        }
        Ok(Exit::Done)
    }
}

/// Where a backup comes from and goes to.
#[derive(Debug, Args)]
#[command(after_help = "\
The service of the directory must not run. The backup is checked before anything is replaced. The
large results in FILE.blobs, if there are any, are brought along.

Example:
  enginehouse restore /backups/enginehouse-monday.sqlite --data /var/lib/enginehouse")]
pub(crate) struct Restore {
    /// The backup
    file: PathBuf,
    /// Replace the store that the directory has; the old file is kept beside it
    #[arg(long)]
    replace: bool,
    /// The seal key of the backup, where the directory does not know it
    #[arg(long, value_name = "FILE")]
    seal_key_file: Option<PathBuf>,
}

impl Restore {
    pub(crate) fn run(self, data: Option<PathBuf>, output: &mut Output) -> Result<Exit, Failure> {
        let Some(dir) = data else {
            return Err(Failure::usage("say which data directory to restore: --data DIR".to_owned()));
        };
        let wrong = |error: std::io::Error| Failure::call(format!("{}: {error}", dir.display()));
        let key = self.seal_key_file.as_deref().map(existing).transpose()?;
        let dir = directory::prepare(&dir).map_err(wrong)?;
        sqlite::restore(&self.file, &dir, self.replace).map_err(|error| Failure::call(error.to_string()))?;
        copy(&blobs_beside(&self.file), &dir.join(BLOBS_DIRECTORY))?;
        if let Some(key) = &key {
            directory::remember_seal_key(&dir, &SealKeySource::File(key.clone())).map_err(wrong)?;
        }
        let key = directory::known_seal_key(&dir);
        if output.is_json() {
            output.document(&serde_json::json!({ "dataDir": dir, "sealKeyFile": key }))?;
        } else {
            output.line(&format!("{} was restored", dir.display()))?;
            match key {
                Some(key) => tell!("it opens with the seal key {}", key.display()),
                None => tell!(
                    "say where its seal key is: storage.seal_key_file in the configuration, or --seal-key-file here"
                ),
            }
        }
        Ok(Exit::Done)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(u64, u64), Failure> {
    copy_blobs(from, to).map_err(|error| {
        Failure::call(format!("the large results of {} could not be copied: {error}", from.display()))
    })
}

fn existing(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
