//! How a zone comes in: people get a token that is good once, the zone trades it for a certificate that it renews.
//!
//! ```text
//! people ──POST /tokens/zone-join──▶ token ─▶ the zone's start
//! zone ──POST /zonal/v1/join───(token, its key)──▶ checks ─▶ certificate
//! zone ──POST /zonal/v1/renew──(certificate)─────▶ certificate
//! ```
//!
//! Start at [`Joining`]. Whoever shows nothing that is good costs one look-up and one digest.

mod authority;
mod checks;
mod records;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{info, warn};
use zonal_identity::join::{CertificateRequest, JoinToken, ZoneCertificate, zone_identity};
use zonal_kds::{deleted_at, deletion_told};
use zonal_model::{GoDuration, Violation, ZoneName};
use zonal_process::Clock;
use zonal_process::net::PeerAddr;
use zonal_process::tls::ServerIdentity;
use zonal_rest::{Access, Action, Problem, User};
use zonal_store::{Store, StoreError};

pub(crate) use authority::{new_authority, vouched};

use crate::kds::Kds;
use checks::{Finding, Verdict};
use records::Use;

/// The largest request.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a token is good unless asked otherwise.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// A certificate that has ended can still be renewed for so long, so that a zone that was off comes back by itself.
const RENEWAL_GRACE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How often a trade is tried again because somebody else wrote meanwhile.
const TRIES_MAX: usize = 16;

/// Lets zones in.
#[derive(Clone)]
pub(crate) struct Joining {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) kds: Kds,
    /// What zones are shown.
    pub(crate) identity: Arc<ServerIdentity>,
    /// Where zones connect; `None` without TLS, where no token can be traded.
    pub(crate) port: Option<u16>,
    /// How long certificates are good.
    pub(crate) lifetime: Duration,
    pub(crate) access: Arc<Access>,
    /// Nothing may be written over REST.
    pub(crate) read_only: bool,
}

type Answer = Result<Response, Problem>;

impl Joining {
    /// What zones ask, on the listener for zones.
    pub(crate) fn for_zones(self) -> Router {
        Router::new()
            .route("/zonal/v1/join", post(join))
            .route("/zonal/v1/renew", post(renew))
            .with_state(self)
    }

    /// What people ask, on the REST API.
    pub(crate) fn for_people(self) -> Router {
        Router::new()
            .route("/tokens/zone-join", post(issue))
            .with_state(self)
    }

