//! Certificates made for one test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Certificate {
    ForLocalhost,
    ForAnotherHost,
    Expired,
    /// Its own issuer, as `openssl req -x509` makes it: marked as an authority.
    OwnAuthority,
    /// Its own issuer, and no authority.
    SelfSigned,
}

/// A certificate authority of its own and one server certificate from it.
pub(crate) struct Identity {
    folder: tempfile::TempDir,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub(crate) fn new(certificate: Certificate) -> Identity {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let host = match certificate {
            Certificate::ForAnotherHost => "elsewhere.invalid",
            _ => "localhost",
        };
        let mut server = CertificateParams::new(vec![host.to_owned()]).unwrap();
        if matches!(certificate, Certificate::Expired) {
            server.not_before = rcgen::date_time_ymd(2001, 1, 1);
            server.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let own_issuer = matches!(certificate, Certificate::OwnAuthority | Certificate::SelfSigned);
        server.is_ca = match certificate {
            Certificate::OwnAuthority => IsCa::Ca(BasicConstraints::Unconstrained),
            Certificate::SelfSigned => IsCa::ExplicitNoCa,
            _ => IsCa::NoCa,
        };
        let key = KeyPair::generate().unwrap();
        let signed = match own_issuer {
            true => server.self_signed(&key).unwrap(),
            false => server.signed_by(&key, &authority).unwrap(),
        };
        let trusted = if own_issuer { signed.pem() } else { authority.pem() };
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], private)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), trusted).unwrap();
        Identity { folder, config: Arc::new(config) }
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}
