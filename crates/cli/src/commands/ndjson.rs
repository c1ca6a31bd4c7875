//! Submitting a file of requests, one JSON object a line, in batches.
//!
//! A line without an `id` gets one that is computed from its place and text, so a file that is submitted again (after
//! an interruption, or by mistake) submits nothing twice.

use super::output::{Output, printable};
use super::printable::tell;
use super::{Exit, Failure};
use clap::Args;
use enginehouse::plain_text;
use enginehouse_api::client::{Client, ClientError};
use enginehouse_api::{BatchItem, BatchRequest, Code, Problem, SubmitRequest, lone_surrogate};
use enginehouse_core::limits::{BATCH_EXECUTIONS_MAX, REQUEST_BODY_BYTES_MAX, REQUEST_BODY_MIB_MAX};
use enginehouse_core::pauses::Pauses;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Requests of one batch together; what a batch adds around them fits into the rest of a body.
const BATCH_BYTES_MAX: usize = REQUEST_BODY_BYTES_MAX - (64 << 10);
/// What a service can be made to take; a line of more is none. Whether this one takes it, it says itself.
const LINE_BYTES_MAX: usize = REQUEST_BODY_MIB_MAX << 20;
/// How long a service that takes nothing is asked again.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between one try and the next.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(100), Duration::from_secs(5));
/// The ids of lines are UUIDs of version 5 below this one.
const LINES: Uuid = Uuid::from_u128(0x1b0a_3c52_90d4_4b7e_8c1f_6d2e_5a77_e903);

/// A file of requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many at once")]
pub(crate) struct Ndjson {
    /// Submit a file with one request a line (NDJSON), or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["engine_type", "engine", "workflow", "definition", "params", "engine_options", "id", "idempotency_key"])]
    pub(crate) file: Option<PathBuf>,
    /// Requests of one batch
    #[arg(long, default_value_t = 200, value_name = "N", requires = "file", value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Submit the same file again: lines without an id get others for each word given here
    #[arg(long, value_name = "WORD", requires = "file", default_value = "")]
    again: String,
}

struct Line {
    number: usize,
    bytes: usize,
    request: SubmitRequest,
}

#[derive(Default)]
struct Count {
    new: usize,
    there_already: usize,
    /// Accepted by this run or before it: an answer was lost.
    either: usize,
    refused: usize,
}

impl Count {
    fn take(&mut self, items: &[BatchItem], unsure: bool) {
        let repeats = items.iter().filter(|item| item.replayed).count();
        self.new += items.len() - repeats;
        *(if unsure { &mut self.either } else { &mut self.there_already }) += repeats;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} new", self.new)?;
        match self.there_already {
            0 => {}
            1 => write!(f, ", 1 was there already")?,
            many => write!(f, ", {many} were there already")?,
        }
        if self.either > 0 {
            write!(f, ", {} accepted now or earlier (an answer was lost)", self.either)?;
        }
        if self.refused > 0 {
            write!(f, ", {} refused", self.refused)?;
        }
        Ok(())
    }
}

