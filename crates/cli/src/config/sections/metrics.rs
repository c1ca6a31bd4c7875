//! `[metrics]`: what is measured, and for how long it is kept.

use crate::config::checker::Checker;
use crate::config::types::{Span, UpToAYear, section};
use enginehouse_core::time::{DAY, HOUR, MINUTE, SECOND};
use enginehouse_runtime::Settings;

section! {
    /// What is measured, and for how long it is kept.
    pub struct Metrics {
        /// How often figures are sampled.
        collection_interval: Span<100, HOUR> = Span(SECOND);
        /// The window of throughput and error rate; at least `collection_interval`.
        aggregation_window: Span<1000, DAY> = Span(MINUTE);
        /// How long the history of the figures is kept; at least `aggregation_window`.
        retention_period: UpToAYear = Span(DAY);
    }
}

pub(in crate::config) fn resolve(raw: &Metrics, settings: &mut Settings, checker: &mut Checker<'_>) {
    let Metrics { collection_interval, aggregation_window, retention_period } = raw;
    checker.require(collection_interval.0 <= aggregation_window.0, "metrics/aggregation_window", || {
        "must not be less than metrics.collection_interval".to_owned()
    });
    checker.require(aggregation_window.0 <= retention_period.0, "metrics/retention_period", || {
        "must not be less than metrics.aggregation_window".to_owned()
    });
    settings.collection_interval = collection_interval.0;
    settings.aggregation_window = aggregation_window.0;
    settings.metrics_retention = retention_period.0;
}
