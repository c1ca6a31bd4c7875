//! Secrets are named, never written: the configuration holds where a secret is, and only reading it gives the value.

use super::types::{FilePath, Leaf, brief, leaves};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use std::io::Read;

/// The largest secret file read.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Words in a header's name that tell that its value is a secret.
const TELLING: [&str; 6] = ["authorization", "cookie", "key", "token", "secret", "password"];

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file; white space at its end does not count.
    File(FilePath),
}

impl Secret {
    /// Where the secret is, in one word: `env:NAME` or `file:PATH`.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Secret::Env(name) => format!("env:{name}"),
            Secret::File(path) => format!("file:{}", path.0.display()),
        }
    }

    /// Where the secret is, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Secret::Env(name) => format!("the environment variable {name}"),
            Secret::File(path) => format!("the file {}", path.expanded().display()),
        }
    }

    /// The value. The error names the place, never the value.
    pub fn read(&self) -> Result<SecretString, String> {
        let place = self.words();
        let text = match self {
            Secret::Env(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => "is not set".to_owned(),
                std::env::VarError::NotUnicode(_) => "is not UTF-8".to_owned(),
            }),
            Secret::File(path) => {
                let mut bytes = Vec::new();
                let read = std::fs::File::open(path.expanded())
                    .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes));
                let read = read.map_err(|error| format!("cannot be read: {error}"));
                read.and_then(|_| crate::plain_text::decode(bytes))
            }
        };
        let text = text.map_err(|why| format!("the secret's place, {place}, {why}"))?;
        match text.trim_end() {
            "" => Err(format!("the secret's place, {place}, is empty")),
            text => Ok(SecretString::from(text)),
        }
    }
}

impl Leaf for Secret {
    fn kind() -> String {
        "secret: `{ env = \"NAME\" }` or `{ file = \"PATH\" }`".to_owned()
    }

    // What was written is never repeated in the error: it may be the secret itself.
    fn parse(value: &Value) -> Result<Self, String> {
        const HOW: &str = "write { env = \"NAME\" } or { file = \"PATH\" }";
        let Value::Object(table) = value else {
            return Err(format!("a secret is not written into the configuration; {HOW}"));
        };
        match (table.len(), table.get("env"), table.get("file")) {
            (1, Some(Value::String(name)), None) if is_variable(name) => Ok(Secret::Env(name.clone())),
            (1, Some(_), None) => Err("env takes the name of an environment variable".to_owned()),
            (1, None, Some(path)) => {
                FilePath::parse(path).map(Secret::File).map_err(|_| "file takes a path".to_owned())
            }
            _ => Err(format!("names no place; {HOW}")),
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.as_bytes()[0].is_ascii_digit()
}

/// A text that may be written, or the place of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Private {
    Written(String),
    Named(Secret),
}

impl Private {
    /// The value of the header or variable `name`, with `read` for one that is elsewhere; refuses a literal where the name
    /// says that it is a secret.
    pub fn value(
        &self,
        name: &str,
        read: impl FnOnce(&Secret) -> Result<SecretString, String>,
    ) -> Result<SecretString, String> {
        match self {
            Private::Named(secret) => read(secret),
            Private::Written(_) if tells(name) => Err(format!(
                "the value of {name} looks like a secret, and a secret is not written into the configuration; write \
                 {{ env = \"NAME\" }} or {{ file = \"PATH\" }}"
            )),
            Private::Written(text) => Ok(SecretString::from(text.as_str())),
        }
    }
}

fn tells(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING.iter().any(|word| name.contains(word))
}

impl Leaf for Private {
    fn kind() -> String {
        "text, or `{ env = \"NAME\" }`, or `{ file = \"PATH\" }`".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Private::Written(text.clone())),
            Value::Object(_) => Secret::parse(value).map(Private::Named),
            other => Err(format!("must be text or the place of a secret, not {}", brief(other))),
        }
    }
}

leaves!(Secret, Private);
