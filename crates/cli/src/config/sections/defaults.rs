//! `[defaults]`: what a request that does not say otherwise gets.

use crate::config::checker::Checker;
use crate::config::types::{Span, UpToAYear, section};
use enginehouse_core::time::{DAY, HOUR};
use enginehouse_runtime::Settings;

section! {
    /// What a request that does not say otherwise gets.
    pub struct Defaults {
        /// Time limit of one attempt, from its grant.
        timeout: UpToAYear = Span(HOUR);
        /// Time limit of all attempts and waits together; at least `timeout`.
        total_timeout: UpToAYear = Span(7 * DAY);
        /// The longest silence of an engine during an attempt. Absent: any.
        idle_timeout: Option<UpToAYear> = None;
    }
}

pub(in crate::config) fn resolve(raw: &Defaults, settings: &mut Settings, checker: &mut Checker<'_>) {
    let Defaults { timeout, total_timeout, idle_timeout } = raw;
    checker.require(timeout.0 <= total_timeout.0, "defaults/total_timeout", || {
        "must not be less than defaults.timeout".to_owned()
    });
    settings.defaults.timeout = timeout.0;
    settings.defaults.total_timeout = total_timeout.0;
    settings.defaults.idle_timeout = idle_timeout.map(|span| span.0);
}
