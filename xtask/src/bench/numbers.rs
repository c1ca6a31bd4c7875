//! Numbers out of what was measured.

use anyhow::{Context, Result};

/// The value at a share of sorted numbers, 0 for none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// Seconds since 1970 of a time such as `2026-01-31T12:00:00.250Z`.
pub(super) fn seconds(text: &str) -> Result<f64> {
    let whole = || -> Option<f64> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        let mut clock = time.split(':').map(|part| part.parse::<f64>().ok());
        let (hours, minutes, rest) = (clock.next()??, clock.next()??, clock.next()??);
        // Days since 1970 in the Gregorian calendar, with years that begin in March.
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
        Some(days as f64 * 86_400.0 + hours * 3_600.0 + minutes * 60.0 + rest)
    };
    whole().with_context(|| format!("{text:?} is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, at) in [("1970-01-01T00:00:00Z", 0.0), ("2026-11-25T22:29:51.250Z", 1_795_645_791.25)] {
            assert_eq!(seconds(text).ok(), Some(at), "{text}");
        }
        assert!(seconds("yesterday").is_err());
    }
}
