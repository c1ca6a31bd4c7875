//! What a request may say of its run beside the input: `engineOptions`.

use crate::contract::{EngineFailure, INVALID_ENGINE_OPTIONS, Reached};
use enginehouse_core::failure::FailureKind;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The names of all options.
const KNOWN: [&str; 6] =
    ["config", "context", "metadata", "recursionLimit", "multitaskStrategy", "durability"];
const STRATEGIES: [&str; 4] = ["reject", "enqueue", "interrupt", "rollback"];
const DURABILITIES: [&str; 3] = ["sync", "async", "exit"];
/// Metadata by which a run is found again or its state is read.
const OWN_METADATA: [&str; 6] =
    ["execution_id", "idempotency_key", "run_id", "thread_id", "graph_id", "assistant_id"];
/// Settings of a run that follow from the request itself.
const OWN_CONFIGURABLE: [&str; 4] = ["run_id", "thread_id", "graph_id", "assistant_id"];
/// The recursion limit is a 32-bit number to the engine.
const RECURSION_MAX: u64 = i32::MAX as u64;

/// A JSON object whose values stay as they were written.
pub(super) type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The options of one request, checked.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    pub(super) config: Option<Fields<'a>>,
    pub(super) context: Option<&'a RawValue>,
    pub(super) metadata: Fields<'a>,
    /// What becomes of the run where the thread has one already; `None`: `reject`.
    pub(super) multitask_strategy: Option<String>,
    pub(super) durability: Option<String>,
}

impl<'a> Options<'a> {
    pub(super) fn read(options: Option<&'a [u8]>) -> Result<Options<'a>, EngineFailure> {
        let Some(options) = options else { return Ok(Options::default()) };
        let fields: Fields<'a> = serde_json::from_slice(options)
            .map_err(|error| refuse(format!("the options are no JSON object: {error}")))?;
        if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(refuse(format!("there is no option {unknown:?}; there are {}", KNOWN.join(", "))));
        }
        let mut config = object(&fields, "config")?;
        if let Some(config) = &config {
            check_config(config)?;
        }
        if let Some(limit) = fields.get("recursionLimit") {
            check_limit(limit, "recursionLimit")?;
            if config.get_or_insert_default().insert("recursion_limit".to_owned(), limit).is_some() {
                return Err(refuse(
                    "recursionLimit and config.recursion_limit are the same; give one of them",
                ));
            }
        }
        let context = object(&fields, "context")?;
        let configurable = config.as_ref().and_then(|config| config.get("configurable"));
        if context.is_some_and(|context| !context.is_empty()) && configurable.is_some_and(|c| c.get() != "{}")
        {
            return Err(refuse(
                "context and config.configurable are the same to the engine; give one of them",
            ));
        }
        let metadata = object(&fields, "metadata")?.unwrap_or_default();
        check_own(&metadata, "metadata", &OWN_METADATA)?;
        Ok(Options {
            config,
            context: fields.get("context").copied(),
            metadata,
            multitask_strategy: word(&fields, "multitaskStrategy", &STRATEGIES)?,
            durability: word(&fields, "durability", &DURABILITIES)?,
        })
    }
}

fn check_config(config: &Fields<'_>) -> Result<(), EngineFailure> {
    if let Some(limit) = config.get("recursion_limit") {
        check_limit(limit, "config.recursion_limit")?;
    }
    if let Some(tags) = config.get("tags")
        && serde_json::from_str::<Vec<String>>(tags.get()).is_err()
    {
        return Err(refuse("config.tags must be a list of texts"));
    }
    if let Some(configurable) = nested(config, "config", "configurable")? {
        check_own(&configurable, "config.configurable", &OWN_CONFIGURABLE)?;
        // Settings that the server makes for itself; those of the caller's identity are among them.
        let internal = |name: &&String| name.starts_with("__") || name.starts_with("langgraph_auth");
        if let Some(name) = configurable.keys().find(internal) {
            return Err(refuse(format!("config.configurable.{name} is the engine's own")));
        }
    }
    if let Some(metadata) = nested(config, "config", "metadata")? {
        check_own(&metadata, "config.metadata", &OWN_METADATA)?;
    }
    Ok(())
}

