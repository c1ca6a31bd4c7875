//! Showing which service answers, to who shares a secret with it and will not send a key to another one.
//!
//! Anyone who asks makes up a challenge; the answer is its keyed hash. What is shown for one challenge opens nothing for the next, so
//! a program that takes over the port of a service that is gone cannot pass for it.

use aws_lc_rs::{hmac, rand};
use std::fmt::Write;

/// What a challenge may be, in characters.
pub(crate) const CHALLENGE_CHARS: std::ops::RangeInclusive<usize> = 16..=128;
/// Keeps these hashes apart from any other use of a key.
const PURPOSE: &[u8] = b"enginehouse identity\n";
const SECRET_BYTES: usize = 32;

/// The secret of one run of a service.
#[derive(Clone)]
pub struct Identity {
    key: hmac::Key,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// A new one, and its secret for those who may know it; `None` when the system gives no random bytes.
    #[must_use]
    pub fn new() -> Option<(Identity, String)> {
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret).ok()?;
        Some((Identity { key: hmac::Key::new(hmac::HMAC_SHA256, &secret) }, hex(&secret)))
    }

    /// The one that a secret belongs to; `None` for what is no secret.
    #[must_use]
    pub fn of(secret: &str) -> Option<Identity> {
        let bytes = unhex(secret)?;
        (bytes.len() == SECRET_BYTES).then(|| Identity { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// Something no one can foresee, to be answered; `None` when the system gives no random bytes.
    #[must_use]
    pub fn challenge() -> Option<String> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok()?;
        Some(hex(&bytes))
    }

    /// The answer to a challenge.
    #[must_use]
    pub fn proof(&self, challenge: &str) -> String {
        hex(hmac::sign(&self.key, &told(challenge)).as_ref())
    }

    /// Whether `proof` answers the challenge.
    #[must_use]
    pub fn is_proof(&self, challenge: &str, proof: &str) -> bool {
        unhex(proof).is_some_and(|proof| hmac::verify(&self.key, &told(challenge), &proof).is_ok())
    }
}

fn told(challenge: &str) -> Vec<u8> {
    [PURPOSE, challenge.as_bytes()].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_answers_one_challenge_of_one_service() {
        let (service, secret) = Identity::new().expect("random bytes");
        let caller = Identity::of(&secret).expect("a secret");
        let challenge = Identity::challenge().expect("random bytes");
        assert!(CHALLENGE_CHARS.contains(&challenge.len()));
        let proof = service.proof(&challenge);
        assert!(caller.is_proof(&challenge, &proof));
        let (another, _) = Identity::new().expect("random bytes");
        for (challenge, proof) in [
            (&challenge, &another.proof(&challenge)),
            (&challenge, &String::new()),
            (&challenge, &"xx".to_owned()),
            (&challenge, &challenge),
            (&Identity::challenge().expect("random bytes"), &proof),
        ] {
            assert!(!caller.is_proof(challenge, proof), "{proof}");
        }
        for no_secret in ["", "abc", "zz", &secret[2..], &format!("{secret}00")] {
            assert!(Identity::of(no_secret).is_none(), "{no_secret}");
        }
    }
}
