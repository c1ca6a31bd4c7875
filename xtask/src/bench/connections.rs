//! Thousands of connections that do nothing, and thousands that wait for events, while the usual load runs beside them.

use super::filled::{number, pile};
use super::standard::bench;
use crate::e2e::house::House;
use crate::process::target_dir;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const HELP: &str = "\
The usual load, alone and beside idle keep-alive connections and event streams: one stream in twenty
follows all ends of executions, the others follow one waiting execution each. Prints the figures of
both and the service's memory. Fails when a connection was lost, or when a stream missed an end.

Usage: cargo xtask bench connections [OPTIONS]

  --idle N     idle connections (default: 10000)
  --streams N  event streams (default: 2000)
  --debug      the debug build
";

const CONFIG: &str = "[scaling]\nmin_workers = 1\nmax_workers = 1\nworker_capacity = 64\n\n[engines.demo]\ntype = \"demo\"\ndefault = true\n\n\
    [engines.parked]\ntype = \"demo\"\n";
/// One stream in this many follows all executions.
const ALL_IN: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the streams are looked at.
const SWEEP: Duration = Duration::from_millis(20);

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let (idle, streams) = (number(args, "--idle", 10_000)?, number(args, "--streams", 2_000)?);
    let release = !args.iter().any(|arg| arg == "--debug");
    let house = House::start_built(&target_dir().join("bench/connections"), CONFIG, &[], release)?;
    println!("| connections | submits/s | whole way/s | 200/s p50, ms | p99, ms | memory, MiB |");
    println!("|---|---|---|---|---|---|");
    usual("none beside", &house, release)?;
    let parked = park(&house, streams)?;
    let before = house.memory()?;
    let mut idlers = (0..idle).map(|_| greeted(&house)).collect::<Result<Vec<_>>>()?;
    let opened = parked.iter().enumerate().map(|(at, id)| Stream::open(&house, at, id));
    let mut crowd = opened.collect::<Result<Vec<_>>>()?;
    let each = (house.memory()?.saturating_sub(before)) as f64 / (idle + streams).max(1) as f64;
    let over = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let sweeper = scope.spawn(|| sweep(&mut crowd, &over, &seen));
        let name = format!("{idle} idle, {streams} event streams");
        let measured = usual(&name, &house, release).and_then(|()| let_go(&house, &parked, &seen));
        over.store(true, Ordering::SeqCst);
        sweeper.join().map_err(|_| anyhow::anyhow!("the sweeper panicked"))??;
        measured
    })?;
    drop(crowd);
    usual("the idle ones alone", &house, release)?;
    println!("\n{:.1} KiB of memory for each connection", each / 1_024.0);
    for idler in &mut idlers {
        ask(idler, &house).context("an idle connection was lost")?;
    }
    println!(
        "all {idle} idle connections still answer; {} of {streams} streams saw their end",
        seen.load(Ordering::SeqCst)
    );
    house.stop()
}

fn usual(name: &str, house: &House, release: bool) -> Result<()> {
    let figure = |args: &[&str]| bench(house, release, args);
    let submits = figure(&["--duration", "5s", "--submits-only"])?;
    let whole = figure(&["--duration", "5s", "--wait"])?;
    let paced = figure(&["--duration", "10s", "--wait", "--rate", "200"])?;
    let of = |value: &Value| value.as_f64().unwrap_or(0.0);
    println!(
        "| {name} | {:.0} | {:.0} | {:.2} | {:.2} | {} |",
        of(&submits["submitsPerSecond"]),
        of(&whole["executionsPerSecond"]),
        of(&paced["calls"]["p50"]),
        of(&paced["calls"]["p99"]),
        house.memory()? >> 20,
    );
    Ok(())
}

