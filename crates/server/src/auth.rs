//! Who asks: API keys, and the rule of `no_auth`.

use crate::cors::Origins;
use crate::same_origin;
use aws_lc_rs::hmac;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::limits::{CALLER_REMEMBERED_FOR, CALLERS_REMEMBERED_MAX, SECRET_CHARS_MAX};
use enginehouse_runtime::{Caller, Scope, Service};
use http::header::AUTHORIZATION;
use http::request::Parts;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Turns a request into its caller.
pub(crate) struct Authenticator {
    no_auth: bool,
    /// Web pages that may call without authentication, too.
    origins: Arc<Origins>,
    /// Callers are remembered by a keyed hash of their secret: the map holds no secret, and how long a look-up takes
    /// says nothing about one.
    hash_key: hmac::Key,
    remembered: Mutex<HashMap<[u8; 32], (Caller, Instant)>>,
}

impl Authenticator {
    pub(crate) fn new(no_auth: bool, hash_key: &[u8; 32], origins: Arc<Origins>) -> Authenticator {
        let hash_key = hmac::Key::new(hmac::HMAC_SHA256, hash_key);
        Authenticator { no_auth, origins, hash_key, remembered: Mutex::new(HashMap::new()) }
    }

    /// The caller, if it may do what needs `scope`.
    pub(crate) async fn caller(
        &self,
        service: &Service,
        parts: &Parts,
        scope: Scope,
    ) -> Result<Caller, ApiError> {
        if self.no_auth {
            same_origin::check(parts, &self.origins)?;
            return Ok(Caller::local());
        }
        let caller = self.holder(service, secret(parts)?).await?;
        if caller.may(scope) {
            return Ok(caller);
        }
        Err(ApiError::new(Code::Forbidden, format!("the API key lacks the scope {scope}")))
    }

    async fn holder(&self, service: &Service, secret: &str) -> Result<Caller, ApiError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.hash_key, secret.as_bytes()).as_ref());
        if let Some((caller, until)) = self.remembered.lock().get(&hash)
            && *until > Instant::now()
        {
            return Ok(caller.clone());
        }
        let found = service.authenticate(secret).await?;
        let caller = found.ok_or_else(|| unauthorized("the API key is unknown or has expired"))?;
        // A worker's token is good as long as its session, and no moment longer.
        if caller.worker.is_none() {
            self.remember(hash, caller.clone());
        }
        Ok(caller)
    }

    fn remember(&self, hash: [u8; 32], caller: Caller) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= CALLERS_REMEMBERED_MAX {
            remembered.retain(|_, (_, until)| *until > now);
        }
        if remembered.len() >= CALLERS_REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(hash, (caller, now + Duration::from_millis(CALLER_REMEMBERED_FOR)));
    }

    /// A key was deleted: no one is taken on trust any more.
    pub(crate) fn forget(&self) {
        self.remembered.lock().clear();
    }
}

/// The secret of `Authorization: Bearer`.
fn secret(parts: &Parts) -> Result<&str, ApiError> {
    let mut given = parts.headers.get_all(AUTHORIZATION).iter();
    let value = given.next().ok_or_else(|| unauthorized("the request carries no API key"))?;
    let secret = value.to_str().ok().and_then(|text| {
        let (scheme, secret) = text.split_once(' ')?;
        let secret = secret.trim_matches(' ');
        let good = scheme.eq_ignore_ascii_case("bearer")
            && (1..=SECRET_CHARS_MAX).contains(&secret.len())
            && secret.bytes().all(|b| b.is_ascii_graphic());
        good.then_some(secret)
    });
    match secret {
        Some(secret) if given.next().is_none() => Ok(secret),
        _ => Err(unauthorized("the Authorization header is not of the form: Bearer KEY")),
    }
}

fn unauthorized(detail: &str) -> ApiError {
    ApiError::new(Code::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn only_one_bearer_secret_is_taken() {
        for (header, found) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("BEARER a.b-c_d~e+f/g=", Some("a.b-c_d~e+f/g=")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("Bearer a b", None),
            ("abc", None),
        ] {
            let request = Request::builder().header(AUTHORIZATION, header).body(()).expect("a request");
            assert_eq!(secret(&request.into_parts().0).ok(), found, "{header}");
        }
        let twice = Request::builder().header(AUTHORIZATION, "Bearer a").header(AUTHORIZATION, "Bearer a");
        assert!(secret(&twice.body(()).expect("a request").into_parts().0).is_err());
        let none = Request::builder().body(()).expect("a request").into_parts().0;
        assert_eq!(secret(&none).expect_err("no key").code, Code::Unauthorized);
    }
}
