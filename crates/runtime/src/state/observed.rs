//! What is counted and kept of how the node does.

use super::alerts::Alerts;
use super::figures::{Figures, Pass};
use super::history::History;
use super::lock::{Lock, Place};
use super::telemetry::Telemetry;
use super::unreached::Unreached;
use crate::role::Runs;
use enginehouse_api::MetricsSample;
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) struct Observed {
    pub(crate) figures: Lock<Figures>,
    pub(crate) unreached: Lock<Unreached>,
    pub(crate) history: Lock<History>,
    /// The figures as they were sampled last.
    pub(crate) sampled: watch::Sender<Option<MetricsSample>>,
    pub(crate) alerts: Lock<Alerts>,
    pub(crate) telemetry: Telemetry,
    /// What retention did last.
    pub(crate) retention: Lock<Pass>,
    /// What each role did.
    pub(crate) roles: Arc<Runs>,
}

impl Observed {
    pub(crate) fn new(figures: Figures, history: History, alerts: Alerts) -> Observed {
        Observed {
            figures: Lock::new(Place::Figures, figures),
            unreached: Lock::new(Place::Unreached, Default::default()),
            history: Lock::new(Place::History, history),
            sampled: watch::Sender::new(None),
            alerts: Lock::new(Place::Alerts, alerts),
            telemetry: Telemetry::new(),
            retention: Lock::new(Place::Retention, Default::default()),
            roles: Arc::default(),
        }
    }
}
