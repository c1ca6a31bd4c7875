//! Traces, as CSV or JSON lines, and what a run made of them.

use super::super::Failure;
use super::columns::{ColumnArgs, Length, Mapping, Wanted, listed, suggestion};
use super::moment::Form;
use enginehouse_core::execution::Priority;
use enginehouse_core::lab::{Job, JobTimes, LabRun};
use enginehouse_core::time::{Millis, SECOND};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Rows of one trace, bytes of one row, and names (of engines, of workflows) in it.
const ROWS_MAX: usize = 10_000_000;
const ROW_BYTES_MAX: u64 = 4_096;
const NAMES_MAX: usize = 10_000;

/// The engine of all jobs of a mapped trace that has no column of engines.
const ENGINE: &str = "engine";
const OWN: &str = "Without flags a trace has arrival_s,service_s,engine,priority and perhaps workflow";

/// Each name once in memory.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Result<Arc<str>, String> {
        if let Some(known) = self.0.get(name) {
            return Ok(known.clone());
        }
        if self.0.len() >= NAMES_MAX {
            return Err(format!("names more than {NAMES_MAX} engines and workflows"));
        }
        let fresh: Arc<str> = Arc::from(name);
        self.0.insert(name.to_owned(), fresh.clone());
        Ok(fresh)
    }
}

/// A trace as it was read, and what a reader should know of how it was read.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) jobs: Vec<Job>,
    pub(super) notes: Vec<String>,
}

/// How the rows are written.
#[derive(Debug)]
enum Layout {
    /// Where each wanted column stands.
    Csv(Vec<Option<usize>>),
    /// Which wanted columns some row had.
    Json(Vec<bool>),
}

/// Reads a trace, CSV with a head or JSON lines, one job a row. `-` is standard input.
pub(super) fn read(path: &Path, columns: &ColumnArgs) -> Result<Trace, Failure> {
    let mapping = columns.mapping()?;
    let name = shown(path);
    let at = |row: usize, message: &str| Failure::usage(format!("{name}:{row}: {message}"));
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(|error| Failure::usage(format!("{name}: {error}")))?)
    };
    let mut from = BufReader::with_capacity(1 << 16, input);
    let mut line = String::new();
    let mut rows = Rows::new(path, mapping);
    for row in 1.. {
        line.clear();
        let read = from.by_ref().take(ROW_BYTES_MAX).read_line(&mut line);
        let bytes = read.map_err(|error| at(row, &error.to_string()))?;
        if bytes == 0 {
            break;
        }
        if bytes as u64 == ROW_BYTES_MAX && !line.ends_with('\n') {
            return Err(at(row, &format!("is longer than {ROW_BYTES_MAX} bytes")));
        }
        let text = line.trim_end_matches(['\n', '\r']);
        let text = if row == 1 { text.trim_start_matches('\u{feff}') } else { text };
        rows.take(text).map_err(|message| at(row, &message))?;
    }
    rows.end().map_err(|message| Failure::usage(format!("{name}{message}")))
}

/// A trace's name for people.
pub(super) fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// Rows as they come.
struct Rows<'a> {
    path: &'a Path,
    mapping: Mapping,
    json: bool,
    /// `None` until the first row has come.
    layout: Option<Layout>,
    /// How mapped times are written, once one was seen.
    form: Option<Form>,
    names: Names,
    jobs: Vec<Job>,
    /// When each job came by a mapped clock, in microseconds.
    micros: Vec<i64>,
}

