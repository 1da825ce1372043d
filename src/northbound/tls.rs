//! The client's side of TLS: whom to trust, and who we are. Verification can't be switched off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};

use crate::model::clock;

/// How a connection is verified. Verification can't be switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of the certificate authorities to trust; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of the client's certificate chain and private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The files can't be used; the text says which and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct TlsError(String);

/// Reads the files; blocks on the disk. Files are read at each connect, so renewed certificates are picked up.
pub(super) fn client_config(tls: &TlsConfig) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &tls.ca {
        Some(path) => roots_of(path)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(NotInThePast))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(format!("TLS: {error}")))?
        .with_root_certificates(roots);
    let Some((chain, key)) = &tls.client else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let certificates = certificates(chain)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError(format!("private key {}: {}", key.display(), words(&error))))?;
    let config = builder.with_client_auth_cert(certificates, private).map_err(|error| {
        TlsError(format!("client certificate {} with key {}: {error}", chain.display(), key.display()))
    })?;
    Ok(Arc::new(config))
}

/// The time that certificates are judged by: a machine that starts in 1970 would trust none.
#[derive(Debug)]
struct NotInThePast;

impl TimeProvider for NotInThePast {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(clock::since_epoch()))
    }
}

/// A client that trusts nobody: for connections without TLS, through a library that wants one all the same.
pub(super) fn trusts_nobody() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(format!("TLS: {error}")))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError(format!("CA file {}: {error}", path.display())))?;
    }
    Ok(roots)
}

/// The system's authorities. Single ones that can't be read or parsed are left out: distributions ship a few such.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError(format!("the system has no certificate authorities{why}; name a CA file")));
    }
    Ok(roots)
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError(format!("certificate file {}: {why}", path.display()));
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(words(&error)))?.collect();
    let all = all.map_err(|error| wrong(words(&error)))?;
    if all.is_empty() {
        return Err(wrong("no certificate in it (PEM is expected)".into()));
    }
    Ok(all)
}

fn words(error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "no private key in it (PEM is expected)".into(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_ca_file_is_named() {
        let tls = TlsConfig { ca: Some("/nowhere/ca.pem".into()), client: None };
        let error = client_config(&tls).unwrap_err().to_string();
        assert!(error.starts_with("certificate file /nowhere/ca.pem: No such file"), "{error}");
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let path = std::env::temp_dir().join(format!("taktbus-tls-{}.pem", std::process::id()));
        std::fs::write(&path, "not a certificate\n").unwrap();
        let error =
            client_config(&TlsConfig { ca: Some(path.clone()), client: None }).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.ends_with("no certificate in it (PEM is expected)"), "{error}");
    }
}
