//! Enginehouse as one of the peers of a queue benchmark: what submits, and what notes the ends.
//!
//! A harness starts the service with the engines `drain` and `live` (see `bench/peers.py`), submits to `drain` while that is
//! paused, then starts `work`, which lets it go and notes each end. At a fixed rate executions of `live` are submitted and waited
//! for in one call, so their time is what a caller sees: from the moment the call was due to the answer with the result.

use super::numbers::quantile;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

const HELP: &str = "\
The two halves of a peer, called by a harness with ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY set.

Usage: cargo xtask bench peer produce [--n N] [--conc C] [--secs S] [--rate R] [--batch B]
       cargo xtask bench peer work --out FILE

  produce  submits one by one over C connections and prints {n, secs, per_s, p50, p99}; with --rate it
           waits for each end, and appends `t0 t1 ts` (due, answered, due; epoch ms) to the file in OUT
  work     resumes the engine, says READY, and appends `0 t1 ts` (seen, started) for each end
";

/// About one KB in each request and each result.
const PAYLOAD: usize = 1_000;
/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const STACK: usize = 256 << 10;
const CONNECTIONS_PER_THREAD: usize = 16;

pub(crate) fn command(args: &[String]) -> Result<()> {
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    match args.first().map(String::as_str) {
        Some("produce") => produce(&Plan::read(&option)?),
        Some("work") => work(&option("--out").context("--out FILE is missing")?),
        _ => {
            print!("{HELP}");
            Ok(())
        }
    }
}

/// What is to be submitted.
struct Plan {
    n: usize,
    connections: usize,
    lasts: Duration,
    rate: Option<f64>,
    batch: usize,
}

impl Plan {
    fn read(option: &impl Fn(&str) -> Option<String>) -> Result<Plan> {
        let number = |name: &str, otherwise: f64| -> Result<f64> {
            let Some(text) = option(name) else { return Ok(otherwise) };
            text.parse().with_context(|| format!("{name} takes a number, not {text:?}"))
        };
        let lasts = Duration::from_secs_f64(number("--secs", 10.0)?);
        let rate = Some(number("--rate", 0.0)?).filter(|rate| *rate > 0.0);
        let n = match rate {
            Some(rate) => rate * lasts.as_secs_f64(),
            None => number("--n", 1e9)?,
        };
        let connections = number("--conc", 64.0)?.max(1.0) as usize;
        Ok(Plan { n: n as usize, connections, lasts, rate, batch: number("--batch", 1.0)?.max(1.0) as usize })
    }

    /// How many connections each thread has. A thread for each would spend more on switching between them than on the calls.
    fn shares(&self) -> Vec<usize> {
        let each = if self.rate.is_some() { 1 } else { CONNECTIONS_PER_THREAD };
        let full = vec![each; self.connections / each];
        let rest = Some(self.connections % each).filter(|rest| *rest > 0);
        full.into_iter().chain(rest).collect()
    }