impl Rows<'_> {
    fn new(path: &Path, mapping: Mapping) -> Rows<'_> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let json = matches!(ending, Some("jsonl" | "ndjson"));
        let (names, jobs, micros) = (Names::default(), Vec::new(), Vec::new());
        Rows { path, mapping, json, layout: None, form: None, names, jobs, micros }
    }

    fn take(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() && (self.layout.is_some() || self.json) || self.json && text.trim().is_empty() {
            return Ok(());
        }
        if self.layout.is_none() {
            self.json |= text.trim_start().starts_with('{');
            if !self.json {
                self.layout = Some(Layout::Csv(self.head(text)?));
                return Ok(());
            }
        }
        let cells = if self.json { self.object(text)? } else { self.row(text)? };
        let (micros, job) = self.job(&cells)?;
        if self.mapping.own && self.jobs.last().is_some_and(|before| before.arrival > job.arrival) {
            return Err("arrives before the row above it; a trace is sorted by arrival_s".to_owned());
        }
        if self.jobs.len() >= ROWS_MAX {
            return Err(format!("a trace has at most {ROWS_MAX} rows"));
        }
        self.micros.extend(micros);
        self.jobs.push(job);
        Ok(())
    }

    /// Where the wanted columns stand in a CSV.
    fn head(&self, text: &str) -> Result<Vec<Option<usize>>, String> {
        let names: Vec<String> = cells(text)?.iter().map(|cell| cell.trim().to_owned()).collect();
        let wanted = self.mapping.wanted.iter();
        let places: Vec<Option<usize>> =
            wanted.map(|column| names.iter().position(|name| *name == column.name)).collect();
        self.check(&names, &places.iter().map(Option::is_some).collect::<Vec<_>>())?;
        Ok(places)
    }

    /// Refuses a trace without a column that it needs, and says what to try.
    fn check(&self, names: &[String], found: &[bool]) -> Result<(), String> {
        // An optional column that a flag names must be in the head of a CSV; a JSON row may leave it out.
        let must = |column: &Wanted| column.needed || column.flag.is_some() && !self.json;
        let missing = self.mapping.wanted.iter().zip(found).find(|(column, found)| must(column) && !**found);
        let Some((column, _)) = missing else { return Ok(()) };
        let names_there = listed(names);
        match column.flag {
            Some(flag) => {
                Err(format!("has no column {} ({flag}); its columns are {names_there}", column.name))
            }
            None => Err(format!(
                "has no column {}; its columns are {names_there}. {OWN}.\n{}",
                column.name,
                suggestion(self.path, names)
            )),
        }
    }

    /// The wanted cells of a row of CSV.
    fn row(&self, text: &str) -> Result<Vec<Option<String>>, String> {
        let Some(Layout::Csv(places)) = &self.layout else { return Ok(Vec::new()) };
        let mut cells = cells(text)?;
        let take = |(place, column): (&Option<usize>, &Wanted)| {
            let Some(place) = *place else { return Ok(None) };
            let cell = cells.get_mut(place).map(|cell| std::mem::take(cell).trim().to_owned());
            cell.map(Some).ok_or_else(|| format!("has no {}: too few cells", column.name))
        };
        places.iter().zip(&self.mapping.wanted).map(take).collect()
    }

    /// The wanted cells of a JSON object.
    fn object(&mut self, text: &str) -> Result<Vec<Option<String>>, String> {
        let parsed = serde_json::from_str::<Map<String, Value>>(text);
        let object = parsed.map_err(|error| format!("must be a JSON object: {error}"))?;
        let wanted = &self.mapping.wanted;
        let there: Vec<bool> = wanted.iter().map(|column| object.contains_key(&column.name)).collect();
        match &mut self.layout {
            Some(Layout::Json(seen)) => seen.iter_mut().zip(&there).for_each(|(seen, there)| *seen |= there),
            _ => {
                let names: Vec<String> = object.keys().cloned().collect();
                self.check(&names, &there)?;
                self.layout = Some(Layout::Json(there));
            }
        }
        let cell = |column: &Wanted| match object.get(&column.name) {
            None if column.needed => Err(format!("has no {}", column.name)),
            None => Ok(None),
            Some(Value::Null) => Ok(Some(String::new())),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(format!("{} must be a number or a text, not {other}", column.name)),
        };
        self.mapping.wanted.iter().map(cell).collect()
    }

    /// The job of a row, and when it came by a mapped clock.
    fn job(&mut self, cells: &[Option<String>]) -> Result<(Option<i64>, Job), String> {
        let mapping = &self.mapping;
        let cell = |at: usize| cells.get(at).and_then(Option::as_deref).unwrap_or("");
        let name = |at: usize| mapping.wanted[at].name.as_str();
        let service_s = match &mapping.length {
            Length::Seconds(at) => seconds(cell(*at), name(*at))?,
            Length::Millis(at) => millis(cell(*at), name(*at))?,
            Length::Formula(formula, places) => {
                let values: Result<Vec<f64>, String> =
                    places.iter().map(|at| number(cell(*at), name(*at))).collect();
                let value = formula.value(&values?);
                if !(value.is_finite() && value >= 0.0) {
                    return Err(format!(
                        "--duration-expr must give a number of seconds from 0 on, not {value}"
                    ));
                }
                value
            }
        };
        let engine = mapping.engine.map_or(ENGINE, cell);
        if engine.is_empty() {
            return Err(if mapping.own {
                "names no engine".to_owned()
            } else {
                format!("{} must name an engine, and is empty", mapping.engine.map_or("", name))
            });
        }
        let priority = mapping.priority.map_or(Ok(Priority::Normal), |at| priority(cell(at), name(at)))?;
        let workflow = mapping.workflow.map(cell).filter(|name| !name.is_empty());
        let time = cell(mapping.time);
        let (micros, arrival) = if mapping.own {
            (None, arrival(seconds(time, name(mapping.time))?))
        } else {
            let form =
                *self.form.get_or_insert_with(|| mapping.unit.map_or_else(|| Form::of(time), Form::Number));
            let micros = form.micros(time).map_err(|message| format!("{} {message}", name(mapping.time)))?;
            (Some(micros), 0)
        };
        let (engine, workflow) =
            (self.names.get(engine)?, workflow.map(|name| self.names.get(name)).transpose()?);
        Ok((micros, Job { arrival, service_s, engine, workflow, priority }))
    }

    /// Mapped jobs stand in the order of their times, and the first one is at 0.
    fn end(mut self) -> Result<Trace, String> {
        match &self.layout {
            None => {
                return Err(
                    ":1: is empty; the first row names the columns arrival_s,service_s,engine,priority"
                        .to_owned(),
                );
            }
            Some(Layout::Json(seen)) => {
                let mut unseen = self.mapping.wanted.iter().zip(seen).filter(|(_, seen)| !**seen);
                if let Some((Wanted { name, flag: Some(flag), .. }, _)) = unseen.next() {
                    return Err(format!(": no row has a column {name} ({flag})"));
                }
            }
            Some(Layout::Csv(_)) => {}
        }
        let mut notes = Vec::new();
        if self.mapping.own {
            return Ok(Trace { jobs: self.jobs, notes });
        }
        let time = &self.mapping.wanted[self.mapping.time].name;
        if let (Some(Form::Number(unit)), None) = (self.form, self.mapping.unit) {
            notes.push(format!("{time} is taken as {}; --time-unit says otherwise", unit.as_str()));
        }
        let first = self.micros.iter().copied().min().unwrap_or(0);
        for (job, micros) in self.jobs.iter_mut().zip(&self.micros) {
            job.arrival = micros.abs_diff(first).div_ceil(1_000);
        }
        if !self.micros.is_sorted() {
            let descents = self.micros.windows(2).filter(|pair| pair[0] > pair[1]).count();
            notes.push(format!(
                "the rows are not in the order of {time} (before the row above it: {descents}); they are sorted"
            ));
            let mut order: Vec<(i64, Job)> = self.micros.into_iter().zip(self.jobs).collect();
            order.sort_by_key(|(micros, _)| *micros);
            self.jobs = order.into_iter().map(|(_, job)| job).collect();
        }
        Ok(Trace { jobs: self.jobs, notes })
    }
}

