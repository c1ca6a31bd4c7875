//! Backups of a data directory, and data directories from backups.

use super::output::Output;
use super::printable::tell;
use super::{Exit, Failure};
use clap::Args;
use enginehouse::config::BLOBS_DIRECTORY;
use enginehouse::{SealKeySource, directory};
use enginehouse_core::time::Time;
use enginehouse_runtime::{blobs_beside, copy_blobs, needed_seal_key, restored_mark};
use enginehouse_store::{DocKind, StoreError, sqlite};
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
            return Err(Failure::call(format!(
                "{} exists already; give the backup another name",
                blobs.display()
            )));
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

The restored copy starts nothing by itself: its service takes requests and answers, and starts no
execution, sends no webhook and removes nothing until `enginehouse resume --data DIR`. The command
tells which seal key opens the copy.

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
        let failed = |error: StoreError| Failure::call(error.to_string());
        let needed = needed_seal_key(&sqlite::documents(&self.file, DocKind::Setting).map_err(failed)?);
        if let (Some(key), Some(needed)) = (&key, &needed) {
            holds(key, needed).map_err(Failure::usage)?;
        }
        let dir = directory::prepare(&dir).map_err(wrong)?;
        let mark = restored_mark(Time(jiff::Timestamp::now().as_millisecond()));
        sqlite::restore(&self.file, &dir, self.replace, &[mark]).map_err(failed)?;
        copy(&blobs_beside(&self.file), &dir.join(BLOBS_DIRECTORY))?;
        if let Some(key) = &key {
            directory::remember_seal_key(&dir, &SealKeySource::File(key.clone())).map_err(wrong)?;
        }
        let key = directory::known_seal_key(&dir);
        if output.is_json() {
            output.document(&serde_json::json!({
                "dataDir": dir, "sealKeyFile": key, "sealKey": needed, "paused": true,
            }))?;
            return Ok(Exit::Done);
        }
        output.line(&format!("{} was restored, and is paused", dir.display()))?;
        let with = if dir.join(directory::ADMIN_KEY).exists() {
            ""
        } else {
            ", with an admin key that the backup knows (--key-file or ENGINEHOUSE_API_KEY)"
        };
        let place = dir.display();
        tell!("its service starts nothing until you say so: enginehouse resume --data {place}{with}");
        tell_key(key.as_deref(), needed.as_deref());
        Ok(Exit::Done)
    }
}

/// Which key opens a copy, and where it is as far as that is known.
fn tell_key(file: Option<&Path>, needed: Option<&str>) {
    let Some(needed) = needed else {
        tell!("nothing in it is sealed yet, so any seal key will do");
        return;
    };
    let elsewhere = "say where that is: storage.seal_key_file in the configuration, or --seal-key-file here";
    match file.map(|file| (file, holds(file, needed))) {
        Some((file, Ok(()))) => {
            tell!("it opens with the seal key {needed}, which is in {}", file.display())
        }
        Some((_, Err(why))) => tell!("it opens with the seal key {needed}; {why}; {elsewhere}"),
        None => tell!("it opens with the seal key {needed}; {elsewhere}"),
    }
}

/// Whether a file holds the seal key with this id; the error says what is wrong, in words.
fn holds(file: &Path, needed: &str) -> Result<(), String> {
    let shown = file.display();
    let ids = SealKeySource::key_ids(file).map_err(|why| format!("{shown} cannot be used: {why}"))?;
    if ids.iter().any(|id| id == needed) {
        return Ok(());
    }
    Err(format!("{shown} holds {}, and not the key {needed} that the backup needs", ids.join(", ")))
}

fn copy(from: &Path, to: &Path) -> Result<(u64, u64), Failure> {
    copy_blobs(from, to).map_err(|error| {
        Failure::call(format!("the large results of {} could not be copied: {error}", from.display()))
    })
}

fn existing(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
