//! Tokens over a store: where the keys are, who a user token belongs to, and issuing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use zonal_identity::token::{
    self, DataplaneClaims, KeyRing, SigningKey, TokenKind, UserClaims, VerifyingKey, ZoneClaims,
    parse_revocations,
};
use zonal_model::{GoDuration, Json, Key, Kind, Resource, Violations};
use zonal_store::{Snapshot, Store, WallClock};

use crate::access::{Access, Action, Authenticator, TokenRefused, User};
use crate::problem::Problem;

/// The largest request for a token.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The bytes inside a Secret or GlobalSecret; `None` where its data is not base64.
fn secret_bytes(secret: &Resource) -> Option<Vec<u8>> {
    let spec = secret.spec.to_value();
    STANDARD.decode(spec.get("data")?.as_str()?).ok()
}

/// The key of the resource that holds `name` among the secrets of a kind of token.
fn place(kind: &TokenKind, name: String) -> Key {
    match kind.mesh() {
        Some(mesh) => Key::new(Kind::Secret, mesh, name),
        None => Key::global(Kind::GlobalSecret, name),
    }
}

fn secrets<'a>(snapshot: &'a Snapshot, kind: &TokenKind) -> Vec<&'a Resource> {
    match kind.mesh() {
        Some(mesh) => snapshot
            .list_in_mesh(Kind::Secret, mesh)
            .map(|s| &s.resource)
            .collect(),
        None => snapshot
            .list(Kind::GlobalSecret)
            .map(|s| &s.resource)
            .collect(),
    }
}

/// The signing keys of a kind of token. A secret that holds no key is passed over: it can only make tokens invalid.
#[must_use]
pub fn signing_keys(snapshot: &Snapshot, kind: &TokenKind) -> Vec<SigningKey> {
    secrets(snapshot, kind)
        .into_iter()
        .filter_map(|secret| {
            let kid = kind.kid_of(&secret.key.name)?;
            SigningKey::from_bytes(kid, &secret_bytes(secret)?).ok()
        })
        .collect()
}

/// What tokens of a kind are checked with: public halves, and what was revoked.
#[must_use]
pub fn key_ring(snapshot: &Snapshot, kind: &TokenKind) -> KeyRing {
    let own = signing_keys(snapshot, kind)
        .into_iter()
        .map(|key| key.verifying());
    let given = secrets(snapshot, kind).into_iter().filter_map(|secret| {
        let kid = kind.public_kid_of(&secret.key.name)?;
        VerifyingKey::from_bytes(kid, &secret_bytes(secret)?).ok()
    });
    let list = kind.revocations_name();
    // Those of dataplane tokens are looked for where comments promise them and where Kuma looks.
    let places = [
        place(kind, list.clone()),
        Key::global(Kind::GlobalSecret, list),
    ];
    let revoked = places
        .iter()
        .filter_map(|place| snapshot.get(place))
        .filter_map(|stored| String::from_utf8(secret_bytes(&stored.resource)?).ok())
        .flat_map(|text| parse_revocations(&text));
    KeyRing::new(own.chain(given)).revoking(revoked)
}

/// A first signing key for a kind of token, to be kept; `None` when there is one already.
///
/// # Errors
/// The machine cannot make a key.
pub fn first_key(
    snapshot: &Snapshot,
    kind: &TokenKind,
) -> Result<Option<Resource>, token::InvalidKey> {
    let has_some = secrets(snapshot, kind)
        .iter()
        .any(|s| kind.kid_of(&s.key.name).is_some());
    if has_some {
        return Ok(None);
    }
    let key = SigningKey::generate("1")?;
    let data = STANDARD.encode(key.to_pem().expose());
    let spec = Json::from_value(&json!({ "data": data }));
    let mut secret = Resource::new(place(kind, kind.key_name("1")), spec);
    secret.owner = kind.mesh().map(|mesh| Key::global(Kind::Mesh, mesh));
    Ok(Some(secret))
}

/// Checks user tokens with the keys in a store.
#[derive(Clone)]
pub struct StoreTokens {
    store: Arc<dyn Store>,
    now: WallClock,
}

impl std::fmt::Debug for StoreTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreTokens")
    }
}

impl StoreTokens {
    /// Over a store, with the time of day from `now`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, now: WallClock) -> Self {
        Self { store, now }
    }
}

impl Authenticator for StoreTokens {
    fn verify(&self, text: &str) -> Result<User, TokenRefused> {
        let ring = key_ring(&self.store.snapshot(), &TokenKind::User);
        let verified = token::verify_user(text, &ring, (self.now)())
            .map_err(|error| TokenRefused(error.to_string()))?;
        let UserClaims { name, groups } = verified.claims;
        Ok(User::of_token(name, groups))
    }
}

/// What the issuing endpoints need.
#[derive(Clone)]
pub struct Issuing {
    /// Where the keys are.
    pub store: Arc<dyn Store>,
    /// Who may ask.
    pub access: Arc<Access>,
    /// The time of day.
    pub now: WallClock,
    /// Only a control plane that owns the zones' keys issues zone tokens.
    pub zone_tokens: bool,
}

impl std::fmt::Debug for Issuing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuing")
            .field("zone_tokens", &self.zone_tokens)
            .finish_non_exhaustive()
    }
}

