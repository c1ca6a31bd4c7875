//! A report for others to read: the table, what was tried, and charts of arrivals, workers, waits and cost.

use super::super::Failure;
use super::chart::{COLORS, Chart, escaped, picture};
use super::{HEAD, Tried, row};
use enginehouse_core::lab::Job;
use enginehouse_core::time::{HOUR, Millis, SECOND};
use std::fmt::Write;
use std::path::Path;

/// Spans into which the time is divided for the charts.
const SPANS: usize = 240;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Markdown,
    Html,
}

/// Writes the report. A Markdown file gets a picture beside it; an HTML file holds it.
pub(super) fn write(path: &Path, trace: &Path, jobs: &[Job], tried: &[Tried]) -> Result<(), Failure> {
    let kind = kind(path)?;
    let title = trace.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let svg = picture(&charts(jobs, tried));
    let save = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|error| Failure::call(format!("{}: {error}", path.display())))
    };
    match kind {
        Kind::Html => save(path, &html(&title, &svg, jobs, tried)),
        Kind::Markdown => {
            let beside = path.with_extension("svg");
            let name =
                beside.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            save(&beside, &svg)?;
            save(path, &markdown(&title, &name, jobs, tried))
        }
    }
}

/// By the ending of the name; refused before anything is run.
fn kind(path: &Path) -> Result<Kind, Failure> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("md") => Ok(Kind::Markdown),
        Some("html" | "htm") => Ok(Kind::Html),
        _ => Err(Failure::usage("--report must end in .md or .html".to_owned())),
    }
}

/// Refuses a name that [`write`] would refuse.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    kind(path).map(drop)
}

fn seconds(at: Millis) -> f64 {
    at as f64 / SECOND as f64
}

/// What is measured at one instant of each span, or over it.
struct Course {
    times: Vec<f64>,
    ready: Vec<f64>,
    starting: Vec<f64>,
    draining: Vec<f64>,
    target: Vec<f64>,
    /// Worker-hours from the beginning.
    cost: Vec<f64>,
    /// The wait that 95 of 100 jobs that arrived in the span did not exceed.
    waits: Vec<f64>,
}

fn span_of(at: Millis, end: Millis) -> usize {
    ((at as u128 * SPANS as u128 / u128::from(end.max(1))) as usize).min(SPANS - 1)
}

fn course(jobs: &[Job], tried: &Tried, end: Millis) -> Course {
    let mut sums = vec![[0.0; 4]; SPANS];
    let mut ticks = vec![0u32; SPANS];
    let mut targets = vec![0u32; SPANS];
    let mut paid = vec![0.0; SPANS];
    let until = tried.run.ticks.iter().skip(1).map(|tick| tick.at).chain([tried.run.end]);
    for (tick, until) in tried.run.ticks.iter().zip(until) {
        let at = span_of(tick.at, end);
        let workers = [tick.ready, tick.starting, tick.draining].map(f64::from);
        (0..3).for_each(|i| sums[at][i] += workers[i]);
        ticks[at] += 1;
        targets[at] = targets[at].max(tick.target);
        paid[at] += workers.iter().sum::<f64>() * until.saturating_sub(tick.at) as f64 / HOUR as f64;
    }
    let mut waits: Vec<Vec<Millis>> = vec![Vec::new(); SPANS];
    for (job, times) in jobs.iter().zip(&tried.run.jobs) {
        waits[span_of(job.arrival, end)].push(times.start.saturating_sub(job.arrival));
    }
    let mean = |at: usize, i: usize| sums[at][i] / f64::from(ticks[at].max(1));
    let waited = |waits: &mut Vec<Millis>| {
        waits.sort_unstable();
        let rank = (waits.len() as f64 * 0.95).ceil() as usize;
        waits.get(rank.saturating_sub(1)).map_or(0.0, |wait| seconds(*wait))
    };
    let spans = 0..SPANS;
    Course {
        times: spans.clone().map(|at| (at as f64 + 0.5) * seconds(end) / SPANS as f64).collect(),
        ready: spans.clone().map(|at| mean(at, 0)).collect(),
        starting: spans.clone().map(|at| mean(at, 1)).collect(),
        draining: spans.map(|at| mean(at, 2)).collect(),
        target: targets.into_iter().map(f64::from).collect(),
        cost: paid
            .iter()
            .scan(0.0, |sum, hours| {
                *sum += hours;
                Some(*sum)
            })
            .collect(),
        waits: waits.iter_mut().map(waited).collect(),
    }
}

fn most<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().copied().fold(0.0, f64::max)
}

