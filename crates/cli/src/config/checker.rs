//! What sections check their values with: it reads secrets and collects every fault with its place.

use super::secret::{Private, Secret};
use super::tree::{Fault, Tree};
use secrecy::SecretString;
use std::collections::BTreeMap;
use url::Url;

/// Values of secrets by their places, `env:NAME` or `file:PATH`.
pub type SecretValues = BTreeMap<String, SecretString>;

/// How much of the world is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Every secret must be there.
    Read,
    /// Secrets are not looked for; what comes out can be shown, not run.
    Skip,
}

/// Collects faults with their places. A path is that of a key, joined by `/`.
pub(super) struct Checker<'a> {
    tree: &'a Tree,
    secrets: Secrets,
    /// What stands for the secrets' places; only these are looked into. `None`: the places themselves.
    given: Option<&'a SecretValues>,
    /// The secrets that were read, by their places.
    found: SecretValues,
    faults: Vec<Fault>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(tree: &'a Tree, secrets: Secrets, given: Option<&'a SecretValues>) -> Checker<'a> {
        Checker { tree, secrets, given, found: BTreeMap::new(), faults: Vec::new() }
    }

    pub(super) fn fault(&mut self, path: &str, message: impl Into<String>) {
        let fault = self.tree.fault(path, message);
        self.faults.push(fault);
    }

    pub(super) fn require(&mut self, holds: bool, path: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.fault(path, message());
        }
    }

    /// The value of a secret; one that cannot be read is a fault.
    pub(super) fn read(&mut self, secret: &Secret, path: &str) -> Option<SecretString> {
        self.secret(secret).map_err(|message| self.fault(path, message)).ok()
    }

    /// The value of the header or variable `name`.
    pub(super) fn read_private(&mut self, name: &str, value: &Private, path: &str) -> Option<SecretString> {
        value.value(name, |secret| self.secret(secret)).map_err(|message| self.fault(path, message)).ok()
    }

    /// The values of headers or variables by their names; `path` is that of their table.
    pub(super) fn read_all(
        &mut self,
        values: &BTreeMap<String, Private>,
        path: &str,
    ) -> Vec<(String, SecretString)> {
        let mut found = Vec::new();
        for (name, value) in values {
            let read = self.read_private(name, value, &format!("{path}/{name}"));
            found.extend(read.map(|value| (name.clone(), value)));
        }
        found
    }

    /// The value of a secret; the error names its place.
    fn secret(&mut self, secret: &Secret) -> Result<SecretString, String> {
        if self.secrets == Secrets::Skip {
            return Ok(SecretString::from("not-read"));
        }
        let place = secret.place();
        let value = match self.given {
            Some(given) => given.get(&place).cloned().ok_or_else(|| format!("{place} was not given")),
            None => secret.read(),
        }?;
        self.found.insert(place, value.clone());
        Ok(value)
    }

    /// The secrets that were read, or everything that is wrong.
    pub(super) fn finish(self) -> Result<SecretValues, Vec<Fault>> {
        if self.faults.is_empty() { Ok(self.found) } else { Err(self.faults) }
    }
}

/// Whether a name of the operator's own choice is 1 to `most` of `a-z A-Z 0-9 . _ -`.
pub(super) fn is_name(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether it is an address that a path may be put behind.
pub(super) fn is_base(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}
