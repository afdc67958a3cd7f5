//! How a zone joins: a single-use token, a request for a certificate, and the certificate.
//!
//! ```text
//! global ─JoinToken─▶ people ─▶ zone: ZoneKey ─request─▶ global: Authority::certify ─certificate─▶ zone
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::authority::{Authority, AuthorityError, set_validity};
use crate::pem;
use crate::secret::Secret;
use crate::spiffe::{SpiffeId, TrustDomain};

/// What a new zone is given: where global is, how to know it, and a secret that is good once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The zone that it is for.
    pub zone: String,
    /// `grpcs://host:port` of global.
    pub global: String,
    /// The fingerprint of global's certificate, `sha256:…`.
    pub fingerprint: String,
    /// Names the token where it is kept.
    pub id: String,
    /// What proves that it was given.
    pub secret: Secret<String>,
}

/// As it is written inside the text.
#[derive(Deserialize, Serialize)]
struct Written {
    z: String,
    g: String,
    f: String,
    i: String,
    s: String,
}

/// The text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: one starts with `{PREFIX}` and is copied whole; `zonal zone join-token ZONE` at global makes one"
)]
pub struct InvalidJoinToken;

const PREFIX: &str = "zonal-join-";

impl JoinToken {
    /// A new one, with a secret that nobody can guess.
    pub fn new(zone: &str, global: &str, fingerprint: &str) -> Self {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Self {
            zone: zone.to_owned(),
            global: global.to_owned(),
            fingerprint: fingerprint.to_owned(),
            id: random(),
            secret: Secret::new(random() + &random()),
        }
    }

    /// The text to be given away.
    pub fn to_text(&self) -> Secret<String> {
        let written = Written {
            z: self.zone.clone(),
            g: self.global.clone(),
            f: self.fingerprint.clone(),
            i: self.id.clone(),
            s: self.secret.expose().clone(),
        };
        // Text members always make JSON.
        let json = serde_json::to_vec(&written).unwrap_or_default();
        Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json)))
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidJoinToken)?;
        let json = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_cause| InvalidJoinToken)?;
        let Written { z, g, f, i, s } =
            serde_json::from_slice(&json).map_err(|_cause| InvalidJoinToken)?;
        Ok(Self {
            zone: z,
            global: g,
            fingerprint: f,
            id: i,
            secret: Secret::new(s),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("zone", &self.zone)
            .field("global", &self.global)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What is kept of a secret: enough to know it again, too little to make it.
pub fn secret_digest(secret: &str) -> String {
    hexadecimal(&Sha256::digest(secret.as_bytes()))
}

/// Compares digests in a time that does not tell how much of them is right.
pub fn same_digest(a: &str, b: &str) -> bool {
    let difference = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && difference == 0
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A zone's own key, which never leaves it.
#[derive(Clone)]
pub struct ZoneKey {
    pem: Secret<String>,
}

impl ZoneKey {
    /// A new key.
    ///
    /// # Errors
    /// The machine cannot make one.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        Ok(Self::from_pem(key.serialize_pem()))
    }

    /// One that was kept.
    pub const fn from_pem(pem: String) -> Self {
        Self {
            pem: Secret::new(pem),
        }
    }

    /// The key as PEM, for keeping it.
    pub const fn pem(&self) -> &Secret<String> {
        &self.pem
    }

    /// A request for a certificate, PEM, signed with the key.
    ///
    /// # Errors
    /// The key cannot be read.
    pub fn request(&self) -> Result<String, AuthorityError> {
        let key = KeyPair::from_pem(self.pem.expose()).map_err(AuthorityError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&key)?.pem()?)
    }
}

impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZoneKey")
    }
}

/// A request for a certificate, whose sender has proved to hold the key.
#[derive(Debug)]
pub struct CertificateRequest {
    parsed: CertificateSigningRequestParams,
}

impl CertificateRequest {
    /// Reads PEM text and checks the signature. Only the key is taken from it.
    ///
    /// # Errors
    /// It is none, or its sender does not hold the key.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let parsed = CertificateSigningRequestParams::from_pem(text)?;
        Ok(Self { parsed })
    }

    /// Tells keys apart.
    pub fn key_digest(&self) -> String {
        let key = self.parsed.public_key.subject_public_key_info();
        hexadecimal(&Sha256::digest(key))
    }
}

/// A zone's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneCertificate {
    /// PEM.
    pub pem: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// The domain of the identities of zones, apart from those of meshes: another authority vouches for them.
