//! Which columns of a trace say what: the trace's own names, or those that the caller maps.

use super::super::Failure;
use super::formula::Formula;
use super::moment::Unit;
use clap::Args;
use std::path::Path;

/// Columns that an error lists, and characters of each.
const LISTED_MAX: usize = 24;
const LISTED_CHARS_MAX: usize = 48;

/// The columns of a trace that is not in the trace's own form.
#[derive(Debug, Default, Args)]
pub(super) struct ColumnArgs {
    /// The column of times: numbers, Unix time, or timestamps such as 2023-11-16 18:15:46.68
    #[arg(long, value_name = "COLUMN", help_heading = "Columns of the trace")]
    time: Option<String>,
    /// What a number in --time counts [default: by its size; below 100,000,000,000 it is seconds]
    #[arg(long, value_name = "UNIT", help_heading = "Columns of the trace")]
    time_unit: Option<Unit>,
    /// The column that says how long a job runs
    #[arg(long, value_name = "COLUMN", help_heading = "Columns of the trace")]
    duration: Option<String>,
    /// What a number in --duration counts [default: s]
    #[arg(long, value_name = "UNIT", help_heading = "Columns of the trace")]
    duration_unit: Option<DurationUnit>,
    /// Instead of --duration: seconds, computed from columns with + - * / ( ), such as "0.2 + tokens/40"
    #[arg(long, value_name = "EXPR", help_heading = "Columns of the trace", allow_hyphen_values = true)]
    duration_expr: Option<String>,
    /// The column of engines [default: all jobs are of one engine, "engine"]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns of the trace")]
    engine: Option<String>,
    /// The column of workflows
    #[arg(long, value_name = "COLUMN", help_heading = "Columns of the trace")]
    workflow: Option<String>,
    /// The column of priorities: 0 to 3, low, normal, high or critical
    #[arg(long, value_name = "COLUMN", help_heading = "Columns of the trace")]
    priority: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DurationUnit {
    /// Seconds
    S,
    /// Milliseconds
    Ms,
}

/// Where the time that a job runs comes from. The numbers are places in [`Mapping::wanted`].
#[derive(Debug)]
pub(super) enum Length {
    Seconds(usize),
    Millis(usize),
    Formula(Formula, Vec<usize>),
}

/// A column that a row is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// The flag that names it; `None` for the trace's own names.
    pub(super) flag: Option<&'static str>,
    /// Whether a row without it is a fault.
    pub(super) needed: bool,
}

/// What is taken from a row. The numbers are places in `wanted`.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) wanted: Vec<Wanted>,
    /// The trace's own names: times are seconds from 0 on, and rows stand in their order.
    pub(super) own: bool,
    pub(super) unit: Option<Unit>,
    pub(super) time: usize,
    pub(super) length: Length,
    pub(super) engine: Option<usize>,
    pub(super) workflow: Option<usize>,
    pub(super) priority: Option<usize>,
}

impl Mapping {
    /// The trace's own names.
    fn own() -> Mapping {
        let column = |name: &str, needed| Wanted { name: name.to_owned(), flag: None, needed };
        Mapping {
            wanted: vec![
                column("arrival_s", true),
                column("service_s", true),
                column("engine", true),
                column("priority", false),
                column("workflow", false),
            ],
            own: true,
            unit: None,
            time: 0,
            length: Length::Seconds(1),
            engine: Some(2),
            priority: Some(3),
            workflow: Some(4),
        }
    }

    fn want(&mut self, name: &str, flag: &'static str, needed: bool) -> usize {
        if let Some(at) = self.wanted.iter().position(|known| known.name == name) {
            self.wanted[at].needed |= needed;
            return at;
        }
        self.wanted.push(Wanted { name: name.to_owned(), flag: Some(flag), needed });
        self.wanted.len() - 1
    }
}

impl ColumnArgs {
    /// What to take from each row.
    pub(super) fn mapping(&self) -> Result<Mapping, Failure> {
        self.mapped().map_err(Failure::usage)
    }

    fn mapped(&self) -> Result<Mapping, String> {
        if self.duration_unit.is_some() && self.duration.is_none() {
            return Err("--duration-unit needs --duration; --duration-expr gives seconds".to_owned());
        }
        let others = [
            ("--time-unit", self.time_unit.is_some()),
            ("--duration", self.duration.is_some()),
            ("--duration-expr", self.duration_expr.is_some()),
            ("--engine", self.engine.is_some()),
            ("--workflow", self.workflow.is_some()),
            ("--priority", self.priority.is_some()),
        ];
        let Some(time) = &self.time else {
            return match others.iter().find(|(_, given)| *given) {
                Some((flag, _)) => {
                    Err(format!("{flag} needs --time COLUMN, the column that says when a job came"))
                }
                None => Ok(Mapping::own()),
            };
        };
        let mut mapping = Mapping {
            wanted: Vec::new(),
            own: false,
            unit: self.time_unit,
            time: 0,
            length: Length::Seconds(0),
            engine: None,
            workflow: None,
            priority: None,
        };
        mapping.time = mapping.want(time, "--time", true);
        mapping.length = self.length(&mut mapping)?;
        let engine = self.engine.as_deref();
        mapping.engine = engine.map(|name| mapping.want(name, "--engine", true));
        let workflow = self.workflow.as_deref();
        mapping.workflow = workflow.map(|name| mapping.want(name, "--workflow", false));
        let priority = self.priority.as_deref();
        mapping.priority = priority.map(|name| mapping.want(name, "--priority", false));
        Ok(mapping)
    }

