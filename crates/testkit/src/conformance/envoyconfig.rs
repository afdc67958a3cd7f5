//! What proxies of two fixed meshes are told, per policy: the golden files of Kuma's own tests.
//!
//! Each case adds resources to a mesh that is always the same; each golden is the whole configuration of one proxy with
//! shadow policies applied. Addresses, statistic prefixes and certificates are not compared.

#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null for what is absent"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kds_proto::reflect::{FieldNames, any_to_json};
use prost::Message as _;
use serde_json::{Map, Value, json};
use zonal_catalogue::{MeshCatalogue, OutboundMode, ProxyReach};
use zonal_model::{Kind, Resource, labels, yaml};
use zonal_policy::{DataplanePolicies, Policies, Subject, Targets};
use zonal_xds::{
    AdminTls, Cache, Dataplane, Generated, Identity, Node, ProxyView, TrustDomain, generate,
};

use super::crosszone::{diff, resource};
use super::{SuiteResult, cases_dir, files_below};

const ZONE: &str = "kuma-3";

/// Runs every live golden. `None` where the folder is absent.
#[must_use]
pub fn envoyconfig() -> Option<SuiteResult> {
    let root = cases_dir()?.join("envoyconfig");
    let mut result = SuiteResult::new("envoyconfig");
    for golden in files_below(&root, ".golden.json") {
        let case = golden
            .strip_prefix(&root)
            .unwrap_or(&golden)
            .display()
            .to_string();
        let file = golden
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Switched off where they come from, and stale.
        if file.starts_with('P') {
            result.skipped += 1;
            continue;
        }
        result.count(case, compare(&golden, &file));
    }
    Some(result)
}

fn compare(golden: &Path, file: &str) -> Result<(), String> {
    let stem = file.strip_suffix(".golden.json").unwrap_or(file);
    let (case, proxy) = stem.split_once('.').ok_or("the file name has no proxy")?;
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
    let input = read(&golden.with_file_name(format!("{case}.input.yaml")))?;
    let mut want: Value =
        serde_json::from_str(&read(golden)?).map_err(|error| error.to_string())?;
    let dynamic = dynamic_routes(&want["diff"]);
    let mut want = want["xds"].take();

    let zone_proxies = golden.to_string_lossy().contains("/zoneproxies/");
    let mut resources = environment(zone_proxies)?;
    for document in yaml::documents(&input).map_err(|error| error.to_string())? {
        if document.is_object() {
            resources.push(stored(&document)?);
        }
    }
    let generated = configure(&resources, proxy, zone_proxies)?;
    let mut got = rendered(&generated)?;
    let mut differences = Vec::new();
    for route in &dynamic {
        if !has_route(&got, route) {
            differences.push(format!("system_dynamicconfig: wanted a route {route}"));
        }
    }
    normalise(&mut want);
    normalise(&mut got);
    diff("", &want, &got, &mut differences);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(differences.join("\n"))
    }
}

/// The routes that policies add for the process beside Envoy: their bodies are compared to the letter.
fn dynamic_routes(patch: &Value) -> Vec<Value> {
    let added = |item: &&Value| {
        let path = item["path"].as_str().unwrap_or_default();
        item["op"] == "add"
            && path.contains("/system_dynamicconfig/")
            && path.contains("/routes/")
            && item["value"].is_object()
    };
    let items = patch.as_array().into_iter().flatten();
    items
        .filter(added)
        .map(|item| item["value"].clone())
        .collect()
}

fn has_route(xds: &Value, route: &Value) -> bool {
    let pointer = "/type.googleapis.com~1envoy.config.listener.v3.Listener/system_dynamicconfig/filterChains/0/filters/0/typedConfig/routeConfig/virtualHosts/0/routes";
    let routes = xds
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    routes.into_iter().any(|have| have == route)
}

/// A resource as the control plane of the zone keeps it: with computed labels.
fn stored(document: &Value) -> Result<Resource, String> {
    let members = document.as_object().ok_or("a resource is a mapping")?;
    let mut resource = resource(members)?;
    let (mesh, name) = (resource.key.mesh.to_string(), resource.key.name.to_string());
    for (key, value) in [
        (labels::DISPLAY_NAME, name.as_str()),
        (labels::MESH, mesh.as_str()),
        (labels::ORIGIN, "zone"),
        (labels::ZONE, ZONE),
        (labels::ENV, "universal"),
    ] {
        resource
            .meta
            .labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    Ok(resource)
}

fn mesh_of(zone_proxies: bool) -> &'static str {
    if zone_proxies {
        "envoyconfig-zoneproxies"
    } else {
        "envoyconfig"
    }
}

