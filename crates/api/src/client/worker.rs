//! The calls of the worker protocol. None is repeated here: a call whose answer was lost may be sent again as it was.

use super::{Client, ClientError};
use crate::worker_protocol::*;
use std::time::Duration;

impl Client {
    /// Joins as a worker.
    pub async fn worker_register(
        &self,
        request: &WorkerRegisterRequest,
    ) -> Result<WorkerRegisterAnswer, ClientError> {
        self.worker_call("register", request, self.request_timeout).await
    }

    /// Waits for orders; the time of the wait comes on top of the request timeout.
    pub async fn worker_pull(
        &self,
        request: &WorkerPullRequest,
        wait: Duration,
    ) -> Result<WorkerPullAnswer, ClientError> {
        self.worker_call("pull", request, self.request_timeout + wait).await
    }

    pub async fn worker_attach(&self, request: &WorkerAttachRequest) -> Result<(), ClientError> {
        self.worker_call::<WorkerDone>("attach", request, self.request_timeout).await.map(drop)
    }

    pub async fn worker_renew(&self, request: &WorkerRenewRequest) -> Result<WorkerRenewAnswer, ClientError> {
        self.worker_call("renew", request, self.request_timeout).await
    }

    /// Reports the end of an attempt. A large result gets more time than other calls.
    pub async fn worker_report(
        &self,
        request: &WorkerReportRequest,
        within: Duration,
    ) -> Result<(), ClientError> {
        self.worker_call::<WorkerDone>("report", request, within).await.map(drop)
    }

    pub async fn worker_progress(&self, request: &WorkerProgressRequest) -> Result<(), ClientError> {
        self.worker_call::<WorkerDone>("progress", request, self.request_timeout).await.map(drop)
    }

    pub async fn worker_signoff(&self, request: &WorkerSignoffRequest) -> Result<(), ClientError> {
        self.worker_call::<WorkerDone>("signoff", request, self.request_timeout).await.map(drop)
    }

    pub async fn worker_fact(&self, request: &WorkerFactRequest) -> Result<WorkerFactAnswer, ClientError> {
        self.worker_call("fact", request, self.request_timeout).await
    }
}