    /// The call, ready to be sent.
    fn call(&self, key: &str) -> String {
        let payload = "x7Kq".repeat(PAYLOAD / 4);
        let engine = if self.rate.is_some() { "live" } else { "drain" };
        let parameters = json!({"echo": payload});
        let one = json!({"engine": engine, "workflowId": "bench", "parameters": parameters});
        let (path, body) = match (self.rate, self.batch) {
            (Some(_), _) => ("/v1/executions?wait=30s", one.to_string()),
            (None, 1) => ("/v1/executions", one.to_string()),
            (None, batch) => ("/v1/executions/batch", json!({"executions": vec![one; batch]}).to_string()),
        };
        format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Where the service is.
struct Service {
    address: String,
    key: String,
}

impl Service {
    fn from_environment() -> Result<Service> {
        let url = std::env::var("ENGINEHOUSE_URL").context("ENGINEHOUSE_URL is not set")?;
        let key = std::env::var("ENGINEHOUSE_API_KEY").context("ENGINEHOUSE_API_KEY is not set")?;
        Ok(Service { address: url.trim_start_matches("http://").trim_end_matches('/').to_owned(), key })
    }

    fn connect(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.address).with_context(|| self.address.clone())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

/// Sends one call and reads its answer to the end; refuses any but a success.
fn exchange(connection: &mut BufReader<TcpStream>, call: &str, body: &mut Vec<u8>) -> Result<()> {
    connection.get_mut().write_all(call.as_bytes())?;
    answer(connection, body)
}

fn answer(connection: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> Result<()> {
    let (mut status, mut length, mut line) = (String::new(), 0, String::new());
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            bail!("the connection was closed");
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if status.is_empty() {
            text.clone_into(&mut status);
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    body.resize(length, 0);
    connection.read_exact(body)?;
    if !status.starts_with("HTTP/1.1 2") {
        bail!("{status}: {}", String::from_utf8_lossy(body));
    }
    Ok(())
}

fn produce(plan: &Plan) -> Result<()> {
    let service = Service::from_environment()?;
    let call = plan.call(&service.key);
    let out = match plan.rate {
        Some(_) => std::env::var("OUT").ok().map(|out| File::options().append(true).create(true).open(out)),
        None => None,
    };
    let out = out.transpose()?.map(Mutex::new);
    let (next, latencies) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let begun = Instant::now();
    let producer = Producer { plan, service: &service, call: &call, next: &next, begun, out: out.as_ref() };
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for share in plan.shares() {
            let (thread, producer) = (std::thread::Builder::new().stack_size(STACK), &producer);
            let latencies = &latencies;
            threads.push(thread.spawn_scoped(scope, move || -> Result<()> {
                let took =
                    if plan.rate.is_some() { producer.at_a_rate()? } else { producer.closed(share)? };
                if let Ok(mut all) = latencies.lock() {
                    all.extend(took);
                }
                Ok(())
            })?);
        }
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a producer ended early"))??;
        }
        Ok(())
    })?;
    let secs = begun.elapsed().as_secs_f64();
    let mut latencies = latencies.into_inner().unwrap_or_default();
    latencies.sort_by(f64::total_cmp);
    let n = latencies.len() * plan.batch;
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    println!("{}", json!({"n": n, "secs": secs, "per_s": n as f64 / secs, "p50": p50, "p99": p99}));
    Ok(())
}

/// What the connections share.
struct Producer<'a> {
    plan: &'a Plan,
    service: &'a Service,
    call: &'a str,
    next: &'a AtomicUsize,
    begun: Instant,
    out: Option<&'a Mutex<File>>,
}

impl Producer<'_> {
    /// Some connections, each with one call under way, until all is sent or the time is over; how long the calls took, in ms.
    fn closed(&self, connections: usize) -> Result<Vec<f64>> {
        let open = |_| self.service.connect();
        let mut connections: Vec<_> = (0..connections).map(open).collect::<Result<_>>()?;
        let (mut took, mut body, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            for connection in &mut connections {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                if number * self.plan.batch >= self.plan.n || self.begun.elapsed() > self.plan.lasts {
                    break;
                }
                connection.get_mut().write_all(self.call.as_bytes())?;
                sent.push(Instant::now());
            }
            if sent.is_empty() {
                return Ok(took);
            }
            for (connection, sent) in connections.iter_mut().zip(sent.drain(..)) {
                answer(connection, &mut body)?;
                took.push(sent.elapsed().as_secs_f64() * 1_000.0);
            }
        }
    }

    /// One connection, on which a call's clock begins when it was due, also when no connection was free then.
    fn at_a_rate(&self) -> Result<Vec<f64>> {
        let rate = self.plan.rate.context("there is no rate")?;
        let mut connection = self.service.connect()?;
        let (mut took, mut body) = (Vec::new(), Vec::new());
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.n {
                return Ok(took);
            }
            let due = self.begun + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            exchange(&mut connection, self.call, &mut body)?;
            let waited = due.elapsed().as_secs_f64() * 1_000.0;
            took.push(waited);
            if let Some(out) = self.out {
                self.note(out, waited, &body)?;
            }
        }
    }

    fn note(&self, out: &Mutex<File>, waited: f64, body: &[u8]) -> Result<()> {
        let view: Value = serde_json::from_slice(body)?;
        if view["status"] != "completed" {
            bail!("an execution is {}", view["status"]);
        }
        let (end, mut out) = (epoch_ms()?, out.lock().map_err(|_| anyhow::anyhow!("a writer ended early"))?);
        let due = end - waited;
        writeln!(out, "{due:.3} {end:.3} {due:.3}")?;
        Ok(())
    }
}

fn epoch_ms() -> Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() * 1_000.0)
}

/// Lets the queued work go and notes each end as its event comes.
fn work(out: &str) -> Result<()> {
    let service = Service::from_environment()?;
    let (host, key) = (&service.address, &service.key);
    let mut events = service.connect()?;
    let head = format!(
        "GET /v1/events?engine=drain&type=execution_completed HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    events.get_mut().write_all(head.as_bytes())?;
    events.get_mut().set_read_timeout(None)?;
    let mut line = String::new();
    events.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        bail!("the stream of events was refused: {}", line.trim_end());
    }
    let resume = format!(
        "POST /v1/engines/drain/resume HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-length: 0\r\n\r\n"
    );
    let begun = epoch_ms()?;
    exchange(&mut service.connect()?, &resume, &mut Vec::new())?;
    println!("READY");
    let mut out = File::options().append(true).create(true).open(out)?;
    let mut told = String::new();
    loop {
        line.clear();
        if events.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.starts_with("data: ") {
            told.push_str(&format!("0 {:.3} {begun:.3}\n", epoch_ms()?));
        }
        // What came together is written together.
        if !told.is_empty() && events.buffer().is_empty() {
            out.write_all(told.as_bytes())?;
            told.clear();
        }
    }
}
