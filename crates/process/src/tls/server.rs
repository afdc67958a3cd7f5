//! The certificate a listener shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert, WantsServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Fingerprint;
use super::clients::AnyClient;
use super::hosts::{is_dns_name, local_names};

/// How long the certificate made on first start is good for.
const SELF_SIGNED_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Tolerates clocks that are a little behind.
const NOT_BEFORE_MARGIN: Duration = Duration::from_secs(3600);

/// A server's certificate and key, kept in files, swapped under a live listener when the files change.
#[derive(Debug)]
pub struct ServerIdentity {
    certificate_file: PathBuf,
    key_file: PathBuf,
    current: ArcSwap<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    chain_pem: Arc<str>,
    fingerprint: Fingerprint,
    modified: (Option<SystemTime>, Option<SystemTime>),
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use `{file}`: {cause}")]
    File { file: String, cause: std::io::Error },
    #[error("cannot read `{file}`: {reason}; it must hold PEM text")]
    Pem { file: String, reason: String },
    #[error("the key `{key}` does not belong to the certificate `{certificate}`: {reason}")]
    Mismatch {
        certificate: String,
        key: String,
        reason: String,
    },
    #[error("cannot make a certificate: {0}")]
    Make(rcgen::Error),
    #[error("TLS cannot be configured: {0}")]
    Config(rustls::Error),
}

impl ServerIdentity {
    /// Takes `tls.crt` and `tls.key` of `dir`, or makes them: self-signed, for this machine's names and `extra`.
    ///
    /// # Errors
    /// When the folder cannot be used or holds something else.
    pub fn load_or_create(
        dir: &Path,
        extra: &[String],
        now: jiff::Timestamp,
    ) -> Result<Arc<Self>, IdentityError> {
        let (certificate_file, key_file) = (dir.join("tls.crt"), dir.join("tls.key"));
        if !certificate_file.exists() || !key_file.exists() {
            std::fs::create_dir_all(dir).map_err(|cause| file_error(dir, cause))?;
            let made = self_signed(extra, now).map_err(IdentityError::Make)?;
            // The key first: a crash in between leaves no certificate, and both are made again.
            write_private(&key_file, made.key_pem.as_bytes())?;
            write_private(&certificate_file, made.certificate_pem.as_bytes())?;
        }
        Self::from_files(certificate_file, key_file)
    }

    /// Takes a certificate chain and key that somebody else manages.
    ///
    /// # Errors
    /// When the files cannot be read or do not belong together.
    pub fn from_files(
        certificate_file: PathBuf,
        key_file: PathBuf,
    ) -> Result<Arc<Self>, IdentityError> {
        let current = read(&certificate_file, &key_file)?;
        Ok(Arc::new(Self {
            certificate_file,
            key_file,
            current: ArcSwap::from_pointee(current),
        }))
    }

    /// The chain as PEM, leaf first. Also what clients of a self-signed server trust.
    pub fn chain_pem(&self) -> Arc<str> {
        self.current.load().chain_pem.clone()
    }

