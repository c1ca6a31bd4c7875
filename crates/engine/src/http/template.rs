//! Templates of the configuration: paths in which a value is one percent-encoded segment, bodies in which it is JSON, headers
//! in which a value beyond ASCII is percent-encoded, and conditions. Values of requests are data in them and never templates themselves.

use super::values::{AnswerValues, write_json};
use crate::client::percent_encode;
use crate::config::ConfigError;
use crate::contract::{EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::header_text;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};
use std::borrow::Cow;

/// Steps one rendering may take.
const FUEL: u64 = 200_000;
/// Names of templates end in what they are.
const PATH: &str = ".path";
const JSON: &str = ".json";
const HEADER: AutoEscape = AutoEscape::Custom(Cow::Borrowed("header"));
const SEGMENT: AutoEscape = AutoEscape::Custom(Cow::Borrowed("segment"));

/// All templates and conditions of one engine.
pub(super) struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    pub(super) fn new() -> Templates {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name {
            name if name.ends_with(PATH) => SEGMENT,
            name if name.ends_with(JSON) => AutoEscape::Json,
            _ => HEADER,
        });
        environment.set_formatter(format);
        Templates { environment }
    }

    /// Compiles a path; `field` names it in the configuration.
    pub(super) fn add_path(&mut self, field: &str, source: &str) -> Result<(), ConfigError> {
        if !source.starts_with('/') {
            return Err(ConfigError::new(field, format!("{source:?} must begin with a slash")));
        }
        self.add(field, format!("{field}{PATH}"), source)
    }

    /// Compiles a JSON body.
    pub(super) fn add_json(&mut self, field: &str, source: &str) -> Result<(), ConfigError> {
        self.add(field, format!("{field}{JSON}"), source)
    }

    /// Compiles the value of a header.
    pub(super) fn add_header(&mut self, field: &str, source: &str) -> Result<(), ConfigError> {
        self.add(field, field.to_owned(), source)
    }

    fn add(&mut self, field: &str, name: String, source: &str) -> Result<(), ConfigError> {
        self.environment
            .add_template_owned(name, source.to_owned())
            .map_err(|error| ConfigError::new(field, error.to_string()))
    }

    /// Whether a condition can be read.
    pub(super) fn check_condition(&self, field: &str, source: &str) -> Result<(), ConfigError> {
        let compiled = self.environment.compile_expression(source);
        compiled.map(drop).map_err(|error| ConfigError::new(field, error.to_string()))
    }

    pub(super) fn path(&self, field: &str, values: &Value) -> Result<String, EngineFailure> {
        self.render(&format!("{field}{PATH}"), values)
    }

    pub(super) fn json(&self, field: &str, values: &Value) -> Result<String, EngineFailure> {
        self.render(&format!("{field}{JSON}"), values)
    }

    /// A JSON template on an answer; what it asks for may not be there.
    pub(super) fn json_of_answer(&self, field: &str, values: &Value) -> Result<String, EngineFailure> {
        let rendered = self
            .environment
            .get_template(&format!("{field}{JSON}"))
            .and_then(|template| template.render(values));
        rendered.map_err(|error| unreadable(field, &error))
    }

    pub(super) fn header(&self, field: &str, values: &Value) -> Result<String, EngineFailure> {
        self.render(field, values)
    }

    fn render(&self, name: &str, values: &Value) -> Result<String, EngineFailure> {
        let template = self.environment.get_template(name).map_err(|error| unusable(name, &error))?;
        template.render(values).map_err(|error| unusable(name, &error))
    }

    /// Whether a condition holds for an answer. One that asks for what the answer does not have does not hold, unless it
    /// looks by itself whether that is there (`is defined`, `default`).
    pub(super) fn holds(
        &self,
        field: &str,
        source: &str,
        answer: &AnswerValues,
    ) -> Result<bool, EngineFailure> {
        let compiled =
            self.environment.compile_expression(source).map_err(|error| unreadable(field, &error))?;
        answer.take_missed();
        let held = compiled.eval(&answer.values).map(|value| value.is_true());
        let of_parts = ["body.", "body["].iter().any(|part| source.contains(part));
        let missed = (answer.take_missed() || (of_parts && !answer.has_parts)) && !looks_by_itself(source);
        match held {
            Ok(held) => Ok(held && !missed),
            Err(error) if missed || error.kind() == ErrorKind::UndefinedError => Ok(false),
            // The answer has another form than the condition was written for, such as a text for a list.
            Err(error) if error.kind() == ErrorKind::InvalidOperation => Ok(false),
            Err(error) => Err(unreadable(field, &error)),
        }
    }
}

