//! Copies of a directory of blobs, for backups and back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where the large results of a backup lie: beside its file, with `.blobs` behind the name.
#[must_use]
pub fn blobs_beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".blobs");
    name.into()
}

/// Brings every blob below `from` below `to`, as a second name of the same file where that is possible; blobs never change. What
/// is there already stays. Returns how many there are now, and their bytes; 0 of nothing when there is no `from`.
///
/// # Errors
/// When one of them cannot be read or written. A blob that goes meanwhile is none.
pub fn copy_blobs(from: &Path, to: &Path) -> io::Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for execution in entries(from)? {
        for blob in entries(&execution.path())? {
            // A name with this mark is of a write that did not end.
            if blob.file_name().to_string_lossy().contains('#') {
                continue;
            }
            let dir = to.join(execution.file_name());
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let target = dir.join(blob.file_name());
            match bring(&blob.path(), &target) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            File::open(&dir)?.sync_all()?;
            count += 1;
            bytes += fs::metadata(&target)?.len();
        }
    }
    if count > 0 {
        File::open(to)?.sync_all()?;
    }
    Ok((count, bytes))
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn bring(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        // Another file system, or one without second names.
        Err(_) => {}
    }
    // The finished copy alone gets the name.
    let partial = to.with_extension("#1");
    let copied = fs::copy(from, &partial).and_then(|_| File::open(&partial)?.sync_all());
    let named = copied.and_then(|()| fs::rename(&partial, to));
    if named.is_err() {
        let _ = fs::remove_file(&partial);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_brought_once_and_unfinished_writes_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("blobs"), dir.path().join("copy"));
        assert_eq!(copy_blobs(&from, &to).expect("nothing to copy"), (0, 0));
        fs::create_dir_all(from.join("0a")).expect("a directory");
        fs::write(from.join("0a/one"), b"123").expect("a file");
        fs::write(from.join("0a/two#1"), b"123456").expect("a file");
        assert_eq!(copy_blobs(&from, &to).expect("a copy"), (1, 3));
        fs::write(from.join("0a/three"), b"4567").expect("a file");
        assert_eq!(copy_blobs(&from, &to).expect("a copy"), (2, 7));
        fs::remove_dir_all(&from).expect("removed");
        assert_eq!(fs::read(to.join("0a/one")).expect("the copy"), b"123");
        assert!(!to.join("0a/two#1").exists());
    }
}
