//! Where the seal key comes from: a file, the environment, or a command.
//!
//! Whatever the place, it holds one key a line; the first seals, the others only open what was sealed before.

use super::error::SealError;
use super::hex::{hex, unhex};
use super::keys::{SealKey, fresh_secret};
use enginehouse_core::limits::{SEAL_KEY_BYTES_MAX, SEAL_KEY_COMMAND_PATIENCE, SEAL_KEYS_MAX};
use enginehouse_core::time::{DAY, Millis};
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const WORD: &str = "enginehouse-seal-key-v1";

/// Where the seal key comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SealKeySource {
    /// A key that lives and ends with the process.
    #[default]
    Memory,
    /// A file, made with mode 0600 when there is none.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// What a command writes to its standard output.
    Command(Vec<String>),
}

/// The place in words, never the key.
impl fmt::Display for SealKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealKeySource::Memory => f.write_str("the memory of the process"),
            SealKeySource::File(path) => write!(f, "the file {}", path.display()),
            SealKeySource::Env(name) => write!(f, "the environment variable {name}"),
            SealKeySource::Command(words) => {
                write!(f, "the command {}", words.first().map_or("", String::as_str))
            }
        }
    }
}

impl SealKeySource {
    fn unusable(&self, why: impl Into<String>) -> SealError {
        SealError::Source { place: self.to_string(), why: why.into() }
    }

    /// Why it is not where it was, as far as that can be told without reading it; `None`: it is there, or it has to be asked for.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            SealKeySource::Memory | SealKeySource::Command(_) => None,
            SealKeySource::File(path) => fs::metadata(path).err().map(|error| error.to_string()),
            SealKeySource::Env(name) => std::env::var_os(name).is_none().then(|| "it is not set".to_owned()),
        }
    }

    /// The ids of the keys in a file; nothing is made.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn key_ids(file: &Path) -> Result<Vec<String>, String> {
        let text = read_file(file).map_err(|error| error.to_string())?;
        Ok(parse(&text)?.iter().map(|key| key.id.to_string()).collect())
    }

    /// Whether reading it may take longer than a look into a file.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, SealKeySource::Command(_))
    }

    /// The keys there; at least one. A file that is not there is made. May block for as long as a command may take.
    pub(crate) fn read(&self) -> Result<Vec<SealKey>, SealError> {
        let text = match self {
            SealKeySource::Memory => return Ok(vec![SealKey::new(fresh_secret())]),
            SealKeySource::File(path) => match read_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let key = SealKey::new(fresh_secret());
                    make_file(path, &key).map_err(|e| self.unusable(e.to_string()))?;
                    return Ok(vec![key]);
                }
                read => read.map_err(|e| self.unusable(e.to_string()))?,
            },
            SealKeySource::Env(name) => match std::env::var(name) {
                Ok(text) => text,
                Err(std::env::VarError::NotPresent) => return Err(self.unusable("it is not set")),
                Err(std::env::VarError::NotUnicode(_)) => return Err(self.unusable("it is not UTF-8")),
            },
            SealKeySource::Command(words) => {
                run(words, SEAL_KEY_COMMAND_PATIENCE).map_err(|why| self.unusable(why))?
            }
        };
        parse(&text).map_err(|why| self.unusable(why))
    }
}

/// How payloads are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealSettings {
    /// Where the key comes from that seals the data keys.
    pub source: SealKeySource,
    /// Payloads are compressed.
    pub compress: bool,
    /// Payloads are encrypted.
    pub encrypt: bool,
    /// A data key that is so old is followed by another.
    pub data_key_age: Millis,
    /// So is one that sealed this many records.
    pub data_key_records: u64,
}

impl Default for SealSettings {
    fn default() -> Self {
        SealSettings {
            source: SealKeySource::default(),
            compress: true,
            encrypt: true,
            data_key_age: 90 * DAY,
            data_key_records: 1_000_000_000,
        }
    }
}

