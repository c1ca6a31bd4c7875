//! Removes blobs that no row tells of: of a report that was never committed, or of a removal that a crash cut short.

use crate::blobs::Blobs;
use crate::role::{Role, Round};
use crate::seal::is_manifest;
use crate::state::context::Context;
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_core::time::{DAY, Time};
use futures_util::TryStreamExt;
use object_store::path::Path;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

/// Objects looked at between two pauses, so that a sweep is not felt.
const SLICE: u64 = 100;
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Sweeper {
    pub(crate) cx: Arc<Context>,
}

/// What became of a look at everything.
#[derive(Debug, Default)]
struct Swept {
    count: u64,
    bytes: u64,
    removed: u64,
}

impl Role for Sweeper {
    const NAME: &'static str = "sweeper";
    const TROUBLE: &'static str = "the place of large results could not be looked through";
    const LONG: bool = true;
    type Error = String;

    fn again(&self) -> Duration {
        self.every()
    }

    async fn round(&mut self) -> Result<Round, String> {
        let round = Round::then_rest(self.every());
        let Some(blobs) = &self.cx.payloads.blobs else { return Ok(round) };
        let swept = self.sweep(blobs).await.map_err(|error| format!("{}: {error}", blobs.settings.told))?;
        if swept.removed == 0 {
            return Ok(round);
        }
        tracing::info!(removed = swept.removed, "blobs that no execution needs were removed");
        Ok(round.did(format!("removed {} blobs that no execution needs", swept.removed)))
    }
}

impl Sweeper {
    fn every(&self) -> Duration {
        let after = self.cx.payloads.blobs.as_ref().map_or(DAY, |blobs| blobs.settings.orphan_after);
        Duration::from_millis(after.max(1))
    }

    /// Counts what there is; the scheduler's node removes what no one needs.
    async fn sweep(&self, blobs: &Blobs) -> Result<Swept, String> {
        if let Some(why) = self.cx.blobs_of_another().await.map_err(|error| error.to_string())? {
            // It could not be told at the start.
            self.cx.fail(why.clone());
            return Err(why);
        }
        let before = self.cx.store.now().minus(blobs.settings.orphan_after);
        let mut swept = Swept::default();
        let root = Some(&blobs.settings.root).filter(|root| !root.as_ref().is_empty());
        let mut objects = blobs.settings.store.list(root);
        while let Some(object) = objects.try_next().await.map_err(|error| error.to_string())? {
            let Some(named) = parse(&blobs.settings.root, &object.location) else { continue };
            let old = object.last_modified.timestamp_millis() < before.0;
            if old && self.cx.scheduling.scheduler.lock().may_grant() && self.is_orphan(named).await? {
                blobs.remove_one(&object.location, object.size).await.map_err(|error| error.to_string())?;
                swept.removed += 1;
            } else {
                swept.count += 1;
                swept.bytes += object.size;
            }
            if (swept.count + swept.removed).is_multiple_of(SLICE) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        blobs.held.count.store(swept.count, Ordering::Relaxed);
        blobs.held.bytes.store(swept.bytes, Ordering::Relaxed);
        if let Some(dir) = blobs.settings.dir.clone() {
            let tidied = tokio::task::spawn_blocking(move || remove_unfinished(&dir, before)).await;
            tidied.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        Ok(swept)
    }

    /// Whether no row tells of this object. What cannot be told stays.
    async fn is_orphan(&self, (key, name): (Key, String)) -> Result<bool, String> {
        let sealed = self.cx.store.payload(key, Part::Output).await.map_err(|error| error.to_string())?;
        Ok(match sealed {
            Some(sealed) if is_manifest(&sealed) => {
                self.cx.manifest(key, &sealed).await.is_ok_and(|manifest| manifest.name != name)
            }
            Some(_) | None => true,
        })
    }
}

/// The execution and the object's own name; `None`: it is no blob.
fn parse(root: &Path, location: &Path) -> Option<(Key, String)> {
    let mut parts = location.prefix_match(root)?;
    let (key, name) = (parts.next()?, parts.next()?);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = key.as_ref();
    if parts.next().is_some() || key.len() != 16 || !digits(key) || !digits(name.as_ref()) {
        return None;
    }
    Some((Key(u64::from_str_radix(key, 16).ok()?.cast_signed()), name.as_ref().to_owned()))
}

/// Removes what writes left that did not end, and directories that hold nothing any more, if they are older than `before`.
fn remove_unfinished(dir: &FilePath, before: Time) -> std::io::Result<()> {
    let old = |entry: &std::fs::DirEntry| {
        let modified = entry.metadata().and_then(|file| file.modified());
        let at = modified.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        at.and_then(|at| i64::try_from(at.as_millis()).ok()).is_some_and(|at| Time(at) < before)
    };
    for execution in std::fs::read_dir(dir)? {
        let execution = execution?;
        let Ok(blobs) = std::fs::read_dir(execution.path()) else { continue };
        for blob in blobs {
            let blob = blob?;
            if blob.file_name().to_string_lossy().contains('#') && old(&blob) {
                std::fs::remove_file(blob.path())?;
            }
        }
        if old(&execution) {
            // One that holds something stays.
            let _ = std::fs::remove_dir(execution.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_our_making_is_parsed() {
        let root = Path::from("a/b");
        let at = |text: &str| parse(&root, &Path::from(text)).map(|(key, name)| (key.0, name));
        assert_eq!(at("a/b/000000000000000a/0f"), Some((10, "0f".to_owned())));
        assert_eq!(at("a/b/fffffffffffffff6/0f"), Some((-10, "0f".to_owned())));
        for text in [
            "a/b/0a/0f",
            "a/b/000000000000000a/0f/1",
            "a/000000000000000a/0f",
            "a/b/00000000000000zz/0f",
            "a/b/x",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
