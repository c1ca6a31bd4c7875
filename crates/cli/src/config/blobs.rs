//! Where results lie that are too large for their rows.

use super::checker::Checker;
use super::raw::Storage;
use enginehouse_core::time::Millis;
use enginehouse_runtime::BlobSettings;
use std::path::Path;

/// The directory of large results in a data directory.
pub const DIRECTORY: &str = "blobs";

/// Which results are large, and where they lie.
#[derive(Debug, Clone)]
pub struct BlobPlace {
    /// A result of more bytes is a blob.
    pub inline_max: usize,
    /// What no execution tells of is removed at this age.
    pub orphan_after: Millis,
    /// A place of its own; `None`: a directory in the data directory, if there is one.
    pub bucket: Option<BlobSettings>,
}

impl BlobPlace {
    /// The settings for a service with this data directory; `None`: it has no place for blobs.
    ///
    /// # Errors
    /// In words, when the directory cannot be made.
    pub(crate) fn settings(self, data_dir: Option<&Path>) -> Result<Option<BlobSettings>, String> {
        let mut place = match (self.bucket, data_dir) {
            (Some(bucket), _) => bucket,
            (None, Some(dir)) => BlobSettings::directory(&dir.join(DIRECTORY))?,
            (None, None) => return Ok(None),
        };
        (place.inline_max, place.orphan_after) = (self.inline_max, self.orphan_after);
        Ok(Some(place))
    }
}

pub(super) fn resolve(storage: &Storage, checker: &mut Checker<'_>) -> BlobPlace {
    let raw = &storage.blobs;
    let options = checker.read_all(&raw.options, "storage/blobs/options").into_iter().collect();
    let bucket = match &raw.url {
        Some(url) => {
            BlobSettings::s3(&url.0, &options).map_err(|why| checker.fault("storage/blobs/url", why)).ok()
        }
        None => {
            checker.require(options.is_empty(), "storage/blobs/options", || {
                "are those of S3, and need storage.blobs.url".to_owned()
            });
            None
        }
    };
    BlobPlace {
        inline_max: usize::try_from(storage.inline_max_kib.0 << 10).unwrap_or(usize::MAX),
        orphan_after: raw.orphan_after.0,
        bucket,
    }
}
