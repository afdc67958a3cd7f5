//! Authorities and the certificates they issue.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::{Bundle, InvalidBundle, summarize};
use crate::pem;
use crate::secret::Secret;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Certificates are good from a little before they are issued: clocks differ.
const NOT_BEFORE_MARGIN: Duration = Duration::from_secs(10);

/// How long a generated authority is good for.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The kind of key an authority is generated with. Certificates it issues have keys of the same kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// Small and quick to make.
    #[default]
    EcdsaP256,
    /// For peers that know nothing else.
    Rsa2048,
}

/// A certificate authority with its key: what signs the certificates of one mesh in one zone.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_der: Vec<u8>,
    key_pem: Secret<String>,
    not_after: Timestamp,
}

/// A workload's certificate and key.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    pub id: SpiffeId,
    /// The certificate alone: peers hold the authority in their bundle.
    pub chain_pem: String,
    pub key_pem: Secret<String>,
    pub issued: Timestamp,
    pub expires: Timestamp,
}

/// Why there is no authority or certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the certificate: {0}")]
    Certificate(#[source] InvalidBundle),
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate may not sign others: it is not an authority (basic constraints)")]
    NotAuthority,
    #[error("the certificate expired at {at}")]
    Expired { at: Timestamp },
    #[error("the key cannot be read: it must be one PEM block with an RSA, EC or Ed25519 key")]
    Key(#[source] rcgen::Error),
    #[error("the key does not belong to the certificate")]
    Mismatch,
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the lifetime {0:?} is out of range")]
    Lifetime(Duration),
}

impl Authority {
    /// Makes a self-signed authority for a trust domain, good for ten years.
    ///
    /// # Errors
    /// When the machine cannot make a key.
    pub fn generate(
        domain: &TrustDomain,
        key_type: KeyType,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let key = match key_type {
            KeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            KeyType::Rsa2048 => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?,
        };
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Kuma");
        name.push(DnType::OrganizationalUnitName, "Mesh");
        name.push(DnType::CommonName, domain.as_str());
        params.distinguished_name = name;
        params.subject_alt_names = vec![SanType::URI(domain.id().to_string().try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_LIFETIME)?;
        let certificate = params.self_signed(&key)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem(), now)
    }

    /// Takes an authority from its certificate (the first of the text) and key.
    ///
    /// # Errors
    /// When they are unreadable, do not belong together, expired or are no authority.
    pub fn from_pem(
        certificate_pem: &str,
        key_pem: &str,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let bundle = Bundle::parse(certificate_pem).map_err(AuthorityError::Certificate)?;
        let Some(der) = bundle.certificates().next().map(<[u8]>::to_vec) else {
            return Err(AuthorityError::Certificate(InvalidBundle::Empty));
        };
        let summary = summarize(&der).map_err(AuthorityError::Unreadable)?;
        if !summary.is_authority {
            return Err(AuthorityError::NotAuthority);
        }
        if summary.not_after <= now {
            return Err(AuthorityError::Expired {
                at: summary.not_after,
            });
        }
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Key)?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), key)?;
        Ok(Self {
            issuer,
            certificate_der: der,
            key_pem: Secret::new(key_pem.to_owned()),
            not_after: summary.not_after,
        })
    }

    /// The authority's certificate as PEM: what others put into their bundles.
    pub fn certificate_pem(&self) -> String {
        pem::write("CERTIFICATE", &self.certificate_der)
    }

    /// The authority's key as PEM, for keeping it.
    pub const fn key_pem(&self) -> &Secret<String> {
        &self.key_pem
    }

    pub(crate) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// When the authority's certificate ends.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Issues a certificate for `id`, good from now for `lifetime`, for both ends of a connection. It never outlives
    /// the authority.
    ///
    /// # Errors
    /// When the lifetime is out of range, or the machine cannot make a key.
    pub fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Leaf, AuthorityError> {
        let left = Duration::try_from(self.not_after.duration_since(now)).unwrap_or_default();
        let lifetime = lifetime.min(left);
        if lifetime < Duration::from_secs(1) {
            return Err(AuthorityError::Lifetime(lifetime));
        }
        let key = KeyPair::generate_for(self.issuer.key().algorithm())?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let expires = set_validity(&mut params, now, lifetime)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            id: id.clone(),
            chain_pem: pem::write("CERTIFICATE", certificate.der()),
            key_pem: Secret::new(key.serialize_pem()),
            issued: now,
            expires,
        })
    }
}

impl Leaf {
    /// When a new certificate should take its place: after four fifths of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.expires.as_second() - self.issued.as_second();
        let at = self.issued.as_second() + life * 4 / 5;
        Timestamp::from_second(at).unwrap_or(self.expires)
    }

    /// Whether that time has come.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        now >= self.renew_at()
    }
}

/// Sets the times and returns when the certificate ends, in whole seconds as certificates have them.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    now: Timestamp,
    lifetime: Duration,
) -> Result<Timestamp, AuthorityError> {
    let out_of_range = || AuthorityError::Lifetime(lifetime);
    let seconds = u64::try_from(now.as_second())
        .ok()
        .ok_or_else(out_of_range)?;
    // Far beyond any certificate, and within what the date type can hold.
    let end = seconds
        .checked_add(lifetime.as_secs())
        .filter(|end| *end < 250_000_000_000)
        .ok_or_else(out_of_range)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(seconds) - NOT_BEFORE_MARGIN;
    params.not_after = epoch + Duration::from_secs(end);
    let end = i64::try_from(end).ok().ok_or_else(out_of_range)?;
    Timestamp::from_second(end).ok().ok_or_else(out_of_range)
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = summarize(&self.certificate_der);
        f.debug_struct("Authority")
            .field("certificate", &summary)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("id", &self.id)
            .field("issued", &self.issued)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
