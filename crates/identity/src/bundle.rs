//! Bundles of authorities, and what a certificate says.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pem;
use crate::spiffe::SpiffeId;

/// Certificates of authorities: in the order they came, each once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    certificates: Vec<Vec<u8>>,
}

/// Text that is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBundle {
    #[error("it is not PEM text")]
    NotPem,
    #[error("block {index} is a `{label}`, not a `CERTIFICATE`")]
    NotCertificate { index: usize, label: String },
    #[error("certificate {index} cannot be read: {reason}")]
    Certificate { index: usize, reason: String },
    #[error("it has no certificate")]
    Empty,
}

impl Bundle {
    /// Reads PEM text; the same certificate twice counts once.
    ///
    /// # Errors
    /// When a block is not a readable certificate, or there is none.
    pub fn parse(text: &str) -> Result<Self, InvalidBundle> {
        let blocks = pem::parse(text).ok_or(InvalidBundle::NotPem)?;
        let mut bundle = Self::default();
        for (index, (label, der)) in blocks.into_iter().enumerate() {
            if label != "CERTIFICATE" {
                return Err(InvalidBundle::NotCertificate { index, label });
            }
            if let Err(reason) = summarize(&der) {
                return Err(InvalidBundle::Certificate { index, reason });
            }
            bundle.add(der);
        }
        if bundle.certificates.is_empty() {
            Err(InvalidBundle::Empty)
        } else {
            Ok(bundle)
        }
    }

    /// Takes the certificates of `other` that are not there yet. Returns whether any was new.
    pub fn append(&mut self, other: &Self) -> bool {
        let before = self.certificates.len();
        for der in &other.certificates {
            self.add(der.clone());
        }
        self.certificates.len() != before
    }

    /// The certificates in DER form.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(Vec::as_slice)
    }

    /// Whether there is no certificate.
    pub const fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// The bundle as PEM text.
    pub fn to_pem(&self) -> String {
        self.certificates
            .iter()
            .map(|der| pem::write("CERTIFICATE", der))
            .collect()
    }

    /// The SHA-256 of each certificate, in hexadecimal, ordered.
    pub fn fingerprints(&self) -> BTreeSet<String> {
        self.certificates
            .iter()
            .map(|der| fingerprint(der))
            .collect()
    }

    fn add(&mut self, der: Vec<u8>) {
        if !self.certificates.contains(&der) {
            self.certificates.push(der);
        }
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bundle").field(&self.fingerprints()).finish()
    }
}

fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    pub subject: String,
    /// The SPIFFE ids among its names.
    pub spiffe_ids: Vec<SpiffeId>,
    pub not_before: jiff::Timestamp,
    pub not_after: jiff::Timestamp,
    /// Whether it may sign other certificates.
    pub is_authority: bool,
    /// SHA-256 in hexadecimal.
    pub fingerprint: String,
}

/// Reads one certificate in DER form.
///
/// # Errors
/// The reason, as text, when it is malformed.
pub fn summarize(der: &[u8]) -> Result<CertificateSummary, String> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err("there is something after the certificate".to_owned());
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| error.to_string())?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let spiffe_ids = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.parse().ok(),
            _ => None,
        })
        .collect();
    let validity = certificate.validity();
    let time = |seconds: i64| {
        jiff::Timestamp::from_second(seconds)
            .map_err(|_range| "its times are out of range".to_owned())
    };
    Ok(CertificateSummary {
        subject: certificate.subject().to_string(),
        spiffe_ids,
        not_before: time(validity.not_before.timestamp())?,
        not_after: time(validity.not_after.timestamp())?,
        is_authority: certificate.is_ca(),
        fingerprint: fingerprint(der),
    })
}
