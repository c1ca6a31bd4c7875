//! Results that lie in blobs: written before their commit, read frame by frame, removed after their rows.

use super::context::Context;
use crate::blobs::{BlobSettings, Blobs, Manifest, OWNER, Written, generic, random};
use crate::seal::{BLOB_NAME, Column, SealError, hex};
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_core::time::SECOND;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use std::ops::Range;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Bytes of a result in one frame, which is sealed and opened as a whole.
const FRAME_BYTES: usize = 1 << 20;
/// What is handed to the place at once; S3 wants at least 5 MiB in every part but the last.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at the same time.
const PARTS_AT_ONCE: usize = 2;
const MANIFEST_BYTES_MAX: usize = 64 << 10;

impl Context {
    /// Writes a result into a blob of its own; once this returns it is there to stay.
    pub(crate) async fn write_blob(
        &self,
        blobs: &Blobs,
        key: Key,
        result: &Bytes,
    ) -> object_store::Result<Written> {
        let name = random::<BLOB_NAME>();
        let mut manifest = Manifest {
            name: hex(&name),
            bytes: result.len() as u64,
            sha256: hex(digest(&SHA256, result).as_ref()),
            frame_bytes: FRAME_BYTES as u32,
            frames: Vec::new(),
        };
        let path = manifest.path(blobs, key);
        let mut writer = BufWriter::with_capacity(blobs.store().clone(), path.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_AT_ONCE);
        // The manifest's key is counted among the keys that are needed, so the frames have the same one.
        let data_key = self.payloads.sealer.current();
        let written = async {
            for (index, frame) in (0..).zip(result.chunks(FRAME_BYTES)) {
                let column = Column::Frame(name, index);
                let sealed = self.payloads.sealer.seal_with(Some(data_key), key, column, frame);
                manifest.frames.push(u32::try_from(sealed.len()).unwrap_or(u32::MAX));
                writer.put(Bytes::from_owner(sealed)).await?;
            }
            Ok::<_, object_store::Error>(())
        };
        if let Err(error) = written.await {
            let _ = writer.abort().await;
            return Err(error);
        }
        writer.shutdown().await.map_err(generic)?;
        let bytes = manifest.frames.iter().map(|frame| u64::from(*frame)).sum();
        blobs.held.add(bytes);
        let text = serde_json::to_vec(&manifest).expect("a manifest can be written");
        let manifest = self.payloads.sealer.seal_with(Some(data_key), key, Column::Manifest, &text);
        Ok(Written { manifest, path, bytes })
    }

    /// Why the place of large results must not be used; `None`: it may, or it could not be told, as the error says.
    pub(crate) async fn blobs_of_another(&self) -> Result<Option<String>, object_store::Error> {
        let Some(blobs) = &self.payloads.blobs else { return Ok(None) };
        let ours = blobs.claim(&self.payloads.sealer.name_hash(OWNER)).await?;
        let why = || {
            format!(
                "{} holds the large results of another store, which this one would take for waste and remove; give each store a \
                 prefix of its own in storage.blobs.url",
                blobs.settings.told
            )
        };
        Ok((!ours).then(why))
    }

    /// Removes what was written for a commit that was refused.
    pub(crate) async fn take_back(&self, blobs: &Blobs, written: &Written) {
        if let Err(error) = blobs.remove_one(&written.path, written.bytes).await {
            tracing::debug!(%error, "a blob that nothing refers to stays until it is swept");
        }
    }

    pub(crate) async fn manifest(&self, key: Key, sealed: &[u8]) -> Result<Manifest, SealError> {
        let text = self.open(key, Column::Manifest, sealed, MANIFEST_BYTES_MAX).await?;
        serde_json::from_slice(&text).map_err(|_| SealError::Unknown)
    }

    /// Removes the blobs of executions whose rows went, or lost what they carried. What cannot be removed now is swept later.
    pub(crate) async fn remove_blobs(&self, keys: impl Iterator<Item = Key>) {
        let Some(blobs) = &self.payloads.blobs else { return };
        for key in keys {
            let removed = match self.store.payload(key, Part::Output).await {
                // The row changed meanwhile, and kept its result.
                Ok(Some(_)) => continue,
                Ok(None) => blobs.remove(key).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, execution = key.0, "a blob of a removed execution stays until it is swept");
            }
        }
    }
}

