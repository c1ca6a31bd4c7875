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

    /// The day and the time of day in UTC, such as `2026-02-28` and `18:51:03`.
    #[must_use]
    pub fn utc(self) -> (String, String) {
        let days = self.0.div_euclid(DAY as i64);
        let second = self.0.rem_euclid(DAY as i64) / SECOND as i64;
        let (year, month, day) = civil(days);
        let time = format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
        (format!("{year:04}-{month:02}-{day:02}"), time)
    }
}

/// Year, month and day of this many days after 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the leap
/// day is the last of its year, and 400 of them are one era.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let days = days + 719_468;
    let of_era = days.rem_euclid(ERA);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (days.div_euclid(ERA) * 400 + year + late, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_772_304_663, "2026-02-28 18:51:03"),
            (1_798_761_599, "2026-12-31 23:59:59"),
            (1_798_761_600, "2027-01-01 00:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
        ];
        for (second, wanted) in table {
            let (day, time) = Time(second * 1_000).utc();
            assert_eq!(format!("{day} {time}"), wanted, "{second}");
        }
    }
}
