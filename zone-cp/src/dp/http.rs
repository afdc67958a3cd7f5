//! What proxies' processes ask over HTTP: a bootstrap, and to be believed about their workloads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use tracing::{debug, info, warn};
use zonal_model::Kind;
use zonal_process::tls::ServerIdentity;
use zonal_store::{Revision, Store};
use zonal_xds::{Dataplane, bootstrap};

use crate::convergence::Convergence;
use crate::lifecycle::{InboundState, Lifecycle, ProxyAuthentication, Refusal, dataplane_key};
use crate::proxy::ProxyId;

/// The largest request of a proxy's process.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a draining proxy is kept waiting for its callers to leave.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(5);

/// What the handlers need.
#[derive(Clone)]
pub struct DpHttp {
    /// Admits proxies.
    pub lifecycle: Arc<Lifecycle>,
    /// Where Dataplanes are.
    pub store: Arc<dyn Store>,
    /// Whether callers have left.
    pub convergence: Convergence,
    /// Our own certificate, which proxies are to trust.
    pub identity: Arc<ServerIdentity>,
    /// What proxies have to show.
    pub authentication: ProxyAuthentication,
    /// Where proxies find us, instead of the host they asked at.
    pub xds_host: Option<String>,
    /// The port there.
    pub xds_port: u16,
}

impl std::fmt::Debug for DpHttp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DpHttp")
            .field("xds_port", &self.xds_port)
            .finish_non_exhaustive()
    }
}

/// `POST /bootstrap`, and `/zonal/v1/{health,drain,gone}` for our sidecar.
pub fn routes(state: DpHttp) -> Router {
    Router::new()
        .route("/bootstrap", post(answer_bootstrap))
        .route("/zonal/v1/health", post(health))
        .route("/zonal/v1/drain", post(drain))
        .route("/zonal/v1/gone", post(gone))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// A refusal as a status and a text.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NoToken | Refusal::Token(_) | Refusal::NotPermitted(_) => {
                StatusCode::UNAUTHORIZED
            }
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::NoMesh(_)
            | Refusal::Invalid(_)
            | Refusal::OtherName { .. }
            | Refusal::Label(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, refusal.to_string())
    }
}

async fn answer_bootstrap(
    State(state): State<DpHttp>,
    uri: http::Uri,
    headers: HeaderMap,
    body: bytes::Bytes,
) -> Result<Response, Refused> {
    let Ok(request) = serde_json::from_slice::<bootstrap::Request>(&body) else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    let unprocessable = |text: String| Refused(StatusCode::UNPROCESSABLE_ENTITY, text);
    let has_token = request
        .dataplane_token
        .as_ref()
        .is_some_and(|token| !token.is_empty());
    if state.authentication == ProxyAuthentication::Token && !has_token {
        return Err(unprocessable(
            "a dataplane token is required: `dataplaneToken` is empty".to_owned(),
        ));
    }
    let id = ProxyId::new(&request.mesh, &request.name);
    let snapshot = state.store.snapshot();
    let brought = match &request.dataplane_resource {
        Some(text) if !text.is_empty() => {
            let resource = state.lifecycle.read(&id, text)?;
            let mesh = zonal_model::Key::global(Kind::Mesh, &id.mesh);
            if snapshot.get(&mesh).is_none() {
                return Err(Refusal::NoMesh(id.mesh).into());
            }
            Some(resource)
        }
        _ => None,
    };
    let stored = snapshot
        .get(&dataplane_key(&id))
        .map(|stored| &stored.resource);
    let Some(resource) = brought.as_ref().or(stored) else {
        // Without a body, which tells Kuma's process to try again: the Dataplane may be on its way.
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let dataplane = Dataplane::read(resource).map_err(|error| unprocessable(error.to_string()))?;
    let admin_port = resource
        .spec
        .to_value()
        .pointer("/networking/admin/port")
        .and_then(serde_json::Value::as_u64)
        .and_then(|port| u16::try_from(port).ok());
    let settings = bootstrap::Settings {
        xds_host: state
            .xds_host
            .clone()
            .unwrap_or_else(|| host(&uri, &headers)),
        xds_port: state.xds_port,
        ca_pem: state.identity.chain_pem().to_string(),
        ..bootstrap::Settings::default()
    };
    let made = bootstrap::generate(&request, &dataplane, admin_port, &settings)
        .map_err(|refusal| unprocessable(refusal.to_string()))?;
    state.lifecycle.begins_anew(&id);
    info!(proxy = %id, "bootstrap is given out");
    let wants_json = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept == "application/json");
    Ok(if wants_json {
        Json(bootstrap::answer(&made, &dataplane)).into_response()
    } else {
        ([(header::CONTENT_TYPE, "text/x-yaml")], made.to_string()).into_response()
    })
}

