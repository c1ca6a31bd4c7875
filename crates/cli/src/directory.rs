//! The files of a data directory beside the store: the admin key, the address of the service that works on it, and
//! where the key lies that its payloads are sealed with.

use enginehouse_runtime::SealKeySource;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The secret of the first API key, mode 0600.
pub const ADMIN_KEY: &str = "admin.key";
/// The base URL of the service that works on the directory, and the secret by which it is told from any other.
const ADDRESS: &str = "address";
/// The store's file.
const STORE: &str = "enginehouse.sqlite";
/// Where the seal key lies: the path, never the key.
const SEAL_KEY_PATH: &str = "seal-key.path";
/// The seal key itself, only where there is no home directory to keep it in.
const SEAL_KEY_INSIDE: &str = "seal.key";
/// Names derived from a directory are UUIDs of version 5 below this one.
const DIRECTORIES: Uuid = Uuid::from_u128(0x5d2b_71f4_0a3e_4c1d_b6a8_99e4_17c3_2f50);

/// Makes a directory that only its owner can enter, and tells its absolute path.
pub fn prepare(dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    dir.canonicalize()
}

/// Where a data directory's seal key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealKey {
    /// The file, variable or command that gives it.
    pub source: SealKeySource,
    /// It is not there yet and will be made.
    pub new: bool,
    /// It lies beside what it protects, because no better place was found.
    pub inside: bool,
}

/// Finds the seal key of a data directory (an absolute path).
///
/// `configured` wins over where an earlier start put it, which wins over the default place. A key that should be there
/// and is not is an error while the store holds anything (`holds_executions`): a new key would open nothing of it.
pub fn seal_key(
    dir: &Path,
    configured: Option<&SealKeySource>,
    holds_executions: bool,
) -> Result<SealKey, String> {
    let known = read_line(&dir.join(SEAL_KEY_PATH)).map(PathBuf::from);
    let file = match (configured, known) {
        (Some(SealKeySource::File(file)), _) => {
            std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?
        }
        (Some(source), _) => return Ok(SealKey { source: source.clone(), new: false, inside: false }),
        (None, Some(file)) => file,
        (None, None) => default_seal_key(
            dir,
            std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from),
            std::env::home_dir(),
        ),
    };
    let new = !file.exists();
    if new && holds_executions {
        return Err(format!(
            "the seal key {} is not there, and without it nothing in {} can be read; put it back, or name its place \
             with storage.seal_key_file (key_missing)",
            file.display(),
            dir.display()
        ));
    }
    if let Some(parent) = file.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|error| format!("the seal key's directory {}: {error}", parent.display()))?;
    }
    Ok(SealKey { inside: file.starts_with(dir), new, source: SealKeySource::File(file) })
}

/// Remembers where the seal key comes from, if it lies in a file, so that a moved directory still finds it.
pub fn remember_seal_key(dir: &Path, source: &SealKeySource) -> io::Result<()> {
    let SealKeySource::File(file) = source else {
        return match fs::remove_file(dir.join(SEAL_KEY_PATH)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let text = file.display().to_string();
    if read_line(&dir.join(SEAL_KEY_PATH)).as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    write_private(&dir.join(SEAL_KEY_PATH), &text)
}

/// Where the seal key of a data directory was put, if that is known.
#[must_use]
pub fn known_seal_key(dir: &Path) -> Option<PathBuf> {
    read_line(&dir.join(SEAL_KEY_PATH)).map(PathBuf::from)
}

/// Outside the data directory, so that a copy of the directory does not carry the key to it.
fn default_seal_key(dir: &Path, config_home: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let base = config_home
        .filter(|path| path.is_absolute())
        .or_else(|| home.filter(|path| path.is_absolute()).map(|path| path.join(".config")));
    match base {
        Some(base) => {
            let id = Uuid::new_v5(&DIRECTORIES, dir.as_os_str().as_encoded_bytes()).simple().to_string();
            let name =
                dir.file_name().map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned());
            base.join("enginehouse").join(format!("{name}-{}.key", &id[..8]))
        }
        None => dir.join(SEAL_KEY_INSIDE),
    }
}

/// Stores the secret of the first API key.
pub fn write_admin_key(dir: &Path, secret: &str) -> io::Result<()> {
    write_private(&dir.join(ADMIN_KEY), secret)
}

/// Where the service of a data directory said it is. It may be gone without having taken that back, and another one may have its
/// port: who sends a key there asks first for the proof that belongs to the secret (`GET /identity`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The base URL of its API.
    pub url: String,
    /// Empty where a program from before wrote the file.
    pub secret: String,
}