fn number(text: &str, name: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|n| n.is_finite());
    parsed.ok_or_else(|| format!("{name} must be a number, not {text:?}"))
}

fn millis(text: &str, name: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let millis =
        parsed.ok_or_else(|| format!("{name} must be a number of milliseconds from 0 on, not {text:?}"))?;
    Ok(millis / 1e3)
}

fn seconds(text: &str, name: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    parsed.ok_or_else(|| format!("{name} must be a number of seconds from 0 on, not {text:?}"))
}

/// Up to the next millisecond, so that nothing starts before it has arrived.
fn arrival(seconds: f64) -> Millis {
    let micros = (seconds * 1e6).round().min(1e18) as u64;
    micros.div_ceil(1_000)
}

fn priority(text: &str, name: &str) -> Result<Priority, String> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "low" => Ok(Priority::Low),
        "1" | "normal" | "" => Ok(Priority::Normal),
        "2" | "high" => Ok(Priority::High),
        "3" | "critical" => Ok(Priority::Critical),
        _ => {
            Err(format!("{name} must be 0 to 3 (3 is critical), low, normal, high or critical, not {text:?}"))
        }
    }
}

/// The cells of a row. One that begins with a quote ends with one, and a doubled quote in it stands for one.
fn cells(text: &str) -> Result<Vec<String>, String> {
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let Some((cell, after)) = rest.split_once(',') else {
                cells.push(rest.to_owned());
                return Ok(cells);
            };
            cells.push(cell.to_owned());
            rest = after;
            continue;
        };
        let (cell, after) = unquoted(quoted)?;
        cells.push(cell);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(cells),
            None => return Err("has text behind a closing quote".to_owned()),
        }
    }
}

