//! What is counted and kept of how the node does.

use super::alerts::Alerts;
use super::figures::{Figures, Pass};
use super::history::History;
use super::telemetry::Telemetry;
use super::unreached::Unreached;
use enginehouse_api::MetricsSample;
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) struct Observed {
    pub(crate) figures: Mutex<Figures>,
    pub(crate) unreached: Mutex<Unreached>,
    pub(crate) history: Mutex<History>,
    /// The figures as they were sampled last.
    pub(crate) sampled: watch::Sender<Option<MetricsSample>>,
    pub(crate) alerts: Mutex<Alerts>,
    pub(crate) telemetry: Telemetry,
    /// What retention did last.
    pub(crate) retention: Mutex<Pass>,
}

impl Observed {
    pub(crate) fn new(figures: Figures, history: History, alerts: Alerts) -> Observed {
        Observed {
            figures: Mutex::new(figures),
            unreached: Mutex::default(),
            history: Mutex::new(history),
            sampled: watch::Sender::new(None),
            alerts: Mutex::new(alerts),
            telemetry: Telemetry::new(),
            retention: Mutex::default(),
        }
    }
}
