//! Sealing: what may be compressed, then encrypted, before it reaches a store.
//!
//! A sealed payload is `version 1 | codec | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag`; the first six
//! bytes, the execution's key and the column are bound to it as additional data, so a payload moved to another row or
//! column does not open. From the same secret come the keyed hashes that let ids and requests be compared without
//! being stored.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac, rand};
use enginehouse_core::id::Key;
use enginehouse_core::lifecycle::Part;
use enginehouse_store::Sealed;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const VERSION: u8 = 1;
const HEADER: usize = 6;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Below this compression costs more than it saves.
const COMPRESS_FROM: usize = 512;
const LEVEL: i32 = 1;
const KEY_FILE_WORD: &str = "enginehouse-seal-key-v1";

/// What a sealed payload is bound to beside its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Input,
    Output,
    Logs,
    Failure,
    /// A fact an adapter keeps; it belongs to no execution.
    Fact,
}

impl From<Part> for Column {
    fn from(part: Part) -> Column {
        match part {
            Part::Input => Column::Input,
            Part::Output => Column::Output,
            Part::Logs => Column::Logs,
        }
    }
}

/// Why a payload does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("it was sealed with key {0}, which is not configured")]
    MissingKey(String),
    #[error("it was tampered with or damaged")]
    Damaged,
    #[error("it is larger than {0} bytes when opened")]
    TooLarge(usize),
    #[error("the seal key file {path} cannot be used: {why}")]
    KeyFile { path: String, why: String },
}

/// Seals and opens with one key.
pub(crate) struct Sealer {
    id: [u8; 4],
    key: LessSafeKey,
    ids: hmac::Key,
    requests: hmac::Key,
    names: hmac::Key,
    compress: bool,
}

impl Sealer {
    /// The key in `file`, made there (mode 0600) when there is none; `None`: a key that lives with the process.
    pub(crate) fn load(file: Option<&Path>) -> Result<Sealer, SealError> {
        let Some(path) = file else {
            return Ok(Sealer::new(&fresh_secret()));
        };
        let unusable = |why: String| SealError::KeyFile { path: path.display().to_string(), why };
        match fs::read_to_string(path) {
            Ok(text) => Ok(Sealer::new(&parse_key_file(&text).map_err(unusable)?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let secret = fresh_secret();
                write_key_file(path, &secret).map_err(|e| unusable(e.to_string()))?;
                Ok(Sealer::new(&secret))
            }
            Err(e) => Err(unusable(e.to_string())),
        }
    }

    pub(crate) fn new(secret: &[u8; 32]) -> Sealer {
        let derive = |label: &str| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label.as_bytes());
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        let mut id = [0; 4];
        id.copy_from_slice(&digest::digest(&digest::SHA256, secret).as_ref()[..4]);
        let key = UnboundKey::new(&AES_256_GCM, secret).expect("32 bytes are an AES-256 key");
        Sealer {
            id,
            key: LessSafeKey::new(key),
            ids: derive("ids"),
            requests: derive("requests"),
            names: derive("names"),
            compress: true,
        }
    }

    /// The name of the key, safe to show.
    pub(crate) fn key_id(&self) -> String {
        hex(&self.id)
    }

    pub(crate) fn seal(&self, row: Key, column: Column, plain: &[u8]) -> Sealed {
        let packed = (self.compress && plain.len() >= COMPRESS_FROM)
            .then(|| zstd::bulk::compress(plain, LEVEL).ok())
            .flatten()
            .filter(|packed| packed.len() < plain.len());
        let (codec, body) = packed.as_deref().map_or((0, plain), |packed| (1, packed));
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).expect("the system gives random numbers");
        let mut out = Vec::with_capacity(HEADER + NONCE + body.len() + TAG);
        out.extend_from_slice(&[VERSION, codec]);
        out.extend_from_slice(&self.id);
        let bound = additional(&out, row, column);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(body);
        let sealed = self.key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound),
            &mut out[HEADER + NONCE..],
        );
        out.extend_from_slice(sealed.expect("a payload is far below the cipher's limit").as_ref());
        out.into()
    }

    /// The payload again; refuses to unpack beyond `bytes_max`.
    pub(crate) fn open(
        &self,
        row: Key,
        column: Column,
        sealed: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, SealError> {
        if sealed.len() < HEADER + NONCE + TAG || sealed[0] != VERSION {
            return Err(SealError::Damaged);
        }
        if sealed[2..HEADER] != self.id {
            return Err(SealError::MissingKey(hex(&sealed[2..HEADER])));
        }
        let bound = additional(&sealed[..HEADER], row, column);
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&sealed[HEADER..HEADER + NONCE]);
        let mut body = sealed[HEADER + NONCE..].to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened =
            self.key.open_in_place(nonce, Aad::from(bound), &mut body).map_err(|_| SealError::Damaged)?;
        match sealed[1] {
            0 if opened.len() <= bytes_max => {
                let length = opened.len();
                body.truncate(length);
                Ok(body)
            }
            0 => Err(SealError::TooLarge(bytes_max)),
            1 => zstd::bulk::decompress(opened, bytes_max).map_err(|_| SealError::TooLarge(bytes_max)),
            _ => Err(SealError::Damaged),
        }
    }

    /// The keyed hash inside a server-made id.
    pub(crate) fn id_tag(&self, row: Key) -> u64 {
        let tag = hmac::sign(&self.ids, &row.0.to_be_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_be_bytes(first) >> (64 - enginehouse_core::id::TAG_BITS)
    }

    /// The keyed hash by which equal requests are known.
    pub(crate) fn request_hash(&self, canonical: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.requests, canonical).as_ref());
        hash
    }

    /// A name that is compared but never shown: concurrency keys, idempotency keys, secrets of API keys.
    pub(crate) fn name_hash(&self, name: &str) -> String {
        hex(&hmac::sign(&self.names, name.as_bytes()).as_ref()[..16])
    }
}