    /// The leaf's fingerprint, for people to compare and clients to pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.current.load().fingerprint
    }

    /// Where the certificate is kept.
    pub fn certificate_file(&self) -> &Path {
        &self.certificate_file
    }

    /// A configuration for a listener that speaks HTTP/2 and HTTP/1.1, TLS 1.2 and later. It follows reloads.
    ///
    /// # Errors
    /// When the crypto provider does not support those versions.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, IdentityError> {
        self.configured(|builder| builder.with_no_client_auth())
    }

    /// As [`ServerIdentity::server_config`], and clients may show a certificate: they prove that they hold its key, and
    /// whoever handles a request asks [`verify_client`](super::verify_client) whether to believe it.
    ///
    /// # Errors
    /// As there.
    pub fn server_config_taking_certificates(
        self: &Arc<Self>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        self.configured(|builder| builder.with_client_cert_verifier(Arc::new(AnyClient::default())))
    }

    fn configured(
        self: &Arc<Self>,
        clients: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
        ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Config)?;
        let mut config = clients(builder).with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads the files again when they changed. Returns whether something new is served.
    ///
    /// # Errors
    /// When the files are unusable; the old certificate stays.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let modified = (modified(&self.certificate_file), modified(&self.key_file));
        if self.current.load().modified == modified {
            return Ok(false);
        }
        let current = read(&self.certificate_file, &self.key_file)?;
        let fingerprint = current.fingerprint;
        let changed = self.fingerprint() != fingerprint;
        self.current.store(Arc::new(current));
        Ok(changed)
    }

    /// Looks at the files every `interval` until `stop`. Modification times are compared because file
    /// notifications miss swapped links.
    pub async fn watch(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            match self.reload() {
                Ok(changed) => {
                    failing = false;
                    if changed {
                        info!(fingerprint = %self.fingerprint(), "serving a new certificate");
                    }
                }
                // Said once per failure, not at every look.
                Err(error) if !failing => {
                    failing = true;
                    warn!(%error, "could not reload the certificate; the old one is still served");
                }
                Err(_same) => {}
            }
        }
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

struct SelfSigned {
    certificate_pem: String,
    key_pem: String,
}

fn self_signed(extra: &[String], now: jiff::Timestamp) -> Result<SelfSigned, rcgen::Error> {
    let mut names = local_names();
    names.extend(extra.iter().filter(|name| !name.is_empty()).cloned());
    names.dedup();
    let mut params = CertificateParams::default();
    for name in names {
        let san = match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if is_dns_name(&name) => SanType::DnsName(name.try_into()?),
            Err(_) => continue,
        };
        if !params.subject_alt_names.contains(&san) {
            params.subject_alt_names.push(san);
        }
    }
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Zonal");
    name.push(DnType::CommonName, "zonal control plane");
    params.distinguished_name = name;
    // No basic constraints at all: it is its own trust anchor for clients, which some verifiers refuse for a
    // certificate that says "not a CA", and others refuse as a server certificate when it says "CA".
    params.is_ca = rcgen::IsCa::NoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = epoch + Duration::from_secs(seconds);
    params.not_before = now - NOT_BEFORE_MARGIN;
    params.not_after = now + SELF_SIGNED_LIFETIME;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(SelfSigned {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn read(certificate_file: &Path, key_file: &Path) -> Result<Current, IdentityError> {
    let modified = (modified(certificate_file), modified(key_file));
    let chain_pem = std::fs::read_to_string(certificate_file)
        .map_err(|cause| file_error(certificate_file, cause))?;
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| pem_error(certificate_file, &cause))?;
    let Some(fingerprint) = chain.first().map(|leaf| Fingerprint::of(leaf)) else {
        return Err(IdentityError::Pem {
            file: certificate_file.display().to_string(),
            reason: "it has no certificate".to_owned(),
        });
    };
    let key_text = std::fs::read(key_file).map_err(|cause| file_error(key_file, cause))?;
    let key =
        PrivateKeyDer::from_pem_slice(&key_text).map_err(|cause| pem_error(key_file, &cause))?;
    let key =
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|cause| {
            IdentityError::Mismatch {
                certificate: certificate_file.display().to_string(),
                key: key_file.display().to_string(),
                reason: cause.to_string(),
            }
        })?;
    Ok(Current {
        key: Arc::new(key),
        chain_pem: chain_pem.into(),
        fingerprint,
        modified,
    })
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file)
        .and_then(|meta| meta.modified())
        .ok()
}

fn write_private(file: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    crate::files::write_private(file, bytes).map_err(|cause| file_error(file, cause))
}

fn file_error(file: &Path, cause: std::io::Error) -> IdentityError {
    IdentityError::File {
        file: file.display().to_string(),
        cause,
    }
}

fn pem_error(file: &Path, cause: &rustls_pki_types::pem::Error) -> IdentityError {
    IdentityError::Pem {
        file: file.display().to_string(),
        reason: cause.to_string(),
    }
}
