//! The server's certificate: read from PEM files, exchanged without a restart.

use crate::TlsSettings;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {file} as PEM")]
    Read { file: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{file} holds no certificate")]
    Empty { file: PathBuf },
    #[error("the certificate of {file} cannot be used with its key")]
    Refused { file: PathBuf, source: rustls::Error },
}

/// The configuration in force; a handshake takes the one of its moment.
pub(crate) struct Tls {
    settings: TlsSettings,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    pub(crate) fn load(settings: TlsSettings) -> Result<Tls, TlsError> {
        let current = ArcSwap::from_pointee(read(&settings)?);
        Ok(Tls { settings, current })
    }

    /// Reads the files again; the old certificate stays in force when they are not good.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(&self.settings)?));
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn read(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let (cert_file, key_file) = (&settings.cert_file, &settings.key_file);
    let unreadable = |file: &PathBuf| {
        let file = file.clone();
        move |source| TlsError::Read { file, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect)
        .map_err(unreadable(cert_file))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { file: cert_file.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(unreadable(key_file))?;
    let refused = |source| TlsError::Refused { file: cert_file.clone(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
