//! Asking an endpoint for its health.
//!
//! Many engines stand behind something that lets only their API through, or are of a version without such a route. An answer
//! that says "no such route" or "not for you" is no sign of illness: such an endpoint is judged by its work.

use super::{Answer, HttpClient, classify};
use crate::config::{ConfigError, HealthRoute};
use crate::contract::{EngineFailure, Health};
use enginehouse_core::time::Millis;
use reqwest::Url;
use tokio::time::Instant;

pub(super) fn checked(route: &HealthRoute) -> Result<HealthRoute, ConfigError> {
    match route {
        HealthRoute::Path(path) if !path.starts_with('/') => {
            Err(ConfigError::new("health", format!("{path:?} must begin with a slash, or be off")))
        }
        route => Ok(route.clone()),
    }
}

impl HttpClient {
    /// Asks an endpoint for its health: at `usual`, the parts of the path that its type has for it, or as configured. `accept`
    /// likes the body of a well engine; at a configured path any success will do.
    pub(crate) async fn health(
        &self,
        endpoint: usize,
        usual: &[&str],
        accept: fn(&Answer) -> bool,
    ) -> Health {
        let url = match &self.health {
            HealthRoute::Off => {
                return Health { healthy: None, detail: "not asked: health is off".to_owned(), latency: 0 };
            }
            HealthRoute::Usual => self.url(endpoint, usual),
            HealthRoute::Path(path) => self.health_url(endpoint, path),
        };
        let accept = if self.health == HealthRoute::Usual { accept } else { |_: &Answer| true };
        let begun = Instant::now();
        let answer = match url {
            Ok(url) => self.send(self.get(url)).await,
            Err(failure) => Err(failure),
        };
        let latency = Millis::try_from(begun.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let (healthy, detail) = self.judged(answer, accept);
        Health { healthy, detail, latency }
    }

    pub(super) fn health_url(&self, endpoint: usize, path: &str) -> Result<Url, EngineFailure> {
        let base = self.endpoint(endpoint)?;
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = base.clone();
        url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
        url.set_query(query);
        Ok(url)
    }

    fn judged(
        &self,
        answer: Result<Answer, EngineFailure>,
        accept: fn(&Answer) -> bool,
    ) -> (Option<bool>, String) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return (Some(false), format!("{}: {}", failure.code, failure.message)),
        };
        let status = answer.status;
        match status {
            200..300 if accept(&answer) => (Some(true), "ok".to_owned()),
            200..300 if answer.is_web_page() => {
                (None, format!("status {status} with a web page, which says nothing of the engine's health"))
            }
            200..300 => (Some(false), format!("status {status}: not the answer of a healthy engine")),
            500.. if status != 501 => (Some(false), self.scrub(&classify::status_failure(&answer).message)),
            _ => (None, format!("status {status}: no health route for the service; judged by its work")),
        }
    }
}