fn charts(jobs: &[Job], tried: &[Tried]) -> Vec<Chart> {
    let end = tried.iter().map(|tried| tried.run.end).max().unwrap_or(SECOND);
    let end_s = seconds(end);
    let courses: Vec<Course> = tried.iter().map(|tried| course(jobs, tried, end)).collect();
    let mut arrivals = vec![0.0; SPANS];
    jobs.iter().for_each(|job| arrivals[span_of(job.arrival, end)] += 1.0);
    let span_s = end_s / SPANS as f64;
    arrivals.iter_mut().for_each(|count| *count /= span_s.max(1e-9));
    let mut first = Chart::new("Arrivals per second", end_s, most(&arrivals));
    first.bars(&arrivals, COLORS[0]);
    let mut charts = vec![first];
    let workers = most(courses.iter().flat_map(|c| &c.target));
    for (tried, course) in tried.iter().zip(&courses) {
        charts.push(workers_chart(&tried.variant.name, course, end_s, workers));
    }
    let mut waits = Chart::new(
        "Wait for a start, 95th percentile, seconds",
        end_s,
        most(courses.iter().flat_map(|c| &c.waits)),
    );
    let mut cost = Chart::new("Cost so far, worker-hours", end_s, most(courses.iter().flat_map(|c| &c.cost)));
    for ((tried, course), color) in tried.iter().zip(&courses).zip(COLORS.into_iter().cycle()) {
        waits.line(&course.times, &course.waits, color);
        cost.line(&course.times, &course.cost, color);
        waits.named(&tried.variant.name, color);
        cost.named(&tried.variant.name, color);
    }
    if let Some(tried) = tried.first() {
        waits.level(seconds(tried.variant.scenario.slo_wait), "#c00");
    }
    charts.extend([waits, cost]);
    charts
}

fn workers_chart(name: &str, course: &Course, end_s: f64, most: f64) -> Chart {
    let mut chart = Chart::new(&format!("Workers: {name}"), end_s, most);
    let add = |low: &[f64], more: &[f64]| -> Vec<f64> { low.iter().zip(more).map(|(a, b)| a + b).collect() };
    let nothing = vec![0.0; SPANS];
    let ready = &course.ready;
    let starting = add(ready, &course.starting);
    let all = add(&starting, &course.draining);
    for (low, high, color, name) in [
        (&nothing, ready, "#9ecae1", "ready"),
        (ready, &starting, "#fdd49e", "starting"),
        (&starting, &all, "#bdbdbd", "draining"),
    ] {
        chart.area(&course.times, low, high, color);
        chart.named(name, color);
    }
    chart.line(&course.times, &course.target, COLORS[1]);
    chart.named("target", COLORS[1]);
    chart
}

/// What was run, in one sentence.
fn about(jobs: &[Job], tried: &[Tried]) -> String {
    let Some(base) = tried.first() else { return String::new() };
    let scenario = &base.variant.scenario;
    format!(
        "{} jobs in {:.1} hours; {} to {} workers with {} slots, start-up {} s, promised wait {} s. Late are jobs that \
         ended later than their arrival, their own run time and the promised wait.",
        jobs.len(),
        base.run.end as f64 / HOUR as f64,
        scenario.min_workers,
        scenario.max_workers,
        scenario.slots,
        seconds(scenario.startup),
        seconds(scenario.slo_wait)
    )
}

fn markdown(title: &str, picture: &str, jobs: &[Job], tried: &[Tried]) -> String {
    let mut text = format!("# Simulation of {title}\n\n{}\n\n", about(jobs, tried));
    let _ = writeln!(text, "| {} |", HEAD.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(HEAD.len()));
    for tried in tried {
        let _ = writeln!(text, "| {} |", row(&tried.variant.name, &tried.measures).join(" | "));
    }
    let _ = write!(text, "\n![Arrivals, workers, waits and cost]({picture})\n");
    text
}

fn html(title: &str, picture: &str, jobs: &[Job], tried: &[Tried]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head = cells("th", &mut HEAD.into_iter());
    let rows: String = tried
        .iter()
        .map(|tried| cells("td", &mut row(&tried.variant.name, &tried.measures).iter().map(String::as_str)))
        .collect();
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Simulation of {title}</title>\n\
         <style>body{{font-family:sans-serif;max-width:960px;margin:2em auto;color:#222;background:#fff}}\
         td,th{{padding:.2em .7em;text-align:right}}td:first-child{{text-align:left}}svg{{max-width:100%;height:auto}}</style>\n\
         <h1>Simulation of {title}</h1>\n<p>{}</p>\n<table>\n{head}{rows}</table>\n{picture}</html>\n",
        escaped(&about(jobs, tried))
    )
}
