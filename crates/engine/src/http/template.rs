//! Templates of the configuration: paths in which a value is one percent-encoded segment, bodies in which it is JSON, and
//! conditions. Values of requests are data in them and never templates themselves.

use crate::client::percent_encode;
use crate::config::ConfigError;
use crate::contract::{Call, EngineFailure, Reached};
use enginehouse_core::failure::FailureKind;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, context};
use std::borrow::Cow;

/// Steps one rendering may take.
const FUEL: u64 = 200_000;
/// Names of templates end in what they are.
const PATH: &str = ".path";
const JSON: &str = ".json";
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
            _ => AutoEscape::None,
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

    /// Compiles plain text, such as the value of a header.
    pub(super) fn add_text(&mut self, field: &str, source: &str) -> Result<(), ConfigError> {
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

    pub(super) fn text(&self, field: &str, values: &Value) -> Result<String, EngineFailure> {
        self.render(field, values)
    }

    fn render(&self, name: &str, values: &Value) -> Result<String, EngineFailure> {
        let template = self.environment.get_template(name).map_err(|error| unusable(name, &error))?;
        template.render(values).map_err(|error| unusable(name, &error))
    }

    /// Whether a condition holds for an answer.
    pub(super) fn holds(&self, field: &str, source: &str, values: &Value) -> Result<bool, EngineFailure> {
        let compiled =
            self.environment.compile_expression(source).map_err(|error| unreadable(field, &error))?;
        compiled.eval(values).map(|value| value.is_true()).map_err(|error| unreadable(field, &error))
    }
}

/// What templates of a request see.
pub(super) fn request_values(call: &Call, run_id: Option<&str>) -> Value {
    let parameters: serde_json::Value = serde_json::from_slice(&call.parameters).unwrap_or_default();
    context! {
        execution_id => call.execution_id.as_str(),
        attempt => call.attempt,
        idempotency_key => call.idempotency_key.as_str(),
        workflow_id => call.workflow_id.as_str(),
        session_id => call.session_id.as_deref().unwrap_or(&call.execution_id),
        parameters => Value::from(Serde(&parameters)),
        run_id => run_id,
    }
}

/// What conditions and templates of an answer see.
pub(super) fn answer_values(status: u16, body: &[u8]) -> Value {
    let body: serde_json::Value = serde_json::from_slice(body)
        .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(body).into_owned()));
    context! { status => status, body => Value::from(Serde(&body)) }
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
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
    out.write_str(&encoded).map_err(|_| Error::new(ErrorKind::WriteFailure, "the path cannot be written"))
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
