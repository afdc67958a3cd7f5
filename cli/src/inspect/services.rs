//! Services: who offers what, where, and with how many proxies behind it.

use serde_json::{Value, json};
use zonal_model::Kind;

use super::{Column, at};
use crate::client::Client;
use crate::failure::Failure;
use crate::get::{label, ports, zone};
use crate::kinds;

pub(super) const COLUMNS: &[Column] = &[
    Column::new("MESH", "mesh"),
    Column::new("NAME", "name"),
    Column::new("KIND", "type"),
    Column::new("ZONE", "zone"),
    Column::new("PORTS", "ports"),
    Column::new("STATE", "state"),
    Column::new("HEALTHY", "proxies"),
    Column::new("HOSTNAMES", "hostnames"),
    Column::new("STORED NAME", "storedName").wide(),
    Column::new("ADDRESSES", "addresses").wide(),
    Column::new("SERVICES", "services").wide(),
];

const KINDS: [Kind; 3] = [
    Kind::MeshService,
    Kind::MeshMultiZoneService,
    Kind::MeshExternalService,
];

pub(super) async fn rows(client: &Client, mesh: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    for kind in KINDS {
        let path = kinds::collection(kind, mesh);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        rows.extend(
            client
                .list(&path, &[])
                .await?
                .iter()
                .map(|service| row(kind, service)),
        );
    }
    rows.sort_by_key(|row| {
        ["mesh", "name", "zone", "type"].map(|member| super::text(&at(row, &format!("/{member}"))))
    });
    Ok(rows)
}

fn row(kind: Kind, service: &Value) -> Value {
    let display_name = match label(service, "kuma.io/display-name") {
        name if name.is_empty() => at(service, "/name"),
        name => json!(name),
    };
    let ports = match kind {
        Kind::MeshExternalService => external_port(service),
        _ => ports(service.pointer("/spec/ports")),
    };
    json!({
        "type": kind.name(),
        "mesh": at(service, "/mesh"),
        "name": display_name,
        "storedName": at(service, "/name"),
        "zone": zone(service),
        "ports": ports,
        "state": at(service, "/spec/state"),
        "proxies": proxies(service),
        "hostnames": texts(service, "/status/addresses", "hostname"),
        "addresses": texts(service, "/status/vips", "ip"),
        "services": texts(service, "/status/meshServices", "name"),
    })
}

fn external_port(service: &Value) -> String {
    let Some(matched) = service.pointer("/spec/match") else {
        return String::new();
    };
    let protocol = matched
        .get("protocol")
        .and_then(Value::as_str)
        .unwrap_or("tcp");
    format!(
        "{}/{protocol}",
        matched
            .get("port")
            .map(Value::to_string)
            .unwrap_or_default()
    )
}

/// `healthy/total`; null where the kind has no proxies of its own.
fn proxies(service: &Value) -> Value {
    let Some(proxies) = service.pointer("/status/dataplaneProxies") else {
        return Value::Null;
    };
    let number = |member: &str| proxies.get(member).and_then(Value::as_u64).unwrap_or(0);
    json!(format!("{}/{}", number("healthy"), number("total")))
}

fn texts(service: &Value, list: &str, member: &str) -> Vec<String> {
    let entries = service
        .pointer(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| entry.get(member)?.as_str())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_another_zone_has_its_own_name() {
        let service = json!({
            "mesh": "default", "name": "api-x7c9", "labels": {"kuma.io/display-name": "api", "kuma.io/zone": "west"},
            "spec": {"ports": [{"port": 8080, "appProtocol": "http"}], "state": "Available"},
            "status": {
                "dataplaneProxies": {"connected": 2, "healthy": 1, "total": 2},
                "addresses": [{"hostname": "api.svc.mesh.local"}], "vips": [{"ip": "241.0.0.1"}],
            },
        });
        let row = row(Kind::MeshService, &service);
        let want = json!({
            "type": "MeshService", "mesh": "default", "name": "api", "storedName": "api-x7c9", "zone": "west",
            "ports": "8080/http", "state": "Available", "proxies": "1/2", "hostnames": ["api.svc.mesh.local"],
            "addresses": ["241.0.0.1"], "services": [],
        });
        assert_eq!(row, want);
    }
}
