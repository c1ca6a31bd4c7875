//! The bytes of one sealed payload: a header that tells how to read it, then the payload.
//!
//! ```text
//! at  bytes  what
//!  0    2    "EH"
//!  2    1    version: 2
//!  3    1    algorithm: 0 none, 1 AES-256-GCM with a key of its own for each record
//!  4    1    form: 0 as it is, 1 zstd (before encryption), 2 a manifest, which tells where the payload lies
//!  5    4    data key; zeros without encryption
//!  9   24    nonce: random, only with encryption
//! 33         the payload; with encryption 16 bytes of tag behind it
//! ```
//!
//! A record's key is HKDF-SHA256 of the data key, expanded with [`RECORD`] and the whole nonce; the cipher's own nonce is
//! the last twelve bytes of it. Header, execution key and column are bound to the ciphertext as additional data, so a
//! payload moved to another row or column does not open.
//!
//! Version 1, `1 | compression | key (4) | nonce (12) | ciphertext and tag`, used one key for all records. It is read and
//! no longer written.

use super::column::{BLOB_NAME, Column};
use super::error::SealError;
use super::keys::KeyId;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use enginehouse_core::id::Key;
use enginehouse_store::Sealed;
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

const MAGIC: [u8; 2] = *b"EH";
const VERSION: u8 = 2;
const PLAIN: u8 = 0;
const AES: u8 = 1;
const BARE: u8 = 0;
const ZSTD: u8 = 1;
const MANIFEST: u8 = 2;
const FIXED: usize = 9;
pub(super) const NONCE: usize = 24;
const CIPHER_NONCE: usize = 12;
const TAG: usize = 16;
/// What the key of a record is expanded with, before its nonce.
const RECORD: &[u8] = b"enginehouse record v2";

const OLD_VERSION: u8 = 1;
const OLD_HEADER: usize = 6;

/// Below this compression costs more than it saves.
const COMPRESS_FROM: usize = 512;
const LEVEL: i32 = 1;

/// A data key, made ready for use.
pub(super) struct DataKey {
    id: KeyId,
    records: hkdf::Prk,
    /// The key as version 1 used it.
    old: LessSafeKey,
}

impl DataKey {
    pub(super) fn new(id: KeyId, secret: &[u8; 32]) -> DataKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"enginehouse data key");
        let old = UnboundKey::new(&AES_256_GCM, secret).expect("32 bytes are an AES-256 key");
        DataKey { id, records: salt.extract(secret), old: LessSafeKey::new(old) }
    }

    fn of_record(&self, nonce: &[u8; NONCE]) -> LessSafeKey {
        let info = [RECORD, nonce.as_slice()];
        let key = self.records.expand(&info, &AES_256_GCM).expect("one block is within the limit of HKDF");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

/// What a record says of itself without being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// Sealed with this data key, in the layout of this version.
    Sealed { version: u8, key: KeyId },
    /// Not encrypted.
    Plain,
    /// Neither; damaged, or written by a newer program.
    Unknown,
}

impl Head {
    /// Reads the first bytes of a record.
    pub(crate) fn read(bytes: &[u8]) -> Head {
        let key = |at: usize| bytes.get(at..at + 4).and_then(|id| <[u8; 4]>::try_from(id).ok()).map(KeyId);
        match bytes {
            [0x45, 0x48, VERSION, PLAIN, ..] => Head::Plain,
            [0x45, 0x48, VERSION, AES, ..] => {
                key(5).map_or(Head::Unknown, |key| Head::Sealed { version: VERSION, key })
            }
            [OLD_VERSION, ..] => {
                key(2).map_or(Head::Unknown, |key| Head::Sealed { version: OLD_VERSION, key })
            }
            _ => Head::Unknown,
        }
    }
}

thread_local! {
    /// Making a context costs more than compressing a small payload with it, so each thread keeps its own.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// Whether this record tells where the payload lies, and is not the payload.
pub(crate) fn is_manifest(sealed: &[u8]) -> bool {
    sealed.len() >= FIXED && sealed[..2] == MAGIC && sealed[2] == VERSION && sealed[4] == MANIFEST
}

/// The payload as it is sealed, and its form.
fn pack(column: Column, plain: &[u8], compress: bool) -> (u8, Option<Vec<u8>>) {
    if column == Column::Manifest {
        return (MANIFEST, None);
    }
    let packed = (compress && plain.len() >= COMPRESS_FROM)
        .then(|| COMPRESSOR.with_borrow_mut(|with| with.as_mut()?.compress(plain).ok()))
        .flatten()
        .filter(|packed| packed.len() < plain.len());
    (if packed.is_some() { ZSTD } else { BARE }, packed)
}

pub(super) fn seal(
    key: &DataKey,
    row: Key,
    column: Column,
    plain: &[u8],
    compress: bool,
    nonce: [u8; NONCE],
) -> Sealed {
    let (form, packed) = pack(column, plain, compress);
    let body = packed.as_deref().unwrap_or(plain);
    let mut out = Vec::with_capacity(FIXED + NONCE + body.len() + TAG);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, AES, form]);
    out.extend_from_slice(&key.id.0);
    out.extend_from_slice(&nonce);
    let bound = additional(&out, row, column);
    out.extend_from_slice(body);
    let sealed = key.of_record(&nonce).seal_in_place_separate_tag(
        cipher_nonce(&nonce),
        Aad::from(bound),
        &mut out[FIXED + NONCE..],
    );
    out.extend_from_slice(sealed.expect("a payload is far below the cipher's limit").as_ref());
    out.into()
}

