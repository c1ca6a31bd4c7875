//! Starting and stopping the server.

use crate::accept::{Acceptor, Answerer};
use crate::app::App;
use crate::settings::ServerSettings;
use crate::table::Route;
use crate::tls::{Tls, TlsError};
use crate::{router, routes};
use enginehouse_runtime::Service;
use http::Request;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections the kernel keeps before they are accepted.
const BACKLOG: u32 = 1_024;

/// Why the server cannot start, or its certificate not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("without authentication only a loopback address may be listened on, not {address}")]
    NoAuthBeyondLoopback { address: SocketAddr },
    #[error("cannot use the TLS certificate")]
    Tls(#[from] TlsFailure),
    #[error("the system gives no random bytes")]
    Random,
}

/// What is wrong with a certificate or its key.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TlsFailure(#[from] TlsError);

/// A server that has its address and answers no one yet: who connects waits.
pub struct Bound {
    address: SocketAddr,
    acceptor: Acceptor,
    tls: Option<Arc<Tls>>,
    changes: TaskTracker,
    grace: Duration,
}

impl Bound {
    /// The address it listens on, with the port that port 0 became.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer.
    #[must_use]
    pub fn open(self) -> Server {
        let Bound { address, acceptor, tls, changes, grace } = self;
        let (stop, connections, cut) = (acceptor.stop.clone(), acceptor.tasks.clone(), acceptor.cut.clone());
        let acceptor = tokio::spawn(acceptor.run());
        Server { address, tls, stop, connections, cut, changes, acceptor, grace }
    }
}

/// The running HTTP server.
pub struct Server {
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
    connections: TaskTracker,
    cut: CancellationToken,
    changes: TaskTracker,
    acceptor: JoinHandle<()>,
    grace: Duration,
}

impl Server {
    /// Binds and begins to answer.
    ///
    /// # Errors
    /// When the address cannot be bound, the certificate not be used, or `no_auth` is combined with an address that is
    /// not loopback.
    pub async fn start(settings: ServerSettings, service: Service) -> Result<Server, ServerError> {
        Ok(Server::bind(settings, service).await?.open())
    }

    /// Takes the address, for who has something to do before the first answer.
    ///
    /// # Errors
    /// As those of [`start`](Server::start).
    pub async fn bind(settings: ServerSettings, service: Service) -> Result<Bound, ServerError> {
        Server::prepare(settings, service, routes::all())
    }

    /// A door for this node's own worker processes: the worker protocol alone, without TLS, on a free port of the loopback
    /// address. It asks for a token whatever the service's own door asks for.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start_worker_door(service: Service) -> Result<Server, ServerError> {
        let settings =
            ServerSettings { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..ServerSettings::default() };
        Ok(Server::prepare(settings, service, routes::worker::ROUTES.iter())?.open())
    }

    fn prepare(
        settings: ServerSettings,
        service: Service,
        routes: impl Iterator<Item = &'static Route>,
    ) -> Result<Bound, ServerError> {
        if settings.no_auth && !settings.listen.ip().is_loopback() {
            return Err(ServerError::NoAuthBeyondLoopback { address: settings.listen });
        }
        let (stop, changes) = (CancellationToken::new(), TaskTracker::new());
        let app = App::new(&settings, service, stop.clone(), changes.clone()).ok_or(ServerError::Random)?;
        let app = Arc::new(app);
        let router = router::router(&app, routes);
        let answerer: Answerer = Arc::new(move |request: Request<_>| {
            Box::pin(router::serve(Arc::clone(&app), router.clone(), request))
        });
        Server::listen(settings, answerer, stop, changes)
    }

    /// Listens for whatever `answerer` answers.
    pub(crate) fn listen(
        settings: ServerSettings,
        answerer: Answerer,
        stop: CancellationToken,
        changes: TaskTracker,
    ) -> Result<Bound, ServerError> {
        let tls = settings.tls.clone().map(Tls::load).transpose().map_err(TlsFailure)?.map(Arc::new);
        let listener = bind(settings.listen)
            .map_err(|source| ServerError::Listen { address: settings.listen, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen { address: settings.listen, source })?;
        let grace = Duration::from_millis(settings.stop_grace);
        let acceptor = Acceptor {
            listener,
            tls: tls.clone(),
            settings,
            answerer,
            stop,
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok(Bound { address, acceptor, tls, changes, grace })
    }

    /// The address it listens on, with the port that port 0 became.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Reads the certificate and its key again, for connections from now on; the old ones stay in force when the files
    /// are not good. Without TLS there is nothing to read.
    ///
    /// # Errors
    /// When a file cannot be read or the certificate does not fit its key.
    pub fn reload_tls(&self) -> Result<(), ServerError> {
        match &self.tls {
            Some(tls) => Ok(tls.reload().map_err(TlsFailure)?),
            None => Ok(()),
        }
    }

    /// Stops accepting, ends event streams and waits, gives other requests the grace, then cuts what is left. Changes
    /// that were begun are finished.
    pub async fn stop(self) {
        self.stop.cancel();
        // The acceptor ends at once; it can fail only by a panic, which is logged where it happens.
        let _ = self.acceptor.await;
        self.connections.close();
        if timeout(self.grace, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections cut at stop");
            self.cut.cancel();
            self.connections.wait().await;
        }
        self.changes.close();
        if timeout(self.grace, self.changes.wait()).await.is_err() {
            tracing::warn!(changes = self.changes.len(), "changes still under way at stop");
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the process before it to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
