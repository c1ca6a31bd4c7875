//! JSON as templates and conditions see it.
//!
//! Numbers stay what was sent: one that no number of the template language holds exactly is written as it came. A condition
//! that asks for something that is not there is told apart from one that compares with something that is.

use crate::client::check_depth;
use crate::contract::Call;
use enginehouse_core::limits::JSON_DEPTH_MAX;
use minijinja::context;
use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr, Value, ValueKind};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Levels that are followed: those of a request or a result, and some that a service wraps around it.
const DEPTH_MAX: usize = JSON_DEPTH_MAX + 16;

/// What templates of a request see.
pub(super) fn request_values(call: &Call, run_id: Option<&str>) -> Value {
    context! {
        execution_id => call.execution_id.as_str(),
        attempt => call.attempt,
        idempotency_key => call.idempotency_key.as_str(),
        workflow_id => call.workflow_id.as_str(),
        session_id => call.session_id.as_deref().unwrap_or(&call.execution_id),
        parameters => Reading::written().of_text(&call.parameters),
        run_id => run_id,
    }
}

/// What conditions and templates of an answer see; text that is not valid JSON is a text.
pub(super) struct AnswerValues {
    pub(super) values: Value,
    /// The body has fields, or items.
    pub(super) has_parts: bool,
    missed: Arc<AtomicBool>,
}

impl AnswerValues {
    /// For conditions: numbers can be compared.
    pub(super) fn compared(status: u16, body: &[u8]) -> AnswerValues {
        AnswerValues::new(status, body, Reading { exact: false, missed: Arc::default() })
    }

    /// For templates: numbers are written as they came.
    pub(super) fn written(status: u16, body: &[u8]) -> AnswerValues {
        AnswerValues::new(status, body, Reading::written())
    }

    fn new(status: u16, body: &[u8], reading: Reading) -> AnswerValues {
        let body = reading.of_text(body);
        let has_parts = matches!(body.kind(), ValueKind::Map | ValueKind::Seq);
        AnswerValues {
            values: context! { status => status, body => body },
            has_parts,
            missed: reading.missed,
        }
    }

    /// Whether a field was asked for that is not there, since this was asked last.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::Relaxed)
    }
}

/// How JSON is turned into values.
struct Reading {
    exact: bool,
    missed: Arc<AtomicBool>,
}

impl Reading {
    fn written() -> Reading {
        Reading { exact: true, missed: Arc::default() }
    }

    fn of_text(&self, text: &[u8]) -> Value {
        // What is nested too deeply to be followed is not valid JSON here.
        let is_flat = check_depth(text, DEPTH_MAX).is_ok();
        match serde_json::from_slice::<&RawValue>(text) {
            Ok(raw) if is_flat => self.of(raw),
            _ => Value::from(String::from_utf8_lossy(text).into_owned()),
        }
    }

    fn of(&self, raw: &RawValue) -> Value {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'{') => {
                let fields: BTreeMap<Cow<'_, str>, &RawValue> =
                    serde_json::from_str(text).unwrap_or_default();
                let fields = fields.into_iter().map(|(name, value)| (name.into_owned(), self.of(value)));
                Value::from_object(Fields { fields: fields.collect(), missed: self.missed.clone() })
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
                Value::from_iter(items.into_iter().map(|item| self.of(item)).collect::<Vec<_>>())
            }
            Some(b'"') => Value::from(serde_json::from_str::<String>(text).unwrap_or_default()),
            Some(b't') => Value::from(true),
            Some(b'f') => Value::from(false),
            Some(b'-' | b'0'..=b'9') => self.number(text),
            _ => Value::from(()),
        }
    }

    fn number(&self, text: &str) -> Value {
        if let Ok(whole) = text.parse::<i64>() {
            return Value::from(whole);
        }
        if let Ok(whole) = text.parse::<i128>() {
            return Value::from(whole);
        }
        match text.parse::<f64>() {
            Ok(number) if !self.exact || serde_json::to_string(&number).is_ok_and(|same| same == text) => {
                Value::from(number)
            }
            _ => Value::from_object(Exact(text.to_owned())),
        }
    }
}

/// A number in the form in which it came.
#[derive(Debug)]
pub(super) struct Exact(String);

impl Exact {
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl Object for Exact {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A JSON object that notes what it was asked for in vain.
#[derive(Debug)]
struct Fields {
    fields: BTreeMap<String, Value>,
    missed: Arc<AtomicBool>,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let found = key.as_str().and_then(|name| self.fields.get(name)).cloned();
        if found.is_none() {
            self.missed.store(true, Ordering::Relaxed);
        }
        found
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| Box::new(this.fields.keys().map(|name| Value::from(name.as_str()))))
    }
}

/// Writes a value as JSON, each number as it came.
pub(super) fn write_json(value: &Value, to: &mut String) -> Result<(), serde_json::Error> {
    if let Some(exact) = value.downcast_object_ref::<Exact>() {
        to.push_str(exact.text());
        return Ok(());
    }
    match value.kind() {
        ValueKind::Map => {
            to.push('{');
            for (index, name) in value.try_iter().into_iter().flatten().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                to.push_str(&serde_json::to_string(&name.to_string())?);
                to.push(':');
                write_json(&value.get_item(&name).unwrap_or_default(), to)?;
            }
            to.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            to.push('[');
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                write_json(&item, to)?;
            }
            to.push(']');
        }
        _ => to.push_str(&serde_json::to_string(value)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_it_came() {
        for text in [
            r#"{"a":[1,2.5,"x",null,true],"b":{}}"#,
            "9007199254740993",
            "123456789012345678901234567890123456789012345678901234567890",
            "0.1234567890123456789",
            "1.50",
            "1e400",
            "-0.0",
            r#"[18446744073709551616,{"n":1E5}]"#,
            r#""\u00e9\n""#,
        ] {
            let mut written = String::new();
            write_json(&Reading::written().of_text(text.as_bytes()), &mut written).unwrap();
            let same = |text: &str| serde_json::from_str::<Box<RawValue>>(text).unwrap().get().to_owned();
            assert_eq!(same(&written).replace("\u{e9}", "\\u00e9"), same(text), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_json_is_a_text() {
        let values = AnswerValues::compared(200, b"plain {");
        assert_eq!(values.values.get_attr("body").unwrap().as_str(), Some("plain {"));
    }
}