/// Whether a condition asks itself whether something is there.
fn looks_by_itself(source: &str) -> bool {
    ["defined", "default", "none"].iter().any(|word| source.contains(word))
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let failed = |_| Error::new(ErrorKind::WriteFailure, "the value cannot be written");
    if *state.auto_escape() == AutoEscape::Json && !value.is_undefined() {
        let mut text = String::new();
        write_json(value, &mut text)
            .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
        return out.write_str(&text).map_err(failed);
    }
    if *state.auto_escape() == HEADER {
        if value.is_undefined() {
            return Err(Error::new(ErrorKind::UndefinedError, "a value of the header is missing"));
        }
        let text = value.to_string();
        // What a header can carry stays as it is.
        let text = if text.is_ascii() { text } else { header_text(&text) };
        return out.write_str(&text).map_err(failed);
    }
    if *state.auto_escape() != SEGMENT {
        return minijinja::escape_formatter(out, state, value);
    }
    if value.is_undefined() || value.is_none() {
        return Err(Error::new(ErrorKind::UndefinedError, "a value of the path is missing"));
    }
    let text = value.to_string();
    if matches!(text.as_str(), "" | "." | "..") {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value of the path cannot be a segment"));
    }
    let mut encoded = String::new();
    percent_encode(&text, &mut encoded);
    out.write_str(&encoded).map_err(failed)
}

/// The request's values do not fit the template, or it is wrong in a way only they show.
fn unusable(field: &str, error: &Error) -> EngineFailure {
    let field = field.trim_end_matches(PATH).trim_end_matches(JSON);
    let text = format!("the template {field} cannot be used for this request: {error}");
    EngineFailure::new(FailureKind::InvalidRequest, "template", text).with_reached(Reached::Yes)
}

/// The answer has not what a condition or a template asks it for.
fn unreadable(field: &str, error: &Error) -> EngineFailure {
    let text = format!("the service's answer does not fit {field}: {error}");
    EngineFailure::new(FailureKind::BadResponse, "malformed_answer", text).with_reached(Reached::Maybe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_over_something_absent_is_false() {
        let templates = Templates::new();
        let answer =
            AnswerValues::compared(200, br#"{"state":"done","n":9007199254740993,"list":[1],"null":null}"#);
        for (condition, held) in [
            ("body.state == 'done'", true),
            ("body.state not in ['queued', 'running']", true),
            ("status == 200 and body.list[0] == 1", true),
            ("body.n == 9007199254740993", true),
            ("body.n == 9007199254740992", false),
            ("body.status == 'done'", false),
            ("body.status != 'running'", false),
            ("body.status not in ['queued', 'running']", false),
            ("not body.error", false),
            ("body.deep.er == 1", false),
            ("body.deep.er.still > 1", false),
            ("body.list[7] == 1", false),
            ("body.state.x.y == 1", false),
            ("body.error is not defined", true),
            ("body.error is defined", false),
            ("body.error | default('none') == 'none'", true),
            ("status == 200 or body.error", true),
        ] {
            assert_eq!(
                templates.holds("done", condition, &answer).map_err(|f| f.message),
                Ok(held),
                "{condition}"
            );
        }
        let text = AnswerValues::compared(503, b"<html>away</html>");
        for condition in ["body.state == 'failed'", "body.state != 'running'", "body.a.b"] {
            assert_eq!(
                templates.holds("failure", condition, &text).map_err(|f| f.message),
                Ok(false),
                "{condition}"
            );
        }
        assert!(templates.holds("done", "body |", &answer).is_err());
    }
}