/// `POST /tokens/dataplane`, `/tokens/zone` and `/tokens/user`, to be given to [`router_with`](crate::router_with).
pub fn routes(issuing: Issuing) -> Router {
    let mut router = Router::new()
        .route("/tokens/dataplane", post(dataplane))
        .route("/tokens/user", post(user));
    if issuing.zone_tokens {
        router = router.route("/tokens/zone", post(zone));
    }
    router.with_state(issuing)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DataplaneRequest {
    name: String,
    mesh: String,
    tags: BTreeMap<String, Vec<String>>,
    #[serde(rename = "type")]
    kind: String,
    workload: String,
    valid_for: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ZoneRequest {
    zone: String,
    scope: Vec<String>,
    valid_for: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UserRequest {
    name: String,
    groups: Vec<String>,
    valid_for: String,
}

type Answer = Result<Response, Problem>;

fn caller(user: Option<Extension<User>>) -> User {
    user.map_or_else(User::anonymous, |Extension(user)| user)
}

async fn dataplane(
    State(issuing): State<Issuing>,
    user: Option<Extension<User>>,
    request: Request,
) -> Answer {
    let Some(asked) = read::<DataplaneRequest>(request.into_body()).await else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    let mut violations = Violations::new();
    if asked.mesh.is_empty() {
        violations.add("mesh", "cannot be empty");
    }
    if !matches!(asked.kind.as_str(), "" | "dataplane") {
        violations.add("type", format!("{} is not a valid proxy type", asked.kind));
    }
    let lifetime = lifetime(&asked.valid_for, &mut violations);
    refuse(violations)?;
    issuing
        .access
        .check(&caller(user), &Action::GenerateDataplaneToken)?;
    let kind = TokenKind::Dataplane {
        mesh: asked.mesh.clone(),
    };
    let claims = DataplaneClaims {
        name: asked.name,
        mesh: asked.mesh,
        tags: asked.tags,
        proxy_type: asked.kind,
        workload: asked.workload,
    };
    issuing.issue(&kind, &claims, lifetime)
}

async fn zone(
    State(issuing): State<Issuing>,
    user: Option<Extension<User>>,
    request: Request,
) -> Answer {
    let Some(asked) = read::<ZoneRequest>(request.into_body()).await else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    issuing.access.check(
        &caller(user),
        &Action::GenerateZoneToken {
            zone: asked.zone.clone(),
        },
    )?;
    let mut violations = Violations::new();
    if asked.zone.is_empty() {
        violations.add("zone", "cannot be empty");
    }
    let lifetime = lifetime(&asked.valid_for, &mut violations);
    refuse(violations)?;
    let claims = ZoneClaims {
        zone: asked.zone,
        scope: asked.scope,
    };
    issuing.issue(&TokenKind::Zone, &claims, lifetime)
}

async fn user(
    State(issuing): State<Issuing>,
    user: Option<Extension<User>>,
    request: Request,
) -> Answer {
    let Some(asked) = read::<UserRequest>(request.into_body()).await else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    issuing
        .access
        .check(&caller(user), &Action::GenerateUserToken)?;
    let mut violations = Violations::new();
    if asked.name.is_empty() {
        violations.add("name", "cannot be empty");
    }
    if asked.valid_for.is_empty() {
        violations.add("validFor", "cannot be empty");
    }
    let lifetime = lifetime(&asked.valid_for, &mut violations);
    if !asked.valid_for.is_empty() && lifetime.is_zero() {
        violations.add("validFor", "cannot be empty or nil");
    }
    refuse(violations)?;
    let claims = UserClaims {
        name: asked.name,
        groups: asked.groups,
    };
    issuing.issue(&TokenKind::User, &claims, lifetime)
}

/// The requested lifetime; ten years when none is given.
fn lifetime(text: &str, violations: &mut Violations) -> Duration {
    if text.is_empty() {
        return token::LIFETIME_DEFAULT;
    }
    match text
        .parse::<GoDuration>()
        .map_err(|error| error.to_string())
    {
        Ok(parsed) if parsed.nanos() >= 0 => return parsed.to_std(),
        Ok(_) => violations.add("validFor", format!("is invalid: `{text}` is negative")),
        Err(error) => violations.add("validFor", format!("is invalid: {error}")),
    }
    Duration::ZERO
}

fn refuse(violations: Violations) -> Result<(), Problem> {
    if violations.is_empty() {
        return Ok(());
    }
    Err(Problem {
        status: StatusCode::BAD_REQUEST,
        title: "Invalid request".to_owned(),
        detail: "Resource is not valid".to_owned(),
        violations: violations.0,
        documents: Vec::new(),
    })
}

async fn read<T: DeserializeOwned>(body: Body) -> Option<T> {
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Issuing {
    fn issue<C: token::Claims>(&self, kind: &TokenKind, claims: &C, lifetime: Duration) -> Answer {
        let snapshot = self.store.snapshot();
        let keys = signing_keys(&snapshot, kind);
        let problem = |status, detail: String| Problem {
            status,
            title: "Could not issue a token".to_owned(),
            detail,
            violations: Vec::new(),
            documents: Vec::new(),
        };
        let Some(key) = KeyRing::newest(&keys) else {
            let place = place(kind, kind.key_name("1"));
            let detail = format!("there is no signing key: {place} does not exist here");
            return Err(problem(StatusCode::NOT_FOUND, detail));
        };
        let text = token::issue(key, claims, lifetime, (self.now)())
            .map_err(|error| problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(([(header::CONTENT_TYPE, "text/plain")], text).into_response())
    }
}
