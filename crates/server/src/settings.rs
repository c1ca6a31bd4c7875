//! Where the server listens and how patient it is.

use crate::identity::Identity;
use enginehouse_core::limits;
use enginehouse_core::time::{MINUTE, Millis, SECOND};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Everything the HTTP server needs to know. Spans are in milliseconds.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Everybody who reaches it may do everything; refused unless `listen` is a loopback address.
    pub no_auth: bool,
    /// HTTPS instead of HTTP.
    pub tls: Option<TlsSettings>,
    /// Shows which service answers; `None`: no one can find out.
    pub identity: Option<Identity>,
    /// Connections open at once; further ones are closed as soon as they are accepted.
    pub connections_max: usize,
    /// Event streams open at once; further ones are answered `rate_limited`.
    pub event_streams_max: usize,
    /// From the TCP connection to the end of the TLS handshake.
    pub handshake_timeout: Millis,
    /// From the first byte of a request (on a new connection: from its start) to the end of its headers.
    pub header_timeout: Millis,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Millis,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Millis,
    /// How long a client may take no byte of an answer that is ready for it.
    pub write_timeout: Millis,
    /// From the end of the headers to the answer; the time of `?wait=` comes on top.
    pub request_timeout: Millis,
    /// Between two comments on a silent event stream.
    pub event_beat: Millis,
    /// The most bytes of a request's body.
    pub body_bytes_max: usize,
    /// Origins of web pages that may call the service, each exactly as a browser names it; empty: none.
    pub cors_origins: Vec<String>,
    /// How long requests may go on after a stop was asked for.
    pub stop_grace: Millis,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            no_auth: false,
            tls: None,
            identity: None,
            connections_max: limits::CONNECTIONS_MAX,
            event_streams_max: limits::EVENT_STREAMS_MAX,
            handshake_timeout: 10 * SECOND,
            header_timeout: 10 * SECOND,
            body_timeout: 30 * SECOND,
            idle_timeout: 75 * SECOND,
            write_timeout: 30 * SECOND,
            request_timeout: MINUTE,
            event_beat: limits::EVENT_BEAT,
            body_bytes_max: limits::REQUEST_BODY_BYTES_MAX,
            cors_origins: Vec::new(),
            stop_grace: 10 * SECOND,
        }
    }
}

/// The server's certificate, as PEM files; both are read again by [`Server::reload_tls`](crate::Server::reload_tls).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, then the certificates that sign it.
    pub cert_file: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1), unencrypted.
    pub key_file: PathBuf,
}