/// A record that is not encrypted.
pub(super) fn plain(column: Column, body: &[u8], compress: bool) -> Sealed {
    let (form, packed) = pack(column, body, compress);
    let mut out = Vec::with_capacity(FIXED + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, PLAIN, form, 0, 0, 0, 0]);
    out.extend_from_slice(packed.as_deref().unwrap_or(body));
    out.into()
}

/// The payload again; refuses to unpack beyond `bytes_max`. `key` finds data keys.
pub(super) fn open<'a>(
    key: impl Fn(KeyId) -> Option<&'a DataKey>,
    row: Key,
    column: Column,
    sealed: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, SealError> {
    let find = |id: KeyId| key(id).ok_or(SealError::MissingKey(id));
    match Head::read(sealed) {
        Head::Sealed { version: OLD_VERSION, key } => open_old(find(key)?, row, column, sealed, bytes_max),
        Head::Sealed { key, .. } => open_sealed(find(key)?, row, column, sealed, bytes_max),
        Head::Plain if sealed.len() >= FIXED => {
            unpack(sealed[4], column, sealed[FIXED..].to_vec(), bytes_max)
        }
        _ => Err(SealError::Unknown),
    }
}

fn open_sealed(
    key: &DataKey,
    row: Key,
    column: Column,
    sealed: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, SealError> {
    let damaged = || SealError::Damaged(key.id);
    let (header, body) = sealed.split_at_checked(FIXED + NONCE).ok_or_else(damaged)?;
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&header[FIXED..]);
    let mut body = body.to_vec();
    let bound = Aad::from(additional(header, row, column));
    let opened = key.of_record(&nonce).open_in_place(cipher_nonce(&nonce), bound, &mut body);
    let length = opened.map_err(|_| damaged())?.len();
    body.truncate(length);
    unpack(sealed[4], column, body, bytes_max)
}

fn open_old(
    key: &DataKey,
    row: Key,
    column: Column,
    sealed: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, SealError> {
    let damaged = || SealError::Damaged(key.id);
    let (header, body) = sealed.split_at_checked(OLD_HEADER + CIPHER_NONCE).ok_or_else(damaged)?;
    let (header, nonce) = header.split_at(OLD_HEADER);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
    let mut body = body.to_vec();
    let bound = Aad::from(additional(header, row, column));
    let length = key.old.open_in_place(nonce, bound, &mut body).map_err(|_| damaged())?.len();
    body.truncate(length);
    unpack(sealed[1], column, body, bytes_max)
}

fn unpack(form: u8, column: Column, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, SealError> {
    match form {
        _ if (form == MANIFEST) != (column == Column::Manifest) => Err(SealError::Unknown),
        BARE | MANIFEST if body.len() <= bytes_max => Ok(body),
        BARE | MANIFEST => Err(SealError::TooLarge(bytes_max)),
        // The room for the output is never more than the limit, whatever the frame says of itself.
        ZSTD => DECOMPRESSOR
            .with_borrow_mut(|with| with.as_mut()?.decompress(&body, bytes_max).ok())
            .ok_or(SealError::TooLarge(bytes_max)),
        _ => Err(SealError::Unknown),
    }
}

fn cipher_nonce(nonce: &[u8; NONCE]) -> Nonce {
    Nonce::try_assume_unique_for_key(&nonce[NONCE - CIPHER_NONCE..]).expect("twelve bytes")
}

/// The header, the execution's key, and the column.
fn additional(header: &[u8], row: Key, column: Column) -> Vec<u8> {
    let mut bound = Vec::with_capacity(header.len() + 9 + BLOB_NAME + 4);
    bound.extend_from_slice(header);
    bound.extend_from_slice(&row.0.to_be_bytes());
    column.bind(&mut bound);
    bound
}
