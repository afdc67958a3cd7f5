//! What is written beside services and workloads: who is there, who may answer, whom to accept.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use zonal_model::{Json, Kind, Resource, labels};

use crate::dataplane::{DataplaneRecord, Readiness};
use crate::form::MatchLabelsForm;
use crate::identities::{IdentityRecord, IdentityState, best};
use crate::service::{Service, is_local};

/// What the status of services is made from.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The zone.
    pub zone: &'a str,
    /// All MeshIdentities of the mesh.
    pub identities: &'a [IdentityRecord],
    /// The trust domains for which the mesh has a MeshTrust.
    pub trusted: &'a BTreeSet<String>,
    /// The stored names of the dataplanes whose proxies are connected.
    pub online: &'a BTreeSet<Arc<str>>,
}

/// A JSON object as a map that can be changed; empty for anything else.
pub(crate) fn object(json: Option<&Json>) -> Map<String, Value> {
    match json.map(Json::to_value) {
        Some(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// A local MeshService with the state, identities, TLS status and counts that follow from its proxies; `None` for a
/// service of another zone, and where nothing differs.
///
/// A service without proxies keeps its identities, so that its clients accept nobody else in its place.
#[must_use]
pub fn mesh_service(
    stored: &Resource,
    members: &[Arc<DataplaneRecord>],
    around: &Surroundings<'_>,
) -> Option<Resource> {
    let service = Service::read(stored)?;
    if !service.local || stored.key.kind != Kind::MeshService {
        return None;
    }
    let healthy = members
        .iter()
        .filter(|dataplane| serves_all(dataplane, &service))
        .count();
    let connected = members
        .iter()
        .filter(|dataplane| around.online.contains(&dataplane.name))
        .count();

    let mut spec = object(Some(&stored.spec));
    let state = if healthy > 0 {
        "Available"
    } else {
        "Unavailable"
    };
    spec.insert("state".to_owned(), json!(state));
    if !members.is_empty() {
        let ids = identities_of(members, around);
        if ids.is_empty() {
            spec.remove("identities");
        } else {
            let ids: Vec<Value> = ids
                .iter()
                .map(|id| json!({ "type": "SpiffeID", "value": id }))
                .collect();
            spec.insert("identities".to_owned(), Value::Array(ids));
        }
    }

    let mut status = object(stored.status.as_ref());
    let tls = tls_status(&service, members, around);
    status.insert("tls".to_owned(), json!({ "status": tls }));
    let mut counts = Map::new();
    for (name, count) in [
        ("connected", connected),
        ("healthy", healthy),
        ("total", members.len()),
    ] {
        if count > 0 {
            counts.insert(name.to_owned(), json!(count));
        }
    }
    status.insert("dataplaneProxies".to_owned(), Value::Object(counts));
    changed(stored, Some(spec), status)
}

/// Whether a proxy can answer on every port of the service.
fn serves_all(dataplane: &DataplaneRecord, service: &Service) -> bool {
    !service.ports.is_empty()
        && service.ports.iter().all(|port| {
            dataplane
                .serving(&port.target)
                .is_some_and(|inbound| inbound.readiness == Readiness::Ready)
        })
}

/// Every identity that one of the proxies shows or may come to show.
fn identities_of(members: &[Arc<DataplaneRecord>], around: &Surroundings<'_>) -> BTreeSet<String> {
    members
        .iter()
        .flat_map(|dataplane| {
            around
                .identities
                .iter()
                .filter(|identity| {
                    identity.state.names_identities() && identity.matches(&dataplane.labels)
                })
                .filter_map(|identity| identity.spiffe_name(&dataplane.labels, around.zone).ok())
                .map(|name| name.to_string())
        })
        .collect()
}

/// Once every proxy accepts mTLS its callers use it, and go on until there are no identities at all: a proxy that joins
/// before its certificate is there must not make callers fall back to plain text.
fn tls_status(
    service: &Service,
    members: &[Arc<DataplaneRecord>],
    around: &Surroundings<'_>,
) -> &'static str {
    if around.identities.is_empty() {
        return "NotReady";
    }
    if service.tls_ready {
        return "Ready";
    }
    // A service that never had a proxy has not proved anything yet.
    let ready = !members.is_empty()
        && members.iter().all(|dataplane| {
            best(around.identities, &dataplane.labels).is_some_and(|identity| {
                identity.state == IdentityState::Ready
                    && (identity.provider.as_deref() == Some("Spire")
                        || identity
                            .trust_domain(around.zone)
                            .is_ok_and(|domain| around.trusted.contains(&domain)))
            })
        });
    if ready { "Ready" } else { "NotReady" }
}

/// A MeshMultiZoneService with the services it consists of; `None` where nothing differs. `services` is all MeshServices
/// of any mesh; only those of its own mesh count.
#[must_use]
pub fn multi_zone_service<'a>(
    stored: &Resource,
    services: impl IntoIterator<Item = &'a Resource>,
) -> Option<Resource> {
    let selector: MatchLabelsForm = stored
        .spec
        .typed::<crate::form::ServiceForm>()
        .ok()?
        .selector
        .mesh_service
        .unwrap_or_default();
    let mut matched: Vec<(String, String, String)> = services
        .into_iter()
        .filter(|service| {
            service.key.kind == Kind::MeshService
                && service.key.mesh == stored.key.mesh
                && selector.match_labels.is_some()
                && selector.matches(&service.meta.labels)
        })
        .map(|service| {
            let label = |key| service.label(key).unwrap_or_default().to_owned();
            (
                service.display_name().to_owned(),
                label(labels::NAMESPACE),
                label(labels::ZONE),
            )
        })
        .collect();
    matched.sort();
    let condition = if matched.is_empty() {
        json!({
            "type": "MeshServicesMatched", "status": "False", "reason": "NoMatchesFound",
            "message": "Selector does not match any MeshService in this zone",
        })
    } else {
        json!({
            "type": "MeshServicesMatched", "status": "True", "reason": "MatchesFound",
            "message": format!("Matched {} MeshService(s)", matched.len()),
        })
    };
    let matched: Vec<Value> = matched
        .iter()
        .map(|(name, namespace, zone)| {
            json!({ "name": name, "namespace": namespace, "zone": zone, "mesh": stored.key.mesh })
        })
        .collect();
    let mut status = object(stored.status.as_ref());
    status.insert("meshServices".to_owned(), Value::Array(matched));
    status.insert("conditions".to_owned(), json!([condition]));
    changed(stored, None, status)
}

/// A Workload with the counts of its proxies; `None` for one of another zone, and where nothing differs.
#[must_use]
pub fn workload(
    stored: &Resource,
    members: &[Arc<DataplaneRecord>],
    online: &BTreeSet<Arc<str>>,
) -> Option<Resource> {
    if !is_local(stored) {
        return None;
    }
    let connected = members
        .iter()
        .filter(|dataplane| online.contains(&dataplane.name))
        .count();
    let healthy = members
        .iter()
        .filter(|dataplane| dataplane.healthy())
        .count();
    let mut status = object(stored.status.as_ref());
    status.insert(
        "dataplaneProxies".to_owned(),
        json!({ "connected": connected, "healthy": healthy, "total": members.len() }),
    );
    changed(stored, None, status)
}

pub(crate) fn changed(
    stored: &Resource,
    spec: Option<Map<String, Value>>,
    status: Map<String, Value>,
) -> Option<Resource> {
    let mut after = stored.clone();
    if let Some(spec) = spec {
        after.spec = Json::from_value(&Value::Object(spec));
    }
    after.status = Some(Json::from_value(&Value::Object(status)));
    stored.differs(&after).then_some(after)
}
