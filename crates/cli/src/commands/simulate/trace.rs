//! Traces and what a run made of them, as CSV.

use super::super::Failure;
use enginehouse_core::execution::Priority;
use enginehouse_core::lab::{Job, JobTimes, LabRun};
use enginehouse_core::time::{Millis, SECOND};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Rows of one trace, bytes of one row, and names (of engines, of workflows) in it.
const ROWS_MAX: usize = 10_000_000;
const ROW_BYTES_MAX: u64 = 4_096;
const NAMES_MAX: usize = 10_000;

/// Where the columns of a trace stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    arrival: usize,
    service: usize,
    engine: usize,
    priority: Option<usize>,
    workflow: Option<usize>,
}

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

/// Reads a trace: a head with the names of the columns, then one job a row, sorted by arrival.
pub(super) fn read(path: &Path) -> Result<Vec<Job>, Failure> {
    let at = |row: usize, message: &str| Failure::usage(format!("{}:{row}: {message}", path.display()));
    let file = File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut from = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    let mut names = Names::default();
    let mut jobs: Vec<Job> = Vec::new();
    let mut columns = None;
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
        let Some(known) = columns else {
            columns = Some(head(text.trim_start_matches('\u{feff}')).map_err(|message| at(row, &message))?);
            continue;
        };
        if text.is_empty() {
            continue;
        }
        let job = parse(text, known, &mut names).map_err(|message| at(row, &message))?;
        if jobs.last().is_some_and(|before| before.arrival > job.arrival) {
            return Err(at(row, "arrives before the row above it; a trace is sorted by arrival_s"));
        }
        if jobs.len() >= ROWS_MAX {
            return Err(at(row, &format!("a trace has at most {ROWS_MAX} rows")));
        }
        jobs.push(job);
    }
    if columns.is_none() {
        return Err(at(1, "is empty; the first row names the columns arrival_s,service_s,engine,priority"));
    }
    Ok(jobs)
}

fn head(text: &str) -> Result<Columns, String> {
    let names = cells(text)?;
    let find = |name: &str| names.iter().position(|cell| cell.trim() == name);
    let need = |name: &str| {
        find(name).ok_or_else(|| {
            format!(
                "has no column {name}; a trace has arrival_s,service_s,engine,priority and perhaps workflow"
            )
        })
    };
    Ok(Columns {
        arrival: need("arrival_s")?,
        service: need("service_s")?,
        engine: need("engine")?,
        priority: find("priority"),
        workflow: find("workflow"),
    })
}

fn parse(text: &str, columns: Columns, names: &mut Names) -> Result<Job, String> {
    let cells = cells(text)?;
    let cell = |at: usize, name: &str| {
        cells.get(at).map(|cell| cell.trim()).ok_or_else(|| format!("has no {name}: too few cells"))
    };
    let service_s = seconds(cell(columns.service, "service_s")?, "service_s")?;
    let engine = cell(columns.engine, "engine")?;
    if engine.is_empty() {
        return Err("names no engine".to_owned());
    }
    let priority = match columns.priority {
        Some(at) => priority(cell(at, "priority")?)?,
        None => Priority::Normal,
    };
    let workflow = match columns.workflow {
        Some(at) => Some(cell(at, "workflow")?).filter(|name| !name.is_empty()),
        None => None,
    };
    Ok(Job {
        arrival: arrival(seconds(cell(columns.arrival, "arrival_s")?, "arrival_s")?),
        service_s,
        engine: names.get(engine)?,
        workflow: workflow.map(|name| names.get(name)).transpose()?,
        priority,
    })
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

fn priority(text: &str) -> Result<Priority, String> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "low" => Ok(Priority::Low),
        "1" | "normal" | "" => Ok(Priority::Normal),
        "2" | "high" => Ok(Priority::High),
        "3" | "critical" => Ok(Priority::Critical),
        _ => Err(format!(
            "priority must be 0 to 3 (3 is critical), low, normal, high or critical, not {text:?}"
        )),
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

    fn trace(text: &str) -> Result<Vec<Job>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t.csv");
        std::fs::write(&path, text).expect("it is written");
        read(&path).map_err(|failure| {
            let place = failure.message.rfind("t.csv").unwrap_or(0);
            failure.message[place..].to_owned()
        })
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
