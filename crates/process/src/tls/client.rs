//! Whom a client trusts.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::Fingerprint;

/// What makes a server believable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A certificate chain that ends at one of these authorities (PEM) and names the host.
    Authorities(String),
    /// As [`Trust::Authorities`], read from a file.
    AuthorityFile(PathBuf),
    /// Exactly this certificate, whatever it names.
    Pinned(Fingerprint),
    /// Anything. Only on explicit request.
    Anyone,
}

/// Why a client cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read the authorities in `{file}`: {reason}")]
    File { file: String, reason: String },
    #[error("the authorities hold no usable certificate: {reason}")]
    Authorities { reason: String },
    #[error("TLS cannot be configured: {0}")]
    Config(rustls::Error),
    #[error("the certificate to be shown cannot be used: {reason}")]
    Certificate { reason: String },
}

/// What a client shows, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, with those above it if there are any.
    pub chain: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// A client configuration for `trust` that offers the given protocols, e.g. `&["h2"]` for gRPC.
///
/// # Errors
/// When the authorities cannot be read.
pub fn client_config(trust: &Trust, protocols: &[&str]) -> Result<ClientConfig, TrustError> {
    client_config_showing(trust, protocols, None)
}

/// As [`client_config`], for a client that shows a certificate.
///
/// # Errors
/// As there, or the certificate or its key cannot be read.
pub fn client_config_showing(
    trust: &Trust,
    protocols: &[&str],
    shown: Option<&ClientCertificate>,
) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Authorities(pem) => by_authorities(pem, &provider)?,
        Trust::AuthorityFile(file) => {
            let pem = std::fs::read_to_string(file).map_err(|cause| TrustError::File {
                file: file.display().to_string(),
                reason: cause.to_string(),
            })?;
            by_authorities(&pem, &provider)?
        }
        Trust::Pinned(pin) => Arc::new(Unchained {
            pin: Some(*pin),
            provider: provider.clone(),
        }),
        Trust::Anyone => Arc::new(Unchained {
            pin: None,
            provider: provider.clone(),
        }),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let (chain, key) = shown.read()?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TrustError::Config)?
        }
    };
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Ok(config)
}

impl ClientCertificate {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TrustError> {
        let unusable = |cause: rustls_pki_types::pem::Error| TrustError::Certificate {
            reason: cause.to_string(),
        };
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(unusable)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(unusable)?;
        Ok((chain, key))
    }
}

fn by_authorities(
    pem: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let added = certificate
            .map_err(|cause| cause.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|cause| cause.to_string()));
        added.map_err(|reason| TrustError::Authorities { reason })?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|cause| TrustError::Authorities {
            reason: cause.to_string(),
        })?;
    Ok(verifier)
}

/// Accepts one pinned certificate, or any; the server still proves that it holds the key.
#[derive(Debug)]
struct Unchained {
    pin: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchained {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        match self.pin {
            Some(pin) if pin != shown => Err(rustls::Error::General(format!(
                "the server shows certificate `{shown}`, pinned is `{pin}`"
            ))),
            Some(_) | None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
