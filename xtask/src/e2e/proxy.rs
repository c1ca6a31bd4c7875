//! A proxy in front of an engine that lets everything through but its health route, and puts a page of its own in the place of a
//! status poll when it is told to.

use super::engine::Kind;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long the engine or a caller may be silent on a connection.
const SILENCE: Duration = Duration::from_secs(120);

/// Pages that stand between a service and an engine in the field: status line, headers, body.
pub(super) const PAGES: [(&str, &str, &str); 5] = [
    ("404 Not Found", "Content-Type: text/plain", "default backend - 404"),
    ("403 Forbidden", "Content-Type: text/html", "<html>Attention Required!</html>"),
    ("401 Unauthorized", "Content-Type: application/json", "{\"message\":\"token expired\"}"),
    ("302 Found", "Location: https://login.example/", ""),
    ("200 OK", "Content-Type: text/html", "<html>Maintenance</html>"),
];

/// A running proxy; it ends with the process.
pub(super) struct Proxy {
    url: String,
    plan: Arc<Mutex<Plan>>,
}

/// Which page comes at which status poll from now on.
#[derive(Default)]
struct Plan {
    page: Option<usize>,
    polls_before: usize,
    shown: usize,
}

impl Proxy {
    pub(super) fn start(kind: Kind, engine: &str) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let engine = engine.trim_start_matches("http://").to_owned();
        let shared = plan.clone();
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let (engine, plan) = (engine.clone(), shared.clone());
                // A connection that breaks is its caller's business.
                std::thread::spawn(move || serve(caller, &engine, kind, &plan).ok());
            }
        });
        Ok(Proxy { url, plan })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Shows a page of [`PAGES`] at the second status poll from now on.
    pub(super) fn show(&self, page: usize) {
        *self.plan.lock().expect("no thread panics with it") =
            Plan { page: Some(page), polls_before: 1, shown: 0 };
    }

    /// How often the page was shown.
    pub(super) fn shown(&self) -> usize {
        self.plan.lock().expect("no thread panics with it").shown
    }
}

impl Plan {
    fn page_for_a_poll(&mut self) -> Option<usize> {
        if self.page.is_some() && self.polls_before > 0 {
            self.polls_before -= 1;
            return None;
        }
        let page = self.page.take()?;
        self.shown += 1;
        Some(page)
    }
}

/// One request and its answer; the connection ends with it.
fn serve(mut caller: TcpStream, engine: &str, kind: Kind, plan: &Mutex<Plan>) -> Result<()> {
    caller.set_read_timeout(Some(SILENCE))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < HEAD_BYTES_MAX, "a head over {HEAD_BYTES_MAX} bytes");
        if caller.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).context("a head that is no text")?;
    let asked = head.lines().next().unwrap_or_default().to_owned();
    let page = match kind_of(&asked, kind) {
        Asked::Health => Some(0),
        Asked::Status => plan.lock().expect("no thread panics with it").page_for_a_poll(),
        Asked::Other => None,
    };
    if let Some(page) = page {
        let (status, header, body) = PAGES[page];
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        return Ok(caller.write_all(answer.as_bytes())?);
    }
    let mut server = TcpStream::connect(engine)?;
    server.set_read_timeout(Some(SILENCE))?;
    // The end of the connection then ends the answer, whatever its form.
    server.write_all(head.trim_end_matches("\r\n").as_bytes())?;
    server.write_all(b"\r\nConnection: close\r\n\r\n")?;
    let (mut up, mut to) = (caller.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut up, &mut to).ok());
    std::io::copy(&mut server, &mut caller)?;
    Ok(caller.shutdown(std::net::Shutdown::Both)?)
}

enum Asked {
    Health,
    Status,
    Other,
}

fn kind_of(asked: &str, kind: Kind) -> Asked {
    let mut words = asked.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let status = match (kind, parts.as_slice()) {
        (Kind::N8n, ["api", "v1", "executions", _]) => !query.contains("includeData"),
        (Kind::Langflow, ["api", "v2", "workflows"]) => query.contains("job_id"),
        (Kind::Langgraph, ["threads", _, "runs", _]) => true,
        _ => false,
    };
    match parts.as_slice() {
        ["healthz", "readiness"] | ["health_check"] | ["ok"] => Asked::Health,
        _ if status && method == "GET" => Asked::Status,
        _ => Asked::Other,
    }
}
