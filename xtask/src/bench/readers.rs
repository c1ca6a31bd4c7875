//! Many readers of the service's events, some of whom never read: what the others notice, what memory it takes, and whether
//! anybody misses anything.

use super::numbers::{quantile, seconds};
use crate::e2e::house::House;
use crate::process::target_dir;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

const HELP: &str = "\
A thousand readers of /v1/events, a hundred of whom never read and fifty of whom hang up again and
again and go on where they were, while executions run at a steady rate. Prints how late the events
come, without the mute readers and with them, the service's memory, and how many events were missed.
Fails when one was missed, or came twice.

Usage: cargo xtask bench readers [--debug]
";

const READERS: usize = 1_000;
const MUTE: usize = 100;
const FICKLE: usize = 50;
/// Readers whose events are timed.
const TIMED: usize = 100;
/// Executions a second, and for how long.
const RATE: usize = 200;
const LASTS: Duration = Duration::from_secs(20);
const BATCH: usize = 10;
const PATIENCE: Duration = Duration::from_secs(120);
/// Enough for a loop over lines.
const STACK: usize = 256 << 10;

/// What all readers share.
struct Shared {
    address: String,
    key: String,
    /// Events of this type that each must see.
    wanted: AtomicUsize,
    over: AtomicBool,
    connected: AtomicUsize,
    delays: Mutex<Vec<f64>>,
    /// Times that a stream ended and was resumed.
    resumed: AtomicUsize,
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let release = !args.iter().any(|arg| arg == "--debug");
    println!("{RATE} executions a second for {} s", LASTS.as_secs());
    println!(
        "\n| readers | never read | delay p50, ms | p99, ms | longest, ms | memory, MiB | resumed | missed | twice |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for mute in [0, MUTE] {
        run(mute, release)?;
    }
    Ok(())
}

fn run(mute: usize, release: bool) -> Result<()> {
    let dir = target_dir().join("bench/readers");
    let config = "\n[scaling]\nmin_workers = 2\nmax_workers = 2\nworker_capacity = 50\n\n[engines.demo]\ntype = \"demo\"\n";
    let house = House::start_built(&dir, config, &[], release)?;
    let shared = Shared {
        address: house.url().trim_start_matches("http://").to_owned(),
        key: house.key().to_owned(),
        wanted: AtomicUsize::new(usize::MAX),
        over: AtomicBool::new(false),
        connected: AtomicUsize::new(0),
        delays: Mutex::new(Vec::new()),
        resumed: AtomicUsize::new(0),
    };
    let counts = std::thread::scope(|scope| -> Result<Vec<(usize, usize)>> {
        let mut readers = Vec::new();
        let shared = &shared;
        for number in 0..READERS - mute {
            let thread = std::thread::Builder::new().stack_size(STACK);
            readers.push(thread.spawn_scoped(scope, move || read(shared, number))?);
        }
        let silent: Vec<TcpStream> = (0..mute).map(|_| connect(shared, None)).collect::<Result<_>>()?;
        let driven = drive(&house, shared, READERS - mute);
        shared.over.store(driven.is_err(), Ordering::SeqCst);
        let counts = readers.into_iter().map(|reader| reader.join().unwrap_or((0, 0))).collect();
        drop(silent);
        driven.map(|()| counts)
    })?;
    let memory = house.peak_memory()?;
    house.stop()?;
    let wanted = shared.wanted.load(Ordering::SeqCst);
    let missed: usize = counts.iter().map(|(seen, _)| wanted.saturating_sub(*seen)).sum();
    let twice: usize = counts.iter().map(|(_, twice)| twice).sum();
    let mut delays = shared.delays.into_inner().unwrap_or_default();
    delays.sort_by(f64::total_cmp);
    println!(
        "| {READERS} | {mute} | {:.1} | {:.1} | {:.1} | {} | {} | {missed} | {twice} |",
        quantile(&delays, 0.5),
        quantile(&delays, 0.99),
        quantile(&delays, 1.0),
        memory >> 20,
        shared.resumed.load(Ordering::SeqCst),
    );
    if missed + twice > 0 {
        bail!("{missed} events were missed, {twice} came twice");
    }
    Ok(())
}

