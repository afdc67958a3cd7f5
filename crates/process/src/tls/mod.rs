//! TLS: the server's certificate, made on first start and reloaded when its files change, and whom a client trusts.
//!
//! ```text
//! work dir ─ServerIdentity─▶ resolver (newest key) ─▶ rustls::ServerConfig ─▶ net::serve
//! Trust ────client_config──▶ rustls::ClientConfig ──▶ tonic, reqwest
//! ```
//!
//! Start at [`ServerIdentity`] and [`Trust`].

mod client;
mod clients;
mod hosts;
mod server;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

pub use client::{ClientCertificate, Trust, TrustError, client_config, client_config_showing};
pub use clients::verify_client;
pub use hosts::local_names;
pub use server::{IdentityError, ServerIdentity};

/// Makes aws-lc-rs the process's crypto provider. Called first in `main`; calling it again changes nothing.
pub fn install_provider() {
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        tracing::trace!("a crypto provider was installed before");
    }
}

/// The SHA-256 of a certificate, shown as `sha256:…` and given to clients that pin it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a fingerprint: write `sha256:` and 64 hexadecimal digits")]
pub struct InvalidFingerprint {
    pub got: String,
}

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let invalid = || InvalidFingerprint {
            got: text.to_owned(),
        };
        let digits: String = text
            .trim()
            .trim_start_matches("sha256:")
            .chars()
            .filter(|character| *character != ':')
            .collect();
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(at * 2..at * 2 + 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(pair, 16).ok().ok_or_else(invalid)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_survive_their_text() {
        let fingerprint = Fingerprint::of(b"certificate");
        let text = fingerprint.to_string();
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(
            text.to_uppercase().replace("SHA256:", "").parse(),
            Ok(fingerprint)
        );
        assert!("sha256:00".parse::<Fingerprint>().is_err());
        assert!("é".repeat(32).parse::<Fingerprint>().is_err());
    }
}