fn parse(text: &str) -> Result<Vec<SealKey>, String> {
    let wrong = || {
        format!(
            "it must hold a key a line: 64 hexadecimal digits, with or without the word {WORD} before them"
        )
    };
    let mut keys: Vec<SealKey> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let digits = line.strip_prefix(WORD).unwrap_or(line).trim();
        let secret = unhex(digits).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).ok_or_else(wrong)?;
        let key = SealKey::new(secret);
        if !keys.iter().any(|known| known.id == key.id) {
            keys.push(key);
        }
        if keys.len() > SEAL_KEYS_MAX {
            return Err(format!("it holds more than {SEAL_KEYS_MAX} keys"));
        }
    }
    if keys.is_empty() { Err(wrong()) } else { Ok(keys) }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    let file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o007 != 0 {
        tracing::warn!(
            "the seal key {} can be read by everybody; take that away (chmod 600)",
            path.display()
        );
    }
    let mut text = String::new();
    file.take(SEAL_KEY_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Runs a command for at most `patience`. What it says on its standard error goes to the service's, and is not kept.
fn run(words: &[String], patience: Duration) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("it is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let output = child.stdout.take().ok_or("it has no output")?;
    // A grandchild may hold the pipe open for longer than the command lives, so no one waits for its end.
    let (told, said) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = told.send(output.take(SEAL_KEY_BYTES_MAX).read_to_string(&mut text).map(|_| text));
    });
    let ended = wait(&mut child, patience);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended?;
    if !status.success() {
        return Err(format!("it failed with {status}"));
    }
    let unread = |why: &dyn fmt::Display| format!("its output cannot be read: {why}");
    said.recv_timeout(patience).map_err(|error| unread(&error))?.map_err(|error| unread(&error))
}

fn wait(child: &mut Child, patience: Duration) -> Result<std::process::ExitStatus, String> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if waited >= patience => return Err(format!("it did not end within {patience:?}")),
            Ok(None) => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(error.to_string()),
        }
        waited += LOOK_EVERY;
    }
}

/// Makes the file as a whole: neither a crash nor a full disk leaves a part of a key, and a key that is there stays.
fn make_file(path: &Path, key: &SealKey) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = write_partial(path, std::slice::from_ref(key))?;
    fs::hard_link(&partial, path)?;
    fs::remove_file(&partial)?;
    sync_parent(path)
}

fn write_partial(path: &Path, keys: &[SealKey]) -> std::io::Result<PathBuf> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    for key in keys {
        writeln!(file, "{WORD} {}", hex(key.secret.bytes()))?;
    }
    file.sync_all()?;
    Ok(partial)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(keys: &[SealKey]) -> Vec<String> {
        keys.iter().map(|key| key.id.to_string()).collect()
    }

    fn words(words: &[&str]) -> SealKeySource {
        SealKeySource::Command(words.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn a_key_file_is_made_as_a_whole_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/seal.key");
        fs::create_dir(dir.path().join("keys")).unwrap();
        // What a start left that was cut short while it wrote.
        fs::write(dir.path().join("keys/seal.key.partial"), "enginehouse").unwrap();
        let source = SealKeySource::File(path.clone());
        let made = ids(&source.read().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ids(&source.read().unwrap()), made);
        assert!(make_file(&path, &SealKey::new([7; 32])).is_err());
        assert_eq!(ids(&source.read().unwrap()), made);
    }

    #[test]
    fn keys_are_read_from_commands_and_what_goes_wrong_is_said_without_the_key() {
        let digits = "5a".repeat(32);
        let one =
            words(&["/bin/sh", "-c", &format!("echo; echo '# new'; echo {digits}; echo {WORD} {digits}")]);
        assert_eq!(ids(&one.read().unwrap()), ids(&[SealKey::new([0x5a; 32])]));
        let cases = [
            (words(&["/bin/sh", "-c", &format!("echo {digits}0")]), "64 hexadecimal digits"),
            (words(&["/bin/sh", "-c", &format!("echo {digits}; exit 3")]), "exit status: 3"),
            (words(&["/nowhere/at/all"]), "cannot be started"),
            (SealKeySource::Env("ENGINEHOUSE_TEST_NOT_SET".to_owned()), "not set"),
        ];
        for (source, expected) in cases {
            let said = source.read().err().unwrap().to_string();
            assert!(said.contains(expected) && !said.contains(&digits), "{said}");
        }
        let slow = run(&["/bin/sleep".to_owned(), "30".to_owned()], Duration::from_millis(50));
        assert!(slow.unwrap_err().contains("did not end"));
    }
}
