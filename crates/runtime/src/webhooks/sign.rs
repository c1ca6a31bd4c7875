//! Signatures of the Standard Webhooks specification (<https://www.standardwebhooks.com>), version 1: HMAC-SHA256 over
//! `id.timestamp.body`.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The value of `webhook-signature`: one signature for each key, so that a receiver may know either.
pub(crate) fn signatures(keys: &[hmac::Key], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let one = |key: &hmac::Key| format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed)));
    keys.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::settings::key_of;

    #[test]
    fn secrets_are_checked_and_each_key_signs() {
        let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        assert!(key_of(&secret(24)).is_ok() && key_of(&secret(64)).is_ok());
        for bad in [secret(23), secret(65), secret(24)[6..].to_owned(), "whsec_???".to_owned(), String::new()]
        {
            assert!(key_of(&bad).is_err(), "{bad}");
        }
        let keys = [key_of(&secret(24)).unwrap(), key_of(&secret(32)).unwrap()];
        let both = signatures(&keys, "msg_1", 1_700_000_000, b"{}");
        let parts: Vec<&str> = both.split(' ').collect();
        assert!(
            parts.len() == 2 && parts.iter().all(|part| part.starts_with("v1,") && part.len() == 47),
            "{both}"
        );
        assert_ne!(parts[0], parts[1]);
        assert_ne!(both, signatures(&keys, "msg_1", 1_700_000_001, b"{}"));
    }
}
