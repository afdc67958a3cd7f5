//! The keys that sign tokens, their public halves, and the tokens that were revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::{DecodingKey, EncodingKey};

use crate::pem;
use crate::secret::Secret;

/// A key that signs tokens: RSA, kept as PKCS#1.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    kid: String,
    der: Secret<Vec<u8>>,
    public_der: Vec<u8>,
}

/// The public half, which checks tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    kid: String,
    public_der: Vec<u8>,
}

/// Why bytes are no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("key `{kid}` is no RSA key: expected PEM `RSA PRIVATE KEY` (or its DER)")]
    Private { kid: String },
    #[error("key `{kid}` is no RSA public key: expected PEM `RSA PUBLIC KEY` or `PUBLIC KEY`")]
    Public { kid: String },
    #[error("the machine could not make a key")]
    Generate,
}

impl SigningKey {
    /// Makes a 2048-bit key.
    ///
    /// # Errors
    /// When the machine cannot.
    pub fn generate(kid: impl Into<String>) -> Result<Self, InvalidKey> {
        let pair = KeyPair::generate(KeySize::Rsa2048)
            .ok()
            .ok_or(InvalidKey::Generate)?;
        let pkcs8 = pair.as_der().ok().ok_or(InvalidKey::Generate)?;
        let der = pem::pkcs1_of_pkcs8(pkcs8.as_ref()).ok_or(InvalidKey::Generate)?;
        let public_der = pair.public_key().as_ref().to_vec();
        Ok(Self {
            kid: kid.into(),
            der: Secret::new(der),
            public_der,
        })
    }

    /// Reads a key as it is kept: PEM (PKCS#1, or PKCS#8), or raw PKCS#1 DER.
    ///
    /// # Errors
    /// When it is no RSA key.
    pub fn from_bytes(kid: impl Into<String>, bytes: &[u8]) -> Result<Self, InvalidKey> {
        let kid = kid.into();
        let der = match first_block(bytes) {
            Some((label, der)) if label == PRIVATE => Some(der),
            Some((label, der)) if label == "PRIVATE KEY" => pem::pkcs1_of_pkcs8(&der),
            Some(_) => None,
            None => Some(bytes.to_vec()),
        };
        let pair = der.as_deref().and_then(|der| KeyPair::from_der(der).ok());
        match (der, pair) {
            (Some(der), Some(pair)) => {
                let public_der = pair.public_key().as_ref().to_vec();
                Ok(Self {
                    kid,
                    der: Secret::new(der),
                    public_der,
                })
            }
            _ => Err(InvalidKey::Private { kid }),
        }
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key as it is kept: PEM `RSA PRIVATE KEY`.
    pub fn to_pem(&self) -> Secret<String> {
        Secret::new(pem::write(PRIVATE, self.der.expose()))
    }

    /// The half that others may have.
    pub fn verifying(&self) -> VerifyingKey {
        VerifyingKey {
            kid: self.kid.clone(),
            public_der: self.public_der.clone(),
        }
    }

    pub(super) fn encoding_key(&self) -> EncodingKey {
        EncodingKey::from_rsa_der(self.der.expose())
    }
}

impl VerifyingKey {
    /// Reads a public key: PEM `RSA PUBLIC KEY` or `PUBLIC KEY`. A private key is accepted for its public half.
    ///
    /// # Errors
    /// When it is no RSA key.
    pub fn from_bytes(kid: impl Into<String>, bytes: &[u8]) -> Result<Self, InvalidKey> {
        let kid = kid.into();
        let public_der = match first_block(bytes) {
            Some((label, der)) if label == PUBLIC => Some(der),
            Some((label, der)) if label == "PUBLIC KEY" => pem::pkcs1_of_spki(&der),
            _ => {
                return SigningKey::from_bytes(kid.clone(), bytes)
                    .map(|key| key.verifying())
                    .map_err(|_not_private| InvalidKey::Public { kid });
            }
        };
        let usable = public_der.filter(|der| aws_lc_rs::rsa::PublicKey::from_der(der).is_ok());
        match usable {
            Some(public_der) => Ok(Self { kid, public_der }),
            None => Err(InvalidKey::Public { kid }),
        }
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key as PEM `RSA PUBLIC KEY`.
    pub fn to_pem(&self) -> String {
        pem::write(PUBLIC, &self.public_der)
    }

    pub(super) fn decoding_key(&self) -> DecodingKey {
        DecodingKey::from_rsa_der(&self.public_der)
    }
}

const PRIVATE: &str = "RSA PRIVATE KEY";
const PUBLIC: &str = "RSA PUBLIC KEY";

fn first_block(bytes: &[u8]) -> Option<pem::Block> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(pem::parse)?
        .into_iter()
        .next()
}

/// The keys that tokens of one kind may be signed with, and the tokens that were revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: BTreeMap<String, VerifyingKey>,
    revoked: BTreeSet<String>,
}

impl KeyRing {
    /// A ring with these keys. Of two with one id the first counts.
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        let mut ring = Self::default();
        for key in keys {
            ring.keys.entry(key.kid.clone()).or_insert(key);
        }
        ring
    }

    /// The ring with these tokens revoked as well.
    #[must_use]
    pub fn revoking(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.revoked.extend(ids);
        self
    }

    /// The key with this id.
    pub fn key(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.get(kid)
    }

    /// Whether there is no key at all, so no token can be believed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the token with this id was revoked.
    pub fn is_revoked(&self, id: &str) -> bool {
        self.revoked.contains(id)
    }

    /// Which of these keys signs new tokens: the one with the highest number.
    pub fn newest<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> Option<&'a SigningKey> {
        keys.into_iter()
            .max_by_key(|key| key.kid.parse::<u64>().ok())
    }
}

/// Reads a revocation list: token ids separated by commas.
pub fn parse_revocations(text: &str) -> BTreeSet<String> {
    text.split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}
