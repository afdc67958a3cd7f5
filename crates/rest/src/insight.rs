//! Counts over everything.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use zonal_model::{Key, Kind, Scope};
use zonal_store::Snapshot;

use crate::call::Call;
use crate::dialect;
use crate::problem::Problem;
use crate::reply;
use crate::state::RestState;

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    offline: u64,
    online: u64,
    partially_degraded: u64,
    total: u64,
}

impl Health {
    fn count(&mut self, up: u64, of: u64) {
        self.total += 1;
        if up == 0 {
            self.offline += 1;
        } else if up < of {
            self.partially_degraded += 1;
        } else {
            self.online += 1;
        }
    }
}

#[derive(Default, Serialize)]
struct Present {
    online: usize,
    total: usize,
}

/// The newest state of the store as a time, which makes the same content give the same answer.
fn newest_time(snapshot: &Snapshot) -> String {
    let newest = snapshot
        .all()
        .map(|stored| stored.resource.meta.modification_time)
        .max();
    newest.unwrap_or_default().to_string()
}

/// What is offered, by whom, and how much of it is up.
pub(crate) fn global(state: &RestState, _call: &Call) -> Result<Response, Problem> {
    let snapshot = state.store.snapshot();
    let mut standard = Health::default();
    let mut delegated = Health::default();
    let mut delegated_services: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for stored in snapshot.list(Kind::Dataplane) {
        let resource = &stored.resource;
        let insight = Key::new(
            Kind::DataplaneInsight,
            &*resource.key.mesh,
            &*resource.key.name,
        );
        let online = u64::from(
            snapshot
                .get(&insight)
                .is_some_and(|i| dialect::is_online(&i.resource.spec.to_value())),
        );
        let spec = resource.spec.to_value();
        match spec.pointer("/networking/gateway") {
            Some(gateway) => {
                delegated.count(online, 1);
                let service = gateway
                    .pointer("/tags/kuma.io~1service")
                    .and_then(Value::as_str);
                let name = format!("{}/{}", resource.key.mesh, service.unwrap_or_default());
                let (up, of) = delegated_services.entry(name).or_default();
                *up += online;
                *of += 1;
            }
            None => standard.count(online, 1),
        }
    }
    let mut gateway_services = Health::default();
    for (up, of) in delegated_services.into_values() {
        gateway_services.count(up, of);
    }
    let mut internal = Health::default();
    for stored in snapshot.list(Kind::MeshService) {
        let status = stored
            .resource
            .status
            .as_ref()
            .map(zonal_model::Json::to_value);
        let number = |name: &str| {
            let path = format!("/dataplaneProxies/{name}");
            status
                .as_ref()
                .and_then(|status| status.pointer(&path)?.as_u64())
                .unwrap_or_default()
        };
        internal.count(number("connected").min(number("healthy")), number("total"));
    }
    let zones = Present {
        online: snapshot
            .list(Kind::Zone)
            .filter(|zone| dialect::zone_is_online(&snapshot, &zone.resource.key.name))
            .count(),
        total: snapshot.count(Kind::Zone),
    };
    let policies: usize = Kind::ALL
        .iter()
        .filter(|kind| kind.descriptor().policy.is_some())
        .map(|kind| snapshot.count(*kind))
        .sum();
    let resources: BTreeMap<&str, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind, kind.descriptor(), snapshot.count(*kind)))
        .filter(|(kind, d, count)| {
            !d.computed
                && !d.admin_only
                && !matches!(kind, Kind::Mesh | Kind::Zone | Kind::Config)
                && (d.scope == Scope::Mesh || *count > 0)
        })
        .map(|(_, d, count)| (d.name, json!({"total": count})))
        .collect();
    let body = json!({
        "createdAt": newest_time(&snapshot),
        "dataplanes": {"gatewayDelegated": delegated, "standard": standard},
        "meshes": {"total": snapshot.count(Kind::Mesh)},
        "policies": {"total": policies},
        "resources": resources,
        "services": {
            "external": {"total": snapshot.count(Kind::MeshExternalService)},
            "gatewayDelegated": gateway_services,
            "internal": internal,
        },
        "zones": {"controlPlanes": zones, "zoneEgresses": Present::default(), "zoneIngresses": Present::default()},
    });
    Ok(reply::with_revision(
        reply::json(StatusCode::OK, &body),
        snapshot.revision(),
    ))
}

/// How many there are of each kind of global scope.
pub(crate) fn counts(state: &RestState, _call: &Call) -> Result<Response, Problem> {
    let snapshot = state.store.snapshot();
    let resources: BTreeMap<&str, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind, kind.descriptor()))
        .filter(|(kind, d)| {
            d.scope == Scope::Global && !d.read_only && !d.computed && **kind != Kind::Config
        })
        .map(|(kind, d)| (d.name, json!({"total": snapshot.count(*kind)})))
        .collect();
    let body = json!({
        "type": "GlobalInsights",
        "creationTime": newest_time(&snapshot),
        "resources": resources,
    });
    Ok(reply::json(StatusCode::OK, &body))
}
