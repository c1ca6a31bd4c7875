//! Blobs as objects: what tells where one lies, and what is done with those of an execution.

use super::copies::{blobs_beside, copy_blobs};
use super::place::BlobSettings;
use crate::seal::{BLOB_NAME, hex, unhex};
use aws_lc_rs::rand;
use bytes::Bytes;
use enginehouse_core::id::Key;
use enginehouse_store::Sealed;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is written to see whether a place can be used.
const PROBE: &[u8] = b"enginehouse";
pub(crate) const OWNER: &str = "owner";
/// No row whose result is smaller than this has a blob, whatever the settings were when it was stored.
pub(crate) const BLOB_BYTES_MIN: u64 = 64 << 10;

/// Where one large result lies, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// The object's own part of its path, in hexadecimal digits.
    pub(crate) name: String,
    /// Bytes of the result.
    pub(crate) bytes: u64,
    /// SHA-256 of the result, in hexadecimal digits.
    pub(crate) sha256: String,
    /// Bytes of the result in each frame but the last.
    pub(crate) frame_bytes: u32,
    /// Bytes of each sealed frame.
    pub(crate) frames: Vec<u32>,
}

impl Manifest {
    pub(crate) fn path(&self, blobs: &Blobs, key: Key) -> Path {
        blobs.place(key).join(self.name.as_str())
    }

    pub(crate) fn bound_name(&self) -> Option<[u8; BLOB_NAME]> {
        unhex(&self.name).and_then(|bytes| bytes.try_into().ok())
    }

    /// Where a sealed frame stands in the object.
    pub(crate) fn frame(&self, index: usize) -> Option<Range<u64>> {
        let bytes = u64::from(*self.frames.get(index)?);
        let before: u64 = self.frames[..index].iter().map(|frame| u64::from(*frame)).sum();
        Some(before..before + bytes)
    }
}

/// The place of large results, and what lies there as far as this node knows.
pub(crate) struct Blobs {
    pub(crate) settings: BlobSettings,
    pub(crate) held: Held,
}

/// How many blobs there are, and their bytes at rest; right after the first sweep.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) count: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Held {
    pub(crate) fn add(&self, bytes: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&self, bytes: u64) {
        let less = |by: u64| move |now: u64| Some(now.saturating_sub(by));
        let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(1));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(bytes));
    }
}

impl Blobs {
    pub(crate) fn new(settings: BlobSettings) -> Blobs {
        Blobs { settings, held: Held::default() }
    }

    /// Whether a result of this many bytes is too large for its row.
    pub(crate) fn wants(&self, bytes: usize) -> bool {
        bytes > self.settings.inline_max
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.settings.store
    }

    /// Below which the objects of an execution lie.
    fn place(&self, key: Key) -> Path {
        self.settings.root.clone().join(format!("{:016x}", key.0))
    }

    /// Removes all objects of an execution.
    pub(crate) async fn remove(&self, key: Key) -> object_store::Result<()> {
        let listed: Vec<_> = self.store().list(Some(&self.place(key))).try_collect().await?;
        for object in listed {
            self.remove_one(&object.location, object.size).await?;
        }
        Ok(())
    }

    /// Makes the place the one of this store; `false` when it is another's. A directory belongs to the data directory around it.
    pub(crate) async fn claim(&self, store: &str) -> object_store::Result<bool> {
        if self.settings.dir.is_some() {
            return Ok(true);
        }
        let path = self.settings.root.clone().join(OWNER);
        match self.store().get(&path).await {
            Ok(found) => return Ok(found.bytes().await? == store.as_bytes()),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let named = || store.as_bytes().to_vec().into();
        match self.store().put_opts(&path, named(), PutMode::Create.into()).await {
            // Not everything that speaks S3 can say that no one was faster.
            Err(object_store::Error::NotImplemented { .. }) => {
                self.store().put(&path, named()).await.map(|_| true)
            }
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            put => put.map(|_| true),
        }
    }

    /// Writes something small, reads it again and removes it.
    pub(crate) async fn probe(&self) -> object_store::Result<()> {
        let path = self.settings.root.clone().join(format!("probe-{}", hex(&random::<8>())));
        self.store().put(&path, Bytes::from_static(PROBE).into()).await?;
        let read = self.store().get_range(&path, 0..PROBE.len() as u64).await;
        self.store().delete(&path).await?;
        if read? != PROBE {
            return Err(generic(std::io::Error::other("it gives back something else than was written")));
        }
        Ok(())
    }

    /// Brings what lies in a directory of this machine beside a backup; what lies elsewhere stays there.
    pub(crate) async fn copy_beside(&self, backup: &std::path::Path) -> std::io::Result<()> {
        let Some(dir) = self.settings.dir.clone() else { return Ok(()) };
        let to = blobs_beside(backup);
        tokio::task::spawn_blocking(move || copy_blobs(&dir, &to)).await.map_err(std::io::Error::other)??;
        Ok(())
    }

    pub(crate) async fn remove_one(&self, path: &Path, bytes: u64) -> object_store::Result<()> {
        match self.store().delete(path).await {
            Ok(()) => self.held.take(bytes),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A large result that was written and not yet committed.
pub(crate) struct Written {
    /// What stands in the place of the result.
    pub(crate) manifest: Sealed,
    pub(crate) path: Path,
    pub(crate) bytes: u64,
}

pub(crate) fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

pub(crate) fn generic(error: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "blob", source: Box::new(error) }
}
