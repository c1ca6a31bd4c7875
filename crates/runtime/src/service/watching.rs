//! The figures, their history, and the alerts.

use super::{Service, average, store_error};
use crate::state::figures::Rates;
use enginehouse_api::{AlertsAnswer, ApiError, Code, MetricsHistory, MetricsView};
use enginehouse_core::id::SessionId;
use enginehouse_core::time::Millis;
use enginehouse_store::StoreError;
use std::collections::BTreeSet;

impl Service {
    /// Totals since the store was made, and rates over the aggregation window.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn metrics(&self) -> Result<MetricsView, ApiError> {
        let now = self.cx.store.now();
        let rates = self.cx.observed.figures.lock().rates(now);
        self.metrics_with(&rates).await.map_err(|e| store_error(&e))
    }

    pub(crate) async fn metrics_with(&self, rates: &Rates) -> Result<MetricsView, StoreError> {
        let totals = self.cx.store.totals().await?;
        let (leases, slots) = {
            let scheduler = self.cx.scheduling.scheduler.lock();
            let open = scheduler.queue.workers().values().filter(|worker| worker.open);
            let slots: u64 = open.map(|worker| u64::from(worker.capacity)).sum();
            (scheduler.queue.occupancy().len() as f64, slots)
        };
        let (active, total) = self.worker_counts();
        Ok(MetricsView {
            total_executions: totals.accepted,
            successful_executions: totals.completed,
            failed_executions: totals.failed,
            cancelled_executions: totals.cancelled,
            retried_attempts: totals.retried,
            average_execution_time: average(totals.run_ms, totals.started),
            current_queue_size: totals.pending,
            active_workers: active,
            total_workers: total,
            system_utilization: if slots == 0 { 0.0 } else { (leases / slots as f64).min(1.0) },
            throughput: rates.throughput,
            error_rate: rates.error_rate,
            queue_wait: rates.queue_wait,
            run_time: rates.run_time,
            end_to_end: rates.end_to_end,
        })
    }

    /// Workers of all nodes: those that are not offline, and all.
    fn worker_counts(&self) -> (u64, u64) {
        let mut known: BTreeSet<SessionId> =
            self.cx.scheduling.scheduler.lock().queue.workers().keys().copied().collect();
        let ports = self.cx.workers.ports.lock();
        known.extend(ports.keys());
        let offline = ports.values().filter(|port| port.status() == "offline").count();
        (known.len().saturating_sub(offline) as u64, known.len() as u64)
    }

    /// The figures over the last `window` milliseconds.
    ///
    /// # Errors
    /// `invalid_field` when it is longer than what is kept.
    pub fn metrics_history(&self, window: Millis) -> Result<MetricsHistory, ApiError> {
        let kept = self.cx.settings.metrics_retention;
        if window == 0 || window > kept {
            let text = format!("1 ms to {kept} ms, which is as long as metrics.retention_period keeps them");
            return Err(ApiError::field(Code::InvalidField, "/window", text));
        }
        let (step_ms, samples) = self.cx.observed.history.lock().window(window, self.cx.store.now());
        Ok(MetricsHistory { window_ms: window, step_ms, samples })
    }

    /// What fires, what is about to, and every rule.
    #[must_use]
    pub fn alerts(&self) -> AlertsAnswer {
        self.cx.observed.alerts.lock().answer()
    }
}