fn check_own(fields: &Fields<'_>, name: &str, own: &[&str]) -> Result<(), EngineFailure> {
    match fields.keys().find(|field| own.contains(&field.as_str())) {
        Some(field) => {
            Err(refuse(format!("{name}.{field} is set by Enginehouse or the engine and cannot be given")))
        }
        None => Ok(()),
    }
}

fn check_limit(limit: &RawValue, name: &str) -> Result<(), EngineFailure> {
    match limit.get().parse::<u64>() {
        Ok(1..=RECURSION_MAX) => Ok(()),
        _ => Err(refuse(format!("{name} must be a whole number from 1 to {RECURSION_MAX}"))),
    }
}

fn object<'a>(fields: &Fields<'a>, name: &str) -> Result<Option<Fields<'a>>, EngineFailure> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let parsed = serde_json::from_str(value.get());
    parsed.map(Some).map_err(|_| refuse(format!("{name} must be an object")))
}

fn nested<'a>(fields: &Fields<'a>, of: &str, name: &str) -> Result<Option<Fields<'a>>, EngineFailure> {
    object(fields, name).map_err(|_| refuse(format!("{of}.{name} must be an object")))
}

fn word(fields: &Fields<'_>, name: &str, words: &[&str]) -> Result<Option<String>, EngineFailure> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let word: Option<String> = serde_json::from_str(value.get()).ok();
    match word.filter(|word| words.contains(&word.as_str())) {
        Some(word) => Ok(Some(word)),
        None => Err(refuse(format!("{name} must be one of {}", words.join(", ")))),
    }
}

fn refuse(message: impl Into<String>) -> EngineFailure {
    EngineFailure::new(FailureKind::InvalidRequest, INVALID_ENGINE_OPTIONS, message).with_reached(Reached::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_as_they_are_or_refused_with_what_there_is() {
        let read = |text: &str| {
            Options::read(Some(text.as_bytes())).map(|options| format!("{options:?}")).map_err(|f| f.message)
        };
        for good in [
            "{}",
            r#"{"config":{"configurable":{"model":"m","n":1.50},"tags":["a"],"recursion_limit":7,"metadata":{"a":1}}}"#,
            r#"{"context":{"user":"u"},"config":{"tags":[]},"recursionLimit":50}"#,
            r#"{"context":{},"config":{"configurable":{"a":1}}}"#,
            r#"{"metadata":{"team":"x"},"multitaskStrategy":"enqueue","durability":"exit"}"#,
        ] {
            assert!(read(good).is_ok(), "{good}: {:?}", read(good));
        }
        for (bad, words) in [
            ("[]", "no JSON object"),
            (
                r#"{"recursion_limit":1}"#,
                "there is no option \"recursion_limit\"; there are config, context,",
            ),
            (r#"{"config":[]}"#, "config must be an object"),
            (r#"{"config":{"tags":"a"}}"#, "config.tags must be a list"),
            (r#"{"config":{"configurable":1}}"#, "config.configurable must be an object"),
            (r#"{"config":{"configurable":{"thread_id":"t"}}}"#, "config.configurable.thread_id is set by"),
            (r#"{"config":{"configurable":{"__x":1}}}"#, "the engine's own"),
            (r#"{"config":{"configurable":{"langgraph_auth_user":1}}}"#, "the engine's own"),
            (r#"{"config":{"metadata":{"run_id":1}}}"#, "config.metadata.run_id is set by"),
            (r#"{"config":{"recursion_limit":2},"recursionLimit":2}"#, "give one of them"),
            (r#"{"config":{"configurable":{"a":1}},"context":{"b":1}}"#, "give one of them"),
            (r#"{"context":1}"#, "context must be an object"),
            (r#"{"metadata":{"idempotency_key":"k"}}"#, "metadata.idempotency_key is set by"),
            (r#"{"metadata":null}"#, "metadata must be an object"),
            (r#"{"recursionLimit":0}"#, "a whole number from 1"),
            (r#"{"recursionLimit":1.5}"#, "a whole number from 1"),
            (r#"{"recursionLimit":"9"}"#, "a whole number from 1"),
            (r#"{"multitaskStrategy":"wait"}"#, "one of reject, enqueue, interrupt, rollback"),
            (r#"{"durability":true}"#, "one of sync, async, exit"),
        ] {
            let told = read(bad).unwrap_err();
            assert!(told.contains(words), "{bad}: {told}");
        }
    }
}