/// A quoted cell without its quotes, and what stands behind it.
fn unquoted(text: &str) -> Result<(String, &str), String> {
    let mut cell = String::new();
    let mut rest = text;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err("has a quote that is not closed".to_owned());
        };
        cell.push_str(part);
        let Some(more) = after.strip_prefix('"') else { return Ok((cell, after)) };
        cell.push('"');
        rest = more;
    }
}

/// When each job started and ended.
pub(super) fn write_jobs(path: &Path, times: &[JobTimes]) -> Result<(), Failure> {
    write(path, "job,start_s,finish_s", |to| {
        times
            .iter()
            .enumerate()
            .try_for_each(|(job, at)| writeln!(to, "{job},{},{}", decimal(at.start), decimal(at.finish)))
    })
}

/// The pool after each tick.
pub(super) fn write_ticks(path: &Path, run: &LabRun) -> Result<(), Failure> {
    write(path, "t_s,ready,starting,draining,target,busy_slots,queued", |to| {
        run.ticks.iter().try_for_each(|tick| {
            let (at, target) = (decimal(tick.at), tick.target);
            writeln!(
                to,
                "{at},{},{},{},{target},{},{}",
                tick.ready, tick.starting, tick.draining, tick.busy_slots, tick.queued
            )
        })
    })
}

fn write(
    path: &Path,
    head: &str,
    rows: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let all = || {
        let mut to = BufWriter::with_capacity(1 << 16, File::create(path)?);
        writeln!(to, "{head}")?;
        rows(&mut to)?;
        to.flush()
    };
    all().map_err(|error: std::io::Error| Failure::call(format!("{}: {error}", path.display())))
}

