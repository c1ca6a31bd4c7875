//! A server that speaks raw HTTP/1.1 and misbehaves as planned.

use crate::dialect::{Dialect, Fake, Fault, Step};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 8 << 20;
/// How late a slow answer comes: long enough to notice, far from any time limit of the suite.
const SLOW: Duration = Duration::from_millis(150);

/// A request as the stub read it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path without the query, still encoded.
    pub(crate) path: String,
    /// Query without the question mark, still encoded; empty when there is none.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// The path cut at its slashes.
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|segment| !segment.is_empty()).collect()
    }
}

/// An answer of a healthy engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection stays open after the body, as a stream does whose run goes on.
    holds: bool,
    /// More is announced than comes before the connection ends.
    cut: bool,
    /// No length is announced: the end of the connection is that of the body.
    open_ended: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl ToString) -> Reply {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Reply { status, headers, body: body.to_string().into_bytes(), ..Reply::default() }
    }

    /// Any body under any media type; `""` for none.
    pub(crate) fn of(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Reply {
        let headers = [("content-type".to_owned(), kind.to_owned())];
        let headers = headers.into_iter().filter(|(_, kind)| !kind.is_empty()).collect();
        Reply { status, headers, body: body.into(), ..Reply::default() }
    }

    /// Server-sent events that end.
    pub(crate) fn events(text: &str) -> Reply {
        let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
        Reply { status: 200, headers, body: text.as_bytes().to_vec(), ..Reply::default() }
    }

    /// Keeps the connection open after the body.
    pub(crate) fn held(self) -> Reply {
        Reply { holds: true, ..self }
    }

    /// Ends the connection before the end of what it announced.
    pub(crate) fn cut(self) -> Reply {
        Reply { cut: true, ..self }
    }

    /// Lets the end of the connection end the body.
    pub(crate) fn open_ended(self) -> Reply {
        Reply { open_ended: true, ..self }
    }

    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A fault at the first `times` requests of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) step: Step,
    pub(crate) fault: Fault,
    pub(crate) times: usize,
}

/// A running stub; it ends with this value.
pub(crate) struct Stub {
    url: String,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    dialect: Arc<dyn Dialect>,
    fake: Mutex<Fake>,
    plan: Option<Plan>,
    planned_used: AtomicUsize,
    seen: Mutex<Vec<(Step, Seen)>>,
    /// Connections that are open at present.
    open: AtomicUsize,
}

impl Stub {
    pub(crate) async fn start(dialect: Arc<dyn Dialect>, fake: Fake, plan: Option<Plan>) -> Stub {
        Stub::start_on(dialect, fake, plan, None).await
    }

    pub(crate) async fn start_on(
        dialect: Arc<dyn Dialect>,
        fake: Fake,
        plan: Option<Plan>,
        tls: Option<TlsAcceptor>,
    ) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = if tls.is_some() { "https://localhost" } else { "http://127.0.0.1" };
        let url = format!("{base}:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Shared {
            dialect,
            fake: Mutex::new(fake),
            plan,
            planned_used: AtomicUsize::new(0),
            seen: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, tls, shared.clone()));
        Stub { url, shared, accepting }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn fake<T>(&self, look: impl FnOnce(&mut Fake) -> T) -> T {
        look(&mut self.shared.fake.lock().unwrap())
    }

    /// The requests of a step so far.
    pub(crate) fn seen(&self, step: Step) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|(s, _)| *s == step).map(|(_, request)| request.clone()).collect()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (tls, shared) = (tls.clone(), shared.clone());
        connections.spawn(async move {
            shared.open.fetch_add(1, Ordering::SeqCst);
            let _ = match tls {
                Some(tls) => match tls.accept(socket).await {
                    Ok(stream) => serve(stream, &shared).await.map(drop),
                    Err(error) => Err(error),
                },
                None => serve(socket, &shared).await.map(|(socket, reset)| {
                    if reset {
                        reset_connection(socket);
                    }
                }),
            };
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Closes with RST instead of FIN.
fn reset_connection(socket: TcpStream) {
    let _ = socket.set_zero_linger();
    drop(socket);
}

/// Answers requests until the connection is to end; says whether it is to end by a reset.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    shared: &Shared,
) -> std::io::Result<(S, bool)> {
    while let Some(request) = read_request(&mut stream).await? {
        let step = shared.dialect.step(&request);
        shared.seen.lock().unwrap().push((step, request.clone()));
        let fault = shared.plan.filter(|plan| plan.step == step).and_then(|plan| {
            (shared.planned_used.fetch_add(1, Ordering::SeqCst) < plan.times).then_some(plan.fault)
        });
        let answer = || shared.dialect.answer(&request, &mut shared.fake.lock().unwrap());
        match fault {
            None => {
                if write_reply(&mut stream, &answer()).await? {
                    return Ok((stream, false));
                }
            }
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOW).await;
                write_reply(&mut stream, &answer()).await?;
            }
            Some(Fault::Reset) => return Ok((stream, true)),
            Some(Fault::LostAnswer) => {
                answer();
                return Ok((stream, true));
            }
            Some(fault) => {
                // What a gateway gave up on, and what was spoilt on its way back, was done all the same.
                if step == Step::Submit && fault.comes_of_work() {
                    answer();
                }
                misbehave(&mut stream, fault, &request).await?;
                return Ok((stream, false));
            }
        }
    }
    Ok((stream, false))
}

