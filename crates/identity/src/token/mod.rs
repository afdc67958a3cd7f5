//! Tokens: signed statements about who asks a control plane for something.
//!
//! A token is a JWT, signed with RS256, whose header names the key (`kid`). Three kinds exist: [`UserClaims`] for
//! people and pipelines, [`DataplaneClaims`] for proxies, [`ZoneClaims`] for zones. Start at [`issue`] and [`verify`].

mod claims;
mod keys;
mod names;
mod permit;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::Deserialize;
use serde_json::Value;

pub use claims::{Claims, DataplaneClaims, UserClaims, ZoneClaims};
pub use keys::{InvalidKey, KeyRing, SigningKey, VerifyingKey, parse_revocations};
pub use names::TokenKind;
pub use permit::NotPermitted;

/// How long a token is good when its request does not say: ten years.
pub const LIFETIME_DEFAULT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Tokens are good from a little before they are issued: clocks differ.
const NOT_BEFORE_MARGIN_SECONDS: i64 = 5;

/// A token that was believed: its claims and its own name, for revoking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<C> {
    pub claims: C,
    /// The token's `jti`.
    pub id: String,
    /// Which key signed it.
    pub kid: String,
    pub expires: Timestamp,
}

/// Why a token is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("could not parse token: {reason}")]
    Malformed { reason: String },
    #[error("JWT token must have kid header")]
    NoKid,
    #[error("JWT token kid header must be a string")]
    KidNotText,
    #[error("unsupported token alg {got}. Allowed algorithm is RS256")]
    Algorithm { got: String },
    #[error("there is no signing key with KID {kid}")]
    UnknownKey { kid: String },
    #[error("could not parse token: the signature does not match the key {kid}")]
    Signature { kid: String },
    #[error("token is expired: it was good until {at}")]
    Expired { at: Timestamp },
    #[error(
        "token is not yet valid: 'valid_from' date is in the future. Check if the system clock of the issuer \
         or of this machine is right; it is good from {from}"
    )]
    NotYet { from: Timestamp },
    #[error("token is revoked")]
    Revoked,
}

/// Why a token could not be issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error("the lifetime {0:?} is out of range")]
    Lifetime(Duration),
    #[error("the token could not be signed: {0}")]
    Sign(String),
}

/// Issues a token, good from now for `lifetime`.
///
/// # Errors
/// When the lifetime is out of range or the key cannot sign.
pub fn issue<C: Claims>(
    key: &SigningKey,
    claims: &C,
    lifetime: Duration,
    now: Timestamp,
) -> Result<String, IssueError> {
    let issued = now.as_second() - NOT_BEFORE_MARGIN_SECONDS;
    let expires = i64::try_from(lifetime.as_secs())
        .ok()
        .and_then(|seconds| now.as_second().checked_add(seconds))
        .filter(|at| Timestamp::from_second(*at).is_ok())
        .ok_or(IssueError::Lifetime(lifetime))?;
    let mut body = claims.to_members();
    body.insert("jti".to_owned(), uuid::Uuid::new_v4().to_string().into());
    body.insert("iat".to_owned(), issued.into());
    body.insert("nbf".to_owned(), issued.into());
    body.insert("exp".to_owned(), expires.into());
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(key.kid().to_owned());
    jsonwebtoken::encode(&header, &body, &key.encoding_key())
        .map_err(|error| IssueError::Sign(error.to_string()))
}

/// Issues a user token. See [`issue`].
///
/// # Errors
/// As [`issue`].
pub fn issue_user(
    key: &SigningKey,
    claims: &UserClaims,
    lifetime: Duration,
    now: Timestamp,
) -> Result<String, IssueError> {
    issue(key, claims, lifetime, now)
}

/// Issues a dataplane token. See [`issue`].
///
/// # Errors
/// As [`issue`].
pub fn issue_dataplane(
    key: &SigningKey,
    claims: &DataplaneClaims,
    lifetime: Duration,
    now: Timestamp,
) -> Result<String, IssueError> {
    issue(key, claims, lifetime, now)
}

/// Issues a zone token. See [`issue`].
///
/// # Errors
/// As [`issue`].
pub fn issue_zone(
    key: &SigningKey,
    claims: &ZoneClaims,
    lifetime: Duration,
    now: Timestamp,
) -> Result<String, IssueError> {
    issue(key, claims, lifetime, now)
}