/// A large result, read frame by frame as it is sent.
#[derive(Clone)]
pub struct LargeResult {
    cx: Arc<Context>,
    key: Key,
    manifest: Arc<Manifest>,
}

impl LargeResult {
    pub(crate) fn new(cx: Arc<Context>, key: Key, manifest: Manifest) -> LargeResult {
        LargeResult { cx, key, manifest: Arc::new(manifest) }
    }

    /// Bytes of the result, which is JSON.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// SHA-256 of the result, in hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.manifest.sha256
    }

    /// A part of the result; no frame that holds nothing of it is read.
    ///
    /// # Errors
    /// `payload_damaged` when it is not what was stored, `store_unavailable` when its place cannot be reached.
    pub fn read(&self, part: Range<u64>) -> impl Stream<Item = Result<Bytes, ApiError>> + Send + use<> {
        let frame_bytes = u64::from(self.manifest.frame_bytes.max(1));
        let part = part.start..part.end.min(self.manifest.bytes);
        let frames =
            if part.is_empty() { 0..0 } else { part.start / frame_bytes..(part.end - 1) / frame_bytes + 1 };
        let this = self.clone();
        stream::iter(frames).then(move |index| {
            let (this, part) = (this.clone(), part.clone());
            async move {
                let frame = this.frame(index).await?;
                let first = index * frame_bytes;
                let within = |at: u64| {
                    usize::try_from(at.saturating_sub(first)).map_or(frame.len(), |at| at.min(frame.len()))
                };
                Ok(frame.slice(within(part.start)..within(part.end)))
            }
        })
    }

    /// All of it.
    pub(crate) async fn whole(&self) -> Result<Vec<u8>, ApiError> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.manifest.bytes).unwrap_or(0));
        let mut frames = Box::pin(self.read(0..self.manifest.bytes));
        while let Some(frame) = frames.try_next().await? {
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes)
    }

    async fn frame(&self, index: u64) -> Result<Bytes, ApiError> {
        const WHAT: &str = "the stored result";
        let manifest = &self.manifest;
        let wrong = || SealError::Unknown.public(WHAT);
        let blobs = self
            .cx
            .payloads
            .blobs
            .as_ref()
            .ok_or_else(|| missing("no place for large results is configured"))?;
        let at = usize::try_from(index).map_err(|_| wrong())?;
        let place = manifest.frame(at).ok_or_else(wrong)?;
        let name = manifest.bound_name().ok_or_else(wrong)?;
        let read = blobs.store().get_range(&manifest.path(blobs, self.key), place.clone()).await;
        let sealed = read.map_err(|error| read_error(&error, &blobs.settings))?;
        if sealed.len() as u64 != place.end - place.start {
            return Err(missing(&format!("its blob in {} is cut short", blobs.settings.told)));
        }
        let column = Column::Frame(name, u32::try_from(index).map_err(|_| wrong())?);
        let frame_bytes = manifest.frame_bytes as usize;
        let opened = self.cx.open(self.key, column, &sealed, frame_bytes).await;
        let opened = opened.map_err(|error| error.public(WHAT))?;
        let left = manifest.bytes.saturating_sub(index * u64::from(manifest.frame_bytes));
        if opened.len() as u64 != left.min(u64::from(manifest.frame_bytes)) {
            return Err(wrong());
        }
        Ok(opened.into())
    }
}

fn missing(why: &str) -> ApiError {
    ApiError::new(Code::PayloadDamaged, format!("the stored result cannot be read: {why}"))
}

fn read_error(error: &object_store::Error, settings: &BlobSettings) -> ApiError {
    match error {
        object_store::Error::NotFound { .. } => missing(&format!("its blob is not in {}", settings.told)),
        other => {
            let text = format!("the result lies in {}, which cannot be read: {other}", settings.told);
            ApiError::new(Code::StoreUnavailable, text).retry_after(SECOND)
        }
    }
}
