//! Where blobs lie: a directory of this machine, or a bucket of something that speaks S3.

use enginehouse_core::limits::{BLOB_ORPHAN_AFTER, RESULT_INLINE_BYTES};
use enginehouse_core::time::Millis;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One request to S3, and all tries of it together.
const REQUEST_TIMEOUT: &str = "30 seconds";
const CONNECT_TIMEOUT: &str = "5 seconds";
const TRIES_TIMEOUT: Duration = Duration::from_secs(60);
const RETRIES: usize = 3;

/// Where large results lie, and which results are large.
#[derive(Clone)]
pub struct BlobSettings {
    /// A result of more bytes is a blob.
    pub inline_max: usize,
    /// What no row tells of is removed at this age, and looked for as often.
    pub orphan_after: Millis,
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Below which all objects lie.
    pub(crate) root: Path,
    /// The directory, if it is one.
    pub(crate) dir: Option<PathBuf>,
    /// The place in words that may be shown.
    pub(crate) told: String,
}

impl BlobSettings {
    /// A directory of this machine; made with mode 0700 if it is not there. Every write is synced.
    ///
    /// # Errors
    /// In words, when it cannot be made.
    pub fn directory(dir: &FilePath) -> Result<BlobSettings, String> {
        let wrong = |error: &dyn fmt::Display| format!("{}: {error}", dir.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| wrong(&e))?;
        let dir = dir.canonicalize().map_err(|e| wrong(&e))?;
        let store = LocalFileSystem::new_with_prefix(&dir).map_err(|e| wrong(&e))?;
        let store = store.with_automatic_cleanup(true).with_fsync(true);
        let told = dir.display().to_string();
        Ok(BlobSettings { dir: Some(dir), ..BlobSettings::at(Arc::new(store), Path::default(), told) })
    }

    /// A bucket, as `s3://BUCKET/PREFIX`. Options have the names that the AWS tools know, such as `region`, `endpoint`,
    /// `access_key_id` and `secret_access_key`; what is not among them comes from the environment (`AWS_REGION`, ...) or
    /// from the machine's own credentials.
    ///
    /// # Errors
    /// In words, when the URL or an option is none.
    pub fn s3(url: &str, options: &BTreeMap<String, SecretString>) -> Result<BlobSettings, String> {
        let parsed = url::Url::parse(url).map_err(|error| format!("{url} is not a URL: {error}"))?;
        let bucket = parsed.host_str().filter(|_| parsed.scheme() == "s3");
        let bucket = bucket.ok_or_else(|| format!("{url} is not of the form s3://BUCKET/PREFIX"))?;
        let root = Path::from_url_path(parsed.path()).map_err(|error| format!("{url}: {error}"))?;
        let retry =
            RetryConfig { max_retries: RETRIES, retry_timeout: TRIES_TIMEOUT, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env().with_retry(retry);
        for (key, value) in
            [(ClientConfigKey::Timeout, REQUEST_TIMEOUT), (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT)]
        {
            builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
        }
        for (name, value) in options {
            let key: AmazonS3ConfigKey =
                name.parse().map_err(|_| format!("there is no option {name} of S3"))?;
            builder = builder.with_config(key, value.expose_secret());
        }
        enginehouse_engine::install_crypto();
        let store = builder.with_bucket_name(bucket).build().map_err(|error| format!("{url}: {error}"))?;
        Ok(BlobSettings::at(Arc::new(store), root, url.to_owned()))
    }

    /// Some other place, such as one in memory.
    #[must_use]
    pub fn at(store: Arc<dyn ObjectStore>, root: Path, told: String) -> BlobSettings {
        BlobSettings {
            inline_max: RESULT_INLINE_BYTES,
            orphan_after: BLOB_ORPHAN_AFTER,
            store,
            root,
            dir: None,
            told,
        }
    }

    /// The place in words that may be shown.
    #[must_use]
    pub fn told(&self) -> &str {
        &self.told
    }
}

impl fmt::Debug for BlobSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client of S3 holds credentials.
        f.debug_struct("BlobSettings")
            .field("place", &self.told)
            .field("inline_max", &self.inline_max)
            .finish()
    }
}
