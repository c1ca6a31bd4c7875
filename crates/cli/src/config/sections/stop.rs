//! `[stop]`: how the service stops, and how it cancels.

use crate::config::types::{MaybeNone, Span, section};
use enginehouse_core::time::SECOND;
use enginehouse_runtime::Settings;

section! {
    /// How the service stops, and how it cancels.
    pub struct Stop {
        /// How long running attempts may go on after SIGTERM; the rest is handed back and goes on at the next start.
        grace: MaybeNone = Span(30 * SECOND);
        /// How long an engine may take to stop a cancelled run before its call is abandoned.
        cancel_grace: MaybeNone = Span(10 * SECOND);
    }
}

pub(in crate::config) fn resolve(raw: &Stop, settings: &mut Settings) {
    let Stop { grace, cancel_grace } = raw;
    settings.stop_grace = grace.0;
    settings.cancel_grace = cancel_grace.0;
}
