//! Instants and spans as plain integers, so that every decision can be computed on a clock that is passed in.
//!
//! `Time` is milliseconds since the Unix epoch by the *store's* clock; nothing in this crate reads a clock.

use serde::{Deserialize, Serialize};

/// A span of time in milliseconds.
pub type Millis = u64;

pub const SECOND: Millis = 1_000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;
pub const DAY: Millis = 24 * HOUR;

/// An instant: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// The instant `span` later; saturates instead of wrapping.
    #[must_use]
    pub fn plus(self, span: Millis) -> Time {
        Time(self.0.saturating_add(i64::try_from(span).unwrap_or(i64::MAX)))
    }

    /// The instant `span` earlier; saturates instead of wrapping.
    #[must_use]
    pub fn minus(self, span: Millis) -> Time {
        Time(self.0.saturating_sub(i64::try_from(span).unwrap_or(i64::MAX)))
    }

    /// The span from `earlier` to `self`; 0 when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Millis {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}
