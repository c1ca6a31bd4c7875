//! The accept loop and the life of one connection.

use crate::settings::ServerSettings;
use crate::tls::Tls;
use crate::watch::{Overdue, Patience, Watch, WatchedBody, WatchedIo};
use axum::body::Body;
use enginehouse_core::limits;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What answers a request.
pub(crate) type Answerer =
    Arc<dyn Fn(Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync>;

/// How long a connection that was asked to end may take for it before it is cut.
const LEAVE: Duration = Duration::from_secs(2);
/// The least pause after an accept that failed for lack of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until `stop`, each served on a task of `tasks`.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) settings: ServerSettings,
    pub(crate) answerer: Answerer,
    pub(crate) stop: CancellationToken,
    /// Connections that still exist end now.
    pub(crate) cut: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Acceptor {
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(self.settings.connections_max));
        let builder = Arc::new(builder());
        let mut refused: u64 = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                refused += 1;
                if refused.is_power_of_two() {
                    tracing::warn!(refused, limit = self.settings.connections_max, "too many connections");
                }
                continue;
            };
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            // In a box, because each future around it would have room for it once more.
            let connection = Box::pin(self.connection(socket, &builder, place));
            let cut = self.cut.clone();
            self.tasks.spawn(async move {
                cut.run_until_cancelled(connection).await;
            });
        }
    }

    fn connection(
        &self,
        socket: TcpStream,
        builder: &Arc<auto::Builder<TokioExecutor>>,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (settings, tls, builder) = (self.settings.clone(), self.tls.clone(), Arc::clone(builder));
        let (answerer, stop) = (Arc::clone(&self.answerer), self.stop.clone());
        async move {
            let _place = place;
            let patience = Patience {
                header: Duration::from_millis(settings.header_timeout),
                idle: Duration::from_millis(settings.idle_timeout),
                write: Duration::from_millis(settings.write_timeout),
            };
            let Some(tls) = tls else {
                return serve(socket, patience, &builder, answerer, stop).await;
            };
            let handshake = tokio_rustls::TlsAcceptor::from(tls.current()).accept(socket);
            let limit = Duration::from_millis(settings.handshake_timeout);
            let shaken = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                shaken = timeout(limit, handshake) => shaken,
            };
            match shaken {
                Ok(Ok(socket)) => serve(socket, patience, &builder, answerer, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The watch times headers: this library's timer would also end a connection that is merely idle.
        .header_read_timeout(None)
        .max_headers(limits::REQUEST_HEADERS_MAX)
        .max_buf_size(limits::REQUEST_HEAD_BYTES_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::HTTP2_STREAMS_MAX)
        .max_header_list_size(limits::REQUEST_HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

async fn serve<T>(
    socket: T,
    patience: Patience,
    builder: &auto::Builder<TokioExecutor>,
    answerer: Answerer,
    stop: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Watch::new(patience);
    let io = TokioIo::new(WatchedIo::new(socket, Arc::clone(&watch)));
    let service = {
        let watch = Arc::clone(&watch);
        service_fn(move |request: Request<Incoming>| {
            let under_way = watch.begin(request.version() == Version::HTTP_2);
            let answer = answerer(request.map(Body::new));
            async move { Ok::<_, Infallible>(answer.await.map(|body| WatchedBody::new(body, under_way))) }
        })
    };
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut overdue = pin!(WaitOverdue::new(&watch));
    let mut cut = pin!(sleep(LEAVE));
    let (mut stopping, mut told) = (false, false);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            why = overdue.as_mut(), if !told => {
                if why != Overdue::Idle {
                    tracing::debug!(?why, "connection cut");
                    return;
                }
                // An idle connection is told to go away and given a moment, so that no request is lost on its way here.
                told = true;
                connection.as_mut().graceful_shutdown();
                cut.as_mut().reset(Instant::now() + LEAVE);
            }
            () = cut.as_mut(), if told => {
                if watch.is_idle() || watch.deadline().is_some_and(|(at, _)| at <= Instant::now()) {
                    return;
                }
                cut.as_mut().reset(Instant::now() + LEAVE);
            }
        }
    }
}

/// Resolves when something about the connection is overdue. It is polled each time the connection's task wakes, and so
/// sees a deadline that came closer.
struct WaitOverdue<'a> {
    watch: &'a Watch,
    timer: Pin<Box<Sleep>>,
}

impl<'a> WaitOverdue<'a> {
    fn new(watch: &'a Watch) -> WaitOverdue<'a> {
        let first = watch.deadline().map_or_else(|| Instant::now() + watch.pause(), |(at, _)| at);
        WaitOverdue { watch, timer: Box::pin(sleep_until(first)) }
    }
}

impl Future for WaitOverdue<'_> {
    type Output = Overdue;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Overdue> {
        loop {
            let deadline = self.watch.deadline();
            if let Some((at, _)) = deadline
                && at < self.timer.deadline()
            {
                self.timer.as_mut().reset(at);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let next = match deadline {
                Some((at, why)) if at <= now => return Poll::Ready(why),
                Some((at, _)) => at,
                None => now + self.watch.pause(),
            };
            self.timer.as_mut().reset(next);
        }
    }
}
