//! Whether an engine takes the key that is configured.

use super::{Answer, HttpClient, Request};
use crate::config::HealthRoute;
use crate::contract::EngineFailure;

impl HttpClient {
    /// Sends a request that only a good key opens, and then is answered as `opened` knows. Anything else but a refusal says
    /// nothing about the key.
    pub(crate) async fn check_key(
        &self,
        request: Result<Request, EngineFailure>,
        opened: fn(&Answer) -> bool,
    ) -> Result<bool, EngineFailure> {
        let Ok(request) = request else { return Ok(false) };
        match self.send(request).await {
            Ok(answer) if matches!(answer.status, 401 | 403) => Err(self.refusal(&answer)),
            Ok(answer) => Ok(opened(&answer)),
            Err(_) => Ok(false),
        }
    }

    /// The same for a service of which no other path is known than the configured one that tells of its health.
    pub(crate) async fn check_key_at_health(&self, endpoint: usize) -> Result<bool, EngineFailure> {
        let HealthRoute::Path(path) = &self.health else { return Ok(false) };
        // Another program may answer there, and ask for no key.
        self.check_key(self.health_url(endpoint, path).map(|url| self.get(url)), |_| false).await
    }
}

/// Whether an answer is a success of the engine's own, and no page of something on the way.
pub(crate) fn is_the_engines(answer: &Answer) -> bool {
    answer.is_success() && answer.json::<serde::de::IgnoredAny>().is_ok()
}
