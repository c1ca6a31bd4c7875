//! Backups of a data directory, and data directories from backups.

use super::output::Output;
use super::{DEFAULT_DATA_DIR, Exit, Failure};
use clap::Args;
use enginehouse::{SealKeySource, directory};
use enginehouse_store::sqlite;
use std::path::{Path, PathBuf};

/// Where a backup goes.
#[derive(Debug, Args)]
#[command(after_help = "\
The copy is one consistent state of the store, taken while the service works; the file must not
exist yet. Payloads in it are sealed: keep a copy of the seal key too, apart from it. The command
tells where the key lies.

Example:
  enginehouse backup --data /var/lib/enginehouse /backups/enginehouse-monday.sqlite")]
pub(crate) struct Backup {
    /// The file to write
    file: PathBuf,
}

impl Backup {
    pub(crate) fn run(self, data: Option<PathBuf>, output: &mut Output) -> Result<Exit, Failure> {
        let dir = data.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
        sqlite::backup_from_dir(&dir, &self.file).map_err(|error| Failure::call(error.to_string()))?;
        let bytes = std::fs::metadata(&self.file).map(|file| file.len()).unwrap_or_default();
        let key = directory::known_seal_key(&dir);
        if output.is_json() {
            output.document(&serde_json::json!({ "file": self.file, "bytes": bytes, "sealKeyFile": key }))?;
        } else {
            output.line(&format!("{}  {bytes} bytes", self.file.display()))?;
            if let Some(key) = key {
                eprintln!(
                    "its payloads open only with the seal key {}; keep a copy of it too",
                    key.display()
                );
            }
        }
        Ok(Exit::Done)
    }
}

/// Where a backup comes from and goes to.
#[derive(Debug, Args)]
#[command(after_help = "\
The service of the directory must not run. The backup is checked before anything is replaced.

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
        if let Some(key) = &key {
            directory::remember_seal_key(&dir, &SealKeySource::File(key.clone())).map_err(wrong)?;
        }
        let key = directory::known_seal_key(&dir);
        if output.is_json() {
            output.document(&serde_json::json!({ "dataDir": dir, "sealKeyFile": key }))?;
        } else {
            output.line(&format!("{} was restored", dir.display()))?;
            match key {
                Some(key) => eprintln!("it opens with the seal key {}", key.display()),
                None => eprintln!(
                    "say where its seal key is: storage.seal_key_file in the configuration, or --seal-key-file here"
                ),
            }
        }
        Ok(Exit::Done)
    }
}

fn existing(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
