//! Under a Kuma zone control plane: what a real one told its Envoy ingress, recorded outside of
//! this tree.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::control::Program;
use crate::fake_control_plane::ControlPlane;
use crate::harness::{Service, eventually, expect_reset, hello, read_exactly};

/// The recorded cases, or `None` where they are absent.
fn conformance() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let folder = std::env::var_os("ZONAL_CONFORMANCE").map_or(beside, PathBuf::from);
    folder.join("crosszone").is_dir().then_some(folder)
}

fn offer(control_plane: &ControlPlane, dump: &Value, list: &str, key: &str) {
    for resource in dump[list].as_array().unwrap() {
        let mut whole = resource.clone();
        blank_placeholders(&mut whole);
        let any = kds_proto::reflect::any_from_json(&whole).unwrap();
        control_plane.offer_packed(any, resource[key].as_str().unwrap());
    }
}

/// Certificates and keys were replaced by `<…>` and `[…]` when the cases were recorded.
fn blank_placeholders(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with(['<', '[']) => text.clear(),
        Value::Array(items) => items.iter_mut().for_each(blank_placeholders),
        Value::Object(members) => members.values_mut().for_each(blank_placeholders),
        _ => {}
    }
}

/// Server name → addresses, read from the dump in the plainest way.
fn wanted(dump: &Value) -> BTreeMap<String, Vec<String>> {
    let address = |endpoint: &Value| {
        let socket = &endpoint["endpoint"]["address"]["socket_address"];
        format!(
            "{}:{}",
            socket["address"].as_str().unwrap(),
            socket["port_value"]
        )
    };
    let mut endpoints: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for assignment in dump["endpoints"].as_array().unwrap() {
        let localities = assignment["endpoints"].as_array().into_iter().flatten();
        let all = localities.flat_map(|l| l["lb_endpoints"].as_array().into_iter().flatten());
        endpoints.insert(
            assignment["cluster_name"].as_str().unwrap(),
            all.map(address).collect(),
        );
    }
    let mut wanted = BTreeMap::new();
    for listener in dump["listeners"].as_array().unwrap() {
        for chain in listener["filter_chains"].as_array().into_iter().flatten() {
            let cluster = chain["filters"][0]["typed_config"]["cluster"].as_str();
            for name in chain["filter_chain_match"]["server_names"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let addresses = cluster.and_then(|cluster| endpoints.get(cluster)).cloned();
                wanted.insert(
                    name.as_str().unwrap().to_owned(),
                    addresses.unwrap_or_default(),
                );
            }
        }
    }
    wanted
}

#[tokio::test]
async fn recorded_ingresses_route_the_same_names_to_the_same_addresses() {
    let Some(conformance) = conformance() else {
        eprintln!("skipped: the recorded cases are not here; set ZONAL_CONFORMANCE");
        return;
    };
    let mut seen = 0;
    for scenario in [
        "baseline",
        "egress",
        "failover",
        "failover-outlier",
        "permission",
    ] {
        for file in [
            "envoy.ingress-west.json",
            "envoy.ingress-east.json",
            "envoy.ingress-east.after-api-east-stopped.json",
        ] {
            let path = conformance.join("crosszone").join(scenario).join(file);
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            let dump: Value = serde_json::from_str(&text).unwrap();
            let folder = TempDir::new().unwrap();
            let control_plane = ControlPlane::kuma(folder.path()).await;
            offer(&control_plane, &dump, "clusters", "name");
            offer(&control_plane, &dump, "endpoints", "cluster_name");
            offer(&control_plane, &dump, "listeners", "name");
            let program = Program::start(folder.path(), &control_plane, &["--dialect=kuma"]).await;
            let page = program.json("/routes").await;
            let mut got = BTreeMap::new();
            for route in page["routes"].as_array().unwrap() {
                let endpoints = route["endpoints"].as_array().into_iter().flatten();
                let addresses = endpoints.map(|e| e["address"].as_str().unwrap().to_owned());
                got.insert(
                    route["sni"].as_str().unwrap().to_owned(),
                    addresses.collect::<Vec<_>>(),
                );
            }
            assert_eq!(got, wanted(&dump), "{scenario}/{file}");
            assert!(!got.is_empty(), "{scenario}/{file} routes something");
            assert_eq!(
                control_plane.told.nacks.lock().as_slice(),
                [""; 0],
                "{scenario}/{file}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} recorded ingresses were found");
}

fn listener(chains: &[(&str, &str)], extra: &Value) -> kds_proto::Any {
    let chains: Vec<Value> = chains
        .iter()
        .map(|(sni, cluster)| {
            serde_json::json!({
                "filter_chain_match": { "server_names": [sni], "transport_protocol": "tls" },
                "filters": [{
                    "name": "envoy.filters.network.tcp_proxy",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "cluster": cluster,
                        "stat_prefix": cluster,
                    }
                }],
            })
        })
        .collect();
    let mut listener = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "self_zoneingress_dp_main",
        "filter_chains": chains,
    });
    for (key, value) in extra.as_object().unwrap() {
        listener[key] = value.clone();
    }
    kds_proto::reflect::any_from_json(&listener).unwrap()
}

fn endpoints(cluster: &str, address: std::net::SocketAddr) -> kds_proto::Any {
    let assignment = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
            "address": address.ip().to_string(), "port_value": address.port(),
        }}}}]}],
    });
    kds_proto::reflect::any_from_json(&assignment).unwrap()
}

#[tokio::test]
async fn listener_that_would_change_traffic_is_refused_and_the_old_one_stays() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::kuma(folder.path()).await;
    let echo = Service::start().await.echo();
    control_plane.offer_packed(endpoints("c1", echo), "c1");
    control_plane.offer_packed(listener(&[("a.x", "c1")], &serde_json::json!({})), "main");
    let program = Program::start(folder.path(), &control_plane, &["--dialect=kuma"]).await;
    program.routed("a.x", true).await;

    let open_to_all = serde_json::json!({ "default_filter_chain": {} });
    control_plane.offer_packed(listener(&[("b.x", "c1")], &open_to_all), "main");
    let told = &control_plane.told;
    eventually("a NACK", true, || !told.nacks.lock().is_empty()).await;
    assert!(
        told.nacks.lock()[0].contains("default_filter_chain"),
        "{:?}",
        told.nacks.lock()
    );
    let mut caller = program.hail("a.x").await;
    assert_eq!(
        read_exactly(&mut caller, hello("a.x").len()).await,
        hello("a.x")
    );
    expect_reset(&mut program.hail("b.x").await).await;

    let observed = serde_json::json!({ "stat_prefix": "x", "traffic_direction": "INBOUND" });
    control_plane.offer_packed(listener(&[("b.x", "c1")], &observed), "main");
    program.routed("b.x", true).await;
    program.routed("a.x", false).await;
}