/// Seconds with three digits.
fn decimal(ms: Millis) -> String {
    format!("{}.{:03}", ms / SECOND, ms % SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Flags {
        #[command(flatten)]
        columns: ColumnArgs,
    }

    fn mapped(name: &str, text: &str, flags: &[&str]) -> Result<Trace, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        let flags = <Flags as clap::Parser>::parse_from(std::iter::once("t").chain(flags.iter().copied()));
        read(&path, &flags.columns).map_err(|failure| {
            let place = failure.message.find(name).unwrap_or(0);
            failure.message[place..].to_owned()
        })
    }

    fn trace(text: &str) -> Result<Vec<Job>, String> {
        mapped("t.csv", text, &[]).map(|trace| trace.jobs)
    }

    /// Arrival, run time, engine, workflow and priority of each job, one a line.
    fn lines(jobs: &[Job]) -> String {
        let line = |job: &Job| {
            let workflow = job.workflow.as_deref().unwrap_or("-");
            format!("{} {:.3} {} {workflow} {}", job.arrival, job.service_s, job.engine, job.priority as u8)
        };
        jobs.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn any_columns_become_jobs_by_their_flags() {
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,5000,40\n\
                     2023-11-16 18:15:50.9951690,0,20\n";
        let formula = "0.2 + ContextTokens/5000 + GeneratedTokens/40";
        let mooncake = "{\"timestamp\": 500, \"input_length\": 5000, \"output_length\": 40, \"hash_ids\": [1]}\n\n\
                        {\"timestamp\": 3000, \"input_length\": 0, \"output_length\": 20, \"hash_ids\": []}\n";
        let all =
            ["--time", "t", "--duration", "d", "--duration-unit", "ms", "--engine", "e", "--workflow", "w"];
        let all = [&all[..], &["--priority", "p"]].concat();
        let table: [(&str, &str, &[&str], &str); 9] = [
            (
                "a.csv",
                azure,
                &["--time", "TIMESTAMP", "--duration-expr", formula],
                "0 2.200 engine - 1; 4315 0.700 engine - 1",
            ),
            (
                "m.jsonl",
                mooncake,
                &[
                    "--time",
                    "timestamp",
                    "--time-unit",
                    "ms",
                    "--duration-expr",
                    "input_length/5000 + output_length/40",
                ],
                "0 2.000 engine - 1; 2500 0.500 engine - 1",
            ),
            (
                "x.csv",
                "\u{feff}p,w,e,d,t\r\nhigh,a b,n8n,1500,1700158546680\r\n0,,http,2,1700158546681\r\n",
                &all,
                "0 1.500 n8n a b 2; 1 0.002 http - 0",
            ),
            (
                "x.ndjson",
                "{\"t\":1,\"d\":\"1500\",\"e\":\"n8n\",\"w\":7,\"p\":3}\n{\"t\":2,\"d\":1,\"e\":\"n8n\",\"w\":null}\n",
                &all,
                "0 1.500 n8n 7 3; 1000 0.001 n8n - 1",
            ),
            (
                "x.txt",
                "\u{feff} {\"t\": \"2023-11-16T18:15:46Z\", \"d\": 3}\n",
                &["--time", "t", "--duration", "d"],
                "0 3.000 engine - 1",
            ),
            (
                "x.csv",
                "t,d\n12.5,1\n10,2\n12.5,3\n-1,4\n",
                &["--time", "t", "--duration", "d"],
                "0 4.000 engine - 1; 11000 2.000 engine - 1; 13500 1.000 engine - 1; 13500 3.000 engine - 1",
            ),
            (
                "x.csv",
                "t\n1\n5\n",
                &["--time", "t", "--duration-expr", "t*2"],
                "0 2.000 engine - 1; 4000 10.000 engine - 1",
            ),
            ("x.csv", "t,d\n", &["--time", "t", "--duration", "d"], ""),
            (
                "own.jsonl",
                "{\"arrival_s\":3,\"service_s\":0.5,\"engine\":\"n8n\",\"priority\":3}\n",
                &[],
                "3000 0.500 n8n - 3",
            ),
        ];
        for (name, text, flags, wanted) in table {
            let trace = mapped(name, text, flags).unwrap_or_else(|message| panic!("{text:?}: {message}"));
            assert_eq!(lines(&trace.jobs), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_was_decided_for_the_reader_is_said() {
        let notes = |text: &str, more: &[&str]| {
            let flags = [&["--time", "t", "--duration", "d"][..], more].concat();
            mapped("t.csv", text, &flags).expect("it is a trace").notes.join("; ")
        };
        assert_eq!(notes("t,d\n1,1\n2,1\n", &[]), "t is taken as seconds; --time-unit says otherwise");
        assert_eq!(
            notes("t,d\n3,1\n2,1\n1,1\n", &["--time-unit", "ms"]),
            "the rows are not in the order of t (before the row above it: 2); they are sorted"
        );
        assert_eq!(notes("t,d\n2023-11-16 18:15:46,1\n", &[]), "");
    }

    #[test]
    fn a_wrong_row_of_a_mapped_trace_names_line_column_and_what_was_expected() {
        let csv = ["--time", "t", "--duration", "d"];
        let all = [&csv[..], &["--engine", "e", "--priority", "p", "--workflow", "w"]].concat();
        let formula = ["--time", "t", "--duration-expr", "1/d - 1"];
        let table: [(&str, &str, &[&str], &str); 16] = [
            ("t.csv", "", &csv, "t.csv:1: is empty"),
            ("t.csv", "t,x\n", &csv, "t.csv:1: has no column d (--duration); its columns are t, x"),
            ("t.csv", "t,d,e,p\n", &all, "t.csv:1: has no column w (--workflow)"),
            ("t.csv", "t,d\n1,1\n2\n", &csv, "t.csv:3: has no d: too few cells"),
            ("t.csv", "t,d\n1,x\n", &csv, "t.csv:2: d must be a number of seconds from 0 on, not \"x\""),
            ("t.csv", "t,d\n1,1\n2023-11-16,1\n", &csv, "t.csv:3: t must be a number of seconds, not"),
            ("t.csv", "t,d\nsoon,1\n", &csv, "t.csv:2: t must be a time such as"),
            ("t.csv", "t,d,e,p,w\n1,1,,1,\n", &all, "t.csv:2: e must name an engine, and is empty"),
            ("t.csv", "t,d,e,p,w\n1,1,n8n,urgent,\n", &all, "t.csv:2: p must be 0 to 3"),
            ("t.csv", "t,d\n1,a\n", &formula, "t.csv:2: d must be a number, not \"a\""),
            (
                "t.csv",
                "t,d\n1,2\n",
                &formula,
                "t.csv:2: --duration-expr must give a number of seconds from 0 on, not -0.5",
            ),
            (
                "t.csv",
                "t,d\n1,0\n",
                &formula,
                "t.csv:2: --duration-expr must give a number of seconds from 0 on, not inf",
            ),
            ("t.jsonl", "{\"t\":1,\"d\":1}\n{\"t\":1\n", &csv, "t.jsonl:2: must be a JSON object"),
            ("t.jsonl", "{\"t\":1,\"d\":1}\n\n{\"t\":1}\n", &csv, "t.jsonl:3: has no d"),
            ("t.jsonl", "{\"t\":1,\"d\":[1]}\n", &csv, "t.jsonl:1: d must be a number or a text, not [1]"),
            (
                "t.jsonl",
                "{\"t\":1,\"d\":1,\"e\":\"x\",\"p\":1}\n",
                &all,
                "t.jsonl: no row has a column w (--workflow)",
            ),
        ];
        for (name, text, flags, wanted) in table {
            let found = mapped(name, text, flags).expect_err(text);
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_known_trace_without_flags_is_told_its_flags() {
        let azure = trace("TIMESTAMP,ContextTokens,GeneratedTokens\n").expect_err("no flags");
        assert!(
            azure.starts_with("t.csv:1: has no column arrival_s; its columns are TIMESTAMP, "),
            "{azure}"
        );
        assert!(azure.contains("--time TIMESTAMP --duration-expr"), "{azure}");
        let row = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\n";
        let mooncake = mapped("m.jsonl", row, &[]).expect_err("no flags");
        assert!(mooncake.contains("m.jsonl --time timestamp --time-unit ms"), "{mooncake}");
    }

    #[test]
    fn columns_stand_in_any_order_and_cells_may_be_quoted() {
        let jobs = trace("engine,workflow,arrival_s,service_s,priority\r\nn8n,\"a, \"\"b\"\"\",14.01,0.5,3\r\n\nn8n,,14.0101,2,low\n")
            .expect("it is a trace");
        let seen: Vec<_> = jobs
            .iter()
            .map(|job| (job.arrival, job.service_s, job.workflow.as_deref(), job.priority))
            .collect();
        assert_eq!(
            seen,
            [(14_010, 0.5, Some("a, \"b\""), Priority::Critical), (14_011, 2.0, None, Priority::Low)]
        );
    }

    #[test]
    fn a_wrong_row_is_named_by_its_line() {
        let head = "arrival_s,service_s,engine,priority\n";
        let table = [
            ("", "t.csv:1: is empty"),
            ("arrival_s,engine\n", "t.csv:1: has no column service_s"),
            ("1,2,n8n,1\n", "t.csv:1: has no column arrival_s"),
            ("H1,2,n8n,1\nx,2,n8n,1\n", "t.csv:3: arrival_s must be a number"),
            ("H1,-2,n8n,1\n", "t.csv:2: service_s must be a number"),
            ("H1,inf,n8n,1\n", "t.csv:2: service_s must be a number"),
            ("H1,2,n8n\n", "t.csv:2: has no priority: too few cells"),
            ("H1,2,,1\n", "t.csv:2: names no engine"),
            ("H1,2,n8n,4\n", "t.csv:2: priority must be 0 to 3"),
            ("H2,2,n8n,1\n1,2,n8n,1\n", "t.csv:3: arrives before the row above"),
            ("H1,2,\"n8n,1\n", "t.csv:2: has a quote that is not closed"),
        ];
        for (text, wanted) in table {
            let found = trace(&text.replace('H', head)).expect_err(text);
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
        let long = format!("{head}1,2,{},1\n", "n".repeat(5_000));
        assert!(trace(&long).expect_err("too long").contains("longer than"));
    }
}