pub(crate) async fn run(args: &Ndjson, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let Some(path) = &args.file else { return Err(Failure::usage("no file was named".to_owned())) };
    let (mut reader, size) = open(path)?;
    let progress = bar(size);
    let mut count = Count::default();
    let mut batch: Vec<Line> = Vec::new();
    let mut number = 0;
    let mut bytes = 0;
    let most = usize::from(args.batch).min(BATCH_EXECUTIONS_MAX);
    let mut begun = false;
    while let Some(mut text) = read_line(&mut reader, number + 1)? {
        number += 1;
        progress.inc(text.len() as u64 + 1);
        if number == 1 {
            let decoded = plain_text::decode(text);
            text = decoded.map_err(|why| Failure::usage(format!("{} {why}", path.display())))?.into_bytes();
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if !begun && text.trim_ascii_start().first() == Some(&b'[') {
            return Err(Failure::usage(one_array(path)));
        }
        begun = true;
        match parse(&text, number, &args.again) {
            Ok(line) => {
                if batch.len() == most || bytes + line.bytes > BATCH_BYTES_MAX {
                    send(std::mem::take(&mut batch), client, output, &progress, &mut count).await?;
                    bytes = 0;
                }
                bytes += line.bytes;
                batch.push(line);
            }
            Err(error) => refuse(number, &error, &progress, &mut count),
        }
    }
    send(batch, client, output, &progress, &mut count).await?;
    progress.finish_and_clear();
    tell!("{count}");
    Ok(if count.refused == 0 { Exit::Done } else { Exit::CallFailed })
}

fn one_array(path: &Path) -> String {
    let name = path.display();
    format!(
        "{name} holds a JSON array; --file takes one request a line (NDJSON), such as jq -c '.[]' {name} makes of it"
    )
}

fn open(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let wrong = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(wrong)?;
    let size = file.metadata().map_err(wrong)?.len();
    Ok((Box::new(BufReader::new(file)), Some(size)))
}

fn bar(size: Option<u64>) -> ProgressBar {
    match size {
        Some(size) => {
            let bar = ProgressBar::new(size);
            let template = "{bar:30} {percent}% {bytes}/{total_bytes} {eta} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        }
        None => ProgressBar::new_spinner(),
    }
}

/// The next line without its end; one that no request can be is an error, as what follows cannot be told apart from it.
fn read_line(reader: &mut dyn BufRead, number: usize) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = reader
        .take(LINE_BYTES_MAX as u64 + 1)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::usage(format!("line {number}: {error}")))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > LINE_BYTES_MAX {
        return Err(Failure::usage(format!("line {number}: longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(Some(line))
}

fn parse(text: &[u8], number: usize, again: &str) -> Result<Line, String> {
    if let Some(lone) = lone_surrogate(text) {
        return Err(format!("{lone} (invalid_json)"));
    }
    let mut request: SubmitRequest = serde_json::from_slice(text).map_err(|error| {
        let whole = if error.is_eof() { "; each line must hold one whole request (NDJSON)" } else { "" };
        format!("{error}{whole}")
    })?;
    if request.id.is_none() {
        let mut name = format!("{again}\n{number}\n").into_bytes();
        name.extend_from_slice(text);
        request.id = Some(Uuid::new_v5(&LINES, &name).to_string());
    }
    // The id that was added counts too.
    Ok(Line { number, bytes: text.len() + 64, request })
}

fn refuse(number: usize, error: &str, progress: &ProgressBar, count: &mut Count) {
    count.refused += 1;
    progress.suspend(|| tell!("line {number}: {}", error));
}

/// Sends a batch; a line that is refused is told and left out, the others are sent again.
async fn send(
    mut batch: Vec<Line>,
    client: &Client,
    output: &mut Output,
    progress: &ProgressBar,
    count: &mut Count,
) -> Result<(), Failure> {
    let (begun, mut pauses) = (Instant::now(), PAUSES);
    // Halves of a batch that was too large for this service.
    let mut later: Vec<Vec<Line>> = Vec::new();
    let mut unsure = false;
    loop {
        if batch.is_empty() {
            match later.pop() {
                Some(half) => batch = half,
                None => return Ok(()),
            }
        }
        let request = BatchRequest { executions: batch.iter().map(|line| line.request.clone()).collect() };
        let error = match client.submit_batch(&request).await {
            Ok(answer) => {
                count.take(&answer.executions, unsure);
                unsure = false;
                progress.suspend(|| tell(&batch, &answer.executions, output))?;
                batch.clear();
                continue;
            }
            Err(error) => error,
        };
        unsure |= is_outcome_unknown(&error);
        if let ClientError::Problem { problem, .. } = &error {
            let refused = refused_lines(problem);
            if !refused.is_empty() {
                for (index, detail) in &refused {
                    if let Some(line) = batch.get(*index) {
                        refuse(line.number, detail, progress, count);
                    }
                }
                let mut index = 0;
                batch.retain(|_| {
                    index += 1;
                    !refused.iter().any(|(at, _)| *at == index - 1)
                });
                continue;
            }
        }
        if error.code() == Some(Code::BodyTooLarge) {
            if batch.len() > 1 {
                later.push(batch.split_off(batch.len() / 2));
            } else if let Some(line) = batch.pop() {
                refuse(line.number, &error.to_string(), progress, count);
            }
            continue;
        }
        // Every line has an id, so asking again submits nothing twice.
        let pause = pauses.after_failure();
        let wait = worth_waiting(&error).map(|after| after.unwrap_or(pause).min(PATIENCE));
        match wait {
            Some(wait) if begun.elapsed() + wait < PATIENCE => {
                progress.set_message(printable(&format!("waiting: {error}")));
                tokio::time::sleep(wait).await;
                progress.set_message("");
            }
            _ => {
                progress.finish_and_clear();
                let first = batch[0].number;
                tell!("{count}; stopped at line {first}. Run it again to go on.");
                return Err(error.into());
            }
        }
    }
}

/// Whether it may have been accepted all the same.
fn is_outcome_unknown(error: &ClientError) -> bool {
    match error {
        ClientError::Lost { .. } => true,
        ClientError::Problem { problem, .. } => problem.code == Code::StoreUnavailable,
        _ => false,
    }
}

/// Whether the service may take it later, and when it says so.
fn worth_waiting(error: &ClientError) -> Option<Option<Duration>> {
    match error {
        ClientError::Unreachable { .. } | ClientError::Lost { .. } => Some(None),
        ClientError::Problem { problem, retry_after } => matches!(
            problem.code,
            Code::QueueFull | Code::RateLimited | Code::Stopping | Code::NotReady | Code::StoreUnavailable
        )
        .then_some(*retry_after),
        _ => None,
    }
}

/// The lines of a batch that a problem names: `/executions/3/priority` is the fourth.
fn refused_lines(problem: &Problem) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for error in &problem.errors {
        let Some(rest) = error.pointer.strip_prefix("/executions/") else { continue };
        let (index, field) = rest.split_once('/').unwrap_or((rest, ""));
        let Ok(index) = index.parse::<usize>() else { continue };
        let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
        let text = format!("{place}{} ({})", error.detail, error.code.as_str());
        match lines.iter_mut().find(|(at, _)| *at == index) {
            Some((_, texts)) => texts.push_str(&format!("; {text}")),
            None => lines.push((index, text)),
        }
    }
    lines
}

fn tell(batch: &[Line], items: &[BatchItem], output: &mut Output) -> Result<(), Failure> {
    for (line, item) in batch.iter().zip(items) {
        if output.is_json() {
            output.record(&serde_json::json!({
                "line": line.number, "id": item.id, "status": item.status, "replayed": item.replayed,
            }))?;
        } else {
            output.id(&item.id)?;
        }
    }
    output.flush()
}