/// Submits at the rate once all are there, then tells the readers how many there are.
fn drive(house: &House, shared: &Shared, readers: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while shared.connected.load(Ordering::SeqCst) < readers {
        if Instant::now() > deadline {
            bail!("{} of {readers} readers are connected", shared.connected.load(Ordering::SeqCst));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let api = house.api();
    let one = json!({"engine": "demo", "workflowId": "w"});
    let batch = json!({"executions": vec![one; BATCH]});
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < LASTS {
        api.must("POST", "/v1/executions/batch", Some(&batch))?;
        sent += BATCH;
        std::thread::sleep(
            Duration::from_secs_f64(sent as f64 / RATE as f64).saturating_sub(begun.elapsed()),
        );
    }
    shared.wanted.store(sent, Ordering::SeqCst);
    Ok(())
}

fn connect(shared: &Shared, after: Option<&str>) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(&shared.address)?;
    let resume = after.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
    let (host, key) = (&shared.address, &shared.key);
    let head = format!(
        "GET /v1/events?type=execution_completed&after=oldest HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n{resume}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}

/// Reads until it has seen all; how many different ones it saw, and how many came again.
fn read(shared: &Shared, number: usize) -> (usize, usize) {
    let deadline = Instant::now() + PATIENCE + LASTS;
    let (mut seen, mut twice) = (std::collections::HashSet::new(), 0);
    let mut last: Option<String> = None;
    while Instant::now() < deadline && !shared.over.load(Ordering::SeqCst) {
        if seen.len() >= shared.wanted.load(Ordering::SeqCst) {
            break;
        }
        let hangs_up =
            (number < FICKLE).then(|| Instant::now() + Duration::from_millis(500 + 20 * number as u64));
        let ended = follow(shared, number, &mut last, hangs_up, |id| {
            twice += usize::from(!seen.insert(id.to_owned()));
            seen.len()
        });
        if ended.is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        shared.resumed.fetch_add(1, Ordering::SeqCst);
    }
    (seen.len(), twice)
}

/// One connection, until it ends, hangs up, or has seen all.
fn follow(
    shared: &Shared,
    number: usize,
    last: &mut Option<String>,
    hangs_up: Option<Instant>,
    mut each: impl FnMut(&str) -> usize,
) -> Result<()> {
    let stream = connect(shared, last.as_deref())?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut id, mut greeted, mut count) = (String::new(), String::new(), false, 0);
    loop {
        if shared.over.load(Ordering::SeqCst)
            || hangs_up.is_some_and(|at| Instant::now() > at)
            || count >= shared.wanted.load(Ordering::SeqCst)
        {
            return Ok(());
        }
        // A line may arrive in pieces; what was read of it stays.
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        if !greeted && line.starts_with("HTTP/1.1 200") {
            greeted = true;
            if last.is_none() {
                shared.connected.fetch_add(1, Ordering::SeqCst);
            }
        }
        if let Some(text) = line.strip_prefix("id: ") {
            text.trim_end().clone_into(&mut id);
        } else if let Some(data) = line.strip_prefix("data: ") {
            count = each(&id);
            *last = Some(id.clone());
            if (FICKLE..FICKLE + TIMED).contains(&number) {
                time(shared, data)?;
            }
        }
        line.clear();
    }
}

/// How long ago the event happened, by the clock of this machine, which is the service's too.
fn time(shared: &Shared, data: &str) -> Result<()> {
    let event: Value = serde_json::from_str(data)?;
    let at = seconds(event["at"].as_str().context("no time")?)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    if let Ok(mut delays) = shared.delays.lock() {
        delays.push((now - at).max(0.0) * 1_000.0);
    }
    Ok(())
}