    fn length(&self, mapping: &mut Mapping) -> Result<Length, String> {
        match (&self.duration, &self.duration_expr) {
            (Some(name), None) => {
                let at = mapping.want(name, "--duration", true);
                let millis = self.duration_unit == Some(DurationUnit::Ms);
                Ok(if millis { Length::Millis(at) } else { Length::Seconds(at) })
            }
            (None, Some(text)) => {
                let formula =
                    Formula::parse(text).map_err(|message| format!("--duration-expr {text:?} {message}"))?;
                let columns = formula.columns().iter();
                let places = columns.map(|name| mapping.want(name, "--duration-expr", true)).collect();
                Ok(Length::Formula(formula, places))
            }
            (Some(_), Some(_)) => Err("--duration and --duration-expr exclude each other".to_owned()),
            (None, None) => {
                Err("--time needs --duration COLUMN or --duration-expr EXPR: how long a job runs".to_owned())
            }
        }
    }
}

/// Names for an error, bounded.
pub(super) fn listed(names: &[String]) -> String {
    let shown =
        names.iter().take(LISTED_MAX).map(|name| name.chars().take(LISTED_CHARS_MAX).collect::<String>());
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", names.len() - LISTED_MAX));
    }
    text
}

/// The command line to try on a trace with these columns.
pub(super) fn suggestion(path: &Path, names: &[String]) -> String {
    let has = |wanted: &[&str]| wanted.iter().all(|name| names.iter().any(|known| known == name));
    let (is, flags) = if has(&["TIMESTAMP", "ContextTokens", "GeneratedTokens"]) {
        (
            "These are the columns of the Azure LLM inference trace. ",
            "--time TIMESTAMP --duration-expr \"0.2 + ContextTokens/5000 + GeneratedTokens/40\"".to_owned(),
        )
    } else if has(&["timestamp", "input_length", "output_length"]) {
        (
            "These are the columns of a Mooncake trace. ",
            "--time timestamp --time-unit ms --duration-expr \"0.2 + input_length/5000 + output_length/40\""
                .to_owned(),
        )
    } else {
        ("", guessed(names))
    };
    format!(
        "{is}Say which columns to take, such as:\n  enginehouse simulate --trace {} {flags}",
        quoted(&path.to_string_lossy())
    )
}

/// Flags by the sound of the names; a word in capitals where none sounds right.
fn guessed(names: &[String]) -> String {
    let find = |words: &[&str], not: Option<&String>| {
        let sounds = |word: &&str| {
            names.iter().find(|name| name.to_ascii_lowercase().contains(*word) && Some(*name) != not)
        };
        words.iter().find_map(sounds)
    };
    let duration = find(&["duration", "latency", "elapsed", "service", "runtime", "took", "seconds"], None);
    let time = find(&["timestamp", "arriv", "created", "start", "time", "date"], duration);
    let shown = |name: Option<&String>, or: &str| name.map_or_else(|| or.to_owned(), |name| quoted(name));
    let mut flags = format!("--time {} --duration {}", shown(time, "COLUMN"), shown(duration, "COLUMN"));
    let millis = |name: &String| {
        let name = name.to_ascii_lowercase();
        name.ends_with("ms") || name.contains("milli")
    };
    if duration.is_some_and(millis) {
        flags.push_str(" --duration-unit ms");
    }
    for flag in ["engine", "workflow", "priority"] {
        if let Some(name) = find(&[flag], None).filter(|name| Some(*name) != duration && Some(*name) != time)
        {
            flags.push_str(&format!(" --{flag} {}", quoted(name)));
        }
    }
    flags
}

/// A word for the shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_need_each_other_say_so() {
        let some = || Some("a".to_owned());
        let table = [
            (ColumnArgs { engine: some(), ..Default::default() }, "--engine needs --time"),
            (ColumnArgs { time_unit: Some(Unit::Ms), ..Default::default() }, "--time-unit needs --time"),
            (ColumnArgs { time: some(), ..Default::default() }, "--time needs --duration"),
            (
                ColumnArgs { time: some(), duration: some(), duration_expr: some(), ..Default::default() },
                "--duration and --duration-expr exclude",
            ),
            (
                ColumnArgs {
                    time: some(),
                    duration_expr: some(),
                    duration_unit: Some(DurationUnit::Ms),
                    ..Default::default()
                },
                "--duration-unit needs --duration;",
            ),
            (
                ColumnArgs { time: some(), duration_expr: Some("1 +".to_owned()), ..Default::default() },
                "--duration-expr \"1 +\" needs a number",
            ),
        ];
        for (args, wanted) in table {
            let found = args.mapped().expect_err(wanted);
            assert!(found.starts_with(wanted), "{found}");
        }
    }

    #[test]
    fn a_header_leads_to_the_command_line_to_try() {
        let table = [
            (
                "TIMESTAMP,ContextTokens,GeneratedTokens",
                "--time TIMESTAMP --duration-expr \"0.2 + ContextTokens/5000 + GeneratedTokens/40\"",
            ),
            (
                "timestamp,input_length,output_length,hash_ids",
                "--time timestamp --time-unit ms --duration-expr \"0.2 + input_length/5000 + output_length/40\"",
            ),
            (
                "id,started_at,Latency ms,engine_type",
                "--time started_at --duration 'Latency ms' --duration-unit ms --engine engine_type",
            ),
            ("runtime,it's time", "--time 'it'\\''s time' --duration runtime"),
            ("a,b", "--time COLUMN --duration COLUMN"),
        ];
        for (names, wanted) in table {
            let names: Vec<String> = names.split(',').map(str::to_owned).collect();
            let found = suggestion(Path::new("t.csv"), &names);
            let line = format!("\n  enginehouse simulate --trace t.csv {wanted}");
            assert!(found.ends_with(&line), "{names:?}: {found}");
        }
        let many: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
        assert!(listed(&many).ends_with(", c23 and 6 more"));
    }
}