/// Checks a user token. See [`verify`].
///
/// # Errors
/// As [`verify`].
pub fn verify_user(
    token: &str,
    keys: &KeyRing,
    now: Timestamp,
) -> Result<Verified<UserClaims>, TokenError> {
    verify(token, keys, now)
}

/// Checks a dataplane token; whether it permits a given proxy is [`DataplaneClaims::permits`].
///
/// # Errors
/// As [`verify`].
pub fn verify_dataplane(
    token: &str,
    keys: &KeyRing,
    now: Timestamp,
) -> Result<Verified<DataplaneClaims>, TokenError> {
    verify(token, keys, now)
}

/// Checks a zone token; whether it permits a given zone is [`ZoneClaims::permits`].
///
/// # Errors
/// As [`verify`].
pub fn verify_zone(
    token: &str,
    keys: &KeyRing,
    now: Timestamp,
) -> Result<Verified<ZoneClaims>, TokenError> {
    verify(token, keys, now)
}

/// Checks a token: its algorithm, key, signature, times and revocation, in this order.
///
/// # Errors
/// The first reason not to believe it.
pub fn verify<C: Claims>(
    token: &str,
    keys: &KeyRing,
    now: Timestamp,
) -> Result<Verified<C>, TokenError> {
    let kid = kid_of(token)?;
    let Some(key) = keys.key(&kid) else {
        return Err(TokenError::UnknownKey { kid });
    };
    let mut validation = Validation::new(Algorithm::RS256);
    // Times are checked below, against the caller's time; there is no audience.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded =
        jsonwebtoken::decode::<BTreeMap<String, Value>>(token, &key.decoding_key(), &validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => {
                    TokenError::Signature { kid: kid.clone() }
                }
                _ => TokenError::Malformed {
                    reason: error.to_string(),
                },
            })?;
    let members = decoded.claims;
    let time = |name: &str| -> Result<Option<Timestamp>, TokenError> {
        let malformed = || TokenError::Malformed {
            reason: format!("claim `{name}` is no time"),
        };
        match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_i64()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .map(Some)
                .ok_or_else(malformed),
        }
    };
    let expires = time("exp")?.unwrap_or(Timestamp::MAX);
    if now >= expires {
        return Err(TokenError::Expired { at: expires });
    }
    if let Some(from) = time("nbf")?
        && now < from
    {
        return Err(TokenError::NotYet { from });
    }
    let id = members
        .get("jti")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if keys.is_revoked(&id) {
        return Err(TokenError::Revoked);
    }
    let claims = C::from_members(&members).map_err(|reason| TokenError::Malformed { reason })?;
    Ok(Verified {
        claims,
        id,
        kid,
        expires,
    })
}

/// Reads a dataplane token's claims without believing them, to find the mesh whose keys can check it.
///
/// # Errors
/// When it is no token.
pub fn peek<C: Claims>(token: &str) -> Result<C, TokenError> {
    let malformed = |reason: String| TokenError::Malformed { reason };
    let members: BTreeMap<String, Value> = part(token, 1)?;
    C::from_members(&members).map_err(malformed)
}

#[derive(Deserialize)]
struct RawHeader {
    #[serde(default)]
    alg: Value,
    kid: Option<Value>,
}

fn kid_of(token: &str) -> Result<String, TokenError> {
    let header: RawHeader = part(token, 0)?;
    match header.alg.as_str() {
        Some("RS256") => {}
        other => {
            let got = other.map_or_else(|| header.alg.to_string(), str::to_owned);
            return Err(TokenError::Algorithm { got });
        }
    }
    match header.kid {
        None => Err(TokenError::NoKid),
        Some(Value::String(kid)) => Ok(kid),
        Some(_) => Err(TokenError::KidNotText),
    }
}

fn part<T: for<'de> Deserialize<'de>>(token: &str, index: usize) -> Result<T, TokenError> {
    let malformed = |reason: &str| TokenError::Malformed {
        reason: reason.to_owned(),
    };
    let parts: Vec<&str> = token.trim().split('.').collect();
    if parts.len() != 3 {
        return Err(malformed("it does not have three parts"));
    }
    let text = parts.get(index).copied().unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_not_base64| malformed("a part is not base64url"))?;
    serde_json::from_slice(&bytes).map_err(|_not_json| malformed("a part is not JSON"))
}
