//! A small client of HTTP APIs: JSON in, JSON out, every status an answer.

use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// The largest answer read.
const ANSWER_BYTES_MAX: u64 = 128 << 20;

/// One service, and the header that opens it.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    header: Option<(String, String)>,
    agent: ureq::Agent,
}

impl Api {
    pub(crate) fn new(base: &str, header: Option<(&str, &str)>) -> Api {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .max_idle_connections(0)
            .proxy(None)
            .build();
        Api {
            base: base.trim_end_matches('/').to_owned(),
            header: header.map(|(name, value)| (name.to_owned(), value.to_owned())),
            agent: config.into(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<(u16, Value)> {
        self.call("GET", path, None)
    }

    /// The status and the body; a body that is not JSON becomes a string.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.base);
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some((name, value)) = &self.header {
            request = request.header(name, value);
        }
        let answer = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(body.to_string())?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(())?),
        };
        let mut answer = answer.with_context(|| format!("{method} {url}"))?;
        let read = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = read.with_context(|| format!("{method} {url}: the answer's body"))?;
        let value = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        };
        Ok((answer.status().as_u16(), value))
    }

    /// The body of a 2xx answer; any other is an error that carries it.
    pub(crate) fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, value) = self.call(method, path, body)?;
        if !(200..300).contains(&status) {
            let text: String = value.to_string().chars().take(600).collect();
            anyhow::bail!("{method} {path}: {status} {text}");
        }
        Ok(value)
    }
}
