//! Results that are too large for their row: sealed in frames, and kept as objects in a directory or in S3.
//!
//! An object is written and synced before the commit that stores its manifest in the place of the result, is never changed,
//! and goes after the commit that removes the row. What a crash leaves between these steps no row tells of, and
//! the sweeper removes it once it is old.
//!
//! An object of execution `KEY` (16 hexadecimal digits) lies at `KEY/NAME`, with a random name, since an attempt whose report is
//! repeated writes it again. It holds the frames one behind the other; the manifest tells their lengths. A bucket also holds the
//! object `owner`, which names the store it belongs to: the sweeper of another would take all of it for orphans.
//!
//! Rooms it may use: `seal`.

mod copies;
mod objects;
mod place;

pub use copies::{blobs_beside, copy_blobs};
pub(crate) use objects::{BLOB_BYTES_MIN, Blobs, Manifest, OWNER, Written, generic, random};
pub use place::BlobSettings;
