//! `[server]`: the HTTP API.

use crate::config::checker::Checker;
use crate::config::types::{FilePath, Flag, Span, Text, Texts, UpToADay, Whole, section};
use enginehouse_core::limits::CORS_ORIGINS_MAX;
use enginehouse_core::time::SECOND;
use enginehouse_server::{ServerSettings, TlsSettings};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

section! {
    /// The HTTP API.
    pub struct Server {
        /// Address and port; port 0 takes a free one.
        listen: Text = Text("127.0.0.1:7070".to_owned());
        /// Whether API keys are asked for; only an address of this machine may go without.
        auth: Flag = Flag(true);
        /// Certificate and key for HTTPS. Absent: plain HTTP.
        tls: Option<Tls> = None;
        /// Connections at once. Each is an open file: the process raises its limit of these as far as it may.
        connections_max: Whole<1, 100000> = Whole(16384);
        /// Event streams at once, of one execution or of all.
        event_streams_max: Whole<1, 100000> = Whole(4096);
        /// The largest body of a request, in MiB. Each one that is larger than 4 is held in memory several times over while it is stored.
        body_max_mib: Whole<1, 64> = Whole(4);
        /// Origins of web pages that may call the service from a browser, such as `https://app.example`: scheme, host and port, exactly. Empty: none.
        cors_origins: Texts = Texts::default();
        /// The longest a TLS handshake may take.
        handshake_timeout: UpToADay = Span(10 * SECOND);
        /// The longest the head of a request may take.
        header_timeout: UpToADay = Span(10 * SECOND);
        /// The longest the body of a request may take.
        body_timeout: UpToADay = Span(30 * SECOND);
        /// How long a connection may stay open without a request.
        idle_timeout: UpToADay = Span(75 * SECOND);
    }

    /// Certificate and key for HTTPS.
    pub struct Tls {
        /// PEM file with the certificate and those that lead to its root.
        cert_file: FilePath = FilePath("".into());
        /// PEM file with the private key; readable only for the service.
        key_file: FilePath = FilePath("".into());
    }
}

/// Stands for an address that is a fault, so that the other keys are checked as well.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(in crate::config) fn resolve(raw: &Server, checker: &mut Checker<'_>) -> ServerSettings {
    let Server {
        listen,
        auth,
        tls,
        connections_max,
        event_streams_max,
        body_max_mib,
        cors_origins,
        handshake_timeout,
        header_timeout,
        body_timeout,
        idle_timeout,
    } = raw;
    let listen = address(&listen.0).unwrap_or_else(|why| {
        checker.fault("server/listen", why);
        NOWHERE
    });
    let auth = auth.0;
    checker.require(auth || listen.ip().is_loopback(), "server/auth", || {
        format!("API keys may only be left out on an address of this machine, and server.listen is {listen}")
    });
    check_origins(&cors_origins.0, checker);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    ServerSettings {
        listen,
        no_auth: !auth,
        tls: tls.as_ref().map(|tls| tls_files(tls, checker)),
        connections_max: size(connections_max.0),
        event_streams_max: size(event_streams_max.0),
        body_bytes_max: size(body_max_mib.0) << 20,
        cors_origins: cors_origins.0.clone(),
        handshake_timeout: handshake_timeout.0,
        header_timeout: header_timeout.0,
        body_timeout: body_timeout.0,
        idle_timeout: idle_timeout.0,
        ..ServerSettings::default()
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = |why: String| format!("{text:?} is not an address and port such as 127.0.0.1:7070: {why}");
    let mut found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has no address".to_owned()))
}

fn tls_files(raw: &Tls, checker: &mut Checker<'_>) -> TlsSettings {
    let Tls { cert_file, key_file } = raw;
    let mut file = |path: &FilePath, key: &str| {
        let path = path.expanded();
        if path.as_os_str().is_empty() {
            checker.fault(key, "is missing; TLS needs a certificate and its key");
        } else if let Err(error) = std::fs::File::open(&path) {
            checker.fault(key, format!("{}: {error}", path.display()));
        }
        path
    };
    TlsSettings {
        cert_file: file(cert_file, "server/tls/cert_file"),
        key_file: file(key_file, "server/tls/key_file"),
    }
}

/// An origin that no browser ever names would let no one in, without a word; one that stands for all would let everybody in.
fn check_origins(origins: &[String], checker: &mut Checker<'_>) {
    checker.require(origins.len() <= CORS_ORIGINS_MAX, "server/cors_origins", || {
        format!("has {} origins; at most {CORS_ORIGINS_MAX} may be named", origins.len())
    });
    for origin in origins {
        let named = url::Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let exact = named.as_ref().map(|url| url.origin().ascii_serialization());
        checker.require(exact.as_ref() == Some(origin), "server/cors_origins", || {
            match (exact, origin.as_str()) {
                (Some(exact), _) => format!(
                    "{origin:?} is written {exact:?} by browsers: scheme, host and port, nothing behind"
                ),
                (None, "*") => "\"*\" would let every web page in; name each origin".to_owned(),
                (None, _) => format!("{origin:?} is no origin such as https://app.example"),
            }
        });
    }
}
