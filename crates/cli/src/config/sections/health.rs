//! `[health]`: how engines are watched.

use crate::config::types::{Span, section};
use enginehouse_core::time::{DAY, SECOND};
use enginehouse_runtime::Settings;

section! {
    /// How engines are watched.
    pub struct HealthChecks {
        /// How often each endpoint is asked for its health.
        interval: Span<1000, DAY> = Span(10 * SECOND);
    }
}

pub(in crate::config) fn resolve(raw: &HealthChecks, settings: &mut Settings) {
    let HealthChecks { interval } = raw;
    settings.health_interval = interval.0;
}
