//! The requests of a configured service, made from its templates.

use super::template::Templates;
use super::values::request_values;
use super::{Http, HttpStep};
use crate::client::Request;
use crate::config::ConfigError;
use crate::contract::{Call, EngineFailure};
use enginehouse_core::failure::FailureKind;
use minijinja::value::Value;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Url};

impl HttpStep {
    pub(super) fn method(&self, field: &str) -> Result<Method, ConfigError> {
        match self.method.as_str() {
            "GET" | "POST" | "PUT" | "PATCH" | "DELETE" => Method::from_bytes(self.method.as_bytes())
                .map_err(|error| ConfigError::new(format!("{field}.method"), error.to_string())),
            other => Err(ConfigError::new(
                format!("{field}.method"),
                format!("{other:?} is none of GET, POST, PUT, PATCH, DELETE"),
            )),
        }
    }

    pub(super) fn compile(&self, field: &str, templates: &mut Templates) -> Result<(), ConfigError> {
        self.method(field)?;
        templates.add_path(&format!("{field}.path"), &self.path)?;
        for (name, value) in &self.headers {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                ConfigError::new(format!("{field}.headers.{name}"), "is not the name of a header")
            })?;
            templates.add_header(&format!("{field}.headers.{name}"), value)?;
        }
        match &self.body {
            Some(body) => templates.add_json(&format!("{field}.body"), body),
            None => Ok(()),
        }
    }
}

impl Http {
    /// A step as a request to an endpoint.
    pub(super) fn request(
        &self,
        field: &str,
        step: &HttpStep,
        endpoint: usize,
        values: &Value,
    ) -> Result<Request, EngineFailure> {
        let path = self.templates.path(&format!("{field}.path"), values)?;
        let method = step.method(field).map_err(|error| wrong(error.to_string()))?;
        let mut request = self.client.request(method, self.below(endpoint, &path)?);
        if step.body.is_some() {
            request = request.json(self.templates.json(&format!("{field}.body"), values)?);
        }
        for name in step.headers.keys() {
            let value = self.templates.header(&format!("{field}.headers.{name}"), values)?;
            let value = HeaderValue::from_str(&value)
                .map_err(|_| wrong(format!("the header {name} cannot be sent")))?;
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong(format!("the header {name} has no name")))?;
            request = request.header(name, value);
        }
        Ok(request)
    }

    /// The request that starts the work; the same for every attempt that stands for the same run.
    pub(super) fn start_request(&self, call: &Call) -> Result<Request, EngineFailure> {
        let step = &self.config.request;
        let mut request = self.request("request", step, call.endpoint, &request_values(call, None))?;
        if step.body.is_none() && !matches!(step.method.as_str(), "GET" | "DELETE") {
            request = request.json(call.parameters.clone());
        }
        let key = HeaderValue::from_str(&call.idempotency_key)
            .map_err(|_| wrong("the key cannot be sent".to_owned()))?;
        Ok(request.header(HeaderName::from_static("idempotency-key"), key))
    }

    /// A rendered path below an endpoint, which it cannot leave.
    pub(super) fn below(&self, endpoint: usize, path: &str) -> Result<Url, EngineFailure> {
        let base = self.client.endpoint(endpoint)?;
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = base.clone();
        url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
        url.set_query(query);
        if url.path().starts_with(base.path().trim_end_matches('/')) {
            Ok(url)
        } else {
            Err(wrong("the path leaves the endpoint".to_owned()))
        }
    }
}

pub(super) fn wrong(text: String) -> EngineFailure {
    EngineFailure::new(FailureKind::InvalidRequest, "invalid_request", text)
}