    fn certify(
        &self,
        zone: &str,
        request: &CertificateRequest,
        now: Timestamp,
    ) -> Result<ZoneCertificate, Problem> {
        let failed = |reason: String| {
            warn!(zone, reason, "cannot issue a certificate for a zone");
            let detail = format!("cannot issue a certificate: {reason}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, detail)
        };
        let authority = authority::authority(&self.store.snapshot(), now).map_err(failed)?;
        let id = zone_identity(zone).map_err(|error| failed(error.to_string()))?;
        authority
            .certify(&id, request, self.lifetime, now)
            .map_err(|error| failed(error.to_string()))
    }
}

fn problem(status: StatusCode, detail: impl Into<String>) -> Problem {
    Problem::new(status, "The zone cannot join", detail)
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_cause| {
        problem(
            StatusCode::BAD_REQUEST,
            "the request is too large or broke off",
        )
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, format!("the request: {error}")))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TokenRequest {
    zone: String,
    valid_for: String,
    /// Where the zone finds global: a host, or host and port.
    global: String,
}

/// Makes a join token.
async fn issue(
    State(joining): State<Joining>,
    user: Option<Extension<User>>,
    request: Request,
) -> Answer {
    let asked: TokenRequest = read(request.into_body()).await?;
    let user = user.map_or_else(User::anonymous, |Extension(user)| user);
    let action = Action::GenerateZoneToken {
        zone: asked.zone.clone(),
    };
    joining.access.check(&user, &action)?;
    if joining.read_only {
        let detail = "this control plane is read-only: `apiServer.readOnly`";
        return Err(problem(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let invalid = |field: &str, reason: String| Problem {
        violations: vec![Violation {
            field: field.to_owned(),
            message: reason,
        }],
        ..Problem::new(
            StatusCode::BAD_REQUEST,
            "Invalid request",
            "The request is not valid",
        )
    };
    let zone: ZoneName = asked
        .zone
        .parse()
        .map_err(|error| invalid("zone", format!("{error}")))?;
    let lifetime = lifetime(&asked.valid_for).map_err(|reason| invalid("validFor", reason))?;
    let Some(port) = joining.port else {
        let detail = "zones connect without TLS here (`multizone.global.kds.tlsEnabled: false`), and a join token needs it";
        return Err(problem(StatusCode::CONFLICT, detail));
    };
    let global = address(&asked.global, port).map_err(|reason| invalid("global", reason))?;
    let fingerprint = joining.identity.fingerprint().to_string();
    let token = JoinToken::new(&zone, &global, &fingerprint);
    let now = joining.clock.wall();
    let (batch, expires) = records::issue(&joining.store.snapshot(), &token, lifetime, now);
    joining
        .store
        .commit(batch)
        .await
        .map_err(|error| Problem::store(&error, false))?;
    info!(%zone, id = token.id, %expires, user = user.name, "made a join token");
    let body = json!({
        "zone": zone.as_str(),
        "token": token.to_text().expose(),
        "expires": expires.to_string(),
        "global": global,
        "fingerprint": fingerprint,
    });
    Ok(Json(body).into_response())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Ok(TOKEN_LIFETIME);
    }
    let parsed: GoDuration = text
        .parse()
        .map_err(|error| format!("is invalid: {error}"))?;
    if parsed.nanos() <= 0 {
        return Err(format!("is invalid: `{text}` is over before it begins"));
    }
    Ok(parsed.to_std())
}

/// `grpcs://host:port` from what the caller knows of it.
fn address(host: &str, port: u16) -> Result<String, String> {
    let with_port = match host.rsplit_once(':') {
        Some((before, number))
            if !before.is_empty() && (!before.contains(':') || before.ends_with(']')) =>
        {
            number.parse::<u16>().map(|_| host.to_owned()).ok()
        }
        // An IPv6 address without a port.
        Some(_) if !host.starts_with('[') => Some(format!("[{host}]:{port}")),
        _ => Some(format!("{host}:{port}")),
    };
    let fine = |text: &String| {
        !host.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
    };
    with_port
        .filter(fine)
        .map(|text| format!("grpcs://{text}"))
        .ok_or_else(|| format!("`{host}` is no host at which the zone can find global"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinRequest {
    zone: String,
    token_id: String,
    token_secret: String,
    /// PEM.
    request: String,
    /// The life of the zone's store.
    store: String,
    instance: String,
    software_version: String,
    time: Timestamp,
    #[serde(default)]
    ingress_addresses: Vec<String>,
}

/// Trades a token for a certificate.
async fn join(
    State(joining): State<Joining>,
    peer: Option<Extension<PeerAddr>>,
    request: Request,
) -> Answer {
    let asked: JoinRequest = read(request.into_body()).await?;
    let address = peer.map_or_else(
        || "an unknown address".to_owned(),
        |Extension(peer)| peer.remote.to_string(),
    );
    let shown = (asked.token_id.as_str(), asked.token_secret.as_str());
    let refused = |refused: records::Refused| {
        warn!(zone = asked.zone, address, %refused, "a join token is refused");
        problem(StatusCode::FORBIDDEN, refused.to_string())
    };
    // Before anything that costs more: whoever does not know the secret gets no further.
    records::known(&joining.store.snapshot(), shown).map_err(refused)?;
    let judge = |key: &str| {
        let snapshot = joining.store.snapshot();
        records::judge(&snapshot, shown, &asked.zone, key, joining.clock.wall()).map_err(refused)
    };
    let certificate_request = CertificateRequest::parse(&asked.request).map_err(|error| {
        problem(
            StatusCode::BAD_REQUEST,
            format!("the request for a certificate: {error}"),
        )
    })?;
    let key = certificate_request.key_digest();
    judge(&key)?;
    // The token is good: from here on the caller is somebody to whom people gave it.
    let findings = look(&joining, &asked).await;
    let failed: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Refused)
        .collect();
    if let Some(first) = failed.first() {
        warn!(
            zone = asked.zone,
            address,
            reason = first.text,
            "a zone may not join"
        );
        let violations = failed.iter().map(|finding| Violation {
            field: finding.check.to_owned(),
            message: finding.text.clone(),
        });
        return Err(Problem {
            violations: violations.collect(),
            ..problem(
                StatusCode::CONFLICT,
                "it does not pass the checks; the token stays good",
            )
        });
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let by = Use {
            at: joining.clock.wall(),
            instance: asked.instance.clone(),
            address: address.clone(),
            key: key.clone(),
        };
        let Some(batch) = judge(&key)?.mark(by) else {
            break;
        };
        match joining.store.commit(batch).await {
            Ok(_) => break,
            // Somebody else may have been faster: then the token is not good any more.
            Err(StoreError::Conflict { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(Problem::store(&error, false)),
        }
    }
    let certificate = joining.certify(&asked.zone, &certificate_request, joining.clock.wall())?;
    info!(
        zone = asked.zone,
        instance = asked.instance,
        address,
        "a zone traded its join token"
    );
    Ok(Json(answer(&certificate, &findings)).into_response())
}

fn answer(certificate: &ZoneCertificate, findings: &[Finding]) -> Value {
    json!({
        "certificate": certificate.pem,
        "issued": certificate.issued.to_string(),
        "expires": certificate.expires.to_string(),
        "findings": findings,
    })
}

async fn look(joining: &Joining, asked: &JoinRequest) -> Vec<Finding> {
    let elsewhere = joining.kds.speaks_elsewhere(&asked.zone, &asked.store);
    let mut findings = vec![
        checks::version(&asked.software_version, env!("CARGO_PKG_VERSION")),
        checks::name(&asked.zone, elsewhere),
        checks::clock(asked.time, joining.clock.wall()),
    ];
    findings.extend(checks::ingresses(&*joining.clock, &asked.ingress_addresses).await);
    findings
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewRequest {
    zone: String,
    /// PEM.
    request: String,
}

/// Gives a zone a new certificate for the one that it shows.
async fn renew(
    State(joining): State<Joining>,
    peer: Option<Extension<PeerAddr>>,
    request: Request,
) -> Answer {
    let asked: RenewRequest = read(request.into_body()).await?;
    let shown = peer.and_then(|Extension(peer)| peer.client_certificate);
    let refused = |reason: String| {
        warn!(
            zone = asked.zone,
            reason, "a zone's certificate is not renewed"
        );
        Problem::new(
            StatusCode::FORBIDDEN,
            "The certificate is not renewed",
            reason,
        )
    };
    let shown = shown.ok_or_else(|| refused("the caller shows no certificate".to_owned()))?;
    let (snapshot, now) = (joining.store.snapshot(), joining.clock.wall());
    let zone = vouched(&snapshot, &shown, &asked.zone, now)
        .and_then(|vouched| vouched.check(now, RENEWAL_GRACE).map(|()| vouched.zone))
        .map_err(|error| refused(error.to_string()))?;
    if let Some(at) = deleted_at(&snapshot, &zone) {
        return Err(refused(deletion_told(&zone, at)));
    }
    let request = CertificateRequest::parse(&asked.request)
        .map_err(|error| refused(format!("the request for a certificate: {error}")))?;
    let certificate = joining.certify(&zone, &request, now)?;
    info!(zone, expires = %certificate.expires, "renewed a zone's certificate");
    Ok(Json(answer(&certificate, &[])).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(address(text, 5685).ok().as_deref(), want, "{text:?}");
        };
        check("global", Some("grpcs://global:5685"));
        check("global.example:7", Some("grpcs://global.example:7"));
        check("10.0.0.1", Some("grpcs://10.0.0.1:5685"));
        check("::1", Some("grpcs://[::1]:5685"));
        check("[::1]", Some("grpcs://[::1]:5685"));
        check("[::1]:7", Some("grpcs://[::1]:7"));
        check("", None);
        check("global:port", None);
        check("global/evil", None);
    }

    #[test]
    fn a_token_is_good_for_an_hour_or_as_long_as_asked() {
        assert_eq!(lifetime(""), Ok(TOKEN_LIFETIME));
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert!(lifetime("0s").is_err());
        assert!(lifetime("soon").is_err());
    }
}
