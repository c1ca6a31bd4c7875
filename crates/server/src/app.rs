//! What every handler shares.

use crate::auth::Authenticator;
use crate::cors::Origins;
use crate::identity::Identity;
use crate::request_id::RequestIds;
use crate::settings::ServerSettings;
use aws_lc_rs::rand;
use bytes::Bytes;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::limits::{LARGE_REQUESTS_MIB_MAX, WORKER_REPORTS_MIB_MAX};
use enginehouse_core::time::SECOND;
use enginehouse_runtime::Service;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) struct App {
    pub(crate) service: Service,
    pub(crate) auth: Authenticator,
    pub(crate) identity: Option<Identity>,
    pub(crate) request_ids: RequestIds,
    pub(crate) body_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) event_beat: Duration,
    pub(crate) body_bytes_max: usize,
    pub(crate) origins: Arc<Origins>,
    /// Room for event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Room for large requests and for reports of workers, in MiB: callers that send slowly hold up no worker.
    pub(crate) large_requests: Arc<Semaphore>,
    pub(crate) reports: Arc<Semaphore>,
    /// The OpenAPI document as it is served.
    pub(crate) openapi: Bytes,
    /// The server is stopping: waits and streams end.
    pub(crate) stop: CancellationToken,
    /// Changes under way; a stop waits for them.
    pub(crate) tasks: TaskTracker,
}

impl App {
    /// Room for one more event stream.
    pub(crate) fn room_for_a_stream(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let room = Arc::clone(&self.streams).try_acquire_owned();
        room.map_err(|_| {
            ApiError::new(Code::RateLimited, "too many event streams are open").retry_after(5 * SECOND)
        })
    }

    /// Fails when the system gives no random bytes.
    pub(crate) fn new(
        settings: &ServerSettings,
        service: Service,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Option<App> {
        let (mut hash_key, mut prefix) = ([0; 32], [0; 4]);
        rand::fill(&mut hash_key).ok()?;
        rand::fill(&mut prefix).ok()?;
        let origins = Arc::new(Origins::new(&settings.cors_origins));
        Some(App {
            service,
            auth: Authenticator::new(settings.no_auth, &hash_key, Arc::clone(&origins)),
            identity: settings.identity.clone(),
            request_ids: RequestIds::new(u32::from_ne_bytes(prefix)),
            body_timeout: Duration::from_millis(settings.body_timeout),
            request_timeout: Duration::from_millis(settings.request_timeout),
            event_beat: Duration::from_millis(settings.event_beat),
            body_bytes_max: settings.body_bytes_max,
            origins,
            streams: Arc::new(Semaphore::new(settings.event_streams_max)),
            large_requests: Arc::new(Semaphore::new(LARGE_REQUESTS_MIB_MAX)),
            reports: Arc::new(Semaphore::new(WORKER_REPORTS_MIB_MAX)),
            openapi: Bytes::from(crate::openapi_json()),
            stop,
            tasks,
        })
    }

    /// Runs a change to its end even when its caller hangs up: what a caller hears of it is one thing, whether it
    /// happens another.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        match self.tasks.spawn(change).await {
            Ok(done) => done,
            // No one aborts it, so it panicked, and the caller's side of it goes the same way.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