/// Tells other programs on this machine where the service is.
pub fn write_address(dir: &Path, address: &Address) -> io::Result<()> {
    write_private(&dir.join(ADDRESS), &format!("{}\n{}", address.url, address.secret))
}

/// What the service of a data directory told; `None` while none runs, unless one was killed.
pub fn read_address(dir: &Path) -> io::Result<Option<Address>> {
    let text = match fs::read_to_string(dir.join(ADDRESS)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines().map(|line| line.trim().to_owned());
    let url = lines.next().filter(|url| !url.is_empty());
    Ok(url.map(|url| Address { url, secret: lines.next().unwrap_or_default() }))
}

/// Whether a service works on the directory, or did.
#[must_use]
pub fn is_data_directory(dir: &Path) -> bool {
    [STORE, ADDRESS].iter().any(|file| dir.join(file).exists())
}

/// Takes the address back.
pub fn remove_address(dir: &Path) {
    // A file that stays misleads no one for long: a call to it is refused.
    let _ = fs::remove_file(dir.join(ADDRESS));
}

fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.trim();
    (!line.is_empty() && line.len() < 8_192).then(|| line.to_owned())
}

/// Replaces a file by one that only its owner can read; a reader sees the old or the new one, never a part. Once this
/// returns, the new one survives a power cut.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seal_key_lies_outside_and_apart_for_each_directory() {
        let home = || Some(PathBuf::from("/home/user"));
        let one = default_seal_key(Path::new("/srv/a/data"), None, home());
        let two = default_seal_key(Path::new("/srv/b/data"), None, home());
        assert!(one.starts_with("/home/user/.config/enginehouse") && one != two, "{one:?} {two:?}");
        let config = default_seal_key(Path::new("/srv/a/data"), Some("/cfg".into()), home());
        assert!(config.starts_with("/cfg/enginehouse"), "{config:?}");
        let relative = default_seal_key(Path::new("/srv/a/data"), Some("cfg".into()), home());
        assert_eq!(relative, one);
        assert_eq!(default_seal_key(Path::new("/srv/a/data"), None, None), Path::new("/srv/a/data/seal.key"));
    }

    #[test]
    fn a_lost_seal_key_is_not_replaced_while_there_is_something_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys/seal.key");
        let configured = SealKeySource::File(file.clone());
        let found = seal_key(dir.path(), Some(&configured), false).unwrap();
        assert_eq!(found, SealKey { source: configured.clone(), new: true, inside: true });
        remember_seal_key(dir.path(), &configured).unwrap();
        assert_eq!(seal_key(dir.path(), None, false).unwrap().source, configured);
        let lost = seal_key(dir.path(), None, true).unwrap_err();
        assert!(lost.contains("is not there"), "{lost}");
        fs::write(&file, "x").unwrap();
        assert!(!seal_key(dir.path(), None, true).unwrap().new);
        // A key from elsewhere takes the place of the file's, and is not looked for here.
        let env = SealKeySource::Env("SEAL_KEY".to_owned());
        assert_eq!(seal_key(dir.path(), Some(&env), true).unwrap().source, env);
        remember_seal_key(dir.path(), &env).unwrap();
        assert_eq!(known_seal_key(dir.path()), None);
    }

    #[test]
    fn private_files_are_private_and_replaced_as_a_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for text in ["one", "two"] {
            write_admin_key(dir.path(), text).unwrap();
            let path = dir.path().join(ADMIN_KEY);
            assert_eq!(fs::read_to_string(&path).unwrap().trim(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(!is_data_directory(dir.path()));
        let address = Address { url: "http://127.0.0.1:1".to_owned(), secret: "ab".to_owned() };
        write_address(dir.path(), &address).unwrap();
        assert_eq!(read_address(dir.path()).unwrap(), Some(address));
        assert!(is_data_directory(dir.path()));
        fs::write(dir.path().join(ADDRESS), "http://127.0.0.1:2\n").unwrap();
        let before = Address { url: "http://127.0.0.1:2".to_owned(), secret: String::new() };
        assert_eq!(read_address(dir.path()).unwrap(), Some(before));
        remove_address(dir.path());
        assert_eq!(read_address(dir.path()).unwrap(), None);
    }
}