fn environment(zone_proxies: bool) -> Result<Vec<Resource>, String> {
    let mesh = mesh_of(zone_proxies);
    let mut documents = vec![json!({
        "type": "MeshTrafficPermission", "mesh": mesh, "name": format!("allow-all-{mesh}-0"),
        "spec": {"targetRef": {"kind": "Mesh"}, "rules": [{"default": {"allow": [
            {"spiffeID": {"type": "Prefix", "value": format!("spiffe://{mesh}.{ZONE}.mesh.local")}}]}}]},
    })];
    let (client, servers) = if zone_proxies {
        (
            "zone-proxy-demo-client",
            &[
                "zone-proxy-test-server",
                "zone-proxy-test-server-no-reusable-ports",
            ][..],
        )
    } else {
        ("demo-client", &["test-server"][..])
    };
    sidecar(mesh, client, 2, None, &mut documents);
    for (number, server) in (3..).zip(servers) {
        sidecar(mesh, server, number, Some("http"), &mut documents);
    }
    documents.push(json!({"type": "MeshIdentity", "mesh": mesh,
        "name": if zone_proxies { "identity" } else { "envoyconfig-identity" },
        "spec": {"selector": {"dataplane": {"matchLabels": {}}}}}));
    if zone_proxies {
        documents.extend([
            json!({"type": "MeshExternalService", "mesh": mesh, "name": "mes-zone-proxy",
                "labels": {"kuma.io/access": "external"},
                "spec": {"match": {"type": "HostnameGenerator", "port": 80, "protocol": "http"}, "endpoints": [
                    {"address": "127.0.0.1", "port": 80, "priority": 1}, {"address": "127.0.0.1", "port": 81, "priority": 2}]},
                "status": {"vip": {"ip": "242.0.0.0"}}}),
            json!({"type": "Dataplane", "mesh": mesh, "name": "zone-proxy-ingress",
                "labels": {"kuma.io/workload": "zone-proxy-ingress", "kuma.io/listener-zoneingress": "enabled"},
                "networking": {"address": "10.77.1.1", "listeners": [
                    {"type": "ZoneIngress", "name": "zone-proxy-ingress", "address": "10.77.1.1", "port": 11001}]}}),
            json!({"type": "Dataplane", "mesh": mesh, "name": "zone-proxy-egress",
                "labels": {"kuma.io/workload": "zone-proxy-egress", "kuma.io/listener-zoneegress": "enabled"},
                "networking": {"address": "10.77.1.2", "listeners": [
                    {"type": "ZoneEgress", "name": "zone-proxy-egress", "address": "10.77.1.2", "port": 11002}]}}),
        ]);
    }
    documents.iter().map(stored).collect()
}

/// A Dataplane and the service made of it.
fn sidecar(mesh: &str, name: &str, number: u8, protocol: Option<&str>, into: &mut Vec<Value>) {
    let port = if protocol.is_some() { 80 } else { 3000 };
    let mut inbound = json!({"port": port});
    let mut dataplane_labels = json!({"kuma.io/service": name, "kuma.io/workload": name});
    if let Some(protocol) = protocol {
        inbound["servicePort"] = json!(8080);
        inbound["protocol"] = json!(protocol);
        dataplane_labels["version"] = json!("v1");
        dataplane_labels["instance"] = json!("1");
        dataplane_labels["team"] = json!("server-owners");
    } else {
        dataplane_labels["team"] = json!("client-owners");
    }
    into.push(
        json!({"type": "Dataplane", "mesh": mesh, "name": name, "labels": dataplane_labels,
        "networking": {"address": format!("10.77.0.{number}"), "inbound": [inbound],
            "transparentProxying": {"redirectPortInbound": 15006, "redirectPortOutbound": 15001}}}),
    );
    let mut service_port = json!({"port": port, "targetPort": port});
    service_port["appProtocol"] = json!(protocol.unwrap_or("tcp"));
    let identity = format!("spiffe://{mesh}.{ZONE}.mesh.local/workload/{name}");
    into.push(json!({"type": "MeshService", "mesh": mesh, "name": name,
        "labels": {"kuma.io/managed-by": "meshservice-generator", "kuma.io/service": name, "kuma.io/workload": name},
        "spec": {"state": "Available", "ports": [service_port],
            "selector": {"dataplaneLabels": {"matchLabels": {"kuma.io/workload": name}}},
            "identities": [{"type": "SpiffeID", "value": identity}]},
        "status": {"vips": [{"ip": format!("241.0.0.{number}")}], "tls": {"status": "Ready"}}}));
}

