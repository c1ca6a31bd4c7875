//! API keys: made, listed, removed, and recognised. Of a secret only a keyed hash is stored.

use super::caller::{Caller, Scope};
use super::{Service, store_error};
use crate::seal::{fresh_secret, hex};
use crate::state::planned::Planned;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use enginehouse_api::{ApiError, Code, KeyCreated, KeyRequest, KeyView, KeysAnswer, Timestamp};
use enginehouse_core::limits::NAME_BYTES_MAX;
use enginehouse_core::time::Time;
use enginehouse_store::{Doc, DocKind, Write, WriteOutcome};
use serde::{Deserialize, Serialize};

/// Begins every secret, so that a leaked one is recognised by scanners.
const PREFIX: &str = "eh_";
const KEYS_MAX: usize = 1_000;

#[derive(Debug, Serialize, Deserialize)]
struct StoredKey {
    name: String,
    scopes: Vec<String>,
    user: Option<String>,
    created_at: Time,
    expires_at: Option<Time>,
    hash: String,
}

impl Service {
    /// The caller a key's secret stands for; `None` when it is unknown or expired.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Caller>, ApiError> {
        if let Some(caller) = self.worker_of_token(secret) {
            return Ok(Some(caller));
        }
        let Some((id, _)) = secret.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else {
            return Ok(None);
        };
        let docs = self.cx.store.docs(DocKind::ApiKey).await.map_err(|e| store_error(&e))?;
        let Some(stored) = docs.iter().find(|d| d.id == id).and_then(parse) else {
            return Ok(None);
        };
        let hash = self.cx.payloads.sealer.name_hash(&format!("api-key:{secret}"));
        let matches = verify_slices_are_equal(hash.as_bytes(), stored.hash.as_bytes()).is_ok();
        if !matches || stored.expires_at.is_some_and(|at| at <= self.cx.store.now()) {
            return Ok(None);
        }
        let scopes = stored.scopes.iter().filter_map(|s| Scope::parse(s)).collect();
        Ok(Some(Caller { key_id: Some(id.to_owned()), scopes, user: stored.user, worker: None }))
    }

    pub async fn keys(&self) -> Result<KeysAnswer, ApiError> {
        let docs = self.cx.store.docs(DocKind::ApiKey).await.map_err(|e| store_error(&e))?;
        Ok(KeysAnswer { keys: docs.iter().filter_map(|d| parse(d).map(|k| view(&d.id, &k))).collect() })
    }

    /// Makes a key; its secret is in this answer and nowhere else.
    pub async fn create_key(&self, caller: &Caller, request: KeyRequest) -> Result<KeyCreated, ApiError> {
        self.create_kept_key(caller, request, |_| Ok(())).await
    }

    /// As [`create_key`](Service::create_key), but `keep` puts the secret in a safe place before the key is stored, so that
    /// no crash leaves a key that no one can use.
    pub async fn create_kept_key(
        &self,
        _caller: &Caller,
        request: KeyRequest,
        keep: impl FnOnce(&str) -> Result<(), ApiError>,
    ) -> Result<KeyCreated, ApiError> {
        let now = self.cx.store.now();
        check(&request, now)?;
        if self.keys().await?.keys.len() >= KEYS_MAX {
            return Err(ApiError::new(
                Code::InvalidField,
                format!("at most {KEYS_MAX} keys; delete one first"),
            ));
        }
        let id = hex(&fresh_secret()[..6]);
        let secret = format!("{PREFIX}{id}_{}", hex(&fresh_secret()));
        let stored = StoredKey {
            name: request.name,
            scopes: request.scopes,
            user: request.user_id,
            created_at: now,
            expires_at: request.expires_at.map(|t| t.0),
            hash: self.cx.payloads.sealer.name_hash(&format!("api-key:{secret}")),
        };
        let key = view(&id, &stored);
        let body = serde_json::to_value(&stored).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        keep(&secret)?;
        self.cx.keep(DocKind::ApiKey, &id, |_| body.clone()).await.map_err(|e| store_error(&e))?;
        Ok(KeyCreated { key, secret })
    }

    /// The key stops working at once.
    pub async fn delete_key(&self, _caller: &Caller, id: &str) -> Result<(), ApiError> {
        let docs = self.cx.store.docs(DocKind::ApiKey).await.map_err(|e| store_error(&e))?;
        let missing = || ApiError::new(Code::NotFound, format!("there is no key {id:?}"));
        let rev = docs.iter().find(|d| d.id == id).map(|d| d.rev).ok_or_else(missing)?;
        let forget = Write::Forget { kind: DocKind::ApiKey, id: id.to_owned(), rev };
        let settled =
            self.cx.writes.commit(vec![Planned::Other(forget)], 0).await.map_err(|e| store_error(&e))?;
        match settled.outcomes.into_iter().next() {
            Some(WriteOutcome::DocStale(None)) => Err(missing()),
            Some(WriteOutcome::DocStale(Some(_))) => {
                Err(ApiError::new(Code::StoreUnavailable, "the key changed; try again"))
            }
            _ => Ok(()),
        }
    }
}

fn check(request: &KeyRequest, now: Time) -> Result<(), ApiError> {
    let invalid = |pointer: &str, text: String| ApiError::field(Code::InvalidField, pointer, text);
    let name_fits =
        |text: &str| (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if !name_fits(&request.name) {
        return Err(invalid("/name", format!("1 to {NAME_BYTES_MAX} bytes without control characters")));
    }
    if request.user_id.as_deref().is_some_and(|user| !name_fits(user)) {
        return Err(invalid("/userId", format!("1 to {NAME_BYTES_MAX} bytes without control characters")));
    }
    if request.scopes.is_empty() || request.scopes.len() > Scope::ALL.len() {
        return Err(invalid("/scopes", "at least one scope, each once".to_owned()));
    }
    for (at, scope) in request.scopes.iter().enumerate() {
        if Scope::parse(scope).is_none() {
            let all: Vec<&str> = Scope::ALL.iter().map(|s| s.as_str()).collect();
            return Err(invalid(&format!("/scopes/{at}"), format!("one of: {}", all.join(", "))));
        }
    }
    if request.expires_at.is_some_and(|t| t.0 <= now) {
        return Err(invalid("/expiresAt", "a time to come".to_owned()));
    }
    Ok(())
}

fn parse(doc: &Doc) -> Option<StoredKey> {
    serde_json::from_value(doc.body.clone()).ok()
}

fn view(id: &str, key: &StoredKey) -> KeyView {
    KeyView {
        id: id.to_owned(),
        name: key.name.clone(),
        scopes: key.scopes.clone(),
        user_id: key.user.clone(),
        created_at: Timestamp(key.created_at),
        expires_at: key.expires_at.map(Timestamp),
    }
}
