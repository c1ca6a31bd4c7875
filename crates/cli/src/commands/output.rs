//! Standard output: tables for people, JSON for programs. A reader that goes away early is no error.

pub(crate) use super::printable::printable;
use super::printable::{json, one_line};
use super::{Exit, Failure};
use enginehouse_api::{FailureView, Timestamp};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Where data goes; everything else is written to standard error.
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    to: io::BufWriter<io::Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json, terminal: io::stdout().is_terminal(), to: io::BufWriter::new(io::stdout()) }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One JSON document, indented for people.
    pub(crate) fn document(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            if self.terminal { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        self.json(&text.map_err(|error| Failure::call(error.to_string()))?)
    }

    /// One JSON value on a line of its own, written at once.
    pub(crate) fn record(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::call(error.to_string()))?;
        self.json(&text)?;
        self.flush()
    }

    fn json(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.to, "{}", json(text)).map_err(Failure::from_output)
    }

    /// A line of text, which is made [`printable`] here, so that no one has to think of it.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.to, "{}", printable(text)).map_err(Failure::from_output)
    }

    /// An id on a line of its own: as it is for programs, which give it back.
    pub(crate) fn id(&mut self, id: &str) -> Result<(), Failure> {
        if self.terminal { self.line(id) } else { self.text(&format!("{id}\n")) }
    }

    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.to.write_all(text.as_bytes()).map_err(Failure::from_output)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::from_output)
    }

    /// The answer itself for programs; for people a table with a row for each of its items.
    pub(crate) fn list<T>(
        &mut self,
        answer: &impl Serialize,
        head: &[&str],
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<Exit, Failure> {
        if self.is_json() {
            self.document(answer)?;
        } else {
            self.table(head, &items.iter().map(row).collect::<Vec<_>>())?;
        }
        Ok(Exit::Done)
    }

    /// Columns as wide as their widest cell; the last one is not padded.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let shown = |row: &Vec<String>| row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut put = |cells: &mut dyn Iterator<Item = &str>| -> Result<(), Failure> {
            let mut line = String::new();
            for (cell, width) in cells.zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            self.line(line.trim_end())
        };
        put(&mut head.iter().copied())?;
        for row in &rows {
            put(&mut row.iter().map(String::as_str))?;
        }
        Ok(())
    }

    /// Names and values, one a line; those without a value are left out.
    pub(crate) fn fields(&mut self, fields: &[(&str, Option<String>)]) -> Result<(), Failure> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in fields {
            if let Some(value) = value {
                self.line(&format!("{name:width$}  {value}"))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn failure_text(failure: &FailureView) -> String {
    let message = if failure.message.is_empty() { String::new() } else { format!(": {}", failure.message) };
    let code = if failure.code.is_empty() { String::new() } else { format!(" ({})", failure.code) };
    format!("{}{code}{message}", failure.kind)
}

/// How long ago, in one unit.
pub(crate) fn age(at: Timestamp, now: jiff::Timestamp) -> String {
    let seconds = (now.as_millisecond() - at.0.0) / 1_000;
    match seconds {
        ..0 => format!("in {}", span(-seconds)),
        _ => span(seconds),
    }
}

fn span(seconds: i64) -> String {
    match seconds {
        i64::MIN..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds for people.
pub(crate) fn millis(ms: f64) -> String {
    if ms < 1_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1_000.0) }
}

/// `1 attempt`, `2 attempts`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A duration with two digits or so, in the unit that suits it.
pub(crate) fn lasting(ms: u64) -> String {
    let in_units = |unit: u64, name: &str| {
        let count = ms as f64 / unit as f64;
        if count < 10.0 { format!("{count:.1} {name}") } else { format!("{count:.0} {name}") }
    };
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => in_units(1_000, "s"),
        60_000..3_600_000 => in_units(60_000, "min"),
        3_600_000..172_800_000 => in_units(3_600_000, "h"),
        _ => in_units(86_400_000, "days"),
    }
}

pub(crate) fn dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}