const ZONES: &str = "zonal-zones";

/// The authority that vouches for zones.
///
/// # Errors
/// The machine cannot make a key.
pub fn zone_authority(now: Timestamp) -> Result<Authority, AuthorityError> {
    let domain: TrustDomain = ZONES
        .parse()
        .map_err(|error| AuthorityError::Unreadable(format!("{error}")))?;
    Authority::generate(&domain, crate::KeyType::EcdsaP256, now)
}

/// The identity in the certificate of a zone.
///
/// # Errors
/// The name has characters that no zone's name has.
pub fn zone_identity(zone: &str) -> Result<SpiffeId, crate::InvalidSpiffe> {
    ZONES.parse::<TrustDomain>()?.with_path(&format!("/{zone}"))
}

/// The zone that an identity is of.
pub fn zone_of(id: &SpiffeId) -> Option<&str> {
    let zone = id.path().strip_prefix('/')?;
    (id.trust_domain().as_str() == ZONES).then_some(zone)
}

impl Authority {
    /// Issues a certificate for somebody else's key, for the client's end of a connection, good from now for `lifetime`.
    ///
    /// # Errors
    /// The lifetime is out of range.
    pub fn certify(
        &self,
        id: &SpiffeId,
        request: &CertificateRequest,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<ZoneCertificate, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let expires = set_validity(&mut params, now, lifetime)?;
        let certificate = params.signed_by(&request.parsed.public_key, self.issuer())?;
        Ok(ZoneCertificate {
            pem: pem::write("CERTIFICATE", certificate.der()),
            issued: now,
            expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, summarize};

    #[test]
    fn a_token_survives_its_text_and_shows_no_secret() {
        let token = JoinToken::new("east", "grpcs://global:5685", "sha256:ab");
        let text = token.to_text();
        assert_eq!(text.expose().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(token.secret.expose()));
        let other = JoinToken::new("east", "grpcs://global:5685", "sha256:ab");
        assert_ne!(token.secret, other.secret);
        assert_ne!(token.id, other.id);
        for wrong in [
            "",
            "zonal-join-",
            "zonal-join-%%",
            "eyJhbGciOiJSUzI1NiJ9.e30.x",
        ] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(InvalidJoinToken), "{wrong}");
        }
        let cut = text.expose().get(..40).unwrap();
        assert_eq!(cut.parse::<JoinToken>(), Err(InvalidJoinToken));
    }

    #[test]
    fn digests_are_the_same_or_not() {
        let digest = secret_digest("a");
        assert!(same_digest(&digest, &secret_digest("a")));
        assert!(!same_digest(&digest, &secret_digest("b")));
        assert!(!same_digest(&digest, digest.get(..10).unwrap()));
        assert!(!same_digest("", &digest));
    }

    #[test]
    fn a_certificate_is_for_the_key_and_the_zone_that_asked() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let authority = zone_authority(now).unwrap();
        let key = ZoneKey::generate().unwrap();
        let request = CertificateRequest::parse(&key.request().unwrap()).unwrap();
        let id = zone_identity("east").unwrap();
        assert_eq!(zone_of(&id), Some("east"));
        let lifetime = Duration::from_secs(3600);
        let certificate = authority.certify(&id, &request, lifetime, now).unwrap();
        let bundle = Bundle::parse(&certificate.pem).unwrap();
        let summary = summarize(bundle.certificates().next().unwrap()).unwrap();
        assert_eq!(summary.spiffe_ids, [id]);
        assert_eq!(summary.not_after, certificate.expires);
        assert!(!summary.is_authority);
        // The same key asks again: known by its digest. Another is another.
        let again = CertificateRequest::parse(&key.request().unwrap()).unwrap();
        assert_eq!(again.key_digest(), request.key_digest());
        let other = ZoneKey::generate().unwrap().request().unwrap();
        let other = CertificateRequest::parse(&other).unwrap();
        assert_ne!(other.key_digest(), request.key_digest());
    }

    #[test]
    fn a_request_that_was_altered_is_none() {
        let text = ZoneKey::generate().unwrap().request().unwrap();
        let altered: String = text
            .lines()
            .enumerate()
            .map(|(at, line)| match at {
                1 => line.chars().rev().collect::<String>() + "\n",
                _ => line.to_owned() + "\n",
            })
            .collect();
        assert!(CertificateRequest::parse(&altered).is_err());
        assert!(CertificateRequest::parse("").is_err());
        assert!(zone_identity("East/../x").is_err());
    }
}
