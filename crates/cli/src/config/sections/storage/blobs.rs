//! `[storage.blobs]`: where results lie that are too large for their rows.

use crate::config::checker::Checker;
use crate::config::secret::Private;
use crate::config::types::{Span, Text, section};
use enginehouse_core::time::{DAY, HOUR, Millis};
use enginehouse_runtime::BlobSettings;
use std::collections::BTreeMap;
use std::path::Path;

section! {
    /// Where large results lie.
    pub struct BlobsRaw {
        /// `s3://BUCKET/PREFIX`, for S3 and what speaks like it. Absent: the directory `blobs` in the data directory.
        url: Option<Text> = None;
        /// Options of the client of S3, by the names that the AWS tools have: `region`, `endpoint`, `access_key_id`, `secret_access_key`, `session_token`, `allow_http`, ... What is absent comes from the environment (`AWS_REGION`, ...) or from the machine's own credentials.
        options: BTreeMap<String, Private> = BTreeMap::new();
        /// A blob that no execution tells of, such as one that a crash left, is removed at this age; looked for as often.
        orphan_after: Span<1000, DAY> = Span(HOUR);
    }
}

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

/// `inline_max_kib` stands beside this table.
pub(super) fn resolve(raw: &BlobsRaw, inline_max_kib: u64, checker: &mut Checker<'_>) -> BlobPlace {
    let BlobsRaw { url, options, orphan_after } = raw;
    let options = checker.read_all(options, "storage/blobs/options").into_iter().collect();
    let bucket = match url {
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
        inline_max: usize::try_from(inline_max_kib << 10).unwrap_or(usize::MAX),
        orphan_after: orphan_after.0,
        bucket,
    }
}