fn configure(resources: &[Resource], proxy: &str, zone_proxies: bool) -> Result<Generated, String> {
    let mesh = mesh_of(zone_proxies);
    let catalogue = MeshCatalogue::of(mesh, ZONE, resources);
    let record = resources
        .iter()
        .find(|resource| resource.key.kind == Kind::Dataplane && *resource.key.name == *proxy)
        .ok_or("no such Dataplane")?;
    let fail = |error: serde_json::Error| error.to_string();
    let dataplane = Dataplane::read(record).map_err(fail)?;
    let subject = Subject::from_dataplane(record).map_err(fail)?;
    let policies = Policies::new(resources);
    let targets = Targets::new(mesh, resources);
    let policies = DataplanePolicies::new(&policies, &targets, &subject, true);
    let mode = if dataplane.redirect.is_some() {
        OutboundMode::Virtual
    } else {
        OutboundMode::Listed
    };
    let reach = ProxyReach::read(record).ok_or("the Dataplane cannot be read")?;
    let outbounds = reach.outbounds(&catalogue, mode);
    let identity_name = if zone_proxies {
        "identity"
    } else {
        "envoyconfig-identity"
    };
    let secret = format!("kri_mid_{mesh}_{ZONE}__{identity_name}_");
    let trust = [TrustDomain {
        name: format!("{mesh}.{ZONE}.mesh.local"),
        authorities_pem: vec!["PEM".to_owned()],
    }];
    let node = node(proxy, mesh, zone_proxies);
    let empty = AdminTls {
        certificate_pem: bytes::Bytes::new(),
        key_pem: bytes::Bytes::new(),
        client_ca_pem: bytes::Bytes::new(),
    };
    let view = ProxyView {
        mesh,
        zone: ZONE,
        dataplane: &dataplane,
        node: &node,
        catalogue: &catalogue,
        outbounds: &outbounds,
        policies: &policies,
        targets: &targets,
        identity: Some(Identity {
            secret: &secret,
            spiffe_id: "",
        }),
        trust: &trust,
        egress_identities: &[format!(
            "spiffe://{mesh}.{ZONE}.mesh.local/workload/zone-proxy-egress"
        )],
        faults_exist: resources
            .iter()
            .any(|r| r.key.kind == Kind::MeshFaultInjection),
        admin_tls: Some(&empty),
    };
    Ok(generate(&view, &Cache::default()))
}

fn node(proxy: &str, mesh: &str, zone_proxies: bool) -> Node {
    let mut features = BTreeSet::from([
        "feature-tcp-accesslog-via-named-pipe".to_owned(),
        "feature-otel-via-kuma-dp".to_owned(),
        "feature-strict-inbound-ports".to_owned(),
        "feature-reuse-port".to_owned(),
    ]);
    if proxy.ends_with("no-reusable-ports") {
        features.remove("feature-reuse-port");
    }
    let zone_proxy = zone_proxies && (proxy.ends_with("gress"));
    Node {
        mesh: mesh.to_owned(),
        name: proxy.to_owned(),
        admin_port: Some(9901),
        admin_address: "127.0.0.1".to_owned(),
        admin_socket_path: Some("/tmp/kuma-envoy-admin.sock".to_owned()),
        readiness_port: Some(9902),
        dns_port: (!zone_proxy).then_some(15053),
        work_dir: "/tmp".to_owned(),
        system_ca_path: "/etc/ssl/certs/ca-certificates.crt".to_owned(),
        features,
        ..Node::default()
    }
}

fn rendered(generated: &Generated) -> Result<Value, String> {
    let mut types = Map::new();
    for (url, resources) in generated.types() {
        let mut members = Map::new();
        for (name, encoded) in resources {
            let any = pbjson_types::Any::decode(encoded.body.clone()).map_err(|e| e.to_string())?;
            let mut value =
                any_to_json(&any, FieldNames::CamelCase).map_err(|error| error.to_string())?;
            if let Some(members) = value.as_object_mut() {
                members.remove("@type");
            }
            members.insert(name.to_string(), value);
        }
        types.insert(url.to_owned(), Value::Object(members));
    }
    Ok(Value::Object(types))
}

/// Takes out of both sides what is not to be compared.
fn normalise(xds: &mut Value) {
    for (url, resources) in xds.as_object_mut().into_iter().flatten() {
        let Some(resources) = resources.as_object_mut() else {
            continue;
        };
        if url.ends_with(".Listener") {
            resources.remove("system_dynamicconfig");
        }
        for (name, resource) in resources {
            if let Some(members) = resource.as_object_mut() {
                members.remove("@type");
            }
            if matches!(
                name.as_str(),
                "system_envoy_admin" | "system_probe_readiness"
            ) {
                redact_admin(resource);
            }
            redact(resource);
        }
    }
}

fn redact_admin(resource: &mut Value) {
    let redacted = || json!({"socketAddress": {"address": "ADMIN_REDACTED", "portValue": 0}});
    if resource.get("address").is_some() {
        resource["address"] = redacted();
    }
    let lists = resource
        .pointer_mut("/loadAssignment/endpoints")
        .and_then(Value::as_array_mut);
    for list in lists.into_iter().flatten() {
        for host in list["lbEndpoints"].as_array_mut().into_iter().flatten() {
            host["endpoint"]["address"] = redacted();
        }
    }
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("dnsLookupFamily");
            for (name, member) in members {
                match (name.as_str(), &mut *member) {
                    ("statPrefix", _) => *member = json!("STAT_PREFIX_REDACTED"),
                    ("trustBundle", _) => *member = json!("CERT_REDACTED"),
                    ("address" | "addressPrefix", Value::String(text)) => {
                        if text.parse::<std::net::IpAddr>().is_ok() {
                            "IP_REDACTED".clone_into(text);
                        }
                    }
                    _ => redact(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_told_what_the_goldens_say() {
        let Some(result) = envoyconfig() else {
            println!("envoyconfig: skipped, no conformance cases here");
            return;
        };
        println!("{result}");
        assert!(result.failed.is_empty());
    }
}
