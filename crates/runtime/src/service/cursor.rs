//! List cursors: a position bound to its filters, so that it cannot be used with others by mistake.

use crate::state::context::Context;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::id::Key;
use enginehouse_store::Filter;

/// `{key}-{check}` in hexadecimal; the check binds the key to the filter and to this store.
pub(super) fn encode(cx: &Context, filter: &Filter, last: Key) -> String {
    format!("{:x}-{}", last.0, check(cx, filter, last))
}

pub(super) fn decode(cx: &Context, filter: &Filter, cursor: Option<&str>) -> Result<Option<Key>, ApiError> {
    let Some(text) = cursor else { return Ok(None) };
    let wrong = || {
        ApiError::field(Code::InvalidCursor, "?cursor", "it does not belong to this list and these filters")
    };
    let (key, given) = text.split_once('-').ok_or_else(wrong)?;
    let key = Key(i64::from_str_radix(key, 16).map_err(|_| wrong())?);
    if check(cx, filter, key) == given { Ok(Some(key)) } else { Err(wrong()) }
}

fn check(cx: &Context, filter: &Filter, key: Key) -> String {
    let filter = serde_json::to_string(filter).unwrap_or_default();
    cx.payloads.sealer.name_hash(&format!("cursor:{}:{filter}", key.0))[..16].to_owned()
}