/// The host that the request was sent to, without its port. HTTP/2 names it in the address, HTTP/1 in a header.
fn host(uri: &http::Uri, headers: &HeaderMap) -> String {
    let named = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    uri.authority()
        .cloned()
        .or_else(|| named?.parse().ok())
        .map_or_else(
            || "localhost".to_owned(),
            |authority: http::uri::Authority| authority.host().trim_matches(['[', ']']).to_owned(),
        )
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ").unwrap_or(value))
}

#[derive(Debug, Deserialize)]
struct Health {
    mesh: String,
    name: String,
    inbounds: BTreeMap<u16, InboundState>,
}

#[derive(Debug, Deserialize)]
struct Named {
    mesh: String,
    name: String,
}

impl DpHttp {
    fn authenticated(
        &self,
        mesh: &str,
        name: &str,
        headers: &HeaderMap,
    ) -> Result<ProxyId, Refused> {
        let id = ProxyId::new(mesh, name);
        self.lifecycle
            .authenticate_stored(&id, token(headers))
            .inspect_err(|refusal| match refusal {
                // A sidecar reports from its start on, its Dataplane comes with its Envoy's stream a moment later.
                Refusal::Unknown(_) => {
                    debug!(proxy = %id, "a report about a proxy that is not here yet");
                }
                _ => warn!(proxy = %id, reason = %refusal, "a report about a proxy is refused"),
            })?;
        Ok(id)
    }
}

fn revision_header(revision: Revision) -> [(http::HeaderName, String); 1] {
    [(zonal_rest::REVISION_HEADER, revision.0.to_string())]
}

async fn health(
    State(state): State<DpHttp>,
    headers: HeaderMap,
    Json(health): Json<Health>,
) -> Result<Response, Refused> {
    let id = state.authenticated(&health.mesh, &health.name, &headers)?;
    let revision = state.lifecycle.set_states(&id, &health.inbounds).await?;
    Ok((revision_header(revision), StatusCode::NO_CONTENT).into_response())
}

async fn drain(
    State(state): State<DpHttp>,
    headers: HeaderMap,
    Json(named): Json<Named>,
) -> Result<Response, Refused> {
    let id = state.authenticated(&named.mesh, &named.name, &headers)?;
    let revision = state.lifecycle.drain(&id).await?;
    // Callers that do not answer in time must not keep a workload from stopping.
    let left = tokio::time::timeout(DRAIN_WAIT_MAX, state.convergence.reached(revision)).await;
    if left.is_err() {
        warn!(proxy = %id, "some callers have not confirmed yet that they leave a draining proxy");
    }
    Ok((revision_header(revision), StatusCode::NO_CONTENT).into_response())
}

async fn gone(
    State(state): State<DpHttp>,
    headers: HeaderMap,
    Json(named): Json<Named>,
) -> Result<Response, Refused> {
    let id = state.authenticated(&named.mesh, &named.name, &headers)?;
    state.lifecycle.remove(&id).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}
