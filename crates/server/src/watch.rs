//! When a connection has been given enough time: slow headers, silence between requests, a client that takes no bytes.
//!
//! The HTTP library's own header timer also runs between two requests and not before the protocol version is known, so
//! the connection is watched from outside: what is read and written, and which requests are under way.

use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The times a connection is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Its headers did not arrive in time.
    Header,
    /// No one asked anything.
    Idle,
    /// The client took no byte.
    Write,
}

/// No time noted.
const NEVER: u64 = u64::MAX;

/// What is known about one connection; times are milliseconds since `start`.
pub(crate) struct Watch {
    start: Instant,
    patience: Patience,
    under_way: AtomicUsize,
    /// The end of the last request, or the start of the connection.
    idle_since: AtomicU64,
    /// The first byte read while no request was under way.
    head_since: AtomicU64,
    /// Since when the client has taken no byte.
    stalled_since: AtomicU64,
    /// Frames between requests are ordinary in HTTP/2 and begin no head.
    multiplexed: AtomicBool,
}

impl Watch {
    pub(crate) fn new(patience: Patience) -> Arc<Watch> {
        Arc::new(Watch {
            start: Instant::now(),
            patience,
            under_way: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            // A new connection owes its first request at once.
            head_since: AtomicU64::new(0),
            stalled_since: AtomicU64::new(NEVER),
            multiplexed: AtomicBool::new(false),
        })
    }

    /// A request's headers have arrived; it is under way until the answer's body is gone.
    pub(crate) fn begin(self: &Arc<Self>, multiplexed: bool) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        self.head_since.store(NEVER, Ordering::Release);
        self.multiplexed.store(multiplexed, Ordering::Release);
        UnderWay(Arc::clone(self))
    }

    /// The next instant at which something is overdue unless something happens before it, and what.
    pub(crate) fn deadline(&self) -> Option<(Instant, Overdue)> {
        let at = |since: u64, patience: Duration| self.start + Duration::from_millis(since) + patience;
        let stalled = self.stalled_since.load(Ordering::Acquire);
        let write = (stalled != NEVER).then(|| (at(stalled, self.patience.write), Overdue::Write));
        if self.under_way.load(Ordering::Acquire) > 0 {
            return write;
        }
        let head = self.head_since.load(Ordering::Acquire);
        let idle = match head {
            NEVER => (at(self.idle_since.load(Ordering::Acquire), self.patience.idle), Overdue::Idle),
            since => (at(since, self.patience.header), Overdue::Header),
        };
        Some(write.filter(|w| w.0 < idle.0).unwrap_or(idle))
    }

    /// No request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    /// How long to look away when nothing can be overdue.
    pub(crate) fn pause(&self) -> Duration {
        self.patience.idle.min(self.patience.write)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    fn saw_bytes(&self) {
        if self.under_way.load(Ordering::Acquire) == 0 && !self.multiplexed.load(Ordering::Acquire) {
            let now = self.now();
            let _ = self.head_since.compare_exchange(NEVER, now, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    fn wrote(&self, took_some: bool) {
        if took_some {
            self.stalled_since.store(NEVER, Ordering::Release);
        } else {
            let now = self.now();
            let _ = self.stalled_since.compare_exchange(NEVER, now, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// One request under way; dropping it ends the request.
pub(crate) struct UnderWay(Arc<Watch>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body that keeps its request under way.
pub(crate) struct WatchedBody<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B> WatchedBody<B> {
    pub(crate) fn new(body: B, under_way: UnderWay) -> WatchedBody<B> {
        WatchedBody { body, _under_way: under_way }
    }
}

impl<B: Body + Unpin> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket whose reads and writes are noted.
pub(crate) struct WatchedIo<T> {
    io: T,
    watch: Arc<Watch>,
}

impl<T> WatchedIo<T> {
    pub(crate) fn new(io: T, watch: Arc<Watch>) -> WatchedIo<T> {
        WatchedIo { io, watch }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() && buf.filled().len() > before {
            self.watch.saw_bytes();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch.wrote(polled.is_ready());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch.wrote(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.watch.wrote(polled.is_ready());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