/// Executions that wait because their engine is paused; their ids.
fn park(house: &House, count: u64) -> Result<Vec<String>> {
    let api = house.api();
    api.must("POST", "/v1/engines/parked/pause", None)?;
    let one = json!({"engine": "parked", "workflowId": "w"});
    pile(&api, &one, count)?;
    let (mut ids, mut next) = (Vec::new(), String::new());
    while (ids.len() as u64) < count {
        let page = api.must("GET", &format!("/v1/executions?engine=parked&limit=1000{next}"), None)?;
        let rows = page["executions"].as_array().context("no list")?;
        ids.extend(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)));
        match page["nextCursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    Ok(ids)
}

/// Lets the parked executions run, and waits until each stream has seen its end.
fn let_go(house: &House, parked: &[String], seen: &AtomicU64) -> Result<()> {
    house.api().must("POST", "/v1/engines/parked/resume", None)?;
    let deadline = Instant::now() + PATIENCE;
    while seen.load(Ordering::SeqCst) < parked.len() as u64 {
        if Instant::now() > deadline {
            bail!(
                "{} of {} streams saw the end of their execution",
                seen.load(Ordering::SeqCst),
                parked.len()
            );
        }
        std::thread::sleep(SWEEP);
    }
    Ok(())
}

fn connect(house: &House) -> Result<TcpStream> {
    let address = house.url().trim_start_matches("http://");
    let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection that has had one answer.
fn greeted(house: &House) -> Result<TcpStream> {
    let mut stream = connect(house)?;
    ask(&mut stream, house)?;
    Ok(stream)
}

/// Asks whether the service lives, and reads the answer to its end.
fn ask(stream: &mut TcpStream, house: &House) -> Result<()> {
    let host = house.url().trim_start_matches("http://");
    stream.write_all(format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 1_024]);
    loop {
        let count = stream.read(&mut piece)?;
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        if count == 0 || !"HTTP/1.1 200".starts_with(&text[..text.len().min(12)]) {
            bail!("no answer: {text}");
        }
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| body.len() >= length) {
            return Ok(());
        }
    }
}

/// An event stream that is read without waiting.
struct Stream {
    connection: TcpStream,
    /// What its last event must hold.
    end: String,
    /// The rest of a line whose end has not come yet, bounded by the size of an event.
    rest: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn open(house: &House, at: usize, id: &str) -> Result<Stream> {
        let mut connection = connect(house)?;
        let path = if at.is_multiple_of(ALL_IN) {
            "/v1/events?type=execution_completed".to_owned()
        } else {
            format!("/v1/executions/{id}/events")
        };
        let (host, key) = (house.url().trim_start_matches("http://"), house.key());
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\naccept: text/event-stream\r\n\r\n"
        );
        connection.write_all(head.as_bytes())?;
        let mut start = [0; 12];
        connection.read_exact(&mut start)?;
        if &start != b"HTTP/1.1 200" {
            bail!("no event stream: {}", String::from_utf8_lossy(&start));
        }
        connection.set_nonblocking(true)?;
        Ok(Stream { connection, end: id.to_owned(), rest: Vec::new(), ended: false })
    }

    /// Reads what has come; true when the end of its execution is in it for the first time.
    fn look(&mut self, piece: &mut [u8]) -> Result<bool> {
        let mut now = false;
        loop {
            let count = match self.connection.read(piece) {
                Ok(0) if self.ended => return Ok(now),
                Ok(0) => bail!("a stream ended before its execution"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(now),
                Err(error) => return Err(error.into()),
                Ok(count) => count,
            };
            self.rest.extend_from_slice(&piece[..count]);
            let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let text = String::from_utf8_lossy(&self.rest[..whole]);
            let end = |line: &str| line.contains("execution_completed") && line.contains(&self.end);
            if !self.ended && text.lines().any(end) {
                (self.ended, now) = (true, true);
            }
            self.rest.drain(..whole);
        }
    }
}

fn sweep(crowd: &mut [Stream], over: &AtomicBool, seen: &AtomicU64) -> Result<()> {
    let mut piece = vec![0; 64 << 10];
    while !over.load(Ordering::SeqCst) {
        for stream in crowd.iter_mut() {
            if stream.look(&mut piece)? {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
        std::thread::sleep(SWEEP);
    }
    Ok(())
}