fn additional(header: &[u8], row: Key, column: Column) -> [u8; HEADER + 9] {
    let mut bound = [0; HEADER + 9];
    bound[..HEADER].copy_from_slice(&header[..HEADER]);
    bound[HEADER..HEADER + 8].copy_from_slice(&row.0.to_be_bytes());
    bound[HEADER + 8] = match column {
        Column::Input => 1,
        Column::Output => 2,
        Column::Logs => 3,
        Column::Failure => 4,
        Column::Fact => 5,
    };
    bound
}

pub(crate) fn fresh_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    rand::fill(&mut secret).expect("the system gives random numbers");
    secret
}

/// The bytes of what [`hex`] wrote.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_key_file(text: &str) -> Result<[u8; 32], String> {
    let wrong = || format!("it must hold one line: {KEY_FILE_WORD} and 64 hexadecimal digits");
    let digits =
        text.trim().strip_prefix(KEY_FILE_WORD).map(str::trim).filter(|d| d.len() == 64).ok_or_else(wrong)?;
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        let pair = digits.get(at * 2..at * 2 + 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(secret)
}

/// Makes the file as a whole: neither a crash nor a full disk leaves a part of a key, and a key that is there stays.
fn write_key_file(path: &Path, secret: &[u8; 32]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    writeln!(file, "{KEY_FILE_WORD} {}", hex(secret))?;
    file.sync_all()?;
    fs::hard_link(&partial, path)?;
    fs::remove_file(&partial)?;
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> Sealer {
        Sealer::new(&[7; 32])
    }

    #[test]
    fn payloads_come_back_and_are_not_readable_at_rest() {
        for plain in [b"".to_vec(), b"short".to_vec(), b"canary ".repeat(10_000)] {
            let sealed = sealer().seal(Key(5), Column::Output, &plain);
            assert!(!sealed.windows(6).any(|w| w == b"canary"));
            assert_eq!(sealer().open(Key(5), Column::Output, &sealed, 1 << 20), Ok(plain));
        }
    }

    #[test]
    fn any_changed_byte_another_row_column_or_key_is_refused() {
        let sealed = sealer().seal(Key(5), Column::Output, &b"payload ".repeat(100));
        for at in 0..sealed.len() {
            let mut bad = sealed.to_vec();
            bad[at] ^= 1;
            assert!(sealer().open(Key(5), Column::Output, &bad, 1 << 20).is_err(), "byte {at}");
        }
        assert_eq!(sealer().open(Key(6), Column::Output, &sealed, 1 << 20), Err(SealError::Damaged));
        assert_eq!(sealer().open(Key(5), Column::Input, &sealed, 1 << 20), Err(SealError::Damaged));
        let other = Sealer::new(&[8; 32]);
        let id = sealer().key_id();
        assert_eq!(other.open(Key(5), Column::Output, &sealed, 1 << 20), Err(SealError::MissingKey(id)));
        assert_eq!(sealer().open(Key(5), Column::Output, &sealed, 10), Err(SealError::TooLarge(10)));
    }

    #[test]
    fn hexadecimal_text_goes_both_ways() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for bad in ["0", "0g", "é0"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_file_is_made_as_a_whole_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/seal.key");
        fs::create_dir(dir.path().join("keys")).unwrap();
        // What a start left that was cut short while it wrote.
        fs::write(dir.path().join("keys/seal.key.partial"), "enginehouse").unwrap();
        let made = Sealer::load(Some(&path)).unwrap().key_id();
        assert_eq!(Sealer::load(Some(&path)).unwrap().key_id(), made);
        assert!(write_key_file(&path, &[7; 32]).is_err());
        assert_eq!(Sealer::load(Some(&path)).unwrap().key_id(), made);
    }
}
