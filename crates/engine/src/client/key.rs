//! Whether an engine takes the key that is configured.

use super::{HttpClient, Request};
use crate::config::HealthRoute;
use crate::contract::EngineFailure;

impl HttpClient {
    /// Sends a request that only a good key opens. Anything but a refused key says nothing about the key.
    pub(crate) async fn check_key(
        &self,
        request: Result<Request, EngineFailure>,
    ) -> Result<(), EngineFailure> {
        let Ok(request) = request else { return Ok(()) };
        match self.send(request).await {
            Ok(answer) if matches!(answer.status, 401 | 403) => Err(self.refusal(&answer)),
            _ => Ok(()),
        }
    }

    /// The same for a service of which no other path is known than the configured one that tells of its health.
    pub(crate) async fn check_key_at_health(&self, endpoint: usize) -> Result<(), EngineFailure> {
        let HealthRoute::Path(path) = &self.health else { return Ok(()) };
        self.check_key(self.health_url(endpoint, path).map(|url| self.get(url))).await
    }
}
