//! Keys and their names. A key is wiped when it is no longer needed, and only its name is ever shown.

use super::hex::{hex, unhex};
use aws_lc_rs::{digest, rand};
use secrecy::{ExposeSecret, SecretBox};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The name of a key, safe to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyId(pub(crate) [u8; 4]);

impl KeyId {
    /// What stands for a key where there is none.
    pub(super) const NONE: KeyId = KeyId([0; 4]);

    pub(crate) fn parse(text: &str) -> Option<KeyId> {
        unhex(text).and_then(|bytes| bytes.try_into().ok()).map(KeyId)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The bytes of a key. They are wiped when they are no longer needed, and nothing prints them.
#[derive(Clone)]
pub(crate) struct Secret(Arc<SecretBox<[u8; 32]>>);

impl Secret {
    pub(super) fn new(bytes: [u8; 32]) -> Secret {
        Secret(Arc::new(SecretBox::new(Box::new(bytes))))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}

/// As hexadecimal digits; only a ring that is about to be sealed is written.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(self.bytes()))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        let bytes = unhex(&String::deserialize(from)?).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Secret::new).ok_or_else(|| D::Error::custom("no secret"))
    }
}

/// The key that seals the key ring, and nothing else.
pub(crate) struct SealKey {
    pub(crate) id: KeyId,
    pub(super) secret: Secret,
}

impl SealKey {
    pub(crate) fn new(secret: [u8; 32]) -> SealKey {
        let mut id = [0; 4];
        id.copy_from_slice(&digest::digest(&digest::SHA256, &secret).as_ref()[..4]);
        SealKey { id: KeyId(id), secret: Secret::new(secret) }
    }
}

pub(crate) fn fresh_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    rand::fill(&mut secret).expect("the system gives random numbers");
    secret
}

pub(super) fn fresh_id() -> KeyId {
    let mut id = [0; 4];
    rand::fill(&mut id).expect("the system gives random numbers");
    KeyId(id)
}
