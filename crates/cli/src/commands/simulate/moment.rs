//! When a job came: a number since some beginning, Unix time, or a timestamp in letters.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Microseconds on either side of the beginning that a trace may use: 30,000 years.
const MICROS_MAX: f64 = 1e18;

/// What a number in the column of times counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Unit {
    /// Seconds
    S,
    /// Milliseconds
    Ms,
    /// Microseconds
    Us,
    /// Nanoseconds
    Ns,
}

impl Unit {
    fn per_second(self) -> f64 {
        match self {
            Unit::S => 1.0,
            Unit::Ms => 1e3,
            Unit::Us => 1e6,
            Unit::Ns => 1e9,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Unit::S => "seconds",
            Unit::Ms => "milliseconds",
            Unit::Us => "microseconds",
            Unit::Ns => "nanoseconds",
        }
    }
}

/// How a trace writes its times. All rows write them as the first one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Number(Unit),
    Text,
}

impl Form {
    /// By the first row: Unix times of our days have 10, 13, 16 or 19 digits. Smaller numbers are seconds.
    pub(super) fn of(text: &str) -> Form {
        let Some(size) = number(text).map(f64::abs) else { return Form::Text };
        let unit = match size {
            size if size < 1e11 => Unit::S,
            size if size < 1e14 => Unit::Ms,
            size if size < 1e17 => Unit::Us,
            _ => Unit::Ns,
        };
        Form::Number(unit)
    }

    /// Microseconds since the beginning of the trace's clock.
    pub(super) fn micros(self, text: &str) -> Result<i64, String> {
        let Form::Number(unit) = self else { return timestamp(text) };
        let wrong = || format!("must be a number of {}, not {text:?}", unit.as_str());
        // Nanoseconds have more digits than a double holds.
        if unit == Unit::Ns
            && let Ok(whole) = text.parse::<i64>()
        {
            return Ok(whole.div_euclid(1_000));
        }
        let micros = number(text).ok_or_else(wrong)? / unit.per_second() * 1e6;
        if micros.abs() <= MICROS_MAX { Ok(micros.round() as i64) } else { Err(wrong()) }
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// With an offset, or without one as UTC: only the distances count.
fn timestamp(text: &str) -> Result<i64, String> {
    let exact = text
        .parse::<Timestamp>()
        .or_else(|_| text.parse::<DateTime>().and_then(|local| TimeZone::UTC.to_timestamp(local)));
    exact.map(Timestamp::as_microsecond).map_err(|_| {
        format!("must be a time such as 2023-11-16T18:15:46Z or 2023-11-16 18:15:46.68, or a number in every row, not {text:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_tells_how_all_are_written() {
        let table = [
            ("0", Form::Number(Unit::S), 0),
            ("3.25", Form::Number(Unit::S), 3_250_000),
            ("-1.5", Form::Number(Unit::S), -1_500_000),
            ("1700158546", Form::Number(Unit::S), 1_700_158_546_000_000),
            ("1700158546.680590", Form::Number(Unit::S), 1_700_158_546_680_590),
            ("1700158546680", Form::Number(Unit::Ms), 1_700_158_546_680_000),
            ("1700158546680590", Form::Number(Unit::Us), 1_700_158_546_680_590),
            ("1700158546680590123", Form::Number(Unit::Ns), 1_700_158_546_680_590),
            ("2023-11-16 18:15:46.6805900", Form::Text, 1_700_158_546_680_590),
            ("2023-11-16T18:15:46.680590Z", Form::Text, 1_700_158_546_680_590),
            ("2023-11-16T19:15:46.68059+01:00", Form::Text, 1_700_158_546_680_590),
            ("2023-11-16 18:15:46.680590+00:00", Form::Text, 1_700_158_546_680_590),
        ];
        for (text, form, micros) in table {
            assert_eq!((Form::of(text), form.micros(text)), (form, Ok(micros)), "{text}");
        }
        assert_eq!(Form::Number(Unit::Ms).micros("27482"), Ok(27_482_000));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let table = [
            (Form::Number(Unit::Ms), "", "must be a number of milliseconds, not \"\""),
            (Form::Number(Unit::S), "nan", "must be a number of seconds"),
            (Form::Number(Unit::S), "1e300", "must be a number of seconds"),
            (Form::Number(Unit::S), "2023-11-16T18:15:46Z", "must be a number of seconds"),
            (Form::Text, "yesterday", "must be a time such as"),
            (Form::Text, "12", "must be a time such as"),
            (Form::Text, "2023-13-16 18:15:46", "must be a time such as"),
        ];
        for (form, text, wanted) in table {
            let found = form.micros(text).expect_err(text);
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
    }
}