/// Writes a reply; says whether the connection was held until the other side left it.
async fn write_reply<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reply: &Reply,
) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} Stub\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.holds || reply.open_ended {
        head.push_str("connection: close\r\n\r\n");
    } else {
        head.push_str(&format!("content-length: {}\r\n\r\n", reply.body.len() + usize::from(reply.cut)));
    }
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&reply.body).await?;
    stream.flush().await?;
    if reply.holds {
        until_left(stream).await;
    }
    if reply.open_ended {
        stream.shutdown().await?;
    }
    Ok(reply.holds || reply.cut || reply.open_ended)
}

async fn until_left<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut rest = [0; 256];
    while matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {}
}

async fn misbehave<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    fault: Fault,
    request: &Seen,
) -> std::io::Result<()> {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let whole = |body: &str| format!("{OK}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let text = match fault {
        Fault::Status(status) => refusal(status, "", request),
        Fault::Busy => refusal(429, "retry-after: 7\r\n", request),
        Fault::Redirect => refusal(302, "location: http://elsewhere.invalid/\r\n", request),
        Fault::Malformed => whole("{\"id\": oops"),
        Fault::Empty => whole("{}"),
        Fault::TooDeep => whole(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))),
        Fault::NotHttp => "\u{1}\u{2}\u{3} 220 mail.example ESMTP\r\n\r\n".to_owned(),
        Fault::Truncated => format!("{OK}content-length: 500\r\n\r\n{{\"id\":"),
        Fault::Huge => format!("{OK}content-length: 10000000000\r\n\r\n"),
        Fault::Drip => format!("{OK}content-length: 1000000\r\n\r\n{{"),
        Fault::Endless => format!("{OK}transfer-encoding: chunked\r\n\r\n"),
        Fault::Stall | Fault::Slow | Fault::Reset | Fault::LostAnswer => String::new(),
    };
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    match fault {
        Fault::Stall | Fault::Huge => until_left(stream).await,
        Fault::Drip => loop {
            stream.write_all(b" ").await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        },
        Fault::Endless => {
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        // Without this the peer may see a reset before it has read the answer.
        _ => stream.shutdown().await?,
    }
    Ok(())
}

/// An unwelcome answer that repeats all it was told, as careless servers do.
fn refusal(status: u16, headers: &str, request: &Seen) -> String {
    let body = serde_json::json!({ "message": format!("refused {:?}", request.headers) }).to_string();
    format!(
        "HTTP/1.1 {status} Stub\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Option<Seen>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < HEAD_BYTES_MAX, "the head of a request is over {HEAD_BYTES_MAX} bytes");
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("the head of a request is text");
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    assert!(length <= BODY_BYTES_MAX, "the body of a request is over {BODY_BYTES_MAX} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Seen { method, path: path.to_owned(), query: query.to_owned(), headers, body }))
}
