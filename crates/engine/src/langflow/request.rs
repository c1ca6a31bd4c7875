//! What an execution's parameters become for a flow.

use crate::contract::{Call, EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::engine_key;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The parts of a request a flow takes.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) value: Cow<'a, str>,
    pub(super) tweaks: Option<&'a RawValue>,
    pub(super) globals: Option<&'a RawValue>,
}

impl<'a> Input<'a> {
    /// `input_value` is `parameters.input` (a string as it is, other JSON as text), else all of the parameters as JSON
    /// text. `tweaks` and `globals` have a meaning of their own only where they are allowed: there they are taken out.
    /// Beside an `input` they are refused where they are not allowed, because nothing would be left of them.
    pub(super) fn read(
        parameters: &'a [u8],
        tweaks: bool,
        globals: bool,
    ) -> Result<Input<'a>, EngineFailure> {
        let invalid = |message: String| refuse("invalid_parameters", message);
        let raw: &RawValue =
            serde_json::from_slice(parameters).map_err(|error| invalid(error.to_string()))?;
        if !raw.get().starts_with('{') {
            return Ok(Input { value: as_text(raw)?, tweaks: None, globals: None });
        }
        let mut fields: BTreeMap<String, &'a RawValue> =
            serde_json::from_slice(parameters).map_err(|error| invalid(error.to_string()))?;
        let has_input = fields.contains_key("input");
        let mut taken = [None, None];
        for (slot, (name, allowed)) in taken.iter_mut().zip([("tweaks", tweaks), ("globals", globals)]) {
            if allowed {
                *slot = fields.remove(name);
                if slot.is_some_and(|value| !value.get().starts_with('{')) {
                    return Err(invalid(format!("parameters.{name} must be an object")));
                }
            } else if has_input && fields.contains_key(name) {
                let message = format!("this engine takes no parameters.{name} (allow_{name})");
                return Err(refuse(&format!("{name}_not_allowed"), message));
            }
        }
        let value = match fields.get("input") {
            Some(input) => as_text(input)?,
            None if taken.iter().all(Option::is_none) => Cow::Borrowed(raw.get()),
            None => Cow::Owned(serde_json::to_string(&fields).map_err(|error| invalid(error.to_string()))?),
        };
        let [tweaks, globals] = taken;
        Ok(Input { value, tweaks, globals })
    }
}

/// The caller's session, else one of this engine run's own: a retry after a failure must not find the messages of the
/// failed run in its memory.
pub(super) fn session_of(call: &Call) -> &str {
    match &call.session_id {
        Some(session) => session,
        None if call.idempotency_key == engine_key(&call.execution_id, 1) => &call.execution_id,
        None => &call.idempotency_key,
    }
}

fn as_text(value: &RawValue) -> Result<Cow<'_, str>, EngineFailure> {
    let text = value.get();
    if text == "null" {
        return Ok(Cow::Borrowed(""));
    }
    if !text.starts_with('"') {
        return Ok(Cow::Borrowed(text));
    }
    serde_json::from_str::<String>(text)
        .map(Cow::Owned)
        .map_err(|error| refuse("invalid_parameters", error.to_string()))
}

fn refuse(code: &str, message: String) -> EngineFailure {
    EngineFailure::new(FailureKind::InvalidRequest, code, message).with_reached(Reached::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &str, tweaks: bool, globals: bool) -> Result<String, String> {
        let input = Input::read(parameters.as_bytes(), tweaks, globals).map_err(|failure| failure.code)?;
        let part = |name, value: Option<&RawValue>| value.map(|v| format!(" {name}={v}")).unwrap_or_default();
        Ok(format!("{}{}{}", input.value, part("tweaks", input.tweaks), part("globals", input.globals)))
    }

    #[test]
    fn parameters_become_one_text() {
        for (parameters, value) in [
            (r#"{"input":"hi"}"#, "hi"),
            (r#"{"input":"a\nb"}"#, "a\nb"),
            (r#"{"input":{"n":1.50}}"#, r#"{"n":1.50}"#),
            (r#"{"input":7}"#, "7"),
            (r#"{"input":null}"#, ""),
            (r#"{"message":"hi","b":1}"#, r#"{"message":"hi","b":1}"#),
            ("null", ""),
            ("\"text\"", "text"),
            ("[1,2]", "[1,2]"),
        ] {
            assert_eq!(read(parameters, false, false), Ok(value.to_owned()), "{parameters}");
        }
    }

    #[test]
    fn tweaks_and_globals_count_only_where_they_are_allowed() {
        let both = r#"{"input":"x","tweaks":{"C":{"f":1}},"globals":{"G":"v"}}"#;
        assert_eq!(read(both, true, true), Ok(r#"x tweaks={"C":{"f":1}} globals={"G":"v"}"#.to_owned()));
        assert_eq!(read(both, false, true), Err("tweaks_not_allowed".to_owned()));
        assert_eq!(read(both, true, false), Err("globals_not_allowed".to_owned()));
        assert_eq!(read(r#"{"a":1,"tweaks":{}}"#, true, false), Ok(r#"{"a":1} tweaks={}"#.to_owned()));
        assert_eq!(read(r#"{"a":1,"tweaks":{}}"#, false, false), Ok(r#"{"a":1,"tweaks":{}}"#.to_owned()));
        assert_eq!(read(r#"{"input":"x","tweaks":"y"}"#, true, false), Err("invalid_parameters".to_owned()));
        assert_eq!(read("{", false, false), Err("invalid_parameters".to_owned()));
    }
}
